"""The look at a network in training: its figures are in the curves, over a resume too, and it may end the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from wazuka.training.checkpoints import CHECKPOINT
from wazuka.training.loop import Looked, LoopSettings, Trained, train

SETTINGS = LoopSettings(steps=9, lr=0.05, evaluate_every=2, checkpoint_seconds=0.0, patience=None)


class Killed(BaseException):
    """Stands for a process that is killed."""


def run(folder: Path, network: nn.Module, *, die_at: int | None = None, useless_from: int = 99) -> Trained:
    def loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        if step == die_at:
            raise Killed
        assert model.training
        return model(torch.randn(6, 3, generator=generator)).square().mean()

    def look(model: nn.Module, step: int) -> Looked:
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(7)  # what it draws from torch's own generator changes nothing
        figures = {"weight": float(model[0].weight.detach().sum()), "bias": float(model[0].bias.sum())}  # type: ignore[index]
        return Looked(figures=figures, useless="no use at all." if step >= useless_from else None)

    return train(network, loss, settings=SETTINGS, seed=1, device="cpu", folder=folder, look=look)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2))


def test_its_figures_are_in_the_curves_at_the_end_of_every_interval(tmp_path: Path) -> None:
    model = network()
    trained = run(tmp_path, model)
    assert [step for step, _ in trained.curves["weight"]] == [2, 4, 6, 8, 9]
    assert trained.curves["weight"][-1][1] == pytest.approx(float(model[0].weight.detach().sum()))  # type: ignore[index]
    assert set(trained.curves) == {"train_loss", "weight", "bias"}
    assert trained.collapsed is None and not trained.stopped_early


@pytest.mark.parametrize("moment", [1, 4, 7])
def test_an_interrupted_training_has_the_same_figures_and_bytes(tmp_path: Path, moment: int) -> None:
    whole, broken, resumed = network(), network(), network()
    expected = run(tmp_path / "a", whole)
    with pytest.raises(Killed):
        run(tmp_path / "b", broken, die_at=moment)
    assert run(tmp_path / "b", resumed) == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_it_changes_no_weight(tmp_path: Path) -> None:
    looked, plain = network(), network()
    run(tmp_path / "a", looked)

    def loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        return model(torch.randn(6, 3, generator=generator)).square().mean()

    train(plain, loss, settings=SETTINGS, seed=1, device="cpu", folder=tmp_path / "b")
    assert torch.equal(looked[0].weight, plain[0].weight)  # type: ignore[index]


def test_it_ends_a_useless_training_and_says_why(tmp_path: Path) -> None:
    trained = run(tmp_path, network(), useless_from=4)
    assert (trained.steps, trained.collapsed, trained.stopped_early) == (4, "no use at all.", False)
    assert [step for step, _ in trained.curves["weight"]] == [2, 4]
    assert not (tmp_path / CHECKPOINT).exists()
