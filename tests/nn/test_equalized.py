"""Layers against closed forms and against the same computed one after the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from wazuka.nn.equalized import EqualizedConv, act, minibatch_deviation, pixel_norm, to_sphere


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(inputs: int, outputs: int, kernel: int, *, transposed: bool = False) -> EqualizedConv:
    torch.manual_seed(3)
    layer = EqualizedConv(inputs, outputs, kernel, transposed=transposed)
    with torch.no_grad():
        layer.bias.copy_(random(outputs, seed=5))
    return layer


def test_pixel_norm_makes_the_mean_square_over_channels_one() -> None:
    features = random(2, 5, 3, 3) * 7
    normed = pixel_norm(features)
    assert torch.allclose(normed, features / torch.sqrt((features**2).mean(1, keepdim=True) + 1e-8))
    assert torch.allclose((normed**2).mean(1), torch.ones(2, 3, 3), atol=1e-5)


def test_latent_vectors_lie_on_the_sphere_of_radius_root_of_their_length() -> None:
    latents = random(4, 64) * 3
    norms = to_sphere(latents).norm(dim=1)
    assert torch.allclose(norms, torch.full((4,), 8.0), atol=1e-4)
    assert torch.allclose(to_sphere(latents) / 8, latents / latents.norm(dim=1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize(("kernel", "transposed"), [(1, False), (3, False), (4, False), (4, True)])
def test_a_layer_doubles_the_mean_square_and_its_activation_keeps_it(kernel: int, transposed: bool) -> None:
    torch.manual_seed(0)
    layer = EqualizedConv(256, 256, kernel, transposed=transposed)
    if transposed:
        values = layer.expand(random(64, 256, 1, 1, seed=1))
    else:
        values = layer(random(64, 256, kernel, kernel, seed=1))[
            :, :, kernel % 4 // 2, kernel % 4 // 2
        ]  # no padding seen
    assert float(values.detach().square().mean()) == pytest.approx(2.0, rel=0.05)
    after = float(act(values.detach().clone()).square().mean())
    assert after == pytest.approx(2.0 * (1 + 0.2**2) / 2, rel=0.05)


def test_weights_are_kept_with_variance_one_and_their_gradient_carries_the_scale() -> None:
    layer = drawn(6, 4, 3)
    torch.manual_seed(0)
    assert float(EqualizedConv(64, 64, 3).weight.detach().std()) == pytest.approx(1.0, rel=0.02)
    assert layer.scale == pytest.approx(math.sqrt(2 / (6 * 9)))
    assert drawn(6, 4, 4, transposed=True).scale == pytest.approx(math.sqrt(2 / 6))
    values, plain = random(2, 6, 5, 5), layer.kernel().detach().clone().requires_grad_(True)
    layer(values).square().sum().backward()
    functional.conv2d(values, plain, layer.bias.detach(), padding=1).square().sum().backward()
    assert layer.weight.grad is not None and plain.grad is not None
    assert torch.allclose(layer.weight.grad, plain.grad * layer.scale, rtol=1e-4, atol=1e-4)


def test_a_layer_after_upsampling_equals_upsampling_and_then_the_layer() -> None:
    layer, values = drawn(3, 4, 3), random(2, 3, 5, 6)
    plain = layer(functional.interpolate(values, scale_factor=2, mode="nearest"))
    assert torch.allclose(layer.after_upsampling(values), plain, atol=1e-5)
    for wanted in (layer.weight, layer.bias):
        a = torch.autograd.grad(layer.after_upsampling(values).square().sum(), wanted)[0]
        b = torch.autograd.grad(
            layer(functional.interpolate(values, scale_factor=2, mode="nearest")).square().sum(), wanted
        )[0]
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("passing_by", [0, 4])
def test_a_layer_after_a_linear_one_equals_both_in_turn_at_the_border_too(passing_by: int) -> None:
    linear, layer = drawn(3, 5, 1), drawn(5 + passing_by, 6, 3)
    image, features = random(2, 3, 6, 6), random(2, passing_by, 6, 6, seed=1)
    plain = layer(torch.cat([linear(image), features], 1))
    joined = torch.cat([image, features, torch.ones(2, 1, 6, 6)], 1)
    merged = functional.conv2d(joined, layer.after_linear(linear), layer.bias, padding=1)
    assert torch.allclose(merged, plain, atol=1e-5)


def test_the_batch_deviation_is_one_number_over_the_whole_batch() -> None:
    features = random(4, 3, 2, 2) * 2 + 1
    deviations = [
        math.sqrt(sum((float(features[b, c, y, x]) - mean) ** 2 for b in range(4)) / 4 + 1e-8)
        for c in range(3)
        for y in range(2)
        for x in range(2)
        for mean in [sum(float(features[b, c, y, x]) for b in range(4)) / 4]
    ]
    result = minibatch_deviation(features)
    assert result.shape == (4, 4, 2, 2) and torch.equal(result[:, :3], features)
    assert torch.allclose(result[:, 3], torch.full((4, 2, 2), sum(deviations) / len(deviations)), atol=1e-6)


def test_the_batch_deviation_of_labeled_images_is_that_of_their_own_class() -> None:
    features, labels = random(6, 3, 2, 2) * 2 + 1, torch.tensor([0, 1, 1, 0, 1, 2])
    features[labels == 1] += 100  # the distance between classes must not count
    result = minibatch_deviation(features, labels)
    assert result.shape == (6, 4, 2, 2) and torch.equal(result[:, :3], features)
    for label in range(3):
        own = minibatch_deviation(features[labels == label])[:, 3]
        assert torch.allclose(result[labels == label, 3], own, rtol=1e-4)
    assert torch.allclose(result[5, 3], torch.full((2, 2), 1e-4))  # a class of one image has none
