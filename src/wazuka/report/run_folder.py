"""Read a run folder (CONTRACTS, section 4) into memory: plain values and tables, never the dataset, never a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wazuka.core.config import read_yaml
from wazuka.core.errors import ArtifactError
from wazuka.core.records import RECORD, is_finished, read_json, read_table

KEYS = ["strategy", "budget", "repeat", "train_domain", "local_labels"]
"""What a trial is: these columns name it."""


TRANSDUCTIVE = frozenset({"test-batchnorm"})
"""Remedies that look at the test images of a domain together."""


@dataclass(frozen=True)
class Trial:
    """A finished trial."""

    folder: Path
    record: dict[str, Any]

    @property
    def strategy(self) -> str:
        """Name of its strategy."""
        return str(self.record["strategy"])

    @property
    def budget(self) -> str:
        """Budget as written in the study."""
        return str(self.record["budget"])

    @property
    def local_labels(self) -> int:
        """Labels of the target domain added on top of the budget; such a trial is no part of the ordinary estimates."""
        return int(self.record.get("local_labels", 0))

    @property
    def seconds(self) -> float | None:
        """Time the trial took; None if not recorded."""
        return total_seconds(self.record)

    def predictions(self) -> pd.DataFrame:
        """One row per test image."""
        return read_table(self.folder / "predictions.parquet")


@dataclass(frozen=True)
class RunFolder:
    """All that the report is made from.

    Attributes:
        study: The resolved study file.
        plan: `plan.json`.
        data: `data.json`: card, counts, checks, leakage certificate, whether it is simulated.
        trials: Finished trials in the plan's order.
        failures: `failure.json` of the failed ones.
        unfinished: Planned trials that have neither.
        results: `results.parquet`, or the trials' own rows where it is not there yet.
        steps: Records of shared steps by id (`adapt/KEY`).
        final: Record of the refitted model; None before it is made.
    """

    path: Path
    study: dict[str, Any]
    plan: dict[str, Any]
    data: dict[str, Any]
    trials: tuple[Trial, ...]
    failures: tuple[dict[str, Any], ...]
    unfinished: tuple[dict[str, Any], ...]
    results: pd.DataFrame
    steps: dict[str, dict[str, Any]]
    final: dict[str, Any] | None
    predictor: dict[str, Any] | None

    @property
    def simulated(self) -> bool:
        """Whether any of the data are simulated."""
        return bool(self.data.get("simulated"))

    @property
    def baseline(self) -> str:
        """Name of the strategy that others are compared with."""
        return str(self.study["baseline"])

    @property
    def metric(self) -> str:
        """The study's metric."""
        return str((self.study.get("goal") or {}).get("metric", "auroc"))

    @property
    def margin(self) -> float:
        """Smallest difference that matters."""
        return float((self.study.get("goal") or {}).get("margin", 0.01))

    @property
    def target(self) -> float | None:
        """Score to reach, if the study names one."""
        value = (self.study.get("goal") or {}).get("target")
        return None if value is None else float(value)

    @property
    def classes(self) -> list[str]:
        """Classes of the study, in the order of the probability columns."""
        counted = self.data.get("counts", {}).get("classes")
        return list(counted) if counted else [str(one) for one in self.data.get("card", {}).get("classes", [])]

    @property
    def positive(self) -> str | None:
        """The class that sensitivity is about (two classes)."""
        if len(self.classes) != 2:
            return None
        named = self.data.get("card", {}).get("positive")
        return named if named in self.classes else self.classes[1]

    @property
    def strategies(self) -> list[str]:
        """Strategies in the order of the study file."""
        return [str(name) for name in self.study["strategies"]]

    @property
    def transductive(self) -> tuple[str, ...]:
        """Strategies that adapt to the test images, without their labels, when they predict."""
        entries = self.study["strategies"].items()
        return tuple(str(name) for name, one in entries if set((one or {}).get("remedies") or ()) & TRANSDUCTIVE)

    def trials_of(self, strategy: str, budget: str) -> list[Trial]:
        """The finished trials of a strategy at a budget, those with local labels left out."""
        return [one for one in self.trials if (one.strategy, one.budget, one.local_labels) == (strategy, budget, 0)]


NEEDED = ("strategy", "budget", "labels", "repeat", "train_domain", "seconds")
"""What the report reads of every trial's record."""


def _whole_record(folder: Path) -> dict[str, Any]:
    record = read_json(folder / RECORD)
    missing = [one for one in NEEDED if one not in record]
    if missing:
        raise ArtifactError(
            f"{folder / RECORD} lacks `{missing[0]}`; remove the folder and run the study's command again."
        )
    return dict(record)


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        ArtifactError: If it is no run folder, a part is damaged, or no trial has finished.
    """
    path = Path(path)
    if not (path / "study.yaml").is_file():
        raise ArtifactError(f"{path} has no study.yaml; give a run folder made by `wazuka poc` or `wazuka run`.")
    study = read_yaml(path / "study.yaml")
    for key in ("strategies", "baseline"):
        if key not in study:
            raise ArtifactError(f"{path}/study.yaml lacks `{key}`; it must be the resolved study that the run wrote.")
    plan, data = read_json(path / "plan.json"), read_json(path / "data.json")
    if not {"card", "counts"} <= set(data):
        raise ArtifactError(
            f"{path / 'data.json'} lacks `card` or `counts`; remove it and run the study's command again."
        )
    trials, failures, unfinished = [], [], []
    for planned in plan.get("trials", []):
        folder = path / "trials" / str(planned["key"])
        if is_finished(folder):
            trials.append(Trial(folder, _whole_record(folder)))
        elif (folder / "failure.json").is_file():
            failures.append(dict(planned) | read_json(folder / "failure.json"))
        else:
            unfinished.append(dict(planned))
    if not trials:
        reason = f"; the first failed: {failures[0].get('reason')}" if failures else ""
        raise ArtifactError(f"{path} has no finished trial{reason}; run the study's command again.")
    final = path / "final"
    return RunFolder(
        path=path,
        study=study,
        plan=plan,
        data=data,
        trials=tuple(trials),
        failures=tuple(failures),
        unfinished=tuple(unfinished),
        results=_results(path, trials),
        steps=_steps(path, {str(one["key"]) for one in plan.get("steps", []) if one["kind"] == "audit"}),
        final=read_json(final / RECORD) if is_finished(final) else None,
        predictor=read_json(final / "predictor.json") if (final / "predictor.json").is_file() else None,
    )


def total_seconds(record: dict[str, Any]) -> float | None:
    """Time of a record: a number, or one per part."""
    value = record.get("seconds")
    if isinstance(value, dict):
        return float(sum(one for one in value.values() if isinstance(one, int | float)))
    return None if value is None else float(value)


def _results(path: Path, trials: list[Trial]) -> pd.DataFrame:
    if (path / "results.parquet").is_file():
        return read_table(path / "results.parquet")
    parts = [read_table(one.folder / "results.parquet") for one in trials]
    return pd.concat(parts, ignore_index=True)


def _steps(path: Path, audits: set[str]) -> dict[str, dict[str, Any]]:
    """Records of shared steps, by `KIND/KEY`; an audit that is no longer planned (made by older code, say) is left out."""
    found = {}
    for record in sorted((path / "artifacts").glob(f"*/*/{RECORD}")):
        if record.parent.parent.name == "audit" and record.parent.name not in audits:
            continue
        found[f"{record.parent.parent.name}/{record.parent.name}"] = read_json(record)
    return found
