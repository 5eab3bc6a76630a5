"""Reliability: what share of the images that got a probability of 0.3 are of the class? The table behind the figure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wazuka.evaluate.panel import Key, Panel
from wazuka.evaluate.resampling import interval


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Images with a similar predicted probability, over all repeats.

    Attributes:
        start, stop: The bin, [start, stop), the last one closed.
        predicted: Mean predicted probability.
        observed: Share of images of the class.
        low, high: 95 % patient bootstrap of `observed`; None where too few draws have images in the bin.
        n_images, n_patients: Distinct images and patients in the bin.
    """

    start: float
    stop: float
    predicted: float
    observed: float
    low: float | None
    high: float | None
    n_images: int
    n_patients: int


def reliability(panel: Panel, key: Key, *, class_: str = "", bins: int = 10) -> list[ReliabilityBin]:
    """Bin the headline predictions of all repeats by predicted probability; empty bins are left out.

    Args:
        panel: The study's trials.
        key: Strategy and budget.
        class_: The class; "" is the positive class (two classes) or the most probable class of each image (more):
            then `observed` is the accuracy.
        bins: Equal-width bins over [0, 1].
    """
    panel.require(key)
    index = panel.class_index(class_)
    weights = panel.weights[:, 1:].astype(np.float64)
    found = []
    for _, scores in sorted((cell, one) for cell, one in panel.scores[key].items() if cell in panel.headline):
        chosen = scores.positive if index is None else index
        if chosen is None:
            prob, hit = scores.probs.max(axis=1), scores.probs.argmax(axis=1) == scores.labels
        else:
            prob, hit = scores.probs[:, chosen], scores.labels == chosen
        found.append((scores.ids, scores.units, prob, hit.astype(np.float64)))
    ids, units, prob, hit = (np.concatenate(parts) for parts in zip(*found, strict=True))
    place = np.minimum((prob * bins).astype(np.int64), bins - 1)
    out = []
    for number in np.unique(place):
        rows = place == number
        hits = np.bincount(units[rows], weights=hit[rows], minlength=len(weights)) @ weights
        total = np.bincount(units[rows], minlength=len(weights)) @ weights
        low, high = interval(np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0))
        out.append(
            ReliabilityBin(
                start=float(number / bins),
                stop=float((number + 1) / bins),
                predicted=float(prob[rows].mean()),
                observed=float(hit[rows].mean()),
                low=low,
                high=high,
                n_images=len(np.unique(ids[rows].astype(str))),
                n_patients=len(np.unique(units[rows])),
            )
        )
    return out
