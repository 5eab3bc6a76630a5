"""Augmentation: replay, identity, geometry that only moves pixels, and a color model that keeps gray gray."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from scipy import ndimage

from wazuka.data import augment as augmenting
from wazuka.data.augment import Parameters, apply, augment, draw


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, channels: int = 3, side: int = 24) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=generator(9))


def test_none_is_the_identity_and_draws_nothing() -> None:
    batch, source = pictures(), generator()
    before = source.get_state()
    assert augment(batch, "none", generator=source) is batch
    assert torch.equal(source.get_state(), before)
    assert torch.equal(apply(batch, draw(tuple(batch.shape), "none", generator=source)), batch)


@pytest.mark.parametrize("strength", ["light", "strong"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_generator_gives_the_same_bytes_and_another_differs(strength: str, channels: int) -> None:
    batch = pictures(channels=channels)
    first, again, other = (augment(batch, strength, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == batch.shape and first.dtype == batch.dtype
    assert first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_a_draw_replays_the_augmentation_and_leaves_its_input_alone(strength: str) -> None:
    batch = pictures()
    copy = batch.clone()
    parameters = draw(tuple(batch.shape), strength, generator=generator(4))
    assert torch.equal(apply(batch, parameters), augment(batch, strength, generator=generator(4)))
    assert torch.equal(apply(batch, parameters), apply(batch, parameters))
    assert torch.equal(batch, copy)


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_every_sample_gets_its_own_parameters(strength: str) -> None:
    one = pictures(1)
    result = augment(one.expand(8, -1, -1, -1), strength, generator=generator())
    for a in range(8):
        for b in range(a):
            assert not torch.equal(result[a], result[b])
    parameters = draw((64, 3, 24, 24), strength, generator=generator())
    for field in dataclasses.fields(parameters):
        values = getattr(parameters, field.name)
        assert values is None or (len(values) == 64 and len(torch.unique(values, dim=0)) > 1)


def test_flips_and_quarter_turns_only_move_pixels_and_reach_all_eight_positions() -> None:
    one = pictures(1)
    drawn = draw((200, 3, 24, 24), "light", generator=generator())
    moves = Parameters(transpose=drawn.transpose, flip_rows=drawn.flip_rows, flip_columns=drawn.flip_columns)
    result = apply(one.expand(200, -1, -1, -1), moves)
    expected = [turned for k in range(4) for turned in (one[0].rot90(k, (1, 2)), one[0].flip(2).rot90(k, (1, 2)))]
    reached = [[torch.equal(image, other) for other in expected].index(True) for image in result]
    assert set(reached) == set(range(8))


def test_symmetries_can_be_left_out_and_rectangles_are_not_turned() -> None:
    assert draw((4, 3, 8, 12), "light", generator=generator()).transpose is None
    mirror = draw((4, 3, 8, 8), "light", generator=generator(), symmetries="mirror")
    assert mirror.transpose is None and mirror.flip_rows is None and mirror.flip_columns is not None
    assert draw((4, 3, 8, 8), "light", generator=generator(), symmetries="none").flip_columns is None
    assert augment(torch.rand(4, 3, 8, 12), "strong", generator=generator()).shape == (4, 3, 8, 12)


def test_geometry_leaves_a_constant_image_constant() -> None:
    batch = torch.full((5, 3, 32, 32), 0.4)
    drawn = draw((5, 3, 32, 32), "strong", generator=generator())
    moved = apply(batch, dataclasses.replace(drawn, brightness=None, contrast=None, noise=None))
    assert torch.allclose(moved, batch, atol=1e-5)


def test_the_affine_map_turns_scales_and_shifts_as_drawn() -> None:
    image = torch.zeros(1, 1, 65, 65)
    image[0, 0, 22, 42] = 1.0  # 10 up, 10 right of the center
    image = augmenting._blur(image, torch.tensor([1.0]))
    angle, scale = math.radians(90), 1.0
    affine = torch.tensor([[[math.cos(angle) / scale, -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]])
    moved = apply(image, Parameters(affine=affine))[0, 0].numpy()
    center = ndimage.center_of_mass(moved)
    assert center == pytest.approx((22, 22), abs=0.05) or center == pytest.approx((42, 42), abs=0.05)
    shifted = apply(image, Parameters(affine=torch.tensor([[[1.0, 0.0, 2 * 4 / 65], [0.0, 1.0, 0.0]]])))[0, 0].numpy()
    assert ndimage.center_of_mass(shifted) == pytest.approx((22, 38), abs=0.05)


def test_angles_are_true_off_squares() -> None:
    image = torch.zeros(1, 1, 31, 61)
    image[0, 0, 15, 40] = 1.0  # 10 right of the center
    image = augmenting._blur(image, torch.tensor([1.0]))
    affine = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    center = ndimage.center_of_mass(apply(image, Parameters(affine=affine))[0, 0].numpy())
    assert abs(center[0] - 15) == pytest.approx(10, abs=0.05) and center[1] == pytest.approx(30, abs=0.05)


def test_blur_equals_scipy_for_each_image_by_itself() -> None:
    batch = pictures(3, 1, 40)
    sigma = torch.tensor([0.0, 0.6, 1.0])
    result = apply(batch, Parameters(blur=sigma))
    assert torch.allclose(result[0], batch[0])
    for one in (1, 2):
        expected = ndimage.gaussian_filter(
            batch[one, 0].double().numpy(), float(sigma[one]), mode="mirror", radius=augmenting.BLUR_RADIUS
        )
        assert torch.allclose(result[one, 0].double(), torch.from_numpy(expected), atol=1e-5)


def test_gray_images_stay_gray() -> None:
    gray = pictures(6, 1).expand(-1, 3, -1, -1)
    drawn = dataclasses.replace(draw(tuple(gray.shape), "strong", generator=generator()), noise=None)
    result = apply(gray, drawn)
    assert torch.allclose(result[:, 0], result[:, 1], atol=2e-5) and torch.allclose(
        result[:, 0], result[:, 2], atol=2e-5
    )
    assert not torch.allclose(result, gray, atol=0.01)


def test_hue_turns_keep_luma_and_a_full_turn_is_the_identity() -> None:
    batch = 0.4 + 0.2 * pictures()
    weights = torch.tensor(augmenting.LUMA)[None, :, None, None]
    turned = apply(batch, Parameters(hue=torch.full((6,), 0.3)))
    assert torch.allclose((turned * weights).sum(1), (batch * weights).sum(1), atol=1e-5)
    assert not torch.allclose(turned, batch, atol=0.01)
    assert torch.allclose(apply(batch, Parameters(hue=torch.full((6,), 2 * math.pi))), batch, atol=1e-5)


def test_contrast_keeps_the_mean_and_brightness_scales_it() -> None:
    batch = 0.4 + 0.2 * pictures(channels=1)
    contrasted = apply(batch, Parameters(contrast=torch.full((6,), 1.2)))
    assert torch.allclose(contrasted.mean((1, 2, 3)), batch.mean((1, 2, 3)), atol=1e-5)
    assert torch.allclose(contrasted.std((1, 2, 3)), 1.2 * batch.std((1, 2, 3)), atol=1e-5)
    assert torch.allclose(apply(batch, Parameters(brightness=torch.full((6,), 1.1))), batch * 1.1, atol=1e-6)


@pytest.mark.gpu
def test_a_draw_gives_the_same_images_on_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    batch = pictures()
    moved = augment(batch.cuda(), "strong", generator=generator(3)).cpu()
    assert torch.allclose(moved, augment(batch, "strong", generator=generator(3)), atol=1e-4)
