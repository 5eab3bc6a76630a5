"""Several runs side by side: one table, and above it what may be compared and what may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wazuka.report.judgement import Judgement, headline
from wazuka.report.page import render
from wazuka.report.texts import Language, Reason
from wazuka.report.words import Words, minus

JOINT_PAGES: dict[Language, str] = {"en": "report.joint.html", "ja": "report.joint.ja.html"}


def comparable(judgements: Sequence[Judgement]) -> list[Reason]:
    """Say what the runs have in common and hence what may be read side by side."""
    prints = {str(one.run.data.get("card", {}).get("fingerprint")) for one in judgements}
    splits = {frozenset(one.run.results["split_hash"].unique()) for one in judgements}
    if len(prints) > 1:
        reasons = [Reason("joint.other data")]
    elif len(splits) > 1:
        reasons = [Reason("joint.same data")]
    else:
        reasons = [Reason("joint.comparable")]
    metrics = sorted({one.run.metric for one in judgements})
    if len(metrics) > 1:
        names = [Reason(f"metric.{name}") for name in metrics]
        reasons.append(Reason("joint.other metric", {"names": names}))
    simulated = [name for name, one in zip(run_names(judgements), judgements, strict=True) if one.run.simulated]
    if simulated:
        reasons.append(Reason("joint.simulated", {"names": simulated}))
    return reasons


def run_names(judgements: Sequence[Judgement]) -> list[str]:
    """The runs' folder names; a number is added where two are alike."""
    names = [one.run.path.resolve().name for one in judgements]
    return [name if names.count(name) == 1 else f"{name} [{number + 1}]" for number, name in enumerate(names)]


def render_joint(judgements: Sequence[Judgement], *, lang: Language) -> str:
    """Return the joint page as HTML."""
    words = Words(lang)
    rows: list[dict[str, Any]] = []
    for name, judgement in zip(run_names(judgements), judgements, strict=True):
        for number, row in enumerate(judgement.rows):
            budget = row.budget if row.budget == str(row.cell.labels) else f"{row.budget} ({row.cell.labels:,})"
            rows.append(
                {
                    "first": number == 0,
                    "run": name,
                    "strategy": words.named(judgement.run, row.strategy),
                    "is_baseline": row.is_baseline,
                    "budget": budget,
                    "metric": words.metric(judgement.run.metric),
                    "score": words.interval(row.cell.score),
                    "difference": words.signed(row.cell.difference),
                    "verdict": row.decision.verdict,
                }
            )
    context = {
        "title": words("joint.title"),
        "other_lang": "ja" if lang == "en" else "en",
        "other_page": JOINT_PAGES["ja" if lang == "en" else "en"],
        "notes": [minus(words.say(one)) for one in comparable(judgements)],
        "runs": [_facts(name, one, words) for name, one in zip(run_names(judgements), judgements, strict=True)],
        "rows": rows,
    }
    return render("joint.html", context, words=words, simulated=any(one.run.simulated for one in judgements))


def _facts(name: str, judgement: Judgement, words: Words) -> dict[str, str]:
    card, counts = judgement.run.data.get("card", {}), judgement.run.data.get("counts", {})
    values = {
        "images": counts.get("images", 0),
        "patients": counts.get("patients", 0),
        "classes": len(judgement.run.classes),
    }
    data = words("summary.data", values | {"domains": len(counts.get("domains") or {})})
    return {"name": name, "headline": words.say(headline(judgement)), "data": f"{card.get('name', '')}. {data}"}
