"""The image transform: one function for training, testing and use, and its inverse for masks.

Steps, in this order (`wazuka poc --crop 64 --size 224`, study key `image`):
1. stain normalization of the whole native RGB image, where its stains are best estimated (`data/stain.py`);
2. resampling in the plane to `spacing_mm`;
3. the central crop of `crop` pixels; without a crop: padding to a square with the darkest value of the border
   (channel by channel), so that nothing is cut away and nothing is squeezed;
4. resizing to `size` x `size`.
Images are resampled with Pillow's antialiased bilinear filter, masks by nearest neighbor. A window of Hounsfield units
is not applied here: the cache keeps int16, and the window is applied on the device (`nn/normalize.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from wazuka.core.errors import ConfigError, DataError, nearest
from wazuka.core.windows import WINDOWS
from wazuka.data import stain as stains

if TYPE_CHECKING:
    import pandas as pd

CODE_VERSION = 1
"""Raised by hand when the same transform gives other pixels; part of every key."""

SPACING_TOLERANCE = 0.2
"""Without resampling, a pixel spacing this much (relative) outside the trained range is refused."""
SIZE_TOLERANCE = 2.0
"""Without a crop, an image this many times larger or smaller than the trained sizes is refused."""

Spacing = Sequence[float | None] | None
"""(row, column, slice) in mm as in a manifest; None where unknown, as a whole or in part."""


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The sizes (after resampling to `spacing_mm`, where that is set) and native spacings a model was trained on."""

    min_height: int
    max_height: int
    min_width: int
    max_width: int
    min_spacing_mm: float | None = None
    max_spacing_mm: float | None = None


