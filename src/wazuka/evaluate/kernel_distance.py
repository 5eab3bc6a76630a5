"""Kernel distance (KID, Binkowski et al. 2018): unbiased squared maximum mean discrepancy with a cubic kernel, in blocks.

    k(x, y) = (x'y / dim + 1)³

Exact over all pairs of rows. The usual mean over random subsets estimates the same number with more noise. Its
expectation is 0 for draws from one distribution at any number of rows, so single values below 0 are in order.
"""

from __future__ import annotations

import numpy as np

from wazuka.core.errors import DataError, NotEnoughData
from wazuka.evaluate.frechet import check_features

BLOCK_BYTES = 2**26
"""Memory for one block of kernel values."""


def kernel_distance(first: np.ndarray, second: np.ndarray, *, block_bytes: int = BLOCK_BYTES) -> float:
    """Measure the unbiased squared discrepancy between two feature sets, without a unit.

    Args:
        first: Features, (n, dim).
        second: Features, (m, dim).
        block_bytes: Memory for kernel values; at least one row of them is held.

    Raises:
        DataError: If the shapes do not fit or a value is not finite.
        NotEnoughData: With fewer than two rows on a side.
    """
    one = np.ones((len(first), 1), dtype=bool)
    other = np.ones((len(second), 1), dtype=bool)
    return float(kernel_distances(first, second, of_first=one, of_second=other, block_bytes=block_bytes)[0])


def kernel_distances(
    first: np.ndarray,
    second: np.ndarray,
    *,
    of_first: np.ndarray,
    of_second: np.ndarray,
    block_bytes: int = BLOCK_BYTES,
) -> np.ndarray:
    """Measure many subsets of two feature sets at once; every kernel value is computed once for all of them.

    Args:
        first, second: As in `kernel_distance`. The same array may be passed twice, for two parts of one set.
        of_first: Subset s of the first set is its rows where column s is True, (n, subsets) bool.
        of_second: Likewise, (m, subsets) bool.
        block_bytes: As in `kernel_distance`.

    Returns:
        Distances, (subsets,) float64.

    Raises:
        DataError, NotEnoughData: As in `kernel_distance`.
    """
    check_features(first, second, least=2)
    if of_first.shape != (len(first), of_second.shape[1]) or of_second.shape != (len(second), of_first.shape[1]):
        raise DataError(
            f"The subsets have shapes {of_first.shape} and {of_second.shape}; pass one row per feature row and equally many columns."
        )
    n, m = of_first.sum(axis=0), of_second.sum(axis=0)
    if min(n.min(initial=2), m.min(initial=2)) < 2:
        raise NotEnoughData(f"A subset has {min(n.min(), m.min())} rows; at least 2 are needed on either side.")
    u, v = of_first.astype(np.float64), of_second.astype(np.float64)
    within_first = (_sums(first, u, first, u, block_bytes) - u.T @ _own(first)) / (n * (n - 1))
    within_second = (_sums(second, v, second, v, block_bytes) - v.T @ _own(second)) / (m * (m - 1))
    return np.asarray(within_first + within_second - 2 * _sums(first, u, second, v, block_bytes) / (n * m))


def _sums(x: np.ndarray, u: np.ndarray, y: np.ndarray, v: np.ndarray, block_bytes: int) -> np.ndarray:
    """u_s' K(x, y) v_s of every column s."""
    y = y.astype(np.float64, copy=False)
    rows = max(1, block_bytes // (8 * len(y) * 2))  # the block, and NumPy's temporary of the cube
    total = np.zeros(u.shape[1])
    for start in range(0, len(x), rows):
        some = slice(start, start + rows)
        total += (u[some] * (_cubed(x[some].astype(np.float64, copy=False) @ y.T, x.shape[1]) @ v)).sum(axis=0)
    return total


def _own(x: np.ndarray) -> np.ndarray:
    """k(x_i, x_i) of every row."""
    return _cubed(np.einsum("ij,ij->i", x, x, dtype=np.float64), x.shape[1])


def _cubed(products: np.ndarray, dim: int) -> np.ndarray:
    products /= dim
    products += 1
    return np.asarray(products * products * products)
