"""`images/` and `masks/` side by side: pairs, orphans on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.import_sources import write_pictures
from wazuka.core.errors import DataError
from wazuka.data.importers import image_mask
from wazuka.data.importers.listing import ImportOptions


def test_masks_are_paired_by_name_and_orphans_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["images/1.jpg", "images/a/2.png", "images/3.png"])
    write_pictures(tmp_path, ["Masks/1_mask.png", "Masks/a/2.png", "Masks/9.png"])
    listing = image_mask.read(tmp_path, ImportOptions())
    rows = listing.table(tmp_path)
    assert dict(zip(rows["path"], rows["mask"].fillna("-"), strict=True)) == {
        "images/1.jpg": "Masks/1_mask.png",
        "images/3.png": "-",
        "images/a/2.png": "Masks/a/2.png",
    }
    assert listing.orphan_masks == ["Masks/9.png"]
    assert image_mask.recognize(tmp_path) == "3 images in images/ and 3 masks in Masks/"


def test_without_both_folders_nothing_is_recognized(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["images/1.jpg"])
    assert image_mask.recognize(tmp_path) is None
    with pytest.raises(DataError, match="has no pair of folders; --kind image-mask needs one of images, image"):
        image_mask.read(tmp_path, ImportOptions())


def test_masks_that_fit_no_image_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["images/1.png", "masks/x.png"])
    with pytest.raises(DataError, match=r"has the name of an image in .* \(x.png and 1.png, say\)"):
        image_mask.read(tmp_path, ImportOptions())


def test_two_images_of_one_name_cannot_be_paired(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["images/1.png", "images/1.jpg", "masks/1.png"])
    with pytest.raises(DataError, match="two images of one name but different suffix"):
        image_mask.read(tmp_path, ImportOptions())
