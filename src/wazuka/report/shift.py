"""What the report says of domains and label scaling, measured: matrices, local labels, remedies, shares of a full score.

Like `estimates.py` a place where the report meets `wazuka.evaluate`; all of it shares one panel's draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wazuka.core.errors import DataError
from wazuka.evaluate.comparisons import paired_difference
from wazuka.evaluate.cross_domain import CrossDomain, cross_domain
from wazuka.evaluate.domains import Gap
from wazuka.evaluate.intervals import Estimate
from wazuka.evaluate.label_scaling import LabelScaling, label_scaling
from wazuka.evaluate.local_labels import LocalLabels, local_labels
from wazuka.evaluate.panel import POOLED, Cell, Key, Panel
from wazuka.evaluate.weighted_scores import metric as describe
from wazuka.report.run_folder import RunFolder
from wazuka.report.verdict import Bounds

DECIDES_NO_MODEL = ("budgets", "repeats", "local_labels")
"""Strategy keys in which the two sides of an ablation may differ: they say how often and where, not what is trained."""

NEEDS_DOMAINS = "domain-balanced"
"""The remedy that has nothing to do where a model is trained on one domain."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A strategy's scores by train and test domain, at its largest budget."""

    strategy: str
    budget: str
    labels: int
    found: CrossDomain


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Two strategies that are equal in all but one remedy: with it less without it, turned so that above 0 is better.

    Attributes:
        remedy: As in the study file: an entry of `remedies`, or a value of `image: {stain: ...}`.
        with_it, without_it: The strategies.
        budget, labels: The largest budget that both have.
        local_labels: 0, but for balanced domains in each-to-each studies the largest number that both have: without
            labels of a second domain there is nothing to balance.
        overall: On all tested parts; None without a repeat in common or without an interval.
        inside, outside: Where models are tested on the domain they were trained on, and on others.
        n_patients, repeats: In common, overall.
    """

    remedy: str
    with_it: str
    without_it: str
    budget: str
    labels: int
    local_labels: int
    overall: Bounds | None
    inside: Bounds | None
    outside: Bounds | None
    n_patients: int
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Shift:
    """All of it.

    Attributes:
        rule: `leave-one-out`, `each-to-each`, or None for pooled tests.
        matrices: One per strategy, in the study's order; empty with fewer than two tested domains.
        local: Per strategy, budget and target.
        ablations: In the study's order.
        scaling: Per strategy: against its own full data, and against the baseline's (absent for the baseline itself).
    """

    rule: str | None
    matrices: tuple[Matrix, ...]
    local: tuple[LocalLabels, ...]
    ablations: tuple[Ablation, ...]
    scaling: tuple[tuple[LabelScaling, LabelScaling | None], ...]


def measure_shift(run: RunFolder, panel: Panel) -> Shift:
    """Measure everything on domains and label scaling that the run can support."""
    budgets: dict[str, list[Key]] = {}
    for key in panel.keys:
        if key.local_labels == 0 and key.strategy in run.strategies:
            budgets.setdefault(key.strategy, []).append(key)
    budgets = {name: budgets[name] for name in run.strategies if name in budgets}
    return Shift(
        rule=(run.study.get("test") or {}).get("domain"),
        matrices=_matrices(run, panel, [keys[-1] for keys in budgets.values()]),
        local=tuple(
            one
            for keys in budgets.values()
            for key in keys
            for one in local_labels(panel, key.strategy, key.budget, metric=run.metric, margin=run.margin)
        ),
        ablations=tuple(
            found for pair in remedy_pairs(run.study["strategies"]) if (found := _ablation(run, panel, budgets, *pair))
        ),
        scaling=_scaling(run, panel, budgets),
    )


def _matrices(run: RunFolder, panel: Panel, keys: list[Key]) -> tuple[Matrix, ...]:
    found = []
    for key in keys:
        one = cross_domain(panel, key, metric=run.metric)
        if len(one.tested) > 1 and one.cells:
            labels = round(panel.mean_labels(key))
            found.append(Matrix(strategy=key.strategy, budget=key.budget, labels=labels, found=one))
    return tuple(found)


def _scaling(
    run: RunFolder, panel: Panel, budgets: Mapping[str, list[Key]]
) -> tuple[tuple[LabelScaling, LabelScaling | None], ...]:
    """Of strategies with two budgets or more; nothing where lower is better."""
    if not describe(run.metric).higher_is_better:
        return ()

    def scale(name: str, reference: str | None) -> LabelScaling | None:
        try:
            return label_scaling(panel, name, metric=run.metric, reference=reference)
        except DataError:  # no score in common with the full data, or that is no better than nothing: no ratio
            return None

    found = []
    for name, keys in budgets.items():
        own = scale(name, None) if len(keys) > 1 else None
        if own is not None:
            found.append((own, scale(name, run.baseline) if name != run.baseline and run.baseline in budgets else None))
    return tuple(found)


def remedies_of(entry: Mapping[str, Any]) -> frozenset[str]:
    """The remedies of a strategy of the study file, stain normalization among them."""
    stain = (entry.get("image") or {}).get("stain") or "none"
    return frozenset(str(one) for one in entry.get("remedies") or ()) | ({str(stain)} - {"none"})


def remedy_pairs(strategies: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Pairs of resolved strategies that are equal in all but one remedy.

    Args:
        strategies: As in the resolved study file.

    Returns:
        (remedy, strategy with it, strategy without it), in the file's order of the strategies with it.
    """
    rest = {name: _without_remedies(entry) for name, entry in strategies.items()}
    own = {name: remedies_of(entry) for name, entry in strategies.items()}
    return [
        (next(iter(own[name] - own[other])), name, other)
        for name in strategies
        for other in strategies
        if len(own[name] - own[other]) == 1 and not own[other] - own[name] and rest[name] == rest[other]
    ]


