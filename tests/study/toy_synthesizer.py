"""Synthesizers for tests: one draws each class's mean image with noise of its seed, one gives training images back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wazuka.core.records import write_json
from wazuka.nn.generators import FILE, SCHEMA
from wazuka.training.roles import Generated, Runtime, SynthesisTask, Synthesizer


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `toy`."""

    noise: float = 20.0
    """Standard deviation of the noise on the mean images, gray levels."""
    copies: bool = False
    """Whether to give training images back, mirrored, instead of means with noise."""
    copy_every: int = 0
    """Every so-manieth image of a class is a training image, mirrored, as it is; 0: none."""
    fail: bool = False
    """Whether to break down."""


@dataclass(frozen=True)
class ToyGenerator:
    """Means (classes, H, W, C) with noise, or copies of stored images, or both: the means first, then what is copied."""

    classes: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    noise: float
    copy_every: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def intensity(self) -> str:
        return "rgb8"

    def sample(
        self, labels: np.ndarray, seeds: np.ndarray, *, truncation: float = 1.0, device: str = "cpu"
    ) -> np.ndarray:
        made = np.empty((len(labels), *self.shape), np.uint8)
        for place, (label, seed) in enumerate(zip(labels, seeds, strict=True)):
            rng = np.random.default_rng(seed)
            own = np.flatnonzero(self.labels == label)
            number = int(seed) // 2 // len(self.classes)
            if self.copy_every and number % self.copy_every == 0:
                made[place] = self.images[own[1 + number // self.copy_every % (len(own) - 1)]]
                continue
            which = 0 if self.copy_every else int(seed) // 2 % len(own)
            image = self.images[own[which]].astype(np.float64)
            made[place] = np.clip(image + self.noise * truncation * rng.standard_normal(self.shape), 0, 255)
        return made

    def save(self, folder: Path) -> None:
        np.save(folder / "images.npy", self.images)
        facts: dict[str, Any] = {"schema": SCHEMA, "kind": "toy", "classes": list(self.classes), "noise": self.noise}
        write_json(folder / FILE, facts | {"labels": self.labels.tolist(), "copy_every": self.copy_every})

    @classmethod
    def from_folder(cls, folder: Path, facts: dict[str, Any]) -> ToyGenerator:
        images, labels = np.load(folder / "images.npy"), np.array(facts["labels"])
        return cls(tuple(facts["classes"]), images, labels, facts["noise"], facts["copy_every"])


def fit(task: SynthesisTask, *, config: Config, runtime: Runtime) -> Generated:
    """Keep means or copies of the rows that may be trained on; write down what was handed."""
    if config.fail:
        raise RuntimeError("no luck today")
    assert task.labels is not None
    names = {one.name: type(getattr(task, one.name)).__name__ for one in dataclasses.fields(task)}
    handed = {"fields": names, "rows": task.images.rows.tolist(), "is_val": task.is_val.tolist()}
    write_json(runtime.folder / "handed.json", handed | {"labels": task.labels.tolist(), "seed": task.seed})
    rows = np.flatnonzero(~task.is_val)
    pixels, labels = task.images.batch(rows), task.labels[rows]
    mirrored, codes = np.ascontiguousarray(pixels[:, :, ::-1]), np.arange(len(task.classes))
    means = np.stack([pixels[labels == code].mean(axis=0) for code in codes])
    if config.copies:
        generator = ToyGenerator(task.classes, mirrored, labels, 0.5)
    elif config.copy_every:
        both = np.concatenate([means, mirrored]), np.concatenate([codes, labels])
        generator = ToyGenerator(task.classes, *both, config.noise, config.copy_every)
    else:
        generator = ToyGenerator(task.classes, means, codes, config.noise)
    return Generated(generator=generator, notes={"rows": len(rows)})


METHOD = Synthesizer(
    name="toy",
    config=Config,
    summary="draws mean images with noise",
    code_version=1,
    fit=fit,
    needs="labels",
    expected_seconds=lambda config, images, shape, device: 0.01,
)
