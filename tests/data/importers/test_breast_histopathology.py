"""The Kaggle breast histopathology set: its published tree, with its repetition, its small patches and misplaced files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.import_sources import picture, snapshot, truncate, write_png
from wazuka.core.errors import DataError
from wazuka.data.importers import breast_histopathology, recognize
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.pixels import build_pixels
from wazuka.data.transform import ImageTransform

TOP = "IDC_regular_ps50_idx5"
# patient, class, x, y, height, width: names and places as published; the last ones lie at the border of their slide
PATCHES = [
    ("10253", 0, 1001, 1001, 50, 50),
    ("10253", 0, 1001, 1051, 50, 50),
    ("10253", 0, 1, 451, 50, 50),
    ("10253", 1, 501, 351, 50, 50),
    ("8863", 0, 1001, 801, 50, 50),
    ("8863", 0, 2001, 51, 50, 32),
    ("8863", 1, 951, 1301, 50, 50),
    ("16896", 0, 251, 1, 14, 50),
]


def name(patient: str, code: int, x: int, y: int) -> str:
    return f"{patient}/{code}/{patient}_idx5_x{x}_y{y}_class{code}.png"


def make(folder: Path) -> Path:
    """The tree of `PATCHES` under `folder`; the n-th picture has the n-th pixels."""
    for number, (patient, code, x, y, height, width) in enumerate(PATCHES):
        write_png(folder / name(patient, code, x, y), picture(number, side=50)[:height, :width])
    return folder


def archive(folder: Path) -> Path:
    """The tree twice, as in the published archive."""
    shutil.copytree(make(folder), folder.parent / "copy")
    shutil.move(folder.parent / "copy", folder / TOP)
    return folder


@pytest.mark.parametrize("place", ["source", f"source/{TOP}"])
def test_patches_get_patient_label_and_place(tmp_path: Path, place: str) -> None:
    make(tmp_path / place)
    before = snapshot(tmp_path / "source")
    made = import_dataset(tmp_path / "source", tmp_path / "out", workers=1)
    assert snapshot(tmp_path / "source") == before
    rows = made.manifest.set_index(made.manifest["path"].str.rsplit("/", n=1).str[1])
    assert len(rows) == len(PATCHES)
    for patient, code, x, y, height, width in PATCHES:
        row = rows.loc[name(patient, code, x, y).rsplit("/", 1)[1]]
        assert (row["patient"], row["label"]) == (patient, ("idc-negative", "idc-positive")[code])
        assert (row["x"], row["y"], row["height"], row["width"]) == (str(x), str(y), height, width)
    card = made.card
    assert (card.classes, card.positive) == (("idc-negative", "idc-positive"), "idc-positive")
    assert (card.patient_source, card.imported["kind"]) == ("folder name", "breast-histopathology")
    assert card.imported["recognized"] == "8 patches of breast tissue of 3 patients (IDC, 50 x 50 pixels)"
    assert (card.attributes["x"], card.attributes["y"]) == ("file name", "file name")
    assert card.imported["counts"]["quarantined"] == 0


def test_the_tree_that_the_archive_holds_twice_is_imported_once_and_that_is_said(tmp_path: Path) -> None:
    source = archive(tmp_path / "source")
    assert recognize(source)[1] == "8 patches of breast tissue of 3 patients (IDC, 50 x 50 pixels)"
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert not made.manifest["path"].str.startswith(TOP).any()
    assert made.manifest["sha256"].nunique() == len(made.manifest) == len(PATCHES)
    notes = [one for one in made.card.imported["notes"] if "repeat" in one]
    assert notes == [
        f"8 files repeat the patient, class and name of another one and are left out, as {TOP}/{name('10253', 0, 1001, 1001)}"
    ]


def test_a_file_that_only_the_inner_tree_has_is_kept(tmp_path: Path) -> None:
    source = archive(tmp_path / "source")
    (source / name("8863", 1, 951, 1301)).unlink()
    rows = breast_histopathology.read(source, ImportOptions()).table(source)
    inner = rows["path"].str.startswith(TOP)
    assert rows.loc[inner, "path"].tolist() == [f"{TOP}/{name('8863', 1, 951, 1301)}"]
    assert len(rows) == len(PATCHES)


def test_the_folder_of_one_patient_may_be_the_source(tmp_path: Path) -> None:
    source = make(tmp_path / "source") / "10253"
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert made.manifest["patient"].unique().tolist() == ["10253"]
    assert made.manifest["label"].value_counts().to_dict() == {"idc-negative": 3, "idc-positive": 1}


def test_files_whose_folders_and_names_disagree_are_quarantined_with_their_reason(tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    wrong = f"8863/1/{Path(name('8863', 0, 1001, 801)).name}"  # class 0 by its name, a copy of one that lies right
    shutil.copy(source / name("8863", 0, 1001, 801), source / wrong)
    stray = f"16896/0/{Path(name('10253', 0, 1, 451)).name}"
    shutil.move(source / name("10253", 0, 1, 451), source / stray)
    made = import_dataset(source, tmp_path / "out", options=ImportOptions(max_corrupt=25), workers=1)
    bad = made.manifest[made.manifest["status"] == "quarantined"]
    assert dict(zip(bad["path"], bad["reason"], strict=True)) == {
        stray: "10253/0 by its name, but in 16896/0",
        wrong: "8863/0 by its name, but in 8863/1",
    }
    assert bad["label"].isna().all()
    assert len(made.usable) == len(PATCHES) - 1 and made.card.imported["counts"]["quarantined"] == 2
    with pytest.raises(DataError, match=r"2 of 9 images cannot be used \(22.2 %, more than the 5 % of --max-corrupt\)"):
        import_dataset(source, tmp_path / "none", workers=1)


def test_a_damaged_file_in_the_wrong_folder_says_that_it_is_damaged(tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    stray = source / "16896" / "0" / Path(name("10253", 0, 1, 451)).name
    shutil.move(source / name("10253", 0, 1, 451), stray)
    truncate(stray)
    made = import_dataset(source, tmp_path / "out", options=ImportOptions(max_corrupt=25), workers=1)
    (bad,) = made.manifest[made.manifest["status"] == "quarantined"].to_dict("records")
    assert bad["reason"] == made.inspection.set_index("id").loc[bad["id"], "decode_error"]


def test_other_images_are_left_out_and_counted(tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    for other in ("overview.png", "8863/thumbnail.png", "8863/0/8863_idx5_x1_y1_class2.png"):
        write_png(source / other, picture(99))
    listing = breast_histopathology.read(source, ImportOptions())
    assert listing.notes == ["3 other images are left out: they are not named or placed as in the set"]
    assert len(listing.table(source)) == len(PATCHES)


def test_carcinoma_is_positive_even_where_it_is_the_more_frequent_class(tmp_path: Path) -> None:
    for x in (1, 51):
        write_png(tmp_path / "source" / name("9", 1, x, 1), picture(x, side=50))
    write_png(tmp_path / "source" / name("9", 0, 101, 1), picture(0, side=50))
    card = import_dataset(tmp_path / "source", tmp_path / "out", workers=1).card
    assert card.positive == "idc-positive"
    assert not any("positive class" in one for one in card.imported["notes"])
    options = ImportOptions(positive="idc-negative")
    assert (
        import_dataset(tmp_path / "source", tmp_path / "2", options=options, workers=1).card.positive == "idc-negative"
    )


def test_class_folders_with_other_names_are_not_taken_for_the_set(tmp_path: Path) -> None:
    write_png(tmp_path / "a" / "0" / "1.png", picture(1))
    write_png(tmp_path / "b" / "1" / "2.png", picture(2))
    assert breast_histopathology.recognize(tmp_path) is None
    assert recognize(tmp_path)[0] == "folder"
    with pytest.raises(DataError, match=r"has no file named PATIENT_idx5_xX_yY_classC.png in PATIENT/C/"):
        breast_histopathology.read(tmp_path, ImportOptions())


def test_small_border_patches_are_padded_without_a_crop_and_refused_with_one(tmp_path: Path) -> None:
    made = import_dataset(make(tmp_path / "source"), tmp_path / "out", workers=1)
    pixels = build_pixels(made, ImageTransform(size=50), cache=tmp_path / "cache", workers=1)
    number = made.manifest["path"].tolist().index(name("8863", 0, 2001, 51))
    found = pixels.images(np.array([number])).batch(np.arange(1))[0]
    own = picture(5, side=50)[:, :32]
    assert np.array_equal(found[:, 9:41], own)
    edges = np.concatenate([own[0], own[-1], own[:, 0], own[:, -1]])
    assert (found[:, :9] == edges.min(axis=0)).all() and (found[:, 41:] == edges.min(axis=0)).all()
    with pytest.raises(DataError, match=r"2 images do not fit the image transform: .* smaller than the crop of 50"):
        build_pixels(made, ImageTransform(crop=50, size=50), cache=tmp_path / "cache", workers=1)
