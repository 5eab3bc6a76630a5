"""A network, a loss and what each of two processes does with its part of a batch; the test does the whole at once."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from wazuka.nn.hierarchy import Hierarchy
from wazuka.training.correlation_losses import correlation_loss, cross_correlation, with_cached_embeddings

Gradients = dict[str, torch.Tensor]

PARTS = ((0, 7), (7, 12))
"""Rows of each process: not equally many."""


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of 12 images."""
    generator = torch.Generator().manual_seed(5)
    first = torch.rand(12, 3, 16, 16, generator=generator, dtype=torch.float64)
    return first, first + 0.3 * torch.rand(12, 3, 16, 16, generator=generator, dtype=torch.float64)


class Embedder(nn.Module):
    """Three stages without batch statistics, and what embeds their maps: a hierarchy with batch norm, or a linear layer.

    It takes both views at once, as DistributedDataParallel wants it.
    """

    def __init__(self, *, hierarchy: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in ((3, 4), (4, 5), (5, 6))
        )
        self.hierarchy = Hierarchy((4, 5, 6), width=4, dim=7) if hierarchy else None
        self.linear = None if hierarchy else nn.Linear(6, 7)
        self.double()

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = []
        for stage in self.stages:
            images = functional.gelu(stage(images))
            maps.append(images)
        if self.hierarchy is not None:
            return tuple(self.hierarchy(maps))
        assert self.linear is not None
        return (self.linear(maps[-1].mean((2, 3))),)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.embed(first) + self.embed(second)


def loss_of(*embeddings: torch.Tensor) -> torch.Tensor:
    half = len(embeddings) // 2
    pairs = zip(embeddings[:half], embeddings[half:], strict=True)
    return torch.stack([correlation_loss(cross_correlation(a, b)) for a, b in pairs]).sum()


def outcome(network: nn.Module, first: torch.Tensor, second: torch.Tensor, *, micro: int | None) -> Gradients:
    """Loss, gradients and buffers after one backward pass; in micro-batches of so many rows."""
    inner = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    rows = micro or len(first)
    parts = list(zip(first.split(rows), second.split(rows), strict=True))
    loss = torch.zeros((), dtype=torch.float64)
    for part in with_cached_embeddings(network, lambda one: network(*one), parts, loss_of):
        part.backward()
        loss += part.detach()
    found = {f"gradient {name}": one.grad for name, one in inner.named_parameters() if one.grad is not None}
    return {"loss": loss, **found, **dict(inner.named_buffers())}


def work(rank: int, folder: str) -> None:
    """One of two processes; writes what it found."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=240)
    )
    begin, end = PARTS[rank]
    first, second = (one[begin:end] for one in batch())
    for name, hierarchy, micro in (("hierarchy", True, None), ("plain", False, None), ("micro", False, 4)):
        network = nn.parallel.DistributedDataParallel(Embedder(hierarchy=hierarchy))
        found = outcome(network, first, second, micro=micro)
        torch.save({key: one.detach().clone() for key, one in found.items()}, Path(folder) / f"{name}-{rank}.pt")
        del network, found
    torch.distributed.barrier()  # neither leaves while the other still talks to it
    torch.distributed.destroy_process_group()
