"""Before long work: how long, how much memory and how much disk on this machine, from short measurements.

The figures are for planning, not for the report: frozen features from a timed batch of the real network, training at
three forward passes a step (forward and backward), decoding from a few real files.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka import adapt, pretrain
from wazuka.core.errors import WazukaError
from wazuka.core.progress import say
from wazuka.core.records import is_finished, out_of_space
from wazuka.data import decode
from wazuka.data.manifest import Dataset
from wazuka.nn import encoders, features
from wazuka.study.config import Study
from wazuka.study.data import StudyData
from wazuka.study.plan import Plan, step_folder
from wazuka.study.steps import Settings

FORWARD_PASSES_PER_TRAINING_STEP = 3.0
"""One forward and a backward pass that costs about two."""
TRAINING_BATCH = 32
"""Images whose activations are held at once, about sixty float32 copies of each."""
SAMPLE_FILES = 8
PROBE_SECONDS = 0.05
"""Exact solve of one budget of one repeat with its penalties and folds, a few hundred features."""
BASE_MEMORY_MB = 900
"""Python with torch loaded."""


def estimate(
    study: Study,
    data: StudyData,
    plan: Plan,
    *,
    run: Path,
    settings: Settings,
    workers: int,
    quiet: bool = False,
) -> dict[str, float]:
    """Estimate `{seconds, memory_mb, disk_mb, trials}` of what is still to be done, say it, and check the disk.

    Raises:
        OutOfSpace: If less is free than the run needs.
    """
    todo = [one for one in plan.trials if not is_finished(step_folder(run, one) or run)]
    seconds = disk = memory = 0.0
    per_image = {one.folder: _decode_seconds(one) for one in data.datasets}
    speeds: dict[tuple[str, int], float] = {}
    for step in plan.steps.values():
        if step.kind == "pixels":
            dataset = data.datasets[step.args["source"]]
            size = step.args["image"]["size"]
            channels = 3 if dataset.card.intensity == "rgb8" else 1
            bytes_each = size * size * channels * (2 if dataset.card.intensity == "hounsfield" else 1)
            disk += len(dataset.usable) * bytes_each / 2**20
            seconds += len(dataset.usable) * per_image[dataset.folder] / max(1, settings.workers)
        elif step.kind == "features":
            args = plan.steps[step.args["pixels"]].args
            encoder = encoders.from_spec(plan.backbone(step.args["encoder"]))
            count = len(data.datasets[args["source"]].usable)
            seconds += count * _speed(speeds, encoder, args["image"]["size"], settings)
            disk += count * encoder.feature_dim * 4 / 2**20
            memory = max(memory, count * encoder.feature_dim * 8 * 2 / 2**20)
        elif step.kind == "pretrain" and not is_finished(step_folder(run, step) or run):
            chosen = study.strategy(step.args["strategy"])
            assert chosen.pretrain is not None
            encoder = encoders.from_spec(plan.backbone(step.id))
            disk += 4 * _parameters(encoder) / 2**20
            trained = pretrain.METHODS[chosen.pretrain.name].images_trained
            if trained is not None:
                images = trained(chosen.pretrain.config, step.args["images"])
                each = _speed(speeds, encoder, chosen.image.size, settings)
                seconds += FORWARD_PASSES_PER_TRAINING_STEP * images * each
    for step in todo:
        if step.args["artifact"] is not None:
            seconds += PROBE_SECONDS / workers
            continue
        strategy = study.strategy(step.args["strategy"])
        encoder = encoders.from_spec(plan.backbone(step.args["encoder"]))
        each = _speed(speeds, encoder, strategy.image.size, settings)
        method = adapt.METHODS[strategy.adapt.name]
        if method.images_trained is None:
            seconds += PROBE_SECONDS / workers
            continue
        images = method.images_trained(strategy.adapt.config, step.args["labels"])
        seconds += FORWARD_PASSES_PER_TRAINING_STEP * images * each / workers
        disk += 4 * _parameters(encoder) / 2**20
        memory = max(
            memory, 16 * _parameters(encoder) / 2**20 + TRAINING_BATCH * strategy.image.size**2 * 3 * 4 * 60 / 2**20
        )
    found = {
        "seconds": round(seconds, 1),
        "memory_mb": round((BASE_MEMORY_MB + memory) * max(1, workers), 0),
        "disk_mb": round(disk, 1),
        "trials": len(todo),
    }
    if todo and not quiet:
        say(
            f"Estimate: {len(todo)} trials, about {_duration(seconds)}, {found['memory_mb'] / 1024:.1f} GB memory,"
            f" {_megabytes(disk)} disk."
        )
    for folder in {run, Path(settings.cache)}:
        existing = next(one for one in [folder, *folder.parents] if one.exists())
        if shutil.disk_usage(existing).free < disk * 2**20:
            raise out_of_space(folder)
    return found


def _speed(known: dict[tuple[str, int], float], encoder: Any, size: int, settings: Settings) -> float:
    """Seconds per image of a frozen forward pass, measured once per network and size."""
    key = (encoder.weights_hash, size)
    if key not in known:
        known[key] = features.time_per_image(encoder, size=size, device=settings.device)
    return known[key]


def _parameters(encoder: Any) -> int:
    return encoder.parameters or 0


def _decode_seconds(dataset: Dataset) -> float:
    """Seconds to read one image, from a few of the dataset's files."""
    usable = dataset.usable
    chosen = usable.iloc[np.unique(np.linspace(0, len(usable) - 1, SAMPLE_FILES).astype(int))]
    began = time.perf_counter()
    for path, frame in zip(chosen["path"], chosen["frame"], strict=True):
        try:
            decode.decode(dataset.path_of(path), [None if pd.isna(frame) else int(frame)])
        except (decode.DecodeError, OSError, WazukaError):
            continue  # the pixel step reports what cannot be read; here only the time counts
    return (time.perf_counter() - began) / max(1, len(chosen))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _megabytes(value: float) -> str:
    return f"{value:.0f} MB" if value < 1024 else f"{value / 1024:.1f} GB"
