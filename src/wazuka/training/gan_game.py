"""The steps of a generator against a discriminator at several scales (`training.adversarial.Game`): draws and losses.

Relativistic average hinge, WGAN-GP, non-saturating with R1 or without; penalties are means over the scales. Images of both
kinds are augmented before the discriminator sees them. A discriminator that takes classes also learns to tell a real image
under another class from one under its own, as Reed et al. (2016, Generative adversarial text to image synthesis,
arXiv:1605.05396, algorithm 1) do with wrong texts. The form for private images is `training.private_game`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from wazuka.core.hashing import derive_seed
from wazuka.nn.rows import ImageRows
from wazuka.training import diff_augment
from wazuka.training.adversarial import Pyramid
from wazuka.training.adversarial_losses import (
    gradient_penalty,
    ns_discriminator,
    ns_generator,
    r1_penalty,
    ra_hinge_discriminator,
    ra_hinge_generator,
    wgan_discriminator,
    wgan_generator,
)
from wazuka.training.pyramid_images import Flips, PyramidImages
from wazuka.training.sampling import BalancedRows, ShuffledRows

Loss = Literal["ra-hinge", "wgan-gp", "ns-r1", "ns"]


@dataclass(frozen=True)
class Batch:
    """What one step sees: real images at every scale, their classes (also those of the fakes) and latent vectors."""

    reals: Pyramid
    labels: torch.Tensor | None
    latents: torch.Tensor


class GanGame:
    """The draws and losses of a training (`training.adversarial.Game`).

    Args:
        images: Real images to train on, n rows.
        labels: Class index per row for a conditional training, (n,); each class is then drawn equally often. None: rows
            come as they are.
        size: Side of the networks' images.
        latent: Length of a latent vector.
        batch: Real images a step, and as many generated ones (fewer where there are fewer real ones).
        steps: Of the whole training.
        loss: ra-hinge (relativistic average hinge), wgan-gp, ns-r1 (non-saturating with R1) or ns (without).
        mismatch: Weight of real images under another class, drawn anew in every step, in the place of generated ones; with
            labels only.
        gamma, penalty, drift: Weights of R1 (half of it is used), of WGAN-GP's penalty and of its drift term.
        augment: Differentiable augmentation of both kinds of images.
        flips: Of real images.
        intensity, window: Of the images.
        device: Of the networks.
        seed: Of the order of rows.
    """

    def __init__(
        self,
        images: ImageRows,
        labels: np.ndarray | None,
        *,
        size: int,
        latent: int,
        batch: int,
        steps: int,
        loss: Loss,
        mismatch: float,
        gamma: float,
        penalty: float,
        drift: float,
        augment: diff_augment.Policy,
        flips: Flips,
        intensity: str,
        window: str | None,
        device: str,
        seed: int,
    ) -> None:
        self.latent, self.device = latent, device
        self.loss, self.gamma, self.penalty, self.drift = loss, gamma, penalty, drift
        self.mismatch = 0.0 if labels is None else mismatch
        self.classes = 0 if labels is None else int(labels.max()) + 1
        self.augment: diff_augment.Policy = augment
        self.reals = PyramidImages(images, size=size, flips=flips, intensity=intensity, window=window, device=device)
        order = derive_seed(seed, "order")
        self.rows: BalancedRows | ShuffledRows = (
            ShuffledRows(len(images), batch, seed=order) if labels is None else BalancedRows(labels, batch, seed=order)
        )
        self.batch = self.rows.batch
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)
        self.adaptive: diff_augment.AdaptiveChance | None = None
        if augment == "adaptive":
            self.adaptive = diff_augment.AdaptiveChance(batch=self.rows.batch, steps=steps, device=device)

    def draw(self, step: int, generator: torch.Generator) -> Batch:
        """Real images of a step, their classes, latent vectors."""
        rows = self.rows(step)
        reals = self.reals.batch(rows, generator)
        labels = None if self.labels is None else self.labels[torch.from_numpy(rows).to(self.device, non_blocking=True)]
        return Batch(reals, labels, torch.randn(len(rows), self.latent, generator=generator, device=self.device))

    def make(self, network: nn.Module, batch: Batch) -> Pyramid:
        """Images of the step's latent vectors, float32."""
        return [one.float() for one in network(batch.latents, batch.labels)]

    def discriminator_loss(
        self, network: nn.Module, batch: Batch, fakes: Pyramid, draws: torch.Generator
    ) -> torch.Tensor:
        """Loss of the discriminator with its penalty; both kinds of images are augmented, each with its own draws."""
        reals, fakes = self._augment(batch.reals, draws), self._augment(fakes, draws)
        if self.loss == "ns-r1":
            reals = [one.detach().requires_grad_(True) for one in reals]
        fake = network(fakes, batch.labels)
        if self.mismatch and batch.labels is not None:
            step = torch.randint(1, self.classes, batch.labels.shape, generator=draws, device=self.device)
            other = (batch.labels + step) % self.classes
            real, wrong = network(reals, torch.stack([batch.labels, other], 1)).unbind(1)
            loss = self._tell_apart(real, fake) + self.mismatch * self._tell_apart(real, wrong)
        else:
            real = network(reals, batch.labels)
            loss = self._tell_apart(real, fake)
        if self.adaptive is not None:
            middle = 0.0 if self.loss in ("ns", "ns-r1") else (real.detach().mean() + fake.detach().mean()) / 2
            self.adaptive.update(real, middle)
        if self.loss == "ns-r1":
            loss = loss + self.gamma / 2 * r1_penalty(real, reals)
        elif self.loss == "wgan-gp":
            mix = torch.rand(len(real), generator=draws, device=real.device)
            loss = loss + self.penalty * gradient_penalty(network, reals, fakes, batch.labels, mix)
        return loss

    def _tell_apart(self, real: torch.Tensor, false: torch.Tensor) -> torch.Tensor:
        """The discriminator's loss without its penalty, of scores of images that are right and that are not."""
        if self.loss == "ra-hinge":
            return ra_hinge_discriminator(real, false)
        if self.loss == "wgan-gp":
            return wgan_discriminator(real, false, drift=self.drift)
        return ns_discriminator(real, false)

    def generator_loss(self, network: nn.Module, batch: Batch, fakes: Pyramid, draws: torch.Generator) -> torch.Tensor:
        """Loss of the generator."""
        fake = network(self._augment(fakes, draws), batch.labels)
        if self.loss == "wgan-gp":
            return wgan_generator(fake)
        if self.loss in ("ns", "ns-r1"):
            return ns_generator(fake)
        with torch.no_grad():
            real = network(self._augment(batch.reals, draws), batch.labels)
        return ra_hinge_generator(real, fake)

    def _augment(self, pyramid: Pyramid, draws: torch.Generator) -> Pyramid:
        chance = 1.0 if self.adaptive is None else self.adaptive.chance
        return diff_augment.augment(pyramid, self.augment, generator=draws, chance=chance)

    def to_plain(self) -> dict[str, Any]:
        """The adaptive chance."""
        return {} if self.adaptive is None else self.adaptive.to_plain()

    def restore(self, plain: dict[str, Any]) -> None:
        """Go on from `to_plain()`."""
        if self.adaptive is not None:
            self.adaptive.restore(plain)
