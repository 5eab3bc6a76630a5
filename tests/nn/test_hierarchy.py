"""Each head reads its own stage of the network, and the parts are what the whole gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional

from wazuka.nn.architectures import build_seeded
from wazuka.nn.hierarchy import JOINED, PRESETS, Hierarchy
from wazuka.nn.taps import Taps

STAGES = ("layer1", "layer2", "layer3", "layer4")


class AsReleased(Hierarchy):
    """The wiring of the code released with FG-SSL: embeddings 2 and 3 from the vector of level 1."""

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        vectors = self._vectors(maps)
        levels = [head(vectors[0]) for head in self.heads]
        return (*levels, self.joined(torch.cat(vectors, dim=1)))


def drawn(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def stages_behind(taps: Taps, embedding: torch.Tensor) -> list[str]:
    """Stages of a ResNet on whose parameters an embedding depends."""
    found = []
    for stage in STAGES:
        parameters = list(taps.network.get_submodule(stage).parameters())
        target = (embedding * drawn(*embedding.shape)).sum()
        gradients = torch.autograd.grad(target, parameters, allow_unused=True, retain_graph=True)
        if any(one is not None and bool(one.abs().max() > 0) for one in gradients):
            found.append(stage)
    return found


def test_each_embedding_reads_its_own_stage() -> None:
    """Fails for the wiring of the released code, in which embeddings 2 and 3 read level 1."""
    taps = Taps(build_seeded("resnet18", {}, seed=0)).train()
    own = [["layer1", "layer2"], ["layer1", "layer2", "layer3"], list(STAGES), list(STAGES)]
    reached = {}
    for kind in (Hierarchy, AsReleased):
        torch.manual_seed(0)
        hierarchy = kind(taps.channels, width=8, dim=6)
        reached[kind] = [stages_behind(taps, one) for one in hierarchy(taps(drawn(4, 3, 64, 64)))]
    assert reached[Hierarchy] == own
    assert reached[AsReleased] == [own[0], own[0], own[0], own[3]]


@pytest.mark.parametrize("pool", [None, 14])
def test_one_level_alone_is_what_all_together_give(pool: int | None) -> None:
    torch.manual_seed(0)
    hierarchy = Hierarchy((3, 4, 5), width=8, dim=6, pool=pool, classes=2).eval()
    maps = [drawn(2, 3, 28, 28), drawn(2, 4, 14, 14), drawn(2, 5, 7, 7)]
    embeddings = hierarchy(maps)
    assert [tuple(one.shape) for one in embeddings] == [(2, 6)] * 4
    for level, one in enumerate(maps, start=1):
        assert torch.equal(hierarchy.forward_level(level, one), embeddings[level - 1])
    assert torch.equal(hierarchy.forward_joined(maps), embeddings[3])
    for number in range(1, JOINED + 1):
        assert hierarchy.classify(number, embeddings[number - 1]).shape == (2, 2)


def test_an_embedding_is_what_its_description_says() -> None:
    torch.manual_seed(0)
    hierarchy = Hierarchy((3, 4, 5), width=8, dim=6).eval()
    for one in hierarchy.modules():  # batch norm that is not the identity
        if hasattr(one, "running_mean"):
            one.running_mean.uniform_(-1, 1)
            one.running_var.uniform_(0.5, 2)
    features, state = drawn(2, 4, 9, 9), hierarchy.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        at = [state[f"{name}.{one}"] for one in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *at, eps=1e-5)

    x = functional.relu(norm(functional.conv2d(features, state["blocks.1.0.weight"]), "blocks.1.1"))
    x = functional.relu(norm(functional.conv2d(x, state["blocks.1.3.weight"], padding=1), "blocks.1.4"))
    x = functional.adaptive_max_pool2d(x, 1).flatten(1)
    x = functional.elu(norm(norm(x, "heads.1.0") @ state["heads.1.1.weight"].T, "heads.1.2"))
    torch.testing.assert_close(hierarchy.forward_level(2, features), x)


@pytest.mark.parametrize(("side", "pooled"), [(56, 14), (28, 14), (20, 10), (15, 8), (14, 14), (7, 7)])
def test_the_light_preset_reads_maps_of_at_most_14_positions(side: int, pooled: int) -> None:
    hierarchy = Hierarchy((3, 4, 5), dim=6, **PRESETS["light"])
    seen: list[torch.Tensor] = []
    hierarchy.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    features = drawn(2, 3, side, side)
    hierarchy.forward_level(1, features)
    assert seen[0].shape == (2, 3, pooled, pooled)
    step = -(-side // 14)
    torch.testing.assert_close(seen[0][..., 0, 0], features[..., :step, :step].mean((2, 3)))
    corner = step * (pooled - 1)  # the last position averages what is there
    torch.testing.assert_close(seen[0][..., -1, -1], features[..., corner:, corner:].mean((2, 3)))
    assert hierarchy.heads[0][1].in_features == 512
