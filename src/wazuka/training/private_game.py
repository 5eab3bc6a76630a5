"""The steps of a generator against a discriminator that learns from private images (`training.adversarial.Game`).

The discriminator alone sees real images, through noised gradients (`training.private`); the generator learns from the
discriminator and is as private as that (post-processing). Non-saturating loss; real images are a Poisson sample with
their own labels, generated ones a fixed number with uniformly drawn labels. What belongs to real images (which they are,
their flips and augmentation, the noise) is drawn apart from all else, so that nothing else depends on how many there are.
No loss of a real image leaves here: the discriminator's curve is its loss on generated images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.hashing import derive_seed
from wazuka.nn.rows import ImageRows
from wazuka.training import diff_augment, seeding
from wazuka.training.adversarial import Pyramid
from wazuka.training.adversarial_losses import ns_generator
from wazuka.training.private import Part, PoissonRows, PrivateGradients, with_gradient
from wazuka.training.pyramid_images import Flips, PyramidImages
from wazuka.training.roles import Privacy


@dataclass(frozen=True)
class PrivateBatch:
    """What one step sees.

    Attributes:
        step: Its number.
        real: The Poisson sample, not augmented yet; None where it is empty.
        latents: (batch, L) of the generated images.
        labels: Their classes (batch,); None where the networks take none.
    """

    step: int
    real: Part | None
    latents: torch.Tensor
    labels: torch.Tensor | None


class PrivateGame:
    """The draws and losses of a private training.

    Args:
        images: Private images, n rows.
        labels: Class index per row for conditional networks, (n,); None: networks without classes.
        classes: Number of classes; not read without labels.
        size: Side of the networks' images.
        latent: Length of a latent vector.
        batch: Generated images a step, and real ones on average (fewer where there are fewer real ones).
        steps: Of the whole training.
        augment: Differentiable augmentation; "adaptive" looks at scores of real images and is none of these.
        flips: Of real images.
        intensity, window: Of the images.
        privacy: The budget.
        max_grad_norm: Largest norm of a sample's gradient.
        device: Of the networks.
        seed: Of all draws.

    Raises:
        ConfigError: If opacus is absent, delta is too large or the budget cannot be met.
    """

    def __init__(
        self,
        images: ImageRows,
        labels: np.ndarray | None,
        *,
        classes: int,
        size: int,
        latent: int,
        batch: int,
        steps: int,
        augment: diff_augment.Policy,
        flips: Flips,
        intensity: str,
        window: str | None,
        privacy: Privacy,
        max_grad_norm: float,
        device: str,
        seed: int,
    ) -> None:
        assert augment != "adaptive", augment
        self.gradients = PrivateGradients(
            privacy,
            images=len(images),
            batch=batch,
            steps=steps,
            max_grad_norm=max_grad_norm,
            seed=derive_seed(seed, "private noise"),
            device=device,
        )
        self.batch, self.classes, self.size, self.latent = self.gradients.batch, classes, size, latent
        self.augment: diff_augment.Policy = augment
        self.device, self.seed = device, derive_seed(seed, "private images")
        self.rows = PoissonRows(len(images), self.gradients.sample_rate, seed=self.seed)
        self.reals = PyramidImages(images, size=size, flips=flips, intensity=intensity, window=window, device=device)
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)

    def draw(self, step: int, generator: torch.Generator) -> PrivateBatch:
        """Real images of a step with their classes; latent vectors and classes of as many generated ones in every step."""
        rows, real = self.rows(step), None
        if len(rows):
            own = seeding.step_generator(self.seed, "flips", step, device=self.device)
            labels = None if self.labels is None else self.labels[torch.from_numpy(rows).to(self.device)]
            real = Part(self.reals.batch(rows, own), labels, lambda scores: functional.softplus(-scores))
        latents = torch.randn(self.batch, self.latent, generator=generator, device=self.device)
        if self.labels is None:
            return PrivateBatch(step, real, latents, None)
        drawn = torch.randint(self.classes, (self.batch,), generator=generator, device=self.device)
        return PrivateBatch(step, real, latents, drawn)

    def make(self, network: nn.Module, batch: PrivateBatch) -> Pyramid:
        """Images of the step's latent vectors, float32."""
        return [one.float() for one in network(batch.latents, batch.labels)]

    def discriminator_loss(
        self, network: nn.Module, batch: PrivateBatch, fakes: Pyramid, draws: torch.Generator
    ) -> torch.Tensor:
        """Mean loss of the generated images, with the noised gradient of both kinds."""
        real = batch.real
        with torch.autocast(self.device.partition(":")[0], enabled=False):  # the clipped norm must be exact
            if real is not None:
                own = seeding.step_generator(self.seed, "augment", batch.step, device=self.device)
                real = Part(diff_augment.augment(real.images, self.augment, generator=own), real.labels, real.loss)
            public = Part(diff_augment.augment(fakes, self.augment, generator=draws), batch.labels, functional.softplus)
            gradients, losses = self.gradients(network, step=batch.step, private=real, public=public)
            return with_gradient(network, gradients, losses.mean())

    def generator_loss(
        self, network: nn.Module, batch: PrivateBatch, fakes: Pyramid, draws: torch.Generator
    ) -> torch.Tensor:
        """Loss of the generator."""
        return ns_generator(network(diff_augment.augment(fakes, self.augment, generator=draws), batch.labels))

    def to_plain(self) -> dict[str, Any]:
        """The account of the budget."""
        return self.gradients.to_plain()

    def restore(self, plain: dict[str, Any]) -> None:
        """Go on from `to_plain()`."""
        self.gradients.restore(plain)
