"""Does it hold elsewhere, and for everyone? Scores per domain, in- and out-of-domain gaps, subgroup gaps with power.

A gap is a loss: positive means worse out of domain, in the hardest domain, in the subgroup. Each gap comes with the
smallest gap that this number of patients could have shown: no gap found among few patients is no evidence of none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from wazuka.core.errors import DataError, unknown_name
from wazuka.evaluate.intervals import Estimate, estimate
from wazuka.evaluate.panel import POOLED, Cell, Key, Panel, RepeatValues, RowChoice
from wazuka.evaluate.predictions import Scores
from wazuka.evaluate.resampling import interval
from wazuka.evaluate.weighted_scores import metric as describe

MIN_GROUP_PATIENTS = 5
"""A subgroup with fewer test patients is counted but not scored."""
MAX_GROUPS = 12
"""An attribute with more values than this is not a grouping (bin it first)."""
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A loss and what could have been seen.

    Attributes:
        estimate: Mean over repeats; positive is worse.
        low, high: 95 % crossed-bootstrap interval; None with too few defined draws.
        adjusted_low, adjusted_high: Bonferroni-adjusted over the gaps tested together; equal to low, high for one.
        minimum_detectable: The gap found with 80 % power at the adjusted level, from the bootstrap's standard error.
        n_patients: Distinct patients on both sides.
        repeats: Repeats in which both sides are defined.
    """

    estimate: float
    low: float | None
    high: float | None
    adjusted_low: float | None
    adjusted_high: float | None
    minimum_detectable: float | None
    n_patients: int
    repeats: int


@dataclass(frozen=True, kw_only=True)
class DomainSummary:
    """How a strategy does per domain.

    Attributes:
        scores: Domain -> estimate: pooled studies: images of this domain; otherwise models not trained on it.
        in_domain: Models tested on the domain they were trained on (each-to-each), else None.
        out_of_domain: Models tested on other domains (each-to-each, leave-one-out), else None.
        gap: In-domain less out-of-domain, where both exist.
        hardest: The domain with the worst score of at least two.
        hardest_gap: Mean of the other domains less the hardest. The hardest is picked by looking, so that the gap is
            overstated where domains differ by chance only.
    """

    scores: dict[str, Estimate]
    in_domain: Estimate | None
    out_of_domain: Estimate | None
    gap: Gap | None
    hardest: str | None
    hardest_gap: Gap | None


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """One group of an attribute against all others with a known value.

    Attributes:
        attribute, group: As in the manifest.
        n_patients, n_images: Distinct tested patients and images of the group.
        n_unknown: Distinct tested images without a value.
        score: The group's score; None where not scored.
        gap: The others' score less the group's; None where not scored.
        reason: Why it was not scored, else None.
    """

    attribute: str
    group: str
    n_patients: int
    n_images: int
    n_unknown: int
    score: Estimate | None
    gap: Gap | None
    reason: str | None


def domain_summary(panel: Panel, key: Key, *, metric: str, class_: str = "") -> DomainSummary:
    """Summarize a strategy at a budget over domains.

    Args:
        panel: The study's trials.
        key: Strategy and budget.
        metric: A metric's name.
        class_: One class, or "" for the overall score.
    """
    panel.require(key)
    cells = [cell for cell in panel.scores[key] if cell.part != POOLED]

    def score(choose: Callable[[Cell], bool]) -> Estimate | None:
        found = estimate(panel, key, metric=metric, class_=class_, cells=choose)
        return found if found.estimate is not None else None

    scores = {}
    for name in sorted({cell.part for cell in cells}):
        one = score(lambda cell, name=name: cell.part == name and cell.train_domain != name)  # type: ignore[misc]
        if one is not None:
            scores[name] = one
    inside, outside = score(_is_inside), score(_is_outside)
    gap = None
    if inside is not None and outside is not None:
        gap = _gap(panel, key, _is_inside, _is_outside, metric=metric, class_=class_)
    sign = 1.0 if describe(metric).higher_is_better else -1.0
    hardest = min(scores, key=lambda name: sign * float(scores[name].estimate or 0.0)) if len(scores) > 1 else None
    hardest_gap = None
    if hardest is not None:
        hardest_gap = _gap(
            panel,
            key,
            lambda cell: cell.part in scores and cell.part not in (hardest, cell.train_domain),
            lambda cell: cell.part == hardest and cell.train_domain != hardest,
            metric=metric,
            class_=class_,
        )
    return DomainSummary(
        scores=scores, in_domain=inside, out_of_domain=outside, gap=gap, hardest=hardest, hardest_gap=hardest_gap
    )


def _is_inside(cell: Cell) -> bool:
    return cell.train_domain == cell.part != POOLED


def _is_outside(cell: Cell) -> bool:
    return cell.train_domain not in (POOLED, cell.part)


def _gap(
    panel: Panel, key: Key, better: Callable[[Cell], bool], worse: Callable[[Cell], bool], *, metric: str, class_: str
) -> Gap | None:
    first = panel.over_repeats([key], metric=metric, class_=class_, cells=better)
    second = panel.over_repeats([key], metric=metric, class_=class_, cells=worse)
    return _difference(panel, first, second, metric=metric, tests=1)


