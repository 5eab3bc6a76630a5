"""Strategies against the baseline: paired differences with intervals, permutation p values and Holm's correction.

Paired twice over: the same bootstrap draws of patients and repeats for both sides, over the repeats both have. The p
value (permutation.py) is about the models as trained, on other patients; the interval is about other draws of labels
as well, and the verdict rests on the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wazuka.core.errors import unknown_name
from wazuka.core.hashing import derive_seed
from wazuka.evaluate.panel import Cell, Key, Panel, RepeatValues
from wazuka.evaluate.permutation import LINEAR, contributions, general_p_value, p_values
from wazuka.evaluate.resampling import interval
from wazuka.evaluate.weighted_scores import AT_HALF

PERMUTATIONS = 10_000
"""Random swaps for metrics whose difference is linear in them; the others take a fifth of this, 2,000."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Strategy minus baseline, in the metric's own direction (for Brier score and calibration error, below 0 is better).

    Attributes:
        estimate: Mean over the common repeats.
        low, high: 95 % crossed-bootstrap interval; None where too few draws are defined.
        p: Two-sided permutation p value over patients.
        p_holm: Holm-adjusted over the strategies compared at one budget.
        adjusted_low, adjusted_high: Interval at two-sided level 1 - 0.05/(m - k + 1), k the rank of p among m.
        n_patients: Distinct test patients in common.
        repeats: Repeats in common.
    """

    estimate: float
    low: float | None
    high: float | None
    p: float
    p_holm: float
    adjusted_low: float | None
    adjusted_high: float | None
    n_patients: int
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One strategy at one budget against the baseline at the same or a larger one.

    Attributes:
        strategy, budget, local_labels: The strategy's side.
        baseline, against_budget: The baseline's side; `against_budget` equals `budget` in the main comparison.
        difference: None where the two have no repeat in common with a defined score.
    """

    strategy: str
    budget: str
    local_labels: int
    baseline: str
    against_budget: str
    difference: Difference | None


def compare(
    panel: Panel,
    *,
    metric: str,
    baseline: str,
    class_: str = "",
    alpha: float = 0.05,
    permutations: int = PERMUTATIONS,
    local_labels: int = 0,
) -> list[Comparison]:
    """Compare every strategy with the baseline, at the same budget and at each larger budget of the baseline.

    Each pair of budgets is one family for Holm's correction.

    Args:
        panel: The study's trials.
        metric: A metric's name.
        baseline: Name of the baseline strategy.
        class_: One class, or "" for the overall score.
        alpha: Family-wise error level.
        permutations: Random swaps (see `PERMUTATIONS`).
        local_labels: Only strategies with this number of labels of the target domain on top.

    Returns:
        Sorted by strategy, budget and the baseline's budget; empty with a single strategy.

    Raises:
        ConfigError: If no strategy has the baseline's name.
    """
    strategies = sorted({key.strategy for key in panel.keys})
    if baseline not in strategies:
        raise unknown_name("baseline", baseline, strategies)
    keys = [key for key in panel.keys if key.local_labels == local_labels]
    pairs = [
        (one, other)
        for one in keys
        for other in keys
        if one.strategy != baseline and other.strategy == baseline and _comparable(panel, one, other)
    ]
    found = [panel.over_repeats(pair, metric=metric, class_=class_) for pair in pairs]
    p = _p_values(panel, pairs, found, metric=metric, class_=class_, permutations=permutations)
    families: dict[tuple[str, str, int], list[int]] = {}
    for number, (one, other) in enumerate(pairs):
        if found[number].repeats:
            families.setdefault((one.budget, other.budget, one.local_labels), []).append(number)
    differences: dict[int, Difference] = {}
    for members in families.values():
        differences |= _family(panel, members, found, p, alpha)
    return [
        Comparison(
            strategy=one.strategy,
            budget=one.budget,
            local_labels=one.local_labels,
            baseline=baseline,
            against_budget=other.budget,
            difference=differences.get(number),
        )
        for number, (one, other) in enumerate(pairs)
    ]


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """First less second on the same parts, in the metric's own direction; bounds are None with too few draws.

    Attributes:
        estimate, low, high: Mean over the common repeats with its 95 % crossed-bootstrap interval, not corrected for
            how many differences are looked at.
        n_patients: Distinct test patients in common.
        repeats: Repeats in common.
    """

    estimate: float
    low: float | None
    high: float | None
    n_patients: int
    repeats: int


