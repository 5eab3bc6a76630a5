"""Label scaling: which share of the full-data score a strategy reaches with which share of the labels, with intervals.

"Full-data" is the largest budget: the strategy's own, or the baseline's. Both sides of a ratio share the draws of
patients and repeats, so that what they have in common cancels. Two ratios are given, since they say different things:

- of the scores, score(budget) / score(full), as papers quote it. A useless AUROC of 0.5 is already 56 % of 0.9;
- of the part above chance, (score(budget) - chance) / (score(full) - chance), where chance is a constant of the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wazuka.core.errors import DataError, unknown_name
from wazuka.evaluate.learning_curve import LabelsNeeded, count_interval, curve, reach, whole_count
from wazuka.evaluate.panel import Key, Panel
from wazuka.evaluate.resampling import interval
from wazuka.evaluate.weighted_scores import AT_HALF
from wazuka.evaluate.weighted_scores import metric as describe

LEVELS = (0.90, 0.95, 0.99)
"""Shares of the full-data score that are looked for."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of mean scores with its 95 % crossed-bootstrap interval; the bounds are None with too few draws."""

    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """One budget against the full data.

    Attributes:
        budget, labels: As written, and the mean labels used.
        share: `labels` over the labels of the full data.
        ratio: Of the scores; 1 exactly where the budget is the reference itself.
        above_chance: Of the parts above chance; None where the metric has no constant chance level, or where the
            full-data score is not clearly above it (then the ratio has no finite interval).
        repeats, n_patients: What both sides have in common.
    """

    budget: str
    labels: float
    share: float
    ratio: Ratio
    above_chance: Ratio | None
    repeats: int
    n_patients: int


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Where a share of the full-data score is reached.

    Attributes:
        level: The share, such as 0.95.
        budget, labels, share: The smallest budget whose ratio's lower bound is at least the level: shown by this study.
            None where there is none.
        needed: Labels at which the learning curve crosses the level, with interval: the estimate.
    """

    level: float
    budget: str | None
    labels: float | None
    share: float | None
    needed: LabelsNeeded


@dataclass(frozen=True, kw_only=True)
class LabelScaling:
    """A strategy's scores in shares of a full-data score.

    Attributes:
        strategy, metric: What it is of.
        reference, reference_budget, reference_labels: Whose full data: the strategy's own or the baseline's.
        chance: The score of guessing, where it is a constant of the metric.
        points: By increasing labels.
        reached: One entry per level.
    """

    strategy: str
    metric: str
    reference: str
    reference_budget: str
    reference_labels: float
    chance: float | None
    points: tuple[ScalingPoint, ...]
    reached: tuple[Reached, ...]


def chance_level(metric: str, n_classes: int) -> float | None:
    """Score of guessing, where it does not depend on the shares of the classes: AUROC, balanced accuracy, kappa.

    >>> chance_level("auroc", 3), chance_level("balanced_accuracy", 4), chance_level("accuracy", 2)
    (0.5, 0.25, None)
    """
    describe(metric)
    return {"auroc": 0.5, "balanced_accuracy": 1 / n_classes, "kappa": 0.0}.get(metric.removesuffix(AT_HALF))


def label_scaling(
    panel: Panel,
    strategy: str,
    *,
    metric: str,
    reference: str | None = None,
    class_: str = "",
    levels: Sequence[float] = LEVELS,
) -> LabelScaling:
    """Express a strategy's scores at all budgets as shares of a full-data score.

    Args:
        panel: The study's trials.
        strategy: Its name.
        metric: One that is better when higher.
        reference: Strategy whose largest budget is the full data; None takes the strategy's own.
        class_: One class, or "" for the overall score.
        levels: Shares to look for, in (0, 1].

    Raises:
        ConfigError: If a strategy or the metric is unknown.
        DataError: If lower is better (a share of an error is not a share of what was learned), or no budget has a
            defined score in common with the reference.
    """
    if not describe(metric).higher_is_better:
        raise DataError(f"{metric} is better when lower; label scaling needs a metric that is better when higher.")
    keys, full = _budgets(panel, strategy), _budgets(panel, reference or strategy)[-1]
    chance = chance_level(metric, len(panel.classes))
    points = []
    for key in keys:
        found = panel.over_repeats([key, full], metric=metric, class_=class_)
        if not found.repeats:
            continue
        (score, drawn), (other, other_drawn) = [panel.over_draws(one, found.repeats) for one in found.values]
        ratio = _ratio(score, drawn, other, other_drawn)
        if ratio is None:
            continue
        labels, most = panel.mean_labels(key), panel.mean_labels(full)
        points.append(
            ScalingPoint(
                budget=key.budget,
                labels=labels,
                share=labels / most,
                ratio=ratio,
                above_chance=None
                if chance is None
                else _ratio(score - chance, drawn - chance, other - chance, other_drawn - chance),
                repeats=len(found.repeats),
                n_patients=found.n_patients,
            )
        )
    if not points:
        raise DataError(
            f"`{strategy}` has no budget with a defined {metric} in common with `{full.strategy}` at {full.budget}; label scaling needs one."
        )
    return LabelScaling(
        strategy=strategy,
        metric=metric,
        reference=full.strategy,
        reference_budget=full.budget,
        reference_labels=panel.mean_labels(full),
        chance=chance,
        points=tuple(points),
        reached=tuple(_reached(panel, points, full, strategy, level, metric, class_) for level in levels),
    )


def _budgets(panel: Panel, strategy: str) -> list[Key]:
    """A strategy's budgets without local labels, by increasing labels."""
    keys = [key for key in panel.keys if key.strategy == strategy and key.local_labels == 0]
    if not keys:
        raise unknown_name("strategy", strategy, sorted({key.strategy for key in panel.keys}))
    return keys


