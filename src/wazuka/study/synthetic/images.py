"""Synthetic images of one generator: how many, from which seeds, checked for memorized ones, kept as a pixel cache.

A folder of synthetic images holds `images.npy` (as a pixel cache has it), `rows.parquet` (`part, label, seed, kept,
nearest, ...`: any image can be made again from its row) and an empty `misfits.parquet`. Row i is image i.

Seeds: image k of class c of K comes from seed 2 (k K + c) for training and 2 (k K + c) + 1 for testing: the two never
meet, and a larger ratio contains the images of a smaller one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.hashing import hash_file
from wazuka.core.records import write_table, writing
from wazuka.data.pixels import PixelCache
from wazuka.nn.generators import Generator

CODE_VERSION = 1
"""Raised by hand when the same generator gives other images; part of every key."""
IMAGES, ROWS = "images.npy", "rows.parquet"
SPARES = 1.0
"""Images made in addition, relative to those wanted, at most, to replace memorized ones."""
LEAST = 2
"""Images of a class that must be left for a class to be learned."""


def wanted(counts: np.ndarray, *, ratio: float, classes: str) -> np.ndarray:
    """Training images to make of each class, int64 (classes,): `ratio` times the real ones, at least one.

    Args:
        counts: Real training images of each class, int64 (classes,).
        ratio: Synthetic images per real one.
        classes: "all", or "rare-only": of the rarest class (the first of equals) only.
    """
    found = np.maximum(1, np.floor(counts * ratio + 0.5).astype(np.int64))
    if classes == "rare-only":
        found[np.arange(len(counts)) != int(np.argmin(counts))] = 0
    return found


def weight(counts: np.ndarray, *, ratio: float, classes: str) -> float:
    """Total weight of the training images relative to the real ones, arguments as in `wanted`: each weighs like one real
    image, whatever rounding and filter left of them."""
    if classes == "all":
        return ratio
    return float(wanted(counts, ratio=ratio, classes=classes).sum() / counts.sum())


def seeds_of(label: int, start: int, count: int, *, classes: int, testing: bool) -> np.ndarray:
    """Seeds of images `start` to `start + count` of one class, int64 (count,); see the module's text."""
    return 2 * (np.arange(start, start + count, dtype=np.int64) * classes + label) + int(testing)


@dataclass(frozen=True)
class Made:
    """Synthetic images in memory: pixels (n, height, width, channels), class per image, seed per image."""

    pixels: np.ndarray
    labels: np.ndarray
    seeds: np.ndarray


def make_images(
    generator: Generator,
    counts: np.ndarray,
    *,
    start: np.ndarray | None = None,
    testing: bool,
    device: str,
    truncation: float = 1.0,
) -> Made:
    """Make `counts[c]` images of each class c, class by class.

    Args:
        generator: From a synthesize step.
        counts: Images of each class, int64 (classes,).
        start: Number of the first image of each class; None: 0.
        testing: Whether they come from the seeds that are kept for testing.
        device: Where the network runs.
        truncation: Radius of the latent vectors relative to training, in (0, 1].
    """
    first = np.zeros_like(counts) if start is None else start
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = [
        seeds_of(label, int(first[label]), int(count), classes=len(counts), testing=testing)
        for label, count in enumerate(counts)
    ]
    seeds = np.concatenate(parts)
    return Made(generator.sample(labels, seeds, truncation=truncation, device=device), labels, seeds)


def choose(labels: np.ndarray, memorized: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, bool]:
    """Choose the first images of each class that are not memorized.

    Args:
        labels: Class per image made, spares included, in the order of their seeds within a class, int64 (n,).
        memorized: Which of them are, bool (n,).
        counts: Images wanted of each class.

    Returns:
        (positions of the chosen ones in ascending order, whether the filter could be used): where it would leave fewer
        than two images of a class, the unfiltered first ones are chosen and the second value is False.
    """
    clean, raw = [], []
    enough = True
    for label, count in enumerate(counts):
        places = np.flatnonzero(labels == label)
        left = places[~memorized[places]][:count]
        enough &= len(left) >= min(LEAST, count)
        clean.append(left)
        raw.append(places[:count])
    return np.sort(np.concatenate(clean if enough else raw)), enough


def save_images(folder: Path, pixels: np.ndarray, rows: pd.DataFrame) -> None:
    """Write the images of a synthetic step as a pixel cache."""
    with writing(folder / IMAGES) as file:
        np.save(file, pixels, allow_pickle=False)
    write_table(folder / ROWS, rows)
    write_table(folder / "misfits.parquet", pd.DataFrame({"row": [], "id": [], "what": [], "reason": []}))


def open_images(folder: Path, *, key: str, like: PixelCache) -> PixelCache:
    """Open the images of a finished synthetic step, as a cache of the same kind as the real images' one."""
    array = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
    key = (
        f"{key}-{hash_file(folder / IMAGES)[:16]}"  # features are cached by what the images are, not how they were made
    )
    return dataclasses.replace(
        like,
        folder=folder,
        images_path=folder / IMAGES,
        masks_path=None,
        n=len(array),
        shape=tuple(array.shape[1:]),
        dtype=str(array.dtype),
        key=key,
    )


def small(pixels: np.ndarray, side: int = 32) -> np.ndarray:
    """Area-resize images (n, height, width, channels) to (n, side, side, channels) float32, in their own units."""
    import torch
    from torch.nn.functional import interpolate

    parts = []
    for start in range(0, len(pixels), 256):
        part = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 256])).permute(0, 3, 1, 2).float()
        parts.append(interpolate(part, size=(side, side), mode="area").permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts) if parts else np.empty((0, side, side, *pixels.shape[3:]), np.float32)
