"""WZ207: a pattern of every other pixel in synthetic images (`wazuka audit`).

Up-convolutions whose kernels overlap unevenly leave one (Odena et al. 2016, "Deconvolution and checkerboard artifacts").
Two tests on the three patterns of period two (rows, columns, checkerboard): their power beside that of the next lower
frequencies, and whether the pattern has the same phase in all images, which finds one too faint for the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import AgainstFloor, against_floor
from wazuka.audit.synthetic.spectrum import ROUNDING, gray, why_not
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ207"
NAME = "checkerboard pattern"
THRESHOLDS: Mapping[str, float] = {
    "amplitude": 0.01,
    "decibels": 3,
    "ratio": 2,
    "phase": 0.5,
    "z": 4,
    "images": 20,
}
RULE = (
    "warning: a pattern of period two (rows, columns or both) of {amplitude:.0%} of the real images' contrast or more has, beside the next lower frequencies, {decibels:g} dB more power"
    " than in real images and more than {ratio:g} times the mean and once the largest difference between halves of these; or its mean over images, phase kept,"
    " is {phase:g} of its usual amplitude away from that of real images, by {z:g} standard errors; not applicable with fewer"
    " than {images:g} images a half"
)
PATTERNS = ("rows", "columns", "checkerboard")
NEAR = 4
"""Lower frequencies compared with, along each axis."""


@dataclass(frozen=True)
class Pattern:
    """One pattern.

    Attributes:
        name: Of `PATTERNS`.
        amplitude: Root mean square over synthetic images, in standard deviations of the real images' values.
        excess: dB by which its power beside its neighbors' exceeds that in real images; negative where it is weaker.
        distance: The same without sign beside the floor.
        phase: Difference of the mean signed amplitudes, in usual amplitudes of the neighboring frequencies.
        z: That in standard errors; those of real images over patients.
    """

    name: str
    amplitude: float
    excess: float
    distance: AgainstFloor
    phase: float
    z: float


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Run both tests on the three patterns; `count` is the number of synthetic images looked at, there are no ids."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    why = why_not(inputs, int(thresholds["images"]))
    if why is not None:
        return rule.not_applicable(why)
    found = patterns(inputs)
    seen = [one for one in found if one.amplitude >= thresholds["amplitude"]]
    strong = [one for one in seen if one.excess > thresholds["decibels"] and one.distance.beyond(thresholds["ratio"])]
    fixed = [one for one in seen if abs(one.phase) > thresholds["phase"] and abs(one.z) > thresholds["z"]]
    figures = "; ".join(
        f"{one.name}: {one.amplitude:.1%} of the contrast, {one.excess:+.1f} dB beside real images, {abs(one.phase):.2f} of the usual amplitude in one phase"
        for one in strong or fixed or found
    )
    if strong or fixed:
        assert inputs.synthetic_large is not None
        return rule.result("warning", figures, count=len(inputs.synthetic_large))
    return rule.passed(figures)


def patterns(inputs: Inputs) -> list[Pattern]:
    """Measure the three patterns on both sides."""
    assert inputs.real_large is not None and inputs.synthetic_large is not None and inputs.real_large_rows is not None
    signed, near = period_two(inputs.real_large)
    ours, ours_near = period_two(inputs.synthetic_large)
    patients = inputs.patients[inputs.real_large_rows]
    contrast = float(np.sqrt(np.mean(gray(inputs.real_large) ** 2))) or 1.0
    pixels = inputs.real_large.shape[1] // 2 * 2 * (inputs.real_large.shape[2] // 2 * 2)
    found = []
    for k, name in enumerate(PATTERNS):
        power = [
            np.stack([one[:, k] ** 2, beside[:, k]], axis=1) for one, beside in ((signed, near), (ours, ours_near))
        ]
        distance = against_floor(_between_levels, power[0], power[1], patients, seed=inputs.seed)
        means = [
            one[:, k] / np.sqrt(beside[:, k].mean() + ROUNDING) for one, beside in ((signed, near), (ours, ours_near))
        ]
        per_patient = np.bincount(patients, weights=means[0] - means[0].mean())
        variance = (per_patient**2).sum() / len(means[0]) ** 2 + means[1].var() / len(means[1])
        phase = float(means[1].mean() - means[0].mean())
        z = phase / float(np.sqrt(variance)) if variance > 0 else float(np.sign(phase) * np.inf) if phase else 0.0
        amplitude = float(np.sqrt(np.mean(ours[:, k] ** 2) / pixels)) / contrast
        found.append(Pattern(name, amplitude, _level(power[1]) - _level(power[0]), distance, phase, z))
    return found


def _level(power: np.ndarray) -> float:
    """Mean power of the pattern over that of its neighbors, in dB; (n, 2) holds both per image."""
    pattern, beside = power.mean(axis=0) + ROUNDING
    return 10 * float(np.log10(pattern / beside))


def _between_levels(first: np.ndarray, second: np.ndarray) -> float:
    return abs(_level(first) - _level(second))


def period_two(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes at the three Nyquist frequencies and the mean power of the frequencies just below.

    Returns:
        Signed amplitudes and power, both (n, 3) in the order of `PATTERNS`, scaled so that white noise of variance v has
        the power v everywhere. An odd last row or column is left out.
    """
    height, width = (one // 2 * 2 for one in images.shape[1:3])
    flat = gray(images)[:, :height, :width]
    y, x = height // 2, width // 2
    at = [(y, 0), (0, x), (y, x)]
    near = [
        [(y - step, 0) for step in range(1, NEAR + 1)],
        [(0, x - step) for step in range(1, NEAR + 1)],
        [(y - i, x - j) for i in range(NEAR) for j in range(NEAR) if i or j],
    ]
    signed, power = np.empty((len(flat), 3)), np.empty((len(flat), 3))
    for start in range(0, len(flat), 64):
        block = slice(start, start + 64)
        spectrum = np.fft.fft2(flat[block]) / np.sqrt(height * width)
        for k in range(3):
            signed[block, k] = spectrum[:, *at[k]].real  # real by symmetry
            power[block, k] = np.mean([np.abs(spectrum[:, *one]) ** 2 for one in near[k]], axis=0)
    return signed, power
