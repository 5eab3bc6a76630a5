"""DICOM through pydicom: gray and color images, multi-frame files, Hounsfield units from slope and intercept.

What comes back, by content:
    CT with RescaleSlope and RescaleIntercept     int16 Hounsfield units, rounded
    MR, PET, any other slope, or signed values    float32, slope and intercept applied
    other gray (CR, DX, MG, US, XA, NM ...)       uint8 or uint16; MONOCHROME1 inverted so that bright is dense
    RGB, YBR, PALETTE COLOR                       uint8 RGB
Windows (VOI LUT) are not applied: the image transform chooses the window. Files without the DICM mark are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from wazuka.data.formats import tags
from wazuka.data.formats.base import DecodeError, FileInfo, Spacing, check_size, hounsfield, pick, whole_numbers

_COLOR = (
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_PARTIAL_420",
    "YBR_PARTIAL_422",
    "YBR_ICT",
    "YBR_RCT",
    "PALETTE COLOR",
)
_NO_IMAGE = {
    "RTSTRUCT": "contours", "RTPLAN": "a treatment plan", "RTDOSE": "a dose grid", "SR": "a structured report", "SEG": "a segmentation object",
    "PR": "a presentation state", "KO": "a key object note", "REG": "a registration", "DOC": "a document",
}  # fmt: skip
"""Modalities whose objects are no images of a patient."""


def read_header(path: Path) -> pydicom.Dataset:
    """Read everything but the pixels.

    Raises:
        DecodeError: If the file is no DICOM file.
    """
    return _read(path, stop_before_pixels=True)


def not_an_image(dataset: pydicom.Dataset) -> str | None:
    """Say why a DICOM object holds no image (contours, a report, a directory), or None if it may hold one."""
    modality = str(dataset.get("Modality") or "")
    if modality in _NO_IMAGE:
        return f"{modality} object ({_NO_IMAGE[modality]}), not an image"
    if "DirectoryRecordSequence" in dataset:
        return "DICOMDIR (a directory of files), not an image"
    if not dataset.get("Rows") or not dataset.get("Columns"):
        return f"DICOM object without an image ({modality or 'no modality'})"
    return None


def probe(path: Path) -> FileInfo:
    """Describe the file from its header.

    Raises:
        DecodeError: If it is no DICOM file or holds no image.
    """
    return describe(read_header(path))


def describe(dataset: pydicom.Dataset) -> FileInfo:
    """Describe a header; same errors as `probe`."""
    frames = _check(dataset)
    color = dataset.PhotometricInterpretation in _COLOR
    values, sources = tags.read_attributes(dataset)
    study = str(dataset.get("StudyInstanceUID") or "") or None
    number = dataset.get("InstanceNumber")
    return FileInfo(
        frames=frames if frames > 1 else None,
        height=int(dataset.Rows),
        width=int(dataset.Columns),
        channels=3 if color else 1,
        spacing_mm=spacing(dataset),
        intensity=_intensity(dataset),
        modality=str(dataset.get("Modality") or "") or None,
        attributes=values,
        attribute_sources=sources,
        patient_id=str(dataset.get("PatientID") or "").strip() or study,
        study_id=study,
        series_id=str(dataset.get("SeriesInstanceUID") or "") or None,
        instance_number=int(number) if number is not None and str(number).strip() else None,
        position_mm=position(dataset),
        identifying_tags=tags.identifying(dataset),
    )


def decode(path: Path, frames: Sequence[int | None]) -> list[np.ndarray]:
    """Decode frames; see the module's docstring for dtypes."""
    dataset = _read(path, stop_before_pixels=False)
    count = _check(dataset)
    kind = _intensity(dataset)
    images = []
    for index in pick(frames, count if count > 1 else None):
        stored = _frame(dataset, index, count)
        if dataset.PhotometricInterpretation in _COLOR:
            images.append(_color(dataset, stored))
        else:
            images.append(_gray(dataset, stored, index, kind))
    return images


def decode_masks(path: Path, frames: Sequence[int | None]) -> list[np.ndarray]:
    """Decode frames of a mask that is stored as a DICOM image: stored values, without slope and intercept."""
    dataset = _read(path, stop_before_pixels=False)
    count = _check(dataset)
    masks = [_frame(dataset, index, count) for index in pick(frames, count if count > 1 else None)]
    if masks and masks[0].ndim != 2:
        raise DecodeError("color mask; label numbers in one channel are expected")
    return [whole_numbers(one) for one in masks]


