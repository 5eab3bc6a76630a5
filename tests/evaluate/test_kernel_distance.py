"""Kernel distance: a double loop over pairs, and its expectation of zero."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from wazuka.core.errors import DataError, NotEnoughData
from wazuka.evaluate.kernel_distance import kernel_distance, kernel_distances


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, pair by pair (Gretton et al. 2012, Eq. 3)."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(float(one) * float(other) for one, other in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(rows: np.ndarray) -> float:
        pairs = list(itertools.permutations(range(len(rows)), 2))
        return sum(k(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    between = [k(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(between) / len(between)


@pytest.mark.parametrize("block_bytes", [1, 500, 2**26])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_equals_the_double_loop_for_any_block_size(block_bytes, dtype):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(17, 6)).astype(dtype), (rng.normal(size=(23, 6)) + 0.3).astype(dtype)
    assert kernel_distance(x, y, block_bytes=block_bytes) == pytest.approx(by_loops(x, y), rel=1e-10)


def test_subsets_equal_the_distance_of_their_rows():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(25, 5)) * 1.5
    u, v = rng.random((30, 7)) < 0.5, rng.random((25, 7)) < 0.5
    found = kernel_distances(x, y, of_first=u, of_second=v, block_bytes=900)
    assert found == pytest.approx([by_loops(x[u[:, s]], y[v[:, s]]) for s in range(7)], rel=1e-10)
    halves = kernel_distances(x, x, of_first=u, of_second=~u)
    assert halves == pytest.approx([by_loops(x[u[:, s]], x[~u[:, s]]) for s in range(7)], rel=1e-10)


def test_over_all_splits_of_one_sample_the_mean_is_exactly_zero():
    """Within and between pairs are then the same pairs: the estimate is unbiased, and half of the splits are negative."""
    x = np.random.default_rng(2).normal(size=(8, 3)) * 5
    chosen = list(itertools.combinations(range(8), 3))
    first = np.zeros((8, len(chosen)), dtype=bool)
    for s, rows in enumerate(chosen):
        first[list(rows), s] = True
    found = kernel_distances(x, x, of_first=first, of_second=~first)
    assert found.mean() == pytest.approx(0, abs=1e-9 * np.abs(found).max())
    assert found.min() < 0 < found.max()


def test_draws_of_one_distribution_average_to_zero_and_a_shift_does_not():
    rng = np.random.default_rng(3)
    same = np.array([kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(40, 4))) for _ in range(300)])
    assert abs(same.mean()) < 4 * same.std(ddof=1) / np.sqrt(300)
    moved = np.array([kernel_distance(rng.normal(size=(20, 4)), rng.normal(size=(40, 4)) + 0.5) for _ in range(50)])
    assert moved.mean() > 10 * moved.std(ddof=1) / np.sqrt(50)


def test_too_small_sides_and_wrong_subsets_are_refused():
    x = np.zeros((5, 2))
    with pytest.raises(NotEnoughData, match="1 and 5 rows"):
        kernel_distance(x[:1], x)
    lone = np.eye(5, dtype=bool)[:, :2]
    with pytest.raises(NotEnoughData, match="A subset has 1 rows"):
        kernel_distances(x, x, of_first=lone, of_second=lone)
    with pytest.raises(DataError, match=r"shapes \(5, 2\) and \(4, 2\)"):
        kernel_distances(x, x, of_first=lone, of_second=lone[:4])


def test_memory_is_that_of_a_block_and_not_of_all_pairs():
    x = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    tracemalloc.start()
    kernel_distance(x, x + 0.1, block_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # all pairs: 16 MB in float32
