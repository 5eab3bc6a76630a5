"""Has a backbone seen the study's test images? Labels of test patients: refused. Images alone: allowed and said."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from wazuka.core.errors import ArtifactError
from wazuka.core.records import read_json, read_table
from wazuka.study.config import Study
from wazuka.study.data import StudyData


def check_backbones(study: Study, data: StudyData, split_table: pd.DataFrame) -> list[tuple[str, str]]:
    """Compare what each strategy's backbone artifact has seen with the study's test rows.

    Returns:
        (strategy, "pretrained on unlabeled test images ...") pairs, for the report.

    Raises:
        ArtifactError: If a backbone saw labels of test patients.
    """
    test = set(split_table.loc[split_table["role"] == "test", "id"])
    rows = data.table[data.table["id"].isin(test)]
    notes = []
    for strategy in study.strategies:
        folder = Path(strategy.backbone.rpartition("=")[2])
        if not (folder / "seen.parquet").is_file():
            continue
        labeled, unlabeled = overlap(folder, rows, data)
        if labeled:
            raise ArtifactError(
                f"Backbone {folder} of strategy `{strategy.name}` was trained with labels of {labeled} test images or"
                " patients of this study; use one that has not seen them."
            )
        if unlabeled:
            notes.append(
                (strategy.name, f"pretrained on unlabeled test images ({unlabeled}): its scores are transductive")
            )
    return notes


def overlap(folder: Path, rows: pd.DataFrame, data: StudyData) -> tuple[int, int]:
    """Count test rows that an artifact has seen, with labels and without: by image, and by patient where ids compare."""
    seen = read_table(folder / "seen.parquet")
    hit = rows["sha256"].isin(set(seen["image_sha256"]))
    labeled_images = set(seen.loc[seen["labeled"], "image_sha256"])
    with_label = rows["sha256"].isin(labeled_images)
    if _comparable(folder, data):
        patients = rows["patient"].map(lambda one: hashlib.sha256(str(one).encode()).hexdigest())
        hit |= patients.isin(set(seen["patient_hash"]))
        with_label |= patients.isin(set(seen.loc[seen["labeled"], "patient_hash"]))
    return int(with_label.sum()), int((hit & ~with_label).sum())


def _comparable(folder: Path, data: StudyData) -> bool:
    """Patient ids mean the same only within one dataset fingerprint or under one salt."""
    record = read_json(folder / "record.json") if (folder / "record.json").is_file() else {}
    if record.get("fingerprint") in data.fingerprint:
        return True
    salts = {one.card.imported.get("salt") for one in data.datasets} - {None}
    return record.get("salt") in salts
