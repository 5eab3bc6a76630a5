"""Classification metrics for many weightings of the patients at once: the engine under every interval and p value.

A bootstrap draw is a row of counts, one per patient; a metric of the drawn sample is the weighted metric of the original
rows. Scores are sorted once and all draws are computed together in blocks that stay in the processor's cache, so that
thousands of draws take milliseconds. With all weights 1 the values are those of scikit-learn.

Ranking metrics with ties: AUROC counts a tied pair as one half; average precision is the sum over distinct thresholds
of precision times the step in recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wazuka.core.errors import ConfigError, unknown_name
from wazuka.evaluate.predictions import Scores, decide

ECE_BINS = 15
"""Equal-width bins of the expected calibration error; [k/15, (k+1)/15), the last one closed."""
AT_HALF = "_at_0.5"
BLOCK = 2**17
"""Numbers per block of draws: 1 MiB of float64, about a processor's second-level cache."""


@dataclass(frozen=True)
class Metric:
    """What a metric needs and how it reads.

    Attributes:
        low, high: The ends of its range.
        higher_is_better: The direction.
        per_class: Whether it has one value per class with more than two classes.
        thresholded: Whether it looks at decisions (so that 0.5 is reported too).
        on_ranks: Whether it depends on the order of the scores only.
        inflated: Whether small samples inflate it, and resampling once more (its interval is mirrored at the estimate).
    """

    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool = True
    per_class: bool = True
    thresholded: bool = False
    on_ranks: bool = False
    inflated: bool = False


METRICS = {
    "auroc": Metric(on_ranks=True),
    "average_precision": Metric(on_ranks=True),
    "balanced_accuracy": Metric(per_class=False, thresholded=True),
    "accuracy": Metric(per_class=False, thresholded=True),
    "sensitivity": Metric(thresholded=True),
    "specificity": Metric(thresholded=True),
    "f1": Metric(thresholded=True),
    "brier": Metric(higher_is_better=False),
    "ece": Metric(higher_is_better=False, inflated=True),
    "kappa": Metric(low=-1.0, per_class=False, thresholded=True),
}
LEVELS = ("_parent", "_patient", "_unanimous", "_disputed")
"""Suffixes of a metric's name: the units or rows it was computed on."""


def metric(name: str) -> Metric:
    """Return the description of a metric, whatever its suffixes.

    Raises:
        ConfigError: If there is no such metric; the nearest name is offered.
    """
    base = name
    for suffix in (*LEVELS, AT_HALF):
        base = base.removesuffix(suffix)
    if base not in METRICS or (AT_HALF in name and not METRICS[base].thresholded):
        raise unknown_name("metric", name, METRICS)
    return METRICS[base]


