"""The report's part on the real/synthetic matrix, what synthetic images cost and bring: in words and figures."""

from __future__ import annotations

import dataclasses
from typing import Any

from markupsafe import Markup

from wazuka.evaluate.intervals import Estimate
from wazuka.report import shift_figures
from wazuka.report.audits import Audit
from wazuka.report.judgement import Judgement
from wazuka.report.shift import bounds_of
from wazuka.report.synthetic import ORDER, SCORES, Added, AddVerdict, MatrixRow, Recipe, Synthetic
from wazuka.report.texts import Reason
from wazuka.report.verdict import name_budget
from wazuka.report.words import DASH, Words, minus

MOST_MAPS = 4
"""Most heat maps on a page, of the largest budgets; the table has all."""
MOST_PARTS = 3
"""Most strategies in a sentence, those with the best estimates; the table has all."""
OUTCOMES = ("issue", "warning", "passed", "not applicable", "skipped", "ignored")


def synthetic(judgement: Judgement, words: Words) -> dict[str, Any] | None:
    """Everything on synthetic images but the audits; None for a study without a generator."""
    found = judgement.estimates.synthetic
    if found is None:
        return None
    run = judgement.run
    metric = words.metric(run.metric)
    lines = [line for budget, _ in found.budgets for line in verdict_lines(judgement, words, budget)]
    return {
        "sentences": lines + gap_lines(found, words),
        "no_adds": not found.adds,
        "metric": metric,
        "maps": _maps(judgement, found, words),
        "has_tasks": any(row.tasks is not None for row in found.matrix),
        "rows": _matrix_rows(judgement, found, words),
        "score_titles": [words.metric(name) for name in _other_metrics(run.metric)],
        "scores": _score_rows(judgement, found, words),
        "adds": _adds(judgement, found, words),
        "ratios": _ratios(judgement, found, words),
        "gaps": [
            {
                "strategy": words.named(run, one.strategy),
                "real": words.named(run, one.real),
                "budget": _budget(one.budget, one.labels, words),
                "loss": words.signed(one.loss),
                "accuracy": words.signed(one.accuracy),
            }
            for one in found.gaps
        ],
        "rare": [
            {
                "strategy": words.named(run, one.strategy),
                "real": words.named(run, one.real),
                "budget": _budget(one.budget, one.labels, words),
                "class": one.class_,
                "before": words.interval(bounds_of(one.before)),
                "after": words.interval(bounds_of(one.after)),
                "change": words.signed(one.change),
            }
            for one in found.rare
        ],
        "alone": words("synthetic.alone", {"names": list(found.alone)}) if found.alone else "",
        "margin": run.margin,
    }


def verdict_lines(judgement: Judgement, words: Words, budget: str) -> list[str]:
    """Whether adding synthetic images helps with a budget: a sentence per verdict that there is, the clearest first."""
    found = judgement.estimates.synthetic
    if found is None:
        return []
    lines = []
    for verdict in ORDER:
        own = [one for one in found.adds if (one.budget, one.verdict) == (budget, verdict)]
        if own:
            values: dict[str, Any] = {"budget": name_budget(budget, own[0].labels), "margin": judgement.run.margin}
            own.sort(key=lambda one: -one.adjusted.estimate if one.adjusted else 0.0)
            values["parts"] = [_part(one, judgement, words) for one in own[:MOST_PARTS]]
            if len(own) > MOST_PARTS:
                values["parts"].append(Reason("synthetic.others", {"count": len(own) - MOST_PARTS}))
            lines.append(minus(words(f"synthetic.add {verdict}", values)))
    return lines


def _part(one: Added, judgement: Judgement, words: Words) -> Reason:
    name = words.named(judgement.run, one.strategy)
    if one.adjusted is None:
        return Reason("synthetic.part without", {"name": name})
    return Reason("synthetic.part", {"name": name} | dataclasses.asdict(one.adjusted))


