"""The key `synthetic` of `report.json`, and what `summary.md` says of synthetic images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wazuka.evaluate.intervals import Estimate
from wazuka.report.audits import Audit, read_audits
from wazuka.report.judgement import Judgement
from wazuka.report.synthetic import Added, Gap, MatrixRow, Rare, Recipe
from wazuka.report.synthetic_filter import sets_json
from wazuka.report.synthetic_section import gap_lines, memorization_line, verdict_lines
from wazuka.report.verdict import Bounds
from wazuka.report.words import Words

DIGITS = 6


def synthetic_json(judgement: Judgement, words: Words) -> dict[str, Any] | None:
    """Matrix, gaps, verdicts and audits in plain values; None for a study without a generator."""
    found = judgement.estimates.synthetic
    if found is None:
        return None
    return {
        "matrix": [_row(one) for one in found.matrix],
        "gaps": [_gap(one) for one in found.gaps],
        "adds": [_added(one) for one in found.adds],
        "verdicts": [
            {
                "budget": budget,
                "labels": labels,
                "verdict": found.verdict(budget),
                "reasons": verdict_lines(judgement, words, budget),
            }
            for budget, labels in found.budgets
        ],
        "rare": [_rare(one) for one in found.rare],
        "audits": [_audit(one) for one in read_audits(judgement.run)],
        "filtering": sets_json(judgement.run, digits=DIGITS),
    }


def summary_lines(judgement: Judgement, words: Words) -> list[str]:
    """Sentences for the summary; none for a study without a generator."""
    found = judgement.estimates.synthetic
    if found is None:
        return []
    lines = [line for budget, _ in found.budgets for line in verdict_lines(judgement, words, budget)]
    lines += gap_lines(found, words)
    memorized = memorization_line(read_audits(judgement.run), words)
    return lines + ([memorized] if memorized else [])


def _row(one: MatrixRow) -> dict[str, Any]:
    tasks = one.tasks
    return {
        "strategy": one.strategy,
        "budget": one.budget,
        "labels": one.labels,
        **_recipe(one.recipe),
        "real": _scores(one.real),
        "synthetic": _scores(one.synthetic) if one.synthetic else None,
        "synthetic_images": one.synthetic_images,
        "paper_tasks": None if tasks is None else {"real": tasks[0], "synthetic": tasks[1]},
    }


def _recipe(one: Recipe) -> dict[str, Any]:
    return {
        "train_on": one.train_on,
        "generator": one.generator,
        "ratio": one.ratio,
        "split_budget": one.split_budget,
        "classes": "rare-only" if one.rare_only else "all",
        "dp": one.private,
    }


def _scores(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: _estimate(one) | {"n_patients": one.n_patients, "repeats": one.repeats} for name, one in found.items()
    }


def _gap(one: Gap) -> dict[str, Any]:
    counts = {"n_patients": one.n_patients, "repeats": one.repeats}
    what = {"strategy": one.strategy, "real_strategy": one.real, "budget": one.budget, "labels": one.labels}
    return what | _ends(one.loss) | {"accuracy": _ends(one.accuracy)} | counts


def _added(one: Added) -> dict[str, Any]:
    what = {"strategy": one.strategy, "real_strategy": one.real, "budget": one.budget, "labels": one.labels}
    adjusted = _ends(one.adjusted)
    return {
        **what,
        **_recipe(one.recipe),
        **_ends(one.difference),
        "adjusted_low": adjusted["low"],
        "adjusted_high": adjusted["high"],
        "comparisons": one.comparisons,
        "n_patients": one.n_patients,
        "repeats": one.repeats,
        "verdict": one.verdict,
    }


def _rare(one: Rare) -> dict[str, Any]:
    what = {"strategy": one.strategy, "real_strategy": one.real, "budget": one.budget, "labels": one.labels}
    scores = {"before": _estimate(one.before), "after": _estimate(one.after), "change": _ends(one.change)}
    return what | {"class": one.class_} | scores


def _audit(one: Audit) -> dict[str, Any]:
    fidelity = dict(one.fidelity)
    scores = {
        name: {key: float(f"{value:.{DIGITS}g}") for key, value in score.items()}
        for name, score in fidelity.pop("scores").items()
    }
    return {
        "generator": one.key,
        "method": one.method,
        "strategies": list(one.strategies),
        "budget": one.budget,
        "repeat": one.repeat,
        "train_domain": one.train_domain,
        "images": one.images,
        "seconds": one.seconds,
        "collapsed": one.collapsed,
        "encoder": one.encoder,
        "against": one.against,
        "compared_with": one.compared_with,
        "fidelity": fidelity | {"scores": scores},
        "checks": list(one.checks),
        "pools": [{"made": pool.made, "wanted": pool.wanted, "memorization": pool.memorization} for pool in one.pools],
    }


def _estimate(one: Estimate) -> dict[str, float | None]:
    return {"estimate": _short(one.estimate), "low": _short(one.low), "high": _short(one.high)}


def _ends(value: Bounds | None) -> dict[str, float | None]:
    if value is None:
        return {"estimate": None, "low": None, "high": None}
    return {"estimate": _short(value.estimate), "low": _short(value.low), "high": _short(value.high)}


def _short(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)
