"""Tiny images in a file like a pixel cache's, and tiny tasks on them, for tests of networks."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from wazuka.data.views import Images, LabeledImages
from wazuka.nn import backbones
from wazuka.nn.encoders import Encoder
from wazuka.training.roles import AdaptTask

TINY = "test_resnet"
"""A timm network of 0.4 million values that takes any size."""


@cache
def tiny_encoder(name: str = TINY, *, seed: int = 0) -> Encoder:
    """A tiny encoder with freshly drawn weights."""
    return backbones.resolve(name, weights="none", seed=seed)


def noise(n: int, *, size: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(n, size, size, channels) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels)).astype(np.uint8)


def toy_classes(n: int, *, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which class 1 is redder by a fifth of the range: (images, labels)."""
    labels = np.arange(n) % 2
    images = noise(n, size=size, seed=seed) // 2
    images[labels == 1, :, :, 0] += 50
    return images, labels


def as_images(array: np.ndarray, folder: Path, *, rows: np.ndarray | None = None) -> Images:
    """Save an array as `images.npy` and view some of its rows (all if None)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "images.npy"
    np.save(path, array)
    return Images(path, np.arange(len(array)) if rows is None else rows)


def make_task(images: Images, labels: np.ndarray, encoder: Encoder, *, seed: int = 0, **changes: Any) -> AdaptTask:
    """A task of as many classes as there are labels, each image its own patient, every fourth row for validation.

    Args:
        changes: `is_val`, `soft_labels`, `inner_split` or `features`, in place of the defaults.
    """
    n = len(labels)
    classes = tuple("abcdefgh"[: int(labels.max()) + 1])
    labeled = LabeledImages(
        images=images,
        labels=np.asarray(labels, np.int64),
        patients=np.arange(n),
        domains=np.zeros(n, np.int64),
        is_val=changes.get("is_val", np.arange(n) % 8 < 2),
        soft_labels=changes.get("soft_labels"),
    )
    return AdaptTask(
        name="toy",
        labeled=labeled,
        classes=classes,
        positive=1 if len(classes) == 2 else None,
        encoder=encoder,
        inner_split=changes.get("inner_split", True),
        seed=seed,
        features=changes.get("features"),
        intensity="hounsfield" if images.pixels.dtype == np.int16 else "rgb8",
    )