@dataclass(frozen=True)
class _Axis:
    """One axis of the way from native pixels to the transformed image."""

    native: int
    resampled: int
    start: int  # first resampled pixel kept by the crop
    kept: int
    before: int  # padding in front
    side: int  # kept + padding


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """What is done to every image, in training and in use.

    Raises:
        ValueError: If a value is out of range (`core.config.build` turns this into a ConfigError).
    """

    crop: int | None = None
    """Side of the central crop, in pixels (after resampling); without it the whole image is padded to a square."""
    size: int = 224
    """Side of the transformed image, in pixels."""
    window: str | None = None
    """Window of Hounsfield units, a name of `WINDOWS`; for CT only."""
    spacing_mm: float | None = None
    """Pixel spacing in the plane that every image is resampled to."""
    stain: Literal["none", "macenko", "reinhard"] = "none"
    """Stain normalization of H&E images."""

    def __post_init__(self) -> None:
        if self.crop is not None and not 1 <= self.crop <= 65536:
            raise ValueError(f"`crop` is {self.crop}; give pixels from 1 to 65536, or leave it out.")
        if not 8 <= self.size <= 4096:
            raise ValueError(f"`size` is {self.size}; give pixels from 8 to 4096.")
        if self.spacing_mm is not None and not (math.isfinite(self.spacing_mm) and self.spacing_mm > 0):
            raise ValueError(f"`spacing_mm` is {self.spacing_mm}; give a positive number of mm.")
        if self.window is not None and self.window not in WINDOWS:
            close = nearest(self.window, WINDOWS)
            hint = f"did you mean `{close}`?" if close else "there is none of this name."
            raise ValueError(f"`window` is `{self.window}`; {hint} Known: {', '.join(f'`{one}`' for one in WINDOWS)}.")
        if self.stain not in ("none", "macenko", "reinhard"):
            raise ValueError(f"`stain` is `{self.stain}`; use `none`, `macenko` or `reinhard`.")

    def check(self, intensity: str) -> None:
        """Refuse settings that make no sense for a dataset of this intensity.

        Raises:
            ConfigError: If stains are to be normalized without color, or a window is set without Hounsfield units.
        """
        if self.stain != "none" and intensity != "rgb8":
            raise ConfigError(f"`stain: {self.stain}` needs RGB images, but these are {intensity}; set `stain: none`.")
        if self.window is not None and intensity != "hounsfield":
            raise ConfigError(
                f"`window: {self.window}` needs CT, but these images are {intensity}; leave `window` out."
            )

    def apply(self, image: np.ndarray, spacing_mm: Spacing = None) -> np.ndarray:
        """Transform one image.

        Args:
            image: (height, width) or (height, width, channels), uint8 or int16.
            spacing_mm: Its (row, column, slice) spacing; needed only where the transform resamples.

        Returns:
            (size, size, channels), same dtype.

        Raises:
            DataError: If the image does not fit the transform; the text is the reason of `misfit`.
        """
        return self.apply_noting(image, spacing_mm)[0]

    def apply_noting(self, image: np.ndarray, spacing_mm: Spacing = None) -> tuple[np.ndarray, str | None]:
        """As `apply`, and why the stains were left as they are (None where they were normalized or were not to be)."""
        if image.dtype not in (np.uint8, np.int16):
            raise TypeError(f"image is {image.dtype}, not uint8 or int16")
        note = None
        if self.stain != "none":
            image, note = stains.normalize(image, self.stain)
        if image.ndim == 2:
            image = image[:, :, None]
        rows, columns = self._axes(image.shape[0], image.shape[1], spacing_mm)
        image = resize(image, rows.resampled, columns.resampled)
        image = image[rows.start : rows.start + rows.kept, columns.start : columns.start + columns.kept]
        image = _pad(image, rows, columns, _border_minimum(image))
        return resize(image, self.size, self.size), note

    def apply_mask(self, mask: np.ndarray, spacing_mm: Spacing = None) -> np.ndarray:
        """Transform a label map (height, width) to (size, size) of the same dtype; padding is background (0)."""
        rows, columns = self._axes(mask.shape[0], mask.shape[1], spacing_mm)
        mask = mask[_nearest(rows.native, rows.resampled)][:, _nearest(columns.native, columns.resampled)]
        mask = mask[rows.start : rows.start + rows.kept, columns.start : columns.start + columns.kept]
        mask = _pad(mask, rows, columns, np.zeros(1, mask.dtype))
        return mask[_nearest(rows.side, self.size)][:, _nearest(columns.side, self.size)]

    def unapply_mask(
        self, mask: np.ndarray, native_height: int, native_width: int, spacing_mm: Spacing = None
    ) -> np.ndarray:
        """Bring a predicted label map back to the native pixels, where it is scored.

        Args:
            mask: (size, size) label map of a transformed image.
            native_height: Height of the native image.
            native_width: Width of the native image.
            spacing_mm: Spacing of the native image.

        Returns:
            (native_height, native_width), same dtype; what the crop cut away is background (0).
        """
        if mask.shape != (self.size, self.size):
            raise ValueError(f"mask is {mask.shape}, not ({self.size}, {self.size})")
        axes = self._axes(native_height, native_width, spacing_mm)
        (rows, inside_rows), (columns, inside_columns) = (self._back(axis) for axis in axes)
        native = mask[rows][:, columns].copy()
        native[~inside_rows] = 0
        native[:, ~inside_columns] = 0
        return native

    def misfit(
        self, height: int, width: int, spacing_mm: Spacing = None, *, trained_on: TrainedOn | None = None
    ) -> str | None:
        """Tell why an image of this size and spacing must be refused; None where it fits.

        Args:
            height: Native height in pixels.
            width: Native width in pixels.
            spacing_mm: Native (row, column, slice) spacing.
            trained_on: What the model was trained on; None tests only whether the transform can be applied.
        """
        native = in_plane(spacing_mm)
        if self.spacing_mm is not None and native is None:
            return f"has no pixel spacing, but the transform resamples to {self.spacing_mm:g} mm"
        tall, wide = self._resampled(height, width, native)
        if self.crop is not None and min(tall, wide) < self.crop:
            after = f" at {self.spacing_mm:g} mm" if self.spacing_mm is not None else ""
            return f"is {tall} x {wide} pixels{after}, smaller than the crop of {self.crop}"
        if trained_on is None:
            return None
        if self.spacing_mm is None and native is not None and trained_on.min_spacing_mm is not None:
            low, high = trained_on.min_spacing_mm, trained_on.max_spacing_mm
            assert high is not None
            for one in native:
                if not low / (1 + SPACING_TOLERANCE) <= one <= high * (1 + SPACING_TOLERANCE):
                    return (
                        f"has a pixel spacing of {one:g} mm, more than {SPACING_TOLERANCE:.0%} outside the "
                        f"{low:g} to {high:g} mm of the training images"
                    )
        if self.crop is None:
            for name, one, low, high in (
                ("high", tall, trained_on.min_height, trained_on.max_height),
                ("wide", wide, trained_on.min_width, trained_on.max_width),
            ):
                if not low / SIZE_TOLERANCE <= one <= high * SIZE_TOLERANCE:
                    return (
                        f"is {one} pixels {name}, beyond {SIZE_TOLERANCE:g} times the {low} to {high} "
                        "of the training images"
                    )
        return None

    def trained_on(self, rows: pd.DataFrame) -> TrainedOn:
        """Summarize training rows (columns `height`, `width`, `spacing_mm`) for `misfit`.

        Raises:
            DataError: If there are no rows.
        """
        if not len(rows):
            raise DataError("No training images were given; a model needs at least one.")
        tall: list[int] = []
        wide: list[int] = []
        native: list[float] = []
        for height, width, spacing in zip(rows["height"], rows["width"], rows["spacing_mm"], strict=True):
            plane = in_plane(spacing)
            native += plane or ()
            after = self._resampled(int(height), int(width), plane)
            tall.append(after[0])
            wide.append(after[1])
        return TrainedOn(
            min_height=min(tall),
            max_height=max(tall),
            min_width=min(wide),
            max_width=max(wide),
            min_spacing_mm=min(native, default=None),
            max_spacing_mm=max(native, default=None),
        )

    def _resampled(self, height: int, width: int, native: tuple[float, float] | None) -> tuple[int, int]:
        if self.spacing_mm is None or native is None:
            return height, width
        row, column = native
        return max(1, round(height * row / self.spacing_mm)), max(1, round(width * column / self.spacing_mm))

    def _axes(self, height: int, width: int, spacing_mm: Spacing) -> tuple[_Axis, _Axis]:
        reason = self.misfit(height, width, spacing_mm)
        if reason is not None:
            raise DataError(f"The image {reason}.")
        after = self._resampled(height, width, in_plane(spacing_mm))
        side = self.crop if self.crop is not None else max(after)
        axes = []
        for native, resampled in zip((height, width), after, strict=True):
            kept = min(side, resampled)
            axes.append(_Axis(native, resampled, (resampled - kept) // 2, kept, (side - kept) // 2, side))
        return axes[0], axes[1]

    def _back(self, axis: _Axis) -> tuple[np.ndarray, np.ndarray]:
        """For each native pixel: the transformed pixel that holds its center, and whether there is one."""
        center = (np.arange(axis.native) + 0.5) * axis.resampled / axis.native - axis.start
        inside = (center >= 0) & (center < axis.kept)
        index = np.floor((center + axis.before) * self.size / axis.side).astype(np.int64)
        return np.clip(index, 0, self.size - 1), inside


def in_plane(spacing_mm: Spacing) -> tuple[float, float] | None:
    """Return the (row, column) spacing, or None where either is unknown, not finite or not positive."""
    if spacing_mm is None or isinstance(spacing_mm, float) or len(spacing_mm) < 2:  # a float is pandas' NaN
        return None
    row, column = (math.nan if one is None else float(one) for one in spacing_mm[:2])
    usable = math.isfinite(row) and math.isfinite(column) and row > 0 and column > 0
    return (row, column) if usable else None


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (h, w, channels) uint8 or int16 with Pillow's bilinear filter, antialiased where it shrinks."""
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image

    if image.dtype == np.uint8 and image.shape[2] == 3:
        resized = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized)
    wide = np.float32 if image.dtype == np.int16 else image.dtype
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(image[:, :, channel], dtype=wide)).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for channel in range(image.shape[2])
    ]
    stacked = np.stack(planes, axis=2)
    return np.rint(stacked).astype(image.dtype) if image.dtype == np.int16 else stacked


def _nearest(source: int, target: int) -> np.ndarray:
    """For each of `target` pixels, the source pixel that holds its center."""
    return np.minimum(((np.arange(target) + 0.5) * source / target).astype(np.int64), source - 1)


def _border_minimum(image: np.ndarray) -> np.ndarray:
    """Darkest value of the four border lines per channel: (channels,)."""
    lines: Iterable[np.ndarray] = (image[0], image[-1], image[:, 0], image[:, -1])
    return np.min([line.min(axis=0) for line in lines], axis=0)


def _pad(image: np.ndarray, rows: _Axis, columns: _Axis, value: np.ndarray) -> np.ndarray:
    if image.shape[:2] == (rows.side, columns.side):
        return image
    padded = np.empty((rows.side, columns.side, *image.shape[2:]), image.dtype)
    padded[...] = value
    padded[rows.before : rows.before + rows.kept, columns.before : columns.before + columns.kept] = image
    return padded
