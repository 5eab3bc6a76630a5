"""DICOM; oracle: files written by pydicom from known values, closed forms of slope, intercept and inversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.dicom_files import axial, item, write
from wazuka.data import decode
from wazuka.data.decode import DecodeError

RNG = np.random.default_rng(3)
STORED = RNG.integers(0, 4096, (6, 5), dtype=np.uint16)
COLOR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def only(path: Path) -> np.ndarray:
    return decode.decode(path, [None])[0]


@settings(max_examples=30, deadline=None)
@given(
    slope=st.floats(0.05, 4).map(lambda one: round(one, 4)),
    intercept=st.integers(-3000, 500),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_hounsfield_units_are_slope_times_value_plus_intercept(
    tmp_path_factory: pytest.TempPathFactory, slope: float, intercept: int, signed: bool, seed: int
) -> None:
    low = -2000 if signed else 0
    stored = np.random.default_rng(seed).integers(low, 4096, (4, 4)).astype(np.int16 if signed else np.uint16)
    path = write(
        tmp_path_factory.mktemp("ct") / "a.dcm",
        stored,
        tags={"RescaleSlope": f"{slope:g}", "RescaleIntercept": intercept},
    )
    image = only(path)
    assert image.dtype == np.int16
    assert decode.probe(path).intensity == "hounsfield"
    np.testing.assert_allclose(image, stored.astype(float) * slope + intercept, atol=0.5 + 1e-6)


def test_hounsfield_units_beyond_16_bits_are_refused_and_padding_is_clipped(tmp_path: Path) -> None:
    stored = np.full((4, 4), 60_000, np.uint16)
    path = write(tmp_path / "a.dcm", stored, tags=CT)
    with pytest.raises(DecodeError, match="Hounsfield units from 58976 to 58976 do not fit in 16 bits"):
        only(path)
    padded = np.full((4, 4), 100, np.int16)
    padded[0, 0] = -32768
    image = only(write(tmp_path / "b.dcm", padded, tags={**CT, "PixelPaddingValue": -32768}))
    assert image[0, 0] == -32768
    assert (image.ravel()[1:] == 100 - 1024).all()


def test_ct_without_slope_keeps_stored_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", STORED)
    assert decode.probe(path).intensity == "gray16"
    np.testing.assert_array_equal(only(path), STORED)


def test_a_file_without_a_suffix_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "IM_0001", STORED, tags=CT)
    np.testing.assert_array_equal(only(path), STORED.astype(np.int16) - 1024)


@pytest.mark.parametrize(
    ("bits", "dtype", "intensity"), [(12, np.uint16, "gray16"), (16, np.uint16, "gray16"), (8, np.uint8, "gray8")]
)
def test_monochrome1_is_inverted_over_the_stored_bits(tmp_path: Path, bits: int, dtype: type, intensity: str) -> None:
    stored = RNG.integers(0, 2**bits, (6, 5)).astype(dtype)
    tags = {"Modality": "DX", "ImagerPixelSpacing": [0.1, 0.2], "ViewPosition": "PA"}
    path = write(tmp_path / "a.dcm", stored, bits_stored=bits, photometric="MONOCHROME1", tags=tags)
    np.testing.assert_array_equal(only(path), 2**bits - 1 - stored.astype(int))
    info = decode.probe(path)
    assert (info.intensity, info.spacing_mm, info.attributes["view"]) == (intensity, (0.1, 0.2, None), "PA")
    plain = write(tmp_path / "b.dcm", stored, bits_stored=bits, tags=tags)
    np.testing.assert_array_equal(only(plain), stored)


def test_monochrome1_never_turns_hounsfield_units_around(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", STORED, photometric="MONOCHROME1", tags=CT)
    np.testing.assert_array_equal(only(path), STORED.astype(np.int16) - 1024)


@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_mr_and_pet_are_floats_with_slope_and_intercept(tmp_path: Path, modality: str) -> None:
    path = write(
        tmp_path / "a.dcm", STORED, tags={"Modality": modality, "RescaleSlope": "0.5", "RescaleIntercept": "-3"}
    )
    image = only(path)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, STORED * 0.5 - 3)
    assert decode.probe(path).intensity == "mr"


def test_color_palette_and_ultrasound_become_rgb(tmp_path: Path) -> None:
    np.testing.assert_array_equal(only(write(tmp_path / "rgb.dcm", COLOR, tags={"Modality": "XC"})), COLOR)
    planes = write(
        tmp_path / "p.dcm",
        COLOR,
        tags={"Modality": "XC", "PlanarConfiguration": 1, "PixelData": np.moveaxis(COLOR, -1, 0).tobytes()},
    )
    np.testing.assert_array_equal(only(planes), COLOR)
    region = item(PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.02, PhysicalDeltaY=-0.03)
    us = write(tmp_path / "us.dcm", COLOR, tags={"Modality": "US", "SequenceOfUltrasoundRegions": [region]})
    info = decode.probe(us)
    assert (info.intensity, info.channels, info.spacing_mm) == ("ultrasound", 3, (0.3, 0.2, None))
    entries = RNG.integers(0, 65536, (3, 256), dtype=np.uint16)
    names = ("Red", "Green", "Blue")
    lut: dict = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in names}
    lut |= {f"{name}PaletteColorLookupTableData": one.tobytes() for name, one in zip(names, entries, strict=True)}
    stored = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
    palette = write(tmp_path / "lut.dcm", stored, photometric="PALETTE COLOR", tags={"Modality": "XC", **lut})
    np.testing.assert_array_equal(only(palette), (entries.T >> 8)[stored])


def test_ybr_is_turned_into_rgb(tmp_path: Path) -> None:
    gray = np.zeros((6, 5, 3), np.uint8)
    gray[..., 0] = RNG.integers(0, 256, (6, 5))
    gray[..., 1:] = 128  # no color difference: R = G = B = Y
    image = only(write(tmp_path / "a.dcm", gray, photometric="YBR_FULL", tags={"Modality": "XC"}))
    np.testing.assert_array_equal(image, np.dstack([gray[..., 0]] * 3))


def test_multi_frame_files_have_frames(tmp_path: Path) -> None:
    film = RNG.integers(0, 256, (4, 6, 5), dtype=np.uint8)
    path = write(tmp_path / "a.dcm", film, frames=True, tags={"Modality": "US"})
    assert decode.probe(path).frames == 4
    for index, image in zip([3, 0, 3], decode.decode(path, [3, 0, 3]), strict=True):
        np.testing.assert_array_equal(image, film[index])
    with pytest.raises(DecodeError, match="has no frame 4, only 4"):
        decode.decode(path, [4])


def test_enhanced_multi_frame_files_have_their_own_slopes_and_positions(tmp_path: Path) -> None:
    volume = RNG.integers(0, 1000, (3, 6, 5), dtype=np.uint16)
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75])],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.5 * n])],
            PixelValueTransformationSequence=[item(RescaleSlope=n + 1, RescaleIntercept=-1000)],
        )
        for n in range(3)
    ]
    tags = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    path = write(tmp_path / "a.dcm", volume, frames=True, tags=tags)
    info = decode.probe(path)
    assert (info.frames, info.spacing_mm, info.intensity) == (3, (0.5, 0.75, 2.5), "hounsfield")
    for n, image in enumerate(decode.decode(path, range(3))):
        np.testing.assert_array_equal(image, volume[n].astype(int) * (n + 1) - 1000)


def test_the_header_gives_identity_position_and_attributes(tmp_path: Path) -> None:
    tags = axial(12.5, number=7) | {
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],  # sagittal: the normal is -x
        "ImagePositionPatient": [3, 4, 5],
        "PatientSex": "F",
        "PatientAge": "047Y",
        "Manufacturer": "Maker",
        "ContrastBolusAgent": "Omnipaque for Mrs. X",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19700101",
        "SpacingBetweenSlices": "4",
    }
    info = decode.probe(write(tmp_path / "a.dcm", STORED, tags=tags))
    assert (info.patient_id, info.instance_number, info.position_mm) == ("patient-1", 7, -3.0)
    assert info.spacing_mm == (0.5, 0.75, 4.0)
    assert info.attributes == {"sex": "F", "age_group": "40-49", "maker": "Maker", "contrast": "yes"}
    assert info.attribute_sources["contrast"] == "DICOM tag ContrastBolusAgent"
    assert info.identifying_tags == ("PatientName", "PatientID", "PatientBirthDate")
    assert not any("Doe" in one or "1970" in one for one in [*info.attributes.values(), *info.identifying_tags])


def test_without_a_patient_the_study_stands_in(tmp_path: Path) -> None:
    info = decode.probe(write(tmp_path / "a.dcm", STORED, tags={"PatientID": ""}))
    assert info.patient_id == info.study_id
    assert info.study_id


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "RTSTRUCT", "Rows": None}, "RTSTRUCT object"),
        ({"Modality": "SEG"}, "SEG object"),
        ({"Rows": None}, "DICOM object without an image"),
        ({"DirectoryRecordSequence": []}, "DICOMDIR"),
        ({"PixelData": None}, "DICOM image without pixel data"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation HSV"),
    ],
)
def test_objects_that_are_no_images_say_what_they_are(tmp_path: Path, tags: dict, reason: str) -> None:
    path = write(tmp_path / "a.dcm", STORED, tags=tags)
    with pytest.raises(DecodeError, match=reason):
        only(path)


def test_run_length_encoding_is_read_and_unknown_compressions_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", STORED, tags=CT)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(only(tmp_path / "rle.dcm"), STORED.astype(int) - 1024)
    from pydicom.encaps import encapsulate

    for syntax, name in ((JPEGLSLossless, "JPEG-LS Lossless"), (JPEG2000Lossless, "JPEG 2000")):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([b"\xff\x4f not a codestream"])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(tmp_path / "odd.dcm")
        with pytest.raises(DecodeError, match=f"no decoder here for, or damaged, {name}"):
            only(tmp_path / "odd.dcm")


def test_truncated_files_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RNG.integers(0, 4096, (64, 64), dtype=np.uint16), tags=CT)
    content = path.read_bytes()
    for share in (0.5, 0.99):
        (tmp_path / "cut.dcm").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DecodeError, match=r"truncated|damaged|without pixel data"):
            only(tmp_path / "cut.dcm")


def test_masks_keep_stored_values(tmp_path: Path) -> None:
    labels = RNG.integers(0, 3, (6, 5)).astype(np.uint16)
    path = write(tmp_path / "a.dcm", labels, tags=CT)
    np.testing.assert_array_equal(decode.decode_masks(path, [None])[0], labels)


@pytest.mark.shared
def test_the_liver_of_the_abdomen_ct_has_the_density_of_an_enhanced_liver(shared_data: Path) -> None:
    folder = shared_data / "abdomen-ct"
    infos = {path: decode.probe(path) for path in sorted((folder / "DICOM_anon").iterdir())}
    in_order = sorted(infos, key=lambda path: infos[path].instance_number)
    masks = [decode.decode_masks(path)[0] for path in sorted((folder / "Ground").iterdir())]
    values = np.concatenate([decode.decode(path)[0][mask > 0] for path, mask in zip(in_order, masks, strict=True)])
    assert len(in_order) == 78
    assert sum(mask.any() for mask in masks) == 71
    assert 100 < values.mean() < 180
