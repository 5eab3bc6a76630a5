"""A run folder opened in this process, and the inputs that its steps share: pixels, features, encoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.records import read_json, read_table
from wazuka.data.pixels import PixelCache, build_pixels
from wazuka.data.transform import ImageTransform
from wazuka.nn import encoders, features
from wazuka.nn.encoders import Encoder
from wazuka.study.config import Study, resolve_study
from wazuka.study.data import StudyData, load_study_data, split_groups
from wazuka.study.plan import Plan, step_folder
from wazuka.study.synthetic import images as synthetic_images


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


def encoder_of(context: Context, step_id: str) -> Encoder:
    """The encoder that a finished `encoder` or `pretrain` step left."""
    folder = step_folder(context.run, context.plan.steps[step_id])
    assert folder is not None
    return _load_encoder(str(folder))


@lru_cache(maxsize=8)
def _load_encoder(folder: str) -> Encoder:
    return encoders.load_encoder(Path(folder))


def pixels_of(context: Context, step_id: str, settings: Settings) -> PixelCache:
    """The pixel cache of a `pixels` step (built here if it is not there, as on another machine's first use), or the images
    that a finished `synthetic` step left."""
    return _load_pixels(context.run, step_id, settings)


@lru_cache(maxsize=16)
def _load_pixels(run: Path, step_id: str, settings: Settings) -> PixelCache:
    context = open_run(run)
    step = context.plan.steps[step_id]
    if step.kind == "synthetic":
        folder = step_folder(run, step)
        assert folder is not None
        return synthetic_images.open_images(folder, key=step.key, like=_load_pixels(run, step.args["pixels"], settings))
    args = step.args
    dataset = context.data.datasets[args["source"]]
    return build_pixels(dataset, ImageTransform(**args["image"]), cache=Path(settings.cache), workers=settings.workers)


def features_of(context: Context, step_id: str, settings: Settings) -> np.ndarray:
    """Frozen features of all usable images of one dataset, memory-mapped float32 (n, dim)."""
    args = context.plan.steps[step_id].args
    pixels = pixels_of(context, args["pixels"], settings)
    encoder = encoder_of(context, args["encoder"])
    path = features.cached_features(pixels, encoder, cache=Path(settings.cache), device=settings.device)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def encoder_seen(context: Context, step_id: str) -> list[pd.DataFrame]:
    """What the encoder of a finished `encoder` or `pretrain` step has seen, where it says so."""
    folder = step_folder(context.run, context.plan.steps[step_id])
    assert folder is not None
    return [read_table(folder / "seen.parquet")] if (folder / "seen.parquet").is_file() else []
