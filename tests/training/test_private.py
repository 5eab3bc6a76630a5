"""Private gradients against loops of backward passes, opacus' accountant and the distribution of the noise."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from torch import nn
from torch.nn import functional

from wazuka.core.errors import ConfigError
from wazuka.nn.msg_gan import Discriminator, sides
from wazuka.training import private as module
from wazuka.training.private import (
    Part,
    PoissonRows,
    PrivateGradients,
    check_delta,
    group_delta,
    noise_for,
    per_sample_gradients,
    with_gradient,
)
from wazuka.training.roles import Privacy

BUDGET = Privacy(epsilon=8.0, delta=1e-3)


class Linear(nn.Module):
    """Scores one value per image: weight . image."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs))

    def forward(self, images: Any, labels: torch.Tensor | None = None) -> torch.Tensor:
        return images[0].flatten(1) @ self.weight


def identity(scores: torch.Tensor) -> torch.Tensor:
    return scores


def points(rows: torch.Tensor) -> Part:
    return Part([rows[:, :, None, None]], None, identity)


def engine(**changes: Any) -> PrivateGradients:
    values: dict[str, Any] = {"images": 100, "batch": 10, "steps": 50, "max_grad_norm": 1.0, "seed": 0, "device": "cpu"}
    return PrivateGradients(BUDGET, **(values | changes))


@pytest.mark.parametrize("combine", ["simple", "lin-cat", "cat-lin"])
def test_per_sample_gradients_equal_a_loop_of_backward_passes(combine: Any) -> None:
    torch.manual_seed(0)
    network = Discriminator(32, 32, classes=2, combine=combine, deviation=False)
    part = Part([torch.randn(4, 3, side, side) for side in sides(32)], torch.tensor([0, 1, 1, 0]), functional.softplus)
    gradients, losses = per_sample_gradients(network, part)
    assert part.labels is not None
    for row in range(4):
        network.zero_grad()
        score = network([one[row : row + 1] for one in part.images], part.labels[row : row + 1])
        loss = functional.softplus(score).sum()
        loss.backward()
        assert losses[row] == pytest.approx(float(loss.detach()), rel=1e-5)
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(gradients[name][row], parameter.grad, rtol=1e-4, atol=1e-6), name


@settings(max_examples=25, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3),
    clip=st.floats(0.1, 10),
    count=st.integers(1, 6),
    seed=st.integers(0, 1000),
    chunk=st.sampled_from([1, 2, 100]),
)
def test_one_image_changes_the_sum_by_at_most_the_clipping_norm(
    scale: float, clip: float, count: int, seed: int, chunk: int
) -> None:
    """Without noise, the gradients of neighboring samples differ by one clipped summand over the batch."""
    rows = scale * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    public = points(torch.ones(3, 5))
    results = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "GRADIENT_BYTES", 4 * 5 * chunk)
        patched.setattr(module, "noise_for", lambda *given, **more: 0.0)
        for some in (rows, rows[:-1]):
            network = Linear(5)
            private = points(some) if len(some) else None
            results.append(engine(max_grad_norm=clip)(network, step=0, private=private, public=public)[0][0])
    change = float((results[0] - results[1]).norm()) * 10
    expected = min(clip, float(rows[-1].norm()))
    assert change <= clip * 1.001 + 1e-4
    assert change == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_the_noise_has_the_deviation_of_the_account() -> None:
    """On gradients of zero only the noise is left: sigma C / batch, drawn anew in every step, the same for a seed."""
    private, network = engine(max_grad_norm=3.0), Linear(20_000)
    nothing = points(torch.zeros(2, 20_000))
    first, second = (private(network, step=step, private=None, public=nothing)[0][0] for step in (0, 1))
    expected = private.noise_multiplier * 3.0 / 10
    for one in (first, second):
        assert float(one.std()) == pytest.approx(expected, rel=0.03)  # six standard errors
        assert abs(float(one.mean())) < 5 * expected / math.sqrt(20_000)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.04
    again = engine(max_grad_norm=3.0)(network, step=1, private=None, public=nothing)[0][0]
    other = engine(max_grad_norm=3.0, seed=1)(network, step=1, private=None, public=nothing)[0][0]
    assert torch.equal(second, again) and not torch.equal(second, other)


