"""From a run's predictions to the figures of the report; with `shift.py` the place where it meets `wazuka.evaluate`.

Differences are turned so that above 0 is better, whatever the metric's direction; their bounds are the Holm-adjusted
ones. What cannot be estimated is None, never a stand-in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.core.hashing import derive_seed
from wazuka.core.records import read_table
from wazuka.evaluate.comparisons import Comparison, compare
from wazuka.evaluate.domains import domain_summary, subgroup_gaps
from wazuka.evaluate.intervals import estimate
from wazuka.evaluate.learning_curve import Curve, LabelsNeeded, LabelsSaved, curve, labels_needed, labels_saved
from wazuka.evaluate.panel import Key, Panel, Trial
from wazuka.evaluate.resampling import interval
from wazuka.evaluate.weighted_scores import metric as describe
from wazuka.report.run_folder import RunFolder
from wazuka.report.shift import Shift, bounds_of, gap_of, measure_shift
from wazuka.report.synthetic import Synthetic, measure_synthetic
from wazuka.report.texts import Reason
from wazuka.report.verdict import Bounds, Larger

DRAWS, SHORT_DRAWS = 2000, 1000
MANY_TRIALS = 200
"""Beyond this many trials the intervals come from `SHORT_DRAWS` draws, so that a report stays a matter of seconds."""
PROJECTION = 4
"""Labels needed for a target are projected up to this many times the largest budget, and marked as projected."""
SUBGROUPS = "attributes.parquet"
"""In the run folder, where the study kept them: `id` and one column per categorical attribute of the test images."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """A number of labels with its interval; None is beyond what was looked at.

    Attributes:
        more_than: What None stands for.
        at_most: The smallest budget was enough: the true number may be smaller.
        projected: The estimate lies beyond the largest budget.
    """

    estimate: int | None
    low: int | None
    high: int | None
    more_than: int
    at_most: bool = False
    projected: bool = False

    def reason(self) -> Reason:
        """The count in words."""
        point = self._number(self.estimate)
        if self.at_most:
            point = Reason("count.at most", {"value": self.estimate or 0})
        if self.low == self.high == self.estimate and (self.at_most or self.estimate is None):
            return point
        ends = {"point": point, "low": self._number(self.low), "high": self._number(self.high)}
        return Reason("count.projected" if self.projected else "count.interval", ends)

    def _number(self, value: int | None) -> Reason:
        if value is None:
            return Reason("count.more than", {"value": self.more_than})
        return Reason("count.number", {"value": value})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is known about one strategy at one budget.

    Attributes:
        labels: Labels used (the mean over repeats, rounded).
        score: In the study's metric; None where it is undefined.
        undefined: Test parts left out because they have one class.
        redrawn: Bootstrap draws with one class that were drawn again.
        sensitivity, specificity: At the chosen threshold (two classes).
        difference: Against the baseline at the same budget, Holm-adjusted bounds.
        p, p_holm: Of the permutation test of that difference.
        larger: Against the baseline at each larger budget.
        confusion: Mean images per repeat, true class by predicted class, in the headline test parts.
        labels_needed: For the study's target.
        labels_saved: Labels that the baseline needs more for the same score.
        domain_scores, domain_differences: Within each tested domain; the differences not corrected.
        domain_gap: Mean of the other domains less the hardest one (or in-domain less out-of-domain, if that is larger).
        subgroup_gap: Largest loss in a subgroup, Bonferroni-adjusted bounds; None where no subgroup could be scored.
    """

    strategy: str
    budget: str
    local_labels: int = 0
    labels: int
    repeats: int
    n_patients: int
    n_images: int
    score: Bounds | None
    undefined: int = 0
    redrawn: int = 0
    sensitivity: Bounds | None = None
    specificity: Bounds | None = None
    difference: Bounds | None = None
    p: float | None = None
    p_holm: float | None = None
    larger: tuple[Larger, ...] = ()
    confusion: tuple[tuple[float, ...], ...] = ()
    labels_needed: Count | None = None
    labels_saved: Count | None = None
    domain_scores: dict[str, Bounds] = field(default_factory=dict)
    domain_differences: dict[str, Bounds] = field(default_factory=dict)
    domain_gap: Bounds | None = None
    subgroup_gap: Bounds | None = None
    subgroup: str | None = None
    """Name of the subgroup of `subgroup_gap`."""


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """All cells of a run, strategies in the study's order and budgets by their labels; no local labels in them."""

    cells: dict[tuple[str, str], Cell]
    metric: str
    higher_is_better: bool
    domains: tuple[str, ...]
    soonest: tuple[str, Count] | None
    """The strategy that reaches the target with the fewest labels, and how many; None where none is expected to."""
    shift: Shift
    """Domains, local labels, remedies and label scaling."""
    synthetic: Synthetic | None
    """The real/synthetic matrix and what follows from it; None for a study without a generator."""


