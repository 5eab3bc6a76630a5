"""HED jitter against a pixel-by-pixel reference of the published formula, and what it must leave alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wazuka.core.errors import ConfigError
from wazuka.data.stain_jitter import EPSILON, HED, apply, draw, stain_jitter


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4, side: int = 10) -> torch.Tensor:
    """Every gray level occurs, black and white too."""
    levels = torch.randint(0, 256, (count, 3, side, side), generator=generator(7))
    levels[0, :, 0, 0], levels[0, :, 0, 1] = 0, 255
    return levels / 255


def reference(pixel: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """One RGB pixel by the formula of Tellez et al. (2018): a linear system per pixel, in float64."""
    density = [-math.log(value + EPSILON) for value in pixel]
    amounts = np.linalg.solve(np.array(HED).T, density)  # density = sum of stain i times its amount
    jittered = [alpha[i] * amounts[i] + beta[i] for i in range(3)]
    mixed = [sum(jittered[i] * HED[i][channel] for i in range(3)) for channel in range(3)]
    return np.array([min(1.0, max(0.0, math.exp(-one) - EPSILON)) for one in mixed])


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.9])
def test_every_pixel_follows_the_published_formula(sigma: float) -> None:
    batch = pictures()
    alpha, beta = draw(len(batch), sigma, generator=generator(3))
    result = stain_jitter(batch, generator=generator(3), sigma=sigma)
    for sample, row, column in np.ndindex(len(batch), 10, 10):
        pixel = batch[sample, :, row, column].double().numpy()
        expected = reference(pixel, alpha[sample].double().numpy(), beta[sample].double().numpy())
        assert np.allclose(result[sample, :, row, column].numpy(), expected, atol=2e-5)


def test_without_jitter_the_images_come_back() -> None:
    batch = pictures()
    assert (stain_jitter(batch, generator=generator(), sigma=0.0) - batch).abs().max() < 1e-5


def test_one_stain_alone_is_thinned_by_alpha() -> None:
    stain = torch.tensor(HED[0])
    amount = torch.linspace(0.2, 2.0, 6)
    image = (torch.exp(-amount[None, :] * stain[:, None]) - EPSILON).reshape(1, 3, 1, 6)
    thinned = apply(image, torch.tensor([[0.5, 9.0, 9.0]]), torch.zeros(1, 3))
    expected = (torch.exp(-0.5 * amount[None, :] * stain[:, None]) - EPSILON).reshape(1, 3, 1, 6)
    assert torch.allclose(thinned, expected, atol=1e-5), "factors of the absent stains change nothing"


@settings(max_examples=25, deadline=None)
@given(sigma=st.floats(0.0, 0.95), seed=st.integers(0, 999))
def test_draws_stay_in_their_ranges_and_images_in_theirs(sigma: float, seed: int) -> None:
    alpha, beta = draw(50, sigma, generator=generator(seed))
    assert (alpha - 1).abs().max() <= sigma + 1e-6 and beta.abs().max() <= sigma + 1e-6
    result = stain_jitter(pictures(2, 6), generator=generator(seed), sigma=sigma)
    assert result.isfinite().all() and result.min() >= 0 and result.max() <= 1


def test_draws_fill_their_ranges_evenly() -> None:
    alpha, beta = draw(20_000, 0.2, generator=generator(1))
    for values, middle in ((alpha, 1.0), (beta, 0.0)):
        assert torch.allclose(values.mean(dim=0), torch.full((3,), middle), atol=0.004)
        assert torch.allclose(values.std(dim=0), torch.full((3,), 0.2 / math.sqrt(3)), atol=0.003)


def test_each_image_has_its_own_jitter_and_the_generator_decides_all() -> None:
    batch = pictures(1).expand(5, -1, -1, -1)
    copy = batch.clone()
    first, again, other = (stain_jitter(batch, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(batch, copy)
    assert len({tuple(image.flatten().tolist()) for image in first}) == 5
    strided = batch.to(memory_format=torch.channels_last)
    assert torch.equal(stain_jitter(strided, generator=generator(1)), first)


def test_what_is_no_rgb_and_a_width_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="`stain-jitter` needs RGB images, but these have 1 channel; drop it"):
        stain_jitter(torch.rand(2, 1, 8, 8), generator=generator())
    for sigma in (-0.1, 1.0, math.nan):
        with pytest.raises(ConfigError, match=r"`sigma` of `stain-jitter` is .*give a number from 0 to below 1"):
            stain_jitter(pictures(), generator=generator(), sigma=sigma)
