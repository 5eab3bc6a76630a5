"""What an importer is asked and what it answers: `ImportOptions`, `Item`, `Listing`; and the walk over a source folder.

An importer only lists: which files are images, which masks belong to them, what is known about each. Opening, checking,
expanding volumes to slices and writing the dataset is `importing.import_dataset` (`wazuka import`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.errors import ConfigError, DataError
from wazuka.data.decode import SUFFIXES

IMAGE_SUFFIXES = tuple(one for one, kind in SUFFIXES.items() if kind in ("raster", "tiff"))
"""Two-dimensional images (TIFF may be a stack)."""
VOLUME_SUFFIXES = tuple(one for one, kind in SUFFIXES.items() if kind == "nifti")
DICOM_SUFFIXES = tuple(one for one, kind in SUFFIXES.items() if kind == "dicom")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
SLIDE_SUFFIXES = tuple(one for one, kind in SUFFIXES.items() if kind == "slide")
"""Whole-slide formats that only openslide reads (extra `wsi`)."""
MASK_ENDINGS = ("_mask", "-mask", " mask", "_masks", "_seg", "_segmentation", "_label", "_labels", "_gt")
"""What a mask's name may have after the image's."""
MASK_FOLDERS = ("masks", "mask", "labels", "label", "segmentations", "annotations", "ground_truth", "groundtruth")
IMAGE_FOLDERS = ("images", "image", "imgs", "img")

PLACE_COLUMNS = ("patch_y", "patch_x", "patch_px")
"""Where the importer itself places a patch: upper left corner and side in pixels (see `data/annotated.py`)."""
ROW_COLUMNS = (
    *("path", "mask", "frame", "label", "patient", "patient_raw", "domain", "prompt", "volume", "id", "reason"),
    *PLACE_COLUMNS,
)
"""Columns of `Listing.table` that are not attributes."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the user of `wazuka import` may say."""

    kind: str = "auto"
    """auto, or a kind of `importers.KINDS`."""
    table: Path | None = None
    """Table with one row per image; makes the kind `table`."""
    image: str | None = None
    """Column of the table with the image's path."""
    label: str | None = None
    mask: str | None = None
    patient: str | None = None
    domain: str | None = None
    mask_classes: dict[int, str] = field(default_factory=dict)
    """Value in the mask files -> structure."""
    positive: str | None = None
    patch: int | None = None
    """Side of the square patches that images are cut into, in pixels."""
    patch_um: float | None = None
    """Side of the patches around annotations in microns; instead of `patch`."""
    stride: int | None = None
    """Distance of neighboring patches in pixels; default `patch`."""
    salt_file: Path | None = None
    max_corrupt: float = 5.0
    """Percent of the images that may be unreadable before the import stops."""
    name: str | None = None
    license: str | None = None
    simulated: bool = False
    """Simulated data: every page made from it says so."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image file (or one frame of it) and what the importer knows about it."""

    path: Path | str
    """Absolute, or relative to the source folder."""
    mask: Path | str | None = None
    frame: int | None = None
    """One frame of the file; None: the whole file, all its frames."""
    label: str | None = None
    patient: str | None = None
    patient_raw: bool = False
    """True: `patient` identifies a person and must be pseudonymized."""
    domain: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    volume: str | None = None
    """Name of the volume or series that this file (or slice) belongs to."""
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What an importer found. Either `items`, or `rows` where a million of them must be quick."""

    items: list[Item] = field(default_factory=list)
    rows: pd.DataFrame | None = None
    """As `table()` gives it; overrides `items`. A `reason` quarantines its row."""
    attribute_sources: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    """The source's own order of classes; None: sorted by name."""
    positive: str | None = None
    """The positive one of two classes, where the source defines it; None: the rarer one."""
    orphan_masks: list[str] = field(default_factory=list)
    """Masks without an image, relative to the source."""
    notes: list[str] = field(default_factory=list)
    patient_source: str | None = None
    """table, dicom, file name ...; None: the importer knows no patients."""
    task: str | None = None
    license: str | None = None
    modality: str | None = None
    name: str | None = None
    structures: dict[int, str] = field(default_factory=dict)
    votes: dict[str, str | int] = field(default_factory=dict)
    """Annotators' votes: class -> column, `voters` -> their number (see `data/votes.py`)."""

    def table(self, root: Path) -> pd.DataFrame:
        """Return one row per item: `ROW_COLUMNS` (absent ones filled with NA), then attributes.

        `path` and `mask` become POSIX paths relative to `root`.

        Raises:
            DataError: If a path leaves `root`.
        """
        if self.rows is not None:
            rows = self.rows.reset_index(drop=True).copy()
        else:
            known = [{name: getattr(item, name, None) for name in ROW_COLUMNS if name != "id"} for item in self.items]
            rows = pd.DataFrame(known, columns=list(ROW_COLUMNS))
            for name in sorted({name for item in self.items for name in item.attributes}):
                rows[name] = pd.array([item.attributes.get(name) for item in self.items], dtype="string")
        for name in ROW_COLUMNS:
            if name not in rows:
                rows[name] = None
        for name in ROW_COLUMNS:
            if name in ("frame", *PLACE_COLUMNS):
                rows[name] = rows[name].astype("Int64")
            elif name == "patient_raw":
                rows[name] = [one is not None and not pd.isna(one) and bool(one) for one in rows[name]]
            elif name in ("path", "mask"):
                rows[name] = relative_paths(rows[name], root)
            else:
                rows[name] = rows[name].astype("string")
        return rows


