"""The report's sections that are figures, pictures and facts: each function returns what its part of the template shows."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from wazuka.report import figures
from wazuka.report.audits import failed_steps
from wazuka.report.judgement import Judgement, Row
from wazuka.report.licenses import local_name
from wazuka.report.run_folder import RunFolder, Trial
from wazuka.report.words import DASH, Words, minus

PICTURES = 12
"""Most pictures of errors on a page."""
PICTURE_BYTES = 200_000
"""A larger file is no thumbnail and is left out, so that the page can be mailed."""
PNG = b"\x89PNG\r\n\x1a\n"
MOST_SPLITS = 60
"""Most split hashes listed; more stand in results.parquet."""


def curve(judgement: Judgement, words: Words, looks: dict[str, figures.Style]) -> dict[str, Any]:
    """The label-efficiency curve."""
    run, metric = judgement.run, words.metric(judgement.run.metric)
    series, legend = [], []
    for name in run.strategies:
        own = sorted((row.cell for row in judgement.rows if row.strategy == name), key=lambda cell: cell.labels)
        points = tuple(figures.Point(cell.labels, cell.score) for cell in own if cell.score is not None)
        if points:
            series.append(figures.Series(words.named(run, name), looks[name], points))
            legend.append(
                {"swatch": figures.swatch(looks[name]), "name": series[-1].name, "is_baseline": name == run.baseline}
            )
    if not series:
        return {"figure": "", "legend": [], "about": words.about(run.metric), "one_budget": False}
    chance = 0.5 if run.metric == "auroc" or (run.metric == "balanced_accuracy" and len(run.classes) == 2) else None
    figure = figures.curves(
        series,
        x_title=words("curve.x"),
        y_title=metric,
        title=words("curve.title"),
        description=words("curve.description", {"metric": metric, "names": [one.name for one in series]}),
        target=None if run.target is None else (run.target, words("curve.target", {"target": run.target})),
        chance=None if chance is None else (chance, words("curve.chance")),
    )
    one_budget = max(len(one.points) for one in series) == 1
    return {"figure": figure, "legend": legend, "about": words.about(run.metric), "one_budget": one_budget}


def difference(judgement: Judgement, words: Words, looks: dict[str, figures.Style]) -> dict[str, Any] | None:
    """The interval plot of paired differences; None where nothing was compared."""
    run, metric = judgement.run, words.metric(judgement.run.metric)
    rows = [
        figures.Row(
            f"{words.named(run, row.strategy)}, {row.budget}",
            looks[row.strategy],
            one,
            words(f"verdict.{row.decision.verdict}"),
        )
        for row in judgement.rows
        if (one := row.cell.difference) is not None
    ]
    if not rows:
        return None
    figure = figures.intervals(
        rows,
        x_title=words("difference.x", {"metric": metric}),
        title=words("difference.title", {"name": run.baseline}),
        description=words("difference.description"),
        margin=run.margin,
    )
    lower = "" if judgement.estimates.higher_is_better else words("difference.lower", {"metric": metric})
    return {"figure": figure, "baseline": run.baseline, "margin": run.margin, "lower": lower}


def errors(judgement: Judgement, words: Words) -> dict[str, Any]:
    """Confusion matrices of the shown row and of the baseline beside it, and the most confident errors as pictures."""
    row = judgement.shown
    beside = judgement.row(judgement.run.baseline, row.budget)
    rows = [row] if beside is None or beside is row else [row, beside]
    trials = trials_of(judgement.run, row)
    thresholds = [float(one.record["threshold"]) for one in trials if one.record.get("threshold") is not None]
    several = len(judgement.run.classes) > 2 or not thresholds
    found, pictures = _pictures(trials, words)
    return {
        "intro": words("errors.intro", {"name": row.strategy, "budget": words.budget(row.cell)}),
        "threshold": "" if several else words("errors.threshold", {"low": min(thresholds), "high": max(thresholds)}),
        "matrices": [_matrix(judgement.run, one, words) for one in rows],
        "pictures": pictures,
        "no_pictures": words("errors.no pictures" if found else "errors.none"),
    }


def trials_of(run: RunFolder, row: Row) -> list[Trial]:
    """The finished trials of a row."""
    return run.trials_of(row.strategy, row.budget)


def _matrix(run: RunFolder, row: Row, words: Words) -> dict[str, Any]:
    counts = np.array(row.cell.confusion)
    lines = []
    for number, name in enumerate(run.classes):
        total = counts[number].sum()
        cells = []
        for other, count in enumerate(counts[number]):
            share = count / total if total else 0.0
            alpha = round(0.04 + 0.46 * share, 3) if total else 0
            cells.append(
                {
                    "share": f"{share:.0%}" if total else DASH,
                    "count": words("errors.per repeat", {"count": count}),
                    "rgb": "29, 79, 145" if number == other else "164, 38, 44",
                    "alpha": alpha,
                }
            )
        lines.append({"name": name, "cells": cells})
    return {
        "caption": words("errors.table", {"name": words.named(run, row.strategy)}),
        "classes": run.classes,
        "lines": lines,
    }


def _pictures(trials: list[Trial], words: Words) -> tuple[bool, list[dict[str, str]]]:
    """Whether there are errors at all, and the surest of them over all repeats, each image once."""
    listed = [(one, entry) for one in trials for entry in one.record.get("worst", [])]
    listed.sort(key=lambda pair: (-float(pair[1]["probability"]), str(pair[1]["id"])))
    shown: dict[str, dict[str, str]] = {}
    for trial, entry in listed:
        name = str(entry["id"])
        source = _data_uri(trial.folder, str(entry.get("file", ""))) if name not in shown else None
        if source is None or len(shown) >= PICTURES:
            continue
        values = {"id": name, "label": entry["label"], "predicted": entry["predicted"]}
        values["probability"] = float(entry["probability"])
        shown[name] = {"source": source, "alt": words("errors.alt", values), "caption": words("errors.caption", values)}
    return bool(listed), list(shown.values())


def _data_uri(folder: Path, file: str) -> str | None:
    """A PNG of the trial's own folder as a data URI; None for anything else, however it is named."""
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > PICTURE_BYTES:
        return None
    content = path.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}" if content.startswith(PNG) else None


