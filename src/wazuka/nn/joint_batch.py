"""Statistics of a batch that lies in parts on several processes (torch.distributed), as if it lay on one.

Without an initialized process group, or with one process, everything here is the ordinary single-process form.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wazuka.nn.batchnorm import batchnorm_layers


def processes() -> int:
    """Processes that train together; 1 where torch.distributed is not in use."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Add up a tensor of one shape over all processes; differentiable.

    Where every process computes the same loss from such sums, the mean of the processes' gradients (what
    DistributedDataParallel leaves) is the gradient of that loss on the whole batch.
    """
    return values if processes() == 1 else _Sum.apply(values)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()  # each process's loss depends on every process's values
        torch.distributed.all_reduce(total)
        return total


def joint_moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and biased variance per channel over the batch of all processes, and the number of values behind them.

    Args:
        values: (B, C, ...) float32 or float64; B may differ between processes.

    Returns:
        (C,), (C,) and a scalar tensor; differentiable.
    """
    axes = [axis for axis in range(values.ndim) if axis != 1]
    here = values.new_full((1,), values.numel() // values.shape[1])
    total = sum_over_processes(torch.cat([values.sum(axes), here]))
    count = total[-1]
    mean = total[:-1] / count
    squares = (values - _like(mean, values)).square().sum(axes)
    return mean, sum_over_processes(squares) / count, count


class JointBatchNorm(_BatchNorm):
    """Batch normalization of (B, C, ...) by the statistics of the batch of all processes, on any device.

    torch's own SyncBatchNorm needs a GPU. Names of tensors, settings and single-process results are those of
    `nn.BatchNorm1d` and `nn.BatchNorm2d`.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        assert input.ndim >= 2, input.shape

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalize; running statistics are updated in training."""
        if not self.training or processes() == 1:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            values = input.double() if input.dtype == torch.float64 else input.float()
            mean, variance, count = joint_moments(values)
            if self.track_running_stats:
                self._track(mean.detach(), variance.detach() * (count / (count - 1)))
            values = (values - _like(mean, values)) * _like(torch.rsqrt(variance + self.eps), values)
            if self.affine:
                values = values * _like(self.weight, values) + _like(self.bias, values)
            return values.to(input.dtype)

    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics towards those of this batch, the variance unbiased as torch has it."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch-norm layers as they are, whatever is passed through in training mode.

    Outputs do not change: in training these layers normalize by the batch.
    """
    layers = [one for one in batchnorm_layers(network) if one.track_running_stats]
    for one in layers:
        one.track_running_stats = False
    try:
        yield
    finally:
        for one in layers:
            one.track_running_stats = True


def _like(channels: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(C,) -> (1, C, 1, ...) to go with (B, C, ...)."""
    return channels.view(1, -1, *[1] * (values.ndim - 2))
