"""ISIC 2018 task 3: seven diagnoses, lesions as patients, the challenge's splits, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.data.importers.challenge_sources import (
    ISIC_2018,
    LESIONS,
    make_isic_2018,
    one_hot,
    write_lines,
    write_picture,
)
from tests.import_sources import snapshot
from wazuka.core.errors import DataError
from wazuka.data import splits
from wazuka.data.importers import isic_2018, recognize
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset

TRUTH = "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv"
GROUPS = "ISIC2018_Task3_Training_LesionGroupings.csv"


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_every_image_gets_its_diagnosis_its_lesion_and_its_split(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source")
    before = snapshot(source)
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert snapshot(source) == before
    rows = made.manifest.set_index("path")
    assert len(rows) == sum(map(len, ISIC_2018.values()))
    for part, split in (("Training", "train"), ("Validation", "val"), ("Test", "test")):
        for image, code in ISIC_2018[part]:
            row = rows.loc[f"ISIC2018_Task3_{part}_Input/{image}.jpg"]
            assert (row["label"], row["split"], row["status"]) == (code, split, "ok")
            if part == "Training":
                assert (row["patient"], row["diagnosis_confirm_type"]) == LESIONS[image]
            else:
                assert row["patient"] == row["id"]
    card = made.card
    assert (card.classes, card.positive) == (("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"), None)
    assert (card.patient_source, card.modality, card.imported["kind"]) == ("lesion id", "dermoscopy", "isic-2018")
    assert card.imported["recognized"] == "ISIC 2018 task 3 with the ground truth of train, val, test"
    assert card.attributes["split"] == "published split" and card.attributes["diagnosis_confirm_type"] == "table"
    assert card.imported["notes"] == [
        "the lesions of 5 validation and test images are not published: each image stands alone",
        "patient of 5 rows comes from image, of most others from lesion id",
    ]


def test_a_study_can_keep_the_splits_of_the_challenge(tmp_path: Path) -> None:
    rows = import_dataset(make_isic_2018(tmp_path / "source"), tmp_path / "out", workers=1).manifest
    made = splits.make_splits(
        rows, test=splits.Test(kind="column", column="split"), repeats=1, redraw=False, seed=0, task="classification"
    ).set_index("id")
    assert made["role"].to_dict() == rows.set_index("id")["split"].to_dict()


def test_images_of_one_lesion_stay_on_one_side_of_a_drawn_split(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source", parts=("Training",))
    for number in range(4):  # every class twice, so that it can be trained on and tested
        for code in isic_2018.CLASSES:
            image = f"ISIC_00{300 + number}{isic_2018.CLASSES.index(code):02d}"
            write_picture(source / "ISIC2018_Task3_Training_Input" / f"{image}.jpg", int(image[5:]))
            with (source / TRUTH).open("a", encoding="utf-8") as file:
                file.write(f"{one_hot(image, code)}\n")
            with (source / GROUPS).open("a", encoding="utf-8") as file:
                file.write(f"{image},HAM_{code}{number // 2},histopathology\n")
    rows = import_dataset(source, tmp_path / "out", workers=1).manifest
    assert rows["patient"].nunique() == len({lesion for lesion, _ in LESIONS.values()}) + 14
    made = splits.make_splits(
        rows, test=splits.Test(kind="patients", share="30%"), repeats=3, redraw=True, seed=0, task="classification"
    )
    sides = made.groupby(["repeat", "patient"])["role"].agg(lambda role: (role == "test").nunique())
    assert (sides == 1).all() and (made["role"] == "test").any()


def test_one_part_alone_is_enough(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source", parts=("Test",), lesions=False)
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert made.card.classes == ("MEL", "NV", "BKL") and set(made.manifest["split"]) == {"test"}
    assert made.card.patient_source == "image"


def test_the_groupings_of_lesions_are_needed_for_every_training_image(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source", lesions=False)
    with pytest.raises(DataError, match=rf"has no file {GROUPS}, without which images of one lesion get on both sides"):
        import_dataset(source, tmp_path / "out", workers=1)
    make_isic_2018(source)
    change(source / GROUPS, "ISIC_0024313,HAM_0002525,histopathology\n", "")
    with pytest.raises(DataError, match=r"has no lesion for 1 of 10 training images \(ISIC_0024313\); download it"):
        import_dataset(source, tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "ISIC_0024306,0.0,1.0,0.0,0.0,0.0,0.0,0.0",
            "ISIC_0024306,1.0,1.0,0.0,0.0,0.0,0.0,0.0",
            r"Row 4 of .*GroundTruth.csv \(ISIC_0024306\) holds MEL 1.0, NV 1.0, .*; a row has one 1.0 and else 0.0",
        ),
        (
            "ISIC_0024306,0.0,1.0,0.0,0.0,0.0,0.0,0.0",
            "ISIC_0024306,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
            r"Row 4 of .* holds MEL 0.0, NV 0.0, .*; a row has one 1.0",
        ),
        (
            "ISIC_0024306,0.0,1.0,0.0",
            "ISIC_0024306,0.3,1.0,0.0",
            r"Row 4 of .* holds MEL 0.3, NV 1.0",
        ),
        ("ISIC_0024307,", "ISIC_0024306,", r"Image ISIC_0024306 stands in rows 4, 5 of .*; list each image once"),
        ("image,MEL,NV,BCC", "image,MEL,NV,BASAL", r"has no column `BCC` \(it has image, MEL, NV, BASAL, .*download"),
    ],
)
def test_a_wrong_ground_truth_is_refused_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    source = make_isic_2018(tmp_path / "source")
    change(source / TRUTH, old, new)
    with pytest.raises(DataError, match=message) as refused:
        isic_2018.read(source, ImportOptions())
    assert "\n" not in str(refused.value)


def test_images_of_task_1_are_left_out_even_where_they_have_the_same_names(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source", parts=("Training",))
    for name in ("ISIC_0024306.jpg", "ISIC_0000000.jpg"):
        write_picture(source / "ISIC2018_Task1-2_Training_Input" / name, 5)
    listing = isic_2018.read(source, ImportOptions())
    rows = listing.table(source)
    assert rows["path"].str.startswith("ISIC2018_Task3_Training_Input/").all() and len(rows) == len(LESIONS)
    assert listing.notes == ["2 images of no part are left out, as ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg"]


def test_folders_may_be_nested_or_named_otherwise(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source", parts=("Training",))
    folder = source / "ISIC2018_Task3_Training_Input"
    shutil.move(folder, source / "x")
    shutil.move(source / "x", folder / folder.name)
    paths = isic_2018.read(source, ImportOptions()).table(source)["path"]
    assert paths.str.startswith(f"{folder.name}/{folder.name}/ISIC_").all()
    shutil.move(folder / folder.name, source / "images")
    listing = isic_2018.read(source, ImportOptions())
    assert listing.table(source)["path"].str.startswith("images/ISIC_").all()
    assert listing.notes == [
        "10 images of ISIC2018_Task3_Training_GroundTruth.csv lie outside of ISIC2018_Task3_Training_Input/, as images/ISIC_0027419.jpg"
    ]


def test_an_image_or_table_in_two_places_is_refused(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source", parts=("Training",))
    folder = source / "ISIC2018_Task3_Training_Input"
    write_picture(folder / "copy" / "ISIC_0024306.jpg", 1)
    with pytest.raises(DataError, match=r"has 2 images named ISIC_0024306 \(.*copy/ISIC_0024306.jpg.*keep one"):
        isic_2018.read(source, ImportOptions())
    shutil.rmtree(folder / "copy")
    shutil.copy(source / TRUTH, source)
    with pytest.raises(DataError, match=r"has 2 files named ISIC2018_Task3_Training_GroundTruth.csv \(.*\); keep one"):
        isic_2018.read(source, ImportOptions())


def test_an_image_of_two_parts_is_refused(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source")
    truth = source / "ISIC2018_Task3_Test_GroundTruth" / "ISIC2018_Task3_Test_GroundTruth.csv"
    change(truth, "ISIC_0034524", "ISIC_0024306")
    with pytest.raises(DataError, match=r"Image ISIC_0024306 is there more than once \(train .*, test .*\); keep one"):
        isic_2018.read(source, ImportOptions())


def test_a_missing_image_is_quarantined_and_one_without_ground_truth_has_no_label(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source")
    (source / "ISIC2018_Task3_Training_Input" / "ISIC_0024313.jpg").unlink()
    change(source / TRUTH, one_hot("ISIC_0027419", "BKL") + "\n", "")
    made = import_dataset(source, tmp_path / "out", options=ImportOptions(max_corrupt=10), workers=1)
    rows = made.manifest.set_index("path")
    lost = rows.loc["ISIC2018_Task3_Training_Input/ISIC_0024313.jpg"]
    assert lost["status"] == "quarantined" and lost["reason"].startswith("file does not exist")
    free = rows.loc["ISIC2018_Task3_Training_Input/ISIC_0027419.jpg"]
    assert pd.isna(free["label"])
    assert (free["split"], free["patient"], free["status"]) == ("train", "HAM_0000118", "ok")
    assert (
        "1 images of ISIC2018_Task3_Training_Input/ stand in no table and have no label" in made.card.imported["notes"]
    )


def test_columns_that_are_not_published_are_noted(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source", parts=("Training",))
    lines = (source / TRUTH).read_text(encoding="utf-8").splitlines()
    write_lines(source / TRUTH, lines[0] + ",score_weight", *(f"{one},1.0" for one in lines[1:]))
    notes = isic_2018.read(source, ImportOptions()).notes
    assert notes == ["columns of ISIC2018_Task3_Training_GroundTruth.csv that are not used: score_weight"]


def test_other_folders_are_not_taken_for_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("a/1.png", "b/2.png"):
        write_picture(source / name, 1)
    write_lines(source / GROUPS, "image,lesion_id,diagnosis_confirm_type", "ISIC_0024306,HAM_0000550,histopathology")
    assert isic_2018.recognize(source) is None and recognize(source)[0] == "folder"
    assert isic_2018.recognize(source / "a" / "1.png") is None
    with pytest.raises(DataError, match=r"has no file ISIC2018_Task3_Training_GroundTruth.csv; give the folder"):
        isic_2018.read(source, ImportOptions())


def test_a_table_of_the_user_goes_before_it(tmp_path: Path) -> None:
    source = make_isic_2018(tmp_path / "source", parts=("Training",))
    assert recognize(source)[0] == "isic-2018"  # also a table at the top, whose rows name the images
    options = ImportOptions(table=source / GROUPS, image="image", label="diagnosis_confirm_type", patient="lesion_id")
    assert import_dataset(source, tmp_path / "out", options=options, workers=1).card.imported["kind"] == "table"
