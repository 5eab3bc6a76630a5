"""Scores against labels: monotone learning curves, labels needed for a target, labels saved against the baseline.

Within the budgets of a study a curve is the isotonic regression of the mean scores, joined by straight lines in the
logarithm of the labels: it assumes only that more labels do not hurt. A study has four or five budgets, too few to trust
three parameters where there are data to read. Beyond the largest budget nothing is said but "more than N", unless a
projection is asked for: then an inverse power law a - b n^-c (Mukherjee et al. 2003) is fitted, and the answer is
marked as extrapolated. All budgets share their bootstrap draws of patients and repeats.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from wazuka.core.errors import DataError, unknown_name
from wazuka.evaluate.intervals import Estimate, estimate
from wazuka.evaluate.panel import Cell, Panel
from wazuka.evaluate.resampling import MIN_DRAWS
from wazuka.evaluate.weighted_scores import metric as describe

LAW_BUDGETS = 4
"""An inverse power law has three parameters; it is fitted to at least this many budgets."""
RATES = np.geomspace(0.05, 2.0, 60)
"""Decay rates c that are tried; for each, a and b are a linear least-squares fit."""
GRID = 201
"""Places, even in log labels, where two curves are compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A strategy's learning curve and its bootstrap draws.

    Attributes:
        strategy, metric: What it is of.
        higher_is_better: The metric's direction.
        best: The metric's best possible value.
        budgets: As written, by increasing labels.
        labels: Mean labels used at each budget, (budgets,).
        estimates: The scores as measured, with their intervals.
        repeats: Repeats behind each score, (budgets,).
        measured: Scores and their draws, (budgets, 1 + draws); column 0 is the estimate.
        fitted: The same after isotonic regression.
    """

    strategy: str
    metric: str
    higher_is_better: bool
    best: float
    budgets: tuple[str, ...]
    labels: np.ndarray
    estimates: tuple[Estimate, ...]
    repeats: np.ndarray
    measured: np.ndarray
    fitted: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LabelsNeeded:
    """How many labels a strategy needs for a target.

    Attributes:
        target: The score to reach.
        estimate, low, high: Labels, with the 95 % interval; None is "more than `more_than`".
        more_than: The largest number of labels that was looked at.
        already: The smallest budget reaches it: `estimate` is "at most".
        extrapolated: The estimate lies beyond the data, from the inverse power law.
    """

    target: float
    estimate: int | None
    low: int | None
    high: int | None
    more_than: int
    already: bool
    extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class LabelsSaved:
    """How many labels more the baseline needs to reach what a strategy reaches at a budget.

    Attributes:
        budget: The strategy's budget.
        labels: Labels used there.
        estimate, low, high: Labels saved, with the 95 % interval, below 0 if the baseline needs fewer; None is "more
            than `more_than`": the baseline does not get there at its largest budget.
        more_than: The baseline's largest budget less `labels`.
        at_most: The baseline is as good already at its smallest budget: `estimate` is "at most".
    """

    budget: str
    labels: int
    estimate: int | None
    low: int | None
    high: int | None
    more_than: int
    at_most: bool


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """Where two learning curves change places for the last time.

    Attributes:
        labels: Number of labels; None where one is ahead over the whole common range.
        low, high: 95 % interval over the draws that have a crossing; None with too few of these.
        ahead_below, ahead_above: The strategy that is ahead at the small and at the large end; None if they are equal.
        share: Share of the draws that have a crossing.
    """

    labels: int | None
    low: int | None
    high: int | None
    ahead_below: str | None
    ahead_above: str | None
    share: float


def curve(
    panel: Panel,
    strategy: str,
    *,
    metric: str,
    class_: str = "",
    local_labels: int = 0,
    repeats: Collection[int] | None = None,
) -> Curve:
    """Make a strategy's learning curve from all its budgets.

    Args:
        panel: The study's trials.
        strategy: Its name.
        metric: A metric's name.
        class_: One class, or "" for the overall score.
        local_labels: Which of its numbers of local labels.
        repeats: Only these, so that curves compared with each other share their draws; None: all that it has.

    Raises:
        ConfigError: If the strategy is unknown.
        DataError: If no budget has a defined score.
    """
    keys = [key for key in panel.keys if key.strategy == strategy and key.local_labels == local_labels]
    if not keys:
        raise unknown_name("strategy", strategy, sorted({key.strategy for key in panel.keys}))

    def chosen(cell: Cell) -> bool:
        return cell in panel.headline and (repeats is None or cell.repeat in repeats)

    found = [(key, panel.over_repeats([key], metric=metric, class_=class_, cells=chosen)) for key in keys]
    found = [(key, values) for key, values in found if values.repeats]
    if not found:
        raise DataError(f"`{strategy}` has no budget with a defined {metric}; a learning curve needs one.")
    rows = []
    for _, values in found:
        point, drawn = panel.over_draws(values.values[0], values.repeats)
        rows.append(np.concatenate([[point], drawn]))
    measured, about = np.array(rows), describe(metric)
    counts = np.array([len(values.repeats) for _, values in found])
    sign = 1.0 if about.higher_is_better else -1.0
    return Curve(
        strategy=strategy,
        metric=metric,
        higher_is_better=about.higher_is_better,
        best=about.high if about.higher_is_better else about.low,
        budgets=tuple(key.budget for key, _ in found),
        labels=np.array([panel.mean_labels(key) for key, _ in found]),
        estimates=tuple(estimate(panel, key, metric=metric, class_=class_) for key, _ in found),
        repeats=counts,
        measured=measured,
        fitted=sign * isotonic(sign * measured, weights=counts),
    )


def isotonic(values: np.ndarray, *, weights: np.ndarray) -> np.ndarray:
    """Weighted least-squares fit that never falls, by the max-min formula, for many curves at once.

    Args:
        values: (points, curves).
        weights: (points,), positive.
    """
    n = len(values)
    totals = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * weights[:, None], axis=0)])
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    out = np.full(values.shape, -np.inf)
    for start in range(n):
        means = [(totals[stop] - totals[start]) / (mass[stop] - mass[start]) for stop in range(start + 1, n + 1)]
        least = np.minimum.accumulate(means[::-1], axis=0)[::-1]  # smallest mean of start..stop over stop >= point
        out[start:] = np.maximum(out[start:], least)
    return out


def labels_needed(curve: Curve, target: float, *, max_labels: int | None = None) -> LabelsNeeded:
    """Read off how many labels reach a target score.

    Args:
        curve: From `curve`.
        target: Score to reach (from below, or from above where lower is better).
        max_labels: Project up to this many labels by an inverse power law, with at least `LAW_BUDGETS` budgets; None
            says nothing beyond the largest budget.
    """
    sign = 1.0 if curve.higher_is_better else -1.0
    goal = np.full(curve.fitted.shape[1], sign * target)
    needed = reach(curve.labels, sign * curve.fitted, goal)
    largest = float(curve.labels[-1])
    beyond = np.isinf(needed)
    if max_labels is not None and max_labels > largest and len(curve.labels) >= LAW_BUDGETS:
        law = fit_law(curve.labels, sign * curve.measured, weights=curve.repeats, best=sign * curve.best)
        projected = np.maximum(law_reaches(law, goal), largest)
        needed = np.where(beyond, np.where(projected <= max_labels, projected, np.inf), needed)
        largest = float(max_labels)
    low, high = count_interval(needed[1:])
    return LabelsNeeded(
        target=target,
        estimate=whole_count(needed[0]),
        low=whole_count(low),
        high=whole_count(high),
        more_than=int(largest),
        already=bool(sign * curve.fitted[0, 0] >= sign * target),
        extrapolated=bool(beyond[0] and np.isfinite(needed[0])),
    )


def labels_saved(curve: Curve, baseline: Curve, *, budget: str) -> LabelsSaved:
    """Ask how many labels the baseline needs for what the strategy reaches at a budget.

    Args:
        curve, baseline: From the same panel, for the same metric.
        budget: One of the strategy's budgets.

    Raises:
        ConfigError: If the strategy has no such budget.
        DataError: If the curves are of different metrics or draws.
    """
    _check_same(curve, baseline)
    if budget not in curve.budgets:
        raise unknown_name("budget", budget, curve.budgets, where=f"`{curve.strategy}`")
    at = curve.budgets.index(budget)
    sign = 1.0 if curve.higher_is_better else -1.0
    needed = reach(baseline.labels, sign * baseline.fitted, sign * curve.fitted[at])
    used = float(curve.labels[at])
    saved = needed - used
    low, high = count_interval(saved[1:])
    return LabelsSaved(
        budget=budget,
        labels=round(used),
        estimate=whole_count(saved[0], up=False),
        low=whole_count(low, up=False),
        high=whole_count(high, up=False),
        more_than=int(np.floor(float(baseline.labels[-1]) - used)),
        at_most=bool(sign * baseline.fitted[0, 0] >= sign * curve.fitted[at, 0]),
    )


def crossover(first: Curve, second: Curve) -> Crossover:
    """Find where two learning curves change places, over the labels that both cover.

    Raises:
        DataError: If the curves are of different metrics or draws, or have no range of labels in common.
    """
    _check_same(first, second)
    start, stop = max(first.labels[0], second.labels[0]), min(first.labels[-1], second.labels[-1])
    if start >= stop:
        raise DataError(
            f"`{first.strategy}` and `{second.strategy}` have no range of labels in common; run them at two common budgets."
        )
    grid = np.linspace(np.log(start), np.log(stop), GRID)
    sign = 1.0 if first.higher_is_better else -1.0
    gap = sign * (_on_grid(first, grid) - _on_grid(second, grid))  # (grid, 1 + draws)
    gap[np.abs(gap) < 1e-12] = 0.0
    places = _last_crossing(gap, grid)
    drawn = places[1:][~np.isnan(gap[0, 1:])]
    crossing = drawn[~np.isnan(drawn)]
    low, high = count_interval(crossing) if len(crossing) >= MIN_DRAWS else (np.nan, np.nan)
    found = not np.isnan(places[0])
    ends = [None if one == 0 else (first.strategy if one > 0 else second.strategy) for one in (gap[0, 0], gap[-1, 0])]
    return Crossover(
        labels=whole_count(places[0]) if found else None,
        low=whole_count(low) if found and not np.isnan(low) else None,
        high=whole_count(high) if found and not np.isnan(high) else None,
        ahead_below=ends[0],
        ahead_above=ends[1],
        share=len(crossing) / len(drawn) if len(drawn) else 0.0,
    )


def fit_law(labels: np.ndarray, values: np.ndarray, *, weights: np.ndarray, best: float) -> np.ndarray:
    """Fit a - b n^-c with b >= 0 and a <= `best` by weighted least squares, c on the grid `RATES`, for many curves.

    Args:
        labels: n, (points,).
        values: (points, curves), higher is better.
        weights: (points,).
        best: Upper limit of a.

    Returns:
        (3, curves): a, b, c.
    """
    powers = labels[:, None] ** -RATES  # (points, rates)
    share = (weights / weights.sum())[:, None]
    mean_x = (share * powers).sum(axis=0)[:, None]
    mean_y = (share * values).sum(axis=0)[None, :]
    var_x = (share * powers**2).sum(axis=0)[:, None] - mean_x**2
    covariance = (share * powers).T @ values - mean_x * mean_y  # (rates, curves)
    b = np.maximum(-covariance / var_x, 0.0)
    a = mean_y + b * mean_x
    second = (share * powers**2).sum(axis=0)[:, None]
    capped = np.maximum((best * mean_x - (share * powers).T @ values) / second, 0.0)
    b, a = np.where(a > best, capped, b), np.minimum(a, best)
    fitted = a[None] - b[None] * powers[:, :, None]
    errors = (share[:, :, None] * (values[:, None, :] - fitted) ** 2).sum(axis=0)
    chosen = np.where(np.isnan(errors), np.inf, errors).argmin(axis=0)
    columns = np.arange(values.shape[1])
    return np.stack([a[chosen, columns], b[chosen, columns], RATES[chosen]])


def law_reaches(law: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Labels at which a - b n^-c reaches the goal, (curves,); infinity where it never does."""
    a, b, c = law
    out = np.full(len(goal), np.inf)
    able = (a > goal) & (b > 0)
    with np.errstate(over="ignore"):
        out[able] = (b[able] / (a[able] - goal[able])) ** (1 / c[able])
    return out


