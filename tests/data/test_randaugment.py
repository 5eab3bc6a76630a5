"""RandAugment: each operation against torchvision on one image and against Pillow, then draws, groups and replay."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from wazuka.core.errors import ConfigError
from wazuka.data.randaugment import OPERATIONS, SIGNED, Draw, apply, draw, operate, randaugment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, channels: int = 3, height: int = 24, width: int = 30) -> torch.Tensor:
    """Smooth, of low contrast, 8-bit levels."""
    small = torch.rand(count, channels, 6, 6, generator=generator(9)) * 0.6 + 0.2
    large = torch.nn.functional.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    return (large * 255).round() / 255


def warp(image: torch.Tensor, *, x: float = 0, y: float = 0, shear: tuple[float, float] = (0, 0)) -> torch.Tensor:
    return functional.affine(
        image,
        angle=0.0,
        translate=[x, y],
        scale=1.0,
        shear=list(shear),
        interpolation=InterpolationMode.BILINEAR,
        fill=[0.5] * len(image),
    )


# Strengths at magnitude 9 of 30 as numbers: 0.9 * 0.3 = 0.27, 30 * 0.3 = 9 degrees, 150 / 331 * 0.3 = 0.13595 of a side,
# atan(0.3 * 0.3) = 5.1428 degrees, 8 - 1.2 = 7 bits, a threshold of 0.7.
LITERAL: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "identity": lambda image, sign: image,
    "autocontrast": lambda image, sign: functional.autocontrast(image),
    "equalize": lambda image, sign: functional.equalize(image),
    "posterize": lambda image, sign: functional.posterize(image, 7),
    "solarize": lambda image, sign: functional.solarize(image, 0.7),
    "color": lambda image, sign: functional.adjust_saturation(image, 1 + 0.27 * sign),
    "contrast": lambda image, sign: functional.adjust_contrast(image, 1 + 0.27 * sign),
    "brightness": lambda image, sign: functional.adjust_brightness(image, 1 + 0.27 * sign),
    "sharpness": lambda image, sign: functional.adjust_sharpness(image, 1 + 0.27 * sign),
    "rotate": lambda image, sign: functional.rotate(
        image, -9.0 * sign, interpolation=InterpolationMode.BILINEAR, fill=[0.5] * len(image)
    ),
    "shear-x": lambda image, sign: warp(image, shear=(sign * math.degrees(math.atan(0.09)), 0.0)),
    "shear-y": lambda image, sign: warp(image, shear=(0.0, sign * math.degrees(math.atan(0.09)))),
    "translate-x": lambda image, sign: warp(image, x=sign * 0.135952 * image.shape[-1]),
    "translate-y": lambda image, sign: warp(image, y=sign * 0.135952 * image.shape[-2]),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_on_a_group_is_torchvisions_on_each_image(operation: str, channels: int) -> None:
    batch = pictures(channels=channels)
    results = []
    for sign in (1, -1):
        drawn = Draw(torch.full((1, 6), OPERATIONS.index(operation)), torch.full((1, 6), sign > 0))
        result = apply(batch, drawn, magnitude=9)
        for image, one in zip(batch, result, strict=True):
            assert torch.allclose(one, LITERAL[operation](image, sign).clamp(0, 1), atol=2e-5)
        results.append(result)
    changes = operation != "identity" and not (operation == "color" and channels == 1)
    assert (not torch.allclose(results[0], batch, atol=1e-3)) == changes
    assert (not torch.equal(*results)) == (operation in SIGNED and changes), "the sign counts where there is one"


@pytest.mark.parametrize(
    ("operation", "pillow"),
    [
        ("autocontrast", ImageOps.autocontrast),
        ("equalize", ImageOps.equalize),
        ("solarize", lambda image: ImageOps.solarize(image, 179)),  # at or above 0.7 * 255 = 178.5
        ("color", lambda image: ImageEnhance.Color(image).enhance(1.27)),
        ("contrast", lambda image: ImageEnhance.Contrast(image).enhance(1.27)),
        ("brightness", lambda image: ImageEnhance.Brightness(image).enhance(1.27)),
        ("sharpness", lambda image: ImageEnhance.Sharpness(image).enhance(1.27)),
        ("rotate", lambda image: image.rotate(-9, Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))),
    ],
)
def test_an_operation_is_pillows_up_to_its_rounding(
    operation: str, pillow: Callable[[Image.Image], Image.Image]
) -> None:
    batch = pictures(3)
    result = operate(batch, operation, magnitude=9, positive=True).clamp(0, 1)
    for image, one in zip(batch, result, strict=True):
        levels = np.asarray((image * 255).round().to(torch.uint8).permute(1, 2, 0))
        expected = np.asarray(pillow(Image.fromarray(levels))).astype(float)
        difference = np.abs(one.permute(1, 2, 0).numpy() * 255 - expected)[4:-4, 4:-4]  # edges are filled otherwise
        assert np.median(difference) <= 1 and difference.max() <= 3


def test_operations_come_one_after_the_other_each_image_its_own() -> None:
    batch = pictures(4)
    names = [["rotate", "identity", "solarize", "rotate"], ["equalize", "color", "shear-x", "equalize"]]
    positive = torch.tensor([[True, True, False, False], [True, False, True, True]])
    drawn = Draw(torch.tensor([[OPERATIONS.index(one) for one in row] for row in names]), positive)
    result = apply(batch, drawn, magnitude=9)
    for number, image in enumerate(batch):
        for row, signs in zip(names, positive.tolist(), strict=True):
            image = LITERAL[row[number]](image, 1 if signs[number] else -1).clamp(0, 1)
        assert (result[number] - image).abs().median() < 1e-5
        assert (result[number] - image).abs().max() < 0.02, "equalize rounds to 8 bits"


def test_operations_and_signs_are_drawn_evenly() -> None:
    drawn = draw(14_000, 2, generator=generator(5))
    counts = torch.stack([torch.bincount(one, minlength=len(OPERATIONS)) for one in drawn.operation])
    assert counts.shape == (2, 14)
    assert (counts - 1000).abs().max() < 150, "five standard deviations"
    assert abs(float(drawn.positive.float().mean()) - 0.5) < 0.02


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_the_same_generator_gives_the_same_bytes_and_leaves_the_batch_alone(channels: int, magnitude: int) -> None:
    batch = pictures(20, channels)
    copy = batch.clone()
    first, again, other = (
        randaugment(batch, generator=generator(seed), ops=2, magnitude=magnitude) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(batch, copy)
    assert first.shape == batch.shape and first.dtype == batch.dtype
    assert first.isfinite().all() and first.min() >= 0 and first.max() <= 1


def test_without_operations_the_batch_comes_back_and_nothing_is_drawn() -> None:
    batch, source = pictures(), generator()
    before = source.get_state()
    assert randaugment(batch, generator=source, ops=0) is batch
    assert torch.equal(source.get_state(), before)


def test_magnitude_zero_leaves_geometry_and_color_untouched() -> None:
    batch = pictures()
    for operation in SIGNED:
        for positive in (True, False):
            assert torch.allclose(
                operate(batch, operation, magnitude=0, positive=positive).clamp(0, 1), batch, atol=1e-5
            )


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="`ops` of `randaugment` is -1; give a whole number from 0"):
        randaugment(pictures(), generator=generator(), ops=-1)
    for magnitude in (-1.0, 31.0, math.nan):
        with pytest.raises(ConfigError, match=r"`magnitude` of `randaugment` is .*; give a number from 0 to 30"):
            randaugment(pictures(), generator=generator(), magnitude=magnitude)
