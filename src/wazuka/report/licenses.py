"""The license ledger: every backbone that a study's strategies started from, with what its terms allow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wazuka.core.records import read_json
from wazuka.report.judgement import Judgement
from wazuka.report.run_folder import RunFolder
from wazuka.report.words import DASH, Words

ENCODER_FILE = "encoder.json"
COMMERCIAL = ("yes", "no")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One line of the ledger.

    Attributes:
        name: As in the study file; of a file only its name, since reports are mailed.
        license: As its card or file says; None where nothing is recorded.
        commercial_use: `yes`, `no` or `unknown`.
        source: Where the weights come from; None where nothing is recorded.
        gated: Whether the source asks for consent to its terms; None where nothing is recorded.
        weights_hash: Hash of the weights.
        note: What a reader should know.
        strategies: Strategies that start from it, in the study's order.
    """

    name: str
    license: str | None
    commercial_use: str
    source: str | None
    gated: bool | None
    weights_hash: str | None
    note: str
    strategies: tuple[str, ...]


def ledger(run: RunFolder) -> list[Backbone]:
    """List every backbone once, in the plan's order: from the plan, completed by what the steps recorded.

    Two entries of one name (pretrained weights and drawn ones, or a file of the user's) are two lines. A run whose plan
    names no encoder (none was resolved) lists the names in its study file, with unknown terms.
    """
    used = _used(run)
    found = []
    for step in run.plan.get("steps", []):
        if step.get("kind") != "encoder":
            continue
        name = f"encoder/{step['key']}"
        file = run.path / "artifacts" / name / ENCODER_FILE
        saved = read_json(file) if file.is_file() else {}
        spec = dict(step["args"]["backbone"])
        spec |= {key: one for key, one in saved.items() if spec.get(key) in (None, "", "unknown")}
        spec |= {
            key: one
            for key, one in run.steps.get(name, {}).items()
            if key in ("license", "commercial_use", "gated") and one not in (None, "", "unknown")
        }
        found.append(_entry(spec, used.get(name, ())))
    if found:
        return found
    names: dict[str, list[str]] = {}
    for strategy, entry in run.study["strategies"].items():
        given = str((entry or {}).get("backbone", DASH))
        names.setdefault(given.partition("=")[0], []).append(str(strategy))
    return [_entry({"name": name}, tuple(strategies)) for name, strategies in names.items()]


def _entry(spec: dict[str, Any], strategies: tuple[str, ...]) -> Backbone:
    allowed = spec.get("commercial_use")
    # YAML 1.1 and hand-made cards say true or false
    allowed = {True: "yes", False: "no"}.get(allowed, allowed) if isinstance(allowed, bool) else allowed
    gated = {"yes": True, "no": False}.get(str(spec.get("gated")), spec.get("gated"))
    return Backbone(
        name=Path(str(spec["name"])).name,
        license=_known(spec.get("license")),
        commercial_use=str(allowed) if allowed in COMMERCIAL else "unknown",
        source=_known(spec.get("source")),
        gated=None if gated is None else bool(gated),
        weights_hash=_known(spec.get("weights_hash")),
        note=str(spec.get("note") or ""),
        strategies=strategies,
    )


def _known(value: Any) -> str | None:
    return None if value in (None, "", "unknown") else str(value)


def _used(run: RunFolder) -> dict[str, tuple[str, ...]]:
    """Encoder step -> strategies whose trials came from it, directly or through pretraining."""
    sources = {
        f"{step['kind']}/{step['key']}": str(step["args"]["encoder"])
        for step in run.plan.get("steps", [])
        if step.get("kind") == "pretrain" and "encoder" in step.get("args", {})
    }
    pairs = {
        (sources.get(str(one), str(one)), trial.strategy)
        for trial in run.trials
        for one in trial.record.get("inputs", [])
    }
    encoders = {name for name, _ in pairs if name.startswith("encoder/")}
    return {name: tuple(one for one in run.strategies if (name, one) in pairs) for name in encoders}


def licenses(judgement: Judgement, words: Words) -> dict[str, Any]:
    """The ledger as the page shows it: rows, and warnings on terms that forbid or do not name commercial use."""
    run, unknown = judgement.run, words("licenses.unknown")
    found = ledger(run)
    rows = []
    for one in found:
        notes = [words("licenses.gated")] if one.gated else []
        rows.append(
            {
                "name": one.name,
                "license": one.license or unknown,
                "allowed": one.commercial_use,
                "commercial": unknown if one.commercial_use == "unknown" else words(one.commercial_use),
                "source": local_name(one.source) if one.source else unknown,
                "hash": (one.weights_hash or DASH)[:12],
                "used": [words.named(run, name) for name in one.strategies],
                "notes": [*notes, one.note] if one.note else notes,
            }
        )
    warnings = []
    for allowed, key in (("no", "licenses.warn no"), ("unknown", "licenses.warn unknown")):
        names = [
            words("licenses.named", {"name": one.name, "license": one.license or unknown})
            for one in found
            if one.commercial_use == allowed
        ]
        if names:
            warnings.append(words(key, {"names": list(dict.fromkeys(names))}))
    return {"rows": rows, "warnings": warnings}


def to_json(run: RunFolder) -> list[dict[str, Any]]:
    """The ledger for `report.json`."""
    return [
        {
            "name": one.name,
            "license": one.license,
            "commercial_use": one.commercial_use,
            "source": local_name(one.source) if one.source else None,
            "gated": one.gated,
            "weights_hash": one.weights_hash,
            "note": one.note,
            "strategies": list(one.strategies),
        }
        for one in ledger(run)
    ]


def local_name(source: str) -> str:
    """Where something came from; of a local path only its last part, since reports are mailed."""
    return Path(source).name if source.startswith(("/", "~", "\\\\")) or source[1:3] == ":\\" else source
