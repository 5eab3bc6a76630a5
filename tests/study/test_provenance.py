"""A backbone that has seen labels of test patients is refused; one that saw only images is allowed and said."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pandas as pd
import pytest

from tests.study.conftest import PROBE, TINY, make_study
from wazuka.core.errors import ArtifactError
from wazuka.core.records import read_json, write_json, write_table
from wazuka.data.manifest import Dataset, save
from wazuka.nn import backbones
from wazuka.nn.encoders import save_encoder
from wazuka.study.context import Settings
from wazuka.study.data import load_study_data, make_splits
from wazuka.study.provenance import check_backbones
from wazuka.study.run import run_study


def backbone(folder: Path, rows: pd.DataFrame, *, labeled: bool, fingerprint: str = "other") -> Path:
    """An encoder folder that says what it has seen."""
    save_encoder(backbones.resolve(TINY, weights="none", seed=3), folder)
    hashes = [hashlib.sha256(str(one).encode()).hexdigest() for one in rows["patient"]]
    seen = pd.DataFrame({"patient_hash": hashes, "image_sha256": rows["sha256"].tolist(), "labeled": labeled})
    write_table(folder / "seen.parquet", seen)
    write_json(folder / "record.json", {"step": "pretrain", "fingerprint": fingerprint, "salt": None})
    return folder


def study_on(clinic: Dataset, folder: Path) -> object:
    return make_study(
        clinic,
        strategies={"p": PROBE | {"backbone": str(folder), "weights": "pretrained"}},
        budgets=["100%"],
        repeats=1,
    )


def test_labels_of_test_images_are_refused(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    folder = backbone(tmp_path / "b", clinic.usable, labeled=True)
    with pytest.raises(ArtifactError, match=r"was trained with labels of \d+ test images or patients of this study"):
        run_study(study_on(clinic, folder), out=tmp_path / "run", settings=settings)


def test_test_images_without_labels_are_allowed_and_said(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    folder = backbone(tmp_path / "b", clinic.usable, labeled=False)
    run_study(study_on(clinic, folder), out=tmp_path / "run", settings=settings)
    notes = read_json(tmp_path / "run" / "plan.json")["not_measured"]
    assert any("pretrained on unlabeled test images" in one["why"] for one in notes)


def test_patients_are_compared_only_where_their_ids_mean_the_same(
    clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    rows = clinic.usable.assign(sha256="elsewhere")
    strangers = backbone(tmp_path / "a", rows, labeled=True)
    assert run_study(study_on(clinic, strangers), out=tmp_path / "run", settings=settings).failed == 0
    same = backbone(tmp_path / "b", rows, labeled=True, fingerprint=clinic.card.fingerprint)
    with pytest.raises(ArtifactError, match="was trained with labels of"):
        run_study(study_on(clinic, same), out=tmp_path / "other", settings=settings)


def test_patients_of_a_test_dataset_are_compared_under_its_own_salt(
    clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    for folder, salt, prefix in ((main, "one", "m"), (other, "two", "o")):
        manifest = clinic.manifest.assign(sha256=[f"{prefix}{k}" for k in range(len(clinic.manifest))])
        imported = clinic.card.imported | {"salt": salt}
        save(folder, dataclasses.replace(clinic.card, imported=imported), manifest)
    rows = clinic.usable.assign(sha256="elsewhere")
    for salt, seen in (("two", True), ("one", False)):  # the main dataset has no test rows
        folder = backbone(tmp_path / f"b-{salt}", rows, labeled=True)
        write_json(folder / "record.json", {"step": "pretrain", "fingerprint": "other", "salt": salt})
        study = make_study(
            clinic,
            dataset=str(main),
            test={"dataset": str(other)},
            strategies={"p": PROBE | {"backbone": str(folder)}},
        )
        data = load_study_data(study)
        if seen:
            with pytest.raises(ArtifactError, match="was trained with labels of"):
                check_backbones(study, data, make_splits(study, data))
        else:
            assert check_backbones(study, data, make_splits(study, data)) == []
