"""The report's part on what leaving out memorized images changes: figures of all images made beside those of images kept.

Read from the audits' records (`study/synthetic/filtering.py` measured it); nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wazuka.report.audits import Audit, read_audits
from wazuka.report.judgement import Judgement
from wazuka.report.run_folder import RunFolder
from wazuka.report.words import DASH, Words, minus

METRICS = ("frechet", "kernel", "precision", "recall", "density", "coverage")
DISTANCES = ("frechet", "kernel")
SIDES = ("made", "kept")
MOST_SETS = 20
"""Most sets on a page; report.json has all."""


@dataclass(frozen=True, kw_only=True)
class FilteredSet:
    """One set of synthetic images that went through the filter.

    Attributes:
        audit: Of the generator that made them.
        facts: As `study.synthetic.filtering.what_changes` and `measure_change` give them.
    """

    audit: Audit
    facts: Mapping[str, Any]

    @property
    def changed(self) -> bool:
        """Whether any image was left out."""
        return bool(self.facts["changed"])

    @property
    def flagged(self) -> int:
        """Images flagged among those made first."""
        return int(self.facts["made"]["flagged"])


def read_sets(run: RunFolder) -> tuple[FilteredSet, ...]:
    """Read every set of images, in the order of their generators' audits; none of audits that did not measure it."""
    records = {str(one["generator"]): one for name, one in run.steps.items() if name.startswith("audit/")}
    return tuple(
        FilteredSet(audit=one, facts=facts)
        for one in read_audits(run)
        for facts in records[one.key].get("filtering", [])
    )


def filtered(judgement: Judgement, words: Words) -> dict[str, Any] | None:
    """What filtering changes, in words and cells; None where no audit measured it."""
    found = read_sets(judgement.run)
    if not found:
        return None
    changed = [one for one in found if one.changed]
    kept = [one for one in found if not one.changed and one.flagged]
    clean = len(found) - len(changed) - len(kept)
    lines = [words("filtering.kept", {"set": _name(one, words), **_flags(one)}) for one in kept]
    if clean:
        lines.append(words("filtering.none" if clean == len(found) else "filtering.others", {"count": clean}))
    return {
        "lines": lines,
        "titles": [words(f"fidelity.{name}") for name in METRICS],
        "sets": [_rows(one, words) for one in changed[:MOST_SETS]],
        "more": max(len(changed) - MOST_SETS, 0),
        "by_audit": any(one.facts["audit_flagged"] is not None for one in changed),
    }


def _flags(one: FilteredSet) -> dict[str, Any]:
    return {"flagged": one.flagged, "images": int(one.facts["made"]["images"])}


def _name(one: FilteredSet, words: Words) -> str:
    """A set by its generator, its repeat (and train domain), and what it is for."""
    values = {"name": one.audit.strategies[0], "budget": one.audit.budget, "repeat": one.audit.repeat + 1}
    name = words("synthetic.one generator", values)
    if one.audit.train_domain != "all":
        name = words("synthetic.noted", {"text": name, "note": one.audit.train_domain})
    part = "filtering.for testing" if one.facts["part"] == "test" else "filtering.for training"
    return words("synthetic.noted", {"text": name, "note": words(part)})


def _rows(one: FilteredSet, words: Words) -> dict[str, Any]:
    facts = one.facts
    sides = []
    for side in SIDES:
        own, images = facts[side], max(int(facts[side]["images"]), 1)
        again = facts["audit_flagged"]
        sides.append(
            {
                "title": words("filtering.made" if side == "made" else "filtering.left"),
                "images": f"{own['images']:,}",
                "classes": ", ".join(f"{name} {count:,}" for name, count in own["classes"].items()),
                "flagged": words("filtering.share", {"count": own["flagged"], "share": own["flagged"] / images}),
                "by_audit": DASH
                if again is None
                else words("filtering.share", {"count": again[side], "share": again[side] / images}),
                "cells": fidelity_cells(facts["fidelity"][side]["scores"], words),
            }
        )
    missing = facts["fidelity"]["made"]["missing"]
    return {
        "name": _name(one, words),
        "about": words("filtering.about", {"replaced": facts["replaced"], "rows": facts["rows"]}),
        "missing": "; ".join(sorted(set(missing.values()))),
        "sides": sides,
    }


def fidelity_cells(scores: Mapping[str, Mapping[str, float]], words: Words) -> list[dict[str, str]]:
    """Per metric its value, its interval, and real to synthetic beside real to real; dashes where not measured."""
    cells = []
    for name in METRICS:
        score = scores.get(name)
        if score is None:
            cells.append({"value": DASH, "interval": "", "floor": ""})
            continue
        ends = {key: number(name, score[key]) for key in ("value", "low", "high", "matched", "floor")}
        cells.append(
            {
                "value": minus(ends["value"]),
                "interval": minus(words("synthetic.from to", ends)),
                "floor": minus(words("synthetic.beside floor", ends)),
            }
        )
    return cells


def number(metric: str, value: float) -> str:
    """Three digits that count; kernel distances in thousandths."""
    if metric not in DISTANCES:
        return f"{value:.3f}"
    value *= 1000 if metric == "kernel" else 1
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}" if abs(value) >= 1e-3 else f"{value:.3f}"


def sets_json(run: RunFolder, *, digits: int) -> list[dict[str, Any]]:
    """Every set in plain values for `report.json`."""
    return [
        {
            "generator": one.audit.key,
            "strategies": list(one.audit.strategies),
            "budget": one.audit.budget,
            "repeat": one.audit.repeat,
            "train_domain": one.audit.train_domain,
            "encoder": one.audit.encoder,
            "against": one.audit.against,
        }
        | {name: value for name, value in one.facts.items() if name not in ("steps", "fidelity")}
        | {"fidelity": _short(one.facts.get("fidelity"), digits)}
        for one in read_sets(run)
    ]


def _short(found: Mapping[str, Any] | None, digits: int) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        side: {
            **figures,
            "scores": {
                name: {key: float(f"{value:.{digits}g}") for key, value in score.items()}
                for name, score in figures["scores"].items()
            },
        }
        for side, figures in found.items()
    }
