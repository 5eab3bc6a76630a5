"""Small statistics that the checks share: bounds of shares, weighted AUROC, patients drawn, halves of patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

DRAWS = 1000
SPLITS = 20
"""Random splits into halves behind a real-versus-real floor."""
HALF_PATIENTS = 4
"""Patients that each half needs; a floor between fewer says more about them than about the images."""


@dataclass(frozen=True)
class SpaceAuroc:
    """AUROC in one space (pixels or features), with its 95 % interval over patients."""

    space: str
    auroc: float
    low: float
    high: float


def lower_bound(hits: int, n: int, level: float = 0.95) -> float:
    """Exact one-sided lower bound of a share (Clopper and Pearson 1934).

    >>> round(lower_bound(10, 10), 4)  # 0.05 ** (1 / 10)
    0.7411
    """
    return 0.0 if hits == 0 else float(stats.beta.ppf(1 - level, hits, n - hits + 1))


def share_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a share (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(stats.beta.ppf(1 - tail, hits + 1, n - hits))
    return low, high


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Chance that a positive has a higher score than a negative, ties counting half, for several weightings at once.

    Args:
        scores: (n,).
        positive: bool (n,).
        weights: (n, draws), not negative.

    Returns:
        (draws,); NaN where one side has no weight.
    """
    order = np.argsort(scores, kind="stable")
    _, tie = np.unique(scores[order], return_inverse=True)
    first = np.flatnonzero(np.diff(tie, prepend=-1))
    up = np.add.reduceat((weights * positive[:, None])[order], first, axis=0)
    down = np.add.reduceat((weights * ~positive[:, None])[order], first, axis=0)
    below = np.cumsum(down, axis=0) - down / 2
    total = up.sum(axis=0) * down.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (up * below).sum(axis=0) / total, np.nan)


def draw_groups(groups: np.ndarray, strata: np.ndarray, *, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of rows when whole groups are drawn with replacement, as many per stratum as it has: (n, draws) float64.

    A group whose rows lie in two strata is drawn in each for itself.
    """
    weights = np.zeros((len(groups), draws))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        codes = np.unique(groups[rows], return_inverse=True)[1]
        n = int(codes.max()) + 1
        weights[rows] = rng.multinomial(n, np.full(n, 1 / n), size=draws).T[codes]
    return weights


def auroc_interval(
    scores: np.ndarray, positive: np.ndarray, groups: np.ndarray, *, seed: int, draws: int = DRAWS
) -> tuple[float, float, float]:
    """AUROC with its 95 % percentile interval; groups (patients) are drawn on each side."""
    drawn = draw_groups(groups, positive.astype(int), draws=draws, rng=np.random.default_rng(seed))
    value = float(auroc(scores, positive, np.ones((len(scores), 1)))[0])
    low, high = np.quantile(auroc(scores, positive, drawn), [0.025, 0.975])
    return value, float(low), float(high)


def halves(patients: np.ndarray, *, splits: int = SPLITS, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random splits of rows into two halves without a common patient, as near to equal as a random order makes them."""
    rng = np.random.default_rng(seed)
    codes = np.unique(patients, return_inverse=True)[1]
    sizes = np.bincount(codes)
    for _ in range(splits):
        order = rng.permutation(len(sizes))
        cut = int(np.searchsorted(np.cumsum(sizes[order]), len(patients) / 2)) + 1
        cut = min(max(cut, 1), len(sizes) - 1)
        first = np.isin(codes, order[:cut])
        yield np.flatnonzero(first), np.flatnonzero(~first)


@dataclass(frozen=True)
class AgainstFloor:
    """A distance between real and synthetic images beside that between real ones, both over halves.

    Attributes:
        value: Mean over splits of the distance between a half of the real images and as many synthetic ones.
        floor: Mean over splits of the distance between the two real halves.
        floor_high: The largest of these.
        size: Images on each side, in the mean.
    """

    value: float
    floor: float
    floor_high: float
    size: float

    @property
    def ratio(self) -> float:
        """Value / floor; infinite where the floor is 0 and the value is not."""
        if self.floor > 0:
            return self.value / self.floor
        return np.inf if self.value > 0 else 1.0

    def beyond(self, times: float) -> bool:
        """Whether the value exceeds both the largest floor and so many times the mean one."""
        return self.value > max(times * self.floor, self.floor_high)


def against_floor(
    distance: Callable[[np.ndarray, np.ndarray], float],
    real: np.ndarray,
    synthetic: np.ndarray,
    patients: np.ndarray,
    *,
    seed: int,
) -> AgainstFloor:
    """Compare with equal numbers on both sides.

    Args:
        distance: Of two sets of images.
        real, synthetic: What is known of each image, (n, ...) and (m, ...); rows of them are handed to `distance`.
        patients: Code per real image.
        seed: Of the splits and the draws.
    """
    rng = np.random.default_rng([seed, 1])
    values, floors, sizes = [], [], []
    for one, other in halves(patients, seed=seed):
        size = min(len(one), len(other), len(synthetic))
        first, second = (real[rng.choice(rows, size, replace=False)] for rows in (one, other))
        values.append(distance(first, synthetic[rng.choice(len(synthetic), size, replace=False)]))
        floors.append(distance(first, second))
        sizes.append(size)
    return AgainstFloor(float(np.mean(values)), float(np.mean(floors)), float(np.max(floors)), float(np.mean(sizes)))


def why_no_floor(patients: np.ndarray, synthetic: int, least: int) -> str | None:
    """Why two halves of the real images cannot serve as a floor, or None."""
    n = len(np.unique(patients))
    if n < 2 * HALF_PATIENTS:
        return f"there are {n} patients; two halves of the real images need {2 * HALF_PATIENTS}"
    if len(patients) < 2 * least or synthetic < least:
        return f"there are {len(patients)} real and {synthetic} synthetic images; it takes {2 * least} and {least}"
    return None
