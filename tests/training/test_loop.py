"""The training loop: resumes to the same bytes, stops where it should, keeps copies, gives up cleanly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wazuka.core.errors import ArtifactError
from wazuka.training import loop, seeding
from wazuka.training.checkpoints import CHECKPOINT, LAST_GOOD, read_checkpoint, write_checkpoint
from wazuka.training.early_stopping import EarlyStopping, copy_state
from wazuka.training.loop import LoopSettings, Trained, TrainingDiverged, train
from wazuka.training.sampling import ShuffledRows

INPUTS = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 2
FAST = LoopSettings(steps=12, lr=0.02, evaluate_every=4, checkpoint_seconds=1e9, patience=None)


def make_network(seed: int = 0) -> nn.Module:
    """Convolution, BatchNorm and dropout: weights, buffers and layers that draw."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 2)
        )


def toy_loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
    """Sampled rows, augmented by noise from the step's generator."""
    rows = torch.from_numpy(ShuffledRows(24, 8, seed=3)(step))
    images = INPUTS[rows] + 0.1 * torch.randn(len(rows), 3, 8, 8, generator=generator)
    return nn.functional.cross_entropy(model(images), LABELS[rows])


def toy_validate(model: nn.Module) -> float:
    return float(nn.functional.cross_entropy(model(INPUTS[:8]), LABELS[:8]))


def run(folder: Path, network: nn.Module, step_loss: Any = toy_loss, **changes: Any) -> Trained:
    import dataclasses

    own = {name: changes.pop(name) for name in ("validate", "say", "seed", "parts") if name in changes}
    config = dataclasses.replace(FAST, **changes)
    return train(network, step_loss, settings=config, device="cpu", folder=folder, **({"seed": 1} | own))


def bytes_of(network: nn.Module) -> list[bytes]:
    return [value.contiguous().numpy().tobytes() for value in network.state_dict().values()]


class Killed(BaseException):
    """Stands for a process that is killed."""


def killed_at(step: int) -> Callable[..., torch.Tensor]:
    def loss(model: nn.Module, now: int, generator: torch.Generator) -> torch.Tensor:
        if now == step:
            raise Killed
        return toy_loss(model, now, generator)

    return loss


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    networks = [make_network() for _ in range(3)]
    outside = torch.random.get_rng_state()
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        run(tmp_path, network, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), outside), "torch's own generator was touched"
    assert bytes_of(networks[0]) == bytes_of(networks[1]) != bytes_of(networks[2])


@pytest.mark.parametrize("changes", [{}, {"ema": 0.8}, {"optimizer": "sgd"}, {"validate": toy_validate, "patience": 2}])
@pytest.mark.parametrize("moment", [1, 6, 11])
def test_an_interrupted_training_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, changes: dict[str, Any], moment: int
) -> None:
    whole, broken, resumed = make_network(), make_network(), make_network(seed=9)
    expected = run(tmp_path / "a", whole, **changes)
    with pytest.raises(Killed):
        run(tmp_path / "b", broken, killed_at(moment), **changes, checkpoint_seconds=0.0)
    assert sorted(one.name for one in (tmp_path / "b").iterdir()) == [CHECKPOINT], "one file, no partial ones"
    lines: list[str] = []
    torch.manual_seed(123)
    found = run(tmp_path / "b", resumed, **changes, checkpoint_seconds=0.0, say=lines.append)
    assert lines == [f"Going on from step {moment} of 12."]
    assert bytes_of(resumed) == bytes_of(whole)
    assert found == expected
    assert not (tmp_path / "b" / CHECKPOINT).exists()


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, make_network(), killed_at(5), checkpoint_seconds=0.0)
    lines: list[str] = []
    network, fresh = make_network(), make_network()
    run(tmp_path, network, checkpoint_seconds=0.0, lr=0.01, say=lines.append)
    run(tmp_path / "fresh", fresh, checkpoint_seconds=0.0, lr=0.01)
    assert "belongs to other settings; training starts again" in lines[0]
    assert bytes_of(network) == bytes_of(fresh)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(
        ArtifactError, match=r"checkpoint\.pt is no readable checkpoint .*; remove it to train from the"
    ):
        run(tmp_path, make_network())


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.pt", {"x": torch.ones(2), "step": 3})
    assert read_checkpoint(tmp_path / "c.pt") == {"x": pytest.approx([1, 1]), "step": 3}
    torch.save({"x": Path("/")}, tmp_path / "c.pt")
    with pytest.raises(ArtifactError, match="is no readable checkpoint"):
        read_checkpoint(tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "none.pt") is None


def test_the_loss_falls(tmp_path: Path) -> None:
    curve = run(tmp_path, make_network(), steps=60, evaluate_every=10).curves["train_loss"]
    assert [step for step, _ in curve] == [10, 20, 30, 40, 50, 60]
    assert curve[-1][1] < 0.5 * curve[0][1]


