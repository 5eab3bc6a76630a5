"""The NIfTI importer; oracle: folders whose pairs and orphans are known."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from wazuka.core.errors import DataError
from wazuka.data.importers import nifti
from wazuka.data.importers.listing import ImportOptions, Listing

OPTIONS = ImportOptions()


def make(folder: Path, *names: str, size: tuple[int, int, int] = (3, 3, 3)) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.ones(size, np.uint8), np.eye(4)), path)


def pairs(listing: Listing, root: Path) -> dict[str, str | None]:
    def name(path: object) -> str:
        return Path(str(path)).relative_to(root).as_posix()

    return {name(one.path): None if one.mask is None else name(one.mask) for one in listing.items}


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("imagesTr", "labelsTr"), ("Images", "masks"), ("train/images", "train/labels")],
)
def test_partners_in_sibling_folders_have_the_same_name(tmp_path: Path, images: str, labels: str) -> None:
    make(tmp_path, f"{images}/a.nii.gz", f"{images}/b.nii", f"{labels}/a.nii.gz", f"{labels}/b_seg.nii.gz")
    listing = nifti.read(tmp_path, OPTIONS)
    assert pairs(listing, tmp_path) == {
        f"{images}/a.nii.gz": f"{labels}/a.nii.gz",
        f"{images}/b.nii": f"{labels}/b_seg.nii.gz",
    }
    assert [(one.volume, one.patient) for one in listing.items] == [("a", "a"), ("b", "b")]
    assert (listing.task, listing.patient_source) == ("segmentation", "volume")
    assert nifti.recognize(tmp_path) == "2 NIfTI volumes and 2 label volumes"


def test_orphans_are_reported_both_ways(tmp_path: Path) -> None:
    make(tmp_path, "images/a.nii.gz", "images/b.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz")
    listing = nifti.read(tmp_path, OPTIONS)
    assert pairs(listing, tmp_path) == {"images/a.nii.gz": None, "images/b.nii.gz": "labels/b.nii.gz"}
    assert listing.orphan_masks == ["labels/c.nii.gz"]
    assert listing.notes == ["1 volume without a mask, kept as unlabeled: images/a.nii.gz"]


def test_one_folder_with_named_masks(tmp_path: Path) -> None:
    make(tmp_path, "p1.nii.gz", "p1_seg.nii.gz", "p2.nii.gz", "p2_label.nii.gz", "p3.nii.gz")
    listing = nifti.read(tmp_path, OPTIONS)
    assert pairs(listing, tmp_path) == {"p1.nii.gz": "p1_seg.nii.gz", "p2.nii.gz": "p2_label.nii.gz", "p3.nii.gz": None}


def test_a_mask_of_a_case_serves_its_sequences_of_the_same_size(tmp_path: Path) -> None:
    make(tmp_path, "c1/c1_t1.nii.gz", "c1/c1_flair.nii.gz", "c1/c1_seg.nii.gz")
    make(tmp_path, "c1/c1_scout.nii.gz", size=(4, 4, 4))
    listing = nifti.read(tmp_path, OPTIONS)
    assert pairs(listing, tmp_path) == {
        "c1/c1_flair.nii.gz": "c1/c1_seg.nii.gz",
        "c1/c1_scout.nii.gz": None,
        "c1/c1_t1.nii.gz": "c1/c1_seg.nii.gz",
    }
    assert {one.patient for one in listing.items} == {"c1"}
    assert len({one.volume for one in listing.items}) == 3


def test_volumes_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    make(tmp_path, "s1/images/ct.nii.gz", "s1/labels/ct.nii.gz", "s2/images/ct.nii.gz")
    listing = nifti.read(tmp_path, OPTIONS)
    assert pairs(listing, tmp_path) == {"s1/images/ct.nii.gz": "s1/labels/ct.nii.gz", "s2/images/ct.nii.gz": None}
    assert [one.volume for one in listing.items] == ["s1/images/ct", "s2/images/ct"]


def test_one_file_is_a_source_and_an_empty_folder_is_not(tmp_path: Path) -> None:
    make(tmp_path, "one/a_seg.nii.gz")
    assert nifti.recognize(tmp_path / "one" / "a_seg.nii.gz") == "1 NIfTI volume"
    assert len(nifti.read(tmp_path / "one" / "a_seg.nii.gz", OPTIONS).items) == 1
    (tmp_path / "empty").mkdir()
    assert nifti.recognize(tmp_path / "empty") is None
    with pytest.raises(DataError, match="holds no NIfTI volume"):
        nifti.read(tmp_path / "empty", OPTIONS)


@pytest.mark.shared
def test_the_hippocampus_set_has_260_pairs_and_its_three_orphans(shared_data: Path) -> None:
    listing = nifti.read(shared_data / "hippocampus", OPTIONS)
    assert sum(one.mask is not None for one in listing.items) == 260
    assert len(listing.items) == 261
    assert listing.orphan_masks == ["labels/hippocampus_010.nii.gz", "labels/hippocampus_281.nii.gz"]
    assert any("1 volume without a mask" in note and "hippocampus_118" in note for note in listing.notes)


@pytest.mark.shared
def test_the_multi_organ_mask_goes_to_the_volume_of_its_size(shared_data: Path) -> None:
    listing = nifti.read(shared_data / "multi-organ-ct", OPTIONS)
    assert pairs(listing, shared_data / "multi-organ-ct") == {
        "example_ct.nii.gz": None,
        "example_ct_sm.nii.gz": "example_seg.nii.gz",
    }
    assert {one.patient for one in listing.items} == {"example"}
