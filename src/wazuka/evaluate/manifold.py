"""Precision, recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) in blocks, with exact decisions.

The ball of a row reaches to its k-th nearest other row of the same set, boundary included. Precision: synthetic rows in
a real ball. Recall: real rows in a synthetic ball. Density: real balls around a synthetic row, over k, so that crowded
real regions count more and one outlier's wide ball counts once; it can exceed 1. Coverage: real rows with a synthetic
row in their ball.

Squared distances come from matrix products in float32 of centered features, as a lower and an upper bound. Where the
bounds leave a comparison open, the pair's distance is computed from differences in float64: the results are those of a
full float64 computation, for any block size. Many identical rows (a collapsed generator) are taken once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wazuka.core.errors import ConfigError
from wazuka.evaluate.frechet import check_features

BLOCK_BYTES = 2**26
"""Memory for one block of distances, their bounds and comparisons."""
BYTES_PER_PAIR = 12
"""Two float32 bounds, a copy for the selection or four comparisons."""
OPEN_PER_ROW = 64
"""Open comparisons per row of a block beyond which the block's bounds are made again in float64."""


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """How two feature sets cover each other, with what was found for every row.

    Attributes:
        precision, recall, coverage: Shares, 0 to 1; higher is better.
        density: 0 or more; about 1 for two draws of one distribution.
        k: Neighbors.
        balls: Real balls that hold a synthetic row, int64 (m,); 0: the row lies outside the real manifold.
        covered: Real rows with a synthetic row in their ball, bool (n,).
        reached: Real rows in a synthetic ball, bool (n,).
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    balls: np.ndarray
    covered: np.ndarray
    reached: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Synthetic rows that lie in a real ball, bool (m,)."""
        return np.asarray(self.balls > 0)


