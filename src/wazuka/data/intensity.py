"""From native values to what the pixel cache holds: uint8, or int16 for Hounsfield units.

8-bit images keep their values. 16-bit images and MR have no fixed unit: each volume (attribute column `volume`; without
one, each image) is scaled so that its percentiles 0.5 and 99.5 become 0 and 255, and the two are recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wazuka.core.errors import DataError

SCALED = ("gray16", "mr")
"""Intensities that are scaled per volume."""
PERCENTILES = (0.5, 99.5)

Scale = tuple[float, float]
"""The native values that become 0 and 255."""


def volume_scale(images: Sequence[np.ndarray]) -> Scale:
    """Percentiles 0.5 and 99.5 over all images of a volume; minimum and maximum where these coincide.

    Raises:
        DataError: If a value is NaN or infinite.
    """
    values = np.concatenate([image.reshape(-1) for image in images])
    _refuse_not_finite(values)
    low, high = (float(one) for one in np.percentile(values.astype(np.float64, copy=False), PERCENTILES))
    if low == high:  # nearly all of the volume is background
        low, high = float(values.min()), float(values.max())
    return low, high


def to_stored(image: np.ndarray, intensity: str, *, scale: Scale | None = None) -> np.ndarray:
    """Bring one native image to the values of the pixel cache.

    Args:
        image: (height, width) or (height, width, 3), as `decode` gives it.
        intensity: One of `manifest.Intensity`.
        scale: For `gray16` and `mr`: what `volume_scale` gave; None scales the image by itself.

    Returns:
        (height, width, 3) uint8 for `rgb8` (a gray file gives three equal channels), (height, width, 1) int16 for
        `hounsfield`, (height, width, 1) uint8 else (a color file gives its luma).

    Raises:
        DataError: If the values cannot be of this intensity, or are NaN or infinite.
    """
    if intensity == "rgb8":
        _require_bytes(image, intensity)
        return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    if intensity in ("gray8", "ultrasound"):
        _require_bytes(image, intensity)
        return np.rint(_luma(image)).astype(np.uint8)[:, :, None] if image.ndim == 3 else image[:, :, None]
    if image.ndim == 3:
        image = _luma(image)
    _refuse_not_finite(image)
    if intensity == "hounsfield":
        if image.dtype != np.int16:
            limits = np.iinfo(np.int16)
            low, high = float(image.min()), float(image.max())
            if low < limits.min or high > limits.max:
                raise DataError(f"The image has values from {low:g} to {high:g}, which no Hounsfield unit has.")
            image = np.rint(image).astype(np.int16)
        return image[:, :, None]
    assert intensity in SCALED, intensity
    low, high = scale if scale is not None else volume_scale([image])
    span = high - low if high > low else 1.0
    scaled = (image.astype(np.float64) - low) * (255.0 / span)
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)[:, :, None]


def _require_bytes(image: np.ndarray, intensity: str) -> None:
    if image.dtype != np.uint8:
        raise DataError(f"The image has {image.dtype} values, but the dataset's intensity {intensity} means 8 bits.")


def _refuse_not_finite(values: np.ndarray) -> None:
    if np.issubdtype(values.dtype, np.floating):
        count = int(values.size - np.isfinite(values).sum())
        if count:
            raise DataError(f"The image has {count} values that are NaN or infinite.")


def _luma(image: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma of (height, width, 3), not rounded."""
    return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
