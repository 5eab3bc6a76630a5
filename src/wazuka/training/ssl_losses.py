"""Losses of joint embedding: two views of an image should have embeddings that agree without all being the same.

All take float32 embeddings of whole batches and give a scalar. Barlow Twins' is in `training.correlation_losses`.
"""

from __future__ import annotations

import torch
from torch.nn import functional

VARIANCE_EPS = 1e-4
"""Added to variances before the root (VICReg, equation 2)."""


def negative_cosine(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean negative cosine similarity (SimSiam, Chen & He 2021, arXiv:2011.10566, equation 1); in [-1, 1].

    Args:
        prediction: (B, D).
        target: (B, D); no gradient flows into it.
    """
    return -functional.cosine_similarity(prediction, target.detach(), dim=1).mean()


def nt_xent(first: torch.Tensor, second: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Cross-entropy of finding an embedding's other view among all 2B - 1 others (SimCLR, arXiv:2002.05709, equation 1).

    Args:
        first, second: (B, D) embeddings of the two views.
        temperature: tau, above 0.
    """
    count = len(first)
    points = functional.normalize(torch.cat([first, second]), dim=1)
    logits = points @ points.T / temperature
    logits = logits.masked_fill(torch.eye(2 * count, dtype=torch.bool, device=logits.device), float("-inf"))
    partners = torch.arange(2 * count, device=logits.device).roll(count)
    return functional.cross_entropy(logits, partners)


def vicreg(
    first: torch.Tensor, second: torch.Tensor, *, invariance: float, variance: float, covariance: float
) -> torch.Tensor:
    """Invariance, variance and covariance (VICReg, Bardes, Ponce & LeCun 2022, arXiv:2105.04906, equations 1 to 6).

    As in the authors' code, the invariance is the mean over images and dimensions, and the variance term the mean of both
    views' (equation 6 sums them); the covariance term is their sum.

    Args:
        first, second: (B, D) embeddings of the two views, B 2 or more.
        invariance, variance, covariance: Weights lambda, mu and nu.
    """
    agree = functional.mse_loss(first, second)
    spread = (_hinge(first) + _hinge(second)) / 2
    return invariance * agree + variance * spread + covariance * (_off_diagonal(first) + _off_diagonal(second))


def _hinge(points: torch.Tensor) -> torch.Tensor:
    """Mean over dimensions of how much the standard deviation falls short of 1 (equations 1 and 2)."""
    return functional.relu(1 - torch.sqrt(points.var(dim=0) + VARIANCE_EPS)).mean()


def _off_diagonal(points: torch.Tensor) -> torch.Tensor:
    """Sum of squared covariances of different dimensions, divided by D (equations 3 and 4)."""
    centered = points - points.mean(dim=0)
    matrix = centered.T @ centered / (len(points) - 1)
    return (matrix.pow(2).sum() - matrix.diagonal().pow(2).sum()) / points.shape[1]
