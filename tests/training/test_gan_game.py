"""A step's losses: real images under another class, against the formulas written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy_images import as_images, noise
from wazuka.training.gan_game import Batch, GanGame, Loss


def levels(images: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([one.mean((1, 2, 3)) for one in images]).sum(0)


class Scorer(nn.Module):
    """Scores are known: the sum of its levels' means times a factor of its class; remembers the classes that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.asked: list[torch.Tensor] = []

    def forward(self, images: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        self.asked.append(labels)
        means = levels(images)
        return (means if labels.ndim == 1 else means[:, None]) * self.factors[labels]


def make(folder: Path, loss: Loss, mismatch: float, labels: np.ndarray | None) -> GanGame:
    weights: dict[str, Any] = {"gamma": 0.0, "penalty": 0.0, "drift": 0.0, "augment": "none", "flips": "none"}
    pixels: dict[str, Any] = {"intensity": "rgb8", "window": None, "device": "cpu", "seed": 0}
    images = as_images(noise(12), folder)
    return GanGame(
        images, labels, size=32, latent=4, batch=6, steps=1, loss=loss, mismatch=mismatch, **weights, **pixels
    )


def softplus(values: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.exp(values))


def written_out(loss: Loss, real: torch.Tensor, false: torch.Tensor) -> torch.Tensor:
    if loss == "ra-hinge":
        return (1 - real + false.mean()).clamp(min=0).mean() + (1 + false - real.mean()).clamp(min=0).mean()
    if loss == "wgan-gp":
        return false.mean() - real.mean()
    return softplus(-real).mean() + softplus(false).mean()


@pytest.mark.parametrize("loss", ["ra-hinge", "wgan-gp", "ns-r1", "ns"])
def test_a_real_image_under_another_class_counts_as_false(loss: Loss, tmp_path: Path) -> None:
    labels = np.arange(12) % 3
    game, network = make(tmp_path, loss, 0.7, labels), Scorer()
    batch = game.draw(0, torch.Generator().manual_seed(1))
    assert isinstance(batch, Batch) and batch.labels is not None
    fakes = [torch.randn(6, 3, side, side) for side in (4, 8, 16, 32)]
    value = game.discriminator_loss(network, batch, fakes, torch.Generator().manual_seed(2))
    asked = next(one for one in network.asked if one.ndim == 2)
    assert torch.equal(asked[:, 0], batch.labels) and bool((asked[:, 1] != batch.labels).all())
    means = levels(batch.reals)
    real, wrong = means * network.factors[batch.labels], means * network.factors[asked[:, 1]]
    fake = levels(fakes) * network.factors[batch.labels]
    expected = written_out(loss, real, fake) + 0.7 * written_out(loss, real, wrong)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_every_other_class_is_drawn(tmp_path: Path) -> None:
    game, network = make(tmp_path, "ra-hinge", 1.0, np.arange(12) % 3), Scorer()
    draws = torch.Generator().manual_seed(3)
    for step in range(20):
        batch = game.draw(step, draws)
        fakes = [torch.zeros_like(one) for one in batch.reals]
        game.discriminator_loss(network, batch, fakes, draws)
    pairs = torch.cat([one for one in network.asked if one.ndim == 2]).tolist()
    assert {tuple(one) for one in pairs} == {(a, b) for a in range(3) for b in range(3) if a != b}


@pytest.mark.parametrize("mismatch", [0.0, 1.0])
def test_without_weight_or_classes_there_is_no_other_class(mismatch: float, tmp_path: Path) -> None:
    game, network = make(tmp_path, "ns", mismatch, np.arange(12) % 3 if mismatch == 0 else None), Scorer()
    batch = game.draw(0, torch.Generator().manual_seed(1))
    fakes = [torch.zeros_like(one) for one in batch.reals]
    if batch.labels is None:
        network.forward = lambda images, labels: levels(images)  # type: ignore[method-assign]
    value = game.discriminator_loss(network, batch, fakes, torch.Generator().manual_seed(2))
    assert all(one.ndim == 1 for one in network.asked)
    assert torch.isfinite(value)
