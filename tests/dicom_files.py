"""Writes small DICOM files for tests with pydicom; not a test itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498."


def write(
    path: Path,
    pixels: np.ndarray | None,
    *,
    bits_stored: int | None = None,
    photometric: str | None = None,
    frames: bool = False,
    syntax: str = ExplicitVRLittleEndian,
    tags: dict[str, Any] | None = None,
) -> Path:
    """Write `pixels` (H, W), (H, W, 3) or, with `frames`, (n, H, W[, 3]), of any 8-, 16- or 32-bit integer type."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(ROOT + str(abs(hash(path)) % 10**12))
    meta.TransferSyntaxUID = UID(syntax)
    file = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Modality, file.PatientID, file.StudyInstanceUID, file.SeriesInstanceUID = (
        "CT",
        "patient-1",
        ROOT + "1",
        ROOT + "1.1",
    )
    if pixels is not None:
        shape = pixels.shape[1:] if frames else pixels.shape
        file.Rows, file.Columns = shape[:2]
        file.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
        if file.SamplesPerPixel == 3:
            file.PlanarConfiguration = 0
        file.PhotometricInterpretation = photometric or ("RGB" if file.SamplesPerPixel == 3 else "MONOCHROME2")
        if frames:
            file.NumberOfFrames = len(pixels)
        file.BitsAllocated = pixels.dtype.itemsize * 8
        file.BitsStored = bits_stored or file.BitsAllocated
        file.HighBit = file.BitsStored - 1
        file.PixelRepresentation = int(pixels.dtype.kind == "i")
        file.PixelData = pixels.tobytes()
        file["PixelData"].VR = "OB" if file.BitsAllocated == 8 else "OW"
    for name, value in (tags or {}).items():
        if value is None:
            del file[name]
        else:
            setattr(file, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def item(**values: Any) -> Dataset:
    """One item of a sequence."""
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def axial(position: float, *, number: int, series: str = "1", **tags: Any) -> dict[str, Any]:
    """Tags of an axial CT slice at `position` mm, with slope 1 and intercept -1024."""
    return {
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [0, 0, position],
        "PixelSpacing": [0.5, 0.75],
        "InstanceNumber": number,
        "SeriesInstanceUID": ROOT + "1." + series,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        **tags,
    }
