"""Figures of embeddings that need no label, to tell early that learning without labels has collapsed or is of no use.

Effective rank: Roy & Vetterli (2007), The effective rank: a measure of effective dimensionality, EUSIPCO. Alignment and
uniformity: Wang & Isola (2020), Understanding contrastive representation learning through alignment and uniformity on
the hypersphere, arXiv:2005.10242. Spread: Chen & He (2021), arXiv:2011.10566, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

DEAD = 0.01
"""A dimension with less spread than this is dead; our choice."""
LEAST_SPREAD = 0.01
"""Below this spread all embeddings are one point; our choice: an untrained ResNet has 0.05 and more."""
LEAST_RANK = 1.1
"""Below this effective rank all embeddings lie on one line; our choice."""
UNIFORMITY_T = 2.0
"""t of the uniformity (Wang & Isola, equation 6)."""


def embedding_figures(first: torch.Tensor, second: torch.Tensor | None = None) -> dict[str, float]:
    """Measure embeddings of n images, on directions alone: the length of an embedding has no part in it.

    Args:
        first: (n, D), two rows or more.
        second: (n, D) of another view of the same images, for the alignment.

    Returns:
        spread: Mean over dimensions of the standard deviation times sqrt(D): 0 at one point, 1 where the directions
            are spread evenly.
        dead: Share of dimensions whose standard deviation times sqrt(D) is below `DEAD`.
        effective_rank: exp of the entropy of the singular values of the centered embeddings, divided by their sum; from
            1 to min(n - 1, D). 0 where all are equal.
        uniformity: log of the mean of exp(-2 |x - y|^2) over pairs of images; 0 at one point, lower is more even.
        alignment: Mean squared distance of the two views of an image, in [0, 4]; only with `second`.
    """
    assert first.ndim == 2 and len(first) >= 2, tuple(first.shape)
    points = _directions(first)
    deviations = points.std(dim=0, correction=0) * points.shape[1] ** 0.5
    figures = {
        "spread": deviations.mean(),
        "dead": (deviations < DEAD).double().mean(),
        "effective_rank": _effective_rank(points - points.mean(dim=0)),
        "uniformity": torch.exp(-UNIFORMITY_T * torch.pdist(points) ** 2).mean().log(),
    }
    if second is not None:
        figures["alignment"] = (points - _directions(second)).pow(2).sum(dim=1).mean()
    return {name: float(value) for name, value in figures.items()}


def collapsed(figures: Mapping[str, float]) -> str | None:
    """Say why embeddings with these figures (of `embedding_figures`) are of no use; None where they may be of use."""
    if not all(value == value for value in figures.values()):
        return "the embeddings are not finite; lower `lr` or set `precision: fp32`."
    if figures["spread"] < LEAST_SPREAD:
        return (
            f"the embeddings have collapsed to one point (spread {figures['spread']:.2g}, at least {LEAST_SPREAD:g} "
            "would be right); lower `lr` or take another method."
        )
    if figures["effective_rank"] < LEAST_RANK:
        return (
            f"the embeddings have collapsed to one line (effective rank {figures['effective_rank']:.2f}, at least "
            f"{LEAST_RANK:g} would be right); lower `lr` or take another method."
        )
    return None


def _directions(embeddings: torch.Tensor) -> torch.Tensor:
    return functional.normalize(embeddings.detach().double().cpu(), dim=1)


def _effective_rank(centered: torch.Tensor) -> torch.Tensor:
    """exp(-sum p log p), p the singular values over their sum (Roy & Vetterli, definition 1)."""
    values = torch.linalg.svdvals(centered)
    total = values.sum()
    if total <= 1e-12 * len(centered):
        return torch.zeros(())
    shares = values / total
    return torch.exp(torch.special.entr(shares).sum())