def relative_paths(paths: pd.Series, root: Path) -> pd.Series:
    """Make paths POSIX and relative to `root`, whole columns at once; missing ones stay missing.

    Raises:
        DataError: If one leaves `root`, naming it.
    """
    text = paths.map(lambda one: os.fspath(one) if isinstance(one, os.PathLike) else one).astype("string")
    text = text.str.replace("\\", "/", regex=False).str.replace(r"^(?:\./)+", "", regex=True)
    odd = text.fillna("").str.contains(r"^/|(?:^|/)\.{1,2}(?:/|$)|//|^[A-Za-z]:/")
    for position in np.flatnonzero(odd.to_numpy(dtype=bool)):
        written = str(text.iloc[position])
        found = Path(os.path.normpath(root / written))
        if not found.is_relative_to(root):
            raise DataError(
                f"Path {written} leaves the source folder {root}; move the file into it or give a higher folder as SOURCE."
            )
        text.iloc[int(position)] = found.relative_to(root).as_posix()
    return text


def find_files(source: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files under `source` (or `source` itself) with one of the suffixes, sorted by relative path.

    Hidden files and folders, `__MACOSX` and links to folders are not entered.
    """
    endings = tuple(suffixes)
    if source.is_file():
        return [source] if source.name.lower().endswith(endings) else []
    base = os.fspath(source)
    found: list[str] = []
    for folder, folders, files in os.walk(base):
        folders[:] = sorted(one for one in folders if not one.startswith(".") and one != "__MACOSX")
        inside = folder[len(base) :].replace(os.sep, "/").lstrip("/")
        start = f"{inside}/" if inside else ""
        found += [start + one for one in files if one.lower().endswith(endings) and not one.startswith(".")]
    for one in found:
        try:
            one.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"File name {one!r} in {base} is not UTF-8; rename the file.") from error
    return [source / one for one in sorted(found)]


SUFFIX_PATTERN = (
    r"(?i)(?<=[^/])(?:"
    + "|".join(re.escape(one) for one in sorted({*SUFFIXES, *SLIDE_SUFFIXES}, key=lambda one: (-len(one), one)))
    + r")$"
)
"""Matches the suffix of an image path, the longest one (`.nii.gz`)."""


def without_suffix(path: str | Path) -> str:
    """Path without its image suffix (`.nii.gz` counts as one).

    >>> without_suffix("images/a.b.nii.gz")
    'images/a.b'
    """
    return re.sub(SUFFIX_PATTERN, "", path.as_posix() if isinstance(path, Path) else path)


def image_stem(mask: str) -> str | None:
    """Stem of the image that a mask named `image_mask`, `image_seg` ... belongs to; None where the name says no mask."""
    lowered = mask.lower()
    for ending in MASK_ENDINGS:
        if lowered.endswith(ending) and len(mask.rsplit("/", 1)[-1]) > len(ending):
            return mask[: -len(ending)]
    return None


def parse_mask_classes(text: str) -> dict[int, str]:
    """Parse `--mask-classes 1=a,2=b`.

    Raises:
        ConfigError: If a part is not VALUE=NAME, or a value or name stands twice.
    """
    classes: dict[int, str] = {}
    for part in text.split(","):
        value, sign, name = (one.strip() for one in part.partition("="))
        if not sign or not name or not re.fullmatch(r"[0-9]{1,9}", value) or int(value) == 0:
            raise ConfigError(
                f"--mask-classes part `{part.strip()}` is wrong; write VALUE=NAME with a value above 0, as in 1=liver,2=tumor."
            )
        if int(value) in classes or name in classes.values():
            raise ConfigError(f"--mask-classes `{text}` has `{part.strip()}` twice; each value and name stands once.")
        classes[int(value)] = name
    return classes
