"""PNG, JPEG, BMP, GIF, PGM/PPM, WebP and JPEG 2000 through Pillow: one image per file.

Pillow mode -> what comes back:
    1, L, P (gray palette), I;16      -> uint8 or uint16 (H, W); 16-bit gray stays 16 bit
    RGB, P (color palette), CMYK, YCbCr -> uint8 (H, W, 3)
    LA, RGBA, PA, transparent P       -> alpha dropped where opaque, else laid over white (the color of an empty slide)
    I (32-bit)                        -> uint16 if all values fit, else refused; F and 16-bit color are refused
Masks: P gives the indices, color masks are refused unless all three channels agree.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wazuka.data.formats.base import DecodeError, FileInfo, check_size, whole_numbers

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")

_TURNED = {5, 6, 7, 8}  # EXIF orientations that swap rows and columns


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DecodeError("not a PNG, JPEG, BMP, GIF, PGM, WebP or JPEG 2000 file, or its header is damaged") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(f"more pixels than the limit of {2 * (Image.MAX_IMAGE_PIXELS or 0):,}") from error
    except PermissionError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise DecodeError(f"truncated or damaged header ({str(error)[:80]})") from error
    with image:
        check_size(image.height, image.width)
        count = getattr(image, "n_frames", 1)
        # MPO is what phones and cameras write: a JPEG followed by a preview; its first image is the photo
        if count > 1 and image.format != "MPO":
            raise DecodeError(f"{image.format} with {count} frames; one image per file is expected")
        try:
            yield image
        except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise DecodeError(f"truncated or damaged {image.format} ({text[:80]})") from error


def probe(path: Path) -> FileInfo:
    """Describe the file from its header; sizes are after EXIF rotation."""
    with _opened(path) as image:
        _refuse_lossy(image)
        height, width = image.height, image.width
        if _orientation(image) in _TURNED:
            height, width = width, height
        channels = _channels(image)
        intensity = "rgb8" if channels == 3 else ("gray16" if image.mode.startswith("I") else "gray8")
        return FileInfo(frames=None, height=height, width=width, channels=channels, intensity=intensity)


def decode(path: Path) -> np.ndarray:
    """Decode to uint8 (H, W) or (H, W, 3), or uint16 (H, W)."""
    with _opened(path) as image:
        _refuse_lossy(image)
        return to_array(_upright(image))


def decode_mask(path: Path) -> np.ndarray:
    """Decode to an integer label map (H, W) with the values of the file."""
    with _opened(path) as image:
        image = _upright(image)
        if image.mode in ("RGB", "RGBA", "LA", "PA"):
            return same_channels(np.asarray(image)[..., : 3 if image.mode.startswith("RGB") else 1])
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F"):
            raise DecodeError(f"mask with color mode {image.mode}; label numbers in one channel are expected")
        return whole_numbers(_native(np.array(image)))


def same_channels(mask: np.ndarray) -> np.ndarray:
    """Reduce a gray mask that was saved as color, (H, W, C) with equal channels, to (H, W).

    Raises:
        DecodeError: If the channels differ.
    """
    first = mask[..., 0]
    if not (mask == first[..., None]).all():
        raise DecodeError("color mask; label numbers in one channel are expected")
    return whole_numbers(np.ascontiguousarray(first))


def to_array(image: Image.Image) -> np.ndarray:
    """Turn a loaded Pillow image of any supported mode into uint8 (H, W[, 3]) or uint16 (H, W)."""
    if image.mode == "P":
        if "transparency" not in image.info and _gray_palette(image):
            return np.array(image.convert("RGB"))[..., 0].copy()
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("1", "L", "RGB"):
        if "transparency" in image.info:
            image = image.convert("RGBA" if image.mode == "RGB" else "LA")
        else:
            return np.array(image.convert("L") if image.mode == "1" else image)
    if image.mode in ("RGBA", "LA", "PA"):
        return _without_alpha(np.array(image.convert("RGBA") if image.mode == "PA" else image))
    if image.mode in ("CMYK", "YCbCr", "RGBX", "LAB"):
        return np.array(image.convert("RGB"))
    if image.mode.startswith("I"):
        values = _native(np.array(image))
        if values.min() < 0 or values.max() > 65535:
            raise DecodeError(f"32-bit values from {values.min()} to {values.max()} do not fit in 16 bits")
        return values.astype(np.uint16)
    raise DecodeError(f"pixels of mode {image.mode}; 8-bit gray or color or 16-bit gray is expected")


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C + 1) with alpha last -> (H, W[, 3]); transparent pixels are laid over white."""
    color, alpha = pixels[..., :-1], pixels[..., -1:]
    if not (alpha == 255).all():
        share = alpha.astype(np.float32) / 255
        color = np.rint(color * share + 255 * (1 - share)).astype(np.uint8)
    return np.ascontiguousarray(color[..., 0] if color.shape[-1] == 1 else color)


def _channels(image: Image.Image) -> int:
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        return 1
    if image.mode == "P" and "transparency" not in image.info:
        return 1 if _gray_palette(image) else 3
    return 3


def _gray_palette(image: Image.Image) -> bool:
    """Whether all colors of a palette are gray."""
    colors = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return bool((colors == colors[:, :1]).all())


def _refuse_lossy(image: Image.Image) -> None:
    """Pillow cuts 16-bit color to 8 bits without a word."""
    tile = getattr(image, "tile", None)
    raw = tile[0][3] if tile else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    if isinstance(raw, str) and ";16" in raw and image.mode in ("RGB", "RGBA", "LA"):
        raise DecodeError("16 bits per color channel; 8-bit color or 16-bit gray is expected")
    if image.mode == "F":
        raise DecodeError("32-bit float pixels; 8-bit gray or color or 16-bit gray is expected")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation from the header; Pillow's `getexif` would decode a PNG's pixels to look behind them."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(0x0112, 1))


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image)


def _native(pixels: np.ndarray) -> np.ndarray:
    """Byte order of this machine: hashes must not depend on that of the file."""
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
