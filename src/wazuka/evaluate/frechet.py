"""Fréchet distance between Gaussians fitted to two feature sets (Heusel et al. 2017, Eq. 6), exact for few rows.

    d² = |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

The last trace is the sum of the singular values of A B', where A and B are the centered rows over the root of (rows - 1)
and S1 = A'A, S2 = B'B: (S1 S2)^(1/2) has the singular values of A B' as its eigenvalues. With fewer rows than features
that is a small rows x rows matrix, however singular the covariances are. With more rows than features, A is replaced by
a triangular factor with the same A'A; the eigenvalues of L' S2 L, where S1 = L L', are cheaper and are used where their
rounding cannot matter. No square root of a matrix is taken. Figures: `python benchmarks/frechet.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from wazuka.core.errors import DataError, NotEnoughData

ROUNDING = 1e-7
"""Largest share of the distance that the rounding of the Cholesky route may reach before the orthogonal one is taken."""
BLOCK_ROWS = 4096
"""Rows turned into float64 at a time where covariances are summed."""


@dataclass(frozen=True, kw_only=True)
class Frechet:
    """A squared Fréchet distance (the "FID" where the features are Inception's) and its parts, in squared feature units.

    Attributes:
        distance: `means` + `covariances`; never below 0.
        means: Squared distance between the two means.
        covariances: tr S1 + tr S2 - 2 tr (S1 S2)^(1/2).
        traces: tr S1 + tr S2, the scale of the covariance part's rounding error.
    """

    distance: float
    means: float
    covariances: float
    traces: float


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance between two feature sets, in float64; see `frechet`."""
    return frechet(first, second).distance


def frechet(first: np.ndarray, second: np.ndarray) -> Frechet:
    """Measure the squared Fréchet distance between two feature sets; symmetric, covariances with divisor rows - 1.

    Its expectation falls with the number of rows (Chong and Forsyth 2020): compare only what was measured on equal
    numbers of rows.

    Args:
        first: Features, (n, dim).
        second: Features, (m, dim).

    Raises:
        DataError: If the shapes do not fit or a value is not finite.
        NotEnoughData: With fewer than two rows on a side.
    """
    check_features(first, second, least=2)
    means = [np.asarray(one.mean(axis=0, dtype=np.float64)) for one in (first, second)]
    between = float(np.square(means[0] - means[1]).sum())
    few = [len(one) <= one.shape[1] for one in (first, second)]
    if any(few):
        factors = [_factor(one, mean) for one, mean in zip((first, second), means, strict=True)]
        traces = sum(float(np.square(one).sum()) for one in factors)
        return _put_together(between, traces, _nuclear_norm(*factors))
    covariances = [_covariance(one, mean) for one, mean in zip((first, second), means, strict=True)]
    traces = sum(float(np.trace(one)) for one in covariances)
    found = _by_cholesky(*covariances)
    if found is not None:
        result = _put_together(between, traces, found[0])
        if 2 * found[1] <= ROUNDING * result.distance:
            return result
    factors = [_factor(one, mean) for one, mean in zip((first, second), means, strict=True)]
    return _put_together(between, traces, _nuclear_norm(*factors))


def check_features(first: np.ndarray, second: np.ndarray, *, least: int) -> None:
    """Refuse feature sets that are no finite matrices of equal width, or have fewer than `least` rows.

    Raises:
        DataError, NotEnoughData: As described.
    """
    for one in (first, second):
        if one.ndim != 2 or one.shape[1] == 0 or not np.issubdtype(one.dtype, np.floating):
            raise DataError(
                f"The features have shape {one.shape} and type {one.dtype}; pass one row of floating-point numbers per image."
            )
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"The two feature sets have {first.shape[1]} and {second.shape[1]} columns; take both from the same encoder."
        )
    if min(len(first), len(second)) < least:
        raise NotEnoughData(
            f"The feature sets have {len(first)} and {len(second)} rows; at least {least} are needed on either side."
        )
    for one in (first, second):
        bad = int((~np.isfinite(one).all(axis=1)).sum())
        if bad:
            raise DataError(
                f"{bad} of {len(one)} feature rows hold NaN or infinite values; leave these images out, and say so."
            )


def _put_together(means: float, traces: float, root: float) -> Frechet:
    covariances = traces - 2 * root
    return Frechet(
        distance=max(means + covariances, 0.0),  # identical sets leave a rounding error of either sign
        means=means,
        covariances=covariances,
        traces=traces,
    )


def _covariance(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Sample covariance (dim, dim), in float64, from rows of any precision."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), BLOCK_ROWS):
        some = rows[start : start + BLOCK_ROWS] - mean
        total += some.T @ some
    return total / (len(rows) - 1)


def _factor(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A with A'A = the covariance, of at most dim rows."""
    centered = (rows - mean) / np.sqrt(len(rows) - 1)
    if len(rows) <= rows.shape[1]:
        return np.asarray(centered)
    return np.asarray(linalg.qr(centered, mode="r", overwrite_a=True, check_finite=False)[0][: rows.shape[1]])


def _nuclear_norm(first: np.ndarray, second: np.ndarray) -> float:
    """Sum of the singular values of A B'."""
    return float(np.linalg.svd(first @ second.T, compute_uv=False).sum())


def _by_cholesky(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """tr (S1 S2)^(1/2) and a bound on its rounding error; None where S1 is not numerically positive definite.

    A feature that is constant on one side (a dead unit) has no part in the product and is left out.
    """
    used = (np.diag(first) > 0) & (np.diag(second) > 0)
    if not used.all():
        first, second = (one[np.ix_(used, used)] for one in (first, second))
    if not len(first):
        return 0.0, 0.0
    try:
        lower = linalg.cholesky(first, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    product = linalg.blas.dtrmm(1.0, lower, second, side=1, lower=1)  # S2 L
    product = linalg.blas.dtrmm(1.0, lower, product, side=0, lower=1, trans_a=1)  # L' S2 L
    values = np.maximum(linalg.eigvalsh(product, overwrite_a=True, check_finite=False, driver="evr"), 0.0)
    error = np.finfo(np.float64).eps * np.linalg.norm(first) * np.linalg.norm(second)
    roots = np.sqrt(values)
    return float(roots.sum()), float((np.sqrt(values + error) - roots).sum())
