"""NIfTI; oracle: nibabel's own canonical reorientation and values placed by their world coordinates."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wazuka.data import decode
from wazuka.data.decode import DecodeError

RNG = np.random.default_rng(2)


def save(path: Path, values: np.ndarray, *, axes: str = "RAS", zooms: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Path:
    """Write values whose array axes are R, A, S, stored in the order and directions of `axes`."""
    affine = np.diag([*zooms, 1.0])
    image = nibabel.Nifti1Image(values, affine)
    target = nibabel.orientations.axcodes2ornt(tuple(axes))
    moved = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), target))
    assert nibabel.aff2axcodes(moved.affine) == tuple(axes)
    nibabel.save(moved, path)
    return path


ALL_AXES = [
    "".join(signs)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for signs in itertools.product(*order)
]  # fmt: skip


@pytest.mark.parametrize("axes", ALL_AXES)
def test_every_orientation_shows_anterior_at_the_top_and_right_at_the_left(tmp_path: Path, axes: str) -> None:
    values = RNG.normal(size=(3, 4, 5)).astype(np.float32)  # right, anterior, superior
    path = save(tmp_path / "volume.nii", values, axes=axes)
    info = decode.probe(path)
    assert (info.frames, info.height, info.width) == (5, 4, 3)
    assert info.spacing_mm == pytest.approx((2.0, 1.0, 3.0))
    canonical = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    np.testing.assert_array_equal(canonical, values)
    for frame, image in enumerate(decode.decode(path, range(5))):
        np.testing.assert_array_equal(image, canonical[::-1, ::-1, frame].T)
        assert image[0, 0] == values[-1, -1, frame]  # top left: most anterior, most right


def test_image_and_mask_are_turned_alike(tmp_path: Path) -> None:
    labels = RNG.integers(0, 3, (3, 4, 5)).astype(np.uint8)
    image = save(tmp_path / "image.nii.gz", labels.astype(np.float32), axes="LPS")
    mask = save(tmp_path / "mask.nii.gz", labels, axes="LPS")
    for one, other in zip(decode.decode(image, range(5)), decode.decode_masks(mask, range(5)), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.issubdtype(other.dtype, np.integer)


@settings(max_examples=15, deadline=None)
@given(slope=st.floats(0.1, 4), intercept=st.floats(-2000, 100))
def test_slope_and_intercept_are_applied(
    tmp_path_factory: pytest.TempPathFactory, slope: float, intercept: float
) -> None:
    path = tmp_path_factory.mktemp("scaled") / "volume.nii"
    stored = RNG.integers(0, 1000, (3, 3, 3)).astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, path)
    # nibabel rescales on saving; what counts is what its own reader makes of the file
    expected = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()[::-1, ::-1, 1].T
    np.testing.assert_allclose(
        decode.decode(path, [1])[0], expected, rtol=1e-5, atol=0.51 if expected.min() <= -400 else 1e-3
    )


def test_values_that_look_like_ct_are_hounsfield_units_and_others_mr(tmp_path: Path) -> None:
    ct = RNG.integers(-1024, 2000, (4, 4, 4)).astype(np.int16)
    ct[0, 0, 0] = -1024
    for name, values, kind, dtype in (
        ("ct.nii", ct, "hounsfield", np.int16),
        ("wide.nii.gz", ct.astype(np.int32), "hounsfield", np.int16),
        ("float.nii", ct.astype(np.float64) + 0.25, "hounsfield", np.int16),
        ("mr.nii", np.abs(ct), "mr", np.float32),
        ("byte.nii", np.abs(ct).astype(np.uint8), "mr", np.float32),
        ("normalized.nii", ct.astype(np.float32) / 1000, "mr", np.float32),
        ("large.nii", ct.astype(np.float32) * 100, "mr", np.float32),
    ):
        path = save(tmp_path / name, values)
        info = decode.probe(path)
        (image,) = decode.decode(path, [0])
        assert (info.intensity, image.dtype) == (kind, dtype), name
        expected = values[::-1, ::-1, 0].T
        np.testing.assert_array_equal(image, np.rint(expected) if kind == "hounsfield" else expected.astype(np.float32))


def test_a_sidecar_or_dataset_json_decides_over_the_values(tmp_path: Path) -> None:
    values = RNG.integers(0, 200, (3, 3, 3)).astype(np.int16)  # a CT clipped to soft tissue
    (tmp_path / "imagesTr").mkdir()
    path = save(tmp_path / "imagesTr" / "case.nii.gz", values)
    assert decode.probe(path).intensity == "mr"
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}}))
    assert decode.probe(path).intensity == "hounsfield"
    (tmp_path / "imagesTr" / "case.json").write_text(json.dumps({"Modality": "MR", "MagneticFieldStrength": 3}))
    info = decode.probe(path)
    assert (info.intensity, info.modality) == ("mr", "MR")
    assert info.attributes == {"field_strength_t": "3"}


def test_nan_stays_visible(tmp_path: Path) -> None:
    values = RNG.normal(size=(3, 3, 2)).astype(np.float32)
    values[0, 0, 0] = np.nan
    assert np.isnan(decode.decode(save(tmp_path / "mr.nii", values), [0])[0]).sum() == 1
    values[1, 1, :] = -1000
    assert decode.probe(save(tmp_path / "ct.nii", values)).intensity == "hounsfield"
    images = decode.decode(tmp_path / "ct.nii", [0, 1])
    assert np.isnan(images[0]).sum() == 1
    assert images[1].dtype == np.int16


def test_trailing_dimensions_of_one_are_dropped_and_others_refused(tmp_path: Path) -> None:
    values = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values[..., None], np.eye(4)), tmp_path / "one.nii")
    assert decode.probe(tmp_path / "one.nii").frames == 5
    nibabel.save(nibabel.Nifti1Image(np.stack([values, values], -1), np.eye(4)), tmp_path / "two.nii")
    with pytest.raises(DecodeError, match=r"4D volume of shape \(3, 4, 5, 2\); give one 3D file"):
        decode.probe(tmp_path / "two.nii")


def test_colors_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    colors = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colors, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(DecodeError, match="voxels of type"):
        decode.probe(tmp_path / "rgb.nii")


def test_a_truncated_gzip_is_an_error_with_its_reason(tmp_path: Path) -> None:
    path = save(tmp_path / "volume.nii.gz", RNG.normal(size=(20, 20, 20)).astype(np.float32))
    content = path.read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match="truncated gzip file"):
        decode.decode(tmp_path / "cut.nii.gz", [0])
    plain = gzip.decompress(content)
    (tmp_path / "cut.nii").write_bytes(plain[: len(plain) // 2])
    with pytest.raises(DecodeError, match="truncated or damaged NIfTI file"):
        decode.decode(tmp_path / "cut.nii", [0])


def test_masks_must_be_whole_numbers(tmp_path: Path) -> None:
    labels = RNG.integers(0, 3, (3, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        decode.decode_masks(save(tmp_path / "mask.nii", labels), [0])[0], labels[::-1, ::-1, 0].T
    )
    with pytest.raises(DecodeError, match=r"mask value 0.5 is not a whole number"):
        decode.decode_masks(save(tmp_path / "soft.nii", np.full((3, 3, 3), 0.5, np.float32)), [0])


def test_a_declared_ct_that_leaves_16_bits_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "volume.nii", np.full((3, 3, 3), 70_000, np.int32))
    (tmp_path / "volume.json").write_text(json.dumps({"Modality": "CT"}))
    with pytest.raises(DecodeError, match="Hounsfield units from 70000 to 70000 do not fit in 16 bits"):
        decode.decode(path, [0])


@pytest.mark.shared
def test_the_abdomen_volumes_are_ct_and_match_nibabel(shared_data: Path) -> None:
    for name, slices in (("example_ct_sm", 30), ("example_ct", 112)):
        path = shared_data / "multi-organ-ct" / f"{name}.nii.gz"
        info = decode.probe(path)
        assert (info.frames, info.intensity, info.spacing_mm) == (slices, "hounsfield", pytest.approx((3.0, 3.0, 3.0)))
        expected = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
        images = decode.decode(path, range(slices))
        np.testing.assert_allclose(np.stack(images, -1), expected[::-1, ::-1].transpose(1, 0, 2), atol=0.5)
    masks = decode.decode_masks(shared_data / "multi-organ-ct" / "example_seg.nii.gz", range(30))
    assert len(np.unique(np.stack(masks))) == 42  # 41 structures and the background
