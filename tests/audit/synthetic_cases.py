"""Real and 'synthetic' images for tests of the audit: a simulated clinic, cut by patient into three parts."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from wazuka.audit.synthetic import Distance, Inputs
from wazuka.data.phantoms import make_clinic

SIDE = 64


@cache
def clinic() -> tuple[np.ndarray, pd.DataFrame]:
    """(600, 64, 64, 3) uint8 of 60 patients, and their rows: id, patient, label, domain, part (0, 1, 2)."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_clinic(Path(folder) / "clinic", seed=3, patients=60, patches=10, side=SIDE, corrupt=0, duplicates=0)
        with made.table.open(encoding="utf-8") as file:
            table = pd.DataFrame(list(csv.DictReader(file)))
        images = np.stack([np.asarray(Image.open(made.folder / one)) for one in table["image"]])
    table = table.rename(columns={"image": "id", "scanner": "domain"})
    number = table["patient"].str[1:].astype(int) - 1
    table["part"] = number // 3 % 3  # the scanners take patients in turn: every part has all three
    return images, table


def small(images: np.ndarray) -> np.ndarray:
    """Area-resized to 32 pixels a side, float32."""
    n, height, width, channels = images.shape
    blocks = images.reshape(n, 32, height // 32, 32, width // 32, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


@cache
def axes() -> tuple[np.ndarray, np.ndarray]:
    """Mean and first 24 principal axes of every fourth image's small pixels: the features of these tests."""
    rows = small(clinic()[0][::4]).reshape(-1, 32 * 32 * 3)
    mean = rows.mean(axis=0)
    return mean, np.linalg.svd(rows - mean, full_matrices=False)[2][:24]


def features(images: np.ndarray) -> np.ndarray:
    """(n, 24) float32."""
    mean, turned = axes()
    return ((small(images).reshape(len(images), -1) - mean) @ turned.T).astype(np.float32)


@cache
def real_arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of parts 0 and 1, their small pixels and features."""
    images, table = clinic()
    real = images[(table["part"] < 2).to_numpy()]
    return real, small(real), features(real)


def make_inputs(images: np.ndarray | None = None, labels: Any = None, **changes: Any) -> Inputs:
    """Part 0 trained on, part 1 held out, `images` as synthetic ones; None: the honest images of part 2."""
    everything, table = clinic()
    rows = (table["part"] < 2).to_numpy()
    real, pixels, own = real_arrays()
    reference = table[rows].drop(columns="part").reset_index(drop=True)
    if images is None:
        images, labels = everything[~rows], table["label"].to_numpy()[~rows]
        changes = {"patient": table["patient"].to_numpy()[~rows], **changes}
    synthetic = pd.DataFrame(
        {"id": [f"s{i:03d}" for i in range(len(images))], "label": labels, "seed": range(len(images))}
    )
    if "patient" in changes:
        synthetic["patient"] = changes.pop("patient")
    inputs = Inputs(
        real=reference,
        synthetic=synthetic,
        training=(table["part"] == 0).to_numpy()[rows],
        real_pixels=pixels,
        synthetic_pixels=small(images),
        real_features=own,
        synthetic_features=features(images),
        real_large=real,
        synthetic_large=images,
        real_large_rows=np.arange(len(real)),
        fidelity={
            "frechet": Distance(10.4, 9.0, 12.1, 10.0, 13.0),
            "kernel": Distance(0.001, -0.003, 0.005, 0.0, 0.004),
        },
    )
    return replace(inputs, found={}, **changes)


def training_images(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Some training images and their labels."""
    images, table = clinic()
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(table["part"] == 0))[:n]
    return images[rows], table["label"].to_numpy()[rows]


def held_out_images(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Images of patients that nobody saw, and their labels."""
    images, table = clinic()
    rows = np.flatnonzero(table["part"] == 2)[:n]
    return images[rows], table["label"].to_numpy()[rows]


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Round and clip to uint8."""
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)
