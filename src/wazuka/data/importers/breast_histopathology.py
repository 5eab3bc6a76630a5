"""Breast histopathology patches with and without invasive ductal carcinoma (IDC): the Kaggle set of P. Mooney, from the
slides of Cruz-Roa et al. (2014): `wazuka import SOURCE --kind breast-histopathology --out DATASET`.

Files are `PATIENT/CLASS/PATIENT_idx5_xX_yY_classCLASS.png`: RGB, 50 x 50 pixels (less at the border of a slide), class 0 or 1.
A folder `IDC_regular_ps50_idx5` may stand above the patients. The archive holds the tree twice, with and without that
folder: of files with the same patient, class and name the one in the fewest folders is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from wazuka.core.errors import DataError
from wazuka.data.importers.listing import IMAGE_SUFFIXES, ImportOptions, Listing, find_files

KIND = "breast-histopathology"
NEGATIVE, POSITIVE = "idc-negative", "idc-positive"
CLASSES = {"0": NEGATIVE, "1": POSITIVE}
"""Class in a file's name and the name of its folder -> label."""
PLACE = r"(?:^|/)(?P<patient>[^/]+)/(?P<folder>[^/]+)/(?P<name>[^/]+)$"
NAME = r"^(?P<name_patient>.+)_idx\d+_x(?P<x>\d+)_y(?P<y>\d+)_class(?P<name_class>[01])\.(?i:png)$"
"""What a file is called; x and y are pixels, from the left and the top of the slide at the set's resolution."""


def recognize(source: Path) -> str | None:
    """A folder of which most images are called as in the set."""
    if not source.is_dir():
        return None
    paths = find_files(source, IMAGE_SUFFIXES)
    found = _files(source, paths)
    if found.empty or 2 * len(found) < len(paths):
        return None
    once = found.drop_duplicates(["patient", "folder", "name"])
    return f"{len(once):,} patches of breast tissue of {once['patient'].nunique():,} patients (IDC, 50 x 50 pixels)"


def read(source: Path, options: ImportOptions) -> Listing:
    """List every patch once.

    A file whose folders and name disagree on patient or class has no label and is quarantined.

    Raises:
        DataError: If no file is called as in the set.
    """
    del options
    paths = find_files(source, IMAGE_SUFFIXES) if source.is_dir() else []
    rows = _files(source, paths)
    if rows.empty:
        raise DataError(
            f"{source} has no file named PATIENT_idx5_xX_yY_classC.png in PATIENT/C/; give the folder of the unpacked set."
        )
    notes: list[str] = []
    if len(rows) < len(paths):
        notes.append(
            f"{len(paths) - len(rows):,} other images are left out: they are not named or placed as in the set"
        )
    rows = _once(rows, notes)
    wrong = (rows["patient"] != rows["name_patient"]) | (rows["folder"] != rows["name_class"])
    said = (
        rows["name_patient"]
        + "/"
        + rows["name_class"]
        + " by its name, but in "
        + rows["patient"]
        + "/"
        + rows["folder"]
    )
    rows["reason"] = said.where(wrong)
    rows["label"] = rows["folder"].map(CLASSES).where(~wrong)
    return Listing(
        rows=rows[["path", "label", "patient", "reason", "x", "y"]],
        classes=tuple(CLASSES.values()),
        positive=POSITIVE,
        attribute_sources={"x": "file name", "y": "file name"},
        patient_source="folder name",
        notes=notes,
    )


def _files(source: Path, paths: list[Path]) -> pd.DataFrame:
    """Files called as in the set: `path, patient, folder, name` by where they lie, and the groups of `NAME`."""
    prefix = len(os.fspath(source)) + 1
    path = pd.Series([os.fspath(one)[prefix:] for one in paths], dtype="string")
    whole = source.name + "/" + path  # the source itself may be the folder of one patient
    where = whole.str.extract(PLACE)
    found = pd.concat([path.rename("path"), where, where["name"].str.extract(NAME)], axis=1)
    return found[found["name_class"].notna()].reset_index(drop=True)


def _once(rows: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The first of the files with the same patient, class and name, those in the fewest folders first."""
    keys = ["patient", "folder", "name"]
    order = rows["path"].str.count("/").sort_values(kind="stable").index
    repeated = rows.loc[order, keys].duplicated().sort_index()
    if repeated.any():
        notes.append(
            f"{int(repeated.sum()):,} files repeat the patient, class and name of another one and are left out, as"
            f" {rows.loc[repeated, 'path'].iloc[0]}"
        )
    return rows[~repeated].reset_index(drop=True)
