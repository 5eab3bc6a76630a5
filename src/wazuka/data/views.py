"""What a step may see, as types: `Images` carry pixels and nothing else; `LabeledImages` are the rows of a budget.

A pretrainer or label-free generator is handed `Images`: they lead to no label and no mask, and `batch` gives its own rows
only. (`pixels` is the whole cache, for its type and shape; a technique reads images through `batch`.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wazuka.core.errors import DataError


@dataclass(frozen=True)
class Images:
    """Rows of a pixel cache, read memory-mapped.

    Attributes:
        source: `images.npy` of a pixel cache, (N, height, width, channels), uint8 or (Hounsfield units) int16.
        rows: The rows that this view may read, int64, in the order in which it numbers them 0..n-1.
    """

    source: Path
    rows: np.ndarray
    _array: list[np.ndarray] = field(default_factory=list, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, object]:
        return {"source": self.source, "rows": self.rows, "_array": []}

    @property
    def pixels(self) -> np.ndarray:
        """The whole memory-mapped cache, rows outside this view too; opened once per process. Read through `batch`."""
        if not self._array:
            self._array.append(np.load(self.source, mmap_mode="r", allow_pickle=False))
        return self._array[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return tuple(self.pixels.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels, uint8 or int16."""
        return self.pixels.dtype

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Copy the images at `positions` (0..n-1 within this view): (len(positions), height, width, channels)."""
        return self.pixels[self.rows[positions]]

    def take(self, positions: np.ndarray) -> Images:
        """Return a view of some of this view's images."""
        return Images(self.source, self.rows[positions])


@dataclass(frozen=True)
class JoinedImages:
    """Two views as one: positions go on from the first to the second. Neither view's other rows can be reached.

    Attributes:
        first, second: Views of one image shape and type, of the same file or of two.
    """

    first: Images
    second: Images

    def __post_init__(self) -> None:
        one, other = ((view.shape, view.dtype) for view in (self.first, self.second))
        if one != other:
            raise DataError(
                f"Images of {self.second.source} are {other[0]} {other[1]}; give {one[0]} {one[1]}, as there are in {self.first.source}."
            )

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return self.first.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels."""
        return self.first.dtype

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Copy the images at `positions` (0..n-1 over both views): (len(positions), height, width, channels)."""
        positions = np.arange(len(self))[positions]
        late = positions >= len(self.first)
        found = np.empty((len(positions), *self.shape), self.dtype)
        found[~late] = self.first.batch(positions[~late])
        found[late] = self.second.batch(positions[late] - len(self.first))
        return found


@dataclass(frozen=True, kw_only=True)
class LabeledImages:
    """The labeled rows of one trial's budget, train and val together.

    Attributes:
        images: Their pixels, n rows.
        labels: Class index per row, int64 (n,); segmentation: -1.
        patients: Patient code per row, int64 (n,): equal codes are one patient.
        domains: Domain code per row, int64 (n,); unknown ones share the last code.
        is_val: Which rows early stopping may use, bool (n,); all False where the budget allows no inner split.
        masks: Masks of the same rows, (n, height, width) uint8 through `batch`; None in classification.
        soft_labels: Share of the annotators' votes per class, float64 (n, classes), where the study switches it on.
        prompts: One text per row, where the task has prompts.
    """

    images: Images
    labels: np.ndarray
    patients: np.ndarray
    domains: np.ndarray
    is_val: np.ndarray
    masks: Images | None = None
    soft_labels: np.ndarray | None = None
    prompts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)