def data(judgement: Judgement, words: Words) -> dict[str, Any]:
    """Facts on the data set, its classes and domains."""
    run = judgement.run
    card, counts = run.data.get("card", {}), run.data.get("counts", {})
    left_out = [
        words("data.left out value", {"name": name, "count": count})
        for name, count in (counts.get("left_out_classes") or {}).items()
    ]
    quarantined = counts.get("quarantined") or 0
    reasons = ", ".join(f"{name}: {count}" for name, count in (counts.get("quarantine_reasons") or {}).items())
    facts = [
        (words("data.images"), f"{counts.get('images', 0):,} ({words('data.labeled')}: {counts.get('labeled', 0):,})"),
        (words("data.patients"), f"{counts.get('patients', 0):,}"),
        (words("data.patient source"), card.get("patient_source") or words("not recorded")),
        (words("data.modality"), card.get("modality") or words("not given")),
        (words("data.license"), card.get("license") or words("not given")),
        (words("data.source"), local_name(str(card.get("source") or "")) or words("not given")),
        (words("data.quarantined"), f"{quarantined:,}" + (f" ({reasons})" if reasons else "")),
        (words("data.orphans"), f"{counts.get('orphan_masks') or 0:,}"),
        (words("data.left out"), words.listed(left_out)),
        (words("data.fingerprint"), card.get("fingerprint") or words("not recorded")),
    ]
    classes = [
        {
            "name": name,
            "positive": name == run.positive,
            "images": f"{one['images']:,}",
            "patients": f"{one['patients']:,}",
        }
        for name, one in (counts.get("classes") or {}).items()
    ]
    domains = [
        {"name": name, "images": f"{one['images']:,}", "patients": f"{one['patients']:,}"}
        for name, one in (counts.get("domains") or {}).items()
    ]
    name = card.get("name") or run.study.get("name", "")
    return {"name": name, "facts": facts, "classes": classes, "domains": domains}


