"""Batch norm of a joined batch is torch's own on one process (on two: tests/training/test_correlation_losses.py)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wazuka.nn.joint_batch import JointBatchNorm, joint_moments, kept_statistics


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5, 5)])
def test_on_one_process_it_is_torchs_batch_norm(shape: tuple[int, ...]) -> None:
    ours, torchs = JointBatchNorm(3), (nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3))
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 2 + 1
    assert torch.equal(ours(values), torchs(values))
    assert torch.equal(ours.eval()(values), torchs.eval()(values))
    assert {name: one.tolist() for name, one in ours.state_dict().items()} == {
        name: one.tolist() for name, one in torchs.state_dict().items()
    }


def test_moments_are_those_of_all_values_of_a_channel() -> None:
    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 4
    mean, variance, count = joint_moments(values)
    flat = values.transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, flat.mean(1))
    torch.testing.assert_close(variance, flat.var(1, correction=0))
    assert float(count) == 100


def test_kept_statistics_change_no_output_and_no_buffer() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), JointBatchNorm(3))
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    before = {name: one.clone() for name, one in network.named_buffers()}
    with kept_statistics(network):
        kept = network(values)
    assert all(torch.equal(one, before[name]) for name, one in network.named_buffers())
    assert torch.equal(network(values), kept)
    assert not torch.equal(network[0].running_mean, before["0.running_mean"])
