"""ISIC 2017 part 3: three diagnoses or one against the rest, the challenge's splits, superpixels left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.importers.challenge_sources import ISIC_2017, make_isic_2017, make_isic_2018, write_lines, write_picture
from tests.import_sources import snapshot
from wazuka.core.errors import ConfigError, DataError
from wazuka.data import splits
from wazuka.data.importers import isic_2017, recognize
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset

TRUTH = "ISIC-2017_Training_Part3_GroundTruth.csv"
HEADER = "image_id,melanoma,seborrheic_keratosis"
DIAGNOSES = {
    ("0.0", "0.0"): "nevus",
    ("1.0", "0.0"): "melanoma",
    ("0.0", "1.0"): "seborrheic_keratosis",
}


def test_every_image_gets_its_diagnosis_its_split_and_its_facts(tmp_path: Path) -> None:
    source = make_isic_2017(tmp_path / "source")
    before = snapshot(source)
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert snapshot(source) == before
    rows = made.manifest.set_index("path")
    assert len(rows) == sum(map(len, ISIC_2017.values()))
    for part, split in (("Training", "train"), ("Validation", "val"), ("Test_v2", "test")):
        for image, melanoma, keratosis, age, sex in ISIC_2017[part]:
            row = rows.loc[f"ISIC-2017_{part}_Data/{image}.jpg"]
            assert (row["label"], row["split"]) == (DIAGNOSES[melanoma, keratosis], split)
            facts = row[["age_approximate", "sex"]]
            assert facts.isna().tolist() == [age == "unknown", sex == "unknown"]
            assert facts.fillna("unknown").tolist() == [age, sex]
    card = made.card
    assert card.classes == ("melanoma", "seborrheic_keratosis", "nevus")
    assert (card.modality, card.imported["kind"], card.patient_source) == ("dermoscopy", "isic-2017", "image")
    assert card.imported["recognized"] == "ISIC 2017 part 3 with the ground truth of train, val, test"
    assert {name: card.attributes[name] for name in ("split", "age_approximate", "sex")} == {
        "split": "published split",
        "age_approximate": "table",
        "sex": "table",
    }


def test_superpixels_are_left_out_and_counted(tmp_path: Path) -> None:
    source = make_isic_2017(tmp_path / "source")
    write_picture(source / "ISIC-2017_Training_Part1_GroundTruth" / "ISIC_0000000_segmentation.png", 3)
    listing = isic_2017.read(source, ImportOptions())
    assert not listing.table(source)["path"].str.contains("superpixels|segmentation").any()
    assert listing.notes == [
        "10 superpixel masks (of part 2) are left out, as ISIC-2017_Test_v2_Data/ISIC_0012086_superpixels.png",
        "1 images of no part are left out, as ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png",
    ]


def test_a_study_can_keep_the_splits_of_the_challenge(tmp_path: Path) -> None:
    rows = import_dataset(make_isic_2017(tmp_path / "source"), tmp_path / "out", workers=1).manifest
    made = splits.make_splits(
        rows, test=splits.Test(kind="column", column="split"), repeats=1, redraw=False, seed=0, task="classification"
    ).set_index("id")
    assert made["role"].to_dict() == rows.set_index("id")["split"].to_dict()


@pytest.mark.parametrize("positive", ["melanoma", "seborrheic_keratosis"])
def test_a_positive_class_gives_one_of_the_two_tasks_of_the_challenge(tmp_path: Path, positive: str) -> None:
    source = make_isic_2017(tmp_path / "source")
    made = import_dataset(source, tmp_path / "out", options=ImportOptions(positive=positive), workers=1)
    assert (made.card.classes, made.card.positive) == ((f"not_{positive}", positive), positive)
    column = ("melanoma", "seborrheic_keratosis").index(positive) + 1
    marked = {row[0] for rows in ISIC_2017.values() for row in rows if row[column] == "1.0"}
    named = made.manifest["path"].str.extract(r"(ISIC_\d{7})", expand=False)
    assert set(named[made.manifest["label"] == positive]) == marked
    assert (made.manifest["label"] == f"not_{positive}").sum() == len(made.manifest) - len(marked)


def test_other_positive_classes_are_refused(tmp_path: Path) -> None:
    source = make_isic_2017(tmp_path / "source")
    with pytest.raises(
        ConfigError, match=r"--positive nevus is no task of ISIC 2017; give melanoma or seborrheic_kera"
    ):
        import_dataset(source, tmp_path / "out", options=ImportOptions(positive="nevus"), workers=1)
    with pytest.raises(DataError, match=r"Unknown class `melanom`.* Did you mean `melanoma`\?"):
        import_dataset(source, tmp_path / "out", options=ImportOptions(positive="melanom"), workers=1)


def test_two_diagnoses_of_one_image_are_refused(tmp_path: Path) -> None:
    source = make_isic_2017(tmp_path / "source")
    write_lines(source / TRUTH, HEADER, "ISIC_0000000,0.0,0.0", "ISIC_0000001,1.0,1.0")
    with pytest.raises(
        DataError, match=r"Row 3 of .* holds melanoma 1.0, seborrheic_keratosis 1.0; .* at most one 1.0"
    ):
        isic_2017.read(source, ImportOptions())


def test_the_first_version_of_the_test_images_is_not_mixed_with_the_second(tmp_path: Path) -> None:
    source = make_isic_2017(tmp_path / "source")
    for image, *_ in ISIC_2017["Test_v2"]:
        write_picture(source / "ISIC-2017_Test_Data" / f"{image}.jpg", 9)
    rows = isic_2017.read(source, ImportOptions()).table(source)
    assert rows["path"].str.startswith("ISIC-2017_Test_v2_Data/").sum() == len(ISIC_2017["Test_v2"])
    assert not rows["path"].str.startswith("ISIC-2017_Test_Data/").any()


def test_metadata_may_be_missing_and_a_part_without_ground_truth_has_no_labels(tmp_path: Path) -> None:
    source = make_isic_2017(tmp_path / "source")
    for path in source.glob("*/*_metadata.csv"):
        path.unlink()
    (source / "ISIC-2017_Validation_Part3_GroundTruth.csv").unlink()
    listing = isic_2017.read(source, ImportOptions())
    rows = listing.table(source)
    assert "sex" not in rows and listing.attribute_sources == {"split": "published split"}
    assert rows["label"].isna().tolist() == (rows["split"] == "val").tolist() and (rows["split"] == "val").sum() == 2
    assert "2 images of ISIC-2017_Validation_Data/ stand in no table and have no label" in listing.notes


def test_two_challenges_in_one_folder_must_be_told_apart_by_the_user(tmp_path: Path) -> None:
    source = make_isic_2018(make_isic_2017(tmp_path / "source"))
    with pytest.raises(DataError, match=r"could be of several kinds \(isic-2018: .*; isic-2017: .*\); choose one"):
        recognize(source)
    rows = isic_2017.read(source, ImportOptions()).table(source)
    assert rows["path"].str.startswith("ISIC-2017_").all() and len(rows) == 10


def test_a_folder_without_ground_truth_is_not_taken_for_it(tmp_path: Path) -> None:
    source = make_isic_2017(tmp_path / "source", parts=("Training",))
    (source / TRUTH).unlink()
    assert isic_2017.recognize(source) is None
    with pytest.raises(DataError, match=rf"has no file {TRUTH}; give the folder"):
        isic_2017.read(source, ImportOptions())
