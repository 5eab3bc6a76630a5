"""Bootstrap draws: patients, then repeats, as counts; independent of the order of the rows that they weigh.

Crossed bootstrap (Owen 2007, "The pigeonhole bootstrap"): patients are drawn once for all repeats, so that a patient who
is tested in several repeats stays one patient, and repeats are drawn on top. From R repeats, R - 1 are drawn (McCarthy
and Snowden 1985): drawing R would make the variance between repeats too small by (R - 1)/R, which matters at 3 or 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_ATTEMPTS = 100
"""Draws tried for each draw wanted; beyond that, samples with two classes are too rare for an interval."""
MIN_DRAWS = 100
"""Fewer usable draws than this give no interval."""


def draw_patients(
    n_patients: int, *, draws: int, rng: np.random.Generator, classes: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, int]:
    """Draw patients with replacement, `n_patients` each time.

    Args:
        n_patients: Patients to draw from.
        draws: How many draws to return.
        rng: Source of randomness.
        classes: For each test part that must stay usable, images per (patient, class): (n_patients, classes). A draw
            that leaves fewer than two classes in one of them is drawn again.

    Returns:
        Counts, (n_patients, draws) uint8, fewer columns if `MAX_ATTEMPTS` draws for each one wanted did not suffice;
        and the number of draws that were drawn again.
    """
    present = np.concatenate([np.asarray(one) > 0 for one in classes], axis=1).astype(np.float32) if classes else None
    ends = np.cumsum([np.asarray(one).shape[1] for one in classes])
    kept: list[np.ndarray] = []
    done = tried = 0
    step = int(np.clip(2**22 // n_patients, 16, 1024))
    while done < draws and tried < MAX_ATTEMPTS * draws:
        counts = _one_batch(n_patients, step, rng)
        good = np.ones(step, dtype=bool)
        if present is not None:
            found = counts.astype(np.float32) @ present > 0  # (step, all classes of all parts)
            for part in np.split(found, ends[:-1], axis=1):
                good &= part.sum(axis=1) >= 2
        used = np.flatnonzero(good)[: draws - done]
        # Batches are of fixed size; what follows the last draw that was needed was never asked for.
        tried += step if done + len(used) < draws else int(used[-1]) + 1
        done += len(used)
        kept.append(counts[used])
    return np.ascontiguousarray(np.concatenate(kept).T), tried - done


def _one_batch(n_patients: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Counts of `n_patients` draws with replacement, (draws, n_patients) uint8."""
    drawn = rng.integers(0, n_patients, size=(draws, n_patients))
    drawn += np.arange(draws)[:, None] * n_patients
    counts = np.bincount(drawn.ravel(), minlength=draws * n_patients)
    assert counts.max() < 256, "a patient drawn more than 255 times"
    return counts.reshape(draws, n_patients).astype(np.uint8)


def draw_repeats(n_repeats: int, *, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `n_repeats` - 1 repeats with replacement (one of one), as shares that sum to 1: (draws, n_repeats)."""
    size = max(n_repeats - 1, 1)
    return rng.multinomial(size, np.full(n_repeats, 1 / n_repeats), size=draws) / size


def interval(
    values: np.ndarray, *, level: float = 0.95, reflect: float | None = None, low: float = -np.inf, high: float = np.inf
) -> tuple[float | None, float | None]:
    """Percentile interval of bootstrap values; (None, None) with fewer than `MIN_DRAWS` that are defined.

    Args:
        values: (draws,); NaN are draws in which the score is undefined.
        level: Two-sided.
        reflect: The estimate, for scores that are inflated in small samples and once more by resampling: the interval
            is mirrored at it (basic bootstrap), which takes the bias off instead of doubling it, and widened to hold
            it. None gives percentiles.
        low, high: The ends of the score's range.
    """
    values = values[~np.isnan(values)]
    if len(values) < MIN_DRAWS:
        return None, None
    bounds = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    if reflect is not None:
        bounds = np.array([min(2 * reflect - bounds[1], reflect), max(2 * reflect - bounds[0], reflect)])
    bounds = np.clip(bounds, low, high)
    return float(bounds[0]), float(bounds[1])
