"""Losses of a generator and a discriminator, of scores of real and generated images (B,), and gradient penalties.

The penalties are those of a discriminator that takes every image at several scales: means over the scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


def ra_hinge_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Relativistic average hinge (Jolicoeur-Martineau 2019, arXiv:1807.00734): real above the mean fake by 1."""
    return functional.relu(1 - (real - fake.mean())).mean() + functional.relu(1 + (fake - real.mean())).mean()


def ra_hinge_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The same with the roles exchanged."""
    return ra_hinge_discriminator(fake, real)


def wgan_discriminator(real: torch.Tensor, fake: torch.Tensor, *, drift: float) -> torch.Tensor:
    """Wasserstein distance with a drift term (Gulrajani et al. 2017; Karras et al. 2018); the penalty comes besides."""
    return fake.mean() - real.mean() + drift * real.square().mean()


def wgan_generator(fake: torch.Tensor) -> torch.Tensor:
    """Scores should rise."""
    return -fake.mean()


def ns_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Logistic loss (Goodfellow et al. 2014); R1 comes besides."""
    return functional.softplus(fake).mean() + functional.softplus(-real).mean()


def ns_generator(fake: torch.Tensor) -> torch.Tensor:
    """The non-saturating form of the logistic loss."""
    return functional.softplus(-fake).mean()


def gradients_by_scale(scores: torch.Tensor, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Squared norm of each sample's score's gradient with respect to each scale's image: per scale (B,)."""
    gradients = torch.autograd.grad(scores.sum(), list(images), create_graph=True)
    return [one.float().square().sum((1, 2, 3)) for one in gradients]


def r1_penalty(scores: torch.Tensor, images: Sequence[torch.Tensor]) -> torch.Tensor:
    """R1 (Mescheder et al. 2018, arXiv:1801.04406) at real images, which must require gradients: mean over scales."""
    return torch.stack([one.mean() for one in gradients_by_scale(scores, images)]).mean()


def gradient_penalty(
    network: nn.Module,
    reals: Sequence[torch.Tensor],
    fakes: Sequence[torch.Tensor],
    labels: torch.Tensor | None,
    mix: torch.Tensor,
) -> torch.Tensor:
    """WGAN-GP's penalty (Gulrajani et al. 2017, arXiv:1704.00028) on every scale: mean over scales of (|gradient| - 1)^2.

    Args:
        mix: Share of the real image in each sample's mixture, (B,) in [0, 1], the same at all scales.
    """
    share = mix.view(-1, 1, 1, 1)
    mixed = [(share * a + (1 - share) * b).detach().requires_grad_(True) for a, b in zip(reals, fakes, strict=True)]
    squares = gradients_by_scale(network(mixed, labels), mixed)
    return torch.stack([((one + 1e-12).sqrt() - 1).square().mean() for one in squares]).mean()
