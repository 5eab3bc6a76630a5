"""What the report says of synthetic images, measured: the real/synthetic matrix, its gaps, and whether adding them helps.

Like `estimates.py` and `shift.py` a place where the report meets `wazuka.evaluate`. Scores on real test images share the
study's panel and its draws; scores on synthetic ones have panels of their own (`evaluate.synthetic_matrix`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wazuka.evaluate.intervals import Estimate, estimate
from wazuka.evaluate.panel import Key, Panel, Trial
from wazuka.evaluate.synthetic_matrix import AdjustedDifference, adjusted_difference, synthetic_panel
from wazuka.evaluate.weighted_scores import metric as describe
from wazuka.report.run_folder import RunFolder
from wazuka.report.shift import DECIDES_NO_MODEL
from wazuka.report.verdict import Bounds

SCORES = ("accuracy", "balanced_accuracy", "auroc", "sensitivity", "specificity")
"""Besides the study's metric: what kinds of error are made."""
SYNTHESIS_KEYS = ("synthesize", "train_on", "ratio", "split_budget", "classes", "dp")
"""Strategy keys in which a strategy and its counterpart without synthetic images differ."""
ADDING = ("real+synthetic", "synthetic-then-real")
RARE = "rare-only"
AddVerdict = Literal["helps", "hurts", "adds nothing", "not enough evidence"]
ORDER: tuple[AddVerdict, ...] = ("helps", "hurts", "adds nothing", "not enough evidence")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a strategy trains on.

    Attributes:
        train_on: `real`, `synthetic`, `real+synthetic` or `synthetic-then-real`.
        generator: Method whose images it trains on; None for `real`.
        ratio: Synthetic images per real one of a class; None for `real`.
        split_budget: Whether generator and classifier get different patients of the budget.
        rare_only: Whether only the rarest class has synthetic images.
        private: Whether the generator is trained under differential privacy.
    """

    train_on: str
    generator: str | None = None
    ratio: float | None = None
    split_budget: bool = False
    rare_only: bool = False
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """A strategy at a budget, tested on real and on synthetic images.

    Attributes:
        recipe: What it trains on.
        frozen: Whether only the last layer is trained, as in the paper's four tasks.
        real, synthetic: Metric -> estimate; `synthetic` is empty where it was not tested on synthetic images.
        synthetic_images: Distinct synthetic test images, over all repeats.
    """

    strategy: str
    budget: str
    labels: int
    recipe: Recipe
    frozen: bool
    real: Mapping[str, Estimate]
    synthetic: Mapping[str, Estimate]
    synthetic_images: int

    @property
    def tasks(self) -> tuple[int, int] | None:
        """Which of the paper's four tasks the cells are (tested on real, on synthetic images); None for neither.

        Tasks: 1 real to real, 2 synthetic to synthetic, 3 real to synthetic, 4 synthetic to real (arXiv 2405.16286).
        """
        if not self.frozen or self.recipe.rare_only:
            return None
        return {"real": (1, 3), "synthetic": (4, 2)}.get(self.recipe.train_on)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What training on synthetic instead of real images loses on real patients: above 0 is a loss, whatever the metric.

    Attributes:
        loss: In the study's metric; None without an interval.
        accuracy: In accuracy, the paper's own figure.
    """

    strategy: str
    real: str
    budget: str
    labels: int
    loss: Bounds | None
    accuracy: Bounds | None
    n_patients: int
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Added:
    """What synthetic images on top of the real ones change on real patients, paired; above 0 is better.

    Attributes:
        real: The strategy without them, otherwise equal.
        difference, adjusted: With its 95 % interval, and with that adjusted for `comparisons` (Bonferroni).
        comparisons: Ways of adding synthetic images that were looked at with this budget.
    """

    strategy: str
    real: str
    budget: str
    labels: int
    recipe: Recipe
    difference: Bounds | None
    adjusted: Bounds | None
    comparisons: int
    n_patients: int
    repeats: int
    verdict: AddVerdict


