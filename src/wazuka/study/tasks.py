"""What an adapter is handed: a budget's rows as views of the caches, and nothing of the test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wazuka import adapt
from wazuka.core.records import read_table
from wazuka.data.pixels import PixelCache
from wazuka.data.views import Images, LabeledImages
from wazuka.nn.encoders import Encoder
from wazuka.study.context import Context, Settings, encoder_of, features_of, pixels_of
from wazuka.study.data import StudyData
from wazuka.study.rows import LocalLabels, TrialRows, trial_rows
from wazuka.study.strategies import Strategy
from wazuka.study.synthetic import images as synthetic_images
from wazuka.training.roles import AdaptTask, SyntheticRows


def rows_of_task(context: Context, task: dict[str, Any]) -> TrialRows:
    """The rows of one problem."""
    repeat, target = task["repeat"], task["target_domain"]
    group = context.splits[repeat, task["train_domain"]]
    local = None
    if target is not None:
        local = LocalLabels(domain=target, rows=context.splits[repeat, target], labels=task["local_labels"])
    return trial_rows(
        context.data,
        group,
        budget=task["budget"],
        train_domain=task["train_domain"],
        local=local,
        split_budget=task["split_budget"],
    )


def adapt_task(context: Context, task: dict[str, Any], settings: Settings) -> AdaptTask:
    """Make the task of one trial."""
    rows = rows_of_task(context, task)
    strategy = context.study.strategy(task["strategy"])
    method = adapt.METHODS[strategy.adapt.name]
    assert (rows.labeled["source"] == 0).all(), "training rows come from the main dataset only"
    others = rows.unlabeled[rows.unlabeled["source"] == 0]
    inputs = TaskInputs(
        pixels=pixels_of(context, task["pixels"][0], settings),
        encoder=encoder_of(context, task["encoder"]),
        features=features_of(context, task["features"][0], settings) if method.input == "features" else None,
    )
    return make_task(
        context.data,
        strategy,
        inputs,
        name=task["key"],
        labeled=rows.labeled,
        is_val=rows.is_val,
        inner_split=rows.inner_split,
        unlabeled=others if method.semi_supervised else None,
        seed=task["seed"],
        synthetic=None if task["synthetic"] is None else _synthetic_rows(context, task["synthetic"], settings),
    )


def _synthetic_rows(context: Context, given: dict[str, Any], settings: Settings) -> SyntheticRows:
    """The images that a synthetic step made for training."""
    cache = pixels_of(context, given["step"], settings)
    table = read_table(cache.folder / synthetic_images.ROWS, ["part", "class"])
    places = np.flatnonzero((table["part"] == "train").to_numpy(bool))
    matrix = None if given["features"] is None else features_of(context, given["features"], settings)
    return SyntheticRows(
        images=cache.images(places),
        labels=table["class"].to_numpy(np.int64)[places],
        features=None if matrix is None else np.asarray(matrix[places]),
        train_on=given["train_on"],
        weight=given["weight"],
    )


@dataclass(frozen=True, kw_only=True)
class TaskInputs:
    """What a task's rows are rows of: the main dataset's pixels, the encoder, and its features of all usable images."""

    pixels: PixelCache
    encoder: Encoder
    features: np.ndarray | None


def make_task(
    data: StudyData,
    strategy: Strategy,
    inputs: TaskInputs,
    *,
    name: str,
    labeled: pd.DataFrame,
    is_val: np.ndarray,
    inner_split: bool,
    unlabeled: pd.DataFrame | None,
    seed: int,
    synthetic: SyntheticRows | None = None,
) -> AdaptTask:
    """Make a task from rows of the study's table.

    Args:
        labeled: Rows with labels; `is_val` and `inner_split` as in `AdaptTask`.
        unlabeled: Rows whose labels are withheld, for semi-supervised methods; None for others.
        synthetic: Synthetic images to train on; None: real ones only.
    """
    numbers = labeled["row"].to_numpy(np.int64)
    others = None if unlabeled is None else unlabeled["row"].to_numpy(np.int64)
    matrix = inputs.features
    return AdaptTask(
        name=name,
        labeled=labeled_images(data, labeled, is_val, inputs.pixels.images(numbers), soft=strategy.soft_labels),
        classes=data.classes,
        positive=data.positive,
        encoder=inputs.encoder,
        inner_split=inner_split,
        seed=seed,
        unlabeled=None if others is None else inputs.pixels.images(others),
        features=None if matrix is None else np.asarray(matrix[numbers]),
        unlabeled_features=None if matrix is None or others is None else np.asarray(matrix[others]),
        intensity=data.main.card.intensity,
        window=strategy.image.window,
        remedies=strategy.remedies,
        synthetic=synthetic,
    )


def labeled_images(
    data: StudyData, rows: pd.DataFrame, is_val: np.ndarray, images: Images, *, soft: bool
) -> LabeledImages:
    """The labeled view of some rows; `soft` adds the annotators' votes."""
    return LabeledImages(
        images=images,
        labels=data.label_codes(rows),
        patients=pd.factorize(rows["patient"], sort=True)[0].astype(np.int64),
        domains=_codes(rows["domain"], data.domains),
        is_val=is_val,
        soft_labels=data.soft_labels(rows) if soft else None,
    )


def _codes(domains: pd.Series, names: list[str]) -> np.ndarray:
    """Code per row, int64; an unknown domain is a group of its own, after the known ones."""
    codes = pd.Categorical(domains, categories=names).codes.astype(np.int64)
    return np.where(codes < 0, len(names), codes)
