"""What the networks read: anything with rows of pixels. `wazuka.data.views.Images` is one; arrays in memory another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class ImageRows(Protocol):
    """Images numbered 0..n-1, all of one size."""

    def __len__(self) -> int:
        """Count the images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at `positions`: (len(positions), height, width, channels), uint8 or int16."""


@dataclass(frozen=True)
class ArrayImages:
    """Images that are in memory already.

    Attributes:
        array: (n, height, width, channels), uint8 or (Hounsfield units) int16.
    """

    array: np.ndarray

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        height, width, channels = self.array.shape[1:]
        return height, width, channels

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Return the images at `positions`."""
        return self.array[positions]
