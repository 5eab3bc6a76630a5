"""What other tools and mails read: `report.json` (CONTRACTS, section 4) and `summary.md`, one page to paste."""

from __future__ import annotations

from typing import Any

from wazuka import __version__
from wazuka.report import licenses, sections
from wazuka.report.answer import how_sure, scope, what_to_do
from wazuka.report.costs import Cost
from wazuka.report.estimates import Count
from wazuka.report.judgement import Judgement, Row, headline
from wazuka.report.shift_outputs import domains_json, label_scaling_json
from wazuka.report.synthetic_outputs import summary_lines, synthetic_json
from wazuka.report.texts import Language
from wazuka.report.verdict import Bounds, Gate
from wazuka.report.words import DASH, Words, minus

SCHEMA = 1
DIGITS = 6
"""Digits after the point: beyond the precision of any interval, and short to read."""


def to_json(judgement: Judgement) -> dict[str, Any]:
    """Return `report.json`: plain values, sentences in English, None where there is no figure (never NaN)."""
    run, words = judgement.run, Words("en")
    goal = run.study.get("goal") or {}
    strategy, reason = judgement.final_choice
    return {
        "schema": SCHEMA,
        "wazuka": __version__,
        "simulated": run.simulated,
        "notice": words("page.simulated") if run.simulated else None,
        "answer": {
            "headline": words.say(headline(judgement)),
            "adopted": None if judgement.adopted is None else judgement.adopted.strategy,
            "final": {"strategy": strategy, "reason": words.say(reason)},
        },
        "study": {
            "name": run.study.get("name"),
            "study_key": run.plan.get("study_key"),
            "baseline": run.baseline,
            "goal": {"metric": run.metric, "target": goal.get("target"), "margin": run.margin},
            "test": run.study.get("test"),
            "seed": run.study.get("seed"),
            "trials": {"finished": len(run.trials), "failed": len(run.failures), "unfinished": len(run.unfinished)},
        },
        "data": {
            "name": run.data.get("card", {}).get("name"),
            "fingerprint": run.data.get("card", {}).get("fingerprint"),
            "classes": run.classes,
            "positive": run.positive,
            "domains": list(judgement.estimates.domains),
            "counts": run.data.get("counts", {}),
            "leakage": run.data.get("leakage"),
            "simulated": run.simulated,
        },
        "strategies": [_row(row, judgement, words) for row in judgement.rows],
        "label_scaling": label_scaling_json(judgement.estimates.shift),
        "domains": domains_json(judgement.estimates.shift),
        "synthetic": synthetic_json(judgement, words),
        "licenses": licenses.to_json(run),
        "checks": run.data.get("checks") or [],
        "not_measured": sections.missing(judgement, words),
        "next_stage": _next_stage(judgement, words),
    }


def _row(row: Row, judgement: Judgement, words: Words) -> dict[str, Any]:
    cell = row.cell
    return {
        "name": row.strategy,
        "budget": row.budget,
        "labels": cell.labels,
        "local_labels": cell.local_labels,
        "transductive": row.strategy in judgement.run.transductive,
        "metric": judgement.run.metric,
        **_ends(cell.score),
        "n_patients": cell.n_patients,
        "n_images": cell.n_images,
        "repeats": cell.repeats,
        "undefined": cell.undefined,
        "difference": None if cell.difference is None else _ends(cell.difference) | {"p_holm": _short(cell.p_holm)},
        "against_larger": [{"budget": one.budget, "labels": one.labels} | _ends(one.difference) for one in cell.larger],
        "labels_needed": _count(cell.labels_needed),
        "labels_saved": None if cell.labels_saved is None else cell.labels_saved.estimate,
        "labels_saved_interval": _count(cell.labels_saved),
        "domains": {
            name: _ends(score) | {"difference": _whole(cell.domain_differences.get(name))}
            for name, score in cell.domain_scores.items()
        },
        "cost": _cost(row.cost),
        "gates": [_gate(one, words) for one in row.gates],
        "verdict": row.decision.verdict,
        "reasons": [words.say(one) for one in row.decision.reasons],
    }


def _next_stage(judgement: Judgement, words: Words) -> dict[str, Any]:
    stage = judgement.next_stage
    return {
        "labels": stage.labels,
        "labels_more": stage.labels_more,
        "repeats": stage.repeats,
        "test_patients": stage.test_patients,
        "strategies": list(stage.keep),
        "drop": list(stage.drop),
        "reasons": [words.say(one) for one in stage.reasons],
    }


