"""Real images as a discriminator sees them: flipped, at every scale, in [-1, 1], on the device."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from wazuka.nn.msg_gan import resize
from wazuka.nn.normalize import to_unit
from wazuka.nn.rows import ImageRows
from wazuka.training.batches import RESIDENT_BYTES

Flips = Literal["none", "horizontal", "all"]
DIMENSIONS: dict[Flips, tuple[int, ...]] = {"none": (), "horizontal": (3,), "all": (3, 2)}


def pyramid_of(images: torch.Tensor) -> list[torch.Tensor]:
    """Images (B, C, size, size) at every scale from 4 pixels up, coarsest first, by the mean of 2 x 2 pixels."""
    levels = [images]
    while levels[0].shape[-1] > 4:
        levels.insert(0, functional.avg_pool2d(levels[0], 2))
    return levels


class PyramidImages:
    """Images at every scale, batch by batch.

    Pixels are kept on a GPU where they fit; on a CPU the memory-mapped cache is as near.

    Args:
        images: n images of any size.
        size: Side to which they are resized.
        flips: Each with chance 1/2; "all": left-right and up-down.
        intensity, window: Of the images.
        device: Where the batches are made.
    """

    def __init__(
        self, images: ImageRows, *, size: int, flips: Flips, intensity: str, window: str | None, device: str
    ) -> None:
        self.images, self.size, self.flips, self.device = images, size, flips, device
        self.intensity, self.window = intensity, window
        self.resident: torch.Tensor | None = None
        if device.startswith("cuda") and len(images) * np.prod(images.shape) <= RESIDENT_BYTES:
            self.resident = torch.from_numpy(images.batch(np.arange(len(images)))).to(device)

    def batch(self, rows: np.ndarray, generator: torch.Generator) -> list[torch.Tensor]:
        """Images at `rows`: per scale (B, C, side, side) float32 in [-1, 1], coarsest first."""
        if self.resident is not None:
            pixels = self.resident[torch.from_numpy(rows).to(self.device, non_blocking=True)]
        else:
            pixels = torch.from_numpy(self.images.batch(rows)).to(self.device, non_blocking=True)
        unit = to_unit(pixels, intensity=self.intensity, window=self.window)
        images = resize(unit, (self.size, self.size)).clamp(0, 1) * 2 - 1
        for dimension in DIMENSIONS[self.flips]:
            flipped = torch.rand(len(rows), generator=generator, device=self.device) < 0.5
            images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(dimension), images)
        return pyramid_of(images)
