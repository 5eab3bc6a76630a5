"""Patches: every pixel is covered, what is cut is what stands there, blank ones are found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wazuka.core.errors import ConfigError
from wazuka.data import patches


@given(height=st.integers(8, 60), width=st.integers(8, 60), patch=st.integers(4, 20), stride=st.integers(1, 20))
def test_patches_cover_every_pixel_once_the_stride_is_no_longer_than_the_patch(
    height: int, width: int, patch: int, stride: int
) -> None:
    covered = np.zeros((height, width), int)
    found = patches.corners(height, width, patch=patch, stride=stride)
    for y, x in found:
        assert y + patch <= height
        assert x + patch <= width
        covered[y : y + patch, x : x + patch] += 1
    assert len(set(found)) == len(found)
    if patch > min(height, width):
        assert found == []
    elif stride <= patch:
        assert covered.min() >= 1


def test_the_last_patch_is_aligned_to_the_far_edge() -> None:
    assert patches.corners(10, 8, patch=4, stride=4) == [(0, 0), (0, 4), (4, 0), (4, 4), (6, 0), (6, 4)]


def test_cut_gives_the_pixels_at_the_corner_and_a_whole_row_stays_whole() -> None:
    image = np.arange(20 * 30).reshape(20, 30)
    row = pd.Series({"patch_y": 3, "patch_x": 7, "patch_px": 5})
    assert np.array_equal(patches.cut(image, row), image[3:8, 7:12])
    assert patches.cut(image, {"patch_px": pd.NA}) is image
    assert patches.cut(image, {"patch_px": float("nan")}) is image
    assert patches.cut(image, {}) is image
    assert np.array_equal(patches.cut(image, {"patch_y": np.int64(0), "patch_x": 0.0, "patch_px": 4.0}), image[:4, :4])


def test_white_glass_is_blank_and_tissue_is_not() -> None:
    slide = np.full((32, 32, 3), 245, np.uint8)
    slide[:, 16:] = (200, 120, 180)
    assert [keep for *_, keep in patches.kept(slide, None, patch=16, stride=16)] == [False, True, False, True]


def test_a_patch_needs_ten_percent_of_tissue() -> None:
    slide = np.full((20, 40, 3), 245, np.uint8)
    slide[:2, :20] = (200, 120, 180)  # exactly a tenth of the left patch
    slide[:1, 20:] = (200, 120, 180)  # a twentieth of the right one
    assert [keep for *_, keep in patches.kept(slide, None, patch=20, stride=20)] == [True, False]


def test_a_gray_patch_without_contrast_is_blank_unless_its_mask_has_foreground() -> None:
    image = np.zeros((16, 32), np.uint16)
    image[:, 16:] = np.random.default_rng(0).integers(0, 4000, (16, 16))
    assert [keep for *_, keep in patches.kept(image, None, patch=16, stride=16)] == [False, True]
    mask = np.zeros((16, 32), np.uint8)
    mask[3, 3] = 1
    assert [keep for *_, keep in patches.kept(image, mask, patch=16, stride=16)] == [True, True]


def test_gray_pictures_saved_as_color_are_judged_by_contrast() -> None:
    image = np.repeat(np.random.default_rng(0).integers(0, 255, (16, 16, 1), dtype=np.uint8), 3, axis=2)
    assert [keep for *_, keep in patches.kept(image, None, patch=16, stride=16)] == [True]


def test_a_constant_image_has_only_blank_patches() -> None:
    assert [keep for *_, keep in patches.kept(np.full((16, 16), 7, np.uint8), None, patch=8, stride=8)] == [False] * 4


@pytest.mark.parametrize(
    ("patch", "stride", "text"),
    [
        (None, 4, "--stride 4 has no --patch; give both"),
        (4, None, "--patch 4 --stride 4 is too small"),
        (16, 0, "--stride 0 is too small"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(patch: int | None, stride: int | None, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        patches.check_sizes(patch, stride)
    assert text in str(error.value)


def test_the_stride_defaults_to_the_patch() -> None:
    assert patches.check_sizes(64, None) == (64, 64)
    assert patches.check_sizes(None, None) is None
