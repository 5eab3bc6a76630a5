"""Has a backbone seen the study's test images? Labels of test patients: refused. Images alone: allowed and said."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from wazuka.core.errors import ArtifactError
from wazuka.core.records import read_json, read_table
from wazuka.data.manifest import Dataset
from wazuka.nn.backbones import added_files
from wazuka.nn.encoders import provenance_beside, record_beside
from wazuka.study.config import Study
from wazuka.study.data import TEST_PREFIX, StudyData


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
        found = seen_file(strategy.backbone, strategy.weights)
        if found is None:
            continue
        labeled, unlabeled = overlap(found, rows, data)
        if labeled:
            raise ArtifactError(
                f"Backbone {strategy.backbone} of strategy `{strategy.name}` was trained with labels of {labeled} test images or"
                " patients of this study; use one that has not seen them."
            )
        if unlabeled:
            notes.append(
                (strategy.name, f"pretrained on unlabeled test images ({unlabeled}): its scores are transductive")
            )
    return notes


def seen_file(backbone: str, weights: str) -> Path | None:
    """Where a backbone, added by name or given by path, says what it has seen."""
    added = added_files().get(backbone) if weights == "pretrained" else None
    given = added or Path(backbone.rpartition("=")[2])
    return provenance_beside(given if given.is_file() else given / "encoder.safetensors")


def overlap(seen_file: Path, rows: pd.DataFrame, data: StudyData) -> tuple[int, int]:
    """Count test rows that an artifact has seen, with labels and without: by image, and by patient where ids compare."""
    seen = read_table(seen_file)
    hit = rows["sha256"].isin(set(seen["image_sha256"]))
    labeled_images = set(seen.loc[seen["labeled"], "image_sha256"])
    with_label = rows["sha256"].isin(labeled_images)
    seen_patients, labeled_patients = set(seen["patient_hash"]), set(seen.loc[seen["labeled"], "patient_hash"])
    for source, dataset in enumerate(data.datasets):
        if not _same_patients(seen_file, dataset):
            continue
        names = rows["patient"].where(rows["source"] == source).dropna().str.removeprefix(TEST_PREFIX if source else "")
        hashes = names.map(lambda one: hashlib.sha256(str(one).encode()).hexdigest()).reindex(rows.index)
        hit |= hashes.isin(seen_patients) & hashes.notna()
        with_label |= hashes.isin(labeled_patients) & hashes.notna()
    return int(with_label.sum()), int((hit & ~with_label).sum())


def comparable(seen_file: Path, data: StudyData) -> bool:
    """Whether an artifact's patient ids mean the same in a dataset of this study."""
    return any(_same_patients(seen_file, one) for one in data.datasets)


def _same_patients(seen_file: Path, dataset: Dataset) -> bool:
    """Whether patient ids mean the same: only within one dataset fingerprint or under one salt."""
    path = record_beside(seen_file)
    record = read_json(path) if path.is_file() else {}
    if record.get("fingerprint") == dataset.card.fingerprint:
        return True
    salt = dataset.card.imported.get("salt")
    return salt is not None and record.get("salt") == salt
