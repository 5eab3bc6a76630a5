"""The rows of `training/logistic.py`: standardized block by block, then rotated to their principal axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wazuka.training.logistic_path import Batch

BLOCK = 8192
"""Rows standardized at a time where the standardized copy is not kept."""


@dataclass
class Standardized:
    """One problem made ready: its rows as a lazily standardized matrix, its targets."""

    raw: np.ndarray  # (n, dim)
    mean: Tensor  # (dim,)
    scale: Tensor  # (dim,)
    targets: Tensor  # (K, n), weight times share of each class; K = 1 for two classes
    weights: Tensor  # (n,)
    prior_shift: np.ndarray  # (K,)
    offsets: Tensor | None = None  # (K, n)

    def blocks(self) -> list[slice]:
        return [slice(start, start + BLOCK) for start in range(0, len(self.raw), BLOCK)]

    def rows(self, block: slice) -> Tensor:
        """Standardized rows in float64, (b, dim)."""
        return _load(self.raw[block], str(self.mean.device)).sub_(self.mean).div_(self.scale)


def _load(block: np.ndarray, device: str) -> Tensor:
    """Copy rows to the device in float64: they may be a read-only map of a file, or the caller's own."""
    return torch.from_numpy(np.array(block, dtype=np.float64, order="C")).to(device)


def moments(raw: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation in float64, two passes; scale 1 where a feature is constant up to rounding."""
    blocks = [raw[start : start + BLOCK] for start in range(0, len(raw), BLOCK)]
    mean = torch.stack([_load(block, device).sum(0) for block in blocks]).sum(0) / len(raw)
    squares = torch.stack([_load(block, device).sub_(mean).square_().sum(0) for block in blocks]).sum(0)
    variance = squares / len(raw)
    rounding = len(raw) * torch.finfo(torch.float64).eps
    constant = variance <= rounding * variance + (rounding * mean) ** 2
    return mean, torch.where(constant, 1.0, variance.sqrt())


@dataclass
class Axes:
    """The batch in principal axes, and the way back."""

    batch: Batch
    basis: Tensor  # (B, dim, r - 1 or less): standardized features = axes
    center: Tensor  # (B, dim), weighted mean of the standardized rows


def to_axes(standard: list[Standardized], padded_rows: int) -> Axes:
    """Rotate each problem's rows to the principal axes of its weighted Gram matrix, padded to one shape."""
    count, dim, n = len(standard), standard[0].raw.shape[1], padded_rows
    device = standard[0].mean.device
    lines = standard[0].targets.shape[0]
    x = torch.zeros(count, n, dim, dtype=torch.float64, device=device)
    weights = torch.zeros(count, n, dtype=torch.float64, device=device)
    offsets = None if standard[0].offsets is None else torch.zeros(count, lines, n, dtype=torch.float64, device=device)
    targets = torch.zeros(count, lines, n, dtype=torch.float64, device=device)
    center = torch.zeros(count, dim, dtype=torch.float64, device=device)
    for index, one in enumerate(standard):
        m = len(one.raw)
        for block in one.blocks():
            x[index, block.start : min(block.stop, m)] = one.rows(block)
        weights[index, :m], targets[index, :, :m] = one.weights, one.targets
        if offsets is not None and one.offsets is not None:
            offsets[index, :, :m] = one.offsets
        center[index] = one.weights @ x[index, :m] / one.weights.sum()
        x[index, :m] -= center[index]
    rank = min(n, dim)
    if n < dim:
        span, small = torch.linalg.qr(x.transpose(1, 2))  # (B, dim, n), (B, n, n)
        x = small.transpose(1, 2)
    gram = torch.bmm((x * weights[:, :, None]).transpose(1, 2), x)
    values, vectors = torch.linalg.eigh(gram)
    rows = torch.zeros(count, n, -(-(rank + 1) // 8) * 8, dtype=torch.float64, device=device)
    rows[:, :, 0] = 1
    rows[:, :, 1 : rank + 1] = torch.bmm(x, vectors)
    spectrum = torch.zeros(count, rows.shape[2], dtype=torch.float64, device=device)
    spectrum[:, 0] = weights.sum(1)
    spectrum[:, 1 : rank + 1] = values.clamp_min(0)
    ridge = torch.ones(rows.shape[2], dtype=torch.float64, device=device)
    ridge[0] = 0
    batch = Batch(
        rows=rows,
        targets=targets,
        weights=weights,
        spectrum=spectrum,
        ridge=ridge,
        penalty=torch.ones(count, dtype=torch.float64, device=device),
        offsets=offsets,
    )
    return Axes(batch=batch, basis=torch.bmm(span, vectors) if n < dim else vectors, center=center)


def prior(batch: Batch) -> Tensor:
    """The optimum without features: zero weights, the classes' log shares as intercepts, (B, K, r)."""
    coef = torch.zeros(*batch.targets.shape[:2], batch.rows.shape[2], dtype=torch.float64, device=batch.rows.device)
    share = batch.targets.sum(2) / batch.weights.sum(1, keepdim=True)
    coef[:, :, 0] = torch.logit(share) if share.shape[1] == 1 else share.log() - share.log().mean(1, keepdim=True)
    return coef
