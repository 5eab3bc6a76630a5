"""How many labels of a new domain close its gap: source models with 0, 10, 20, ... labels of the target added on top.

For a target domain B the score at n local labels is the mean over source models (trained on another domain A, plus n
labels of B); the reference is the in-domain score: models trained on B alone at the same budget, on the same test
patients. The gap at n is reference less score. Per bootstrap draw the scores over n are made monotone (more labels of B
do not hurt) and joined by straight lines in log(1 + n); the answer is where that curve reaches the draw's own reference
less the margin. Draws that never do count as "more than the largest n", so the interval may be open above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wazuka.evaluate.learning_curve import count_interval, isotonic, reach, whole_count
from wazuka.evaluate.panel import POOLED, Cell, Key, Panel, RepeatValues
from wazuka.evaluate.resampling import interval
from wazuka.evaluate.weighted_scores import metric as describe


@dataclass(frozen=True, kw_only=True)
class LocalPoint:
    """The score with so many local labels.

    Attributes:
        local_labels: n; 0 is the source model alone.
        estimate, low, high: The score with its 95 % interval; bounds are None with too few defined draws.
        gap, gap_low, gap_high: In-domain score less this one, paired; positive is a loss, whatever the metric.
    """

    local_labels: int
    estimate: float
    low: float | None
    high: float | None
    gap: float
    gap_low: float | None
    gap_high: float | None


@dataclass(frozen=True, kw_only=True)
class LocalLabels:
    """What local labels do in one target domain.

    Attributes:
        strategy, budget: Of the source models.
        target: The target domain; "" for all targets together.
        reference, reference_low, reference_high: The in-domain score.
        points: By increasing n, the first is n = 0 where the study has it.
        needed, low, high: Local labels that close the gap to within the margin, read off the curve, with the 95 %
            interval; None is "more than `more_than`".
        more_than: The largest n.
        already: The gap is within the margin without any local label.
        reached: Share of the draws in which the gap is closed within the numbers tried.
        shown: The smallest n whose gap's upper bound is at most the margin: closed beyond doubt; None if there is none.
        repeats, n_patients: What the curve and its reference have in common; patients of the target's test part.
    """

    strategy: str
    budget: str
    target: str
    reference: float
    reference_low: float | None
    reference_high: float | None
    points: tuple[LocalPoint, ...]
    needed: int | None
    low: int | None
    high: int | None
    more_than: int
    already: bool
    reached: float
    shown: int | None
    repeats: int
    n_patients: int


def local_labels(panel: Panel, strategy: str, budget: str, *, metric: str, margin: float) -> list[LocalLabels]:
    """Read off, for each target domain and for all together, how many local labels close the gap.

    Args:
        panel: The study's trials.
        strategy, budget: Of the source models; the in-domain reference is the same strategy at the same budget.
        metric: A metric's name.
        margin: The gap counts as closed within this, at least 0.

    Returns:
        One entry per target with results, by name, then the one for all targets (target "") where there are several;
        empty where the strategy has no local labels or was not trained on the targets.

    Raises:
        ConfigError: If there are no trials of the strategy at the budget.
    """
    panel.require(Key(strategy, budget))
    numbers = sorted(key.local_labels for key in panel.scores if key.strategy == strategy and key.budget == budget)
    if numbers[-1] == 0:
        return []
    keys = [Key(strategy, budget, number) for number in numbers]
    targets = sorted({cell.part for cell in panel.scores[keys[-1]]} - {POOLED})
    found = [_target(panel, keys, [target], metric=metric, margin=margin) for target in targets]
    out = [one for one in found if one is not None]
    if len(out) > 1:
        together = _target(panel, keys, [one.target for one in out], metric=metric, margin=margin)
        out += [together] if together is not None else []
    return out


def _target(panel: Panel, keys: list[Key], targets: list[str], *, metric: str, margin: float) -> LocalLabels | None:
    """One target, or several together; None without an in-domain reference or a repeat in common."""

    def adapted(cell: Cell) -> bool:
        return cell.part in targets and cell.train_domain not in (cell.part, POOLED)

    def inside(cell: Cell) -> bool:
        return cell.part in targets and cell.train_domain == cell.part

    scores = panel.over_repeats(keys, metric=metric, cells=adapted)  # the sources and targets that every n has
    reference = panel.over_repeats(keys[:1], metric=metric, cells=inside) if keys[0].local_labels == 0 else None
    repeats = tuple(sorted(set(scores.repeats) & set(reference.repeats))) if reference is not None else ()
    if reference is None or not repeats:
        return None
    rows = np.array([_draws(panel, scores, row, repeats) for row in range(len(keys))])  # (numbers, 1 + draws)
    goal = _draws(panel, reference, 0, repeats)
    sign = 1.0 if describe(metric).higher_is_better else -1.0
    numbers = np.array([key.local_labels for key in keys])
    fitted = isotonic(sign * rows, weights=np.ones(len(numbers)))
    needed = reach(numbers + 1.0, fitted, sign * goal - margin) - 1.0
    low, high = count_interval(needed[1:])
    points = [_point(int(n), row, sign * (goal - row)) for n, row in zip(numbers, rows, strict=True)]
    drawn = needed[1:][~np.isnan(needed[1:])]
    ends = interval(goal[1:])
    return LocalLabels(
        strategy=keys[0].strategy,
        budget=keys[0].budget,
        target=targets[0] if len(targets) == 1 else "",
        reference=float(goal[0]),
        reference_low=ends[0],
        reference_high=ends[1],
        points=tuple(points),
        needed=whole_count(needed[0]),
        low=whole_count(low),
        high=whole_count(high),
        more_than=int(numbers[-1]),
        already=bool(needed[0] <= 0),
        reached=float(np.isfinite(drawn).mean()) if len(drawn) else 0.0,
        shown=_shown(points, margin),
        repeats=len(repeats),
        n_patients=len(np.union1d(scores.units, reference.units)),
    )


def _shown(points: list[LocalPoint], margin: float) -> int | None:
    """Smallest n from which on every gap is closed: tested from the largest n down, until one is not.

    Looking for the first n that happens to be closed would claim one far more often than the interval's level says.
    """
    shown = None
    for one in reversed(points):
        if one.gap_high is None or one.gap_high > margin:
            break
        shown = one.local_labels
    return shown


def _draws(panel: Panel, found: RepeatValues, row: int, repeats: tuple[int, ...]) -> np.ndarray:
    """Mean over these repeats and its draws, (1 + draws,)."""
    chosen = found.values[row][[found.repeats.index(repeat) for repeat in repeats]]
    point, drawn = panel.over_draws(chosen, repeats)
    return np.concatenate([[point], drawn])


def _point(number: int, scores: np.ndarray, gaps: np.ndarray) -> LocalPoint:
    low, high = interval(scores[1:])
    gap_low, gap_high = interval(gaps[1:])
    return LocalPoint(
        local_labels=number,
        estimate=float(scores[0]),
        low=low,
        high=high,
        gap=float(gaps[0]),
        gap_low=gap_low,
        gap_high=gap_high,
    )