def _ends(value: Bounds | None) -> dict[str, float | None]:
    if value is None:
        return {"estimate": None, "low": None, "high": None}
    return {"estimate": _short(value.estimate), "low": _short(value.low), "high": _short(value.high)}


def _whole(value: Bounds | None) -> dict[str, float | None] | None:
    return None if value is None else _ends(value)


def _count(value: Count | None) -> dict[str, Any] | None:
    """Labels with their interval; null is more than `more_than`."""
    if value is None:
        return None
    ends = {"estimate": value.estimate, "low": value.low, "high": value.high, "more_than": value.more_than}
    return ends | {"at_most": value.at_most, "projected": value.projected}


def _cost(cost: Cost) -> dict[str, Any]:
    lines = [
        {
            "name": one.name,
            "amount": _short(one.amount),
            "unit": one.unit,
            "low": _short(one.low),
            "high": _short(one.high),
            "money": _short(one.money, 2),
            "yearly": one.yearly,
            "saving": one.saving,
        }
        for one in cost.lines
    ]
    once = _short(cost.once, 2)
    return {"currency": cost.currency, "once": once, "lines": lines, "not_given": list(cost.not_given)}


def _gate(gate: Gate, words: Words) -> dict[str, str]:
    """`not applicable` and `not measured` carry their reason, as an outcome without evidence must."""
    detail = words.say(gate.detail)
    explained = gate.state in ("not applicable", "not measured")
    return {"name": gate.name, "outcome": f"{gate.state}: {detail}" if explained else gate.state, "detail": detail}


def _short(value: float | None, digits: int = DIGITS) -> float | None:
    return None if value is None else round(float(value), digits)


def summary(judgement: Judgement, *, lang: Language = "en") -> str:
    """Return `summary.md`: the answer, one table, the doubts and the next stage."""
    run, words = judgement.run, Words(lang)
    counts = run.data.get("counts", {})
    title = words("summary.title", {"name": str(run.study.get("name", run.path.name))})
    lines = [f"# {_plain(title)}", ""]
    if run.simulated:
        lines += [f"**{words('page.simulated')}**", ""]
    lines += [f"**{_plain(words.say(headline(judgement)))}**", ""]
    lines += [f"- {_plain(line)}" for line in what_to_do(judgement, words)]
    lines += [f"- {_plain(line)}" for line in how_sure(judgement, words)]
    lines += [f"- {_plain(line)}" for line in scope(judgement, words)]
    values = {"images": counts.get("images", 0), "patients": counts.get("patients", 0), "classes": len(run.classes)}
    lines += ["", words("summary.data", values | {"domains": len(counts.get("domains") or {})}), ""]
    header = words("summary.table", {"metric": words.metric(run.metric)})
    lines += [f"| {header} |", "|" + "---|" * (header.count(" | ") + 1)]
    for row in judgement.rows:
        verdict = words("baseline") if row.is_baseline else words(f"verdict.{row.decision.verdict}")
        cells = [
            words.named(run, row.strategy),
            row.budget,
            words.interval(row.cell.score),
            words.signed(row.cell.difference),
            verdict,
        ]
        lines.append("| " + " | ".join(_plain(one).replace("|", "\\|") for one in cells) + " |")
    synthetic = summary_lines(judgement, words)
    if synthetic:
        lines += ["", f"**{words('synthetic.title')}**", "", *(f"- {_plain(one)}" for one in synthetic)]
    lines += ["", f"**{words('next.title')}**", ""]
    lines += [f"- {_plain(words.say(one))}" for one in judgement.next_stage.reasons]
    missing = sections.missing(judgement, words)
    if missing:
        lines += ["", f"**{words('missing.title')}**", ""]
        lines += [f"- {_plain(one['what'])}: {_plain(one['why'] or DASH)}" for one in missing[:10]]
        if len(missing) > 10:
            lines.append(f"- + {len(missing) - 10}")
    lines += ["", words("summary.more"), words("page.not a device"), ""]
    return minus("\n".join(lines))


def _plain(words: str) -> str:
    """Keep a name from the data from becoming markup in the mail: no line breaks, no angle brackets."""
    return " ".join(words.split()).replace("<", "&lt;").replace(">", "&gt;")
