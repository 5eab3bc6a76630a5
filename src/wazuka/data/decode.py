"""Open an image file of any supported format: `probe` describes it, `decode` gives native values, `decode_masks` label maps.

Everything that reads pixels goes through here. A file that cannot be used raises `DecodeError` with its reason, whatever library
stumbled over it. No torch; each format's library is imported when a file of that format is opened.

    PNG JPEG BMP GIF PGM WebP JPEG 2000   formats/raster.py (Pillow)      TIFF    formats/tiff.py (tifffile)
    DICOM, with or without a suffix       formats/dicom.py (pydicom)      NIfTI   formats/nifti.py (nibabel)
    npz (MedMNIST)                        formats/npz.py (numpy)
    whole slides (SVS, NDPI, MRXS ...)    formats/slide.py (openslide, extra `wsi`), for patches that annotations place
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np

from wazuka.data.formats import sidecar
from wazuka.data.formats.base import MAX_PIXELS, MAX_VOXELS, DecodeError, FileInfo, pick

__all__ = [
    "MAX_PIXELS",
    "MAX_VOXELS",
    "SUFFIXES",
    "DecodeError",
    "FileInfo",
    "decode",
    "decode_masks",
    "format_of",
    "is_image",
    "probe",
]

SUFFIXES: dict[str, str] = {
    ".png": "raster", ".jpg": "raster", ".jpeg": "raster", ".jpe": "raster", ".bmp": "raster", ".gif": "raster", ".pgm": "raster",
    ".ppm": "raster", ".pnm": "raster", ".webp": "raster", ".jp2": "raster", ".tif": "tiff", ".tiff": "tiff", ".dcm": "dicom",
    ".dicom": "dicom", ".ima": "dicom", ".nii": "nifti", ".nii.gz": "nifti", ".npz": "npz",
    ".svs": "slide", ".svslide": "slide", ".ndpi": "slide", ".mrxs": "slide", ".scn": "slide", ".vms": "slide", ".vmu": "slide",
    ".bif": "slide",
}  # fmt: skip
"""Suffix (lower case) -> format."""


def format_of(path: Path) -> str | None:
    """Tell the format: raster, tiff, dicom, nifti, npz or slide; None if it is none of these.

    The suffix decides; where it is unknown or absent, as DICOM archives like it, the DICM mark at byte 128 does.
    """
    name = Path(path).name.lower()
    for suffix, kind in SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    return "dicom" if _has_dicom_mark(path) else None


def is_image(path: Path) -> bool:
    """Tell whether `path` is a file that `probe` would try to open; hidden files are not."""
    path = Path(path)
    return path.is_file() and not path.name.startswith(".") and format_of(path) is not None


def probe(path: Path, *, patches: bool = False) -> FileInfo:
    """Describe a file, from its header where the format allows that.

    Args:
        path: Any supported file.
        patches: Only patches will be cut from it, so that a whole slide or a pyramid is described by its largest level;
            else these are refused.

    Raises:
        DecodeError: If the file cannot be used as an image; the text is the reason.
    """
    path = Path(path)
    kind = _known(path)
    with _reasons(path):
        if kind == "raster":
            from wazuka.data.formats import raster

            info = raster.probe(path)
        elif kind == "tiff":
            from wazuka.data.formats import slide, tiff

            info = slide.probe_pyramid(path) if patches and slide.is_pyramid(path) else tiff.probe(path)
        elif kind == "dicom":
            from wazuka.data.formats import dicom

            return dicom.probe(path)
        elif kind == "nifti":
            from wazuka.data.formats import nifti

            info = nifti.probe(path)
        elif kind == "slide":
            from wazuka.data.formats import slide

            if not patches:
                raise DecodeError(
                    "a whole-slide image, of which only patches around annotations (kinds midog, ccmct) are read; export regions as TIFF"
                )
            info = slide.probe(path)
        else:
            from wazuka.data.formats import npz

            return npz.probe(path)
        values, sources = sidecar.attributes(path)
        return dataclasses.replace(info, attributes=values, attribute_sources=sources)


def decode(path: Path, frames: Sequence[int | None] = (None,)) -> list[np.ndarray]:
    """Decode frames of one file to native values, opening it once.

    Args:
        path: Any supported file.
        frames: Frame numbers; None stands for the only image of a file.

    Returns:
        One array per frame, (H, W) or (H, W, 3): uint8, uint16, int16 (Hounsfield units) or float32 (MR, PET). Of a
        whole slide it is a `slide.Slide`, which reads what is sliced from it (`patches.cut`).

    Raises:
        DecodeError: If the file or a frame cannot be decoded; the text is the reason.
    """
    path = Path(path)
    kind = _known(path)
    with _reasons(path):
        if kind == "raster":
            from wazuka.data.formats import raster

            return _repeat(raster.decode, path, frames)
        if kind == "tiff":
            from wazuka.data.formats import slide, tiff

            if slide.is_pyramid(path):
                return _repeat(slide.decode_pyramid, path, frames)
            return tiff.decode(path, frames)
        if kind == "slide":
            from wazuka.data.formats import slide

            return _repeat(lambda one: cast(np.ndarray, slide.Slide(one)), path, frames)
        if kind == "dicom":
            from wazuka.data.formats import dicom

            return dicom.decode(path, frames)
        if kind == "nifti":
            from wazuka.data.formats import nifti

            return nifti.decode(path, frames)
        from wazuka.data.formats import npz

        return npz.decode(path, frames)


def decode_masks(path: Path, frames: Sequence[int | None] = (None,)) -> list[np.ndarray]:
    """Decode frames of a mask file to integer label maps (H, W) with the values of the file.

    A mask file with one image serves any single frame asked with None; palette files give indices.

    Raises:
        DecodeError: If the file or a frame cannot be decoded, or its values are no labels.
    """
    path = Path(path)
    kind = _known(path)
    with _reasons(path):
        if kind == "raster":
            from wazuka.data.formats import raster

            return _repeat(raster.decode_mask, path, frames)
        if kind == "tiff":
            from wazuka.data.formats import tiff

            return tiff.decode_masks(path, frames)
        if kind == "dicom":
            from wazuka.data.formats import dicom

            return dicom.decode_masks(path, frames)
        if kind == "nifti":
            from wazuka.data.formats import nifti

            return nifti.decode_masks(path, frames)
        raise DecodeError("npz files hold no masks")


def _repeat(open_one: Callable[[Path], np.ndarray], path: Path, frames: Sequence[int | None]) -> list[np.ndarray]:
    """A file of one image: opened once, whatever number of times it is asked for."""
    count = len(pick(frames, None))
    image = open_one(path)
    return [image] * count


def _known(path: Path) -> str:
    if not path.exists():
        raise DecodeError("file does not exist")
    if path.is_dir():
        raise DecodeError("is a folder")
    if path.stat().st_size == 0:
        raise DecodeError("empty file of 0 bytes")
    kind = format_of(path)
    if kind is None:
        raise DecodeError(f"unknown format `{path.suffix}`; known are {', '.join(SUFFIXES)} and DICOM without a suffix")
    return kind


class _reasons:  # noqa: N801 - used like a function
    """Turn what a library raises for a damaged file into DecodeError, and keep its warnings from the user's terminal.

    Five libraries raise everything from struct.error to ZeroDivisionError on damaged input; which of them it was does not
    matter to the import, the reason does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        self.caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.caught.__exit__(kind, error, trace)
        if isinstance(error, DecodeError) or not isinstance(error, Exception):
            return
        if isinstance(error, PermissionError):
            raise DecodeError("permission to read denied") from error
        text = (str(error).splitlines() or [""])[0][:120]
        raise DecodeError(f"could not be read ({type(error).__name__}: {text})".replace(": )", ")")) from error


def _has_dicom_mark(path: Path) -> bool:
    try:
        with Path(path).open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False
