"""APTOS 2019: five grades in their order, a test part without labels, and a sample submission that is no ground truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.importers.challenge_sources import APTOS_TEST, APTOS_TRAIN, make_aptos_2019, write_lines
from tests.import_sources import picture, snapshot, write_png
from wazuka.core.errors import DataError
from wazuka.data.importers import aptos_2019, recognize
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset

GRADES = ("no_dr", "mild", "moderate", "severe", "proliferative")


def test_every_image_gets_its_grade_and_its_split(tmp_path: Path) -> None:
    source = make_aptos_2019(tmp_path / "source")
    before = snapshot(source)
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert snapshot(source) == before
    rows = made.manifest.set_index("path")
    assert len(rows) == len(APTOS_TRAIN) + len(APTOS_TEST)
    for image, grade in APTOS_TRAIN.items():
        row = rows.loc[f"train_images/{image}.png"]
        assert (row["label"], row["split"]) == (GRADES[grade], "train")
    test = rows.loc[[f"test_images/{image}.png" for image in APTOS_TEST]]
    assert test["label"].isna().all() and set(test["split"]) == {"test"}
    card = made.card
    assert (card.classes, card.modality, card.patient_source) == (GRADES, "fundus photography", "image")
    assert (card.imported["kind"], card.task) == ("aptos-2019", "classification")
    assert card.imported["recognized"] == "APTOS 2019 (fundus images, five grades of diabetic retinopathy)"
    assert card.imported["counts"]["unlabeled"] == len(APTOS_TEST)
    assert card.imported["notes"] == [
        "the labels of the 3 test images are not published: a study tests on patients of the training part"
        " (test: {patients: 20%})"
    ]


def test_grades_keep_their_order_where_one_is_absent(tmp_path: Path) -> None:
    source = make_aptos_2019(tmp_path / "source")
    write_lines(source / "train.csv", "id_code,diagnosis", "001639a390f0,4", "002c21358ce6,0", "0024cdab0c1e,1")
    listing = aptos_2019.read(source, ImportOptions())
    assert listing.classes == ("no_dr", "mild", "proliferative")
    assert "3 images of train_images/ stand in no table and have no label" in listing.notes


@pytest.mark.parametrize("grade", ["5", "1.5", "", "no"])
def test_a_grade_that_is_none_is_refused(tmp_path: Path, grade: str) -> None:
    source = make_aptos_2019(tmp_path / "source")
    write_lines(source / "train.csv", "id_code,diagnosis", "001639a390f0,4", f"002c21358ce6,{grade}")
    message = r"Row 3 of train.csv \(002c21358ce6\) holds the diagnosis .*; diagnoses are 0, 1, 2, 3, 4"
    with pytest.raises(DataError, match=message):
        aptos_2019.read(source, ImportOptions())


def test_labels_of_test_images_in_another_table_are_not_used(tmp_path: Path) -> None:
    source = make_aptos_2019(tmp_path / "source")
    write_lines(source / "test.csv", "id_code,diagnosis", *(f"{image},0" for image in APTOS_TEST))
    listing = aptos_2019.read(source, ImportOptions())
    rows = listing.table(source)
    assert rows.loc[rows["split"] == "test", "label"].isna().all()
    assert "columns of test.csv that are not used: diagnosis" in listing.notes


def test_the_training_part_alone_is_recognized_too(tmp_path: Path) -> None:
    source = make_aptos_2019(tmp_path / "source")
    for path in [source / "test.csv", source / "sample_submission.csv", *source.glob("test_images/*")]:
        path.unlink()
    assert recognize(source)[0] == "aptos-2019"
    rows = aptos_2019.read(source, ImportOptions()).table(source)
    assert set(rows["split"]) == {"train"} and len(rows) == len(APTOS_TRAIN)


def test_a_train_table_with_other_columns_is_not_taken_for_it(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "1.png", picture(1))
    write_png(tmp_path / "b" / "2.png", picture(2))
    write_lines(tmp_path / "train.csv", "id,diagnosis", "1,0")
    assert aptos_2019.recognize(tmp_path) is None and recognize(tmp_path)[0] == "folder"
    with pytest.raises(DataError, match=r"Table train.csv has no column `id_code` \(it has id, diagnosis\)"):
        aptos_2019.read(tmp_path, ImportOptions())
    (tmp_path / "train.csv").unlink()
    with pytest.raises(DataError, match=r"has no file train.csv; give the folder of the unpacked competition files"):
        aptos_2019.read(tmp_path, ImportOptions())
