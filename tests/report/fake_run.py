"""Make realistic run folders without a network or a dataset: predictions drawn from a model of patients and strategies.

Each strategy has a skill that grows with the logarithm of the labels; patients and images add their own luck, shared by
all strategies, so that paired comparisons behave as they do on real data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from tests.report import fake_synthesis


@dataclass(frozen=True, kw_only=True)
class FakeRun:
    """What the fake run is like; see `make`."""

    name: str = "mitosis-poc"
    strategies: dict[str, float] = field(
        default_factory=lambda: {"imagenet-probe": 0.0, "uni-probe": 0.55, "scratch": -0.6}
    )
    """Strategy -> skill on top of the baseline's (in standard deviations between classes); the first is the baseline."""
    budgets: tuple[str, ...] = ("20", "50", "100", "300", "100%")
    repeats: int = 5
    domains: tuple[str, ...] = ("Aperio CS2", "Hamamatsu S360", "Hamamatsu XR")
    classes: tuple[str, ...] = ("atypical", "normal")
    patients: int = 100
    images_per_patient: int = 6
    test_share: float = 0.25
    leave_one_out: bool = False
    each_to_each: bool = False
    failures: int = 0
    undefined: bool = False
    """One domain without a single image of the first class: its scores are undefined."""
    simulated: bool = False
    unanimous: bool = False
    final: bool = True
    goal: dict[str, Any] = field(default_factory=lambda: {"metric": "auroc", "target": 0.85, "margin": 0.01})
    gates: dict[str, Any] = field(default_factory=dict)
    costs: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """Strategy -> seconds of one trial."""
    loss: float = 0.0
    """Skill lost out of domain (each-to-each)."""
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Strategy -> keys of its entry in the study file: `remedies`, `image`, `local_labels` (win back what `loss` takes),
    `synthesize` and what belongs to it (then every trial is tested on synthetic images too, see `fake_synthesis`)."""
    backbones: tuple[dict[str, Any], ...] = ()
    """Encoders of the plan beside mobilenetv1-025; the n-th belongs to the n-th strategy."""
    noise: float = 1.0
    seed: int = 0

    @property
    def baseline(self) -> str:
        """The first strategy."""
        return next(iter(self.strategies))


COSTS = {
    "minutes_per_label": 2.0, "hourly_rate": 60.0, "gpu_hour": 3.0, "energy_kwh": 0.3, "cases_per_year": 5000.0,
    "minutes_per_case_now": 4.0, "minutes_per_case_with": 2.0, "miss": 1000.0, "false_alarm": 20.0, "currency": "EUR",
}  # fmt: skip


def make(folder: Path, fake: FakeRun | None = None) -> Path:
    """Write a run folder and return it."""
    fake = fake or FakeRun()
    folder.mkdir(parents=True, exist_ok=True)
    images = _images(fake)
    plan, results = [], []
    failed = 0
    for train_domain, repeat in [(d, r) for d in _train_domains(fake) for r in range(fake.repeats)]:
        test = _test_rows(fake, images, repeat, train_domain)
        train_images = len(images) - len(test)
        for strategy in fake.strategies:
            local = fake.entries.get(strategy, {}).get("local_labels", ())
            for budget in fake.budgets:
                labels = train_images if budget == "100%" else int(budget)
                key = hashlib.sha256(f"{strategy}|{budget}|{repeat}|{train_domain}".encode()).hexdigest()[:20]
                trial = {
                    "key": key, "strategy": strategy, "budget": budget, "labels": labels, "repeat": repeat,
                    "train_domain": train_domain, "local_labels": 0,
                }  # fmt: skip
                plan.append(trial)
                if strategy != fake.baseline and failed < fake.failures:
                    failed += 1
                    _write(
                        folder / "trials" / key / "failure.json",
                        {name: trial[name] for name in ("strategy", "budget", "repeat", "train_domain")}
                        | {"reason": "the loss became NaN at step 12", "traceback": "Traceback ..."},
                    )
                    continue
                results.append(_trial(folder, fake, trial, test))
                for number, target in [(n, d) for n in local for d in fake.domains if d != train_domain]:
                    name = f"{key}|{number}|{target}"
                    more = {"key": hashlib.sha256(name.encode()).hexdigest()[:20], "local_labels": number}
                    adapted = trial | more | {"labels": labels + number, "target_domain": target}
                    plan.append(adapted)
                    results.append(_trial(folder, fake, adapted, test[test["domain"] == target]))
    _common(folder, fake, images, plan)
    fake_synthesis.write_artifacts(folder, fake, plan)
    pd.concat(results, ignore_index=True).to_parquet(folder / "results.parquet", index=False)
    if fake.final:
        _final(folder, fake)
    return folder


def _images(fake: FakeRun) -> pd.DataFrame:
    rng = np.random.default_rng(fake.seed)
    count = fake.patients * fake.images_per_patient
    patient = np.repeat(np.arange(fake.patients), fake.images_per_patient)
    domain = np.array(fake.domains or ("",))[patient % max(len(fake.domains), 1)]
    code = rng.choice(len(fake.classes), size=count, p=_prevalence(len(fake.classes)))
    if fake.undefined:
        code = np.where((domain == fake.domains[-1]) & (code == 0), 1, code)
    return pd.DataFrame(
        {
            "id": [f"images/{number:05d}" for number in range(count)],
            "patient": [f"P{number:03d}" for number in patient],
            "domain": domain if fake.domains else None,
            "code": code,
            "luck": rng.normal(size=count) + 0.6 * rng.normal(size=fake.patients)[patient],
            "unanimous": rng.random(count) < 0.7,
        }
    )


def _prevalence(classes: int) -> np.ndarray:
    shares = np.ones(classes)
    shares[0] = 0.6
    return shares / shares.sum()


def _train_domains(fake: FakeRun) -> list[str]:
    if fake.leave_one_out:
        return [f"not:{name}" for name in fake.domains]
    return list(fake.domains) if fake.each_to_each else ["all"]


def _test_rows(fake: FakeRun, images: pd.DataFrame, repeat: int, train_domain: str) -> pd.DataFrame:
    if train_domain.startswith("not:"):
        rows = images[images["domain"] == train_domain.removeprefix("not:")].copy()
    else:
        rng = np.random.default_rng([fake.seed, repeat])
        names = sorted(images["patient"].unique())
        chosen = set(rng.choice(names, size=round(len(names) * fake.test_share), replace=False))
        rows = images[images["patient"].isin(chosen)].copy()
    rows["test_domain"] = "all" if train_domain == "all" else rows["domain"]
    return rows


def _trial(folder: Path, fake: FakeRun, trial: dict[str, Any], test: pd.DataFrame) -> pd.DataFrame:
    strategy, labels = trial["strategy"], trial["labels"]
    seed = hashlib.sha256(f"{trial['key']}|{fake.seed}".encode()).digest()
    rng = np.random.default_rng(list(seed[:8]))
    skill = 0.35 * np.log10(labels) + fake.strategies[strategy] * min(1.0, labels / 40)
    classes = len(fake.classes)
    signal = np.zeros((len(test), classes))
    lost = 0.0
    if trial["train_domain"] in fake.domains:
        lost = (test["domain"] != trial["train_domain"]).to_numpy() * fake.loss / (1 + trial["local_labels"] / 15)
    signal[np.arange(len(test)), test["code"]] = np.maximum(skill - lost, 0.0)
    own = fake.noise * 0.35 * rng.normal(size=signal.shape)
    shift = 0.25 * rng.normal()
    signal[:, 0] += test["luck"].to_numpy() + shift
    probabilities = np.exp(signal + own)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    threshold = 0.4 if classes == 2 else 0.5
    chosen = probabilities.argmax(axis=1) if classes > 2 else np.where(probabilities[:, 0] >= threshold, 0, 1)
    names = np.array(fake.classes)
    table = pd.DataFrame(
        {
            "id": test["id"], "patient": test["patient"], "domain": test["domain"], "test_domain": test["test_domain"],
            "parent": None, "label": names[test["code"]],
        }
    ).assign(**{f"p_{name}": probabilities[:, number] for number, name in enumerate(fake.classes)})  # fmt: skip
    table = table.assign(threshold=threshold, predicted=names[chosen])
    here = folder / "trials" / trial["key"]
    here.mkdir(parents=True)
    for column in ("id", "patient", "domain", "test_domain", "parent", "label", "predicted"):
        table[column] = table[column].astype("string")
    made = fake_synthesis.tested(fake, trial, table)
    (table if made is None else pd.concat([table, made])).to_parquet(here / "predictions.parquet", index=False)
    rows = _scores(fake, trial, table, test)
    if made is not None:
        rows = pd.concat([rows, _scores(dataclasses.replace(fake, unanimous=False), trial, made, made)])
    rows.to_parquet(here / "results.parquet", index=False)
    worst = _worst(here, table, probabilities, chosen, test)
    _write(here / "record.json", _record(fake, trial, threshold, worst) | fake_synthesis.facts(fake, trial))
    return rows


METRICS = ("auroc", "balanced_accuracy", "sensitivity", "specificity", "brier")


def _scores(fake: FakeRun, trial: dict[str, Any], table: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Rows of results.parquet; the scores are real, their bounds are not (the report takes its own from predictions)."""
    from wazuka.evaluate.classification import score

    positive = fake.classes[0] if len(fake.classes) == 2 else None
    fixed = {name: trial[name] for name in ("strategy", "budget", "labels", "repeat", "train_domain")}
    fixed |= {"split_hash": _split_hash(trial), "trial": trial["key"]}
    fixed |= {"local_labels": trial["local_labels"]}
    parts = [(str(name), "", rows) for name, rows in table.groupby("test_domain")]
    if trial["train_domain"] == "all" and len(fake.domains) > 1:
        parts += [(str(name), "", rows) for name, rows in table.groupby("domain")]
    if fake.unanimous:
        agreed = test["unanimous"].to_numpy()
        parts += [("all", suffix, table[mask]) for suffix, mask in (("_unanimous", agreed), ("_disputed", ~agreed))]
    rows = []
    for part, suffix, some in parts:
        counts = {"n_patients": some["patient"].nunique(), "n_images": len(some)}
        for metric, name, value in score(some, classes=fake.classes, positive=positive, metrics=METRICS):
            value = np.nan if value is None else value
            ends = {"value": value, "low": value - 0.05, "high": value + 0.05}
            rows.append(fixed | counts | ends | {"test_domain": part, "metric": metric + suffix, "class": name})
    return pd.DataFrame(rows)


