"""Embeddings of an image from three depths of a network, each from its own depth, and one from all three.

Park & Ryu (2024), fine-grained self-supervised learning with jigsaw puzzles (arXiv:2308.05770), after the progressive
multi-granularity network of Du et al. (2020, arXiv:2003.03836). In the code released with the former, embeddings 2 and 3
read level 1; here each reads its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wazuka.nn.joint_batch import JointBatchNorm
from wazuka.nn.taps import LEVELS

JOINED = LEVELS + 1
"""Number of the joined embedding, after levels 1 to 3."""

PRESETS: Mapping[str, Mapping[str, Any]] = {"full": {"width": 512, "pool": None}, "light": {"width": 256, "pool": 14}}
"""`full` is the paper's; `light` reads smaller maps with half the channels. For `Hierarchy(channels, **PRESETS[...])`."""


class Hierarchy(nn.Module):
    """Blocks and heads on three feature maps; batch norm joins the batches of several processes.

    Per level: 1 x 1 convolution to `width`, batch norm, ReLU, 3 x 3 convolution to 2 `width`, batch norm, ReLU, maximum
    over all positions; then batch norm, a linear layer to `dim`, batch norm, ELU. The joined head does the same from the
    three levels' maxima.

    Args:
        channels: Of the three maps.
        width: Channels in a block.
        dim: Length of an embedding (512 in the paper's code).
        pool: Maps are first averaged to at most so many positions a side; None: not.
        classes: Adds a linear classifier on each of the four embeddings; 0: none.
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        *,
        width: int = 512,
        dim: int = 512,
        pool: int | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.pool, self.dim = pool, dim
        self.blocks = nn.ModuleList(_block(one, width) for one in channels)
        self.heads = nn.ModuleList(_head(2 * width, dim) for _ in channels)
        self.joined = _head(2 * width * len(channels), dim)
        self.classifiers = nn.ModuleList(nn.Linear(dim, classes) for _ in range(JOINED if classes else 0))

    def forward(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Embed three maps: those of levels 1, 2, 3 and the joined one, each (B, dim)."""
        vectors = self._vectors(maps)
        levels = [head(one) for head, one in zip(self.heads, vectors, strict=True)]
        return (*levels, self.joined(torch.cat(vectors, dim=1)))

    def forward_level(self, level: int, features: torch.Tensor) -> torch.Tensor:
        """Embed the map of one level (1, 2 or 3) alone, (B, channels, h, w) -> (B, dim)."""
        assert 1 <= level <= LEVELS, level
        return self.heads[level - 1](self._vector(level, features))

    def forward_joined(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Embed three maps jointly, without the levels' own embeddings: (B, dim)."""
        return self.joined(torch.cat(self._vectors(maps), dim=1))

    def classify(self, number: int, embedding: torch.Tensor) -> torch.Tensor:
        """Map embedding 1, 2, 3 or 4 (`JOINED`) to its logits (B, classes); the prediction takes the sum of all four."""
        assert 1 <= number <= len(self.classifiers), (number, len(self.classifiers))
        return self.classifiers[number - 1](embedding)

    def _vectors(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        assert len(maps) == LEVELS, len(maps)
        return [self._vector(number, one) for number, one in enumerate(maps, start=1)]

    def _vector(self, level: int, features: torch.Tensor) -> torch.Tensor:
        if self.pool is not None:
            step = -(-max(features.shape[-2:]) // self.pool)
            if step > 1:  # whole steps: adaptive pooling has no deterministic gradient on a GPU
                features = functional.avg_pool2d(features, step, ceil_mode=True)
        return self.blocks[level - 1](features).amax(dim=(2, 3))


def _block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False),
        JointBatchNorm(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        JointBatchNorm(2 * width),
        nn.ReLU(inplace=True),
    )


def _head(inputs: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        JointBatchNorm(inputs), nn.Linear(inputs, dim, bias=False), JointBatchNorm(dim), nn.ELU(inplace=True)
    )
