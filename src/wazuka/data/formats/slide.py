"""Whole-slide images through openslide (extra `wsi`), and TIFF pyramids: the largest level (level 0), for cutting patches.

A slide is far larger than memory, so `Slide` reads only what is sliced from it. Where the scanner has stored nothing the
slide is transparent; that becomes white. A TIFF pyramid is decoded whole, within the limits of `base.check_size`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from wazuka.data.formats.base import DecodeError, FileInfo, Spacing, check_size

MODALITY = "SM"
"""DICOM's code of slide microscopy."""


class Slide:
    """Level 0 of a whole-slide image as an array-like of shape (height, width, 3), uint8, of which slices are read."""

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, reader: Any = None) -> None:
        """Open a slide.

        Args:
            path: The file.
            reader: An opened slide with openslide's `dimensions`, `properties` and `read_region`; None opens `path`.

        Raises:
            DecodeError: If openslide is not installed.
        """
        self.reader = _openslide().OpenSlide(str(path)) if reader is None else reader
        width, height = self.reader.dimensions
        self.shape = (int(height), int(width), 3)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """Read the pixels of two slices with steps of 1, (rows, columns, 3) uint8."""
        (top, bottom, row_step), (left, right, column_step) = (
            one.indices(length) for one, length in zip(window, self.shape[:2], strict=True)
        )
        assert row_step == column_step == 1, "a slide is read at full resolution"
        height, width = max(0, bottom - top), max(0, right - left)
        if not height or not width:
            return np.zeros((height, width, 3), np.uint8)
        pixels = np.asarray(self.reader.read_region((left, top), 0, (width, height)), np.uint16)  # (height, width, 4)
        alpha = pixels[..., 3:]
        return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)

    @property
    def spacing_mm(self) -> Spacing | None:
        """Row and column spacing, from the scanner's microns per pixel; None where the file has none."""
        sizes = []
        for axis in ("y", "x"):
            try:
                size = float(self.reader.properties[f"openslide.mpp-{axis}"]) / 1000
            except (KeyError, ValueError):
                return None
            if not (math.isfinite(size) and size > 0):
                return None
            sizes.append(size)
        return (sizes[0], sizes[1], None)


def _openslide() -> Any:
    try:
        import openslide
    except ImportError as error:
        raise DecodeError("whole-slide images need openslide; install the extra: pip install 'wazuka[wsi]'") from error
    return openslide


def probe(path: Path) -> FileInfo:
    """Describe the largest level of a whole slide."""
    opened = Slide(path)
    return FileInfo(
        frames=None,
        height=opened.shape[0],
        width=opened.shape[1],
        channels=3,
        spacing_mm=opened.spacing_mm,
        intensity="rgb8",
        modality=MODALITY,
    )


def is_pyramid(path: Path) -> bool:
    """Tell whether a TIFF holds one image in several sizes."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return len(file.pages) > 0 and len(file.series) > 0 and len(file.series[0].levels) > 1
    except Exception:  # tifffile raises many kinds for damaged files; formats/tiff.py names the reason
        return False


def probe_pyramid(path: Path) -> FileInfo:
    """Describe the largest level of a TIFF pyramid.

    Raises:
        DecodeError: If the level is too large or not 8-bit gray or color.
    """
    import tifffile

    from wazuka.data.formats import tiff

    with tifffile.TiffFile(path) as file:
        page: Any = file.series[0].levels[0].pages[0]
        check_size(page.imagelength, page.imagewidth)
        if page.bitspersample != 8 or page.samplesperpixel not in (1, 3, 4):
            raise DecodeError(
                f"a pyramid of {page.samplesperpixel} channels of {page.bitspersample} bits; 8-bit gray or color is expected"
            )
        color = page.samplesperpixel > 1
        return FileInfo(
            frames=None,
            height=page.imagelength,
            width=page.imagewidth,
            channels=3 if color else 1,
            spacing_mm=tiff._spacing(file),
            intensity="rgb8" if color else "gray8",
        )


def decode_pyramid(path: Path) -> np.ndarray:
    """Decode the largest level of a TIFF pyramid, (H, W) or (H, W, 3) uint8; its first page, by the format's convention."""
    from PIL import Image

    info = probe_pyramid(path)
    with Image.open(path, formats=("TIFF",)) as image:
        if image.size != (info.width, info.height):
            raise DecodeError(f"a pyramid whose first page is {image.height} x {image.width}, not its largest level")
        return np.array(image.convert("RGB" if info.channels == 3 else "L"))