def values(scores: Scores, weights: np.ndarray, wanted: Sequence[tuple[str, int | None]]) -> np.ndarray:
    """Compute metrics for every weighting.

    Args:
        scores: n rows.
        weights: Counts per unit and draw, (units, draws), any real dtype, not negative.
        wanted: Pairs of metric and class index; None is the overall value: about the positive class with two classes
            (all classes for accuracy, balanced accuracy, kappa), the macro one-versus-rest mean with more. The mean is
            over the classes with at least one image in the draw (Brier score and calibration error: over all classes).

    Returns:
        (len(wanted), draws) float64; NaN where undefined: fewer than two classes in the draw (all but accuracy,
        Brier score and calibration error; sensitivity of a class needs that class alone).
    """
    draws = weights.shape[1]
    units, local = np.unique(scores.units, return_inverse=True)
    out = np.empty((len(wanted), draws))
    rankings = {}
    for name, index in wanted:
        if metric(name) is not METRICS.get(name.removesuffix(AT_HALF)):
            raise ConfigError(
                f"`{name}` is of units, not images; aggregate the predictions and ask for the metric itself."
            )
        if name in ("auroc", "average_precision"):
            for one in _classes_needed(scores, index):
                if one not in rankings:
                    rankings[one] = _Ranking(scores.probs[:, one], scores.labels == one, local)
    step = int(np.clip(BLOCK // max(len(scores), 1), 16, 4096))
    sums = _Sums(scores, local, len(units))
    for start in range(0, draws, step):
        block = _Block(scores, sums, rankings, weights[units, start : start + step].astype(np.float64))
        for row, (name, index) in enumerate(wanted):
            out[row, start : start + step] = block.value(name, index)
    return out


def _classes_needed(scores: Scores, index: int | None) -> range | tuple[int, ...]:
    if index is not None:
        return (index,)
    return (scores.positive,) if scores.positive is not None else range(scores.n_classes)


class _Ranking:
    """One score column, sorted once: where each image of the class stands among the others, ties included."""

    def __init__(self, score: np.ndarray, is_class: np.ndarray, units: np.ndarray) -> None:
        inside, outside = score[is_class], score[~is_class]
        order_in, order_out = np.argsort(inside, kind="stable"), np.argsort(outside, kind="stable")
        self.units_in = units[is_class][order_in]
        self.units_out = units[~is_class][order_out]
        inside, outside = inside[order_in], outside[order_out]
        self.below = np.searchsorted(outside, inside, side="left")  # (n_in,) images of others strictly below
        self.up_to = np.searchsorted(outside, inside, side="right")
        self.tied = bool((self.below != self.up_to).any())
        # Distinct scores of the class: the only thresholds at which recall moves.
        self.starts = np.flatnonzero(np.r_[True, inside[1:] != inside[:-1]]) if len(inside) else np.zeros(0, int)

    def auroc(self, weights: np.ndarray) -> np.ndarray:
        """Share of (class, other) pairs in the right order, (draws,); weights (units, draws)."""
        inside = weights[self.units_in]
        below = _cumulative(weights[self.units_out])
        pairs = np.einsum("id,id->d", inside, below[self.below])
        if self.tied:
            pairs = (pairs + np.einsum("id,id->d", inside, below[self.up_to])) / 2
        return _divide(pairs, inside.sum(axis=0) * below[-1])

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Sum over distinct thresholds of precision times the step in recall, (draws,)."""
        inside = _cumulative(weights[self.units_in])
        outside = _cumulative(weights[self.units_out])
        total = inside[-1]
        true = total - inside[self.starts]  # (thresholds, draws): of the class, at or above each distinct score
        false = outside[-1] - outside[self.below[self.starts]]
        step = true.copy()
        step[:-1] -= true[1:]
        found = true + false
        np.divide(true, found, out=true, where=found > 0)
        defined = (total > 0) & (outside[-1] > 0)
        return _divide(np.einsum("td,td->d", step, true), np.where(defined, total, 0))


class _Sums:
    """Per-patient sums of what additive metrics add up, made once for all draws."""

    def __init__(self, scores: Scores, units: np.ndarray, n_units: int) -> None:
        self.scores, self.units, self.n_units = scores, units, n_units

    def add(self, codes: np.ndarray, n_codes: int, amounts: np.ndarray | None = None) -> np.ndarray:
        """Add 1 or `amounts` per (patient, code): (units, codes)."""
        flat = np.bincount(self.units * n_codes + codes, weights=amounts, minlength=self.n_units * n_codes)
        return flat.reshape(self.n_units, n_codes).astype(np.float64)

    @cached_property
    def confusion(self) -> np.ndarray:
        """(units, true * classes + predicted)."""
        return self._confusion(self.scores.predicted)

    @cached_property
    def confusion_at_half(self) -> np.ndarray:
        """The same with decisions at 0.5."""
        return self._confusion(decide(self.scores.probs, positive=self.scores.positive, threshold=0.5))

    def _confusion(self, predicted: np.ndarray) -> np.ndarray:
        k = self.scores.n_classes
        return self.add(self.scores.labels * k + predicted, k * k)

    @cached_property
    def squared_errors(self) -> np.ndarray:
        """(units, classes): squared error of each class's probability."""
        k = self.scores.n_classes
        errors = (self.scores.probs - np.eye(k)[self.scores.labels]) ** 2
        return np.stack([self.add(np.zeros_like(self.units), 1, errors[:, one])[:, 0] for one in range(k)], axis=1)

    @cached_property
    def bin_gaps(self) -> np.ndarray:
        """(units, classes * bins): observed minus predicted, added up in each bin of the predicted probability."""
        k = self.scores.n_classes
        gaps = []
        for one in range(k):
            prob = self.scores.probs[:, one]
            bins = np.minimum((prob * ECE_BINS).astype(np.int64), ECE_BINS - 1)
            gaps.append(self.add(bins, ECE_BINS, (self.scores.labels == one) - prob))
        return np.concatenate(gaps, axis=1)


class _Block:
    """The metrics of one block of draws; what several metrics share is computed once."""

    def __init__(self, scores: Scores, sums: _Sums, rankings: dict[int, _Ranking], weights: np.ndarray) -> None:
        self.scores, self.sums, self.rankings, self.weights = scores, sums, rankings, weights
        self.tables: dict[bool, np.ndarray] = {}

    def value(self, name: str, index: int | None) -> np.ndarray:
        """One metric, (draws,)."""
        at_half = name.endswith(AT_HALF)
        base = name.removesuffix(AT_HALF)
        if base == "accuracy":
            return _divide(np.einsum("kkd->d", self.table(at_half)), self.support.sum(axis=0))
        if base == "kappa":
            return self.kappa(at_half)
        if base == "balanced_accuracy":
            return self.macro(np.stack([self.one("sensitivity", k, at_half) for k in range(self.scores.n_classes)]))
        if index is None and self.scores.positive is not None:
            index = self.scores.positive
        if index is not None:
            return self.one(base, index, at_half)
        each = np.stack([self.one(base, k, at_half) for k in range(self.scores.n_classes)])
        return each.mean(axis=0) if base in ("brier", "ece") else self.macro(each)

    def macro(self, each: np.ndarray) -> np.ndarray:
        """Mean over the classes that are in the draw; NaN with fewer than two of them. (classes, draws) -> (draws,)."""
        present = self.support > 0
        count = present.sum(axis=0)
        total = np.where(present, np.nan_to_num(each), 0).sum(axis=0)
        return np.where(count >= 2, total / np.maximum(count, 1), np.nan)

    def one(self, base: str, k: int, at_half: bool) -> np.ndarray:
        """One metric of class k against the rest, (draws,)."""
        if base == "auroc":
            return self.rankings[k].auroc(self.weights)
        if base == "average_precision":
            return self.rankings[k].average_precision(self.weights)
        total = self.support.sum(axis=0)
        if base == "brier":
            return _divide(self.sums.squared_errors[:, k] @ self.weights, total)
        if base == "ece":
            gaps = self.sums.bin_gaps[:, k * ECE_BINS : (k + 1) * ECE_BINS].T @ self.weights
            return _divide(np.abs(gaps).sum(axis=0), total)
        table = self.table(at_half)
        hits, support, called = table[k, k], self.support[k], table[:, k].sum(axis=0)
        if base == "sensitivity":
            return _divide(hits, support)
        if base == "specificity":
            return _divide(total - support - called + hits, total - support)
        assert base == "f1", base
        return np.where(support > 0, _divide(2 * hits, support + called), np.nan)

    def kappa(self, at_half: bool) -> np.ndarray:
        """Cohen's kappa without weights between the labels and the decisions, (draws,)."""
        table, total = self.table(at_half), self.support.sum(axis=0)
        agreed = _divide(np.einsum("kkd->d", table), total)
        chance = _divide((self.support * table.sum(axis=0)).sum(axis=0), total**2)
        one_class = (self.support > 0).sum(axis=0) < 2
        return np.where(one_class, np.nan, _divide(agreed - chance, 1 - chance))

    def table(self, at_half: bool) -> np.ndarray:
        """Confusion matrices, (true, predicted, draws)."""
        if at_half not in self.tables:
            k = self.scores.n_classes
            rows = self.sums.confusion_at_half if at_half else self.sums.confusion
            self.tables[at_half] = (rows.T @ self.weights).reshape(k, k, -1)
        return self.tables[at_half]

    @cached_property
    def support(self) -> np.ndarray:
        """Images per true class, (classes, draws)."""
        return self.table(False).sum(axis=1)


def _cumulative(weights: np.ndarray) -> np.ndarray:
    """Cumulative sums down the rows with a row of zeros on top, (rows + 1, draws)."""
    out = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=out[1:])
    return out


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    return np.divide(top, bottom, out=np.full(np.broadcast(top, bottom).shape, np.nan), where=bottom != 0)
