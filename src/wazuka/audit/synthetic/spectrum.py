"""WZ206: synthetic images that are blurred, or sharper than real ones (`wazuka audit`).

Power spectrum averaged over directions (as Durall et al. 2020, "Watch your up-convolution", use it to tell generated
images), per image in decibels, in eight bands from coarse to the finest detail; the mean over images is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import AgainstFloor, against_floor, why_no_floor
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ206"
NAME = "frequency spectrum"
THRESHOLDS: Mapping[str, float] = {"ratio": 2, "decibels": 3, "images": 20}
RULE = (
    "warning: in one of eight bands of spatial frequency the mean power differs by more than {decibels:g} dB (a factor of two)"
    " and by more than {ratio:g} times the mean and once the largest difference between halves of the real images; never an issue by itself; not applicable with"
    " fewer than {images:g} images a half"
)
BANDS = 8
SMALLEST = 32
"""Pixels a side that eight bands need: two rings of frequencies each."""
ROUNDING = 1 / 12
"""Variance of rounding to whole gray levels: power below it is the file format's, not the image's."""


@dataclass(frozen=True)
class Spectra:
    """Mean power in bands.

    Attributes:
        edges: Ends of the bands in cycles per pixel, (BANDS + 1,).
        real, synthetic: Mean decibels per band, (BANDS,).
        gaps: Per band, the difference beside the floor.
    """

    edges: np.ndarray
    real: np.ndarray
    synthetic: np.ndarray
    gaps: list[AgainstFloor]


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Compare all bands; `count` is the number of synthetic images looked at, there are no ids."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    why = why_not(inputs, int(thresholds["images"]))
    if why is not None:
        return rule.not_applicable(why)
    found = spectra(inputs)
    beyond = [band for band, one in enumerate(found.gaps) if one.beyond(thresholds["ratio"])]
    worst = max(beyond or range(BANDS), key=lambda band: found.gaps[band].value)
    gap = found.gaps[worst]
    sign = "more" if found.synthetic[worst] > found.real[worst] else "less"
    reason = (
        f"between {found.edges[worst]:.2f} and {found.edges[worst + 1]:.2f} cycles per pixel synthetic images have"
        f" {gap.value:.1f} dB {sign} power, {gap.ratio:.1f} times the {gap.floor:.2f} dB between halves of the real images"
    )
    if beyond and gap.value > thresholds["decibels"]:
        assert inputs.synthetic_large is not None
        return rule.result("warning", reason, count=len(inputs.synthetic_large))
    return rule.passed(reason)


def why_not(inputs: Inputs, least: int) -> str | None:
    """Why full-size images cannot be compared, or None."""
    if inputs.real_large is None or inputs.synthetic_large is None or inputs.real_large_rows is None:
        return "there are no images in the size in which they are used"
    if min(inputs.real_large.shape[1:3]) < SMALLEST:
        return f"the images have {min(inputs.real_large.shape[1:3])} pixels a side; it takes {SMALLEST}"
    return why_no_floor(inputs.patients[inputs.real_large_rows], len(inputs.synthetic_large), least)


def spectra(inputs: Inputs) -> Spectra:
    """Measure both sides and each band's floor."""
    assert inputs.real_large is not None and inputs.synthetic_large is not None and inputs.real_large_rows is not None
    real, synthetic = band_power(inputs.real_large), band_power(inputs.synthetic_large)
    patients = inputs.patients[inputs.real_large_rows]
    gaps = [
        against_floor(_between_means, real[:, band], synthetic[:, band], patients, seed=inputs.seed)
        for band in range(BANDS)
    ]
    return Spectra(np.linspace(0, 0.5, BANDS + 1), real.mean(axis=0), synthetic.mean(axis=0), gaps)


def _between_means(first: np.ndarray, second: np.ndarray) -> float:
    return abs(float(first.mean() - second.mean()))


def gray(images: np.ndarray) -> np.ndarray:
    """Mean over channels without each image's mean, float32 (n, height, width)."""
    flat = images.mean(axis=3, dtype=np.float32)
    return flat - flat.mean(axis=(1, 2), keepdims=True)


def band_power(images: np.ndarray) -> np.ndarray:
    """Power per image and band in dB, (n, BANDS); white noise of variance v has 10 log10(v) in every band.

    A Hann window keeps the jump between opposite edges out of the high frequencies.
    """
    height, width = images.shape[1:3]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    down, right = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    radius = np.hypot(down, right)
    band = np.minimum((radius * 2 * BANDS).astype(int), BANDS)  # BANDS: the corners beyond 0.5 cycles per pixel
    band[0, 0] = BANDS  # the mean
    counts = np.bincount(band.ravel(), minlength=BANDS + 1)[:BANDS]
    found = np.empty((len(images), BANDS))
    for start in range(0, len(images), 64):
        power = np.abs(np.fft.fft2(gray(images[start : start + 64]) * window)) ** 2 / float((window**2).sum())
        for row, one in enumerate(power):
            found[start + row] = np.bincount(band.ravel(), weights=one.ravel(), minlength=BANDS + 1)[:BANDS] / counts
    return 10 * np.log10(found + ROUNDING)
