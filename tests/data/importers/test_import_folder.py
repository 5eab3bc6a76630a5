"""Class folders and flat folders: labels, ready-made splits, masks beside images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.import_sources import class_folders, write_pictures
from wazuka.core.errors import DataError
from wazuka.data.importers import folder
from wazuka.data.importers.listing import ImportOptions


def test_the_first_folder_is_the_class_whatever_lies_deeper(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b/1.png", "b/day2/2.jpg", "a/1.bmp", ".hidden/3.png", "a/.4.png"])
    rows = folder.read(tmp_path, ImportOptions()).table(tmp_path)
    assert dict(zip(rows["path"], rows["label"], strict=True)) == {"a/1.bmp": "a", "b/1.png": "b", "b/day2/2.jpg": "b"}
    assert "split" not in rows
    assert folder.recognize(tmp_path) == "3 images in a folder per class (a, b)"


def test_a_ready_made_split_is_an_attribute(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["train/a/1.png", "Valid/b/2.png", "test/a/3.png"])
    listing = folder.read(tmp_path, ImportOptions())
    rows = listing.table(tmp_path)
    assert rows["label"].tolist() == ["b", "a", "a"]
    assert rows["split"].tolist() == ["val", "test", "train"]
    assert listing.attribute_sources == {"split": "folder name"}


def test_images_in_one_place_are_unlabeled(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png", "2.png"])
    assert folder.read(tmp_path, ImportOptions()).table(tmp_path)["label"].isna().all()
    assert folder.recognize(tmp_path) == "2 images without labels"


def test_images_in_one_folder_are_no_class_and_that_is_said(tmp_path: Path) -> None:
    class_folders(tmp_path, scans=3)
    listing = folder.read(tmp_path, ImportOptions())
    assert listing.table(tmp_path)["label"].isna().all()
    assert listing.notes == ["only one folder (scans) holds images: they are taken as unlabeled"]


def test_images_outside_of_the_class_folders_are_unlabeled_and_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a/1.png", "b/1.png", "2.png"])
    listing = folder.read(tmp_path, ImportOptions())
    assert listing.table(tmp_path)["label"].fillna("-").tolist() == ["-", "a", "b"]
    assert listing.notes == ["1 images outside the class folders are taken as unlabeled"]


def test_a_mask_beside_its_image_is_its_mask_and_not_an_image(tmp_path: Path) -> None:
    names = ["a/x (1).png", "a/x (1)_mask.png", "a/x (1)_mask_1.png", "b/y.png", "b/gone_mask.png"]
    write_pictures(tmp_path, names)
    listing = folder.read(tmp_path, ImportOptions())
    rows = listing.table(tmp_path)
    assert dict(zip(rows["path"], rows["mask"].fillna("-"), strict=True)) == {
        "a/x (1).png": "a/x (1)_mask.png",
        "b/y.png": "-",
    }
    assert listing.orphan_masks == ["a/x (1)_mask_1.png", "b/gone_mask.png"]


def test_a_folder_without_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    assert folder.recognize(tmp_path) is None
    with pytest.raises(DataError, match=r"has no image; a folder of images holds .png"):
        folder.read(tmp_path, ImportOptions())
