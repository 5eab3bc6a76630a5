"""ISIC 2018, task 3: dermoscopic images of seven diagnoses, the training part being HAM10000 (Tschandl et al. 2018, Scientific
Data 5:180161; Codella et al. 2019, arXiv:1902.03368): `wazuka import SOURCE --kind isic-2018 --out DATASET`.

Per part: `ISIC2018_Task3_Training_Input/ISIC_0024306.jpg` and `ISIC2018_Task3_Training_GroundTruth.csv`, with a column of
0.0 and 1.0 per diagnosis. Several images of the training part may show one lesion: `ISIC2018_Task3_Training_LesionGroupings.csv`
says which, and the lesion becomes the patient, so that no split tears it apart.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from wazuka.core.errors import DataError
from wazuka.data import challenge
from wazuka.data.challenge import Part, Published
from wazuka.data.importers.listing import ImportOptions, Listing

KIND = "isic-2018"
CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""Columns of the ground truth: melanoma, melanocytic nevus, basal cell carcinoma, actinic keratosis or Bowen's disease, benign
keratosis, dermatofibroma, vascular lesion."""
PARTS = tuple(
    Published(split=split, folder=f"ISIC2018_Task3_{name}_Input", table=f"ISIC2018_Task3_{name}_GroundTruth.csv")
    for split, name in (("train", "Training"), ("val", "Validation"), ("test", "Test"))
)
GROUPS = "ISIC2018_Task3_Training_LesionGroupings.csv"
GROUP_COLUMNS = ("image", "lesion_id", "diagnosis_confirm_type")
NAME = r"ISIC_\d{7}"


def recognize(source: Path) -> str | None:
    """A folder with the ground truth of a part."""
    found = challenge.tables_named(source, [one.table for one in PARTS])
    splits = [one.split for one in PARTS if found[one.table]]
    return f"ISIC 2018 task 3 with the ground truth of {', '.join(splits)}" if splits else None


def read(source: Path, options: ImportOptions) -> Listing:
    """List the images of all parts that are there.

    Raises:
        DataError: If there is no ground truth, a table is wrong, or a training image has no lesion.
    """
    del options
    tables = challenge.tables_named(source, [*(one.table for one in PARTS), GROUPS])
    if not any(tables[one.table] for one in PARTS):
        raise DataError(
            f"{source} has no file {PARTS[0].table}; give the folder that holds the unpacked images and ground truth."
        )
    notes: list[str] = []
    parts = []
    for one in PARTS:
        path = challenge.only(tables[one.table], source)
        rows = pd.DataFrame({"image": pd.Series(dtype="string")})
        if path is not None:
            table = challenge.read_rows(path, ("image", *CLASSES), notes)
            marks = challenge.read_marks(table, CLASSES, path, least=1)
            rows = table[["image"]].assign(label=[CLASSES[code] for code in marks.argmax(axis=1)])
        parts.append(Part(published=one, rows=rows))
    rows, left_out = challenge.place(source, parts, suffix=".jpg", pattern=NAME, notes=notes)
    challenge.note_left_out(left_out, "images of no part are", notes)
    if (rows["split"] == "train").any():
        rows = _group(rows, challenge.only(tables[GROUPS], source), source, notes)
    rest = int((rows["split"] != "train").sum())
    if rest:
        notes.append(f"the lesions of {rest:,} validation and test images are not published: each image stands alone")
    sources = {"split": challenge.SPLIT_SOURCE, "diagnosis_confirm_type": "table"}
    return Listing(
        rows=rows.drop(columns="image"),
        classes=tuple(name for name in CLASSES if name in set(rows["label"].dropna())),
        attribute_sources={name: where for name, where in sources.items() if name in rows},
        patient_source="lesion id" if "patient" in rows else None,
        modality="dermoscopy",
        notes=notes,
    )


def _group(rows: pd.DataFrame, path: Path | None, source: Path, notes: list[str]) -> pd.DataFrame:
    """Fill `patient` and `diagnosis_confirm_type` of the training images."""
    if path is None:
        raise DataError(
            f"{source} has no file {GROUPS}, without which images of one lesion get on both sides of a split; put it beside the ground truth."
        )
    groups = challenge.read_rows(path, GROUP_COLUMNS, notes).set_index("image")
    train = rows["split"] == "train"
    lesion = rows["image"].map(groups["lesion_id"]).where(train)
    alone = rows["image"][train & lesion.isna()]
    if len(alone):
        raise DataError(
            f"{path.name} has no lesion for {len(alone):,} of {int(train.sum()):,} training images ({alone.iloc[0]}); download it again."
        )
    confirmed = rows["image"].map(groups["diagnosis_confirm_type"]).where(train)
    return rows.assign(patient=lesion.astype("string"), diagnosis_confirm_type=confirmed.astype("string"))
