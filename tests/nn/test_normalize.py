"""From cached pixels to a network's input: against a plain NumPy reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.toy_images import noise, tiny_encoder
from wazuka.core.errors import ConfigError, DataError
from wazuka.nn import normalize


def test_uint8_pixels_become_pixel_times_scale_minus_mean_over_std() -> None:
    encoder = dataclasses.replace(tiny_encoder(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), scale=1 / 200)
    pixels = noise(2, size=8)
    found = normalize.to_input(torch.from_numpy(pixels), encoder, intensity="rgb8")
    expected = (pixels / 200 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)


def test_a_window_of_hounsfield_units_becomes_the_range_of_pixels() -> None:
    values = np.array([-2000, -160, 40, 240, 3000], np.int16).reshape(1, 1, 5, 1)
    unit = normalize.to_unit(torch.from_numpy(values), intensity="hounsfield", window="soft-tissue")
    np.testing.assert_allclose(unit.numpy().ravel(), [0, 0, 0.5, 1, 1], atol=1e-6)
    default = normalize.to_unit(torch.from_numpy(values), intensity="hounsfield")
    assert torch.equal(unit, default)


def test_gray_images_become_three_equal_channels() -> None:
    encoder = dataclasses.replace(tiny_encoder(), mean=(0.5,) * 3, std=(0.5,) * 3)
    found = normalize.to_input(torch.from_numpy(noise(2, size=8, channels=1)), encoder, intensity="gray8")
    assert found.shape == (2, 3, 8, 8)
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])


def test_only_an_encoder_of_fixed_size_resizes() -> None:
    pixels = torch.full((1, 20, 20, 3), 51, dtype=torch.uint8)
    free, fixed = tiny_encoder(), tiny_encoder("test_vit")
    assert normalize.to_input(pixels, free, intensity="rgb8").shape == (1, 3, 20, 20)
    resized = normalize.to_input(pixels, fixed, intensity="rgb8")
    assert resized.shape == (1, 3, 160, 160)
    torch.testing.assert_close(resized, torch.full_like(resized, (0.2 - 0.5) / 0.5))


def test_pixels_that_do_not_suit_are_refused() -> None:
    with pytest.raises(DataError, match=r"Pixels are torch\.int16 with intensity `rgb8`"):
        normalize.to_unit(torch.zeros(1, 4, 4, 1, dtype=torch.int16), intensity="rgb8")
    with pytest.raises(DataError, match=r"Images have shape \(1, 4, 4, 2\)"):
        normalize.to_unit(torch.zeros(1, 4, 4, 2, dtype=torch.uint8), intensity="rgb8")
    with pytest.raises(ConfigError, match=r"Unknown window `lungs`\. Did you mean `lung`"):
        normalize.to_unit(torch.zeros(1, 4, 4, 1, dtype=torch.int16), intensity="hounsfield", window="lungs")
