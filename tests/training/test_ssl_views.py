"""Random views and photometric preprocessing: each operation against a literal one, and what must not change."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torchvision.transforms.v2 import functional as vision

from wazuka.training import ssl_views
from wazuka.training.ssl_views import VIEWS, Draws, apply, blur, draw, two_views


def images(count: int = 4, channels: int = 3, height: int = 20, width: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def neutral(draws: Draws, **pixels: torch.Tensor | None) -> Draws:
    """A draw with some of the pixels' operations only, no blur and no solarization."""
    none = {one.name: None for one in dataclasses.fields(draws.pixels)}
    off = torch.zeros_like(draws.sigma)
    return Draws(type(draws.pixels)(**none | pixels), off, off.bool())


@pytest.mark.parametrize("strength", ["light", "strong"])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_stay_in_range_and_the_same_seed_gives_the_same_views(
    strength: ssl_views.Strength, channels: int
) -> None:
    batch = images(6, channels)
    kept = batch.clone()
    found = [two_views(batch, strength, generator=generator(seed)) for seed in (0, 0, 1)]
    for view in found[0]:
        assert view.shape == batch.shape and view.dtype == batch.dtype
        assert float(view.min()) >= 0 and float(view.max()) <= 1
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not torch.equal(found[0][0], found[0][1]) and not torch.equal(found[0][0], found[2][0])
    assert torch.equal(batch, kept)


def test_each_image_has_its_own_draw() -> None:
    same = images(1).expand(8, -1, -1, -1)
    for view in two_views(same, "strong", generator=generator()):
        assert len({one.numpy().tobytes() for one in view}) == 8


def test_what_happens_to_an_image_does_not_depend_on_its_neighbors() -> None:
    batch = images(5)
    draws = draw(batch.shape, VIEWS["strong"][0], generator=generator())
    other = torch.cat([batch[:1], images(4, seed=9)])
    torch.testing.assert_close(apply(batch, draws)[0], apply(other, draws)[0])


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_gray_images_have_no_color_operation_and_gray_color_images_stay_gray(strength: ssl_views.Strength) -> None:
    for view in VIEWS[strength]:
        assert draw((4, 1, 16, 16), view, generator=generator()).pixels.saturation is None
        assert draw((4, 1, 16, 16), view, generator=generator()).pixels.hue is None
    gray = images(4, 1).expand(-1, 3, -1, -1)
    for found in two_views(gray, strength, generator=generator()):
        torch.testing.assert_close(found[:, 0], found[:, 1], atol=1e-5, rtol=0)


def test_the_chances_are_those_of_the_table() -> None:
    n = 4000
    for first, second in VIEWS.values():
        for view in (first, second):
            draws = draw((n, 3, 16, 16), view, generator=generator())
            share = float((draws.sigma > 0).float().mean())
            assert share == pytest.approx(view.blur, abs=0.03)
            assert float(draws.solarized.float().mean()) == pytest.approx(view.solarize, abs=0.03)
            assert draws.pixels.saturation is not None
            assert float((draws.pixels.saturation == 0).float().mean()) == pytest.approx(0.2, abs=0.03)
            assert float(draws.sigma.max()) <= 2.0
            if view.jitter:
                assert draws.pixels.hue is not None
                assert float((draws.pixels.hue != 0).float().mean()) == pytest.approx(view.jitter, abs=0.03)


def test_light_views_have_no_crop_and_the_second_no_flip() -> None:
    first, second = (draw((4, 3, 16, 16), view, generator=generator()).pixels for view in VIEWS["light"])
    assert first.affine is None and second.affine is None
    assert first.flip_columns is not None and second.flip_columns is None
    none = draw((4, 3, 16, 16), VIEWS["light"][0], generator=generator(), symmetries="none").pixels
    assert none.flip_columns is None and none.transpose is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_crops_lie_in_the_image_and_are_not_too_small(seed: int, smallest: float) -> None:
    draws = draw((16, 3, 16, 16), VIEWS["strong"][0], generator=generator(seed), smallest_crop=smallest)
    assert draws.pixels.affine is not None
    width, height = draws.pixels.affine[:, 0, 0], draws.pixels.affine[:, 1, 1]
    x, y = draws.pixels.affine[:, 0, 2], draws.pixels.affine[:, 1, 2]
    assert bool((x.abs() <= 1 - width + 1e-6).all()) and bool((y.abs() <= 1 - height + 1e-6).all())
    assert float((width * height).min()) >= 0.75 * smallest - 1e-6, "a full side may cut a long box"


