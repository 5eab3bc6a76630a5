"""A pretrainer that moves every weight a little; it writes down what it was handed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wazuka.core.records import write_json
from wazuka.training.roles import Pretrained, Pretrainer, PretrainTask, Runtime


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `toy`."""

    size: float = 0.01
    """Size of the move."""
    fail: bool = False
    """Whether to break down, as a pretraining may."""


def fit(task: PretrainTask, *, config: Config, runtime: Runtime) -> Pretrained:
    """Add noise to the weights, its seed and the images' mean decide how much."""
    if config.fail:
        raise RuntimeError("no luck today")
    runtime.folder.joinpath("checkpoint").touch()
    handed = {one.name: type(getattr(task, one.name)).__name__ for one in dataclasses.fields(task)}
    handed["images"] = [one.name for one in dataclasses.fields(task.images)]  # type: ignore[assignment]
    write_json(runtime.folder / "handed.json", handed | {"rows": task.images.rows.tolist()})
    generator = torch.Generator().manual_seed(task.seed)
    mean = float(task.images.batch(np.arange(len(task.images))).mean())
    state: dict[str, Any] = {}
    for name, value in task.encoder.build().state_dict().items():
        noise = torch.rand(value.shape, generator=generator)
        state[name] = value + config.size * mean / 255 * noise if value.is_floating_point() else value
    return Pretrained(encoder=task.encoder, state=state, notes={"images": len(task.images)})


METHOD = Pretrainer(
    name="toy",
    config=Config,
    summary="moves every weight a little",
    code_version=1,
    fit=fit,
    images_trained=lambda config, images: images,
)
