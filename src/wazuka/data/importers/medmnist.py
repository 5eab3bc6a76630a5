"""A MedMNIST npz: arrays `train_images`, `train_labels`, `val_...`, `test_...` in one file (Yang et al. 2023).

The manifest's `frame` counts over train, val and test images in this order; the part is kept as attribute `split`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.data.importers.listing import ImportOptions, Listing

KIND = "medmnist"
PARTS = ("train", "val", "test")
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "breastmnist": ("malignant", "normal or benign"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocyte",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
}
"""Names of the classes 0, 1, ... by the file's stem, from the description of the collection; others are "0", "1", ..."""


def recognize(source: Path) -> str | None:
    """An npz with images and labels of at least one part, given itself or as the only npz of a folder."""
    path = _file(source)
    if path is None:
        return None
    shapes = _shapes(path)
    parts = [part for part in PARTS if f"{part}_images" in shapes and f"{part}_labels" in shapes]
    if not parts:
        return None
    counts = ", ".join(f"{part} {shapes[f'{part}_images'][0]:,}" for part in parts)
    return f"a MedMNIST npz {path.name} with {len(parts)} parts ({counts})"


def _file(source: Path) -> Path | None:
    if source.is_file():
        return source if source.suffix.lower() == ".npz" else None
    found = sorted(one for one in source.iterdir() if one.suffix.lower() == ".npz" and one.is_file())
    return found[0] if len(found) == 1 else None


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Array name -> shape, from the headers: nothing is decompressed but these. Empty if the file is no npz."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shapes[name.removesuffix(".npy")] = read(file)[0]
    except (OSError, ValueError, zipfile.BadZipFile):
        return {}
    return shapes


def read(source: Path, options: ImportOptions) -> Listing:
    """List every image of every part.

    Raises:
        DataError: If the file is no MedMNIST npz, is a 3D or multi-label set, or its parts do not fit together.
    """
    path = _file(source)
    if path is None:
        raise DataError(f"{source} is not one npz file nor a folder with exactly one; give the MedMNIST file itself.")
    shapes = _shapes(path)
    parts = [part for part in PARTS if f"{part}_images" in shapes]
    if not parts:
        raise DataError(f"{path} has no array train_images, val_images or test_images; give a MedMNIST npz.")
    codes, splits = [], []
    for part in parts:
        shape = shapes[f"{part}_images"]
        if len(shape) == 5 or (len(shape) == 4 and shape[-1] not in (1, 3)):
            raise DataError(
                f"{path.name} holds 3D volumes ({part}_images is {' x '.join(map(str, shape))}); only the 2D sets of MedMNIST are imported: save the volumes as NIfTI."
            )
        codes.append(_labels(path, part, count=shape[0]))
        splits += [part] * shape[0]
    labels = np.concatenate(codes)
    names = CLASS_NAMES.get(path.stem.split("_")[0].lower())
    if names is None or labels.max() >= len(names):
        names = tuple(str(one) for one in np.unique(labels))
        labels = np.searchsorted(np.unique(labels), labels)
    rows = pd.DataFrame(
        {
            "path": pd.array([path.name] * len(labels), dtype="string"),
            "frame": pd.array(np.arange(len(labels)), dtype="Int64"),
            "label": pd.array(np.array(names, dtype=object)[labels], dtype="string"),
            "split": pd.array(splits, dtype="string"),
        }
    )
    present = tuple(name for name in names if name in set(rows["label"]))
    return Listing(rows=rows, classes=present, attribute_sources={"split": "part of the npz"}, name=path.stem)


def _labels(path: Path, part: str, *, count: int) -> np.ndarray:
    """Class index per image, int64 (count,)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = np.asarray(arrays[f"{part}_labels"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} has no readable array {part}_labels ({error}); download it again.") from error
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DataError(
            f"{path.name} has {labels.shape[1]} labels per image; one label per image is needed: give a table with the one you want."
        )
    labels = labels.reshape(-1)
    if len(labels) != count or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path.name} has {count} {part}_images but {len(labels)} {part}_labels of {labels.dtype}; download it again."
        )
    return labels.astype(np.int64)
