"""Before long work: how long, how much memory and how much disk on this machine, from short measurements.

The figures are for planning, not for the report: frozen features from a timed batch of the real network, training at
three forward passes a step (forward and backward), decoding from a few real files. Memory of trainings is counted from
shapes (`nn/memory.py`); one that would not fit is said before the run, with what would fit, and refused where not even a
batch of one image fits.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka import adapt, pretrain, synthesize
from wazuka.core.errors import ConfigError, WazukaError
from wazuka.core.progress import say
from wazuka.core.records import is_finished, out_of_space
from wazuka.data import decode
from wazuka.data.manifest import Dataset
from wazuka.nn import encoders, features
from wazuka.nn.adaptable import adaptable
from wazuka.nn.architectures import build_meta
from wazuka.nn.memory import HEADROOM, HEAP_HEADROOM, Footprint, Room, Trained, Training, footprint, memory_of
from wazuka.study.config import Strategy, Study
from wazuka.study.context import Settings
from wazuka.study.data import StudyData
from wazuka.study.plan import Plan, Step, step_folder
from wazuka.training.loop import choose_precision

FORWARD_PASSES_PER_TRAINING_STEP = 3.0
"""One forward and a backward pass that costs about two."""
TRAINING_BATCH = 32
"""Images a step of a method whose settings name none."""
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
    remote: bool = False,
) -> dict[str, float]:
    """Estimate `{seconds, memory_mb, disk_mb, trials}` of what is still to be done, say it, and check the disk.

    With `remote` trainings run on other machines, whose memory is not this one's: it is not compared with.

    Raises:
        OutOfSpace: If less is free than the run needs.
        ConfigError: If a training does not fit into this machine's memory, not even one image at a time.
    """
    todo = [one for one in plan.trials if not is_finished(step_folder(run, one) or run)]
    seconds = disk = memory = 0.0
    per_image = {one.folder: _decode_seconds(one) for one in data.datasets}
    speeds: dict[tuple[str, int], float] = {}
    trainings: dict[str, Footprint] = {}
    for step in plan.steps.values():
        if step.kind == "pixels":
            dataset = data.datasets[step.args["source"]]
            size = step.args["image"]["size"]
            channels = 3 if dataset.card.intensity == "rgb8" else 1
            bytes_each = size * size * channels * (2 if dataset.card.intensity == "hounsfield" else 1)
            disk += len(dataset.usable) * bytes_each / 2**20
            seconds += len(dataset.usable) * per_image[dataset.folder] / max(1, settings.workers)
        elif step.kind == "features":
            source = plan.steps[step.args["pixels"]]
            synthetic = source.kind == "synthetic"
            args = plan.steps[source.args["pixels"]].args if synthetic else source.args
            encoder = encoders.from_spec(plan.backbone(step.args["encoder"]))
            count = sum(source.args["train"] + source.args["test"]) if synthetic else 0
            count = count or len(data.datasets[args["source"]].usable)
            seconds += count * _speed(speeds, encoder, args["image"]["size"], settings)
            disk += count * encoder.feature_dim * 4 / 2**20
            memory = max(memory, count * encoder.feature_dim * 8 * 2 / 2**20)
            frozen = _footprint(encoder, Training(trained="nothing"), args["image"]["size"])
            memory = max(memory, (4 * _parameters(encoder) if frozen is None else frozen.estimate().total) / 2**20)
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
            training = training_of("", chosen.pretrain.config, device=settings.device, labels=step.args["images"])
            found_bytes = _footprint(encoder, training, chosen.image.size)
            memory = max(memory, 0 if found_bytes is None else found_bytes.estimate().total / 2**20)
        elif step.kind == "synthesize" and not is_finished(step_folder(run, step) or run):
            seconds += _synthesis_seconds(step, study, data, settings) / workers
        elif step.kind == "synthetic":
            size = plan.steps[step.args["pixels"]].args["image"]["size"]
            channels = 3 if data.main.card.intensity == "rgb8" else 1
            disk += sum(step.args["train"] + step.args["test"]) * size * size * channels / 2**20
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
        labels = step.args["labels"] + step.args["local_labels"]
        images = method.images_trained(strategy.adapt.config, labels)
        seconds += FORWARD_PASSES_PER_TRAINING_STEP * images * each / workers
        disk += 4 * _parameters(encoder) / 2**20
        config, classes = strategy.adapt.config, len(data.classes)
        training = training_of(strategy.adapt.name, config, device=settings.device, labels=labels, classes=classes)
        needs = _footprint(encoder, training, strategy.image.size)
        if needs is None:
            continue
        memory = max(memory, needs.estimate().total / 2**20)
        before = trainings.get(strategy.name)
        if before is None or before.training.images < training.images:
            trainings[strategy.name] = needs
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
    if not quiet and not remote:
        room = memory_of(settings.device)
        for name, needs in trainings.items():
            strategy = study.strategy(name)
            trial = next(one for one in todo if one.args["strategy"] == name)
            encoder = encoders.from_spec(plan.backbone(trial.args["encoder"]))
            line = memory_line(strategy, encoder, needs, room, workers=workers, device=settings.device)
            if line is not None:
                say(line)
    for folder in {run, Path(settings.cache)}:
        existing = next(one for one in [folder, *folder.parents] if one.exists())
        if shutil.disk_usage(existing).free < disk * 2**20:
            raise out_of_space(folder)
    return found


_SYNTHESIS: dict[tuple[str, tuple[int, int, int], str], float] = {}


def _synthesis_seconds(step: Step, study: Study, data: StudyData, settings: Settings) -> float:
    """Seconds of training one generator, measured on a step or two, once per settings."""
    strategy = study.strategy(step.args["strategy"])
    assert strategy.synthesis is not None
    chosen = strategy.synthesis.method
    measured = synthesize.METHODS[chosen.name].expected_seconds
    if measured is None:
        return 0.0
    size, channels = strategy.image.size, 3 if data.main.card.intensity == "rgb8" else 1
    key = (f"{chosen.name} {chosen.config}", (size, size, channels), settings.device)
    if key not in _SYNTHESIS:
        _SYNTHESIS[key] = measured(chosen.config, step.args["images"], key[1], settings.device)
    return _SYNTHESIS[key]


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


_KNOWN: dict[tuple[str, Training, int], Footprint] = {}


def _footprint(encoder: encoders.Encoder, training: Training, size: int) -> Footprint | None:
    """Memory of a network, measured once per process; None for a graph, whose inside is not known, and with a word for a
    network whose forward pass depends on values."""
    if encoder.kind == "onnx":
        return None
    key = (encoder.key(), dataclasses.replace(training, images=1), size)
    if key not in _KNOWN:
        try:
            _KNOWN[key] = footprint(encoder, key[1], size=size)
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            say(f"The memory that `{encoder.name}` needs is not estimated: its forward pass needs values ({reason}).")
            return None
    return dataclasses.replace(_KNOWN[key], training=training)


def training_of(method: str, config: Any, *, device: str, labels: int, classes: int = 2) -> Training:
    """Tell what a method trains from its settings; one that is not known here trains the whole network."""
    trained: Trained = (
        "adapters" if method == "lora" else "head" if getattr(config, "train", "all") == "head" else "all"
    )
    versions = 1 + 2 * getattr(config, "mu", 0)  # of images without labels, beside each labeled one
    batch = min(getattr(config, "batch", TRAINING_BATCH), labels) * versions
    average = getattr(config, "ema", None)
    lora = {name: getattr(config, name) for name in ("rank", "targets", "blocks") if method == "lora"}
    return Training(
        trained=trained,
        images=-(-batch // getattr(config, "accumulate", 1)),
        checkpointing=getattr(config, "checkpointing", False),
        half=choose_precision(getattr(config, "precision", "auto"), device) == "bf16",
        moments=1 if getattr(config, "optimizer", "adamw") == "sgd" else 2,
        average=bool(average) or (average is None and method == "fixmatch"),
        classes=classes,
        **lora,
    )


def memory_line(
    strategy: Strategy, encoder: encoders.Encoder, needs: Footprint, room: Room, *, workers: int, device: str
) -> str | None:
    """Say that a training would not fit into the free memory and what would; None where it fits.

    Args:
        needs: Of the strategy's largest training.
        room: Of the device; shared by `workers` processes.

    Raises:
        ConfigError: If not even one image at a time fits into all of the memory.
    """
    gpu = device.startswith("cuda")
    free, total = (one * (1 - (HEADROOM if gpu else HEAP_HEADROOM)) / workers for one in (room.free, room.total))
    if not gpu:
        total -= BASE_MEMORY_MB * 2**20
    if needs.estimate().total <= free:
        return None
    enough = needs.most_images(int(total)) >= 1
    ways = _what_fits(strategy, encoder, needs, int(free if enough else total), device=device)
    where = "this GPU" if gpu else "this machine"
    shared = f" for each of {workers} processes" if workers > 1 else ""
    hint = f"What would fit: {', '.join(ways)}." if ways else "Nothing smaller would fit; take a smaller backbone."
    if enough:
        return (
            f"Memory: `{strategy.name}` needs about {_gigabytes(needs.estimate().total)} for {needs.training.images} images"
            f" at a time, {where} has {_gigabytes(free)} free{shared}. {hint}"
        )
    raise ConfigError(
        f"`{strategy.name}` needs about {_gigabytes(needs.estimate(1).total)} of memory for one image at a time, {where} has"
        f" {_gigabytes(max(0.0, total))} for it{shared}. {hint}"
    )


def _what_fits(
    strategy: Strategy, encoder: encoders.Encoder, needs: Footprint, limit: int, *, device: str
) -> list[str]:
    """Changes of the study file that, each alone, bring a training below `limit` bytes, with what it then takes."""
    assert strategy.adapt is not None
    config, training, size = strategy.adapt.config, needs.training, strategy.image.size
    found: list[str] = []
    most = needs.most_images(limit)
    if most and hasattr(config, "accumulate"):
        parts = -(-training.images * config.accumulate // most)
        each = -(-training.images * config.accumulate // parts)
        found.append(f"`accumulate: {parts}` ({_gigabytes(needs.estimate(each).total)})")
    elif versions := most // (1 + 2 * getattr(config, "mu", 0)):
        images = versions * (1 + 2 * getattr(config, "mu", 0))
        found.append(f"`batch: {versions}` ({_gigabytes(needs.estimate(images).total)})")

    def offer(text: str, **changes: Any) -> bool:
        other = _footprint(encoder, dataclasses.replace(training, **changes), size)
        fits = other is not None and other.estimate().total <= limit
        if other is not None and fits:
            found.append(f"{text} ({_gigabytes(other.estimate().total)})")
        return fits

    if hasattr(config, "checkpointing") and not training.checkpointing:
        offer("`checkpointing: true`", checkpointing=True)
    if hasattr(config, "blocks"):
        depth = len(adaptable(build_meta(encoder.arch, encoder.args)).blocks)
        fewer = [one for one in (depth // 2, depth // 4, 2, 1) if 0 < one < (training.blocks or depth)]
        next((one for one in fewer if offer(f"`blocks: {one}`", blocks=one)), None)
    if device.startswith("cuda") and not training.half and choose_precision("auto", device) == "bf16":
        offer("`precision: bf16`", half=True)
    if training.trained == "all":
        offer("`adapt: lora`", trained="adapters", average=False)
    offer("`adapt: linear-probe`", trained="nothing", average=False)
    return found


def _gigabytes(value: float) -> str:
    return f"{value / 2**30:.1f} GB"