def checks(judgement: Judgement, words: Words) -> dict[str, Any]:
    """The data checks, open issues first."""
    found = judgement.run.data.get("checks") or []
    order = {"issue": 0, "warning": 1, "passed": 3}
    rows = sorted(found, key=lambda one: (order.get(one["outcome"], 2), one["code"]))
    outcomes = [one["outcome"] for one in found]
    values = {"count": len(found), "issues": outcomes.count("issue"), "warnings": outcomes.count("warning")}
    return {
        "intro": words("checks.intro", values),
        "rows": [
            {
                "code": one["code"],
                "name": one["name"],
                "outcome": one["outcome"],
                "count": DASH if one.get("count") is None else one["count"],
                "threshold": DASH if one.get("threshold") is None else one["threshold"],
                "reason": one.get("reason") or DASH,
            }
            for one in rows
        ],
    }


def leakage(judgement: Judgement, words: Words) -> list[str]:
    """The leakage certificate in sentences."""
    found = judgement.run.data.get("leakage")
    if not found:
        return [words("leakage.none")]
    lines = []
    if found.get("groups") is not None:
        values = {"groups": found["groups"], "images": found["images"], "evidence": found.get("evidence", "")}
        lines.append(words("leakage.groups", values))
    if found.get("inflation"):
        values = {name: found[name] for name in ("naive", "grouped", "rounds")} | found["inflation"]
        values["source"] = judgement.run.data.get("card", {}).get("patient_source") or words("not recorded")
        lines.append(minus(words("leakage.text", values)))
    if found.get("verdict"):
        lines.append(words("leakage.verdict", {"verdict": found["verdict"]}))
    return lines


def missing(judgement: Judgement, words: Words) -> list[dict[str, str]]:
    """Everything planned or expected that has no figure, with its reason."""
    run = judgement.run
    rows = [{"what": str(one["what"]), "why": str(one["why"])} for one in run.plan.get("not_measured", [])]
    rows += [{"what": _trial_name(one, words), "why": str(one.get("reason", ""))} for one in run.failures]
    rows += [{"what": _trial_name(one, words), "why": words("missing.unfinished")} for one in run.unfinished]
    rows += [{"what": what, "why": why} for what, why in failed_steps(run)]
    rows += _untested(run, words)
    undefined = undefined_scores(run)
    for name, count in undefined.items():
        what = words("missing.undefined", {"metric": words.metric(name), "count": count})
        rows.append({"what": what, "why": words("missing.one class")})
    if not run.data.get("leakage"):
        rows.append({"what": words("leakage.title"), "why": words("leakage.none")})
    return rows


def _untested(run: RunFolder, words: Words) -> list[dict[str, str]]:
    """Synthetic tests that a study with a generator lacks: those of single trials, and whole strategies."""
    if all((one or {}).get("synthesize") is None for one in run.study["strategies"].values()):
        return []
    rows, tested = [], set()
    own = [one for one in run.trials if one.local_labels == 0]
    for trial in own:
        why = trial.record.get("synthetic_missing")
        if why:
            what = words("missing.synthetic test", {"trial": _trial_name(trial.record, words)})
            rows.append({"what": what, "why": str(why)})
        if why or trial.record.get("synthetic_test"):
            tested.add((trial.strategy, trial.budget))
    for name, budget in dict.fromkeys((one.strategy, one.budget) for one in own):
        if (name, budget) not in tested:
            what = words("missing.no synthetic test", {"strategy": name, "budget": budget})
            rows.append({"what": what, "why": words("missing.no generator")})
    return rows


def undefined_scores(run: RunFolder) -> dict[str, int]:
    """Rows of results.parquet without a value, by metric (overall scores only)."""
    empty = run.results[run.results["value"].isna() & (run.results["class"] == "")]
    return {str(name): int(count) for name, count in sorted(empty["metric"].value_counts().items())}


