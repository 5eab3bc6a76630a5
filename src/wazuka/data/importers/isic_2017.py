"""ISIC 2017, part 3: dermoscopic images of melanoma, seborrheic keratosis and nevus in the challenge's own splits (Codella et al.
2018, ISBI, arXiv:1710.05006): `wazuka import SOURCE --kind isic-2017 --out DATASET`.

Per part: `ISIC-2017_Training_Data/ISIC_0000000.jpg`, `ISIC-2017_Training_Data_metadata.csv` beside the images, and
`ISIC-2017_Training_Part3_GroundTruth.csv` with the columns `melanoma` and `seborrheic_keratosis`; an image with neither is a
nevus. `--positive melanoma` and `--positive seborrheic_keratosis` give the two tasks of the challenge, each one diagnosis
against the two others. The `*_superpixels.png` among the images belong to part 2 and are left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.errors import ConfigError, DataError
from wazuka.data import challenge
from wazuka.data.challenge import Part, Published
from wazuka.data.importers.listing import ImportOptions, Listing, without_suffix

KIND = "isic-2017"
MARKED = ("melanoma", "seborrheic_keratosis")
"""Columns of the ground truth, and the positive classes of the challenge's two tasks."""
CLASSES = (*MARKED, "nevus")
PARTS = tuple(
    Published(split=split, folder=f"ISIC-2017_{name}_Data", table=f"ISIC-2017_{name}_Part3_GroundTruth.csv")
    for split, name in (("train", "Training"), ("val", "Validation"), ("test", "Test_v2"))
)
FACTS = ("image_id", "age_approximate", "sex")
UNKNOWN = "unknown"
"""What the metadata write where age or sex is not known."""
NAME = r"ISIC_\d{7}"
SUPERPIXELS = "_superpixels"


def recognize(source: Path) -> str | None:
    """A folder with the ground truth of a part."""
    found = challenge.tables_named(source, [one.table for one in PARTS])
    splits = [one.split for one in PARTS if found[one.table]]
    return f"ISIC 2017 part 3 with the ground truth of {', '.join(splits)}" if splits else None


def read(source: Path, options: ImportOptions) -> Listing:
    """List the images of all parts that are there; `options.positive` chooses one of the challenge's two tasks.

    Raises:
        DataError: If there is no ground truth, or a table is wrong.
        ConfigError: If the positive class is `nevus`, of which the challenge has no task.
    """
    if options.positive == "nevus":
        raise ConfigError(
            "--positive nevus is no task of ISIC 2017; give melanoma or seborrheic_keratosis, or leave it out for the three classes."
        )
    tables = challenge.tables_named(source, [name for one in PARTS for name in (one.table, _facts_of(one))])
    if not any(tables[one.table] for one in PARTS):
        raise DataError(
            f"{source} has no file {PARTS[0].table}; give the folder that holds the unpacked images and ground truth."
        )
    notes: list[str] = []
    parts, facts = [], []
    for one in PARTS:
        path = challenge.only(tables[one.table], source)
        rows = pd.DataFrame({"image": pd.Series(dtype="string")})
        if path is not None:
            table = challenge.read_rows(path, ("image_id", *MARKED), notes)
            marks = challenge.read_marks(table, MARKED, path, least=0)
            codes = np.where(marks.any(axis=1), marks.argmax(axis=1), len(MARKED))
            rows = table[["image"]].assign(label=[CLASSES[code] for code in codes])
        parts.append(Part(published=one, rows=rows))
        path = challenge.only(tables[_facts_of(one)], source)
        if path is not None:
            facts.append(challenge.read_rows(path, FACTS, notes).assign(split=one.split))
    rows, left_out = challenge.place(source, parts, suffix=".jpg", pattern=NAME, notes=notes)
    superpixels = [one for one in left_out if without_suffix(one).endswith(SUPERPIXELS)]
    challenge.note_left_out(superpixels, "superpixel masks (of part 2) are", notes)
    challenge.note_left_out([one for one in left_out if one not in set(superpixels)], "images of no part are", notes)
    sources = {"split": challenge.SPLIT_SOURCE}
    if facts:
        known = pd.concat(facts, ignore_index=True).replace(UNKNOWN, pd.NA)
        rows = rows.merge(known, on=["image", "split"], how="left", validate="one_to_one")
        sources |= dict.fromkeys(FACTS[1:], "table")
    classes: tuple[str, ...] = CLASSES
    if options.positive in MARKED:
        classes = (f"not_{options.positive}", options.positive)
        rest = rows["label"].notna() & (rows["label"] != options.positive)
        rows["label"] = rows["label"].mask(rest, classes[0])
    return Listing(
        rows=rows.drop(columns="image"),
        classes=tuple(name for name in classes if name in set(rows["label"].dropna())),
        attribute_sources=sources,
        modality="dermoscopy",
        notes=notes,
    )


def _facts_of(part: Published) -> str:
    return f"{part.folder}_metadata.csv"
