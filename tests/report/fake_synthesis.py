"""The part of a fake run that is about synthetic images: test rows, and records of generators, their images and audits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

if TYPE_CHECKING:
    from tests.report.fake_run import FakeRun

CODES = {"WZ201": "memorized training images", "WZ203": "diversity", "WZ211": "distance from the real images"}
METRICS = ("frechet", "kernel", "precision", "recall", "density", "coverage")


def keys(fake: FakeRun, trial: Mapping[str, Any]) -> tuple[str, str] | None:
    """Keys of the generator and of the images that a trial is tested on; None in a study without a generator.

    Strategies with equal `synthesize` share a generator; those that train alike share its images.
    """
    makers = [name for name in fake.strategies if fake.entries.get(name, {}).get("synthesize")]
    if not makers or trial["local_labels"]:
        return None
    entry = fake.entries.get(trial["strategy"], {})
    entry = entry if entry.get("synthesize") else fake.entries[makers[0]]
    where = [trial["budget"], trial["repeat"], trial["train_domain"]]
    generator = _hash(entry["synthesize"], entry.get("split_budget", False), *where)
    return generator, _hash(generator, entry.get("ratio", 1), entry.get("classes", "all"))


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def tested(fake: FakeRun, trial: Mapping[str, Any], real: pd.DataFrame) -> pd.DataFrame | None:
    """Predictions on as many synthetic images as real ones: the same classes, easier to tell apart."""
    found = keys(fake, trial)
    if found is None:
        return None
    table = real.copy()
    names = [f"synthetic/{label}/{2 * number + 1}" for number, label in enumerate(table["label"])]
    table = table.assign(id=names, patient=names, domain=None, test_domain="synthetic")
    rng = np.random.default_rng(list(hashlib.sha256(f"{trial['key']}{found[1]}".encode()).digest()[:8]))
    probabilities = rng.dirichlet(np.ones(len(fake.classes)), size=len(table)) * 0.6
    codes = table["label"].map({name: code for code, name in enumerate(fake.classes)}).to_numpy()
    probabilities[np.arange(len(table)), codes] += 0.4
    for code, name in enumerate(fake.classes):
        table[f"p_{name}"] = probabilities[:, code]
    chosen = probabilities.argmax(axis=1)
    if len(fake.classes) == 2:
        chosen = np.where(probabilities[:, 0] >= table["threshold"], 0, 1)
    table["predicted"] = np.array(fake.classes)[chosen]
    return table.astype(dict.fromkeys(("id", "patient", "domain", "test_domain", "predicted"), "string"))


def facts(fake: FakeRun, trial: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial's record says of synthetic images."""
    found, entry = keys(fake, trial), fake.entries.get(trial["strategy"], {})
    if found is None:
        return {}
    values: dict[str, Any] = {"synthetic_test": f"synthetic/{found[1]}"}
    if entry.get("synthesize"):
        values |= {name: entry[name] for name in ("train_on", "ratio", "classes", "split_budget") if name in entry}
        if entry.get("train_on", "real+synthetic") != "real":
            values |= {"train_on": entry.get("train_on", "real+synthetic"), "collapsed": None}
            values["memorization"] = entry["synthesize"].get("memorization", "passed")
    return values


