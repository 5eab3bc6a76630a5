"""What tests of training on synthetic rows share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from wazuka import adapt
from wazuka.core.config import build
from wazuka.training.roles import AdaptTask, Fitted, Runtime, SyntheticRows, TrainOn

WAYS: tuple[TrainOn, ...] = ("real+synthetic", "synthetic", "synthetic-then-real")


def add(task: AdaptTask, rows: SyntheticRows | None) -> AdaptTask:
    return dataclasses.replace(task, synthetic=rows)


def fit(name: str, tasks: list[AdaptTask], folder: Path, **config: Any) -> list[Fitted]:
    folder.mkdir(parents=True, exist_ok=True)
    method = adapt.METHODS[name]
    runtime = Runtime(device="cpu", threads=1, folder=folder)
    return method(tasks, config=build(method.config, config, where="adapt"), runtime=runtime)