def _repeats(panel: Panel, strategy: str) -> set[int]:
    return {cell.repeat for key in _budgets(panel, strategy) for cell in panel.scores[key]}


def _ratio(score: float, drawn: np.ndarray, other: float, other_drawn: np.ndarray) -> Ratio | None:
    """A ratio of two means over shared draws; None where the denominator may be 0: no finite interval exists then."""
    defined = other_drawn[~np.isnan(other_drawn)]
    if other <= 0 or (len(defined) and np.quantile(defined, 0.025) <= 0):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(other_drawn > 0, drawn / other_drawn, np.inf)
    shares[np.isnan(drawn) | np.isnan(other_drawn)] = np.nan
    if not np.isinf(shares).any():
        low, high = interval(shares)
        return Ratio(estimate=score / other, low=low, high=high)
    first, last = count_interval(shares)  # draws without a denominator count as beyond every bound
    return Ratio(estimate=score / other, low=first, high=None if np.isinf(last) else last)


def _reached(
    panel: Panel, points: Sequence[ScalingPoint], full: Key, strategy: str, level: float, metric: str, class_: str
) -> Reached:
    shown = None
    for one in reversed(points):  # from the largest budget down, until one does not hold: a fixed order of tests
        if one.ratio.low is None or one.ratio.low < level:
            break
        shown = one
    common = None
    if full.strategy != strategy:  # both curves over the repeats of both, so that their draws are the same
        common = _repeats(panel, strategy) & _repeats(panel, full.strategy)
    own = curve(panel, strategy, metric=metric, class_=class_, repeats=common)
    other = own if common is None else curve(panel, full.strategy, metric=metric, class_=class_, repeats=common)
    goal = level * other.fitted[-1]
    needed = reach(own.labels, own.fitted, goal)
    low, high = count_interval(needed[1:])
    return Reached(
        level=level,
        budget=None if shown is None else shown.budget,
        labels=None if shown is None else shown.labels,
        share=None if shown is None else shown.share,
        needed=LabelsNeeded(
            target=float(goal[0]),
            estimate=whole_count(needed[0]),
            low=whole_count(low),
            high=whole_count(high),
            more_than=int(own.labels[-1]),
            already=bool(own.fitted[0, 0] >= goal[0]),
            extrapolated=False,
        ),
    )
