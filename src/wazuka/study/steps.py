"""What each step of a plan does. `run_step` runs one anywhere (this process, a Dask worker) and returns a status.

Steps exchange paths, never arrays. A step that is done is kept; one that fails leaves `failure.json` and raises nothing.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import wazuka
from wazuka import adapt, pretrain
from wazuka.core import threads
from wazuka.core.errors import OutOfSpace, WazukaError
from wazuka.core.records import (
    clear_unfinished,
    finish,
    is_finished,
    out_of_space,
    read_json,
    read_table,
    write_json,
    write_table,
)
from wazuka.data.manifest import load
from wazuka.data.pixels import PixelCache, build_pixels
from wazuka.data.transform import ImageTransform, TrainedOn
from wazuka.data.views import Images, LabeledImages
from wazuka.nn import encoders, features, predictors
from wazuka.nn.encoders import Encoder
from wazuka.study import provenance
from wazuka.study.config import Strategy, Study, resolve_study
from wazuka.study.data import (
    StudyData,
    TrialRows,
    join_seen,
    load_study_data,
    pretraining_rows,
    rows_hash,
    seen_table,
    split_groups,
    trial_rows,
)
from wazuka.study.plan import Plan, Step, step_folder
from wazuka.training.roles import AdaptTask, Fitted, PretrainTask, Runtime

PACKAGES = (
    "wazuka",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "onnxruntime",
    "pandas",
    "pillow",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is carried out; none of it changes a number's meaning, so none of it is in a key."""

    cache: str
    device: str = "cpu"
    threads: int = 2
    workers: int = 1
    """Processes that decode images; 1 inside a worker."""


@dataclass(frozen=True)
class Context:
    """A run folder opened in this process."""

    run: Path
    study: Study
    data: StudyData
    plan: Plan
    splits: dict[tuple[int, str], pd.DataFrame]


@lru_cache(maxsize=4)
def _open(run: str, stamp: tuple[float, float]) -> Context:
    folder = Path(run)
    from wazuka.core.config import read_yaml

    study = resolve_study(read_yaml(folder / "study.yaml"), folder=folder, where=str(folder / "study.yaml"))
    table = read_table(folder / "splits.parquet")
    plan = Plan.from_json(read_json(folder / "plan.json"))
    return Context(folder, study, load_study_data(study), plan, split_groups(table))


def open_run(run: Path) -> Context:
    """Open a run folder, once per process and content."""
    stamp = tuple((Path(run) / name).stat().st_mtime for name in ("study.yaml", "plan.json"))
    return _open(str(run), (stamp[0], stamp[1]))


def run_step(run: str, step_id: str, settings: Settings, *before: dict[str, Any]) -> dict[str, Any]:
    """Run one step and return its status; never raises, except when the user interrupts.

    Args:
        run: The run folder.
        step_id: Id of the step in the plan.
        settings: How to carry it out.
        before: Statuses of the steps it needs (Dask passes these, which makes the graph's arrows).

    Returns:
        `{step, name, outcome: done|kept|failed|no space, reason, seconds}`.
    """
    began = time.monotonic()
    status: dict[str, Any] = {"step": step_id, "name": step_id, "outcome": "done", "reason": None}
    folder: Path | None = None
    try:
        threads.limit(settings.threads)
        context = open_run(Path(run))
        step = context.plan.steps[step_id]
        status["name"] = step.name
        folder = step_folder(context.run, step)
        if folder is not None and is_finished(folder):
            return status | {"outcome": "kept", "seconds": 0.0}
        lost = [one for one in before if one["outcome"] == "failed"]
        if lost:
            raise WazukaError(f"{lost[0]['name']} failed: {lost[0]['reason']}")
        if folder is not None:
            clear_unfinished(folder)
        outcome = STEPS[step.kind](context, step, settings)
        if folder is not None:
            finish(folder, _record(context, step, settings, outcome, seconds=time.monotonic() - began))
        elif outcome == "kept":
            status["outcome"] = "kept"
    except OutOfSpace as error:
        status |= {"outcome": "no space", "reason": str(error)}
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            status |= {"outcome": "no space", "reason": str(out_of_space(Path(error.filename or run)))}
        else:
            status |= _failed(error, folder, step_id, run)
    except Exception as error:
        status |= _failed(error, folder, step_id, run)
    return status | {"seconds": round(time.monotonic() - began, 3)}


