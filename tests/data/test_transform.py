"""The image transform against Pillow step by step, its inverse for masks, and the reasons to refuse an image."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wazuka.core.config import build
from wazuka.core.errors import ConfigError, DataError
from wazuka.core.windows import WINDOWS
from wazuka.data.transform import ImageTransform, TrainedOn, in_plane


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_crop_and_resize_equal_pillow_step_by_step() -> None:
    image = picture(50, 61)
    expected = Image.fromarray(image).crop((14, 9, 46, 41)).resize((96, 96), Image.Resampling.BILINEAR)
    assert np.array_equal(ImageTransform(crop=32, size=96).apply(image), np.asarray(expected))


def test_spacing_is_resampled_before_the_crop() -> None:
    image = picture(40, 60, 1)
    resampled = Image.fromarray(image[:, :, 0]).resize((30, 40), Image.Resampling.BILINEAR)  # 0.5 mm wide -> 1 mm
    expected = resampled.crop((5, 10, 25, 30)).resize((64, 64), Image.Resampling.BILINEAR)
    result = ImageTransform(crop=20, size=64, spacing_mm=1.0).apply(image, (1.0, 0.5, 3.0))
    assert np.array_equal(result[:, :, 0], np.asarray(expected))


def test_without_a_crop_nothing_is_cut_away_and_the_padding_is_the_darkest_of_the_border() -> None:
    image = picture(20, 32)
    image[:, :, 1] = np.maximum(image[:, :, 1], 40)
    result = ImageTransform(size=32).apply(image)
    assert np.array_equal(result[6:26], image)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    for strip in (result[:6], result[26:]):
        assert (strip == border.min(axis=0)).all()


def test_hounsfield_units_keep_their_dtype_and_a_constant_its_value() -> None:
    image = np.full((30, 44), -731, np.int16)
    result = ImageTransform(size=17).apply(image)
    assert result.dtype == np.int16 and result.shape == (17, 17, 1)
    assert (result == -731).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    assert np.ptp(ImageTransform(size=16).apply(stripes)[2:-2, 2:-2].astype(int)) <= 2


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    size=st.integers(70, 130),
    crop=st.none() | st.integers(4, 8),
    seed=st.integers(0, 99),
)
def test_a_mask_that_was_enlarged_comes_back_unchanged(
    height: int, width: int, size: int, crop: int | None, seed: int
) -> None:
    mask = np.random.default_rng(seed).integers(0, 5, (height, width), dtype=np.uint8)
    transform = ImageTransform(crop=crop, size=size)
    back = transform.unapply_mask(transform.apply_mask(mask), height, width)
    if crop is None:
        assert np.array_equal(back, mask)
    else:
        top, left = (height - crop) // 2, (width - crop) // 2
        inner = np.zeros_like(mask)
        inner[top : top + crop, left : left + crop] = mask[top : top + crop, left : left + crop]
        assert np.array_equal(back, inner)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(40, 160),
    width=st.integers(40, 160),
    size=st.integers(24, 200),
    row=st.floats(0.5, 2.0),
    column=st.floats(0.5, 2.0),
    target=st.none() | st.floats(0.5, 2.0),
)
def test_a_disk_comes_back_where_it_was_up_to_its_outline(
    height: int, width: int, size: int, row: float, column: float, target: float | None
) -> None:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height * 0.45, x - width * 0.55)
    radius = min(height, width) * 0.3
    transform = ImageTransform(size=size, spacing_mm=target)
    back = transform.unapply_mask(
        transform.apply_mask((distance < radius).astype(np.uint8), (row, column, None)),
        height,
        width,
        (row, column, None),
    )
    # Nearest neighbor moves an outline by at most half a pixel of each grid on the way.
    coarsest = max(height, width) * 4 / size + 2 * (target or 0) / min(row, column) + 2
    assert (back[distance < radius - coarsest] == 1).all()
    assert (back[distance > radius + coarsest] == 0).all()


def test_image_and_mask_stay_aligned() -> None:
    image = np.zeros((48, 80), np.uint8)
    image[10:30, 20:44] = 255
    transform = ImageTransform(size=160, spacing_mm=0.5)
    spacing = (1.0, 0.8, None)
    moved = transform.apply(image, spacing)[:, :, 0] > 127
    mask = transform.apply_mask((image > 0).astype(np.uint8), spacing) > 0
    assert (moved & mask).sum() / (moved | mask).sum() > 0.97


@pytest.mark.parametrize(
    ("transform", "height", "width", "spacing", "reason"),
    [
        (ImageTransform(crop=64), 80, 63, None, "is 80 x 63 pixels, smaller than the crop of 64"),
        (
            ImageTransform(crop=64, spacing_mm=2.0),
            100,
            100,
            (1.0, 1.0, None),
            "is 50 x 50 pixels at 2 mm, smaller than the crop of 64",
        ),
        (ImageTransform(spacing_mm=1.5), 80, 80, None, "has no pixel spacing, but the transform resamples to 1.5 mm"),
        (ImageTransform(spacing_mm=1.5), 80, 80, (None, None, 3.0), "has no pixel spacing"),
        (ImageTransform(), 80, 80, (1.3, 1.3, None), "has a pixel spacing of 1.3 mm, more than 20% outside the 0.8 to"),
        (ImageTransform(), 80, 80, (0.6, 1.0, None), "has a pixel spacing of 0.6 mm"),
        (ImageTransform(), 201, 80, None, "is 201 pixels high, beyond 2 times the 60 to 100 of the training images"),
        (ImageTransform(), 80, 29, None, "is 29 pixels wide, beyond 2 times the 60 to 100"),
        (ImageTransform(spacing_mm=1.0), 80, 80, (3.0, 1.0, None), "is 240 pixels high"),
        (ImageTransform(), 200, 30, (1.19, 0.7, None), None),
        (ImageTransform(spacing_mm=1.0), 80, 40, (1.0, 2.0, None), None),
        (ImageTransform(crop=64), 4000, 3000, None, None),
    ],
)
def test_what_does_not_fit_the_training_images_is_refused_with_its_reason(
    transform: ImageTransform, height: int, width: int, spacing: tuple[float | None, ...] | None, reason: str | None
) -> None:
    trained = TrainedOn(
        min_height=60, max_height=100, min_width=60, max_width=100, min_spacing_mm=0.8, max_spacing_mm=1.0
    )
    found = transform.misfit(height, width, spacing, trained_on=trained)
    if reason is None:
        assert found is None
    else:
        assert found is not None and found.startswith(reason)


def test_the_training_rows_themselves_always_fit() -> None:
    rows = pd.DataFrame(
        {
            "height": pd.array([30, 90], dtype="Int64"),
            "width": pd.array([50, 70], dtype="Int64"),
            "spacing_mm": [[1.0, 2.0, 3.0], None],
        }
    )
    for transform in (ImageTransform(), ImageTransform(crop=20)):
        trained = transform.trained_on(rows)
        assert trained == TrainedOn(
            min_height=30, max_height=90, min_width=50, max_width=70, min_spacing_mm=1.0, max_spacing_mm=2.0
        )
        for height, width, spacing in rows.itertuples(index=False):
            assert transform.misfit(height, width, spacing, trained_on=trained) is None
    assert ImageTransform(spacing_mm=0.5).trained_on(rows.iloc[:1]).max_width == 200


def test_an_image_smaller_than_the_crop_is_an_error_with_both_sizes() -> None:
    with pytest.raises(DataError, match="The image is 20 x 64 pixels, smaller than the crop of 32"):
        ImageTransform(crop=32).apply(picture(20, 64))
    with pytest.raises(DataError, match="The image has no pixel spacing"):
        ImageTransform(spacing_mm=1.0).apply(picture(20, 64))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"size": 4}, "`size` is 4; give pixels from 8 to 4096"),
        ({"crop": 0}, "`crop` is 0"),
        ({"spacing_mm": -1.0}, "`spacing_mm` is -1.0; give a positive number"),
        ({"window": "sof-tissue"}, "did you mean `soft-tissue`"),
        ({"stain": "macenco"}, "stain"),
        ({"sise": 64}, "Did you mean `size`"),
        ({"size": 64.5}, "size"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(ImageTransform, values, where="image")


def test_settings_that_do_not_suit_the_intensity_are_refused() -> None:
    with pytest.raises(ConfigError, match="`stain: macenko` needs RGB images, but these are hounsfield"):
        ImageTransform(stain="macenko").check("hounsfield")
    with pytest.raises(ConfigError, match="`window: lung` needs CT, but these images are rgb8"):
        ImageTransform(window="lung").check("rgb8")
    for window in WINDOWS:
        ImageTransform(window=window).check("hounsfield")


def test_unknown_spacing_is_recognized_in_every_form_a_manifest_has() -> None:
    for unknown in (None, float("nan"), [None, None, 2.0], np.array([np.nan, 1.0, 1.0]), [0.0, 1.0, 1.0], []):
        assert in_plane(unknown) is None
    assert in_plane(np.array([0.5, 0.75, np.nan])) == (0.5, 0.75)
