"""Augmentation of a discriminator's images against loops over pixels, and as operations on pyramids."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from wazuka.training.diff_augment import AdaptiveChance, Draws, apply, draw
from wazuka.training.pyramid_images import pyramid_of


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 3, channels: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=generator(9)) * 2 - 1


def neutral(count: int, *, color: bool = True) -> Draws:
    zeros, ones = torch.zeros(count), torch.ones(count)
    return Draws(zeros, ones if color else None, ones, torch.zeros(count, 2), torch.full((count, 2), 0.5), zeros)


def test_neutral_draws_and_a_chance_of_zero_change_nothing() -> None:
    pyramid = pyramid_of(images())
    never = draw(3, policy="strong", chance=0.0, size=32, color=True, generator=generator())
    for draws in (neutral(3), never):
        for before, after in zip(pyramid, apply(pyramid, draws), strict=True):
            assert torch.allclose(before, after, atol=1e-6)


def test_color_equals_the_formulas_written_out() -> None:
    x = images(2)
    draws = dataclasses.replace(
        neutral(2),
        brightness=torch.tensor([0.25, -0.5]),
        saturation=torch.tensor([0.0, 1.7]),
        contrast=torch.tensor([0.5, 1.5]),
    )
    result = apply([x], draws)[0]
    for number in range(2):
        one = x[number] + draws.brightness[number]
        gray = one.mean(0, keepdim=True)
        assert draws.saturation is not None
        one = (one - gray) * draws.saturation[number] + gray
        one = (one - one.mean()) * draws.contrast[number] + one.mean()
        assert torch.allclose(result[number], one, atol=1e-6)
    assert torch.allclose(result[0].std(0), torch.zeros(32, 32), atol=1e-6)  # no saturation: gray


@pytest.mark.parametrize(("right", "down"), [(3, -2), (-4, 4), (0, 1)])
def test_translation_moves_whole_pixels_and_fills_with_zero(right: int, down: int) -> None:
    x = images(1)
    moved = apply([x], dataclasses.replace(neutral(1), shift=torch.tensor([[right / 32, down / 32]])))[0]
    for y in range(32):
        for column in range(32):
            from_y, from_x = y - down, column - right
            inside = 0 <= from_y < 32 and 0 <= from_x < 32
            expected = x[0, :, from_y, from_x] if inside else torch.zeros(3)
            assert torch.allclose(moved[0, :, y, column], expected, atol=1e-6)


def test_cutout_removes_the_pixels_whose_middle_lies_in_the_square() -> None:
    x = images(1) + 5
    center, cut = torch.tensor([[0.25, 0.9]]), torch.tensor([0.5])
    result = apply([x], dataclasses.replace(neutral(1), center=center, cut=cut))[0]
    for y in range(32):
        for column in range(32):
            hole = abs((column + 0.5) / 32 - 0.25) < 0.25 and abs((y + 0.5) / 32 - 0.9) < 0.25
            expected = torch.zeros(3) if hole else x[0, :, y, column]
            assert torch.allclose(result[0, :, y, column], expected, atol=1e-6)


def test_a_changed_pyramid_is_the_pyramid_of_the_changed_image() -> None:
    """On whole pixels of the coarsest scale (4 pixels a side)."""
    x = images(2)
    draws = Draws(
        brightness=torch.tensor([0.2, -0.3]),
        saturation=torch.tensor([1.5, 0.3]),
        contrast=torch.tensor([0.6, 1.4]),
        shift=torch.tensor([[0.25, -0.5], [0.0, 0.25]]),
        center=torch.tensor([[0.5, 0.25], [0.75, 0.5]]),
        cut=torch.tensor([0.5, 0.0]),
    )
    changed = pyramid_of(apply([x], draws)[0])
    for ours, expected in zip(apply(pyramid_of(x), draws), changed, strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)


def test_draws_keep_their_ranges_and_come_with_the_chance() -> None:
    drawn = draw(4000, policy="strong", chance=torch.tensor(0.25), size=64, color=True, generator=generator())
    assert drawn.saturation is not None
    for values, still, low, high in (
        (drawn.brightness, 0.0, -0.5, 0.5),
        (drawn.saturation, 1.0, 0.0, 2.0),
        (drawn.contrast, 1.0, 0.5, 1.5),
        (drawn.cut, 0.0, 0.5, 0.5),
    ):
        changed = values[values != still]
        assert abs(len(changed) / 4000 - 0.25) < 0.03
        assert low <= changed.min() and changed.max() <= high
    pixels = drawn.shift * 64
    assert torch.equal(pixels, pixels.round()) and set(pixels.flatten().int().tolist()) == set(range(-8, 9))
    light = draw(50, policy="light", chance=1.0, size=64, color=False, generator=generator())
    assert light.saturation is None and not light.cut.any() and (light.brightness != 0).all()


def test_the_same_generator_draws_the_same() -> None:
    first, second, other = (
        apply([images()], draw(3, policy="strong", chance=1.0, size=32, color=True, generator=generator(seed)))[0]
        for seed in (4, 4, 5)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_augmentation_can_be_differentiated_twice() -> None:
    x = images(1, side=4).double().requires_grad_(True)
    drawn = draw(1, policy="strong", chance=1.0, size=4, color=True, generator=generator(1))
    drawn = Draws(**{name: None if value is None else value.double() for name, value in vars(drawn).items()})
    assert torch.autograd.gradcheck(lambda one: apply([one], drawn)[0], x)
    assert torch.autograd.gradgradcheck(lambda one: apply([one], drawn)[0].square(), x)


def test_the_chance_rises_where_real_images_are_recognized_and_falls_where_not() -> None:
    adaptive = AdaptiveChance(batch=10, steps=400, device="cpu")
    assert adaptive.change == pytest.approx(4 * 10 / 1000)  # a quarter of 4,000 images from 0 to 1
    recognized, unsure = torch.full((10,), 2.0), torch.tensor([1.0, -1.0] * 5)
    for _ in range(8):
        adaptive.update(recognized, 0.0)
    assert float(adaptive.chance) == pytest.approx(2 * adaptive.change)
    for _ in range(4):
        adaptive.update(unsure, 0.0)
    assert float(adaptive.chance) == pytest.approx(adaptive.change)
    for _ in range(4):
        adaptive.update(recognized, torch.tensor(3.0))  # below the middle: recognized as fake
    assert float(adaptive.chance) == 0.0
    for _ in range(400):
        adaptive.update(recognized, 0.0)
    assert float(adaptive.chance) == 1.0
    assert AdaptiveChance(batch=10, steps=10**7, device="cpu").change == pytest.approx(4 * 10 / 500_000)


def test_the_adaptive_chance_goes_on_from_a_checkpoint() -> None:
    first, second = (AdaptiveChance(batch=4, steps=100, device="cpu") for _ in range(2))
    for _ in range(6):
        first.update(torch.ones(4), 0.0)
    second.restore(first.to_plain())
    for one in (first, second):
        for _ in range(2):
            one.update(torch.ones(4), 0.0)
    assert float(first.chance) == float(second.chance) == pytest.approx(2 * first.change)
