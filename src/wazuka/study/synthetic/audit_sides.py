"""The two sides of an audit, real and synthetic images as arrays, and their features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.data.pixels import PixelCache
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import compute_features
from wazuka.nn.inception import inception_features
from wazuka.nn.rows import ArrayImages
from wazuka.nn.spatial_features import spatial_features
from wazuka.study.context import Settings


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The images that an audit compares.

    Attributes:
        real: One row per real image: `id, patient, label, domain` and attributes.
        synthetic: One row per synthetic image: `id, label, seed`.
        training: Real rows that the generator was trained on, bool (n,).
        real_pixels, synthetic_pixels: (n, height, width, channels) and (m, ...), as in a pixel cache.
        cache: The real images' pixel cache: says what pixels mean.
        encoder: Whose features are compared.
        attributes: Columns of `real` that make subgroups.
    """

    real: pd.DataFrame
    synthetic: pd.DataFrame
    training: np.ndarray
    real_pixels: np.ndarray
    synthetic_pixels: np.ndarray
    cache: PixelCache
    encoder: Encoder | Inception
    attributes: tuple[str, ...] = ()

    @property
    def encoder_name(self) -> str:
        """For tables."""
        return self.encoder.name


@dataclass(frozen=True)
class Inception:
    """The network of the published Fréchet distances; `weights`: its file, or None for the published one."""

    weights: Path | None
    name: str = "inception"


def features_of_side(sides: Sides, pixels: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray | None]:
    """Pooled features (n, dim) of images, and maps of a middle layer (n, channels, height, width) where there are any."""
    images = ArrayImages(pixels)
    if isinstance(sides.encoder, Inception):
        found = inception_features(images, weights=sides.encoder.weights, device=settings.device)
        return found.pooled, found.spatial
    how = _how(sides, settings)
    return compute_features(images, sides.encoder, **how), spatial_features(images, sides.encoder, **how)


def pooled_features(sides: Sides, pixels: np.ndarray, settings: Settings) -> np.ndarray:
    """The pooled features of `features_of_side` alone, (n, dim)."""
    if isinstance(sides.encoder, Inception):
        return features_of_side(sides, pixels, settings)[0]
    return compute_features(ArrayImages(pixels), sides.encoder, **_how(sides, settings))


def _how(sides: Sides, settings: Settings) -> dict[str, Any]:
    window = sides.cache.transform.window
    return {"intensity": sides.cache.intensity, "window": window, "device": settings.device}