def test_a_crop_of_whole_pixels_is_what_torchvision_cuts_out() -> None:
    batch = images(1, height=16, width=16)
    draws = draw(batch.shape, VIEWS["strong"][0], generator=generator())
    box = torch.tensor([[[0.5, 0.0, -0.25], [0.0, 0.5, 0.25]]])  # columns 2 to 9, rows 6 to 13
    found = apply(batch, neutral(draws, affine=box))
    expected = vision.resize(batch[:, :, 6:14, 2:10], [16, 16], antialias=False)
    inner = (slice(None), slice(None), slice(1, 15), slice(1, 15))  # at the edge theirs repeats, ours goes on
    torch.testing.assert_close(found[inner], expected[inner], atol=1e-5, rtol=0)


def test_solarization_is_torchvision_s() -> None:
    batch = images(2)
    draws = neutral(draw(batch.shape, VIEWS["light"][0], generator=generator()))
    found = apply(batch, dataclasses.replace(draws, solarized=torch.tensor([True, False])))
    torch.testing.assert_close(found[0], vision.solarize(batch[0], 0.5))
    assert torch.equal(found[1], batch[1]), "no operation drawn, nothing changed"


@pytest.mark.parametrize("shape", [(20, 20), (17, 24), (2, 5)])
def test_the_blur_is_that_of_scipy_for_each_image_and_zero_is_none(shape: tuple[int, int]) -> None:
    batch = images(3, 3, *shape).double()
    sigma = torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
    found = blur(batch, sigma, reach=0.15)
    assert torch.equal(found[0], batch[0])
    for index in (1, 2):
        expected = batch[index].numpy()
        for axis, size in ((1, shape[0]), (2, shape[1])):
            radius = min(max(1, round(0.15 * size)), size - 1)
            expected = ndimage.gaussian_filter1d(expected, float(sigma[index]), axis=axis, mode="mirror", radius=radius)
        np.testing.assert_allclose(found[index].numpy(), expected, atol=1e-9)


def test_a_fundus_is_cut_out_of_its_black_border_undistorted() -> None:
    side, at = 64, torch.arange(64) + 0.5
    disk = ((at[:, None] - 24) ** 2 + (at[None, :] - 36) ** 2 < 14**2).float()  # rows 10 to 37, columns 22 to 49
    batch = torch.stack([disk, torch.zeros(side, side), torch.ones(side, side)])[:, None] * 0.6
    found = ssl_views.border_crop(batch)
    full = ((at[:, None] - 32) ** 2 + (at[None, :] - 32) ** 2 < 32**2).float() * 0.6
    assert float((found[0, 0] - full).abs().mean()) < 0.02
    assert torch.equal(found[1:], batch[1:]), "an image without a border, or with nothing else, stays"


def test_speckles_in_the_border_are_no_picture() -> None:
    batch = torch.zeros(1, 3, 100, 100)
    batch[:, :, 30:70, 30:70] = 0.5
    expected = ssl_views.border_crop(batch)
    batch[:, :, 3, 5] = 1.0
    torch.testing.assert_close(ssl_views.border_crop(batch), expected)


def test_even_illumination_takes_a_slow_gradient_out_and_keeps_the_mean() -> None:
    texture = 0.4 + 0.1 * (torch.arange(64) % 2).float()
    slope = torch.linspace(0.6, 1.4, 64)
    batch = (texture[None, :] * slope[:, None]).expand(1, 3, 64, 64)
    found = ssl_views.even_illumination(batch)
    rows, before = found[0, 0].mean(dim=1), batch[0, 0].mean(dim=1)
    assert float(rows.std()) < 0.35 * float(before.std())
    assert float(found.mean()) == pytest.approx(float(batch.mean()), rel=0.05)
    flat = torch.full((2, 1, 16, 16), 0.3)
    torch.testing.assert_close(ssl_views.even_illumination(flat), flat)
    assert not ssl_views.even_illumination(torch.zeros(1, 3, 8, 8)).any()


def test_gray_world_undoes_a_colored_light() -> None:
    batch = images(3) * 0.4
    batch = batch / batch.mean(dim=(2, 3), keepdim=True) * 0.2  # a gray world
    light = torch.tensor([1.2, 1.0, 0.8])[None, :, None, None]
    torch.testing.assert_close(ssl_views.gray_world(batch * light), batch, atol=1e-5, rtol=1e-5)
    gray = images(2, 1)
    torch.testing.assert_close(ssl_views.gray_world(gray), gray)
    assert not ssl_views.gray_world(torch.zeros(1, 3, 4, 4)).isnan().any()
