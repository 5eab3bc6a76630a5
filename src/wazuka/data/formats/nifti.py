"""NIfTI volumes through nibabel, reoriented to RAS and cut along the third (superior) axis.

A slice is shown as radiologists look at it: anterior at the top, the patient's right at the left. Image and mask are treated
alike. Values are Hounsfield units (int16) where the sidecar or `dataset.json` says CT or, if neither speaks, where the values
look like CT: minimum at -500 or below and maximum at most 32767 (air is -1000; MR magnitude is not negative). All else is MR (float32).
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from wazuka.data.formats.base import DecodeError, FileInfo, check_size, hounsfield, pick, whole_numbers
from wazuka.data.formats.sidecar import declared_modality

CT_MINIMUM = -500.0
"""A volume whose minimum is at or below this many units is taken for CT when nothing says otherwise."""

# nibabel logs each header field that it mends; what it cannot mend it raises, and that reaches the user as DecodeError
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


class Volume:
    """An opened volume: header at once, values on demand and read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.image = nibabel.load(path)
        except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError) as error:
            raise DecodeError(f"not a readable NIfTI file ({_short(error)})") from error
        shape = tuple(int(one) for one in self.image.shape)  # type: ignore[attr-defined]
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) > 3:
            raise DecodeError(f"{len(shape)}D volume of shape {shape}; give one 3D file for each time point or channel")
        if len(shape) < 2:
            raise DecodeError(f"array of shape {shape}; a 2D or 3D volume is expected")
        self.shape = (*shape, 1)[:3]
        check_size(self.shape[0], self.shape[1], self.shape[2])
        self.dtype = self.image.get_data_dtype()  # type: ignore[attr-defined]
        if self.dtype.kind not in "iuf":
            raise DecodeError(f"voxels of type {self.dtype}; whole numbers or floats are expected")
        affine = np.asarray(self.image.affine, dtype=np.float64)  # type: ignore[attr-defined]
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise DecodeError("affine that does not span three dimensions")
        self.orientation = nibabel.io_orientation(affine)
        zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        order = np.argsort(self.orientation[:, 0])  # input axis for each of R, A, S
        self.size = tuple(self.shape[one] for one in order)  # right, anterior, superior
        self.zooms = tuple(float(zooms[one]) for one in order)
        proxy = self.image.dataobj  # type: ignore[attr-defined]
        self.slope, self.intercept = float(proxy.slope), float(proxy.inter)
        self._stored: np.ndarray | None = None

    def stored(self) -> np.ndarray:
        """Stored values in RAS order (right, anterior, superior), before slope and intercept."""
        if self._stored is None:
            try:
                values = np.asanyarray(self.image.dataobj.get_unscaled())  # type: ignore[attr-defined]
            except EOFError as error:
                raise DecodeError("truncated gzip file") from error
            except (OSError, zlib.error, ValueError) as error:
                raise DecodeError(f"truncated or damaged NIfTI file ({_short(error)})") from error
            self._stored = nibabel.apply_orientation(values.reshape(self.shape), self.orientation)
        return self._stored

    def slice(self, index: int) -> np.ndarray:
        """One slice with slope and intercept applied: rows from anterior to posterior, columns from right to left."""
        view = self.stored()[::-1, ::-1, index].T
        if self.slope == 1.0 and self.intercept == 0.0:
            return np.ascontiguousarray(view).astype(view.dtype.newbyteorder("="), copy=False)
        return view.astype(np.float64) * self.slope + self.intercept

    def range(self) -> tuple[float, float]:
        """Smallest and largest finite value."""
        values = self.stored()
        finite = np.isfinite(values) if values.dtype.kind == "f" else True
        low = float(np.min(values, where=finite, initial=_limit(values, top=True)))
        high = float(np.max(values, where=finite, initial=_limit(values, top=False)))
        ends = sorted((low * self.slope + self.intercept, high * self.slope + self.intercept))
        return ends[0], ends[1]

    def is_ct(self) -> bool:
        """Apply the rule of the module's docstring; the values are read only where the header cannot decide."""
        declared = declared_modality(self.path)
        if declared is not None:
            return declared == "CT"
        if self.dtype.kind == "u" and self.slope >= 0 and self.intercept > CT_MINIMUM:
            return False
        low, high = self.range()
        return low <= CT_MINIMUM and high <= 32767


def _limit(values: np.ndarray, *, top: bool) -> float | int:
    """The neutral start of a minimum (top) or a maximum, in the array's own type."""
    if values.dtype.kind == "f":
        return np.inf if top else -np.inf
    return int(np.iinfo(values.dtype).max if top else np.iinfo(values.dtype).min)


def probe(path: Path) -> FileInfo:
    """Describe the volume; the values are read only where the header leaves CT or MR open."""
    volume = Volume(path)
    ct = volume.is_ct()
    right, anterior, superior = volume.size
    return FileInfo(
        frames=superior,
        height=anterior,
        width=right,
        channels=1,
        intensity="hounsfield" if ct else "mr",
        modality=declared_modality(path) or ("CT" if ct else None),
        spacing_mm=(volume.zooms[1], volume.zooms[0], volume.zooms[2]),
    )


def decode(path: Path, frames: Sequence[int | None]) -> list[np.ndarray]:
    """Decode slices to int16 (Hounsfield units) or float32; a CT slice with NaN stays float32."""
    volume = Volume(path)
    wanted = pick(frames, volume.size[2])
    if volume.is_ct():
        return [hounsfield(volume.slice(one)) for one in wanted]
    return [volume.slice(one).astype(np.float32) for one in wanted]


def decode_masks(path: Path, frames: Sequence[int | None]) -> list[np.ndarray]:
    """Decode slices to integer label maps (H, W)."""
    volume = Volume(path)
    return [whole_numbers(volume.slice(one)) for one in pick(frames, volume.size[2])]


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
