"""What all image formats share: the description of a file, the error with its reason, the size limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MAX_PIXELS = 178_956_970
"""Largest image or slice; where Pillow itself refuses a file as a decompression bomb (2 x 1024^3 / 24 pixels)."""
MAX_VOXELS = 2**30
"""Largest volume, stack or array of images in one file."""

Spacing = tuple[float | None, float | None, float | None]


class DecodeError(Exception):
    """A file cannot be used as an image; the text is the reason, one clause."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """What a file says about itself, read from its header where the format allows that."""

    frames: int | None
    """None: the file is one image; n: a volume, stack or array of n slices (frames 0 to n - 1)."""
    height: int
    width: int
    channels: int
    """1 or 3."""
    spacing_mm: Spacing | None = None
    """Row, column, slice; slice None for a single image without one."""
    intensity: str
    """One of `manifest.Intensity`."""
    modality: str | None = None
    """CT, MR, US, XC, SM ... where the file or its sidecar says."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Allow-listed tags or sidecar values, ready as manifest attributes."""
    attribute_sources: dict[str, str] = field(default_factory=dict)
    """Attribute -> "DICOM tag PatientSex", "sidecar Manufacturer" ..."""
    patient_id: str | None = None
    """The raw DICOM PatientID, else the study; only ever pseudonymized, never stored."""
    study_id: str | None = None
    series_id: str | None = None
    instance_number: int | None = None
    position_mm: float | None = None
    """Position along the slice normal."""
    identifying_tags: tuple[str, ...] = ()
    """Names (not values) of identifying DICOM tags that are not empty."""


def check_size(height: int, width: int, frames: int = 1) -> None:
    """Refuse an empty image or one past the limits, before its pixels are read.

    Raises:
        DecodeError: With the size and the limit.
    """
    if height < 1 or width < 1 or frames < 1:
        raise DecodeError(f"empty image of {height} x {width} pixels and {frames} frames")
    if height * width > MAX_PIXELS:
        raise DecodeError(f"{height} x {width} pixels, more than the limit of {MAX_PIXELS:,}")
    if height * width * frames > MAX_VOXELS:
        raise DecodeError(f"{frames} x {height} x {width} values, more than the limit of {MAX_VOXELS:,}")


def pick(frames: Sequence[int | None], available: int | None) -> list[int]:
    """Turn asked frames into indices; None stands for the only image of a file.

    Raises:
        DecodeError: If a frame is asked that the file does not have, or none is named in a file of many.
    """
    count = 1 if available is None else available
    indices = []
    for one in frames:
        if one is None and count > 1:
            raise DecodeError(f"holds {count} frames, and none was named")
        index = 0 if one is None else int(one)
        if not 0 <= index < count:
            raise DecodeError(f"has no frame {index}, only {count}")
        indices.append(index)
    return indices


def whole_numbers(mask: np.ndarray) -> np.ndarray:
    """Return a mask with an integer dtype and unchanged values.

    Raises:
        DecodeError: If a value is not a whole number that 32 bits hold.
    """
    if mask.dtype == np.bool_:
        return mask.astype(np.uint8)
    if np.issubdtype(mask.dtype, np.integer):
        return mask
    if not np.isfinite(mask).all():
        raise DecodeError("mask with NaN or infinite values")
    rounded = np.rint(mask)
    odd = mask[rounded != mask]
    if odd.size:
        raise DecodeError(f"mask value {float(odd.flat[0]):g} is not a whole number")
    if np.abs(rounded).max(initial=0) > np.iinfo(np.int32).max:
        raise DecodeError(f"mask value {float(np.abs(rounded).max()):g} does not fit in 32 bits")
    return rounded.astype(np.int32)


def hounsfield(values: np.ndarray) -> np.ndarray:
    """Round Hounsfield units to int16; NaN and infinity stay, as float32, so that the checks can see them.

    Raises:
        DecodeError: If a finite value does not fit in 16 bits.
    """
    if values.dtype == np.int16:
        return values
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    finite = np.isfinite(values)
    low = float(np.min(values, where=finite, initial=np.inf))
    high = float(np.max(values, where=finite, initial=-np.inf))
    if low < -32768.5 or high >= 32767.5:
        raise DecodeError(f"Hounsfield units from {low:g} to {high:g} do not fit in 16 bits")
    if not finite.all():
        return values.astype(np.float32)
    return np.rint(values).astype(np.int16)
