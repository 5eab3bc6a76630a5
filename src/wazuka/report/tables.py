"""The report's tables: each function returns the rows that its part of the template shows, already in words."""

from __future__ import annotations

from typing import Any

import pandas as pd

from wazuka.report import figures
from wazuka.report.judgement import Judgement, Row, prevalence
from wazuka.report.run_folder import RunFolder
from wazuka.report.verdict import Bounds
from wazuka.report.words import DASH, Words, minus

AGREEMENT = ("unanimous", "disputed")
SHOWN_METRICS = (
    "auroc", "average_precision", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "f1", "brier", "ece",
    "kappa", "sensitivity_at_0.5", "specificity_at_0.5", "auroc_patient", "auroc_parent",
)  # fmt: skip
LINES = ("labeling", "computing", "energy", "reading_saved", "misses", "false_alarms", "labels_saved")


def strategies(judgement: Judgement, words: Words, looks: dict[str, figures.Style]) -> dict[str, Any]:
    """Every strategy at every budget: score, paired difference, verdict and its reasons."""
    rows, before = [], None
    for row in judgement.rows:
        cell = row.cell
        rows.append(
            {
                "first": row.strategy != before,
                "is_baseline": row.is_baseline,
                "swatch": figures.swatch(looks[row.strategy]),
                "strategy": words.named(judgement.run, row.strategy),
                "budget": _budget(row),
                "score": words.interval(cell.score),
                "difference": words.signed(cell.difference),
                "p": "" if cell.p_holm is None else _p(cell.p_holm, words),
                "verdict": row.decision.verdict,
                "reasons": [minus(words.say(one)) for one in row.decision.reasons],
            }
        )
        before = row.strategy
    shown = judgement.shown.cell
    values = {"patients": shown.n_patients, "images": shown.n_images, "repeats": shown.repeats}
    title = words("table.score", {"metric": words.metric(judgement.run.metric)})
    return {"rows": rows, "score_title": title, "counts": words("answer.evidence", values)}


def needed(judgement: Judgement, words: Words) -> dict[str, Any] | None:
    """Labels needed and saved, one row per strategy; None where no curve can say."""
    budgets = list(dict.fromkeys(row.budget for row in judgement.rows if row.cell.labels_saved is not None))
    chosen = [row for name in judgement.run.strategies if (row := judgement.largest(name)) is not None]
    if not budgets and all(row.cell.labels_needed is None for row in chosen):
        return None
    rows = []
    for row in chosen:
        saved = [judgement.row(row.strategy, budget) for budget in budgets]
        cells = [DASH if one is None else words.count(one.cell.labels_saved) for one in saved]
        needed = words.count(row.cell.labels_needed)
        name = words.named(judgement.run, row.strategy)
        rows.append({"strategy": name, "is_baseline": row.is_baseline, "needed": needed, "saved": cells})
    titles = [words("needed.saved", {"budget": budget}) for budget in budgets]
    return {"rows": rows, "titles": titles, "has_goal": judgement.run.target is not None}


def other_scores(judgement: Judgement, words: Words) -> dict[str, Any] | None:
    """All other metrics of the shown row and the baseline; None where results hold nothing else."""
    run, row = judgement.run, judgement.shown
    beside = judgement.row(run.baseline, row.budget)
    rows = [row] if beside is None or beside is row else [row, beside]
    lines = []
    for metric in [one for one in SHOWN_METRICS if one != run.metric]:
        found = [_mean_result(run, one, metric) for one in rows]
        if any(one is not None for one in found):
            lines.append({"name": words.metric(metric), "cells": [words.interval(one) for one in found]})
    if not lines:
        return None
    intro = words("other.intro", {"budget": words.budget(row.cell)})
    return {"intro": intro, "strategies": [words.named(run, one.strategy) for one in rows], "lines": lines}


def _mean_result(run: RunFolder, row: Row, metric: str, *, images: bool = False) -> Any:
    """Mean over repeats of one metric's value and bounds over the whole test part, as in results.parquet."""
    table = headline_results(run.results)
    own = table[(table["strategy"] == row.strategy) & (table["budget"] == row.budget) & (table["metric"] == metric)]
    own = own[own["value"].notna() & own["low"].notna() & own["high"].notna()]
    if own.empty:
        return None
    found = Bounds(float(own["value"].mean()), float(own["low"].mean()), float(own["high"].mean()))
    return (found, float(own["n_images"].mean())) if images else found


def headline_results(results: pd.DataFrame) -> pd.DataFrame:
    """Overall rows on the whole test part: the pooled one, else the domains that were not trained on; no local labels."""
    overall = results[(results["class"] == "") & (results["test_domain"] != "synthetic")]
    overall = overall[overall["local_labels"] == 0]
    pooled = overall["train_domain"] == "all"
    whole = (pooled & (overall["test_domain"] == "all")) | (
        ~pooled & (overall["test_domain"] != overall["train_domain"])
    )
    return overall[whole]


