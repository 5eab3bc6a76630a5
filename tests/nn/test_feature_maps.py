"""Spatial features of whole networks: their averages are the pooled features, in the rows' order, a batch at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.nn.test_inception import pictures, weights
from tests.toy_images import noise, tiny_encoder
from wazuka.core.errors import ConfigError
from wazuka.nn.feature_maps import feature_maps, inception_maps, why_no_maps
from wazuka.nn.features import compute_features
from wazuka.nn.inception import inception_features
from wazuka.nn.normalize import to_input
from wazuka.nn.rows import ArrayImages

__all__ = ["weights"]


def test_the_average_of_the_last_layer_is_what_the_encoder_gives() -> None:
    real, synthetic, encoder = noise(66, size=224), noise(3, size=224, seed=1), tiny_encoder()
    rows, own = np.arange(65, -1, -1), np.array([2, 0])
    parts = list(feature_maps(real, synthetic, encoder, intensity="rgb8")(rows, own))
    assert [one.shape for one in parts] == [(64, 96, 7, 7), (2, 96, 7, 7), (2, 96, 7, 7)]
    assert {one.dtype for one in parts} == {np.dtype(np.float32)}
    expected = compute_features(ArrayImages(np.concatenate([real[rows], synthetic[own]])), encoder, intensity="rgb8")
    np.testing.assert_allclose(np.concatenate(parts).mean(axis=(2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "shape"), [(64, (8, 8)), (28, (7, 7)), (8, (4, 4))])
def test_small_images_take_an_earlier_layer(size: int, shape: tuple[int, int]) -> None:
    images, encoder = noise(2, size=size), tiny_encoder()
    (maps,) = feature_maps(images, images, encoder, intensity="rgb8")(np.arange(2), np.arange(0))
    assert maps.shape[2:] == shape
    with torch.inference_mode():
        batch = to_input(torch.from_numpy(images), encoder, intensity="rgb8")
        layers = encoder.build().forward_intermediates(batch, intermediates_only=True)
    deepest = [one for one in layers if tuple(one.shape[2:]) == shape][-1]
    np.testing.assert_allclose(maps, deepest.numpy(), atol=1e-5)


def test_networks_that_give_none_are_refused() -> None:
    onnx = replace(tiny_encoder(), kind="onnx", name="x.onnx")
    assert why_no_maps(onnx) == "x.onnx is an ONNX graph, which gives pooled features only"
    with pytest.raises(ConfigError, match=r"x\.onnx is an ONNX graph"):
        feature_maps(noise(1), noise(1), onnx, intensity="rgb8")
    assert why_no_maps(tiny_encoder()) is None


def test_the_average_of_inceptions_maps_is_its_pooled_feature(weights: Path) -> None:
    array = pictures(1)
    (maps,) = inception_maps(array, array, weights=weights)(np.array([2, 0]), np.arange(0))
    assert maps.shape == (2, 2048, 8, 8)
    expected = inception_features(ArrayImages(array[[2, 0]]), weights=weights).pooled
    np.testing.assert_allclose(maps.mean(axis=(2, 3)), expected, atol=1e-4 * np.abs(expected).mean())