def _difference(panel: Panel, first: RepeatValues, second: RepeatValues, *, metric: str, tests: int) -> Gap | None:
    """First less second over the repeats both have, turned so that positive is a loss; None with none in common."""
    repeats = tuple(sorted(set(first.repeats) & set(second.repeats)))
    if not repeats:
        return None
    rows = [found.values[0][[found.repeats.index(repeat) for repeat in repeats]] for found in (first, second)]
    sign = 1.0 if describe(metric).higher_is_better else -1.0
    point, drawn = panel.over_draws(sign * (rows[0] - rows[1]), repeats)
    low, high = interval(drawn)
    wide_low, wide_high = interval(drawn, level=1 - 0.05 / tests)
    error = float(np.nanstd(drawn)) if low is not None else None
    return Gap(
        estimate=point,
        low=low,
        high=high,
        adjusted_low=wide_low,
        adjusted_high=wide_high,
        minimum_detectable=None if error is None else minimum_detectable(error, tests=tests),
        n_patients=len(np.union1d(first.units, second.units)),
        repeats=len(repeats),
    )


def minimum_detectable(
    standard_error: float, *, tests: int = 1, alpha: float = 0.05, power: float = POWER, growth: float = 1.0
) -> float:
    """The smallest true difference found with this power: (z_{1 - alpha/2m} + z_power) standard errors.

    Args:
        standard_error: Of the difference, with the patients there are.
        tests: m, differences tested together.
        alpha: Two-sided error level of all tests together.
        power: Chance of finding it.
        growth: Planned patients over the patients there are; the standard error shrinks with its square root.

    >>> round(minimum_detectable(0.05), 3)
    0.14
    """
    factor = norm.ppf(1 - alpha / (2 * tests)) + norm.ppf(power)
    return float(factor * standard_error / np.sqrt(growth))


def subgroup_gaps(
    panel: Panel,
    key: Key,
    attributes: pd.DataFrame,
    *,
    columns: Sequence[str],
    metric: str,
    class_: str = "",
) -> list[Subgroup]:
    """Compare each group of each attribute with the others, on the headline test parts.

    Args:
        panel: The study's trials.
        key: Strategy and budget.
        attributes: Column `id` and the attribute columns; test images that are not in it count as unknown.
        columns: The attributes to look at, categorical (bin ages and the like first).
        metric: A metric's name.
        class_: One class, or "" for the overall score.

    Returns:
        One entry per group, in the order of `columns` and by name; groups that cannot be scored with their reason.

    Raises:
        ConfigError: If a column is not there.
        DataError: If ids repeat.
    """
    panel.require(key)
    if attributes["id"].duplicated().any():
        raise DataError(
            f"Id `{attributes['id'][attributes['id'].duplicated()].iloc[0]}` stands twice in the attributes; ids must be unique."
        )
    out: list[Subgroup] = []
    for column in columns:
        if column not in attributes.columns or column == "id":
            raise unknown_name("attribute", column, [name for name in attributes.columns if name != "id"])
        known = attributes.dropna(subset=[column])
        lookup = dict(zip(known["id"].astype(str), known[column].astype(str), strict=True))
        out += _one_attribute(panel, key, column, lookup, metric=metric, class_=class_)
    return out


def _one_attribute(
    panel: Panel, key: Key, attribute: str, lookup: dict[str, str], *, metric: str, class_: str
) -> list[Subgroup]:
    """All groups of one attribute among the tested images."""
    cells = [scores for cell, scores in sorted(panel.scores[key].items()) if cell in panel.headline]
    tested = pd.DataFrame(
        {
            "id": np.concatenate([one.ids for one in cells]).astype(str),
            "unit": np.concatenate([one.units for one in cells]),
        }
    )
    tested = tested.drop_duplicates("id")
    tested["group"] = tested["id"].map(lookup)
    unknown = int(tested["group"].isna().sum())
    counts = (
        tested.dropna(subset=["group"])
        .groupby("group", sort=True)
        .agg(patients=("unit", "nunique"), images=("id", "size"))
    )
    if len(counts) > MAX_GROUPS or len(counts) < 2:
        few = f"{len(counts)} groups among the tested images; a comparison needs 2 to {MAX_GROUPS}"
        return [
            Subgroup(
                attribute=attribute,
                group="",
                n_patients=int(tested["unit"].nunique()),
                n_images=len(tested),
                n_unknown=unknown,
                score=None,
                gap=None,
                reason=few,
            )
        ]
    large = [name for name, count in counts["patients"].items() if count >= MIN_GROUP_PATIENTS]
    tests = 1 if len(counts) == 2 else max(len(large), 1)
    out = []
    for name, row in counts.iterrows():
        found = _one_group(panel, key, str(name), lookup, metric=metric, class_=class_, tests=tests)
        reason = None
        if name not in large:
            reason, found = f"{row['patients']} patients; a group needs {MIN_GROUP_PATIENTS}", (None, None)
        elif found[0] is None or found[1] is None:
            reason = "the score is undefined in the group or outside it (one class)"
        out.append(
            Subgroup(
                attribute=attribute,
                group=str(name),
                n_patients=int(row["patients"]),
                n_images=int(row["images"]),
                n_unknown=unknown,
                score=found[0],
                gap=found[1],
                reason=reason,
            )
        )
    return out


def _one_group(
    panel: Panel, key: Key, group: str, lookup: dict[str, str], *, metric: str, class_: str, tests: int
) -> tuple[Estimate | None, Gap | None]:
    def mask(want_group: bool) -> RowChoice:
        def rows(scores: Scores) -> np.ndarray:
            names = [lookup.get(str(one)) for one in scores.ids]
            return np.array([name is not None and (name == group) == want_group for name in names], dtype=bool)

        return rows

    score = estimate(panel, key, metric=metric, class_=class_, subset=mask(True))
    if score.estimate is None:
        return None, None
    others = panel.over_repeats([key], metric=metric, class_=class_, subset=mask(False))
    group_values = panel.over_repeats([key], metric=metric, class_=class_, subset=mask(True))
    return score, _difference(panel, others, group_values, metric=metric, tests=tests)
