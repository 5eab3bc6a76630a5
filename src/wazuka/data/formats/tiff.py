"""TIFF through tifffile: 8- and 16-bit gray, 8-bit color, one image or a stack of equal pages.

Compressions that tifffile needs imagecodecs for (LZW, JPEG) are read by Pillow's libtiff where that is absent. Spacing comes
from OME-XML, ImageJ or the resolution tags; resolutions that printers and screens use (72, 96, 300 dpi ...) are not taken for
a physical size. Pyramids (whole slides) and pages of different sizes are refused with their reason.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image

from wazuka.data.formats.base import DecodeError, FileInfo, Spacing, check_size, pick, whole_numbers
from wazuka.data.formats.raster import same_channels, to_array

PRINT_DPI = {1, 72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200}
"""Resolutions of screens and printers, written by programs that know no physical size."""
_TO_MM = {
    "mm": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "um": 1e-3,
    "µm": 1e-3,
    "μm": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "nm": 1e-6,
}
_PALETTE, _WHITE_IS_ZERO, _CMYK = 3, 0, 5
_GRAY_OR_COLOR = {0: "white is zero", 1: "gray", 2: "color", 3: "palette", 5: "CMYK", 6: "YCbCr"}

# tifffile logs what it also raises; the reason reaches the user through DecodeError
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def _pages(file: tifffile.TiffFile) -> list[Any]:
    pages: list[Any] = list(file.pages)
    first: Any = pages[0]
    if any(one.shape != first.shape or one.dtype != first.dtype for one in pages):
        sizes = sorted({f"{one.imagelength} x {one.imagewidth}" for one in pages})
        raise DecodeError(
            f"{len(pages)} pages of different sizes ({', '.join(sizes[:4])}); one image or equal slices are expected"
        )
    if file.series and len(file.series[0].levels) > 1:
        raise DecodeError(f"a pyramid of {len(file.series[0].levels)} levels; export one level as an image")
    check_size(first.imagelength, first.imagewidth, len(pages))
    bits, photometric = first.bitspersample, int(first.photometric)
    kind = np.dtype(first.dtype) if first.dtype is not None else np.dtype("V")
    if photometric not in _GRAY_OR_COLOR:
        raise DecodeError(f"color model {getattr(first.photometric, 'name', photometric)}; gray or RGB is expected")
    if bits not in (1, 8, 16) or kind.kind not in "ub":
        raise DecodeError(f"{bits}-bit pixels of type {kind}; unsigned 8 or 16 bits are expected")
    samples = first.samplesperpixel - len(first.extrasamples)
    if samples not in (1, 3) and photometric != _CMYK:
        raise DecodeError(f"{samples} channels; 1 or 3 are expected")
    if bits == 16 and samples > 1:
        raise DecodeError("16 bits per color channel; 8-bit color or 16-bit gray is expected")
    if first.imagedepth > 1:
        raise DecodeError(f"tiled volume of depth {first.imagedepth}; one page per slice is expected")
    return pages


def probe(path: Path) -> FileInfo:
    """Describe the file from its tags."""
    with _opened(path) as file:
        pages = _pages(file)
        first = pages[0]
        color = int(first.photometric) in (2, 3, 5, 6)
        intensity = "rgb8" if color else ("gray16" if first.bitspersample == 16 else "gray8")
        return FileInfo(
            frames=len(pages) if len(pages) > 1 else None,
            height=first.imagelength,
            width=first.imagewidth,
            channels=3 if color else 1,
            intensity=intensity,
            spacing_mm=_spacing(file),
        )


def decode(path: Path, frames: Sequence[int | None]) -> list[np.ndarray]:
    """Decode pages to uint8 (H, W) or (H, W, 3), or uint16 (H, W)."""
    with _opened(path) as file:
        pages = _pages(file)
        wanted = pick(frames, len(pages) if len(pages) > 1 else None)
        return [_decode_page(path, pages[one], one) for one in wanted]


def decode_masks(path: Path, frames: Sequence[int | None]) -> list[np.ndarray]:
    """Decode pages to integer label maps (H, W); palette pages give indices."""
    masks = []
    with _opened(path) as file:
        pages: list[Any] = list(file.pages)
        check_size(pages[0].imagelength, pages[0].imagewidth, len(pages))
        for one in pick(frames, len(pages) if len(pages) > 1 else None):
            pixels = _raw(path, pages[one], one)
            masks.append(whole_numbers(pixels) if pixels.ndim == 2 else same_channels(pixels[..., :3]))
    return masks


def _opened(path: Path) -> tifffile.TiffFile:
    try:
        file = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, ValueError, OSError, IndexError, KeyError) as error:
        raise DecodeError(f"not a readable TIFF file ({str(error)[:80]})") from error
    if not len(file.pages):
        file.close()
        raise DecodeError("TIFF without a page")
    return file


def _raw(path: Path, page: Any, index: int) -> np.ndarray:
    """Stored samples of one page: (H, W) or (H, W, samples)."""
    try:
        pixels = page.asarray()
    except Exception as error:  # tifffile raises many kinds, all for damaged or unsupported data
        if "imagecodecs" not in str(error):
            raise DecodeError(f"truncated or damaged TIFF ({str(error).splitlines()[0][:80]})") from error
        return _with_pillow(path, index, error)
    if pixels.ndim == 3 and int(page.planarconfig) == 2:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3):
        raise DecodeError(f"page of shape {pixels.shape}; an image is expected")
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))


def _with_pillow(path: Path, index: int, cause: Exception) -> np.ndarray:
    try:
        with Image.open(path, formats=("TIFF",)) as image:
            image.seek(index)
            image.load()
            if image.mode in ("P", "RGB", "RGBA", "L", "LA", "1") or image.mode.startswith("I;16"):
                pixels = np.array(image)
                return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
            return to_array(image)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DecodeError(f"TIFF that neither tifffile ({cause}) nor Pillow ({error}) can read") from error


def _decode_page(path: Path, page: Any, index: int) -> np.ndarray:
    pixels = _raw(path, page, index)
    photometric = int(page.photometric)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if photometric == _PALETTE and pixels.ndim == 2:
        colors = np.asarray(page.colormap)  # (3, entries), 16 bit
        return np.ascontiguousarray((colors[:, pixels] >> 8).astype(np.uint8).transpose(1, 2, 0))
    if photometric == _CMYK:
        return np.array(Image.fromarray(pixels[..., :4], "CMYK").convert("RGB"))
    if photometric == _WHITE_IS_ZERO:
        pixels = np.iinfo(pixels.dtype).max - pixels
    base = 1 if photometric in (0, 1) else 3
    if pixels.ndim == 3 and pixels.shape[-1] > base:
        pixels = _drop_extra(pixels, base, page)
    return np.ascontiguousarray(pixels)


def _drop_extra(pixels: np.ndarray, base: int, page: Any) -> np.ndarray:
    """Drop a constant extra channel; lay a real alpha over white; refuse an extra channel of unknown meaning."""
    color, extra = pixels[..., :base], pixels[..., base:]
    if not (extra == extra[:1, :1]).all():
        kinds = [int(one) for one in page.extrasamples]
        if len(kinds) != 1 or kinds[0] not in (1, 2):
            raise DecodeError(f"{len(kinds)} extra channels of unknown meaning; 1 or 3 channels are expected")
        top = np.iinfo(pixels.dtype).max
        share = extra.astype(np.float64) / top
        front = color if kinds[0] == 1 else color * share  # 1: color is stored multiplied by alpha
        color = np.rint(np.clip(front + top * (1 - share), 0, top)).astype(pixels.dtype)
    return color[..., 0] if base == 1 else color


def _spacing(file: tifffile.TiffFile) -> Spacing | None:
    """Row, column and slice spacing in mm where the file gives a physical size."""
    if file.ome_metadata:
        return _ome_spacing(file.ome_metadata)
    page = file.pages[0]
    tags: Any = page.tags  # type: ignore[union-attr]
    if "XResolution" not in tags or "YResolution" not in tags:
        return None
    per_unit = [_ratio(tags[name].value) for name in ("YResolution", "XResolution")]
    if any(one <= 0 for one in per_unit):
        return None
    imagej = file.imagej_metadata or {}
    if str(imagej.get("unit", "")).replace("\\u00B5", "µ") in _TO_MM:
        unit = _TO_MM[str(imagej["unit"]).replace("\\u00B5", "µ")]
        between = imagej.get("spacing")
        return (unit / per_unit[0], unit / per_unit[1], float(between) * unit if between and file.is_imagej else None)
    code = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2
    if code not in (2, 3):
        return None
    unit = 25.4 if code == 2 else 10.0
    dpi = [one * 25.4 / unit for one in per_unit]
    if all(min(abs(one - print_dpi) for print_dpi in PRINT_DPI) < 0.5 for one in dpi):
        return None
    return (unit / per_unit[0], unit / per_unit[1], None)


def _ratio(value: Any) -> float:
    top, bottom = value if isinstance(value, tuple) else (value, 1)
    return float(top) / float(bottom) if bottom else 0.0


def _ome_spacing(text: str) -> Spacing | None:
    # a document type declaration is what entity attacks need, and OME-XML has none
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - without declarations there are no entities
    except ElementTree.ParseError:
        return None
    pixels = next((one for one in root.iter() if one.tag.rsplit("}", 1)[-1] == "Pixels"), None)
    if pixels is None:
        return None
    sizes: list[float | None] = []
    for axis in ("Y", "X", "Z"):
        value = pixels.get(f"PhysicalSize{axis}")
        unit = _TO_MM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(float(value) * unit if value and unit else None)
    return (sizes[0], sizes[1], sizes[2]) if sizes[0] and sizes[1] else None
