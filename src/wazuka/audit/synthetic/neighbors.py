"""Nearest neighbors under flips, in blocks of bounded memory; distances of the neighbors found are exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))
"""Axes of an image (down, right) that each way of flipping reverses: none, up-down, left-right, both (half a turn)."""
BLOCK_BYTES = 64 * 2**20
SPARE = 3
"""Candidates taken beyond k: rounding in the fast distances may swap the last ones."""


@dataclass(frozen=True)
class Neighbors:
    """The k nearest references of each query, nearest first.

    Attributes:
        rows: Row of the reference, int64 (q, k); -1 where a query has fewer than k allowed references.
        distances: Euclidean, float64 (q, k); infinite where `rows` is -1.
        flips: Index into `FLIPS` that brings the query onto its nearest reference, int64 (q,).
    """

    rows: np.ndarray
    distances: np.ndarray
    flips: np.ndarray


def nearest(
    queries: np.ndarray,
    references: np.ndarray,
    k: int,
    *,
    query_groups: np.ndarray | None = None,
    reference_groups: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Neighbors:
    """Find the k nearest references of each query.

    Images, (rows, height, width, channels), are compared under the four flips of the query: the distance to a reference
    is the smallest of the four. Feature rows, (rows, d), are compared as they are.

    Args:
        queries: (q, ...), any number type.
        references: (r, ...), rows of the same shape.
        k: Neighbors wanted, at least 1.
        query_groups, reference_groups: int64 (q,) and (r,); a reference of the query's own group is left out.
        block_bytes: Memory for one block of distances; the whole takes a few times that.
    """
    images = queries.ndim == 4
    center = references.mean(axis=(0, 1, 2) if images else 0, dtype=np.float64).astype(np.float32)  # flips keep it
    base = (references.astype(np.float32) - center).reshape(len(references), -1)
    squares = np.einsum("ij,ij->i", base, base)
    ways = FLIPS if images else FLIPS[:1]
    n, take = len(references), min(k + SPARE, len(references))
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    distances = np.full((len(queries), k), np.inf)
    flips = np.zeros(len(queries), dtype=np.int64)
    if not n:
        return Neighbors(rows, distances, flips)
    step = max(1, min(block_bytes // max(16 * n, 8 * base.shape[1] * len(ways)), 1024))
    for start in range(0, len(queries), step):
        block = slice(start, min(start + step, len(queries)))
        turned = [
            np.flip(queries[block], axis=tuple(one + 1 for one in way)).astype(np.float32) - center
            if images
            else queries[block].astype(np.float32) - center
            for way in ways
        ]
        turned = [one.reshape(len(one), -1) for one in turned]
        best = -2 * (turned[0] @ base.T)
        which = np.zeros(best.shape, dtype=np.int8)
        for way in range(1, len(ways)):
            other = -2 * (turned[way] @ base.T)
            which[other < best] = way
            np.minimum(best, other, out=best)
        best += squares  # the query's own square is the same for all references
        if query_groups is not None and reference_groups is not None:
            best[query_groups[block][:, None] == reference_groups[None, :]] = np.inf
        chosen = (
            np.argpartition(best, take - 1, axis=1)[:, :take] if take < n else np.tile(np.arange(n), (len(best), 1))
        )
        exact, way_of = _exact(turned, base, chosen, np.take_along_axis(which, chosen, axis=1))
        exact[np.isinf(np.take_along_axis(best, chosen, axis=1))] = np.inf
        order = np.lexsort((chosen, exact), axis=1)[:, :k]
        width = order.shape[1]
        distances[block, :width] = np.take_along_axis(exact, order, axis=1)
        rows[block, :width] = np.take_along_axis(chosen, order, axis=1)
        flips[block] = np.take_along_axis(way_of, order[:, :1], axis=1)[:, 0]
    rows[np.isinf(distances)] = -1
    return Neighbors(rows, distances, flips)


def _exact(
    turned: list[np.ndarray], base: np.ndarray, chosen: np.ndarray, which: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the chosen pairs without the cancellation of |x|^2 - 2xy + |y|^2, which blurs those of copies."""
    every = np.stack(turned)
    place = np.arange(chosen.shape[0])
    exact = np.empty(chosen.shape)
    for column in range(chosen.shape[1]):
        gap = every[which[:, column], place] - base[chosen[:, column]]
        exact[:, column] = np.sqrt(np.einsum("ij,ij->i", gap, gap, dtype=np.float64))
    return exact, which.astype(np.int64)


def pair_distances(rows: np.ndarray) -> np.ndarray:
    """All distances between different rows of (n, d), float32 (n (n - 1) / 2,); for a few thousand rows at most."""
    base = rows.astype(np.float32)
    base = base - base.mean(axis=0)
    squares = np.einsum("ij,ij->i", base, base)
    found = []
    for i in range(len(base) - 1):
        found.append(squares[i] + squares[i + 1 :] - 2 * (base[i + 1 :] @ base[i]))
    return np.sqrt(np.maximum(np.concatenate(found), 0)) if found else np.zeros(0, np.float32)
