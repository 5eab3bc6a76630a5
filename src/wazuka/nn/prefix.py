"""A network whose first blocks stay frozen: their output is computed once, and training runs only what follows.

The network's own forward pass is used for both halves, so that embeddings of positions, rotations and pooling are where
the architecture has them: the first half stops after the last frozen block; in the second half the frozen blocks hand on
what was stored, and what lies between blocks (downsampling at the start of a stage) runs once, in the second half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class _Reached(Exception):
    """The last frozen block is done; carries its output."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value


@torch.no_grad()
def prefix_output(network: nn.Module, block: str, images: torch.Tensor) -> torch.Tensor:
    """Run a network to the end of one of its blocks.

    Args:
        network: In evaluation mode.
        block: Name of the block.
        images: (B, 3, H, W), normalized.

    Returns:
        The block's output, (B, ...).
    """

    def stop(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        raise _Reached(output)

    handle = network.get_submodule(block).register_forward_hook(stop)
    try:
        network(images)
    except _Reached as reached:
        return reached.value
    finally:
        handle.remove()
    raise AssertionError(f"the network does not run its block {block}")


class _HandOn(nn.Module):
    """In place of a skipped block: gives `value`, or its own input while there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.value: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return x if self.value is None else self.value


class Suffix(nn.Module):
    """What follows the frozen blocks of a network, as a network of its own on their output.

    The network's blocks are replaced in place: it can no longer be used on images.

    Args:
        network: (B, 3, H, W) -> (B, dim).
        skipped: Names of its first blocks, in order; at least one.
        size: (H, W) of the images that the stored outputs come from.
    """

    def __init__(self, network: nn.Module, skipped: Sequence[str], size: tuple[int, int]) -> None:
        super().__init__()
        for name in skipped:
            owner, _, leaf = name.rpartition(".")
            network.get_submodule(owner)._modules[leaf] = _HandOn()
        self.inner, self.size, self._last = network, size, skipped[-1]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map stored outputs (B, ...) to features (B, dim)."""
        gate = self.inner.get_submodule(self._last)
        assert isinstance(gate, _HandOn)
        gate.value = values
        # Only the embedding sees the blank images; what it makes of them is dropped at the gate.
        blank = values.new_zeros(1, 3, 1, 1).expand(len(values), 3, *self.size)
        return self.inner(blank)