def gap_lines(found: Synthetic, words: Words) -> list[str]:
    """What training on synthetic instead of real images loses: a sentence per strategy, at its largest budget."""
    largest = {one.strategy: one for one in found.gaps}  # budgets come by their labels
    lines = []
    for one in largest.values():
        if one.loss is not None:
            values = {"name": one.strategy, "real": one.real, "budget": name_budget(one.budget, one.labels)}
            lines.append(minus(words("synthetic.gap line", values | dataclasses.asdict(one.loss))))
    return lines


def memorization_line(audits: tuple[Audit, ...], words: Words) -> str:
    """How many generators passed the memorization check; empty without audits."""
    outcomes = [outcome for one in audits if (outcome := one.memorization) is not None]
    if not outcomes:
        return ""
    parts = [
        Reason("synthetic.counted", {"outcome": Reason(f"check.{name}"), "count": outcomes.count(name)})
        for name in OUTCOMES
        if name in outcomes
    ]
    return words("synthetic.memorization line", {"count": len(outcomes), "parts": parts})


def recipe(one: Recipe, words: Words) -> str:
    """What a strategy trains on, in words."""
    text = words(f"synthetic.recipe {one.train_on}", {"ratio": one.ratio, "generator": one.generator})
    notes = [
        words(key)
        for key, given in (
            ("synthetic.rare only", one.rare_only),
            ("synthetic.split", one.split_budget),
            ("synthetic.private", one.private),
        )
        if given
    ]
    for note in notes:
        text = words("synthetic.noted", {"text": text, "note": note})
    return text


def _budget(budget: str, labels: int, words: Words) -> str:
    return words.say(name_budget(budget, labels))


def _maps(judgement: Judgement, found: Synthetic, words: Words) -> list[Markup]:
    """A heat map per budget: strategies by tested images, the paper's four tasks framed."""
    metric = judgement.run.metric
    known = [one for row in found.matrix for part in (row.real, row.synthetic) if (one := _value(part, metric))]
    if not known:
        return []
    span = shift_figures.color_range([one.estimate or 0.0 for one in known])
    maps = []
    for budget, labels in found.budgets[-MOST_MAPS:]:
        rows = [row for row in found.matrix if row.budget == budget]
        cells = []
        for number, row in enumerate(rows):
            for column, part in enumerate((row.real, row.synthetic)):
                one = _value(part, metric)
                if one is not None:
                    ends = "" if one.low is None or one.high is None else minus(f"{one.low:.2f}–{one.high:.2f}")
                    cells.append(shift_figures.HeatCell(number, column, float(one.estimate or 0.0), ends))
        texts = {
            "title": _budget(budget, labels, words),
            "description": words("synthetic.description", {"metric": words.metric(metric)}),
            "trained": words("matrix.trained"),
            "tested": words("matrix.tested"),
            "better": words("matrix.better"),
        }
        maps.append(
            shift_figures.heat_map(
                cells,
                [words.named(judgement.run, row.strategy) for row in rows],
                [words("synthetic.real"), words("synthetic.synthetic")],
                span=span,
                higher_is_better=judgement.estimates.higher_is_better,
                diagonal=[(number, column) for number, row in enumerate(rows) if row.tasks for column in (0, 1)],
                texts=texts,
            )
        )
    return maps


def _value(part: Any, metric: str) -> Estimate | None:
    one: Estimate | None = part.get(metric)
    return None if one is None or one.estimate is None else one


def _interval(part: Any, metric: str, words: Words) -> str:
    """A score; its estimate alone where it has no interval."""
    one = _value(part, metric)
    if one is None:
        return DASH
    bounds = bounds_of(one)
    return minus(f"{one.estimate:.3f}") if bounds is None else words.interval(bounds)


def _matrix_rows(judgement: Judgement, found: Synthetic, words: Words) -> list[dict[str, Any]]:
    run, rows, before = judgement.run, [], None
    for row in found.matrix:
        tasks = ("", "") if row.tasks is None else tuple(words("synthetic.task", {"number": one}) for one in row.tasks)
        rows.append(
            {
                "first": row.budget != before,
                "is_baseline": row.strategy == run.baseline,
                "budget": _budget(row.budget, row.labels, words),
                "strategy": words.named(run, row.strategy),
                "recipe": recipe(row.recipe, words),
                "real": _interval(row.real, run.metric, words),
                "synthetic": _interval(row.synthetic, run.metric, words),
                "tasks": tasks,
            }
        )
        before = row.budget
    return rows