def _without_remedies(entry: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: one for key, one in entry.items() if key not in (*DECIDES_NO_MODEL, "remedies", "image")}
    image = {key: one for key, one in (entry.get("image") or {}).items() if key != "stain"}
    return plain | {"image": image}


def _ablation(
    run: RunFolder, panel: Panel, budgets: Mapping[str, list[Key]], remedy: str, with_it: str, without_it: str
) -> Ablation | None:
    """The pair at the largest budget that both have; None with none in common."""
    common = {key.budget for key in budgets.get(without_it, [])}
    keys = [key for key in budgets.get(with_it, []) if key.budget in common]
    if not keys:
        return None
    first, second = keys[-1], Key(without_it, keys[-1].budget)
    if remedy == NEEDS_DOMAINS and (run.study.get("test") or {}).get("domain") == "each-to-each":
        numbers = [one.local_labels for one in panel.scores if one[:2] == first[:2] and one.local_labels > 0]
        numbers = [one for one in numbers if second._replace(local_labels=one) in panel.scores]
        if not numbers:
            return None
        first, second = (one._replace(local_labels=max(numbers)) for one in (first, second))
    pooled = any(cell.part == POOLED for cell in panel.scores[first])

    def everything(cell: Cell) -> bool:
        return cell.part == POOLED if pooled else cell.part != POOLED

    def inside(cell: Cell) -> bool:
        return cell.train_domain == cell.part != POOLED

    def outside(cell: Cell) -> bool:
        return cell.train_domain not in (POOLED, cell.part)

    found = [
        paired_difference(panel, first, second, metric=run.metric, cells=choose)
        for choose in (everything, inside, outside)
    ]
    higher = describe(run.metric).higher_is_better
    bounds = [None if one is None else _turned(one.estimate, one.low, one.high, higher=higher) for one in found]
    return Ablation(
        remedy=remedy,
        with_it=with_it,
        without_it=without_it,
        budget=first.budget,
        labels=round(panel.mean_labels(keys[-1])),
        local_labels=first.local_labels,
        overall=bounds[0],
        inside=bounds[1],
        outside=bounds[2],
        n_patients=0 if found[0] is None else found[0].n_patients,
        repeats=0 if found[0] is None else found[0].repeats,
    )


def bounds_of(found: Estimate | None) -> Bounds | None:
    """An estimate with its interval; None where it has none."""
    if found is None or found.estimate is None or found.low is None or found.high is None:
        return None
    return Bounds(found.estimate, found.low, found.high)


def gap_of(found: Gap | None) -> Bounds | None:
    """A gap with its adjusted interval; None where it has none."""
    if found is None or found.adjusted_low is None or found.adjusted_high is None:
        return None
    return Bounds(found.estimate, found.adjusted_low, found.adjusted_high)


def _turned(value: float, low: float | None, high: float | None, *, higher: bool) -> Bounds | None:
    if low is None or high is None:
        return None
    return Bounds(value, low, high) if higher else Bounds(-value, -high, -low)