def write_artifacts(folder: Path, fake: FakeRun, trials: list[dict[str, Any]]) -> None:
    """Write the steps of every generator: their records, pictures and entries in the plan."""
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    known = set()
    for trial in trials:
        entry, found = fake.entries.get(trial["strategy"], {}), keys(fake, trial)
        if found is None or not entry.get("synthesize") or found[1] in known:
            continue
        generator, made = found
        classes = [trial["labels"] // 4] * len(fake.classes)
        if entry.get("classes") == "rare-only":
            classes = [trial["labels"], *[0] * (len(fake.classes) - 1)]
        args = {"generator": f"synthesize/{generator}", "train": classes, "test": [10] * len(fake.classes)}
        steps = [
            ("synthesize", generator, {}, []),
            ("synthetic", made, args, [f"synthesize/{generator}"]),
            ("audit", _hash(generator), {}, [f"synthetic/{made}"]),
        ]
        for kind, key, values, needs in steps if generator not in known else steps[1:2]:
            plan["steps"].append(
                {"kind": kind, "key": key, "name": f"{kind} of {trial['strategy']}", "needs": needs, "args": values}
            )
        outcome = entry["synthesize"].get("memorization", "passed")
        flagged = {"issue": 9, "warning": 3}.get(outcome, 0)
        known.update(found)
        checked = {"flagged": flagged, "images": 20 + sum(classes), "filtered": outcome != "issue"}
        checked |= {"outcome": outcome, "limits_from": "100 held-out real images"}
        checked["not_used"] = {"pixels": "there are 9 training images"} if outcome == "not applicable" else {}
        common = {"schema": 1, "inputs": [], "device": "cpu"}
        curves = {"distance": [[100, 0.5], [200, 0.3 + 0.01 * trial["repeat"]]], "g_loss": [[100, 1.0], [200, 2.0]]}
        _record(
            folder, "synthesize", generator, common | {"seconds": 500.0, "images": trial["labels"], "curves": curves}
            | {"config": {"method": entry["synthesize"]["method"]}, "pictures": {}},
        )  # fmt: skip
        _record(
            folder, "synthetic", made, common | {"seconds": 40.0, "generator": generator, "collapsed": None}
            | {"images": {"train": sum(classes) - flagged // 3, "test": 20}, "memorization": checked},
        )  # fmt: skip
        _audit(folder, _hash(generator), common, trial, generator, entry["synthesize"].get("audit", outcome))
    (folder / "plan.json").write_text(json.dumps(plan, ensure_ascii=False), encoding="utf-8")


def _audit(
    folder: Path, key: str, common: dict[str, Any], trial: dict[str, Any], generator: str, memorization: str
) -> None:
    score = {"value": 1.5, "low": 1.0, "high": 2.0, "matched": 1.75, "floor": 0.25, "floor_low": 0.2, "floor_high": 0.3}
    outcomes = {"WZ201": memorization, "WZ203": "warning" if trial["repeat"] else "passed", "WZ211": "passed"}
    checks = [
        {"code": code, "name": name, "outcome": outcomes[code], "count": 1, "threshold": "t", "reason": f"{code} <b>"}
        for code, name in CODES.items()
    ]
    own = {"strategy": trial["strategy"], "budget": trial["budget"], "repeat": trial["repeat"], "checks": checks}
    scores = {name: score for name in METRICS if name != "recall"}
    fidelity = {"scores": scores, "missing": {"recall": "5 rows"}, "rows": 40, "half_rows": 20, "n_patients": 12}
    own |= {"fidelity": fidelity | {"k": 5, "draws": 100, "splits": 10}, "fidelity_against": "held-out real images"}
    own |= {"compared_with": "30 training images", "encoder": "mobilenetv1-025", "train_domain": trial["train_domain"]}
    own |= {"generator": generator, "collapsed": None, "filter": {}, "pictures": {"grid": "grid.png"}}
    own["filtering"] = _filtering(fidelity | {"k": 5, "draws": 100, "splits": 10}, memorization)
    _record(folder, "audit", key, common | {"seconds": 7.0} | own)
    Image.fromarray(np.full((40, 60, 3), 128, np.uint8)).save(folder / "artifacts" / "audit" / key / "grid.png")


def _filtering(fidelity: dict[str, Any], memorization: str) -> list[dict[str, Any]]:
    """Two sets of images: of a generator with a warning 3 of 50 were replaced, with an issue 9 of 50 were kept all the same."""
    sets = []
    for part in ("train", "test"):
        flagged = {"warning": 3, "issue": 9}.get(memorization, 0) if part == "train" else 0
        made = {"images": 50, "flagged": flagged, "classes": {"a": 30, "b": 20}}
        one: dict[str, Any] = {"part": part, "steps": ["synthetic/x"], "changed": False, "made": made, "kept": made}
        if flagged == 3:
            better = {name: score | {"value": 1.25} for name, score in fidelity["scores"].items()}
            kept = {"images": 49, "flagged": 0, "classes": {"a": 30, "b": 19}}
            one |= {"changed": True, "kept": kept, "replaced": 2, "rows": 47, "classes": {"a": 29, "b": 18}}
            one |= {"fidelity": {"made": fidelity, "kept": fidelity | {"scores": better}}}
            one |= {"audit_flagged": {"made": 4, "kept": 1}}
        sets.append(one)
    return sets


def _record(folder: Path, kind: str, key: str, values: dict[str, Any]) -> None:
    path = folder / "artifacts" / kind / key / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values | {"step": kind, "key": key}), encoding="utf-8")
