"""Precision, recall, density and coverage: a brute-force reference, ties, copies, cancellation, block sizes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wazuka.core.errors import ConfigError, DataError, NotEnoughData
from wazuka.evaluate import manifold as module
from wazuka.evaluate.manifold import Manifold, manifold


def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """All squared distances from differences in float64, (n, m)."""
    return np.square(x.astype(np.float64)[:, None] - y.astype(np.float64)[None]).sum(axis=-1)


def brute_force(real: np.ndarray, synthetic: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(balls, covered, reached) by the definitions."""
    radius_real = np.sort(squares(real, real) + np.diag(np.full(len(real), np.inf)), axis=1)[:, k - 1]
    radius_synthetic = np.sort(squares(synthetic, synthetic) + np.diag(np.full(len(synthetic), np.inf)), axis=1)[
        :, k - 1
    ]
    between = squares(real, synthetic)
    in_real = between <= radius_real[:, None]
    return in_real.sum(axis=0), in_real.any(axis=1), (between <= radius_synthetic[None]).any(axis=1)


def check(found: Manifold, real: np.ndarray, synthetic: np.ndarray) -> None:
    balls, covered, reached = brute_force(real, synthetic, found.k)
    np.testing.assert_array_equal(found.balls, balls)
    np.testing.assert_array_equal(found.inside, balls > 0)
    np.testing.assert_array_equal(found.covered, covered)
    np.testing.assert_array_equal(found.reached, reached)
    assert found.precision == np.mean(balls > 0)
    assert found.density == pytest.approx(balls.sum() / (found.k * len(synthetic)), rel=1e-12)
    assert found.coverage == covered.mean()
    assert found.recall == reached.mean()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block_bytes", [1, 3000, 2**26])
@pytest.mark.parametrize("k", [1, 5])
def test_it_equals_brute_force_for_any_block_size(dtype, block_bytes, k):
    rng = np.random.default_rng(k)
    real = rng.normal(size=(70, 12)).astype(dtype)
    synthetic = (rng.normal(size=(55, 12)) * 1.1 + 0.5).astype(dtype)
    found = manifold(real, synthetic, k=k, block_bytes=block_bytes)
    check(found, real, synthetic)
    assert 0 < found.precision < 1
    assert 0 < found.coverage < 1


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 400, 2**26]))
def test_on_a_grid_full_of_ties_and_copies_it_equals_brute_force(seed, k, dim, block_bytes):
    """Rows on a coarse grid: many distances are equal, many rows are copies, within and between the sets."""
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 4, size=(rng.integers(k + 1, 40), dim)).astype(np.float32) / 3
    synthetic = rng.integers(0, 5, size=(rng.integers(k + 1, 40), dim)).astype(np.float32) / 3
    check(manifold(real, synthetic, k=k, block_bytes=block_bytes), real, synthetic)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_tight_clusters_far_from_the_origin_and_each_other_lose_no_decision(offset):
    """float32 products of such rows cancel to nothing; the float64 bounds and the exact distances decide."""
    rng = np.random.default_rng(0)
    real = (rng.normal(size=(300, 8)) * 1e-2 + offset + 50 * rng.integers(0, 2, size=(300, 1))).astype(np.float32)
    synthetic = (rng.normal(size=(200, 8)) * 1.2e-2 + offset + 50 * rng.integers(0, 2, size=(200, 1))).astype(
        np.float32
    )
    check(manifold(real, synthetic, k=3), real, synthetic)


def test_the_float64_bounds_are_what_makes_clusters_cheap(monkeypatch):
    rng = np.random.default_rng(0)
    real = (rng.normal(size=(600, 8)) * 1e-2 + 50 * rng.integers(0, 2, size=(600, 1))).astype(np.float32)
    pairs = []
    exact = module._exact
    monkeypatch.setattr(module, "_exact", lambda a, i, b, j: pairs.append(len(i)) or exact(a, i, b, j))
    manifold(real, real + np.float32(1e-3), k=3)
    assert sum(pairs) < 5000  # of 3 x 360,000


def test_a_collapsed_generator_costs_no_more_and_is_seen():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(400, 6)).astype(np.float32)
    synthetic = np.repeat(real[:2], 300, axis=0)
    found = manifold(real, synthetic, k=5)
    check(found, real, synthetic)
    assert found.precision == 1
    assert found.recall == 2 / 400
    assert found.coverage < 0.1


def test_copies_of_real_rows_are_perfect_and_far_rows_worthless():
    rng = np.random.default_rng(2)
    real = rng.normal(size=(100, 4)).astype(np.float32)
    same = manifold(real, real, k=5)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    far = manifold(real, real + 100, k=5)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_draws_of_one_distribution_have_density_one_and_the_known_coverage():
    """Naeem et al. 2020, Lemma 2: E coverage = 1 - (m - 1)...(m - k) / ((2m - 1)...(2m - k)) for equal numbers m."""
    rng = np.random.default_rng(3)
    k, m = 5, 400
    found = [manifold(rng.normal(size=(m, 3)), rng.normal(size=(m, 3)), k=k) for _ in range(10)]
    expected = 1 - np.prod([(m - j) / (2 * m - j) for j in range(1, k + 1)])
    assert np.mean([one.coverage for one in found]) == pytest.approx(expected, abs=0.01)
    assert np.mean([one.density for one in found]) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("power", [-60, 60])
def test_the_scale_of_the_features_does_not_matter(power):
    rng = np.random.default_rng(4)
    real, synthetic = rng.normal(size=(50, 5)), rng.normal(size=(50, 5)) * 1.2
    base, scaled = manifold(real, synthetic), manifold(real * 2.0**power, synthetic * 2.0**power)
    np.testing.assert_array_equal(base.balls, scaled.balls)
    np.testing.assert_array_equal(base.reached, scaled.reached)
    assert base.coverage == scaled.coverage


def test_unusable_input_is_refused():
    x = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(NotEnoughData, match="5 and 6 rows; at least 6"):
        manifold(x[:5], x, k=5)
    with pytest.raises(ConfigError, match="`k` is 0"):
        manifold(x, x, k=0)
    with pytest.raises(DataError, match="1 of 6 feature rows hold NaN"):
        manifold(np.where(np.eye(6, 3) * np.arange(3) == 1, np.inf, x), x, k=2)


def test_memory_is_that_of_a_block_and_not_of_all_pairs():
    x = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    tracemalloc.start()
    manifold(x, x + 0.1, block_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6  # all pairs: 16 MB in float32
