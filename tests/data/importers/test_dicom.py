"""The DICOM importer; oracle: series written by pydicom whose order, gaps and masks are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.dicom_files import ROOT, axial, write
from wazuka.core.errors import DataError
from wazuka.data import decode
from wazuka.data.importers import dicom
from wazuka.data.importers.listing import ImportOptions, Listing

OPTIONS = ImportOptions()
PIXELS = np.arange(30, dtype=np.uint16).reshape(6, 5)


def make_series(folder: Path, positions: list[float], *, series: str = "1", **tags: object) -> list[Path]:
    """Slices numbered 1, 2, ... in the order given, at the positions given."""
    return [
        write(folder / f"s{number:03d}.dcm", PIXELS + number, tags=axial(position, number=number, series=series) | tags)
        for number, position in enumerate(positions, start=1)
    ]


def make_masks(folder: Path, numbers: list[int], *, name: str = "m_{:03d}.png") -> None:
    """Masks whose value is their place in `numbers`, counted from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, number in enumerate(numbers, start=1):
        Image.fromarray(np.full((6, 5), place, np.uint8)).save(folder / name.format(number))


def of_masks(listing: Listing) -> dict[str, str | None]:
    return {Path(one.path).name: None if one.mask is None else Path(one.mask).name for one in listing.items}


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(5)))
def test_slices_come_in_order_of_position_whatever_their_numbers(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("series")
    make_series(folder, [2.0 * one for one in order])
    listing = dicom.read(folder, OPTIONS)
    assert [decode.probe(Path(one.path)).position_mm for one in listing.items] == [0, 2, 4, 6, 8]
    assert {one.volume for one in listing.items} == {"series-001"}
    assert {one.attributes["slice_spacing_mm"] for one in listing.items} == {"2"}


def test_masks_follow_the_instance_number_and_not_the_position(tmp_path: Path) -> None:
    make_series(tmp_path / "scan", [8.0, 6.0, 4.0, 2.0, 0.0])  # number 1 lies highest
    make_masks(tmp_path / "Ground", [0, 1, 2, 3, 4])
    listing = dicom.read(tmp_path, OPTIONS)
    assert of_masks(listing) == {f"s{n:03d}.dcm": f"m_{n - 1:03d}.png" for n in range(1, 6)}
    assert Path(listing.items[0].path).name == "s005.dcm"
    assert listing.task == "segmentation"
    assert any("5 of 5 slices have a mask in Ground/, paired by instance number" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("numbers", "expected", "orphans"),
    [
        ([2, 4], {"s002.dcm": "m_002.png", "s004.dcm": "m_004.png"}, []),
        ([0, 3], {"s001.dcm": "m_000.png", "s004.dcm": "m_003.png"}, []),
        ([3, 9], {"s003.dcm": "m_003.png"}, ["masks/m_009.png"]),
    ],
)
def test_fewer_masks_than_slices_are_paired_by_their_number(
    tmp_path: Path, numbers: list[int], expected: dict, orphans: list[str]
) -> None:
    make_series(tmp_path / "scan", [0.0, 1.0, 2.0, 3.0, 4.0])
    make_masks(tmp_path / "masks", numbers)
    listing = dicom.read(tmp_path, OPTIONS)
    assert {name: mask for name, mask in of_masks(listing).items() if mask} == expected
    assert len(listing.items) == 5
    assert listing.orphan_masks == orphans


def test_masks_with_the_names_of_slices_are_paired_by_name(tmp_path: Path) -> None:
    make_series(tmp_path / "scan", [0.0, 1.0, 2.0])
    make_masks(tmp_path / "labels", [3, 1], name="s{:03d}.png")
    assert of_masks(dicom.read(tmp_path, OPTIONS)) == {"s001.dcm": "s001.png", "s002.dcm": None, "s003.dcm": "s003.png"}


def test_masks_without_numbers_are_left_over_with_the_reason(tmp_path: Path) -> None:
    make_series(tmp_path / "scan", [0.0, 1.0])
    make_masks(tmp_path / "masks", [1], name="liver.png")
    listing = dicom.read(tmp_path, OPTIONS)
    assert listing.orphan_masks == ["masks/liver.png"]
    assert any("not used: their names have no distinct numbers" in note for note in listing.notes)


def test_two_patients_with_their_own_masks_are_kept_apart(tmp_path: Path) -> None:
    for number in ("1", "2"):
        make_series(tmp_path / number / "DICOM", [0.0, 1.0, 2.0], series=number, PatientID=f"p{number}")
        make_masks(tmp_path / number / "Ground", [0, 1, 2])
    listing = dicom.read(tmp_path, OPTIONS)
    for one in listing.items:
        assert one.mask is not None
        assert Path(one.path).relative_to(tmp_path).parts[0] == Path(one.mask).relative_to(tmp_path).parts[0]
    assert {(one.volume, one.patient, one.patient_raw) for one in listing.items} == {
        ("series-001", "p1", True),
        ("series-002", "p2", True),
    }
    assert listing.patient_source == "dicom"


def test_one_mask_folder_above_two_different_series_is_not_guessed(tmp_path: Path) -> None:
    make_series(tmp_path / "a", [0.0, 1.0], series="1")
    make_series(tmp_path / "b", [5.0, 6.0], series="2")
    make_masks(tmp_path / "masks", [1, 2])
    listing = dicom.read(tmp_path, OPTIONS)
    assert not any(one.mask for one in listing.items)
    assert len(listing.orphan_masks) == 2
    assert any("2 masks in masks/ could belong to several series" in note for note in listing.notes)


def test_series_that_show_the_same_places_share_their_masks(tmp_path: Path) -> None:
    make_series(tmp_path / "DICOM" / "in", [0.0, 1.0], series="1")
    make_series(tmp_path / "DICOM" / "out", [0.0, 1.0], series="2")
    make_masks(tmp_path / "Ground", [1, 2])
    listing = dicom.read(tmp_path, OPTIONS)
    assert all(one.mask for one in listing.items)
    assert not listing.orphan_masks


def test_names_of_volumes_hold_no_identifier(tmp_path: Path) -> None:
    make_series(tmp_path, [0.0, 1.0])
    for one in dicom.read(tmp_path, OPTIONS).items:
        assert one.volume is not None
        assert ROOT not in one.volume
        assert not any(ROOT in value or "patient-1" in value for value in one.attributes.values())


def test_gaps_and_repeated_positions_are_noted(tmp_path: Path) -> None:
    make_series(tmp_path / "gap", [0.0, 2.0, 4.0, 10.0, 12.0])
    notes = dicom.read(tmp_path / "gap", OPTIONS).notes
    assert "series-001: 1 gaps, up to 6 mm where 2 mm is usual; slices are missing" in notes
    make_series(tmp_path / "twice", [0.0, 2.0, 2.0])
    notes = dicom.read(tmp_path / "twice", OPTIONS).notes
    assert "series-001: 1 slices share their position with another one; kept in order of instance number" in notes


def test_phases_of_one_series_become_volumes_of_their_own(tmp_path: Path) -> None:
    for phase in (1, 2):
        for number in range(3):
            tags = axial(2.0 * number, number=3 * phase + number) | {"AcquisitionNumber": phase}
            write(tmp_path / f"{phase}{number}", PIXELS, tags=tags)
    listing = dicom.read(tmp_path, OPTIONS)
    assert [one.volume for one in listing.items] == ["series-001-a"] * 3 + ["series-001-b"] * 3
    assert "series-001: positions repeat; split by AcquisitionNumber into 2 volumes" in listing.notes


def test_mixed_orientations_in_a_series_are_kept_apart_and_localizers_left_out(tmp_path: Path) -> None:
    make_series(tmp_path, [0.0, 2.0, 4.0])
    sagittal = axial(0, number=4) | {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    write(tmp_path / "x4.dcm", PIXELS, tags=sagittal)
    listing = dicom.read(tmp_path, OPTIONS)
    assert [one.volume for one in listing.items] == ["series-001-a"] * 3 + ["series-001-b"]
    assert any("2 orientations or image sizes in one series" in note for note in listing.notes)
    write(tmp_path / "x4.dcm", PIXELS, tags=sagittal | {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    listing = dicom.read(tmp_path, OPTIONS)
    assert len(listing.items) == 3
    assert "1 localizer images left out" in listing.notes


def test_projection_images_of_a_series_are_no_volume(tmp_path: Path) -> None:
    for number in (1, 2):
        tags = {"Modality": "MG", "InstanceNumber": number, "ViewPosition": "CC"}
        write(tmp_path / f"{number}.dcm", PIXELS, tags=tags)
        Image.fromarray(np.ones((6, 5), np.uint8)).save(tmp_path / f"{number}_mask.png")
        Image.fromarray(np.ones((6, 5), np.uint8)).save(tmp_path / f"{number}.jpg")  # a preview, no mask
    listing = dicom.read(tmp_path, OPTIONS)
    assert [one.volume for one in listing.items] == [None, None]
    assert of_masks(listing) == {"1.dcm": "1_mask.png", "2.dcm": "2_mask.png"}
    assert any("2 other files not read (2 .jpg)" in note for note in listing.notes)


def test_multi_frame_files_are_volumes_of_their_own(tmp_path: Path) -> None:
    film = np.zeros((4, 6, 5), np.uint8)
    for name in ("a", "b"):
        write(tmp_path / name, film, frames=True, tags={"Modality": "US"})
    listing = dicom.read(tmp_path, OPTIONS)
    assert [one.volume for one in listing.items] == ["series-001-m1", "series-001-m2"]
    assert all(one.frame is None for one in listing.items)


def test_objects_that_are_no_images_are_counted_and_damaged_files_stay_listed(tmp_path: Path) -> None:
    make_series(tmp_path, [0.0, 1.0])
    write(tmp_path / "contours", None, tags={"Modality": "RTSTRUCT"})
    write(tmp_path / "seg", PIXELS, tags={"Modality": "SEG"})
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    listing = dicom.read(tmp_path, OPTIONS)
    assert "1 files left out: RTSTRUCT object (contours), not an image" in listing.notes
    assert "1 files left out: SEG object (a segmentation object), not an image" in listing.notes
    assert [Path(one.path).name for one in listing.items] == ["s001.dcm", "s002.dcm", "broken.dcm"]


def test_an_empty_patient_id_falls_back_to_the_study_and_says_so(tmp_path: Path) -> None:
    make_series(tmp_path, [0.0, 1.0], PatientID="")
    listing = dicom.read(tmp_path, OPTIONS)
    assert {one.patient for one in listing.items} == {ROOT + "1"}
    assert listing.patient_source == "study"
    assert any("2 files have an empty PatientID" in note for note in listing.notes)


def test_recognition_looks_into_files_without_a_suffix(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("text")
    assert dicom.recognize(tmp_path) is None
    with pytest.raises(DataError, match=r"holds no DICOM image .* give the folder of a series"):
        dicom.read(tmp_path, OPTIONS)
    write(tmp_path / "IM1", PIXELS, tags=axial(0, number=1))
    assert dicom.recognize(tmp_path) == "1 DICOM file"
    assert dicom.recognize(tmp_path / "IM1") == "1 DICOM file"
    assert len(dicom.read(tmp_path / "IM1", OPTIONS).items) == 1


@pytest.mark.shared
def test_the_abdomen_ct_has_its_78_slices_and_71_livers(shared_data: Path) -> None:
    folder = shared_data / "abdomen-ct"
    assert dicom.recognize(folder) == "78 DICOM files"
    listing = dicom.read(folder, OPTIONS)
    assert len(listing.items) == 78
    assert not listing.orphan_masks
    assert {one.attributes["slice_spacing_mm"] for one in listing.items} == {"2"}
    positions = [decode.probe(Path(one.path)).position_mm or 0.0 for one in listing.items]
    assert positions == sorted(positions)
    masks = [decode.decode_masks(Path(str(one.mask)))[0] > 0 for one in listing.items]
    assert sum(mask.any() for mask in masks) == 71
    images = [decode.decode(Path(one.path))[0] for one in listing.items]
    liver = np.concatenate([image[mask] for image, mask in zip(images, masks, strict=True)])
    assert 100 < liver.mean() < 180
    assert (listing.patient_source, listing.modality, listing.task) == ("study", "CT", "segmentation")