def domains(judgement: Judgement, words: Words, looks: dict[str, figures.Style]) -> dict[str, Any]:
    """Scores within each domain with the largest budget; the matrix of each-to-each studies is in `shift_section`."""
    run = judgement.run
    chosen = [row for name in run.strategies if (row := judgement.largest(name)) is not None]
    rule = (run.study.get("test") or {}).get("domain")
    key = f"domains.intro {rule}" if rule else "domains.intro"
    intro = words(key, {"budget": words.budget(judgement.shown.cell)})
    rows, before = [], None
    for name in judgement.estimates.domains:
        for row in chosen:
            score = row.cell.domain_scores.get(name)
            rows.append(
                {
                    "first": name != before,
                    "is_baseline": row.is_baseline,
                    "domain": name,
                    "swatch": figures.swatch(looks[row.strategy]),
                    "strategy": words.named(run, row.strategy),
                    "score": words.interval(score),
                    "difference": words.signed(row.cell.domain_differences.get(name)),
                }
            )
            before = name
    gaps = [
        minus(
            words(
                "domains.one gap", {"name": words.named(run, row.strategy), "gap": words.interval(row.cell.domain_gap)}
            )
        )
        for row in chosen
        if row.cell.domain_gap is not None
    ]
    if len(judgement.estimates.domains) < 2:
        rows = []
    return {
        "intro": intro,
        "rows": rows,
        "gaps": words("domains.gap", {"gaps": "; ".join(gaps)}) if gaps and not rule else "",
    }


def agreement(judgement: Judgement, words: Words) -> list[dict[str, str]]:
    """Scores on unanimous and on disputed cases, with the largest budget; empty where there was one annotator."""
    run = judgement.run
    rows = []
    for name in run.strategies:
        row = judgement.largest(name)
        if row is None:
            continue
        for kind in AGREEMENT:
            found = _mean_result(run, row, f"{run.metric}_{kind}", images=True)
            if found is not None:
                score, images = found
                cases = words(f"agreement.{kind}")
                rows.append(
                    {
                        "strategy": words.named(run, name),
                        "cases": cases,
                        "score": words.interval(score),
                        "images": f"{images:,.0f}",
                    }
                )
    return rows


def gates(judgement: Judgement, words: Words) -> list[dict[str, Any]]:
    """Every gate of every strategy, at its largest budget."""
    rows = []
    for name in judgement.run.strategies:
        row = judgement.largest(name)
        if row is None:
            continue
        for number, gate in enumerate(row.gates):
            rows.append(
                {
                    "first": number == 0,
                    "strategy": words.named(judgement.run, name),
                    "budget": row.budget,
                    "name": words.say(gate.title),
                    "state": gate.state,
                    "detail": minus(words.say(gate.detail)),
                }
            )
    return rows


def costs(judgement: Judgement, words: Words) -> dict[str, Any]:
    """The ledgers of all strategies side by side, at each one's largest budget."""
    run = judgement.run
    chosen = [row for name in run.strategies if (row := judgement.largest(name)) is not None]
    lines = []
    for name in LINES:
        found = [row.cost.line(name) for row in chosen]
        if not any(one is not None for one in found):
            continue
        cells = []
        for row, one in zip(chosen, found, strict=True):
            amount = DASH if one is None else minus(words.amount(one))
            money = "" if one is None or one.money is None else minus(words.money(one.money, row.cost.currency))
            cells.append({"amount": amount, "money": money})
        lines.append({"name": words(f"costs.{name}"), "cells": cells})
    if any(row.cost.once is not None for row in chosen):
        cells = [{"amount": words.money(row.cost.once, row.cost.currency), "money": ""} for row in chosen]
        lines.append({"name": words("costs.once"), "cells": cells})
    return {
        "intro": words("costs.intro", {"budget": words.budget(judgement.shown.cell)}),
        "strategies": [words.named(run, row.strategy) for row in chosen],
        "lines": lines,
        "notes": _cost_notes(judgement, chosen, words),
    }


def _cost_notes(judgement: Judgement, chosen: list[Row], words: Words) -> list[str]:
    run = judgement.run
    if not run.study.get("costs"):
        return [words("costs.no prices")]
    notes = []
    missing = list(dict.fromkeys(name for row in chosen for name in row.cost.not_given))
    if missing:
        notes.append(words("costs.not given", {"names": missing}))
    computing = [row.cost.line("computing") for row in chosen]
    if any(one is not None and one.money is None for one in computing) and "gpu_hour" not in missing:
        notes.append(words("costs.cpu"))
    if run.study["costs"].get("energy_kwh") is not None and not any(row.cost.line("energy") for row in chosen):
        notes.append(words("costs.energy not measured"))
    share = prevalence(run)
    if share is not None and any(row.cost.line("misses") for row in chosen):
        notes.append(words("costs.prevalence", {"share": share, "name": run.positive}))
    return notes


def _budget(row: Row) -> str:
    if row.budget == str(row.cell.labels):
        return f"{row.cell.labels:,}"
    return f"{row.budget} ({row.cell.labels:,})"


def _p(value: float, words: Words) -> str:
    return words("table.small p") if value < 0.001 else words("table.p", {"p": f"{value:.3f}"})
