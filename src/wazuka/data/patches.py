"""Large images cut into square patches (`wazuka import --patch PX --stride PX`).

No pixels are written: a patch is a manifest row with the `path` of its image, `parent` (the id that the image would have
had), `patch_y`, `patch_x` (upper left corner, pixels) and `patch_px` (side). Whoever decodes the image calls `cut`.

Corners stand at 0, stride, 2 stride ...; where this leaves a rest, a last row and column is aligned to the far edge, so
every pixel lies in a patch. A patch is blank, and left out with its count, unless

- color images (8-bit RGB of which at least 1 % of the pixels are colored): at least 10 % of its pixels are tissue, that
  is colored; a pixel is colored when max(R,G,B) - min(R,G,B) >= 15;
- other images: its standard deviation is at least 2 % of the whole image's range (maximum - minimum).

A patch whose mask has any foreground is always kept.

Importers of annotated cells place patches themselves (`data/annotated.py`). Such a patch may overhang the image, so that
its cell stays in its center: what lies outside is mirrored from inside, the edge pixel included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wazuka.core.errors import ConfigError

COLUMNS = ("parent", "patch_y", "patch_x", "patch_px")
"""Attribute columns of a dataset of patches."""
COLORED = 15
"""max(R,G,B) - min(R,G,B) from which a pixel is colored, out of 255."""
COLOR_IMAGE = 0.01
"""Share of colored pixels from which an image is a color image."""
TISSUE = 0.10
"""Share of tissue pixels from which a patch of a color image is kept."""
FLAT = 0.02
"""Standard deviation, as a share of the image's range, from which a patch of another image is kept."""


def check_sizes(patch: int | None, stride: int | None) -> tuple[int, int] | None:
    """Return (patch, stride), or None where no patches are asked for.

    Raises:
        ConfigError: If a size is below 1 or a stride comes without a patch.
    """
    if patch is None:
        if stride is not None:
            raise ConfigError(f"--stride {stride} has no --patch; give both.")
        return None
    stride = patch if stride is None else stride
    if patch < 8 or stride < 1:
        raise ConfigError(f"--patch {patch} --stride {stride} is too small; a patch needs 8 pixels, a stride 1.")
    return patch, stride


def corners(height: int, width: int, *, patch: int, stride: int) -> list[tuple[int, int]]:
    """Upper left corners (y, x) of the patches of one image, row by row; empty if the image is smaller than a patch."""
    if height < patch or width < patch:
        return []
    return [(y, x) for y in _starts(height, patch, stride) for x in _starts(width, patch, stride)]


def _starts(length: int, patch: int, stride: int) -> list[int]:
    starts = list(range(0, length - patch + 1, stride))
    if starts[-1] + patch < length:
        starts.append(length - patch)
    return starts


def kept(image: np.ndarray, mask: np.ndarray | None, *, patch: int, stride: int) -> list[tuple[int, int, bool]]:
    """Corners with whether the patch is kept (not blank).

    Args:
        image: (height, width) or (height, width, 3), native values.
        mask: Integer labels (height, width), 0 is background; None without mask.
    """
    colored = _colored(image)
    if colored is None:
        flat = image if image.ndim == 2 else image.mean(axis=-1)
        flat = flat.astype(np.float64)
        finite = flat[np.isfinite(flat)]
        bound = FLAT * float(finite.max() - finite.min()) if finite.size else 0.0
    result = []
    for y, x in corners(*image.shape[:2], patch=patch, stride=stride):
        window = (slice(y, y + patch), slice(x, x + patch))
        if mask is not None and mask.shape == image.shape[:2] and mask[window].any():
            keep = True
        elif colored is not None:
            keep = bool(colored[window].mean() >= TISSUE)
        else:
            spread = float(np.nanstd(flat[window])) if np.isfinite(flat[window]).any() else 0.0
            keep = bound > 0 and spread >= bound
        result.append((y, x, keep))
    return result


def _colored(image: np.ndarray) -> np.ndarray | None:
    """Which pixels are colored, or None if this is no color image."""
    if image.ndim != 3 or image.dtype != np.uint8:
        return None
    colored = (image.max(axis=-1) - image.min(axis=-1)) >= COLORED
    return colored if colored.mean() >= COLOR_IMAGE else None


def cut(image: np.ndarray, row: Mapping[str, Any]) -> np.ndarray:
    """Cut the patch of one manifest row from its whole decoded image or mask; without patch columns the image itself.

    Args:
        image: (height, width[, channels]) as `decode` gives it.
        row: A manifest row (mapping or Series); `patch_px` missing or NA: the row is a whole image.
    """
    side = row.get("patch_px")
    if not isinstance(side, int | float | np.number) or side != side:  # None, NA, NaN
        return image
    y, x, side = int(row["patch_y"]), int(row["patch_x"]), int(side)
    height, width = image.shape[:2]
    top, bottom, left, right = max(y, 0), min(y + side, height), max(x, 0), min(x + side, width)
    inside = image[top:bottom, left:right]
    if inside.shape[:2] == (side, side):
        return inside
    overhang = [(top - y, y + side - bottom), (left - x, x + side - right), (0, 0)]
    return np.pad(inside, overhang[: inside.ndim], mode="symmetric")