def spacing(dataset: pydicom.Dataset) -> Spacing | None:
    """Row, column and slice spacing in mm; the slice spacing only where the header itself gives one."""
    measures = _functional(dataset, "PixelMeasuresSequence", 0)
    pair = None
    for place in (measures, dataset):
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            found = None if place is None else place.get(keyword)
            if pair is None and found is not None and len(found) == 2 and all(float(one) > 0 for one in found):
                pair = (float(found[0]), float(found[1]))
    if pair is None:
        pair = _ultrasound_spacing(dataset)
    if pair is None:
        return None
    between = (measures or dataset).get("SpacingBetweenSlices")
    steps = _frame_positions(dataset)
    if len(steps) > 1:
        between = float(np.median(np.abs(np.diff(steps)))) or None
    return (pair[0], pair[1], abs(float(between)) if between else None)


def normal(dataset: pydicom.Dataset, frame: int = 0) -> np.ndarray | None:
    """Unit normal of the slice in patient coordinates, (3,); None where the header has no orientation."""
    plane = _functional(dataset, "PlaneOrientationSequence", frame)
    axes = (plane if plane is not None else dataset).get("ImageOrientationPatient")
    if axes is None or len(axes) != 6:
        return None
    row, column = np.array(axes[:3], dtype=float), np.array(axes[3:], dtype=float)
    across = np.cross(row, column)
    length = float(np.linalg.norm(across))
    return across / length if length > 1e-6 else None


def position(dataset: pydicom.Dataset, frame: int = 0) -> float | None:
    """Position of a slice along its normal, in mm."""
    across = normal(dataset, frame)
    plane = _functional(dataset, "PlanePositionSequence", frame)
    corner = (plane if plane is not None else dataset).get("ImagePositionPatient")
    if across is None or corner is None or len(corner) != 3:
        return None
    return float(across @ np.array(corner, dtype=float))


def _read(path: Path, *, stop_before_pixels: bool) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=stop_before_pixels, force=False)
    except InvalidDicomError as error:
        raise DecodeError("no DICM mark: not a DICOM file") from error
    except EOFError as error:
        raise DecodeError("truncated DICOM file") from error


def _check(dataset: pydicom.Dataset) -> int:
    """Number of frames; refuses what is no image."""
    reason = not_an_image(dataset)
    if reason:
        raise DecodeError(reason)
    if "PhotometricInterpretation" not in dataset or "BitsAllocated" not in dataset:
        raise DecodeError("DICOM image without PhotometricInterpretation or BitsAllocated")
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_size(int(dataset.Rows), int(dataset.Columns), frames)
    photometric = dataset.PhotometricInterpretation
    if photometric not in (*_COLOR, "MONOCHROME1", "MONOCHROME2"):
        raise DecodeError(f"photometric interpretation {photometric}; gray or RGB is expected")
    if photometric in _COLOR and photometric != "PALETTE COLOR" and int(dataset.BitsAllocated) != 8:
        raise DecodeError(f"{dataset.BitsAllocated} bits per color channel; 8 are expected")
    return frames


def _syntax(dataset: pydicom.Dataset) -> str:
    return str(getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "without a transfer syntax"))


