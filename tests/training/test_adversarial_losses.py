"""Losses and penalties against loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wazuka.training import adversarial_losses as losses

REAL, FAKE = torch.tensor([1.5, -0.2, 0.4]), torch.tensor([-0.3, 0.9, 0.1, -2.0])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_relativistic_average_hinge_equals_the_formula() -> None:
    r, f = REAL.tolist(), FAKE.tolist()
    discriminator = mean([max(0, 1 - (one - mean(f))) for one in r]) + mean([max(0, 1 + (one - mean(r))) for one in f])
    generator = mean([max(0, 1 + (one - mean(f))) for one in r]) + mean([max(0, 1 - (one - mean(r))) for one in f])
    assert float(losses.ra_hinge_discriminator(REAL, FAKE)) == pytest.approx(discriminator, rel=1e-6)
    assert float(losses.ra_hinge_generator(REAL, FAKE)) == pytest.approx(generator, rel=1e-6)
    assert float(losses.ra_hinge_discriminator(REAL + 10, FAKE)) == 0.0


def test_wasserstein_and_logistic_losses_equal_the_formulas() -> None:
    r, f = REAL.tolist(), FAKE.tolist()
    wasserstein = mean(f) - mean(r) + 0.5 * mean([one**2 for one in r])
    logistic = mean([math.log1p(math.exp(one)) for one in f]) + mean([math.log1p(math.exp(-one)) for one in r])
    assert float(losses.wgan_discriminator(REAL, FAKE, drift=0.5)) == pytest.approx(wasserstein, rel=1e-6)
    assert float(losses.wgan_generator(FAKE)) == pytest.approx(-mean(f), rel=1e-6)
    assert float(losses.ns_discriminator(REAL, FAKE)) == pytest.approx(logistic, rel=1e-6)
    assert float(losses.ns_generator(FAKE)) == pytest.approx(mean([math.log1p(math.exp(-one)) for one in f]), rel=1e-6)


class Quadratic(nn.Module):
    """score = sum over scales of a_s / 2 * |x_s|^2 + label: its gradient at scale s is a_s x_s."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, images: list[torch.Tensor], labels: torch.Tensor | None = None) -> torch.Tensor:
        scores = sum(a / 2 * x.square().sum((1, 2, 3)) for a, x in zip(self.weights, images, strict=True))
        assert isinstance(scores, torch.Tensor)
        return scores if labels is None else scores + labels


def pyramid(seed: int) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 2, side, side, generator=draws) for side in (4, 8)]


def test_r1_is_the_mean_over_scales_of_squared_gradients() -> None:
    network, images = Quadratic((0.5, 2.0)), [one.requires_grad_(True) for one in pyramid(0)]
    penalty = losses.r1_penalty(network(images), images)
    by_scale = [
        mean([float(a**2 * (x.detach() ** 2).sum()) for x in one]) for a, one in zip((0.5, 2.0), images, strict=True)
    ]
    assert float(penalty.detach()) == pytest.approx(mean(by_scale), rel=1e-5)
    penalty.backward()  # it trains the discriminator: d/da of a^2 |x|^2 / scales
    expected = [2 * a * value / a**2 / 2 for a, value in zip((0.5, 2.0), by_scale, strict=True)]
    assert network.weights.grad is not None
    assert network.weights.grad.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_penalty_is_the_mean_over_scales_at_the_mixtures() -> None:
    network, reals, fakes = Quadratic((0.3, 0.1)), pyramid(1), pyramid(2)
    mix = torch.tensor([0.0, 1.0, 0.25, 0.5, 0.9])
    penalty = losses.gradient_penalty(network, reals, fakes, torch.zeros(5), mix)
    by_scale = []
    for a, real, fake in zip((0.3, 0.1), reals, fakes, strict=True):
        mixed = [share * r + (1 - share) * f for share, r, f in zip(mix.tolist(), real, fake, strict=True)]
        by_scale.append(mean([(float((a * one).norm()) - 1) ** 2 for one in mixed]))
    assert float(penalty.detach()) == pytest.approx(mean(by_scale), rel=1e-4)
    penalty.backward()
    assert network.weights.grad is not None and bool((network.weights.grad != 0).all())


def test_a_gradient_of_norm_one_costs_nothing_and_one_of_zero_stays_finite() -> None:
    class Linear(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor))

        def forward(self, images: list[torch.Tensor], labels: torch.Tensor | None = None) -> torch.Tensor:
            scores = sum(one[:, 0, 0, 0] * self.factor for one in images)
            assert isinstance(scores, torch.Tensor)
            return scores

    for factor, expected in ((1.0, 0.0), (0.0, 1.0), (3.0, 4.0)):
        network = Linear(factor)
        penalty = losses.gradient_penalty(network, pyramid(1), pyramid(2), None, torch.rand(5))
        penalty.backward()
        assert float(penalty.detach()) == pytest.approx(expected, abs=1e-5)
        assert network.factor.grad is not None and bool(torch.isfinite(network.factor.grad))