def test_the_curve_holds_the_mean_loss_of_each_interval(tmp_path: Path) -> None:
    losses: list[float] = []

    def recorded(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        loss = toy_loss(model, step, generator)
        losses.append(loss.item())
        return loss

    curve = run(tmp_path, make_network(), recorded, steps=10, evaluate_every=4).curves["train_loss"]
    expected = [(4, np.mean(losses[:4])), (8, np.mean(losses[4:8])), (10, np.mean(losses[8:]))]
    np.testing.assert_allclose(curve, expected, rtol=1e-5)


def test_early_stopping_brings_back_a_copy_of_the_best_weights(tmp_path: Path) -> None:
    seen: list[list[bytes]] = []
    values = iter([3.0, 1.0, 2.0, 2.5, 0.5])

    def validate(model: nn.Module) -> float:
        assert not model.training
        seen.append(bytes_of(model))
        return next(values)

    network = make_network()
    trained = run(tmp_path, network, steps=40, evaluate_every=2, patience=2, validate=validate)
    assert (trained.steps, trained.best_step, trained.best_value, trained.stopped_early) == (8, 4, 1.0, True)
    assert trained.curves["val_loss"] == [(2, 3.0), (4, 1.0), (6, 2.0), (8, 2.5)]
    assert bytes_of(network) == seen[1] and seen[1] != seen[3]
    assert not network.training


def test_a_kept_state_does_not_follow_the_weights() -> None:
    layer, stopper = nn.Linear(2, 2), EarlyStopping(3)
    assert not stopper.update(1, 0.5, layer.state_dict())
    kept = copy_state(layer.state_dict())
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(stopper.best_state["weight"], kept["weight"]) and kept["weight"].abs().sum() > 0
    assert [stopper.update(step, 0.5, layer.state_dict()) for step in (2, 3, 4)] == [False, False, True]
    assert stopper.best_step == 1, "an equal value is no improvement"


def test_the_average_follows_its_formula(tmp_path: Path) -> None:
    weights: list[torch.Tensor] = []

    def recorded(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        weights.append(model.module[0].weight.detach().clone())
        return toy_loss(model, step, generator)

    plain, averaged = make_network(), make_network()
    run(tmp_path, plain, recorded, steps=3)
    weights.append(plain[0].weight.detach().clone())
    run(tmp_path, averaged, steps=3, ema=0.6)
    expected = weights[0]
    for value in weights[1:]:
        expected = 0.6 * expected + 0.4 * value
    torch.testing.assert_close(averaged[0].weight.detach(), expected)


def test_the_gradient_is_clipped_after_backward_and_before_the_step(tmp_path: Path) -> None:
    class Slope(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.zeros(4, 1))

        def forward(self, factor: float) -> torch.Tensor:
            return factor * self.value.sum()

    network = Slope()
    how = {"steps": 1, "lr": 0.1, "optimizer": "sgd", "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
    run(tmp_path, network, lambda model, step, generator: model(1000.0), clip_norm=1.0, **how)
    gradient = torch.full((4, 1), 0.5)  # 1000 in each of 4, scaled to norm 1
    torch.testing.assert_close(network.value.detach(), -0.1 * 1.9 * gradient)  # Nesterov: gradient + 0.9 * gradient


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_values_that_are_not_finite_stop_the_training_with_the_last_good_weights(tmp_path: Path, bad: str) -> None:
    states: list[list[bytes]] = []

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        value = toy_loss(model, step, generator)
        if step == 6:
            value = (
                value * torch.nan if bad == "loss" else value + 0 * torch.sqrt(model.module[0].weight.abs().sum() * 0)
            )
        return value

    def validate(model: nn.Module) -> float:
        states.append(bytes_of(model))
        return 1.0

    network = make_network()
    message = r"loss is not finite between steps 4 and 8 \(lr 0\.02, fp32\); lower `lr` or set `precision: fp32`"
    with pytest.raises(TrainingDiverged, match=message):
        run(tmp_path, network, loss, validate=validate)
    assert len(states) == 1 and bytes_of(network) == states[0]
    kept = read_checkpoint(tmp_path / LAST_GOOD)
    assert kept is not None and kept["step"] == 4
    assert [value.contiguous().numpy().tobytes() for value in kept["network"].values()] == states[0]


def test_settings_of_torch_are_as_before_also_after_an_error(tmp_path: Path) -> None:
    def inside(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert torch.backends.cudnn.enabled == enabled
        raise Killed

    threads, enabled = torch.get_num_threads(), torch.backends.cudnn.enabled
    with pytest.raises(Killed):
        run(tmp_path, make_network(), inside)
    assert not torch.backends.cudnn.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.get_num_threads() == threads


def test_a_factor_of_zero_leaves_a_part_untouched(tmp_path: Path) -> None:
    network = make_network()
    before = network[0].weight.detach().clone()
    run(tmp_path, network, parts=[(network[0], 0.0), (network[5], 1.0)])
    assert torch.equal(network[0].weight, before) and not torch.equal(network[5].weight, make_network()[5].weight)


def test_precision_is_float32_where_the_device_has_no_bfloat16() -> None:
    assert loop.choose_precision("auto", "cpu") == "fp32"
    assert loop.choose_precision("bf16", "cpu") == "bf16"


def test_training_in_bfloat16_learns_too(tmp_path: Path) -> None:
    trained = run(tmp_path, make_network(), precision="bf16", steps=40, evaluate_every=10)
    assert trained.precision == "bf16"
    assert trained.curves["train_loss"][-1][1] < 0.7 * trained.curves["train_loss"][0][1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 1000))
def test_a_step_draws_the_same_whenever_it_is_drawn(seed: int, step: int) -> None:
    first = torch.rand(4, generator=seeding.step_generator(seed, "a", step))
    torch.rand(3)
    assert torch.equal(first, torch.rand(4, generator=seeding.step_generator(seed, "a", step)))
    assert not torch.equal(first, torch.rand(4, generator=seeding.step_generator(seed, "a", step + 1)))
    assert not torch.equal(first, torch.rand(4, generator=seeding.step_generator(seed, "b", step)))
