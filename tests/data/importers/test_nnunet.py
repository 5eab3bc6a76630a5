"""The nnU-Net importer; oracle: folders in both versions of the layout with the same content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from wazuka.core.errors import DataError
from wazuka.data.importers import nnunet
from wazuka.data.importers.listing import ImportOptions

OPTIONS = ImportOptions()
V1 = {
    "name": "Hearts",
    "licence": "CC-BY 4.0",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "atrium", "2": "scar"},
}
V2 = {
    "name": "Hearts",
    "license": "CC-BY 4.0",
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "atrium": 1, "scar": 2},
    "file_ending": ".nii.gz",
}


def make(root: Path, description: dict[str, Any], *, channel: str = "_0000") -> Path:
    files = (
        [f"imagesTr/h_{n}{channel}.nii.gz" for n in "123"]
        + [f"labelsTr/h_{n}.nii.gz" for n in "134"]
        + [f"imagesTs/h_9{channel}.nii.gz"]
    )
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), root / name)
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.mark.parametrize(("description", "channel"), [(V1, ""), (V2, "_0000")])
def test_both_versions_give_the_same_listing(tmp_path: Path, description: dict[str, Any], channel: str) -> None:
    root = make(tmp_path / "Dataset001_Hearts", description, channel=channel)
    assert nnunet.recognize(root) == "an nnU-Net dataset, images: 3 in imagesTr, 1 in imagesTs"
    listing = nnunet.read(root, OPTIONS)
    found = {
        one.volume: (None if one.mask is None else Path(one.mask).name, one.attributes["part"]) for one in listing.items
    }
    assert found == {
        "h_1": ("h_1.nii.gz", "train"),
        "h_2": (None, "train"),
        "h_3": ("h_3.nii.gz", "train"),
        "h_9": (None, "test"),
    }
    assert listing.structures == {1: "atrium", 2: "scar"}
    assert (listing.name, listing.license, listing.modality, listing.task) == (
        "Hearts",
        "CC-BY 4.0",
        "MR",
        "segmentation",
    )
    assert listing.orphan_masks == ["labelsTr/h_4.nii.gz"]
    assert any(note.startswith("1 training cases without a label") for note in listing.notes)


def test_several_channels_are_refused_with_their_count(tmp_path: Path) -> None:
    root = make(tmp_path, V2 | {"channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}})
    with pytest.raises(DataError, match=r"has 3 channels \(T1, T2, FLAIR\); one channel per case can be read"):
        nnunet.read(root, OPTIONS)


def test_a_second_channel_file_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, V2)
    (root / "imagesTr" / "h_1_0001.nii.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"has the case h_1 twice \(h_1_0000.nii.gz, h_1_0001.nii.gz\)"):
        nnunet.read(root, OPTIONS)


def test_regions_and_labels_without_a_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the label `whole` as a region of \[1, 2\]"):
        nnunet.read(make(tmp_path / "a", V2 | {"labels": {"background": 0, "whole": [1, 2]}}), OPTIONS)
    with pytest.raises(DataError, match="the label `liver: x` without a number"):
        nnunet.read(make(tmp_path / "b", V2 | {"labels": {"liver": "x"}}), OPTIONS)


def test_a_damaged_description_and_a_wrong_ending_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file ending in `\.png`"):
        nnunet.read(make(tmp_path / "a", V2 | {"file_ending": ".png"}), OPTIONS)
    (tmp_path / "a" / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset.json is not readable JSON"):
        nnunet.read(tmp_path / "a", OPTIONS)


def test_a_folder_without_a_description_is_not_recognized(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    assert nnunet.recognize(tmp_path) is None
    with pytest.raises(DataError, match=r"has no dataset\.json"):
        nnunet.read(tmp_path, OPTIONS)
