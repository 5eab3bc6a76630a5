"""Three maps of a network: those that its own layers give, and no more work than they need."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wazuka.core.errors import ConfigError
from wazuka.nn.architectures import build_meta, build_seeded
from wazuka.nn.taps import Taps

HF = {"layout": "vit", "dim": 24, "depth": 4, "heads": 2, "patch": 8, "size": 32}


def images(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def outputs_of(network: nn.Module, modules: list[str], batch: torch.Tensor) -> list[torch.Tensor]:
    """What the named modules give when the whole network runs."""
    found: list[torch.Tensor] = []
    hooks = [network.get_submodule(one).register_forward_hook(lambda *given: found.append(given[2])) for one in modules]
    network(batch)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    ("arch", "args", "side", "modules"),
    [
        ("resnet18", {}, 40, ["layer2", "layer3", "layer4"]),
        ("mobilenetv1-025", {}, 40, ["blocks.2", "blocks.3", "blocks.4"]),
        ("convnext_atto", {}, 64, ["stages.1", "stages.2", "stages.3"]),
    ],
)
def test_the_maps_of_a_convolutional_network_are_its_last_three_stages(
    arch: str, args: dict[str, object], side: int, modules: list[str]
) -> None:
    network = build_seeded(arch, args, seed=0)
    taps = Taps(network, name=arch)
    expected = outputs_of(network, modules, images(side))
    for upto in (1, 2, 3):
        maps = taps(images(side), upto)
        assert len(maps) == upto
        for found, one, channels in zip(maps, expected, taps.channels, strict=False):
            assert found.shape[1] == channels
            torch.testing.assert_close(found, one)


@pytest.mark.parametrize(
    ("arch", "args", "blocks", "prefix"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 8}, "blocks", 1),
        ("hf-vit", HF, "encoder.layer", 1),
    ],
)
def test_the_maps_of_a_transformer_are_its_patch_tokens_in_their_places(
    arch: str, args: dict[str, object], blocks: str, prefix: int
) -> None:
    network = build_seeded(arch, args, seed=0)
    taps = Taps(network, name=arch)
    depth = len(network.get_submodule(blocks))  # type: ignore[arg-type]
    assert taps.levels == (depth // 2 - 1, depth * 3 // 4 - 1, depth - 1)
    tokens = outputs_of(network, [f"{blocks}.{one}" for one in taps.levels], images(32))
    for upto in (1, 2, 3):
        maps = taps(images(32), upto)
        assert len(maps) == upto
        for found, one, channels in zip(maps, tokens, taps.channels, strict=False):
            assert found.shape == (2, channels, 4, 4)
            for y in range(4):
                for x in range(4):
                    torch.testing.assert_close(found[:, :, y, x], one[:, prefix + 4 * y + x])


def work(taps: Taps, side: int, *, upto: int) -> int:
    """Operations of a forward and backward pass through the encoder; on the meta device nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        maps = taps(torch.zeros(1, 3, side, side, device="meta"), upto)
        torch.stack([one.sum() for one in maps]).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("arch", "args", "side"),
    [
        ("resnet18", {}, 224),
        ("mobilenetv1-025", {}, 64),
        ("vit_tiny_patch16_224", {"depth": 4}, 224),
        ("hf-vit", HF, 32),
    ],
)
def test_a_shallower_level_is_less_work(arch: str, args: dict[str, object], side: int) -> None:
    taps = Taps(build_meta(arch, args))
    first, second, third = (work(taps, side, upto=one) for one in (1, 2, 3))
    assert 0 < first < 0.85 * second < 0.85 * 0.95 * third


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_a_joint_update_is_at_most_2_3_times_the_encoder_work_of_barlow_twins(arch: str) -> None:
    network = build_meta(arch, {})
    puzzles = [work(Taps(network), 224, upto=one) for one in (1, 2, 3)]
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 224, 224, device="meta")).sum().backward()
    whole = counter.get_total_flops()
    ratio = (sum(puzzles) + 2 * puzzles[2]) / (2 * whole)  # both whole views give all levels, as the coarsest puzzle
    assert 2.0 < ratio <= 2.3


def test_what_no_map_reaches_is_named() -> None:
    assert Taps(build_seeded("resnet18", {}, seed=0)).unreached(images(40)) == ()
    vit = Taps(build_seeded("hf-vit", HF, seed=0)).train()
    assert vit.unreached(images(32)) == ("layernorm.weight", "layernorm.bias")
    assert vit.training


def test_other_levels_can_be_asked_for_and_wrong_ones_are_refused() -> None:
    network = build_meta("resnet18", {})
    assert Taps(network, (0, 1, 2)).channels == (64, 64, 128)
    for levels in ((1, 1, 2), (2, 3, 5), (-1, 3, 4)):
        with pytest.raises(ConfigError, match="three ascending numbers from 0 to 4"):
            Taps(network, levels)


def test_networks_that_give_no_maps_are_refused() -> None:
    with pytest.raises(ConfigError, match="Backbone `mine` does not give the maps of its stages"):
        Taps(nn.Sequential(nn.Conv2d(3, 4, 3)), name="mine")
    with pytest.raises(ConfigError, match="has 2 layers to read"):
        Taps(build_meta("hf-vit", HF | {"depth": 2}))
