"""RandAugment of whole batches on the device (remedy `randaugment`): a few operations drawn per image, one strength for all.

Cubuk et al. (2020), "RandAugment: practical automated data augmentation with a reduced search space", CVPR Workshops,
arXiv:1909.13719: `ops` operations of 14 are drawn per image, uniformly and with replacement, and applied one after the
other at `magnitude` of 30. Ranges are those of torchvision: shear up to 0.3, translation up to 150/331 of the side,
rotation up to 30 degrees, brightness, color, contrast and sharpness by a factor up to 1 +- 0.9, posterization down to
4 bits, solarization from a threshold of 1 down to 0; where it has a sign, it is drawn per image.

Our choices: shears are about the image's center, so that what is in the middle stays there; resampling is bilinear; what
comes in from outside is middle gray (as in the paper's code). Shears, translations and rotations move an object, so this
is for classification; masks are not handled. Of gray images (one channel), `color` is the identity.

Images that drew the same operation and sign are one call of torchvision's functional: the loop runs over operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wazuka.core.errors import ConfigError

SIGNED = ("rotate", "color", "contrast", "brightness", "sharpness", "shear-x", "shear-y", "translate-x", "translate-y")
OPERATIONS = ("identity", "autocontrast", "equalize", "posterize", "solarize", *SIGNED)
MAX_MAGNITUDE = 30
FILL = 0.5


@dataclass(frozen=True)
class Draw:
    """One draw for a batch of B images, on the CPU.

    Attributes:
        operation: Position in `OPERATIONS`, int64 (ops, B).
        positive: Sign of the strength, bool (ops, B); without meaning for operations that have none.
    """

    operation: torch.Tensor
    positive: torch.Tensor


def randaugment(
    batch: torch.Tensor, *, generator: torch.Generator, ops: int = 2, magnitude: float = 9.0
) -> torch.Tensor:
    """Augment a batch; same generator state, same result.

    Args:
        batch: (B, C, H, W) float in [0, 1], C 1 or 3.
        generator: The operations are drawn on its device.
        ops: Operations per image, 0 or more; 0 returns the batch itself and draws nothing.
        magnitude: Strength, 0 to 30.

    Returns:
        (B, C, H, W), same dtype and device, in [0, 1]; the batch is left as it is.

    Raises:
        ConfigError: If `ops` or `magnitude` is out of range.
    """
    if ops < 0:
        raise ConfigError(f"`ops` of `randaugment` is {ops}; give a whole number from 0 on.")
    if not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ConfigError(f"`magnitude` of `randaugment` is {magnitude:g}; give a number from 0 to {MAX_MAGNITUDE}.")
    if ops == 0:
        return batch
    return apply(batch, draw(len(batch), ops, generator=generator), magnitude=magnitude)


def draw(count: int, ops: int, *, generator: torch.Generator) -> Draw:
    """Draw operations and signs for `count` images."""
    device = generator.device
    operation = torch.randint(len(OPERATIONS), (ops, count), generator=generator, device=device)
    positive = torch.rand(ops, count, generator=generator, device=device) < 0.5
    return Draw(operation.cpu(), positive.cpu())


def apply(batch: torch.Tensor, drawn: Draw, *, magnitude: float) -> torch.Tensor:
    """Apply a draw to a batch (B, C, H, W) in [0, 1]; the same draw gives the same result."""
    first_signed = len(OPERATIONS) - len(SIGNED)
    images = batch.clone()
    for operation, positive in zip(drawn.operation, drawn.positive, strict=True):
        group = 2 * operation + (positive & (operation >= first_signed))
        for key in group.unique().tolist():
            rows = torch.nonzero(group == key).flatten().to(batch.device)
            images[rows] = operate(images[rows], OPERATIONS[key // 2], magnitude=magnitude, positive=bool(key % 2))
    return images.clamp_(0, 1)


def operate(images: torch.Tensor, operation: str, *, magnitude: float, positive: bool) -> torch.Tensor:
    """Apply one operation at one strength and sign to all images (B, C, H, W) in [0, 1]."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    share = magnitude / MAX_MAGNITUDE
    sign = 1 if positive else -1
    height, width = images.shape[-2:]
    if operation == "identity":
        return images
    if operation == "autocontrast":
        return functional.autocontrast(images)
    if operation == "equalize":
        return functional.equalize(images)
    if operation == "posterize":
        return functional.posterize(images, 8 - round(4 * share))
    if operation == "solarize":
        return functional.solarize(images, 1 - share)
    if operation == "color":
        return functional.adjust_saturation(images, 1 + sign * 0.9 * share)
    if operation == "contrast":
        return functional.adjust_contrast(images, 1 + sign * 0.9 * share)
    if operation == "brightness":
        return functional.adjust_brightness(images, 1 + sign * 0.9 * share)
    if operation == "sharpness":
        return functional.adjust_sharpness(images, 1 + sign * 0.9 * share)
    assert operation in SIGNED, operation
    shear = sign * math.degrees(math.atan(0.3 * share))
    moved = sign * 150 / 331 * share
    return functional.affine(
        images,
        angle=sign * 30 * share if operation == "rotate" else 0.0,
        translate=[
            moved * width if operation == "translate-x" else 0.0,
            moved * height if operation == "translate-y" else 0.0,
        ],
        scale=1.0,
        shear=[shear if operation == "shear-x" else 0.0, shear if operation == "shear-y" else 0.0],
        interpolation=InterpolationMode.BILINEAR,
        fill=[FILL] * images.shape[1],
    )