def test_the_epsilon_spent_is_that_of_opacus_accountant() -> None:
    private, network = engine(), Linear(3)
    for step in range(50):
        private(
            network, step=step, private=points(torch.ones(1, 3)) if step % 2 else None, public=points(torch.ones(2, 3))
        )
    notes = private.notes(patients=np.arange(100) // 4)
    accountant = RDPAccountant()
    accountant.history = [(notes["noise_multiplier"], notes["sample_rate"], notes["steps"])]
    assert notes["epsilon_spent"] == accountant.get_epsilon(notes["delta"]) <= 8.0 == notes["epsilon_asked"]
    assert notes["epsilon_spent"] > 7.9 and (notes["steps"], notes["sample_rate"]) == (50, 0.1)
    assert notes["most_images_of_a_patient"] == 4
    assert notes["epsilon_per_patient_at_most"] == pytest.approx(4 * notes["epsilon_spent"])


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(1.0, 0.05, 200), (3.0, 1.0, 10)])
def test_the_noise_is_the_least_that_meets_the_budget(epsilon: float, rate: float, steps: int) -> None:
    sigma = noise_for(Privacy(epsilon=epsilon, delta=1e-4), sample_rate=rate, steps=steps)
    spent = []
    for one in (sigma, sigma * 0.99):
        accountant = RDPAccountant()
        accountant.history = [(one, rate, steps)]
        spent.append(accountant.get_epsilon(1e-4))
    assert spent[0] <= epsilon < spent[1]


def test_an_account_goes_on_after_an_interruption() -> None:
    whole, first, network = engine(), engine(), Linear(3)
    public = points(torch.ones(2, 3))
    for step in range(6):
        whole(network, step=step, private=None, public=public)
    for step in range(4):
        first(network, step=step, private=None, public=public)
    second = engine()
    second.restore(first.to_plain())
    for step in range(4, 6):
        second(network, step=step, private=None, public=public)
    assert second.spent() == whole.spent() > first.spent() > 0
    assert second.to_plain() == whole.to_plain()


def test_each_row_is_drawn_with_the_sample_rate_on_its_own() -> None:
    draw = PoissonRows(200, 0.1, seed=3)
    hits = np.zeros((2000, 200), bool)
    for step in range(2000):
        hits[step, draw(step)] = True
    assert abs(hits.mean() - 0.1) < 5 * math.sqrt(0.09 / hits.size)
    assert np.abs(hits.mean(0) - 0.1).max() < 5 * math.sqrt(0.09 / 2000)
    counts = hits.sum(1)  # binomial: variance n p (1 - p), which a fixed batch would not have
    assert counts.var() == pytest.approx(18, rel=0.2)
    assert np.array_equal(draw(7), PoissonRows(200, 0.1, seed=3)(7)) and not np.array_equal(draw(7), draw(8))
    assert len(PoissonRows(5, 1.0, seed=0)(0)) == 5
    assert any(len(PoissonRows(2, 0.05, seed=0)(step)) == 0 for step in range(10))


def test_the_value_and_the_derivative_of_a_made_loss_are_those_given() -> None:
    network = nn.Linear(3, 2)
    gradients = [torch.randn(2, 3), torch.randn(2)]
    loss = with_gradient(network, gradients, torch.tensor(0.7))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.7)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad, gradient)


def test_delta_of_a_group_is_the_sum_over_its_members() -> None:
    """k = 3: going through two neighbors between, delta (1 + e^eps + e^2 eps) at most 3 e^(2 eps) delta."""
    assert group_delta(1e-5, 0.5, 1) == pytest.approx(1e-5)
    assert group_delta(1e-5, 0.5, 3) == pytest.approx(3 * math.exp(1.0) * 1e-5)
    assert group_delta(1e-5, 0.5, 3) >= 1e-5 * (1 + math.exp(0.5) + math.exp(1.0))
    assert group_delta(1e-3, 8.0, 50) == 1.0


def test_what_cannot_be_private_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"`dp.delta` is 0.01, and the generator learns from 100 images; give less"
    ) as one:
        check_delta(0.01, 100)
    check_delta(0.0099, 100)
    with pytest.raises(ConfigError, match="cannot be met in 10 steps; give a larger epsilon") as two:
        noise_for(Privacy(epsilon=1e-9, delta=1e-12), sample_rate=1.0, steps=10)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'wazuka\[dp\]'") as three:
        engine()
    assert not any("\n" in str(found.value) for found in (one, two, three))
