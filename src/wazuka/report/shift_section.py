"""The report's parts on label scaling, the cross-domain matrix, local labels and remedies, in words and figures."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from wazuka.evaluate.cross_domain import OTHERS
from wazuka.evaluate.label_scaling import LabelScaling
from wazuka.evaluate.learning_curve import LabelsNeeded
from wazuka.evaluate.local_labels import LocalLabels
from wazuka.report import figures, shift_figures
from wazuka.report.estimates import Count
from wazuka.report.judgement import Judgement
from wazuka.report.shift import Matrix, bounds_of, gap_of
from wazuka.report.texts import Reason
from wazuka.report.verdict import Bounds, name_budget
from wazuka.report.words import DASH, Words, minus

MOST_MAPS = 8
"""Most heat maps on a page; the table has all strategies."""


def scaling(judgement: Judgement, words: Words) -> dict[str, Any] | None:
    """Shares of the full-data score by share of the labels; None with a single budget or an error as the metric."""
    run, found = judgement.run, judgement.estimates.shift.scaling
    if not found:
        return None
    chance = found[0][0].chance
    values = {"name": run.baseline, "metric": words.metric(run.metric)}
    intro = words("scaling.intro plain", values)
    if chance is not None:
        intro = words("scaling.intro", values | {"chance": chance, "useless": chance / 0.9})
    rows, levels = [], []
    for own, other in found:
        against = {} if other is None else {one.budget: one.ratio for one in other.points}
        for number, point in enumerate(own.points):
            is_reference = point.budget == own.reference_budget
            rows.append(
                {
                    "first": number == 0,
                    "is_baseline": own.strategy == run.baseline,
                    "strategy": words.named(run, own.strategy),
                    "labels": f"{round(point.labels):,}",
                    "share": _percent(point.share, words),
                    "own": words("percent", {"value": 1.0}) if is_reference else words.share(point.ratio),
                    "above": words("percent", {"value": 1.0})
                    if is_reference and point.above_chance is not None
                    else words.share(point.above_chance),
                    "baseline": words.share(against.get(point.budget)),
                }
            )
        for number, one in enumerate(one for one in (own, other) if one is not None):
            levels.append({"first": number == 0, "strategy": words.named(run, own.strategy)} | _levels(one, words))
    return {
        "intro": intro,
        "sentences": [_sentence(own, judgement, words) for own, _ in found],
        "has_chance": chance is not None,
        "has_baseline": any(other is not None for _, other in found),
        "rows": rows,
        "titles": [words("scaling.level", {"level": one.level}) for one in found[0][0].reached],
        "levels": levels,
    }


def _percent(value: float, words: Words) -> str:
    return words("percent", {"value": value}) if value >= 0.0995 else f"{value:.1%}"


def _sentence(own: LabelScaling, judgement: Judgement, words: Words) -> str:
    """What is shown with less than the full data; the budgets themselves, not the curve."""
    common = {
        "name": words.named(judgement.run, own.strategy),
        "metric": words.metric(own.metric),
        "labels": round(own.reference_labels),
    }
    parts = [
        Reason("scaling.part", {"level": one.level, "share": one.share, "labels": round(one.labels or 0)})
        for one in own.reached
        if one.budget is not None and one.budget != own.reference_budget
    ]
    if not parts:
        return words("scaling.sentence none", common | {"level": own.reached[0].level})
    return words("scaling.sentence", common | {"parts": parts})


def _levels(one: LabelScaling, words: Words) -> dict[str, Any]:
    key = "scaling.itself" if one.reference == one.strategy else "scaling.of"
    cells = []
    for reached in one.reached:
        shown = words("scaling.not shown")
        if one.strategy == one.reference and reached.budget == one.reference_budget:
            shown = words("scaling.all")
        elif reached.labels is not None:
            shown = words("scaling.shown", {"labels": round(reached.labels)})
        cells.append({"shown": shown, "read": words("scaling.read", {"count": words.count(_count(reached.needed))})})
    return {"reference": words(key, {"name": one.reference, "labels": round(one.reference_labels)}), "cells": cells}


def _count(found: LabelsNeeded) -> Count:
    return Count(
        estimate=found.estimate, low=found.low, high=found.high, more_than=found.more_than, at_most=found.already
    )


def matrix(judgement: Judgement, words: Words) -> dict[str, Any] | None:
    """Heat maps, their figures and the gaps; None for pooled tests and with fewer than two tested domains."""
    run, shift = judgement.run, judgement.estimates.shift
    if shift.rule is None or not shift.matrices:
        return None
    metric, higher = words.metric(run.metric), judgement.estimates.higher_is_better
    span = shift_figures.color_range(
        [one.estimate or 0.0 for each in shift.matrices for one in each.found.cells.values()]
    )
    tested = sorted({name for one in shift.matrices for name in one.found.tested})
    maps: list[Markup] = []
    rows, gaps = [], []
    for one in shift.matrices:
        name = words.named(run, one.strategy)
        texts = {
            "title": words("matrix.heat", {"name": name, "metric": metric}),
            "description": words("matrix.description", {"metric": metric}),
            "trained": words("matrix.trained"),
            "tested": words("matrix.tested"),
            "better": words("matrix.better"),
        }
        if len(maps) < MOST_MAPS:
            maps.append(_heat_map(one, words, span=span, higher=higher, texts=texts))
        for number, trained in enumerate(one.found.trained):
            scores = [one.found.cells.get((trained, other)) for other in tested]
            rows.append(
                {
                    "first": number == 0,
                    "is_baseline": one.strategy == run.baseline,
                    "strategy": name,
                    "trained": _trained(trained, words),
                    "cells": [words.interval(bounds_of(score)) for score in scores],
                }
            )
        gaps.append(_gaps(one, name, judgement, words))
    out = shift.rule == "leave-one-out"
    return {
        "title": words("matrix.title out" if out else "matrix.title"),
        "intro": words("matrix.intro out" if out else "matrix.intro"),
        "maps": maps,
        "tested": tested,
        "rows": [] if out else rows,  # the table per domain has the one row of each strategy
        "gaps": gaps,
        "has_gap": not out,
    }


def _trained(name: str, words: Words) -> str:
    return words("matrix.others") if name == OTHERS else name


def _heat_map(one: Matrix, words: Words, *, span: tuple[float, float], higher: bool, texts: dict[str, str]) -> Markup:
    found = one.found
    cells = []
    for (trained, tested), score in found.cells.items():
        ends = ""
        if score.low is not None and score.high is not None:
            ends = minus(f"{score.low:.2f}–{score.high:.2f}")
        place = found.trained.index(trained), found.tested.index(tested)
        cells.append(shift_figures.HeatCell(*place, float(score.estimate or 0.0), ends))
    diagonal = [(row, found.tested.index(name)) for row, name in enumerate(found.trained) if name in found.tested]
    return shift_figures.heat_map(
        cells,
        [_trained(name, words) for name in found.trained],
        found.tested,
        span=span,
        higher_is_better=higher,
        diagonal=diagonal,
        texts=texts,
    )


def _gaps(one: Matrix, name: str, judgement: Judgement, words: Words) -> dict[str, Any]:
    summary = one.found.summary
    detectable = None if summary.gap is None else summary.gap.minimum_detectable
    hardest = DASH
    if summary.hardest is not None:
        values = {"name": summary.hardest, "gap": words.signed(gap_of(summary.hardest_gap))}
        hardest = words("matrix.hardest value", values)
    return {
        "is_baseline": one.strategy == judgement.run.baseline,
        "strategy": name,
        "in_domain": words.interval(bounds_of(summary.in_domain)),
        "out_of_domain": words.interval(bounds_of(summary.out_of_domain)),
        "gap": words.signed(gap_of(summary.gap)),
        "detectable": DASH if detectable is None else f"{detectable:.3f}",
        "hardest": hardest,
    }


def local(judgement: Judgement, words: Words, looks: dict[str, figures.Style]) -> dict[str, Any] | None:
    """Scores over local labels and the numbers that close the gap, at each strategy's largest budget with any."""
    run, found = judgement.run, _largest(judgement)
    if not found:
        return None
    metric, numbers = words.metric(run.metric), sorted({p.local_labels for one in found for p in one.points})
    targets = sorted({one.target for one in found if one.target})
    scores = [_score(p.estimate, p.low, p.high) for one in found if one.target for p in one.points]
    references = [one.reference for one in found if one.target]
    drawn = []
    for target in targets:
        series = []
        for one in found:
            points = tuple((p.local_labels, _score(p.estimate, p.low, p.high)) for p in one.points)
            if one.target == target:
                series.append(shift_figures.LocalSeries(looks[one.strategy], points, one.reference))
        texts = {
            "title": words("local.figure", {"name": target}),
            "description": words("local.description", {"metric": metric}),
            "x": words("local.x"),
            "y": metric,
        }
        drawn.append(shift_figures.local_curves(series, extent_of=scores, references=references, texts=texts))
    shown = dict.fromkeys(one.strategy for one in found)
    rows, before = [], None
    for one in sorted(found, key=lambda one: (one.target == "", one.target)):
        rows.append({"first": one.target != before} | _local_row(one, numbers, judgement, words))
        before = one.target
    cells = next(one for one in found)
    labels = judgement.row(cells.strategy, cells.budget)
    budget = words.say(name_budget(cells.budget, labels.cell.labels)) if labels is not None else cells.budget
    return {
        "intro": words("local.intro", {"margin": run.margin, "budget": budget}),
        "figures": drawn,
        "legend": [
            {"swatch": figures.swatch(looks[name]), "name": words.named(run, name), "is_baseline": name == run.baseline}
            for name in shown
        ],
        "titles": [words("local.score", {"number": number}) for number in numbers],
        "rows": rows,
    }