@dataclass(frozen=True, kw_only=True)
class Rare:
    """Sensitivity of the rarest class without and with synthetic images of it, on real patients.

    Attributes:
        real: The strategy without them, otherwise equal; the baseline where the study has none.
        class_: The class that the images were made of (in most repeats).
        before: Of the strategy `real`.
        change: Paired, after less before.
    """

    strategy: str
    real: str
    budget: str
    labels: int
    class_: str
    before: Estimate
    after: Estimate
    change: Bounds | None


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """All of it, in the study's order of strategies within each budget, budgets by their labels.

    Attributes:
        alone: Strategies that train on synthetic images and have no counterpart that is otherwise equal.
    """

    matrix: tuple[MatrixRow, ...]
    gaps: tuple[Gap, ...]
    adds: tuple[Added, ...]
    rare: tuple[Rare, ...]
    alone: tuple[str, ...]

    @property
    def budgets(self) -> list[tuple[str, int]]:
        """Budgets with their labels, by these."""
        return list({row.budget: (row.budget, row.labels) for row in self.matrix}.values())

    def verdict(self, budget: str) -> AddVerdict | None:
        """Whether adding synthetic images helps with a budget, over all ways tried; None where none was."""
        found = [one.verdict for one in self.adds if one.budget == budget]
        if not found:
            return None
        if "helps" in found:
            return "helps"
        if "not enough evidence" in found:
            return "not enough evidence"
        return "hurts" if set(found) == {"hurts"} else "adds nothing"


def recipe_of(entry: Mapping[str, Any]) -> Recipe:
    """Read what a strategy of the resolved study file trains on."""
    given = entry.get("synthesize")
    train_on = "real" if given is None else str(entry.get("train_on", "real+synthetic"))
    if given is None or train_on == "real":
        return Recipe(train_on="real", split_budget=bool(given is not None and entry.get("split_budget")))
    return Recipe(
        train_on=train_on,
        generator=str(given["method"] if isinstance(given, Mapping) else given),
        ratio=float(entry.get("ratio", 1)),
        split_budget=bool(entry.get("split_budget", False)),
        rare_only=entry.get("classes") == RARE,
        private=entry.get("dp") is not None,
    )


