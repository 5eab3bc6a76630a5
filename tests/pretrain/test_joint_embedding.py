"""Joint embedding: the moving target, the heads' sizes, which loss belongs to which method, what a collapse does."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.toy_images import as_images, noise, tiny_encoder
from wazuka.core.config import build
from wazuka.core.errors import ConfigError
from wazuka.pretrain import METHODS, joint_embedding
from wazuka.pretrain.joint_embedding import (
    BarlowTwinsConfig,
    ByolConfig,
    Config,
    Embedded,
    MovingTarget,
    SimClrConfig,
    SimSiamConfig,
    VicRegConfig,
    build_network,
    decay_at,
    joint_loss,
)
from wazuka.training import self_supervised
from wazuka.training.roles import PretrainTask, Runtime


def layers() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (
        nn.Linear(4, 3)
    )


@pytest.fixture(autouse=True)
def _own_randomness() -> Any:
    with torch.random.fork_rng(devices=[]):
        yield


def test_the_target_starts_as_a_copy_and_has_no_parameters() -> None:
    backbone, head = layers()
    target, images = MovingTarget(backbone, head), torch.randn(5, 3, 6, 6)
    assert list(target.parameters()) == []
    assert len(target.state_dict()) == len(backbone.state_dict()) + len(head.state_dict()), "a checkpoint has it all"
    found = target(images)
    torch.testing.assert_close(found, head(backbone(images)))
    assert not found.requires_grad


def test_the_target_moves_by_its_formula_and_keeps_its_own_statistics() -> None:
    backbone, head = layers()
    target = MovingTarget(backbone, head)
    before = copy.deepcopy(target.state_dict())
    with torch.no_grad():
        for one in (*backbone.parameters(), *head.parameters()):
            one.add_(1.0)
        backbone[1].running_mean.fill_(7.0)  # type: ignore[index, operator]
    target.move(backbone, head, decay=0.9)
    for name, value in target.state_dict().items():
        own = "running" in name or "num_batches" in name
        torch.testing.assert_close(value, before[name] if own else before[name] + 0.1)


def test_the_decay_rises_from_its_base_to_one_along_half_a_cosine() -> None:
    values = [decay_at(step, steps=10, base=0.996) for step in range(10)]
    assert values[0] == pytest.approx(0.996) and values[5] == pytest.approx(0.998)
    assert values == sorted(values) and decay_at(10, steps=10, base=0.996) == 1
    assert values[3] == pytest.approx(1 - 0.004 * (math.cos(math.pi * 3 / 10) + 1) / 2)


def test_during_a_training_the_target_is_the_written_out_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Any] = {"online": []}
    original = joint_embedding.build_network

    def watched(*args: Any) -> Any:
        kept["network"] = original(*args)
        kept["start"] = copy.deepcopy(kept["network"].projector[-1].weight.detach())
        return kept["network"]

    class Spy(MovingTarget):
        def move(self, *parts: nn.Module, decay: float) -> None:
            kept["online"].append((decay, parts[1][-1].weight.detach().clone()))  # type: ignore[index]
            super().move(*parts, decay=decay)

    monkeypatch.setattr(joint_embedding, "build_network", watched)
    monkeypatch.setattr(joint_embedding, "MovingTarget", Spy)
    task = PretrainTask(name="x", images=as_images(noise(8, size=16), tmp_path), encoder=tiny_encoder(), seed=0)
    config = ByolConfig(steps=4, batch=4, target_decay=0.5, projector_hidden=8, projector_dim=8, predictor_hidden=8)
    METHODS["byol"].fit(task, config=config, runtime=Runtime(device="cpu", threads=1, folder=tmp_path))
    expected = kept["start"]
    assert [decay for decay, _ in kept["online"]] == [decay_at(step, steps=4, base=0.5) for step in range(3)]
    for decay, online in kept["online"]:
        expected = decay * expected + (1 - decay) * online
    torch.testing.assert_close(kept["network"].target.parts[1][-1].weight, expected)


@pytest.mark.parametrize(
    ("config", "widths"),
    [
        (SimSiamConfig(), [512, 512, 512]),
        (ByolConfig(), [1024, 256]),
        (BarlowTwinsConfig(), [2048, 2048, 2048]),
        (SimClrConfig(), [512, 128]),
        (VicRegConfig(), [2048, 2048, 2048]),
        (SimSiamConfig(scale_heads=False), [2048, 2048, 2048]),
        (BarlowTwinsConfig(projector_layers=1, projector_dim=64), [64]),
    ],
)
def test_heads_follow_the_encoder_s_features(config: Config, widths: list[int]) -> None:
    with torch.device("meta"):
        network = build_network(nn.Identity(), 512, config)
    assert [one.out_features for one in network.projector if isinstance(one, nn.Linear)] == widths  # type: ignore[union-attr]
    assert (network.predictor is not None) == isinstance(config, SimSiamConfig | ByolConfig)
    assert (network.target is not None) == isinstance(config, ByolConfig)
    last = list(network.projector)[-1]  # type: ignore[arg-type]
    assert isinstance(last, nn.BatchNorm1d) == isinstance(config, SimSiamConfig)


def embedded(seed: int) -> Embedded:
    generator = torch.Generator().manual_seed(seed)
    return Embedded(*(torch.randn(6, 4, generator=generator, requires_grad=True) for _ in range(2)))


def test_byol_s_loss_is_the_squared_distance_of_unit_vectors_in_both_directions() -> None:
    first, second = embedded(0), embedded(1)
    unit = nn.functional.normalize
    expected = sum(
        (unit(one.prediction) - unit(other.target)).square().sum(dim=1).mean()
        for one, other in ((first, second), (second, first))
    )
    torch.testing.assert_close(joint_loss(first, second, ByolConfig()), expected)
    assert joint_loss(first, second, ByolConfig()).item() == pytest.approx(
        4 + 4 * joint_loss(first, second, SimSiamConfig()).item()
    )


@pytest.mark.parametrize("config", [SimSiamConfig(), ByolConfig(), BarlowTwinsConfig(), SimClrConfig(), VicRegConfig()])
def test_every_loss_is_the_same_with_the_views_exchanged_and_moves_both(config: Config) -> None:
    first, second = embedded(0), embedded(1)
    loss = joint_loss(first, second, config)
    torch.testing.assert_close(loss, joint_loss(second, first, config))
    loss.backward()
    for one in (first, second):
        assert one.prediction.grad is not None and one.prediction.grad.abs().sum() > 0
        assert one.target.grad is None


def test_a_setting_of_another_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="Unknown key `temperature`"):
        build(METHODS["byol"].config, {"temperature": 0.1}, where="pretrain")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("simclr", {"temperature": 0.0}, "`temperature` is 0.0; give a number above 0"),
        ("byol", {"target_decay": 1.0}, "`target_decay` is 1.0; give a number from 0 to below 1"),
        ("simsiam", {"batch": 1}, "`batch` is 1; give 2 or more"),
        ("vicreg", {"smallest_crop": 0.0}, "`smallest_crop` is 0.0; give a share above 0"),
        ("barlow-twins", {"projector_layers": 0}, "`projector_layers` is 0; give a number above 0"),
    ],
)
def test_values_out_of_range_are_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(METHODS[name].config, values, where="pretrain")


def test_a_collapsed_training_ends_early_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_supervised, "collapsed", lambda figures: "all is one point.")
    task = PretrainTask(name="x", images=as_images(noise(8, size=16), tmp_path), encoder=tiny_encoder(), seed=0)
    config = build(METHODS["simsiam"].config, METHODS["simsiam"].presets["smoke"] | {"steps": 10}, where="x")
    result = METHODS["simsiam"].fit(task, config=config, runtime=Runtime(device="cpu", threads=1, folder=tmp_path))
    assert result.notes["collapsed"] == "all is one point."
    assert result.notes["steps"] == 2, "nothing counts as collapsed before a fifth of the steps"
