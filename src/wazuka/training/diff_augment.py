"""Differentiable augmentation of what a discriminator sees, real and generated alike, so that few images last longer.

Zhao, Liu, Lin, Zhu & Han (2020), Differentiable Augmentation for Data-Efficient GAN Training (arXiv:2006.10738): color
(brightness, saturation, contrast), translation by up to 1/8 of the side, cutout of half a side. The chance with which each
operation is applied to a sample may follow the discriminator's overfitting: Karras et al. (2020), Training Generative
Adversarial Networks with Limited Data (arXiv:2006.06676).

An image is a pyramid: what is drawn for it (`draw`, in shares of the side) is applied to every scale (`apply`, pure) at
its own resolution. All operations commute with the halving of images: the pyramid of a changed image is the changed
pyramid, exactly so where shift and cut fall on whole pixels of the coarser scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Policy = Literal["none", "light", "strong", "adaptive"]
"""light: color and translation; strong: besides cutout; adaptive: strong, with a chance that follows overfitting."""

BRIGHTNESS = 0.5
"""Added to values in [-1, 1], drawn from +-0.5."""
SATURATION = (0.0, 2.0)
CONTRAST = (0.5, 1.5)
SHIFT = 1 / 8
CUT = 1 / 2

TARGET = 0.6
"""Share of overfitting that the adaptive chance aims at (Karras et al., r_t)."""
UPDATE_EVERY = 4
"""Steps whose scores decide one change of the chance (Karras et al.)."""
IMAGES_TO_FULL = 500_000
"""Images in which the chance can rise from 0 to 1 (Karras et al.)."""
SHARE_TO_FULL = 0.25
"""The same as a share of a training that is shorter than their 25 million images; our choice."""


@dataclass(frozen=True)
class Draws:
    """What happens to each of B samples; the neutral values leave a sample as it is.

    Attributes:
        brightness: (B,) added; neutral 0.
        saturation: (B,) factor on the distance from gray; neutral 1. None: gray images have none.
        contrast: (B,) factor on the distance from the mean; neutral 1.
        shift: (B, 2) right and down, in shares of the side; neutral 0.
        center: (B, 2) of the cut, (x, y) in shares of the side.
        cut: (B,) side of the cut as a share of the image's; neutral 0.
    """

    brightness: torch.Tensor
    saturation: torch.Tensor | None
    contrast: torch.Tensor
    shift: torch.Tensor
    center: torch.Tensor
    cut: torch.Tensor


def draw(
    count: int,
    *,
    policy: Literal["light", "strong"],
    chance: torch.Tensor | float,
    size: int,
    color: bool,
    generator: torch.Generator,
) -> Draws:
    """Draw what happens to `count` samples, on the generator's device.

    Args:
        chance: With which each operation is applied to a sample, in [0, 1]; a tensor stays on its device.
        size: Side of the finest scale: shifts are whole pixels there.
        color: Whether images have color to saturate.
    """
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    def sometimes(values: torch.Tensor, neutral: float) -> torch.Tensor:
        chosen = torch.rand(count, generator=generator, device=device) < chance
        return torch.where(chosen.view(-1, *[1] * (values.ndim - 1)), values, torch.full_like(values, neutral))

    brightness = sometimes(uniform(-BRIGHTNESS, BRIGHTNESS), 0.0)
    saturation = sometimes(uniform(*SATURATION), 1.0)
    contrast = sometimes(uniform(*CONTRAST), 1.0)
    reach = round(SHIFT * size)
    pixels = torch.randint(-reach, reach + 1, (count, 2), generator=generator, device=device)
    shift = sometimes(pixels / size, 0.0)
    center = uniform(0.0, 1.0, 2)
    cut = sometimes(torch.full((count,), CUT, device=device), 0.0)
    if policy == "light":
        cut = torch.zeros_like(cut)
    return Draws(brightness, saturation if color else None, contrast, shift, center, cut)


def apply(pyramid: Sequence[torch.Tensor], draws: Draws) -> list[torch.Tensor]:
    """Change every scale of B images in the same way; differentiable, also twice.

    Args:
        pyramid: Per scale (B, C, side, side), in [-1, 1]; what is moved in or cut out becomes 0 (medium gray).
        draws: Of the same B images.
    """
    return [_cut(_translate(_color(images, draws), draws.shift), draws.center, draws.cut) for images in pyramid]


def augment(
    pyramid: Sequence[torch.Tensor],
    policy: Policy,
    *,
    generator: torch.Generator,
    chance: torch.Tensor | float = 1.0,
) -> list[torch.Tensor]:
    """Draw and apply at once, in float32 whatever arithmetic is switched on.

    Args:
        pyramid: Per scale (B, C, side, side), coarsest first, in [-1, 1].
        policy: What is done; "none" leaves the images as they are.
        generator: On the images' device.
        chance: As in `draw`.
    """
    if policy == "none":
        return list(pyramid)
    count, channels, size = pyramid[-1].shape[:3]
    kind: Literal["light", "strong"] = "light" if policy == "light" else "strong"
    drawn = draw(count, policy=kind, chance=chance, size=size, color=channels == 3, generator=generator)
    with torch.autocast(pyramid[0].device.type, enabled=False):
        return apply(pyramid, drawn)


def _color(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Brightness, saturation, contrast, in this order."""
    images = images + draws.brightness.view(-1, 1, 1, 1)
    if draws.saturation is not None:
        gray = images.mean(1, keepdim=True)
        images = gray + (images - gray) * draws.saturation.view(-1, 1, 1, 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * draws.contrast.view(-1, 1, 1, 1)


def _translate(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Move images by shares of their side, linear between pixels, as products with one matrix per direction.

    A product is deterministic on every device in both directions, which gathering by index is not.
    """
    side = images.shape[-1]
    at = torch.arange(side, device=images.device, dtype=images.dtype)
    distance = at[None, :, None] - at[None, None, :] - (shift * side).to(images.dtype).T[:, :, None, None]
    across, down = (1 - distance.abs()).clamp(min=0)  # (2, B, side out, side in)
    return torch.einsum("byi,bcij,bxj->bcyx", down, images, across)


def _cut(images: torch.Tensor, center: torch.Tensor, cut: torch.Tensor) -> torch.Tensor:
    """Set a square to 0: the pixels whose middle lies in it."""
    side = images.shape[-1]
    middle = (torch.arange(side, device=images.device) + 0.5) / side
    inside = (middle - center[:, :, None]).abs() < cut[:, None, None] / 2  # (B, 2, side)
    hole = inside[:, 0, None, :] & inside[:, 1, :, None]  # (B, y, x)
    return images * (~hole)[:, None].to(images.dtype)


class AdaptiveChance:
    """The chance of augmentation, moved so that the discriminator stays at a given overfitting; all on the device.

    Overfitting is r = E[sign(D(real) - middle)] over the last steps: 0 where real images score as if not recognized, 1
    where every one does. The chance rises where r > 0.6 and falls where it is below.

    Args:
        batch: Images a step.
        steps: Of the training.
        device: Where the scores are.
    """

    def __init__(self, *, batch: int, steps: int, device: str) -> None:
        images = min(float(IMAGES_TO_FULL), max(1.0, SHARE_TO_FULL * batch * steps))
        self.change = UPDATE_EVERY * batch / images
        self.chance = torch.zeros((), device=device)
        self.signs = torch.zeros((), device=device)
        self.seen = 0

    def update(self, real: torch.Tensor, middle: torch.Tensor | float) -> None:
        """Take one step's scores of real images (B,) and the score that means neither real nor made."""
        self.signs += torch.sign(real.detach().float() - middle).mean()
        self.seen += 1
        if self.seen == UPDATE_EVERY:
            self.chance += self.change * torch.sign(self.signs / UPDATE_EVERY - TARGET)
            self.chance.clamp_(0, 1)
            self.signs.zero_()
            self.seen = 0

    def to_plain(self) -> dict[str, torch.Tensor | int]:
        """Its state for a checkpoint."""
        return {"chance": self.chance, "signs": self.signs, "seen": self.seen}

    def restore(self, plain: dict[str, torch.Tensor | int]) -> None:
        """Go on from `to_plain()`."""
        for name in ("chance", "signs"):
            value = plain[name]
            assert isinstance(value, torch.Tensor)
            getattr(self, name).copy_(value)
        self.seen = int(plain["seen"])
