"""The correlation loss against loops and NumPy, in parts against the whole, on two processes against one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional

from tests.training import two_processes
from wazuka.core.errors import ConfigError
from wazuka.training.correlation_losses import (
    correlation_loss,
    cross_correlation,
    standardize,
    with_cached_embeddings,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_standardization_is_batch_norm_without_parameters() -> None:
    features = drawn(9, 5) * 3 + 2
    expected = functional.batch_norm(features, None, None, training=True, eps=1e-5)
    torch.testing.assert_close(standardize(features), expected)
    constant = standardize(torch.full((4, 2), 7.0))
    assert torch.equal(constant, torch.zeros(4, 2))


def test_the_correlation_is_numpys() -> None:
    a, b = drawn(20, 4), drawn(20, 4, seed=1) + drawn(20, 4)
    expected = np.corrcoef(a.numpy().T, b.numpy().T)[:4, 4:]
    np.testing.assert_allclose(cross_correlation(a, b, eps=0.0).numpy(), expected, atol=1e-12)


def literal_loss(a: torch.Tensor, b: torch.Tensor, weighting: str, off_diagonal: float) -> float:
    """Zbontar et al., equations 1 and 2, entry by entry; `equal` as FG-SSL's code has it."""
    x, y = ((one - one.mean(0)) / one.std(0, correction=0) for one in (a, b))
    total = 0.0
    for i in range(x.shape[1]):
        for j in range(x.shape[1]):
            entry = sum(float(x[row, i]) * float(y[row, j]) for row in range(len(x))) / len(x)
            if weighting == "equal":
                total += (off_diagonal * entry - off_diagonal * (i == j)) ** 2
            else:
                total += (1 - entry) ** 2 if i == j else off_diagonal * entry**2
    return total


@pytest.mark.parametrize("weighting", ["barlow", "equal"])
@pytest.mark.parametrize("off_diagonal", [0.005, 0.7])
def test_the_loss_equals_a_loop_over_its_entries(weighting: Any, off_diagonal: float) -> None:
    a, b = drawn(6, 4), drawn(6, 4, seed=1)
    loss = correlation_loss(cross_correlation(a, b, eps=0.0), weighting=weighting, off_diagonal=off_diagonal)
    assert float(loss) == pytest.approx(literal_loss(a, b, weighting, off_diagonal), rel=1e-10)
    assert float(correlation_loss(torch.eye(4), weighting=weighting, off_diagonal=off_diagonal)) == 0


def test_the_loss_has_the_gradient_of_its_value() -> None:
    a, b = drawn(6, 4).requires_grad_(), drawn(6, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: correlation_loss(cross_correlation(x, y)), (a, b))


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unknown weighting `barlo`\. Did you mean `barlow`\?"):
        correlation_loss(torch.eye(2), weighting="barlo")  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_correlation_ignores_scale_and_shift_of_every_feature(data: st.DataObject) -> None:
    a, b = drawn(8, 3), drawn(8, 3, seed=1)

    def numbers(low: float, high: float) -> torch.Tensor:
        values = data.draw(st.lists(st.floats(low, high), min_size=3, max_size=3))
        return torch.tensor(values, dtype=torch.float64)

    changed = a * numbers(0.1, 10) + numbers(-5, 5), b * numbers(0.1, 10) + numbers(-5, 5)
    before = cross_correlation(a, b, eps=1e-12)
    torch.testing.assert_close(cross_correlation(*changed, eps=1e-12), before, atol=1e-8, rtol=0)
    torch.testing.assert_close(cross_correlation(-changed[0], changed[1], eps=1e-12), -before, atol=1e-8, rtol=0)


def test_reduced_precision_around_the_loss_does_not_reach_it() -> None:
    a, b = drawn(16, 8).float(), drawn(16, 8, seed=1).float()
    exact = cross_correlation(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cross_correlation(a, b), exact)
    assert cross_correlation(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def smooth_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 16, 6))


def drawing_network() -> nn.Module:
    """Batch norm, torch's and timm's, and dropout."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), BatchNormAct2d(4), nn.Flatten(), nn.Linear(4 * 16, 6)
    )


def pairs(rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    first, second = drawn(10, 2, 6, 6).float(), drawn(10, 2, 6, 6, seed=1).float()
    return list(zip(first.split(rows), (first + second).split(rows), strict=True))


def after(network: nn.Module, parts: Callable[[], Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss, and gradients and buffers, after passing all parts backward."""
    torch.manual_seed(2)
    loss = 0.0
    for part in parts():
        part.backward()
        loss += float(part.detach())
    state = {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
    return loss, state | dict(network.named_buffers())


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    found = {}
    for rows in (1, 3, 10):  # 10: all at once
        network = smooth_network()

        def parts(network: nn.Module = network, rows: int = rows) -> Any:
            return with_cached_embeddings(
                network, lambda one: [network(each) for each in one], pairs(rows), two_processes.loss_of
            )

        found[rows] = after(network, parts)
    expected = float(two_processes.loss_of(*(smooth_network()(one) for one in pairs(10)[0])).detach())
    for rows in (1, 3, 10):
        assert found[rows][0] == pytest.approx(expected, rel=1e-5)
        for name, one in found[10][1].items():
            torch.testing.assert_close(found[rows][1][name], one, atol=1e-5, rtol=1e-5)
            if name != "3.bias":  # the loss ignores shifts
                assert one.abs().max() > 1e-3


def test_accumulation_draws_the_same_twice_and_moves_running_statistics_once() -> None:
    cached, direct = drawing_network(), drawing_network()

    def all_at_once() -> Any:
        embeddings = [[direct(each) for each in one] for one in pairs(4)]
        yield two_processes.loss_of(*(torch.cat(view) for view in zip(*embeddings, strict=True)))

    expected = after(direct, all_at_once)
    found = after(
        cached,
        lambda: with_cached_embeddings(
            cached, lambda one: [cached(each) for each in one], pairs(4), two_processes.loss_of
        ),
    )
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert set(found[1]) == set(expected[1])
    for name, one in expected[1].items():
        torch.testing.assert_close(found[1][name], one, atol=1e-5, rtol=1e-5)
    assert int(cached[1].num_batches_tracked) == 6  # three micro-batches of two views


def test_two_processes_give_the_loss_and_gradients_of_one_with_the_joined_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(two_processes.work, args=(str(tmp_path),), nprocs=2)
    for name, hierarchy in (("hierarchy", True), ("plain", False), ("micro", False)):
        expected = two_processes.outcome(
            two_processes.Embedder(hierarchy=hierarchy), *two_processes.batch(), micro=None
        )
        for rank in range(2):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert set(found) == set(expected)
            for key, one in expected.items():
                torch.testing.assert_close(found[key], one, atol=1e-9, rtol=1e-9, msg=f"{name}, {rank}, {key}")