def manifold(real: np.ndarray, synthetic: np.ndarray, *, k: int = 5, block_bytes: int = BLOCK_BYTES) -> Manifold:
    """Measure precision, recall, density and coverage; all depend on the numbers of rows, so compare equal numbers.

    Args:
        real: Features, (n, dim).
        synthetic: Features, (m, dim).
        k: Neighbors that make a ball, at least 1 (Naeem et al.: 5; Kynkäänniemi et al.: 3).
        block_bytes: Memory for a block, up to twice that where float64 is needed; besides, copies of the features are held.

    Raises:
        ConfigError: If `k` is below 1.
        DataError: If the shapes do not fit or a value is not finite.
        NotEnoughData: With k rows or fewer on a side.
    """
    if k < 1:
        raise ConfigError(f"`k` is {k}; the number of neighbors is at least 1.")
    check_features(real, synthetic, least=k + 1)
    center = real.mean(axis=0, dtype=np.float64)
    spread = max(float(np.abs(one - center).max()) for one in (real, synthetic))
    sides = [_Cloud(one, center=center, scale=1 / spread if spread > 1e-100 else 1.0) for one in (real, synthetic)]
    radii = [_radii(one, k, block_bytes) for one in sides]
    balls, covered, reached = _compare(sides[0], sides[1], radii[0], radii[1], block_bytes)
    return Manifold(
        precision=float((balls > 0).mean()),
        recall=float(reached.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
        k=k,
        balls=balls,
        covered=covered,
        reached=reached,
    )


class _Cloud:
    """A feature set's distinct rows, as given for exact distances and centered and scaled for bounds."""

    def __init__(self, given: np.ndarray, *, center: np.ndarray, scale: float) -> None:
        packed = np.ascontiguousarray(given).view(np.dtype((np.void, given.dtype.itemsize * given.shape[1]))).ravel()
        _, first, self.inverse, self.counts = np.unique(
            packed, return_index=True, return_inverse=True, return_counts=True
        )
        self.rows = given if len(first) == len(given) else given[first]
        if len(first) == len(given):
            self.inverse, self.counts = np.arange(len(given)), np.ones(len(given), dtype=np.int64)
        self.center, self.scale = center, scale
        self._made: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, dtype: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
        """Centered, scaled rows and their squared norms in a precision."""
        name = np.dtype(dtype).name
        if name not in self._made:
            rows = np.empty(self.rows.shape, dtype=dtype)
            norms = np.empty(len(rows), dtype=dtype)
            for start in range(0, len(rows), 4096):
                some = slice(start, start + 4096)
                moved = (self.rows[some] - self.center) * self.scale
                rows[some], norms[some] = moved, np.square(moved).sum(axis=1)
            self._made[name] = rows, norms
        return self._made[name]


def _bounds(
    a: _Cloud, some: np.ndarray | slice, b: _Cloud, dtype: type[np.floating], columns: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the squared distances (scaled) from some rows of `a` to those of `b`.

    A sum of dim products errs by at most dim unit roundoffs times |x||y| <= (|x|² + |y|²)/2, in any order of summation
    (Higham 2002, section 3.1); the 32 more cover centering, scaling, the norms and the sums below.
    """
    x, x_norms = a.at(dtype)
    y, y_norms = b.at(dtype)
    x, x_norms = x[some], x_norms[some]
    if columns is not None:
        y, y_norms = y[columns], y_norms[columns]
    info = np.finfo(dtype)
    slack = dtype((x.shape[1] + 32) * info.eps / 2)
    least = dtype(x.shape[1] * float(info.tiny))  # what underflow may lose
    lower = x @ y.T
    lower *= dtype(-2)
    lower += ((1 - slack) * x_norms - least)[:, None]
    lower += (1 - slack) * y_norms
    upper = lower + (2 * slack * x_norms + 2 * least)[:, None]
    upper += 2 * slack * y_norms
    return lower, upper


def _exact(a: _Cloud, i: np.ndarray, b: _Cloud, j: np.ndarray) -> np.ndarray:
    """Squared distances of pairs of rows, from differences in float64, unscaled."""
    found = np.empty(len(i))
    step = max(1, 2**22 // a.rows.shape[1])
    for start in range(0, len(i), step):
        some = slice(start, start + step)
        gap = a.rows[i[some]].astype(np.float64) - b.rows[j[some]]
        found[some] = np.square(gap, out=gap).sum(axis=1)
    return found


def _radii(cloud: _Cloud, k: int, block_bytes: int) -> np.ndarray:
    """Squared distance of every distinct row to its k-th nearest other row (copies count), unscaled float64."""
    radii = np.zeros(len(cloud))  # with k more copies of a row its ball is a point
    wanted = np.flatnonzero(cloud.counts <= k)
    # A row with copies stands in the columns as often as it can matter; the first time it is the row itself.
    columns = np.repeat(np.arange(len(cloud)), np.minimum(cloud.counts, k))
    itself = np.searchsorted(columns, np.arange(len(cloud)))
    plain = len(columns) == len(cloud)
    step = max(1, block_bytes // (BYTES_PER_PAIR * len(columns)))
    for start in range(0, len(wanted), step):
        some = wanted[start : start + step]
        for dtype in (np.float32, np.float64):
            lower, upper = _bounds(cloud, some, cloud, dtype, None if plain else columns)
            place = np.arange(len(some)), itself[some]
            lower[place] = upper[place] = np.inf
            upper.partition(k - 1, axis=1)
            i, j = np.nonzero(lower <= upper[:, k - 1 : k])
            if len(i) <= OPEN_PER_ROW * len(some):
                break
        values = _exact(cloud, some[i], cloud, columns[j])
        order = np.lexsort((values, i))  # np.nonzero gives the rows in order; sorting keeps them so
        starts = np.searchsorted(i, np.arange(len(some)))
        radii[some] = values[order][starts + k - 1]
    return radii


def _compare(
    real: _Cloud, synthetic: _Cloud, real_radii: np.ndarray, synthetic_radii: np.ndarray, block_bytes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`balls`, `covered` and `reached` of `Manifold`, for all given rows."""
    balls = np.zeros(len(synthetic), dtype=np.int64)
    covered = np.zeros(len(real), dtype=bool)
    reached = np.zeros(len(real), dtype=bool)
    copies = None if (real.counts == 1).all() else real.counts.astype(np.float64)
    step = max(1, block_bytes // (BYTES_PER_PAIR * len(real)))
    scale = real.scale**2
    for start in range(0, len(synthetic), step):
        some = slice(start, min(start + step, len(synthetic)))
        for dtype in (np.float32, np.float64):
            lower, upper = _bounds(synthetic, some, real, dtype)
            of_real = (real_radii * scale).astype(dtype)
            of_synthetic = (synthetic_radii[some] * scale).astype(dtype)[:, None]
            in_real, in_synthetic = upper <= of_real, upper <= of_synthetic
            open_real = (lower <= of_real) & ~in_real
            open_synthetic = (lower <= of_synthetic) & ~in_synthetic
            if open_real.sum() + open_synthetic.sum() <= OPEN_PER_ROW * len(lower):
                break
        i, j = np.nonzero(open_real)
        in_real[i, j] = _exact(synthetic, i + start, real, j) <= real_radii[j]
        i, j = np.nonzero(open_synthetic)
        in_synthetic[i, j] = _exact(synthetic, i + start, real, j) <= synthetic_radii[i + start]
        balls[some] = in_real.sum(axis=1) if copies is None else in_real @ copies
        covered |= in_real.any(axis=0)
        reached |= in_synthetic.any(axis=0)
    return balls[synthetic.inverse], covered[real.inverse], reached[real.inverse]
