"""Which part of an image a prediction rests on: occlusion (Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2).

A square is covered with the image's mean color and moved over the image; where the probability of the class falls, the
prediction rested on what was covered. It asks nothing of a predictor but predictions, so it works for all of them.
Command: `wazuka predict ... --explain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wazuka.core.windows import DEFAULT_WINDOW, WINDOWS
from wazuka.nn.predictors import Predictor
from wazuka.nn.rows import ArrayImages, ImageRows

if TYPE_CHECKING:
    from PIL.Image import Image

COVERS = 7
"""Covers side by side along an edge; they move by half their size."""
HEAT = (220, 30, 30)
"""Color of the part that speaks for the class; its opposite (`COOL`) speaks against."""
COOL = (30, 60, 220)


def occlusion_map(
    predictor: Predictor, image: np.ndarray, *, class_index: int, cover: int | None = None, device: str = "cpu"
) -> np.ndarray:
    """Map how much the probability of a class falls when a part of the image is covered.

    Args:
        predictor: Any predictor.
        image: (height, width, channels) as in the pixel cache.
        class_index: Column of the class.
        cover: Side of the cover in pixels; default the longer side / 7.
        device: Where it predicts.

    Returns:
        (height, width) float64: the mean fall over the covers that hid a pixel; negative where it rises.
    """
    height, width, _ = image.shape
    side = cover or max(1, max(height, width) // COVERS)
    step = max(1, side // 2)
    tops, lefts = _starts(height, side, step), _starts(width, side, step)
    fill = np.rint(image.mean(axis=(0, 1))).astype(image.dtype)
    places = [(top, left) for top in tops for left in lefts]
    batch = np.repeat(image[None], len(places) + 1, axis=0)
    for number, (top, left) in enumerate(places, start=1):
        batch[number, top : top + side, left : left + side] = fill
    probabilities = predictor.predict_images(ArrayImages(batch), device=device)[:, class_index]
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (top, left), probability in zip(places, probabilities[1:], strict=True):
        total[top : top + side, left : left + side] += probabilities[0] - probability
        count[top : top + side, left : left + side] += 1
    return total / count


def explanation_picture(predictor: Predictor, images: ImageRows, *, device: str = "cpu") -> Image:
    """Draw the first image in gray with the occlusion map of its predicted class over it: red for, blue against."""
    from PIL import Image

    image = images.batch(np.array([0]))[0]
    probabilities = predictor.predict_images(ArrayImages(image[None]), device=device)[0]
    heat = occlusion_map(predictor, image, class_index=int(probabilities.argmax()), device=device)
    gray = _to_gray(image, getattr(predictor, "window", None))
    strength = np.abs(heat) / max(float(np.abs(heat).max()), 1e-12)
    color = np.where((heat >= 0)[:, :, None], HEAT, COOL).astype(np.float64)
    mixed = gray[:, :, None] + (color - gray[:, :, None]) * (0.6 * strength[:, :, None])
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where covers start, so that every pixel is hidden at least once."""
    last = max(0, length - side)
    return sorted({*range(0, last + 1, step), last})


def _to_gray(image: np.ndarray, window: str | None) -> np.ndarray:
    values = image.astype(np.float64).mean(axis=2)
    if image.dtype != np.int16:
        return values
    center, width = WINDOWS[window or DEFAULT_WINDOW]
    return np.clip((values - (center - width / 2)) / width, 0, 1) * 255