def _failed(error: Exception, folder: Path | None, step_id: str, run: str) -> dict[str, Any]:
    """Write `failure.json` for a step, so that its reason outlives the process, and return what the status says."""
    reason = str(error) if isinstance(error, WazukaError) else f"{type(error).__name__}: {error}"
    reason = textwrap.shorten(" ".join(reason.split()), 300, placeholder=" ...")
    text = "".join(traceback.format_exception(error)).replace(str(run), "RUN")
    if folder is not None:
        try:
            args = open_run(Path(run)).plan.steps[step_id].args
            where = {name: args[name] for name in ("strategy", "budget", "repeat", "train_domain") if name in args}
            write_json(folder / "failure.json", where | {"step": step_id, "reason": reason, "traceback": text})
        except (OSError, WazukaError) as second:
            reason = f"{reason} (and its failure.json could not be written: {second})"
    return {"outcome": "failed", "reason": reason}


def _record(context: Context, step: Step, settings: Settings, outcome: Any, *, seconds: float) -> dict[str, Any]:
    """The step's record: what it was, what went in, what it took; the step adds its own entries."""
    own = outcome if isinstance(outcome, dict) else {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
    return {
        "schema": 1,
        "step": step.kind,
        "key": step.key,
        "name": step.name,
        "inputs": list(step.needs),
        **own,
        "fingerprint": context.data.main.card.fingerprint,
        "salt": context.data.main.card.imported.get("salt"),
        "versions": versions(),
        "device": settings.device,
        "threads": settings.threads,
        "seconds": round(own.get("seconds", seconds), 3),
        "peak_memory_mb": round(peak, 1),
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = wazuka.__version__ if name == "wazuka" else "absent"
    return found


def _encoder(context: Context, step_id: str) -> Encoder:
    """The encoder that a finished `encoder` or `pretrain` step left."""
    folder = step_folder(context.run, context.plan.steps[step_id])
    assert folder is not None
    return _load_encoder(str(folder))


@lru_cache(maxsize=8)
def _load_encoder(folder: str) -> Encoder:
    return encoders.load_encoder(Path(folder))


def _pixels(context: Context, step_id: str, settings: Settings) -> PixelCache:
    """The pixel cache of a `pixels` step (built here if it is not there, as on another machine's first use)."""
    return _load_pixels(context.run, step_id, settings)


@lru_cache(maxsize=16)
def _load_pixels(run: Path, step_id: str, settings: Settings) -> PixelCache:
    context = open_run(run)
    args = context.plan.steps[step_id].args
    dataset = context.data.datasets[args["source"]]
    return build_pixels(dataset, ImageTransform(**args["image"]), cache=Path(settings.cache), workers=settings.workers)


def _features(context: Context, step_id: str, settings: Settings) -> np.ndarray:
    """Frozen features of all usable images of one dataset, memory-mapped float32 (n, dim)."""
    args = context.plan.steps[step_id].args
    pixels = _pixels(context, args["pixels"], settings)
    encoder = _encoder(context, args["encoder"])
    path = features.cached_features(pixels, encoder, cache=Path(settings.cache), device=settings.device)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _do_pixels(context: Context, step: Step, settings: Settings) -> None:
    _pixels(context, step.id, settings)


def _do_features(context: Context, step: Step, settings: Settings) -> None:
    _features(context, step.id, settings)


def _do_encoder(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    folder = step_folder(context.run, step)
    assert folder is not None
    encoder = encoders.from_spec(step.args["backbone"])
    encoders.save_encoder(encoder, folder)
    _carry_seen(context, encoder, folder)
    return {"backbone": encoder.name, "license": encoder.license, "commercial_use": encoder.commercial_use}


def _carry_seen(context: Context, encoder: Encoder, folder: Path) -> None:
    """Take along what a backbone artifact has seen; patients only where their ids mean the same here."""
    source = None if encoder.path is None else encoder.path.parent
    if source is None or not (source / "seen.parquet").is_file():
        return
    seen = read_table(source / "seen.parquet")
    if not provenance.comparable(source, context.data):
        seen["patient_hash"] = ""
    write_table(folder / "seen.parquet", seen)


def encoder_seen(context: Context, step_id: str) -> list[pd.DataFrame]:
    """What the encoder of a finished `encoder` or `pretrain` step has seen, where it says so."""
    folder = step_folder(context.run, context.plan.steps[step_id])
    assert folder is not None
    return [read_table(folder / "seen.parquet")] if (folder / "seen.parquet").is_file() else []


def _do_pretrain(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    """Pretrain on the training images of one split: the method is handed `Images`, which carry no label."""
    folder = step_folder(context.run, step)
    assert folder is not None
    strategy = context.study.strategy(step.args["strategy"])
    assert strategy.pretrain is not None
    group = context.splits[step.args["repeat"], step.args["train_domain"]]
    rows = pretraining_rows(context.data, group, train_domain=step.args["train_domain"])
    pixels = _pixels(context, step.args["pixels"], settings)
    task = PretrainTask(
        name=step.key,
        images=pixels.images(rows["row"].to_numpy(np.int64)),
        encoder=_encoder(context, step.args["encoder"]),
        seed=step.args["seed"],
        intensity=pixels.intensity,
        window=strategy.image.window,
    )
    method = pretrain.METHODS[strategy.pretrain.name]
    result = method.fit(task, config=strategy.pretrain.config, runtime=_runtime(folder, settings))
    encoder = encoders.save_encoder(result.encoder, folder, state=result.state)
    seen = join_seen(seen_table(rows, labeled=False), *encoder_seen(context, step.args["encoder"]))
    write_table(folder / "seen.parquet", seen)
    return {
        "config": {"method": strategy.pretrain.name, "config": strategy.pretrain.config},
        "backbone": encoder.name,
        "license": encoder.license,
        "commercial_use": encoder.commercial_use,
        "images": len(rows),
        "rows_hash": rows_hash(rows, labeled=False),
        "seed": step.args["seed"],
        "notes": result.notes,
        "curves": result.curves,
    }


def _do_adapt(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    """Solve all problems of a batched adapter at once; each trial reads its own from `tasks/INDEX`."""
    folder = step_folder(context.run, step)
    assert folder is not None
    strategy = context.study.strategy(step.args["strategy"])
    tasks = [adapt_task(context, one, settings) for one in step.args["tasks"]]
    method = adapt.METHODS[strategy.adapt.name]
    fitted = method(tasks, config=strategy.adapt.config, runtime=_runtime(folder, settings))
    for index, one in enumerate(fitted):
        save_fitted(
            context, one, folder / "tasks" / str(index), strategy=strategy, encoder=step.args["tasks"][index]["encoder"]
        )
    return {"config": {"method": method.name, "config": strategy.adapt.config}, "problems": len(tasks)}


def _do_trial(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    from wazuka.study.trial import run_trial

    folder = step_folder(context.run, step)
    assert folder is not None
    return run_trial(context, step, settings, folder)


STEPS: dict[str, Callable[[Context, Step, Settings], Any]] = {
    "pixels": _do_pixels,
    "features": _do_features,
    "encoder": _do_encoder,
    "pretrain": _do_pretrain,
    "adapt": _do_adapt,
    "trial": _do_trial,
}


def _runtime(folder: Path, settings: Settings) -> Runtime:
    return Runtime(device=settings.device, threads=settings.threads, folder=folder)


def rows_of_task(context: Context, task: dict[str, Any]) -> TrialRows:
    """The rows of one problem."""
    group = context.splits[task["repeat"], task["train_domain"]]
    return trial_rows(context.data, group, budget=task["budget"], train_domain=task["train_domain"])


def adapt_task(context: Context, task: dict[str, Any], settings: Settings) -> AdaptTask:
    """Hand an adapter what it may see: the budget's rows with labels, and nothing of the test rows."""
    rows = rows_of_task(context, task)
    strategy = context.study.strategy(task["strategy"])
    method = adapt.METHODS[strategy.adapt.name]
    labeled = rows.labeled
    assert (labeled["source"] == 0).all(), "training rows come from the main dataset only"
    cache = _pixels(context, task["pixels"][0], settings)
    others = rows.unlabeled.loc[rows.unlabeled["source"] == 0, "row"].to_numpy(np.int64)
    found = other_features = None
    if method.input == "features":
        matrix = _features(context, task["features"][0], settings)
        found = np.asarray(matrix[labeled["row"].to_numpy(np.int64)])
        other_features = np.asarray(matrix[others]) if method.semi_supervised else None
    return AdaptTask(
        name=task["key"],
        labeled=labeled_images(
            context.data,
            labeled,
            rows.is_val,
            cache.images(labeled["row"].to_numpy(np.int64)),
            soft=strategy.soft_labels,
        ),
        classes=context.data.classes,
        positive=context.data.positive,
        encoder=_encoder(context, task["encoder"]),
        inner_split=rows.inner_split,
        seed=task["seed"],
        unlabeled=cache.images(others) if method.semi_supervised else None,
        features=found,
        unlabeled_features=other_features,
        intensity=context.data.main.card.intensity,
        window=strategy.image.window,
    )


def labeled_images(
    data: StudyData, rows: pd.DataFrame, is_val: np.ndarray, images: Images, *, soft: bool
) -> LabeledImages:
    """The labeled view of some rows; `soft` adds the annotators' votes."""
    return LabeledImages(
        images=images,
        labels=data.label_codes(rows),
        patients=pd.factorize(rows["patient"], sort=True)[0].astype(np.int64),
        domains=np.maximum(pd.Categorical(rows["domain"], categories=data.domains).codes, 0).astype(np.int64),
        is_val=is_val,
        soft_labels=data.soft_labels(rows) if soft else None,
    )


def save_fitted(context: Context, fitted: Fitted, folder: Path, *, strategy: Strategy, encoder: str) -> None:
    """Save one fitted predictor with all that `predict` needs, the backbone by reference into the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder_folder = step_folder(context.run, context.plan.steps[encoder])
    assert encoder_folder is not None
    fitted.predictor.save(folder, encoder_folder=Path(os.path.relpath(encoder_folder, folder)))
    extra = predictor_facts(context.data, strategy) | {"threshold": fitted.threshold}
    predictors.describe(folder, extra)
    write_json(folder / "fitted.json", {"threshold": fitted.threshold, "notes": fitted.notes, "curves": fitted.curves})


def point_to_encoder(context: Context, folder: Path, encoder: str) -> None:
    """Mend a predictor's relative path to its encoder after its folder was copied within the run."""
    if "encoder_folder" in read_json(folder / predictors.FILE):
        target = step_folder(context.run, context.plan.steps[encoder])
        assert target is not None
        predictors.describe(folder, {"encoder_folder": Path(os.path.relpath(target, folder)).as_posix()})


def predictor_facts(data: StudyData, strategy: Strategy) -> dict[str, Any]:
    """What a predictor must know besides its weights: how images become its input, classes, provenance."""
    card = data.main.card
    options = card.imported.get("options", {})
    patches = {name: options[name] for name in ("patch", "stride") if name in options}
    return {
        "positive": None if data.positive is None else data.classes[data.positive],
        "image": strategy.image,
        "intensity": card.intensity,
        "trained_on": _trained_on(str(data.main.folder), card.fingerprint, strategy.image),
        "patches": patches or None,
        "provenance": {"dataset": card.name, "fingerprint": card.fingerprint, "strategy": strategy.name},
        "simulated": card.simulated,
    }


@lru_cache(maxsize=16)
def _trained_on(folder: str, fingerprint: str, image: ImageTransform) -> TrainedOn:
    """Sizes and spacings of a dataset's images (patches: of the patches), once per process."""
    del fingerprint  # part of the key: a dataset folder made anew is another one
    rows = load(Path(folder)).usable
    if "patch_px" in rows:
        side = rows["patch_px"].astype("Int64")
        rows = rows.assign(height=side.fillna(rows["height"]), width=side.fillna(rows["width"]))
    return image.trained_on(rows)


def load_fitted(folder: Path) -> dict[str, Any]:
    """Read what `save_fitted` kept besides the predictor."""
    return json.loads((folder / "fitted.json").read_text(encoding="utf-8"))