def _frame(dataset: pydicom.Dataset, index: int, count: int) -> np.ndarray:
    """Stored values of one frame; YBR already turned into RGB."""
    from pydicom.pixels import pixel_array

    if not any(one in dataset for one in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DecodeError("DICOM image without pixel data")
    try:
        return np.asarray(pixel_array(dataset, index=index if count > 1 else None))
    except (RuntimeError, NotImplementedError) as error:
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            raise DecodeError(
                f"no decoder here for, or damaged, {_syntax(dataset)}; decompress the file first"
            ) from error
        raise DecodeError(f"damaged pixel data ({str(error).splitlines()[0][:80]})") from error
    except (ValueError, AttributeError, EOFError, OSError) as error:
        raise DecodeError(f"truncated or damaged pixel data ({str(error).splitlines()[0][:80]})") from error


def _color(dataset: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        pixels = np.asarray(apply_color_lut(stored, dataset))[..., :3]
        return np.ascontiguousarray((pixels >> 8).astype(np.uint8) if pixels.dtype.itemsize == 2 else pixels)
    return np.ascontiguousarray(stored.astype(np.uint8, copy=False))


def _gray(dataset: pydicom.Dataset, stored: np.ndarray, index: int, kind: str) -> np.ndarray:
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    slope, intercept = _rescale(dataset, index)
    if kind == "hounsfield":
        return _hounsfield(dataset, stored, slope, intercept)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        stored = _inverted(dataset, stored)
    if kind == "mr":
        return (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    if "ModalityLUTSequence" in dataset:
        from pydicom.pixels import apply_modality_lut

        stored = np.asarray(apply_modality_lut(stored, dataset))
    return np.ascontiguousarray(stored.astype(np.uint16 if kind == "gray16" else np.uint8))


def _hounsfield(dataset: pydicom.Dataset, stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    values = stored.astype(np.float64) * slope + intercept
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        # padding lies outside the scanner's circle and is no measurement; only where it leaves 16 bits is it clipped
        outside = stored == padding
        values[outside] = np.clip(values[outside], -32768, 32767)
    return hounsfield(values)


def _inverted(dataset: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    if stored.dtype.kind == "f":
        return stored.max() - stored
    if stored.dtype.kind == "i":
        return -1 - stored  # the range -2^(b-1) .. 2^(b-1) - 1, mirrored
    top = 2 ** int(dataset.get("BitsStored") or dataset.BitsAllocated) - 1
    return np.maximum(top - stored.astype(np.int64), 0).astype(stored.dtype)


def _rescale(dataset: pydicom.Dataset, frame: int) -> tuple[float, float]:
    group = _functional(dataset, "PixelValueTransformationSequence", frame)
    place = group if group is not None else dataset
    slope, intercept = place.get("RescaleSlope"), place.get("RescaleIntercept")
    return (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))


def _intensity(dataset: pydicom.Dataset) -> str:
    """Decide what the values mean; one of `manifest.Intensity`."""
    modality = str(dataset.get("Modality") or "")
    if modality in ("US", "IVUS"):
        return "ultrasound"
    if dataset.PhotometricInterpretation in _COLOR:
        return "rgb8"
    group = _functional(dataset, "PixelValueTransformationSequence", 0)
    place = group if group is not None else dataset
    if modality == "CT" and place.get("RescaleSlope") is not None and place.get("RescaleIntercept") is not None:
        return "hounsfield"
    rescaled = "ModalityLUTSequence" not in dataset and _rescale(dataset, 0) != (1.0, 0.0)
    real = "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset or int(dataset.BitsAllocated) > 16
    if modality in ("MR", "PT") or rescaled or real or int(dataset.get("PixelRepresentation") or 0) == 1:
        return "mr"
    wide = int(dataset.BitsAllocated) > 8
    if "ModalityLUTSequence" in dataset:
        wide = int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) > 8
    return "gray16" if wide else "gray8"


def _functional(dataset: pydicom.Dataset, name: str, frame: int) -> Any:
    """The item of a functional group of an enhanced multi-frame file, per frame or shared; None where there is none."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if per_frame and frame < len(per_frame) and per_frame[frame].get(name):
        return per_frame[frame].get(name)[0]
    shared = dataset.get("SharedFunctionalGroupsSequence")
    if shared and shared[0].get(name):
        return shared[0].get(name)[0]
    return None


def _frame_positions(dataset: pydicom.Dataset) -> list[float]:
    if not dataset.get("PerFrameFunctionalGroupsSequence"):
        return []
    found = [position(dataset, one) for one in range(len(dataset.PerFrameFunctionalGroupsSequence))]
    return [one for one in found if one is not None] if all(one is not None for one in found) else []


def _ultrasound_spacing(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    """Physical size from the only region of an ultrasound image that is measured in centimeters on both axes."""
    regions = dataset.get("SequenceOfUltrasoundRegions") or []
    if len(regions) != 1:
        return None
    region = regions[0]
    if region.get("PhysicalUnitsXDirection") != 3 or region.get("PhysicalUnitsYDirection") != 3:
        return None
    size = (abs(float(region.get("PhysicalDeltaY") or 0)) * 10, abs(float(region.get("PhysicalDeltaX") or 0)) * 10)
    return size if min(size) > 0 else None
