"""The report's part on the audits of generators: fidelity, coded checks, memorization, pictures, training curves."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from wazuka.report import synthetic_figures
from wazuka.report.audits import WORST_FIRST, Audit, data_uri, read_audits, worst
from wazuka.report.judgement import Judgement
from wazuka.report.synthetic_filter import METRICS, fidelity_cells
from wazuka.report.synthetic_section import memorization_line
from wazuka.report.words import DASH, Words

MOST_ROWS = 40
"""Most generators listed one by one; report.json has all."""
MOST_FINDINGS = 16
MOST_PICTURES = 12
MOST_CURVES = 4
"""Most generators whose training is drawn."""
PICTURES = ("grid", "pairs", "where", "scales")
CURVES = ("distance", "diversity", "g_loss", "d_loss")


def audits(judgement: Judgement, words: Words) -> dict[str, Any] | None:
    """Everything on the audits; None for a run without one."""
    found = read_audits(judgement.run)
    if not found:
        return None
    groups: dict[Any, list[Audit]] = {}
    for one in found:
        groups.setdefault(one.group, []).append(one)
    by_size = sorted(groups.values(), key=lambda own: -(own[0].images or 0))
    return {
        "line": memorization_line(found, words),
        "generators": [_generator(one, words) for one in found[:MOST_ROWS]],
        "more": len(found) - MOST_ROWS if len(found) > MOST_ROWS else 0,
        "fidelity_titles": [words(f"fidelity.{name}") for name in METRICS],
        "fidelity": [_fidelity(one, words) for one in found[:MOST_ROWS]],
        "basis": _basis(found, words),
        "check_titles": [_name(own[0], words) for own in groups.values()],
        "checks": _checks(list(groups.values()), words),
        "findings": _findings(found, words),
        "collapsed": [
            words("synthetic.collapsed", _where(one) | {"why": one.collapsed}) for one in found if one.collapsed
        ],
        "pictures": _pictures(by_size, words),
        "curves": _curves(by_size, words),
    }


def _where(one: Audit) -> dict[str, Any]:
    return {"name": one.strategies[0], "budget": one.budget, "repeat": one.repeat + 1}


def _name(one: Audit, words: Words) -> str:
    """A generator whatever its repeat, by the first strategy that uses it."""
    return words("synthetic.generator", {"name": one.strategies[0], "budget": one.budget})


def _one(one: Audit, words: Words) -> str:
    """A generator of one repeat (and train domain)."""
    name = words("synthetic.one generator", _where(one))
    if one.train_domain == "all":
        return name
    return words("synthetic.noted", {"text": name, "note": one.train_domain})


def _generator(one: Audit, words: Words) -> dict[str, Any]:
    return {
        "name": _one(one, words),
        "used": words.listed(list(one.strategies)),
        "images": DASH if one.images is None else f"{one.images:,}",
        "outcome": one.memorization or "",
        "memorization": _memorization(one, words),
        "collapsed": one.collapsed is not None,
    }


def _memorization(one: Audit, words: Words) -> str:
    """How many of the largest pool of images were flagged, and what became of them."""
    if not one.pools:
        return ""
    pool = one.pools[0]
    if pool.memorization["outcome"] == "not applicable":
        why = "; ".join(f"{name}: {reason}" for name, reason in pool.memorization["not_used"].items())
        return words("synthetic.joined", {"first": words("synthetic.unchecked"), "second": why or DASH})
    flagged, images = int(pool.memorization["flagged"]), int(pool.memorization["images"])
    text = words("synthetic.flagged", {"flagged": flagged, "images": images, "share": flagged / max(images, 1)})
    if not flagged:
        return text
    if pool.memorization.get("not_filtered_because"):
        note = words("synthetic.kept private")
    elif not pool.memorization["filtered"]:
        note = words("synthetic.kept")
    elif pool.short > 0:
        note = words("synthetic.short", {"count": pool.short})
    else:
        note = words("synthetic.replaced")
    return words("synthetic.joined", {"first": text, "second": note})


def _fidelity(one: Audit, words: Words) -> dict[str, Any]:
    why = sorted(set(one.fidelity["missing"].values()))
    cells = fidelity_cells(one.fidelity["scores"], words)
    return {"name": _one(one, words), "cells": cells, "missing": "; ".join(why)}


def _basis(found: tuple[Audit, ...], words: Words) -> str:
    """What the figures rest on, of the first audit that measured something."""
    one = next((one for one in found if one.fidelity["scores"]), found[0])
    values = {name: one.fidelity[name] for name in ("rows", "half_rows", "n_patients")}
    return words("synthetic.basis", values | {"encoder": one.encoder, "against": one.against})


def _checks(groups: list[list[Audit]], words: Words) -> list[dict[str, Any]]:
    """Worst outcome of each check over the repeats, a column per generator."""
    names = {check["code"]: check["name"] for own in groups for one in own for check in one.checks}
    rows = []
    for code, name in sorted(names.items()):
        cells = []
        for own in groups:
            outcomes = [check["outcome"] for one in own for check in one.checks if check["code"] == code]
            if not outcomes:
                cells.append({"outcome": "", "count": ""})
                continue
            bad = worst(outcomes)
            values = {"count": outcomes.count(bad), "of": len(outcomes)}
            cells.append({"outcome": bad, "count": words("synthetic.of", values) if len(outcomes) > 1 else ""})
        rows.append({"code": code, "name": name, "cells": cells})
    return rows


def _findings(found: tuple[Audit, ...], words: Words) -> dict[str, Any]:
    """Open findings, issues first: each check once per generator, in its worst and then first repeat."""
    chosen: dict[tuple[Any, str], tuple[Audit, dict[str, Any]]] = {}
    for one in found:
        for check in one.checks:
            if check["outcome"] not in ("issue", "warning"):
                continue
            place = one.group, str(check["code"])
            if place not in chosen or _rank(check) < _rank(chosen[place][1]):
                chosen[place] = one, check
    listed = sorted(chosen.values(), key=lambda pair: (_rank(pair[1]), pair[1]["code"]))
    lines = [
        {
            "outcome": check["outcome"],
            "text": f"{check['code']} {check['name']}",
            "where": _one(one, words),
            "reason": check["reason"],
        }
        for one, check in listed[:MOST_FINDINGS]
    ]
    return {"lines": lines, "more": max(len(listed) - MOST_FINDINGS, 0)}


def _rank(check: dict[str, Any]) -> int:
    return WORST_FIRST.index(check["outcome"])


def _pictures(groups: list[list[Audit]], words: Words) -> list[dict[str, str]]:
    """Pictures of each generator's first repeat, those of the largest budgets first."""
    shown: list[dict[str, str]] = []
    for own in groups:
        first = own[0]
        for name, (folder, file) in first.pictures.items():
            base = name.rpartition(": ")[2]
            if base not in PICTURES or len(shown) >= MOST_PICTURES:
                continue
            source = data_uri(folder, file)
            if source is not None:
                caption = words(f"synthetic.picture {base}", {"name": _one(first, words)})
                shown.append({"source": source, "caption": caption, "name": base})
    return shown


def _curves(groups: list[list[Audit]], words: Words) -> list[dict[str, Any]]:
    """Figures of the training, a line per repeat; generators without curves have none."""
    drawn: list[dict[str, Any]] = []
    for own in groups:
        names = dict.fromkeys(name for one in own for name in one.curves)
        chosen = [name for base in CURVES for name in names if name.rpartition(": ")[2] == base]
        figures: list[Markup] = []
        for name in chosen:
            prefix, _, base = name.rpartition(": ")
            title = words(f"training.{base}")
            texts = {
                "title": words("synthetic.of class", {"title": title, "class": prefix}) if prefix else title,
                "description": words("training.description", {"name": _name(own[0], words)}),
                "x": words("training.step"),
            }
            repeats = [[(x, y) for x, y in one.curves.get(name, [])] for one in own]
            figure = synthetic_figures.training_curve(repeats, texts=texts)
            if figure is not None:
                figures.append(figure)
        if figures and len(drawn) < MOST_CURVES:
            drawn.append({"name": _name(own[0], words), "figures": figures})
    return drawn