def paired_difference(
    panel: Panel,
    first: Key,
    second: Key,
    *,
    metric: str,
    class_: str = "",
    cells: Callable[[Cell], bool] | None = None,
) -> PairedDifference | None:
    """Difference of two keys over the parts and repeats that both have; None with none in common.

    Args:
        panel: The study's trials.
        first, second: Strategies at budgets.
        metric: A metric's name.
        class_: One class, or "" for the overall score.
        cells: Which test parts; None takes the headline ones (see `Panel.over_repeats`).
    """
    found = panel.over_repeats([first, second], metric=metric, class_=class_, cells=cells)
    if not found.repeats:
        return None
    point, drawn = panel.over_draws(found.values[0] - found.values[1], found.repeats)
    low, high = interval(drawn)
    return PairedDifference(estimate=point, low=low, high=high, n_patients=found.n_patients, repeats=len(found.repeats))


def _comparable(panel: Panel, one: Key, other: Key) -> bool:
    """The same budget, or a larger one of the baseline."""
    return one.budget == other.budget or panel.mean_labels(other) > panel.mean_labels(one)


def _family(
    panel: Panel, members: Sequence[int], found: Sequence[RepeatValues], p: np.ndarray, alpha: float
) -> dict[int, Difference]:
    """Differences of one family with Holm's correction."""
    drawn = {}
    for number in members:
        strategy, other = found[number].values
        drawn[number] = panel.over_draws(strategy - other, found[number].repeats)
    # Equal p values (the smallest one a permutation test can give) are ranked by the size of the difference.
    ranked = sorted(range(len(members)), key=lambda at: (p[members[at]], -abs(drawn[members[at]][0]), at))
    order = [members[at] for at in ranked]
    adjusted = holm(p[order])
    out = {}
    for rank, number in enumerate(order):
        estimate, values = drawn[number]
        low, high = interval(values, level=1 - alpha)
        wide_low, wide_high = interval(values, level=1 - alpha / (len(order) - rank))
        out[number] = Difference(
            estimate=estimate,
            low=low,
            high=high,
            p=float(p[number]),
            p_holm=float(adjusted[rank]),
            adjusted_low=wide_low,
            adjusted_high=wide_high,
            n_patients=found[number].n_patients,
            repeats=len(found[number].repeats),
        )
    return out


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) adjusted p values of sorted p values: the running maximum of (m - k + 1) p_k, at most 1.

    >>> holm(np.array([0.01, 0.02, 0.03])).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    m = len(p)
    return np.minimum(np.maximum.accumulate((m - np.arange(m)) * p), 1.0)


def _p_values(
    panel: Panel,
    pairs: Sequence[tuple[Key, Key]],
    found: Sequence[RepeatValues],
    *,
    metric: str,
    class_: str,
    permutations: int,
) -> np.ndarray:
    """Permutation p values of all comparisons; 1 where nothing is in common."""
    index, n_units = panel.class_index(class_), len(panel.patients)
    seed = derive_seed(panel.seed, "permutations")
    if metric.removesuffix(AT_HALF) in LINEAR:
        shares = np.zeros((n_units, len(pairs)))
        for number, (pair, values) in enumerate(zip(pairs, found, strict=True)):
            for cell, weight in _cell_weights(values):
                a, b = (panel.scores[key][cell] for key in pair)
                shares[:, number] += weight * contributions(a, b, metric=metric, index=index, n_units=n_units)
        return p_values(shares, permutations=permutations, rng=np.random.default_rng(seed))
    out = np.ones(len(pairs))
    for number, (pair, values) in enumerate(zip(pairs, found, strict=True)):
        if not values.repeats:
            continue
        weights = [weight for _, weight in _cell_weights(values)]
        out[number] = general_p_value(
            [(panel.scores[pair[0]][cell], panel.scores[pair[1]][cell]) for cell in values.cells],
            lambda parts, weights=weights: np.tensordot(weights, np.array(parts), axes=1),  # type: ignore[misc]
            metric=metric,
            index=index,
            n_units=n_units,
            permutations=permutations // 5,
            rng=np.random.default_rng(seed),
        )
    return out


def _cell_weights(values: RepeatValues) -> list[tuple[Cell, float]]:
    """Each part's weight in the mean over repeats of the mean over a repeat's parts."""
    counts: dict[int, int] = {}
    for cell in values.cells:
        counts[cell.repeat] = counts.get(cell.repeat, 0) + 1
    return [(cell, 1 / (counts[cell.repeat] * len(values.repeats))) for cell in values.cells]
