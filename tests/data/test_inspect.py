"""Measurements of images against literal definitions and pictures whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from tests.import_sources import picture, truncate, write_png
from wazuka.core.hashing import hash_pixels
from wazuka.data import inspect
from wazuka.data.inspect import Job, check_file


def _job(path: Path, *, mask: Path | None = None, patch: tuple[int, int] | None = None) -> Job:
    return Job(
        number=0,
        path=str(path),
        mask=None if mask is None else str(mask),
        frames=None,
        root=str(path.parent.resolve()),
        patch=patch,
    )


def test_the_statistics_are_those_of_the_native_values() -> None:
    image = np.array([[-1000.0, 40.0], [60.0, np.nan]], np.float32)
    row = inspect.measure(image)
    finite = np.array([-1000.0, 40.0, 60.0])
    assert (row["minimum"], row["maximum"]) == (-1000, 60)
    assert row["mean"] == pytest.approx(finite.mean())
    assert row["std"] == pytest.approx(finite.std())
    assert (row["nan_count"], row["inf_count"], row["constant"]) == (1, 0, False)
    assert row["sha256"] == hash_pixels(image)


def test_a_constant_image_is_called_constant_and_hashes() -> None:
    row = inspect.measure(np.full((20, 20), 7, np.uint8))
    assert row["constant"]
    assert row["thumbnail"] == bytes(256)
    assert row["text_score"] == 0
    assert len(row["phash"]) == 16


def test_the_hash_is_the_sign_of_the_low_cosine_coefficients_above_their_median() -> None:
    grey = picture(3, side=32, color=False).astype(np.float32)
    k, x = np.meshgrid(np.arange(8), np.arange(32), indexing="ij")
    basis = np.cos(np.pi * k * (2 * x + 1) / 64)
    basis *= np.where(np.arange(8) == 0, np.sqrt(1 / 32), np.sqrt(2 / 32))[:, None]
    lowest = (basis @ grey.astype(np.float64) @ basis.T).ravel()
    expected = 0
    for value in lowest:
        expected = 2 * expected + int(value > np.median(lowest))
    assert inspect.phash(grey) == f"{expected:016x}"


def _distance(one: str, two: str) -> int:
    return (int(one, 16) ^ int(two, 16)).bit_count()


@given(seed=st.integers(0, 50), scale=st.floats(0.2, 5.0), shift=st.floats(-50, 500))
def test_hash_and_thumbnail_ignore_brightness_and_contrast(seed: int, scale: float, shift: float) -> None:
    image = picture(seed, side=24, color=False).astype(np.float32)
    one, two = inspect.measure(image), inspect.measure(image * np.float32(scale) + np.float32(shift))
    assert _distance(one["phash"], two["phash"]) <= 2
    thumbs = [np.frombuffer(row["thumbnail"], np.uint8).astype(int) for row in (one, two)]
    assert np.abs(thumbs[0] - thumbs[1]).max() <= 1


def test_a_picture_saved_as_jpeg_has_nearly_the_same_hash_and_another_one_has_not(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(picture(1, side=8)).resize((64, 64), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=80)
    copy = np.asarray(Image.open(tmp_path / "a.jpg"))
    own = inspect.measure(smooth)["phash"]
    assert _distance(own, inspect.measure(copy)["phash"]) <= 4
    other = np.asarray(Image.fromarray(picture(2, side=8)).resize((64, 64), Image.Resampling.BICUBIC))
    assert _distance(own, inspect.measure(other)["phash"]) >= 16


def test_the_thumbnail_of_a_16_pixel_picture_is_the_picture_scaled_to_the_full_range() -> None:
    image = np.arange(256, dtype=np.uint16).reshape(16, 16) * 10 + 1000
    thumb = np.frombuffer(inspect.measure(image)["thumbnail"], np.uint8).reshape(16, 16)
    assert np.array_equal(thumb, np.arange(256).reshape(16, 16))


def _with_text(image: np.ndarray, text: str) -> np.ndarray:
    drawn = Image.fromarray(image)
    ImageDraw.Draw(drawn).text((6, 6), text, fill=255, font=ImageFont.load_default(16))
    return np.asarray(drawn)


def test_text_burned_into_a_scan_is_seen_and_the_scan_alone_is_not() -> None:
    rows, columns = np.mgrid[:256, :256]
    body = (((rows - 128) / 100) ** 2 + ((columns - 128) / 80) ** 2 < 1) * 110
    scan = (body + np.random.default_rng(0).normal(20, 8, body.shape)).clip(0, 170).astype(np.uint8)
    scan[120:126, 120:126] = 255  # a calcification is bright too
    plain = inspect.measure(scan)["text_score"]
    named = inspect.measure(_with_text(scan, "DOE JOHN 1970-01-01"))["text_score"]
    assert plain == 0
    assert 0.001 < named < 0.02


def test_noise_and_a_white_background_are_no_text() -> None:
    rng = np.random.default_rng(0)
    assert inspect.measure(rng.integers(0, 256, (256, 256), dtype=np.uint8))["text_score"] == 0
    slide = np.full((128, 128, 3), 245, np.uint8)
    slide[30:90, 30:90] = rng.integers(60, 200, (60, 60, 3))
    assert inspect.measure(slide)["text_score"] == 0


def test_a_file_with_its_mask_becomes_one_row(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", picture(1))
    mask = np.zeros((16, 16), np.uint8)
    mask[2:4] = 7
    write_png(tmp_path / "m.png", mask)
    answer = check_file(_job(path, mask=tmp_path / "m.png"))
    (row,) = answer.rows
    assert answer.error is None
    assert (row["height"], row["width"], row["reason"], row["frame"]) == (16, 16, None, None)
    assert row["mask_values"] == [0, 7]
    assert row["file_bytes"] == path.stat().st_size
    assert row["sha256"] == hash_pixels(picture(1))


def test_a_damaged_file_and_a_missing_one_are_answered_with_the_reason(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", picture(1))
    truncate(path)
    assert check_file(_job(path)).error
    assert check_file(_job(path)).rows[0]["decode_error"] == check_file(_job(path)).error
    assert check_file(_job(tmp_path / "none.png")).error == "file does not exist"


def test_a_reader_that_fails_in_its_own_way_is_answered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_png(tmp_path / "a.png", picture(1))

    def broken(path: Path) -> None:
        raise ZeroDivisionError("in the header")

    monkeypatch.setattr("wazuka.data.decode.probe", broken)
    assert check_file(_job(path)).error == "ZeroDivisionError: in the header"


def test_a_mask_that_does_not_fit_or_cannot_be_read_is_the_reason(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", picture(1))
    write_png(tmp_path / "small.png", np.zeros((8, 16), np.uint8))
    (row,) = check_file(_job(path, mask=tmp_path / "small.png")).rows
    assert row["reason"] == "mask is 8 x 16 pixels but the image 16 x 16 pixels"
    (row,) = check_file(_job(path, mask=tmp_path / "none.png")).rows
    assert row["reason"] == "mask: file none.png does not exist"
    assert row["mask_error"] == "file none.png does not exist"
    assert row["sha256"] == hash_pixels(picture(1))


def test_a_link_out_of_the_source_is_not_followed(tmp_path: Path) -> None:
    secret = write_png(tmp_path / "elsewhere" / "a.png", picture(1))
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").symlink_to(secret)
    assert check_file(_job(source / "a.png")).error == "a link that leaves the source folder"


def test_patches_are_measured_each_with_its_own_pixels_and_mask(tmp_path: Path) -> None:
    image = picture(1, side=32)
    mask = np.zeros((32, 32), np.uint8)
    mask[20, 20] = 3
    path, mask_path = write_png(tmp_path / "a.png", image), write_png(tmp_path / "m.png", mask)
    rows = check_file(_job(path, mask=mask_path, patch=(16, 16))).rows
    assert [(row["patch_y"], row["patch_x"]) for row in rows] == [(0, 0), (0, 16), (16, 0), (16, 16)]
    assert rows[1]["sha256"] == hash_pixels(image[:16, 16:])
    assert [row["mask_values"] for row in rows] == [[0], [0], [0], [0, 3]]
    assert {row["height"] for row in rows} == {16}


def test_an_image_smaller_than_the_patch_and_a_blank_one_stay_as_rows_with_a_reason(tmp_path: Path) -> None:
    small = check_file(_job(write_png(tmp_path / "a.png", picture(1)), patch=(32, 32)))
    assert small.rows[0]["reason"] == "16 x 16 pixels, smaller than a patch of 32 x 32"
    blank = check_file(_job(write_png(tmp_path / "b.png", np.full((16, 16, 3), 240, np.uint8)), patch=(8, 8)))
    assert blank.rows[0]["reason"] == "all 4 patches are blank"
    assert blank.blank_patches == 4