def counterpart(strategies: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """The strategy that trains on real images and is equal to `name` in all else; None if the study has none.

    One that learns from the whole budget comes first, even for a strategy that splits it: both pay for the same labels.
    """
    own = strategies[name]
    equal = [one for one, entry in strategies.items() if _rest(entry) == _rest(own)]
    real = [one for one in equal if recipe_of(strategies[one]).train_on == "real"]
    whole = [one for one in real if not recipe_of(strategies[one]).split_budget]
    if whole:
        return whole[0]
    return real[0] if real and recipe_of(own).split_budget else None


def _rest(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in entry.items() if key not in (*DECIDES_NO_MODEL, *SYNTHESIS_KEYS)}


def judge_addition(adjusted: Bounds | None, margin: float) -> AddVerdict:
    """Judge a difference (above 0 is better) by its adjusted bounds, as strictly against adding as for it."""
    if adjusted is None:
        return "not enough evidence"
    if adjusted.low > 0 and adjusted.estimate >= margin:
        return "helps"
    if adjusted.high < 0 and adjusted.estimate <= -margin:
        return "hurts"
    return "adds nothing" if adjusted.high < margin else "not enough evidence"


def measure_synthetic(run: RunFolder, panel: Panel, trials: Sequence[Trial]) -> Synthetic | None:
    """Measure everything on synthetic images that the run can support; None for a study without a generator."""
    entries: dict[str, dict[str, Any]] = {name: entry or {} for name, entry in run.study["strategies"].items()}
    if all(entry.get("synthesize") is None for entry in entries.values()):
        return None
    keys = [key for key in panel.keys if key.local_labels == 0 and key.strategy in entries]
    labels = {key: round(panel.mean_labels(key)) for key in keys}
    size = {budget: max(labels[key] for key in keys if key.budget == budget) for budget in {key.budget for key in keys}}
    keys.sort(key=lambda key: (size[key.budget], key.budget, run.strategies.index(key.strategy)))
    recipes = {name: recipe_of(entry) for name, entry in entries.items()}
    partners = {name: counterpart(entries, name) for name, recipe in recipes.items() if recipe.train_on != "real"}
    pairs = [
        (key, Key(other, key.budget))
        for key in keys
        if (other := partners.get(key.strategy)) is not None and Key(other, key.budget) in labels
    ]
    adding = [pair for pair in pairs if recipes[pair[0].strategy].train_on in ADDING]
    ways = Counter(key.budget for key, _ in adding)
    return Synthetic(
        matrix=tuple(_matrix_row(run, panel, key, labels[key], entries[key.strategy], trials) for key in keys),
        gaps=tuple(
            _gap(run, panel, key, other, labels[key])
            for key, other in pairs
            if recipes[key.strategy].train_on == "synthetic"
        ),
        adds=tuple(
            _added(run, panel, key, other, labels[key], recipes[key.strategy], ways[key.budget])
            for key, other in adding
        ),
        rare=tuple(
            found
            for key in keys
            if recipes[key.strategy].rare_only
            and (before := Key(partners[key.strategy] or run.baseline, key.budget)) in labels
            and (found := _rare(run, panel, key, before, labels[key])) is not None
        ),
        alone=tuple(name for name, other in partners.items() if other is None),
    )


def _matrix_row(
    run: RunFolder, panel: Panel, key: Key, labels: int, entry: Mapping[str, Any], trials: Sequence[Trial]
) -> MatrixRow:
    metrics = dict.fromkeys((run.metric, *SCORES))
    own = [one for one in trials if (one.strategy, one.budget, one.local_labels) == key]
    other = synthetic_panel(
        own, classes=panel.classes, positive=panel.positive, draws=panel.weights.shape[1] - 1, seed=panel.seed
    )
    adapt = entry.get("adapt") or {}
    return MatrixRow(
        strategy=key.strategy,
        budget=key.budget,
        labels=labels,
        recipe=recipe_of(entry),
        frozen=adapt.get("method") == "linear-probe" or adapt.get("train") == "head",
        real={name: estimate(panel, key, metric=name) for name in metrics},
        synthetic={} if other is None else {name: estimate(other, key, metric=name) for name in metrics},
        synthetic_images=0 if other is None else len(other.patients),
    )


def _gap(run: RunFolder, panel: Panel, key: Key, real: Key, labels: int) -> Gap:
    found, accuracy = (adjusted_difference(panel, real, key, metric=metric) for metric in (run.metric, "accuracy"))
    return Gap(
        strategy=key.strategy,
        real=real.strategy,
        budget=key.budget,
        labels=labels,
        loss=_turned(found, run.metric),
        accuracy=_turned(accuracy, "accuracy"),
        n_patients=0 if found is None else found.n_patients,
        repeats=0 if found is None else found.repeats,
    )


def _added(run: RunFolder, panel: Panel, key: Key, real: Key, labels: int, recipe: Recipe, ways: int) -> Added:
    found = adjusted_difference(panel, key, real, metric=run.metric, comparisons=ways)
    adjusted = _turned(found, run.metric, adjusted=True)
    return Added(
        strategy=key.strategy,
        real=real.strategy,
        budget=key.budget,
        labels=labels,
        recipe=recipe,
        difference=_turned(found, run.metric),
        adjusted=adjusted,
        comparisons=ways,
        n_patients=0 if found is None else found.n_patients,
        repeats=0 if found is None else found.repeats,
        verdict=judge_addition(adjusted, run.margin),
    )


def _rare(run: RunFolder, panel: Panel, key: Key, real: Key, labels: int) -> Rare | None:
    """The class that has images in the plan of the trials' synthetic steps; None where no plan says so."""
    planned = {str(one.get("id") or f"{one['kind']}/{one['key']}"): one for one in run.plan.get("steps", [])}
    classes: Counter[str] = Counter()
    for trial in run.trials_of(key.strategy, key.budget):
        step = planned.get(str(trial.record.get("synthetic_test")))
        wanted = (step or {}).get("args", {}).get("train") or []
        classes.update(name for name, count in zip(panel.classes, wanted, strict=False) if count)
    if not classes:
        return None
    class_ = classes.most_common(1)[0][0]
    found = adjusted_difference(panel, key, real, metric="sensitivity", class_=class_)
    return Rare(
        strategy=key.strategy,
        real=real.strategy,
        budget=key.budget,
        labels=labels,
        class_=class_,
        before=estimate(panel, real, metric="sensitivity", class_=class_),
        after=estimate(panel, key, metric="sensitivity", class_=class_),
        change=_turned(found, "sensitivity"),
    )


def _turned(found: AdjustedDifference | None, metric: str, *, adjusted: bool = False) -> Bounds | None:
    """Turn a difference so that a better first side is above 0; None without an interval."""
    if found is None:
        return None
    low, high = (found.adjusted_low, found.adjusted_high) if adjusted else (found.low, found.high)
    if low is None or high is None:
        return None
    if describe(metric).higher_is_better:
        return Bounds(found.estimate, low, high)
    return Bounds(-found.estimate, -high, -low)