def measure(run: RunFolder) -> Estimates:
    """Estimate everything that the report says of a run.

    Raises:
        DataError: If trials of one repeat do not share their test images, or a table does not follow its schema.
        ConfigError: If the study's metric is unknown.
    """
    trials = read_trials(run)
    panel = open_panel(run, trials)
    about = describe(run.metric)
    keys = [key for key in panel.keys if key.strategy in run.strategies and key.local_labels == 0]
    keys.sort(key=lambda key: (run.strategies.index(key.strategy), panel.mean_labels(key)))
    compared = compare(panel, metric=run.metric, baseline=run.baseline) if _has_baseline(run, keys) else []
    needed, saved = _read_off(run, panel, keys)
    groups = _attributes(run)
    cells = {}
    for key in keys:
        own = [one for one in compared if (one.strategy, one.budget, one.local_labels) == key]
        cells[key.strategy, key.budget] = _cell(run, panel, key, own, needed.get(key), saved.get(key), groups)
    domains = sorted({name for cell in cells.values() for name in cell.domain_scores})
    if not domains:
        domains = sorted({str(one) for trial in run.trials for one in trial.record.get("domains_tested", [])})
    return Estimates(
        cells=cells,
        metric=run.metric,
        higher_is_better=about.higher_is_better,
        domains=tuple(domains),
        soonest=_soonest(needed),
        shift=measure_shift(run, panel),
        synthetic=measure_synthetic(run, panel, trials),
    )


def read_trials(run: RunFolder) -> list[Trial]:
    """Read the predictions of every finished trial."""
    return [
        Trial(
            strategy=one.strategy,
            budget=one.budget,
            labels=int(one.record["labels"]),
            repeat=int(one.record["repeat"]),
            train_domain=str(one.record["train_domain"]),
            local_labels=one.local_labels,
            predictions=one.predictions(),
        )
        for one in run.trials
    ]


def open_panel(run: RunFolder, trials: Sequence[Trial]) -> Panel:
    """Put all trials into one panel."""
    draws = DRAWS if len(trials) <= MANY_TRIALS else SHORT_DRAWS
    seed = derive_seed(int(run.study.get("seed", 0)), "report")
    return Panel(trials, classes=run.classes, positive=run.positive, draws=draws, seed=seed)


def _has_baseline(run: RunFolder, keys: list[Key]) -> bool:
    """Whether there is something to compare: the baseline may have failed altogether."""
    names = {key.strategy for key in keys}
    return run.baseline in names and len(names) > 1


def _cell(
    run: RunFolder,
    panel: Panel,
    key: Key,
    compared: list[Comparison],
    needed: Count | None,
    saved: Count | None,
    groups: pd.DataFrame | None,
) -> Cell:
    found = estimate(panel, key, metric=run.metric)
    two = len(run.classes) == 2
    same = next((one.difference for one in compared if one.against_budget == key.budget), None)
    bounds = None if same is None else _turned(run, same.estimate, same.adjusted_low, same.adjusted_high)
    scores, gap = _domains(run, panel, key)
    subgroup, subgroup_gap = _subgroup(run, panel, key, groups)
    base = Key(run.baseline, key.budget, key.local_labels)
    compare_domains = key.strategy != run.baseline and base in panel.scores
    return Cell(
        strategy=key.strategy,
        budget=key.budget,
        local_labels=key.local_labels,
        labels=round(panel.mean_labels(key)),
        repeats=found.repeats,
        n_patients=found.n_patients,
        n_images=_images(panel, key),
        score=bounds_of(found),
        undefined=found.undefined,
        redrawn=found.redrawn,
        sensitivity=bounds_of(estimate(panel, key, metric="sensitivity")) if two else None,
        specificity=bounds_of(estimate(panel, key, metric="specificity")) if two else None,
        difference=bounds,
        p=None if same is None else same.p,
        p_holm=None if same is None else same.p_holm,
        larger=_larger(run, panel, key, compared),
        confusion=_confusion(panel, key),
        labels_needed=needed,
        labels_saved=saved,
        domain_scores=scores,
        domain_differences=_domain_differences(run, panel, key, base, list(scores)) if compare_domains else {},
        domain_gap=gap,
        subgroup_gap=subgroup_gap,
        subgroup=subgroup,
    )


def _turned(run: RunFolder, value: float, low: float | None, high: float | None) -> Bounds | None:
    """Turn a difference so that above 0 is better; None without an interval."""
    if low is None or high is None:
        return None
    return Bounds(value, low, high) if describe(run.metric).higher_is_better else Bounds(-value, -high, -low)


def _images(panel: Panel, key: Key) -> int:
    """Distinct test images in the headline parts."""
    return len({name for cell, one in panel.scores[key].items() if cell in panel.headline for name in one.ids})