def reach(labels: np.ndarray, values: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Fewest labels at which each rising curve reaches its goal, (curves,): infinity beyond the last point."""
    logs = np.log(labels)
    reached = values >= goal
    at = reached.argmax(axis=0)
    columns = np.arange(values.shape[1])
    before = np.maximum(at - 1, 0)
    low, high = values[before, columns], values[at, columns]
    rise = np.where(high > low, high - low, 1.0)
    share = np.where((at > 0) & (high > low), (goal - low) / rise, 0.0)
    out = np.exp(logs[before] + share * (logs[at] - logs[before]))
    out = np.where(at == 0, labels[0], out)
    out = np.where(reached.any(axis=0), out, np.inf)
    return np.where(np.isnan(values).any(axis=0) | np.isnan(goal), np.nan, out)


def _on_grid(curve: Curve, grid: np.ndarray) -> np.ndarray:
    """The fitted curve at log labels, (grid, 1 + draws)."""
    logs = np.log(curve.labels)
    after = np.clip(np.searchsorted(logs, grid), 1, len(logs) - 1)
    share = ((grid - logs[after - 1]) / (logs[after] - logs[after - 1]))[:, None]
    return (1 - share) * curve.fitted[after - 1] + share * curve.fitted[after]


def _last_crossing(gap: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Labels at the last change of sign of each column; NaN where there is none."""
    out = np.full(gap.shape[1], np.nan)
    for column in range(gap.shape[1]):
        apart = np.flatnonzero((gap[:, column] != 0) & ~np.isnan(gap[:, column]))
        signs = np.sign(gap[apart, column])
        changes = np.flatnonzero(signs[1:] != signs[:-1])
        if len(changes):
            left, right = apart[changes[-1]], apart[changes[-1] + 1]
            share = gap[left, column] / (gap[left, column] - gap[right, column])
            out[column] = np.exp(grid[left] + share * (grid[right] - grid[left]))
    return out


def _check_same(first: Curve, second: Curve) -> None:
    if first.metric != second.metric or first.fitted.shape[1] != second.fitted.shape[1]:
        raise DataError(
            f"`{first.strategy}` ({first.metric}) and `{second.strategy}` ({second.metric}) are not of one panel and metric; make both curves from the same panel."
        )


def count_interval(values: np.ndarray) -> tuple[float, float]:
    """2.5 and 97.5 % order statistics of values that may be infinite; NaN values are undefined draws."""
    values = np.sort(values[~np.isnan(values)])
    if len(values) < MIN_DRAWS:
        return np.inf, np.inf
    last = len(values) - 1
    return float(values[int(np.floor(0.025 * last))]), float(values[int(np.ceil(0.975 * last))])


def whole_count(value: float, *, up: bool = True) -> int | None:
    """A whole number of labels, None for infinity; rounding guards against 100.0000001 becoming 101."""
    if np.isinf(value):
        return None
    rounded = round(value, 6)
    return int(np.ceil(rounded) if up else np.floor(rounded))
