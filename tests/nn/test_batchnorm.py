"""Test-time batch norm: equal to training mode on one batch, pooled over several, and what it undoes."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wazuka.core.errors import ConfigError, DataError
from wazuka.nn.batchnorm import batchnorm_layers, with_statistics_of


def images(count: int, seed: int = 0, side: int = 6) -> torch.Tensor:
    """No two channels alike, values far from what a fresh layer expects."""
    source = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 3, side, side, generator=source) + torch.randn(count, 3, 1, 1, generator=source)
    return values * torch.tensor([0.3, 1.0, 4.0]).view(3, 1, 1) + torch.tensor([5.0, 0.0, -2.0]).view(3, 1, 1)


def network(seed: int = 0, *, track: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=track),
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8, track_running_stats=track),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.BatchNorm1d(5, affine=False, track_running_stats=track),
    ).eval()


def in_training_mode(original: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """What the network gives with batch norm, and nothing else, in training mode."""
    other = copy.deepcopy(original).eval()
    for layer in other.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.train()
    with torch.no_grad():
        return other(batch)


@pytest.mark.parametrize("track", [True, False])
def test_one_batch_of_all_images_gives_the_output_of_training_mode(track: bool) -> None:
    original, batch = network(track=track), images(12)
    before = copy.deepcopy(original.state_dict())
    adapted = with_statistics_of(original, [batch])
    with torch.no_grad():
        assert torch.allclose(adapted(batch), in_training_mode(original, batch), atol=1e-5)
        assert torch.allclose(adapted(batch[:1]), adapted(batch)[:1], atol=1e-6), "each image then stands alone"
        assert not track or not torch.allclose(original(batch), adapted(batch), atol=0.1)
    assert not any(module.training for module in adapted.modules())
    assert all(torch.equal(one, before[name]) for name, one in original.state_dict().items()), "the original stays"
    assert not any(layer._forward_pre_hooks for layer in batchnorm_layers(adapted))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(2, 7), min_size=1, max_size=5), rest=st.integers(0, 3), seed=st.integers(0, 99))
def test_the_first_layer_gets_mean_and_variance_of_all_images_however_they_are_split(
    cuts: list[int], rest: int, seed: int
) -> None:
    # A rest of one image is under half of the batch before it only where that has three or more.
    sizes = [*cuts[:-1], max(cuts[-1], 3), *([rest] if rest else [])]
    batch = images(sum(sizes), seed)
    first = with_statistics_of(network(), torch.split(batch, sizes))[0]  # type: ignore[index]
    values = batch.double().transpose(0, 1).flatten(1)
    assert torch.allclose(first.running_mean.double(), values.mean(dim=1), rtol=1e-5, atol=1e-5)
    assert torch.allclose(first.running_var.double(), values.var(dim=1, correction=0), rtol=1e-5)


def test_deeper_layers_hardly_depend_on_the_split_and_a_single_last_image_does_no_harm() -> None:
    original, batch = network(), images(65)
    whole = with_statistics_of(original, [batch])
    split = with_statistics_of(original, torch.split(batch, 32))  # 32, 32, 1
    with torch.no_grad():
        spread = whole(batch).std()
        assert (whole(batch) - split(batch)).abs().mean() < 0.2 * spread
    for one, other in zip(batchnorm_layers(whole), batchnorm_layers(split), strict=True):
        assert one.running_var is not None and other.running_var is not None
        assert torch.allclose(one.running_var, other.running_var, rtol=0.5)


def test_a_shift_and_scale_of_the_input_channels_is_undone() -> None:
    original, batch = network(), images(20)
    other_scanner = batch * torch.tensor([0.5, 2.0, 1.5]).view(3, 1, 1) + torch.tensor([1.0, -3.0, 0.2]).view(3, 1, 1)
    here = with_statistics_of(original, torch.split(batch, 10))
    there = with_statistics_of(original, torch.split(other_scanner, 10))
    with torch.no_grad():
        assert torch.allclose(here(batch), there(other_scanner), atol=1e-3)
        assert not torch.allclose(original(batch), original(other_scanner), atol=0.1)


def test_a_resnet_of_the_registry_is_adapted_down_to_one_pixel_maps() -> None:
    torch.manual_seed(0)
    original = timm.create_model("resnet18", num_classes=0).eval()
    batch = images(7, side=32)
    adapted = with_statistics_of(original, [batch[:3], batch[3:6], batch[6:]])
    assert len(batchnorm_layers(adapted)) == 20
    with torch.no_grad():
        assert adapted(batch).isfinite().all()
        one_batch = with_statistics_of(original, [batch])
        assert torch.allclose(one_batch(batch), in_training_mode(original, batch), atol=1e-3)


def test_a_layer_that_the_forward_pass_leaves_out_keeps_its_statistics() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            nn.init.constant_(self.unused.running_mean, 3.0)  # type: ignore[arg-type]

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.used(batch)

    original = Partly()
    adapted = with_statistics_of(original, [images(4)])
    used, unused = (layer.running_mean for layer in batchnorm_layers(adapted))
    assert used is not None and unused is not None
    assert torch.equal(unused, torch.full((3,), 3.0))
    assert unused is not original.unused.running_mean
    assert used[0] > 3


def test_networks_without_batch_norm_and_too_few_images_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^`test-batchnorm` needs BatchNorm layers; `vit_small` has none; drop it\.$"
    ):
        with_statistics_of(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), [images(4)], name="vit_small")
    with pytest.raises(DataError, match="`test-batchnorm` got no images; give 2 or more"):
        with_statistics_of(network(), [])
    with pytest.raises(DataError, match="`test-batchnorm` got a batch of 1 image; give batches of 2 or more"):
        with_statistics_of(network(), [images(1)])