def _confusion(panel: Panel, key: Key) -> tuple[tuple[float, ...], ...]:
    """Mean confusion matrix per repeat."""
    k = len(panel.classes)
    cells = {cell: one for cell, one in panel.scores[key].items() if cell in panel.headline}
    total = np.zeros(k * k)
    for one in cells.values():
        total += np.bincount(one.labels * k + one.predicted, minlength=k * k)
    repeats = max(len({cell.repeat for cell in cells}), 1)
    return tuple(tuple(float(one) for one in row) for row in (total / repeats).reshape(k, k))


def _larger(run: RunFolder, panel: Panel, key: Key, compared: list[Comparison]) -> tuple[Larger, ...]:
    """Comparisons with the baseline at larger budgets, by their labels."""
    found = []
    for one in compared:
        if one.against_budget == key.budget or one.difference is None:
            continue
        bounds = _turned(run, one.difference.estimate, one.difference.adjusted_low, one.difference.adjusted_high)
        if bounds is not None:
            labels = round(panel.mean_labels(Key(one.baseline, one.against_budget, one.local_labels)))
            found.append(Larger(one.against_budget, labels, bounds))
    return tuple(sorted(found, key=lambda one: one.labels))


def _read_off(run: RunFolder, panel: Panel, keys: list[Key]) -> tuple[dict[Key, Count], dict[Key, Count]]:
    """Labels needed for the target (one answer per strategy, the same at each budget) and labels saved (per budget)."""
    curves: dict[str, Curve] = {}
    for name in dict.fromkeys(key.strategy for key in keys):
        try:
            curves[name] = curve(panel, name, metric=run.metric)
        except DataError:  # no budget has a defined score: there is no curve, and its rows say so already
            continue
    needed: dict[Key, Count] = {}
    saved: dict[Key, Count] = {}
    for name, one in curves.items():
        if run.target is not None:
            most = int(PROJECTION * one.labels[-1])
            count = _needed(labels_needed(one, run.target, max_labels=most))
            needed |= {Key(name, budget): count for budget in one.budgets}
        base = curves.get(run.baseline)
        if name == run.baseline or base is None:
            continue
        for budget in one.budgets:
            saved[Key(name, budget)] = _saved(labels_saved(one, base, budget=budget))
    return needed, saved


def _needed(found: LabelsNeeded) -> Count:
    return Count(
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        more_than=found.more_than,
        at_most=found.already,
        projected=found.extrapolated,
    )


def _saved(found: LabelsSaved) -> Count:
    return Count(
        estimate=found.estimate, low=found.low, high=found.high, more_than=found.more_than, at_most=found.at_most
    )


def _soonest(needed: dict[Key, Count]) -> tuple[str, Count] | None:
    reached = [(one.estimate, key.strategy, one) for key, one in needed.items() if one.estimate is not None]
    if not reached:
        return None
    _, name, count = min(reached, key=lambda one: (one[0], one[1]))
    return name, count


def _domains(run: RunFolder, panel: Panel, key: Key) -> tuple[dict[str, Bounds], Bounds | None]:
    """Scores within each domain, and the larger of the two gaps there may be."""
    found = domain_summary(panel, key, metric=run.metric)
    scores = {name: bounds for name, one in found.scores.items() if (bounds := bounds_of(one)) is not None}
    gaps = [bounds for one in (found.hardest_gap, found.gap) if (bounds := gap_of(one)) is not None]
    return scores, max(gaps, key=lambda one: one.high) if gaps else None


def _domain_differences(run: RunFolder, panel: Panel, key: Key, base: Key, names: list[str]) -> dict[str, Bounds]:
    """Paired differences within each domain, 95 % intervals, not corrected."""
    out = {}
    for name in names:
        found = panel.over_repeats(
            [key, base],
            metric=run.metric,
            cells=lambda cell, name=name: cell.part == name and cell.train_domain != name,  # type: ignore[misc]
        )
        if not found.repeats:
            continue
        point, drawn = panel.over_draws(found.values[0] - found.values[1], found.repeats)
        bounds = _turned(run, point, *interval(drawn))
        if bounds is not None:
            out[name] = bounds
    return out


def _attributes(run: RunFolder) -> pd.DataFrame | None:
    """Attributes of the test images, where the run folder has them."""
    path = run.path / SUBGROUPS
    return read_table(path) if path.is_file() else None


def _subgroup(run: RunFolder, panel: Panel, key: Key, groups: pd.DataFrame | None) -> tuple[str | None, Bounds | None]:
    """The subgroup with the largest upper bound of its loss; (None, None) where none could be scored."""
    if groups is None:
        return None, None
    columns = [name for name in groups.columns if name != "id"]
    found = subgroup_gaps(panel, key, groups, columns=columns, metric=run.metric)
    scored = [(one, bounds) for one in found if (bounds := gap_of(one.gap)) is not None]
    if not scored:
        return None, None
    worst, bounds = max(scored, key=lambda pair: pair[1].high)
    return f"{worst.attribute}: {worst.group}", bounds
