"""Which rows a training step sees: a function of the step, so that a resumed run goes on exactly.

Rows are drawn without replacement, epoch after epoch, in batches of equal size; a batch may span two epochs. Or they
are drawn evenly over classes, domains and patients.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

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
    """Batches drawn evenly over classes, within a class over domains, within these over patients, then over rows.

    A level that is not asked for is left out. Of any K draws in a row that begin a round, each of a level's K groups
    (the classes; the domains in which the class occurs; the patients who have rows there) gets exactly one, in an order
    that is shuffled anew each round; so counts of groups with one parent never differ by more than 1. A patient's rows
    come without replacement, cyclically. A class that a domain lacks is drawn from the other domains only: domains are
    then even within each class, not over the whole stream.

    Args:
        labels: Class index per row, int64 (n,).
        batch: Rows a step; n where that is smaller.
        seed: Of the order.
        patients: Patient code per row, int64 (n,): each patient comes equally often, however many rows it has.
        domains: Domain code per row, int64 (n,).
        balance_classes: False leaves the classes out: even over domains and patients only. With neither of these,
            the draws are those of `ShuffledRows`.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch: int,
        *,
        seed: int,
        patients: np.ndarray | None = None,
        domains: np.ndarray | None = None,
        balance_classes: bool = True,
    ) -> None:
        assert len(labels) >= 1 and batch >= 1, (len(labels), batch)
        levels = [("class", labels)] if balance_classes else []
        levels += [(name, codes) for name, codes in (("domain", domains), ("patient", patients)) if codes is not None]
        for name, codes in levels:
            assert codes.shape == (len(labels),), f"{name} codes are {codes.shape}, labels ({len(labels)},)"
        self.batch, self.seed = min(len(labels), batch), seed
        self._root = _build(np.arange(len(labels)), levels, seed=seed)

    def __call__(self, step: int) -> np.ndarray:
        """Positions of the rows of step 0, 1, ...: int64 (batch,)."""
        return self._root.draw(step * self.batch, self.batch)


class _Stream(Protocol):
    """An endless stream of rows; `draw` gives draws `start` to `start + count`, int64 (count,)."""

    def draw(self, start: int, count: int) -> np.ndarray: ...


class _Rows:
    """Some rows, epoch after epoch."""

    def __init__(self, rows: np.ndarray, *, seed: int) -> None:
        self._rows, self._order = rows, ShuffledRows(len(rows), len(rows), seed=seed)

    def draw(self, start: int, count: int) -> np.ndarray:
        return self._rows[self._order.draw(start, count)]


class _Rounds:
    """K streams in turn: draw k is draw k // K of one of them, so that draws in a row stay in a row within each."""

    def __init__(self, streams: list[_Stream], *, seed: int) -> None:
        self._streams, self._seed = streams, seed
        self._round = lru_cache(maxsize=2)(self._shuffle)

    def draw(self, start: int, count: int) -> np.ndarray:
        size = len(self._streams)
        first, last = start // size, (start + count - 1) // size
        rounds = np.concatenate([self._round(number) for number in range(first, last + 1)])
        chosen = rounds[start - first * size :][:count]
        result = np.empty(count, np.int64)
        for index in np.unique(chosen):
            here = np.flatnonzero(chosen == index)
            result[here] = self._streams[index].draw((start + int(here[0])) // size, len(here))
        return result

    def _shuffle(self, number: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(self._seed, "round", number)).permutation(len(self._streams))


def _build(rows: np.ndarray, levels: list[tuple[str, np.ndarray]], *, seed: int) -> _Stream:
    """Nest the levels, outermost first; every group has its own seed, so that adding a group changes no other's order."""
    if not levels:
        return _Rows(rows, seed=seed)
    (name, codes), *inner = levels
    own = codes[rows]
    streams = [_build(rows[own == one], inner, seed=derive_seed(seed, name, int(one))) for one in np.unique(own)]
    return _Rounds(streams, seed=seed)