def _trial_name(one: dict[str, Any], words: Words) -> str:
    values = {"strategy": one["strategy"], "budget": one["budget"], "repeat": int(one["repeat"]) + 1}
    if one.get("train_domain", "all") == "all":
        return words("missing.trial", values)
    values["train_domain"] = one["train_domain"]
    if one.get("local_labels"):
        target = one.get("target_domain") or words("not recorded")
        return words("missing.trial local", values | {"local_labels": int(one["local_labels"]), "target": target})
    return words("missing.trial domain", values)


def model(judgement: Judgement, words: Words) -> list[tuple[str, str]]:
    """Facts on the refitted model; empty before it is made."""
    final = judgement.run.final
    if final is None:
        return []
    strategy, reason = judgement.final_choice
    why = words.say(reason) if final.get("strategy") == strategy else str(final.get("reason", DASH))
    latency = final.get("latency_ms") or {}
    device = {"device": final.get("device", DASH), "threads": final.get("threads", DASH)}

    def value(key: str, name: str, given: Any) -> str:
        return words("not recorded") if given is None else words(key, {name: given})

    params = final.get("trained_params")
    return [
        (words("model.strategy"), words.named(judgement.run, str(final.get("strategy", DASH)))),
        (words("model.reason"), why),
        (words("model.labels"), value("labels.n", "labels", final.get("labels"))),
        (words("model.seconds"), value("model.seconds value", "seconds", final.get("seconds"))),
        (words("model.size"), value("model.size value", "size", final.get("size_mb"))),
        (words("model.latency"), words("model.latency value", latency) if latency else words("not recorded")),
        (words("model.memory"), value("model.memory value", "memory", final.get("memory_mb"))),
        (words("model.params"), words("not recorded") if params is None else f"{params:,}"),
        (words("model.device"), words("model.device value", device)),
    ]


def reproduce(judgement: Judgement, words: Words) -> dict[str, Any]:
    """Commands, versions, seeds and split hashes."""
    run = judgement.run
    record = run.trials[0].record
    versions = ", ".join(f"{name} {one}" for name, one in (record.get("versions") or {}).items())
    devices = sorted(
        {(str(one.record.get("device", DASH)), str(one.record.get("threads", DASH))) for one in run.trials}
    )
    finished = {"finished": len(run.trials), "failed": len(run.failures), "unfinished": len(run.unfinished)}
    splits = (
        run.results[["repeat", "train_domain", "split_hash"]].drop_duplicates().sort_values(["train_domain", "repeat"])
    )
    rule = ", ".join(f"{key}: {one}" for key, one in (run.study.get("test") or {}).items())
    facts = [
        (words("reproduce.trials"), words("reproduce.trials value", finished)),
        (words("reproduce.test"), rule or DASH),
        (words("reproduce.seed"), str(run.study.get("seed", 0))),
        (
            words("reproduce.device"),
            "; ".join(words("model.device value", {"device": d, "threads": t}) for d, t in devices),
        ),
        (words("reproduce.versions"), versions or words("not recorded")),
        (words("reproduce.fingerprint"), str(run.data.get("card", {}).get("fingerprint") or words("not recorded"))),
        (words("reproduce.study key"), str(run.plan.get("study_key", words("not recorded")))),
    ]
    listed = [
        (words("reproduce.split", {"repeat": int(repeat) + 1, "train_domain": domain}), str(value))
        for repeat, domain, value in splits.head(MOST_SPLITS).itertuples(index=False)
    ]
    if len(splits) > MOST_SPLITS:
        listed.append((f"+ {len(splits) - MOST_SPLITS}", "results.parquet"))
    name = run.path.resolve().name
    commands = f"wazuka run {name}/study.yaml --dataset DATASET --out NEW_RUN\nwazuka report {name}"
    return {"commands": commands, "facts": facts, "splits": listed}
