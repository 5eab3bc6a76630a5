"""WZ205: synthetic images with other colors or gray levels than real ones (`wazuka audit`).

Per channel, the Wasserstein distance (area between the distribution functions, in the unit of the pixels) of three things:
the pixels' values, the images' means and the images' standard deviations; each in standard deviations of the pixels' values,
so that a distance is large where it is large beside the contrast that carries content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wasserstein_distance

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import AgainstFloor, against_floor, why_no_floor
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ205"
NAME = "colors and gray levels"
THRESHOLDS: Mapping[str, float] = {"ratio": 2, "warning_distance": 0.1, "issue_distance": 1, "images": 30}
RULE = (
    "Wasserstein distance of the values, image means or image contrasts of a channel; warning: more than {ratio:g} times the"
    " mean and once the largest between halves of the real images, and more than {warning_distance:g} standard deviations of the real values; issue:"
    " more than {issue_distance:g}; not applicable with fewer than {images:g} images a half"
)
BINS = 256
GAPS = ("value", "floor", "floor_high")
CHANNELS = {1: ("gray",), 3: ("red", "green", "blue")}


@dataclass(frozen=True)
class Shift:
    """Distance of one quantity of one channel, in standard deviations of the real pixels' values."""

    channel: str
    quantity: str
    distance: AgainstFloor


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Compare every channel; `count` is the number of synthetic images, there are no ids."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if inputs.real_pixels is None or inputs.synthetic_pixels is None:
        return rule.not_applicable("there are no small pixels")
    m = len(inputs.synthetic)
    why = why_no_floor(inputs.patients, m, int(thresholds["images"]))
    if why is not None:
        return rule.not_applicable(why)
    if not inputs.real_pixels.std() > 0:
        return rule.not_applicable("all real pixels have one value")
    found = shifts(inputs)
    beyond = [one for one in found if one.distance.beyond(thresholds["ratio"])]
    worst = max(beyond or found, key=lambda one: one.distance.value)
    reason = (
        f"the {worst.quantity} of channel {worst.channel} differ by {worst.distance.value:.2f} standard deviations,"
        f" {worst.distance.ratio:.1f} times the {worst.distance.floor:.3f} between halves of the real images"
    )
    if beyond and worst.distance.value > thresholds["issue_distance"]:
        return rule.result("issue", reason, count=m)
    if beyond and worst.distance.value > thresholds["warning_distance"]:
        return rule.result("warning", reason, count=m)
    return rule.passed(reason)


def shifts(inputs: Inputs) -> list[Shift]:
    """Measure every quantity of every channel."""
    real, synthetic = inputs.real_pixels, inputs.synthetic_pixels
    assert real is not None and synthetic is not None
    channels = real.shape[3]
    names = CHANNELS.get(channels, tuple(str(one) for one in range(channels)))
    found = []
    for channel, name in enumerate(names):
        ours, theirs = synthetic[..., channel].reshape(len(synthetic), -1), real[..., channel].reshape(len(real), -1)
        scale = float(theirs.std(dtype=np.float64)) or float(real.std(dtype=np.float64))
        low, high = float(min(ours.min(), theirs.min())), float(max(ours.max(), theirs.max()))
        width = (high - low) / BINS
        measured: dict[str, tuple[Callable[[np.ndarray, np.ndarray], float], np.ndarray, np.ndarray]] = {
            "values": (_of_histograms, _histograms(theirs, low, width), _histograms(ours, low, width)),
            "image means": (_of_samples, theirs.mean(axis=1), ours.mean(axis=1)),
            "image contrasts": (_of_samples, theirs.std(axis=1), ours.std(axis=1)),
        }
        for quantity, (distance, a, b) in measured.items():
            unit = width / scale if quantity == "values" else 1 / scale
            gap = against_floor(distance, a, b, inputs.patients, seed=inputs.seed)
            found.append(Shift(name, quantity, replace(gap, **{one: getattr(gap, one) * unit for one in GAPS})))
    return found


def _of_histograms(first: np.ndarray, second: np.ndarray) -> float:
    """In bins: the area between the two distribution functions."""
    parts = [np.cumsum(one.sum(axis=0, dtype=np.float64)) for one in (first, second)]
    return float(np.abs(parts[0] / parts[0][-1] - parts[1] / parts[1][-1]).sum())


def _of_samples(first: np.ndarray, second: np.ndarray) -> float:
    return float(wasserstein_distance(first, second))


def _histograms(values: np.ndarray, low: float, width: float) -> np.ndarray:
    """Counts per image and bin, uint16 (n, BINS): 1,024 pixels an image."""
    if width == 0:
        return np.full((len(values), 1), values.shape[1], dtype=np.uint16)
    places = np.minimum(((values - low) / width).astype(np.int64), BINS - 1) + np.arange(len(values))[:, None] * BINS
    return np.bincount(places.ravel(), minlength=len(values) * BINS).reshape(-1, BINS).astype(np.uint16)