def _other_metrics(metric: str) -> list[str]:
    return [one for one in SCORES if one != metric]


def _score_rows(judgement: Judgement, found: Synthetic, words: Words) -> list[dict[str, Any]]:
    """The other scores at each strategy's largest budget, a row per tested part."""
    names = _other_metrics(judgement.run.metric)
    largest = {row.strategy: row.budget for row in found.matrix}  # budgets come by their labels
    rows = []
    for row in found.matrix:
        if row.budget != largest[row.strategy]:
            continue
        for key, part in (("synthetic.real", row.real), ("synthetic.synthetic", row.synthetic)):
            if part:
                rows.append(
                    {
                        "first": part is row.real,
                        "strategy": words.named(judgement.run, row.strategy),
                        "budget": _budget(row.budget, row.labels, words),
                        "tested": words(key),
                        "cells": [_interval(part, name, words) for name in names],
                    }
                )
    return rows


def _adds(judgement: Judgement, found: Synthetic, words: Words) -> list[dict[str, Any]]:
    run, rows, before = judgement.run, [], None
    for one in found.adds:
        rows.append(
            {
                "first": one.budget != before,
                "budget": _budget(one.budget, one.labels, words),
                "strategy": words.named(run, one.strategy),
                "recipe": recipe(one.recipe, words),
                "real": words.named(run, one.real),
                "difference": words.signed(one.difference),
                "adjusted": "" if one.comparisons == 1 else words.signed(one.adjusted),
                "verdict": words(f"synthetic.verdict {one.verdict}"),
                "look": LOOKS[one.verdict],
            }
        )
        before = one.budget
    return rows


LOOKS: dict[AddVerdict, str] = {
    "helps": "good",
    "hurts": "bad",
    "adds nothing": "plain",
    "not enough evidence": "open",
}


def _ratios(judgement: Judgement, found: Synthetic, words: Words) -> dict[str, Any] | None:
    """Ways of adding that differ in nothing but the ratio, side by side; None with fewer than two ratios."""
    ways: dict[tuple[str, str, Recipe], dict[float, Added]] = {}
    for one in found.adds:
        way = dataclasses.replace(one.recipe, ratio=None)
        ways.setdefault((one.budget, one.real, way), {}).setdefault(one.recipe.ratio or 0.0, one)
    ways = {way: own for way, own in ways.items() if len(own) > 1}
    if not ways:
        return None
    ratios = sorted({ratio for own in ways.values() for ratio in own})
    matrix = {(row.strategy, row.budget): row for row in found.matrix}
    rows = []
    for (budget, real, way), own in ways.items():
        one = next(iter(own.values()))
        rows.append(
            {
                "budget": _budget(budget, one.labels, words),
                "way": way_name(way, words),
                "without": _score(matrix.get((real, budget)), judgement),
                "cells": [_ratio_cell(own.get(ratio), matrix, judgement, words) for ratio in ratios],
            }
        )
    return {"titles": [words("synthetic.ratio", {"ratio": ratio}) for ratio in ratios], "rows": rows}


def way_name(way: Recipe, words: Words) -> str:
    """A way of adding synthetic images, whatever the ratio."""
    text = words(f"synthetic.way {way.train_on}")
    return words("synthetic.noted", {"text": text, "note": words("synthetic.rare only")}) if way.rare_only else text


def _ratio_cell(
    one: Added | None, matrix: dict[tuple[str, str], MatrixRow], judgement: Judgement, words: Words
) -> dict[str, str]:
    if one is None:
        return {"score": DASH, "difference": ""}
    score = _score(matrix.get((one.strategy, one.budget)), judgement)
    return {"score": score, "difference": "" if one.difference is None else words.signed(one.difference)}


def _score(row: MatrixRow | None, judgement: Judgement) -> str:
    one = None if row is None else _value(row.real, judgement.run.metric)
    return DASH if one is None else minus(f"{one.estimate:.3f}")
