"""APTOS 2019 blindness detection: fundus images graded for diabetic retinopathy (Kaggle; Asia Pacific Tele-Ophthalmology Society,
Aravind Eye Hospital): `wazuka import SOURCE --kind aptos-2019 --out DATASET`.

`train.csv` has the columns `id_code` and `diagnosis` (0 to 4), `test.csv` only `id_code`; images are `train_images/ID.png` and
`test_images/ID.png`. The diagnoses in `sample_submission.csv` are placeholders: the file is not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wazuka.core.errors import DataError
from wazuka.data import challenge
from wazuka.data.challenge import Part, Published
from wazuka.data.importers.listing import ImportOptions, Listing

KIND = "aptos-2019"
CLASSES = ("no_dr", "mild", "moderate", "severe", "proliferative")
"""Grades 0 to 4 of diabetic retinopathy, in their order."""
TRAIN = Published(split="train", folder="train_images", table="train.csv")
TEST = Published(split="test", folder="test_images", table="test.csv")
COLUMNS = ("id_code", "diagnosis")
NAME = r"[0-9a-f]{12}"


def recognize(source: Path) -> str | None:
    """A folder with a `train.csv` of the columns `id_code` and `diagnosis`."""
    found = [one for one in challenge.tables_named(source, [TRAIN.table])[TRAIN.table] if _is_train(one)]
    return "APTOS 2019 (fundus images, five grades of diabetic retinopathy)" if found else None


def _is_train(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return tuple(one.strip() for one in file.readline().split(",")) == COLUMNS
    except (OSError, UnicodeError):
        return False


def read(source: Path, options: ImportOptions) -> Listing:
    """List the images of both parts; those of the test part have no label.

    Raises:
        DataError: If `train.csv` is missing, or a table is wrong.
    """
    del options
    tables = challenge.tables_named(source, [TRAIN.table, TEST.table])
    path = challenge.only(tables[TRAIN.table], source)
    if path is None:
        raise DataError(f"{source} has no file {TRAIN.table}; give the folder of the unpacked competition files.")
    notes: list[str] = []
    table = challenge.read_rows(path, COLUMNS, notes)
    label = table["diagnosis"].map({str(grade): name for grade, name in enumerate(CLASSES)})
    if label.isna().any():
        row = int(np.flatnonzero(label.isna().to_numpy())[0])
        raise DataError(
            f"Row {row + 2} of {path.name} ({table['image'].iloc[row]}) holds the diagnosis {table['diagnosis'].iloc[row]}; diagnoses are 0, 1, 2, 3, 4."
        )
    train = table[["image"]].assign(label=label)
    path = challenge.only(tables[TEST.table], source)
    test = train[["image"]].iloc[:0] if path is None else challenge.read_rows(path, COLUMNS[:1], notes)
    parts = [Part(published=TRAIN, rows=train), Part(published=TEST, rows=test[["image"]])]
    rows, left_out = challenge.place(source, parts, suffix=".png", pattern=NAME, notes=notes)
    challenge.note_left_out(left_out, "images of no part are", notes)
    unlabeled = int((rows["split"] == "test").sum())
    if unlabeled:
        notes.append(
            f"the labels of the {unlabeled:,} test images are not published: a study tests on patients of the training part"
            " (test: {patients: 20%})"
        )
    return Listing(
        rows=rows.drop(columns="image"),
        classes=tuple(name for name in CLASSES if name in set(rows["label"].dropna())),
        attribute_sources={"split": challenge.SPLIT_SOURCE},
        modality="fundus photography",
        notes=notes,
    )