def _split_hash(trial: dict[str, Any]) -> str:
    return hashlib.sha256(f"{trial['repeat']}{trial['train_domain']}".encode()).hexdigest()[:20]


def _worst(
    here: Path, table: pd.DataFrame, probabilities: np.ndarray, chosen: np.ndarray, test: pd.DataFrame
) -> list[dict[str, Any]]:
    sure = probabilities[np.arange(len(table)), chosen]
    wrong = np.flatnonzero(chosen != test["code"].to_numpy())
    kept = []
    (here / "thumbnails").mkdir()
    for number, row in enumerate(wrong[np.argsort(-sure[wrong], kind="stable")][:8]):
        rng = np.random.default_rng(int(row))
        grid = np.kron(rng.integers(90, 220, size=(6, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(grid).save(here / "thumbnails" / f"{number}.png")
        kept.append(
            {
                "id": table["id"].iloc[row],
                "label": table["label"].iloc[row],
                "predicted": table["predicted"].iloc[row],
                "probability": round(float(sure[row]), 4),
                "file": f"thumbnails/{number}.png",
            }
        )
    return kept


def _record(fake: FakeRun, trial: dict[str, Any], threshold: float, worst: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": 1,
        "step": "trial",
        **trial,
        "name": f"{trial['strategy']}, {trial['budget']} labels",
        "inputs": ["adapt/aaaa", f"encoder/{_encoder(fake, trial['strategy'])}"],
        "config": {"name": trial["strategy"], "backbone": "mobilenetv1-025", "weights": "pretrained", "pretrain": None,
                   "adapt": {"name": "linear-probe", "config": {"penalties": 9}}, "image": {"crop": 64, "size": 224}},
        "rows_hash": "0" * 20, "split_hash": _split_hash(trial), "seed": 1, "threshold": threshold,
        "notes": {"penalty": 0.01}, "curves": {}, "inner_split": trial["labels"] >= 50, "worst": worst,
        "domains_tested": list(fake.domains),
        "versions": {"python": "3.11.9", "wazuka": "0.1.0", "torch": "2.15.0", "numpy": "2.4.0"},
        "device": "cpu", "threads": 2, "seconds": fake.seconds.get(trial["strategy"], 2.0), "peak_memory_mb": 900.0, "memory_mb": 734.2,
    }  # fmt: skip


def _encoder(fake: FakeRun, strategy: str) -> str:
    """Key of the strategy's encoder step."""
    number = list(fake.strategies).index(strategy)
    return f"cc{number}" if number < len(fake.backbones) else "bbbb"


def _common(folder: Path, fake: FakeRun, images: pd.DataFrame, plan: list[dict[str, Any]]) -> None:
    study = {
        "name": fake.name, "dataset": "datasets/mitosis", "budgets": list(fake.budgets), "repeats": fake.repeats,
        "test": {"domain": "leave-one-out"} if fake.leave_one_out else {"domain": "each-to-each"} if fake.each_to_each
        else {"patients": "25%", "redraw": "auto"},
        "baseline": fake.baseline,
        "strategies": {name: {"backbone": "mobilenetv1-025", "weights": "pretrained",
                              "adapt": {"method": "linear-probe"}} | fake.entries.get(name, {})
                       for name in fake.strategies},
        "goal": fake.goal, "gates": fake.gates, "threads_per_trial": 2, "seed": 0, "min_class_patients": 5,
    }  # fmt: skip
    if fake.costs is not None:
        study["costs"] = fake.costs
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False, allow_unicode=True), encoding="utf-8")
    steps = [
        {"kind": "encoder", "key": "bbbb", "name": "backbone mobilenetv1-025", "needs": [], "args": {"backbone": {
            "name": "mobilenetv1-025", "license": "Apache-2.0", "commercial_use": "yes", "source": "tf.keras",
            "weights_hash": "ab" * 32, "note": ""}}},
        {"kind": "adapt", "key": "aaaa", "name": "linear-probe", "needs": ["encoder/bbbb"], "args": {}},
    ]  # fmt: skip
    for number, one in enumerate(fake.backbones):
        args = {"backbone": {"weights_hash": f"{number}d" * 32, "note": ""} | one}
        steps.append({"kind": "encoder", "key": f"cc{number}", "name": "backbone", "needs": [], "args": args})
    not_measured = [{"what": "strategy uni-lora", "why": "its weights are not on this machine (gated download)"}]
    _write(
        folder / "plan.json",
        {"schema": 1, "study_key": "k" * 20, "trials": plan, "steps": steps, "not_measured": not_measured},
    )
    names = np.array(fake.classes)[images["code"]]
    labeled = images.assign(label=names)
    card = {"name": "mitosis", "task": "classification", "classes": list(fake.classes), "positive": fake.classes[0],
            "modality": "histology", "intensity": "rgb8", "license": "CC0", "source": "AMi-Br",
            "fingerprint": "f" * 20, "patient_source": "table", "attributes": {"scanner": "table"},
            "simulated": fake.simulated, "imported": {"kind": "table", "notes": ["label column `label`"]}}  # fmt: skip
    if len(fake.classes) != 2:
        card["positive"] = None
    counts = {
        "images": len(images), "labeled": len(images), "patients": int(images["patient"].nunique()),
        "classes": {name: _count(labeled[labeled["label"] == name]) for name in fake.classes},
        "domains": {name: _count(labeled[labeled["domain"] == name]) for name in fake.domains},
        "left_out_classes": {"basophil": 1}, "quarantined": 3, "quarantine_reasons": {"truncated PNG": 3},
        "orphan_masks": 0,
    }  # fmt: skip
    checks = [
        {"code": "WZ101", "name": "unreadable files", "outcome": "warning", "count": 3, "threshold": "0 files",
         "reason": "3 files could not be decoded and were set aside.", "ids": ["images/a", "images/b", "images/c"]},
        {"code": "WZ201", "name": "exact duplicates", "outcome": "passed", "count": 0, "threshold": "0",
         "reason": "No two images have the same pixels.", "ids": []},
        {"code": "WZ301", "name": "label confounded with domain", "outcome": "issue", "count": 2,
         "threshold": "Cramér's V 0.3", "reason": "Class and scanner go together (V = 0.34).", "ids": []},
    ]  # fmt: skip
    leakage = {
        "evidence": "patient column of the table", "groups": int(images["patient"].nunique()), "images": len(images),
        "naive": 0.8112, "grouped": 0.7631, "inflation": {"estimate": 0.0481, "low": 0.0212, "high": 0.0750},
        "rounds": 20, "skipped": 0, "verdict": "a naive split flatters the score",
    }  # fmt: skip
    data = {"card": card, "counts": counts, "checks": checks, "leakage": leakage, "simulated": fake.simulated}
    _write(folder / "data.json", data)
    for step, seconds in (("encoder/bbbb", 1.0), ("adapt/aaaa", 30.0)):
        record = {"schema": 1, "step": step.split("/")[0], "key": step.split("/")[1], "seconds": seconds, "inputs": []}
        record |= {"problems": 75, "backbone": "mobilenetv1-025", "license": "Apache-2.0", "commercial_use": "yes"}
        _write(folder / "artifacts" / step / "record.json", record)


def _count(rows: pd.DataFrame) -> dict[str, int]:
    return {"images": len(rows), "patients": int(rows["patient"].nunique())}


def _final(folder: Path, fake: FakeRun) -> None:
    record = {
        "schema": 1, "step": "final", "key": "final", "strategy": list(fake.strategies)[-1], "labels": 600,
        "reason": "the baseline: no strategy was adopted", "seconds": 4.2, "size_mb": 1.9, "memory_mb": 734.2,
        "latency_ms": {"median": 12.1, "p95": 15.8}, "trained_params": 514, "inputs": [],
        "device": "cpu", "threads": 2,
    }  # fmt: skip
    record["strategy"] = fake.baseline
    _write(folder / "final" / "record.json", record)
    _write(folder / "final" / "predictor.json", {"kind": "linear", "licenses": {"mobilenetv1-025": "Apache-2.0"}})


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