def _largest(judgement: Judgement) -> list[LocalLabels]:
    """Each strategy's entries at its largest budget that has any; they come by increasing labels."""
    found = judgement.estimates.shift.local
    last = {one.strategy: one.budget for one in found}
    return [one for one in found if one.budget == last[one.strategy]]


def _score(estimate: float, low: float | None, high: float | None) -> Bounds:
    """A score for drawing; without an interval its band has no width."""
    return Bounds(estimate, estimate if low is None else low, estimate if high is None else high)


def _local_row(one: LocalLabels, numbers: list[int], judgement: Judgement, words: Words) -> dict[str, Any]:
    points = {p.local_labels: p for p in one.points}
    cells = []
    for number in numbers:
        p = points.get(number)
        gap = None if p is None or p.gap_low is None or p.gap_high is None else Bounds(p.gap, p.gap_low, p.gap_high)
        cells.append(
            {
                "score": DASH if p is None else minus(f"{p.estimate:.3f}"),
                "gap": "" if gap is None else words("local.gap", {"gap": words.signed(gap)}),
            }
        )
    count = Count(estimate=one.needed, low=one.low, high=one.high, more_than=one.more_than)
    return {
        "target": one.target or words("local.all"),
        "strategy": words.named(judgement.run, one.strategy),
        "reference": minus(f"{one.reference:.3f}"),
        "cells": cells,
        "needed": words.count(count),
        "shown": words("local.not shown") if one.shown is None else f"{one.shown:,}",
    }


def remedies(judgement: Judgement, words: Words) -> list[dict[str, Any]]:
    """Pairs of strategies that differ in one remedy, with their paired differences."""
    run, rows = judgement.run, []
    for one in judgement.estimates.shift.ablations:
        values: dict[str, Any] = {"first": words.named(run, one.with_it), "second": words.named(run, one.without_it)}
        values |= {"budget": name_budget(one.budget, one.labels), "local_labels": one.local_labels}
        key = "remedy.pair local" if one.local_labels else "remedy.pair value"
        rows.append(
            {
                "remedy": words(f"remedy.{one.remedy}"),
                "pair": words(key, values),
                "overall": words.signed(one.overall),
                "inside": words.signed(one.inside),
                "outside": words.signed(one.outside),
            }
        )
    return rows
