"""Which rows a training step sees: a function of the step, so that a resumed run goes on exactly.

Rows are drawn without replacement, epoch after epoch, in batches of equal size; a batch may span two epochs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from wazuka.core.hashing import derive_seed


class ShuffledRows:
    """Batches of a stream of epochs, each a permutation of all rows.

    Args:
        n: Rows.
        batch: Rows a step; n where that is smaller.
        seed: Of the order.
    """

    def __init__(self, n: int, batch: int, *, seed: int) -> None:
        assert n >= 1 and batch >= 1, (n, batch)
        self.n, self.batch, self.seed = n, min(n, batch), seed
        self._epoch = lru_cache(maxsize=2)(self._shuffle)

    def __call__(self, step: int) -> np.ndarray:
        """Positions of the rows of step 0, 1, ...: int64 (batch,)."""
        return self.draw(step * self.batch, self.batch)

    def draw(self, start: int, count: int) -> np.ndarray:
        """Draws `start` to `start + count` of the endless stream, int64 (count,)."""
        parts = []
        while count > 0:
            epoch, offset = divmod(start, self.n)
            part = self._epoch(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self.seed, "epoch", epoch)).permutation(self.n)


class BalancedRows:
    """Batches in which all classes come equally often; within a class, rows come without replacement.

    Draw k is of class k mod K, in an order that is shuffled within each round of K draws.

    Args:
        labels: Class index per row, int64 (n,).
        batch: Rows a step; n where that is smaller.
        seed: Of the order.
    """

    def __init__(self, labels: np.ndarray, batch: int, *, seed: int) -> None:
        self.batch, self.seed = min(len(labels), batch), seed
        present = np.unique(labels)
        self.rows = [np.flatnonzero(labels == one) for one in present]
        self.streams = [
            ShuffledRows(len(rows), len(rows), seed=derive_seed(seed, "class", int(one)))
            for one, rows in zip(present, self.rows, strict=True)
        ]

    def __call__(self, step: int) -> np.ndarray:
        """Positions of the rows of step 0, 1, ...: int64 (batch,)."""
        classes = len(self.rows)
        draws = np.arange(step * self.batch, (step + 1) * self.batch)
        chosen = np.array([self._round(int(one) // classes)[one % classes] for one in draws])
        result = np.empty(self.batch, np.int64)
        for index, (rows, stream) in enumerate(zip(self.rows, self.streams, strict=True)):
            here = np.flatnonzero(chosen == index)
            if len(here):
                first = int(draws[here[0]]) // classes  # one draw of each class a round: its number in the class
                result[here] = rows[stream.draw(first, len(here))]
        return result

    def _round(self, number: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self.seed, "round", number)).permutation(len(self.rows))
