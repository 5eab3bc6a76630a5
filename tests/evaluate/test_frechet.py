"""Fréchet distance: torch-fidelity, closed forms, and the product of covariances that are singular."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wazuka.core.errors import DataError, NotEnoughData
from wazuka.evaluate import frechet as module
from wazuka.evaluate.frechet import frechet, frechet_distance


def features(rng: np.random.Generator, *, rows: int, dim: int, shift: float = 0.0) -> np.ndarray:
    """Rectified mixtures of factors of falling scale, as an encoder gives them."""
    mixing = np.random.default_rng(7).normal(size=(dim, dim)) * np.arange(1, dim + 1) ** -0.7
    return np.maximum(rng.normal(size=(rows, dim)) @ mixing.T + 0.5 + shift, 0).astype(np.float32)


def of_torch_fidelity(first: np.ndarray, second: np.ndarray) -> float:
    from torch_fidelity import metric_fid as metric

    moments = [
        {"mu": one.mean(axis=0), "sigma": np.cov(one, rowvar=False)}
        for one in (first.astype(float), second.astype(float))
    ]
    return float(metric.fid_statistics_to_metric(*moments, verbose=False)[metric.KEY_METRIC_FID])


@pytest.mark.parametrize(("n", "m"), [(65, 65), (300, 300), (300, 90), (2000, 70)])
def test_with_more_rows_than_features_it_equals_torch_fidelity(n, m):
    rng = np.random.default_rng(n)
    x, y = features(rng, rows=n, dim=64), features(rng, rows=m, dim=64, shift=0.05)
    assert frechet_distance(x, y) == pytest.approx(of_torch_fidelity(x, y), rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(64, 64), (10, 10), (2, 30), (20, 500), (500, 20), (64, 65)])
def test_with_fewer_rows_than_features_it_equals_torch_fidelity_within_the_traces(n, m):
    rng = np.random.default_rng(n + m)
    x, y = features(rng, rows=n, dim=64), features(rng, rows=m, dim=64, shift=0.05)
    found = frechet(x, y)
    assert found.traces == pytest.approx(np.trace(np.cov(x.T.astype(float))) + np.trace(np.cov(y.T.astype(float))))
    assert found.distance == pytest.approx(of_torch_fidelity(x, y), rel=0, abs=1e-6 * found.traces)
    assert found.distance == pytest.approx(found.means + found.covariances)


def planted(rng: np.random.Generator, rows: int, mean: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rows whose sample mean and covariance are exactly `mean` and diag(scales²); rank rows - 1 at most."""
    rank = min(rows - 1, len(mean))
    basis = np.linalg.qr(np.column_stack([np.ones(rows), rng.normal(size=(rows, rank))]))[0][:, 1:]
    return mean + basis * np.sqrt(rows - 1) @ np.diag(scales)[:rank]


@pytest.mark.parametrize("rows", [40, 12])
def test_two_gaussians_with_commuting_covariances_have_the_closed_form(rows):
    """|m1 - m2|² + sum (s1 - s2)²: exact moments are planted, with fewer rows than features in the first `rows` - 1."""
    rng = np.random.default_rng(3)
    means, scales = rng.normal(size=(2, 30)), rng.uniform(0.1, 3, size=(2, 30))
    scales[:, rows - 1 :] = 0
    x, y = (planted(rng, rows, means[one], scales[one]) for one in range(2))
    expected = np.square(means[0] - means[1]).sum() + np.square(scales[0] - scales[1]).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 30))
def test_a_shift_adds_its_square_and_a_rotation_changes_nothing(seed, rows, dim):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(rows, dim)), rng.normal(size=(rows, dim)) * 2
    turn, shift = np.linalg.qr(rng.normal(size=(dim, dim)))[0], rng.normal(size=dim)
    scale = frechet(x, y).traces
    assert frechet_distance(x, x + shift) == pytest.approx(np.square(shift).sum(), rel=1e-6, abs=1e-7 * scale)
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-6, abs=1e-7 * scale)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * frechet_distance(x, y), rel=1e-6, abs=1e-7 * scale)


def test_singular_covariances_with_many_rows_lose_no_digits():
    """Ten factors in 60 features, one of them dead: the answer is that of the ten factors, which keeps full rank."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 10)), rng.normal(size=(400, 10)) * np.linspace(0.5, 2, 10) + 0.2
    wide = np.linalg.qr(rng.normal(size=(60, 10)))[0].T
    wide[:, 5] = 0
    left, values, _ = np.linalg.svd(wide, full_matrices=False)
    narrow = left * values  # x @ wide has the distances of x @ narrow
    expected = frechet_distance(x @ narrow, y @ narrow)
    assert frechet_distance(x @ wide, y @ wide) == pytest.approx(expected, rel=1e-9)


def test_both_routes_agree_and_rounding_decides_between_them(monkeypatch):
    rng = np.random.default_rng(5)
    x, y = features(rng, rows=200, dim=40), features(rng, rows=200, dim=40, shift=0.1)
    fast = frechet_distance(x, y)
    monkeypatch.setattr(module, "ROUNDING", -1.0)
    assert frechet_distance(x, y) == pytest.approx(fast, rel=1e-9)
    monkeypatch.setattr(module, "_nuclear_norm", lambda *_: pytest.fail("the slow route"))
    monkeypatch.setattr(module, "ROUNDING", 1e-7)
    assert frechet_distance(x, y) == fast
    x[:, 3] = 0.25  # a dead unit is no reason for the slow route
    assert frechet_distance(x, y) > fast


def test_nearly_singular_covariances_are_left_to_the_route_that_keeps_their_digits():
    """Cholesky succeeds, but the roots of its rounded eigenvalues would hide a distance as small as this one."""
    rng = np.random.default_rng(1)
    scales = np.concatenate([np.ones(10), np.full(50, 1e-7)])
    turn = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    x, y = (planted(rng, 200, np.zeros(60), factor * scales) @ turn for factor in (1, 1.001))
    assert frechet_distance(x, y) == pytest.approx(1e-6 * np.square(scales).sum(), rel=1e-6)


def test_identical_sets_have_no_distance():
    x = features(np.random.default_rng(0), rows=100, dim=30)
    for one in (x, x[:12]):
        found = frechet(one, one)
        assert found.distance <= 1e-9 * found.traces
        assert found.distance >= 0


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.zeros((5, 3)), np.zeros((5, 4)), DataError, "3 and 4 columns"),
        (np.zeros((1, 3)), np.zeros((5, 3)), NotEnoughData, "1 and 5 rows"),
        (np.zeros((5, 3)), np.full((5, 3), np.nan), DataError, "5 of 5 feature rows hold NaN"),
        (np.zeros((5, 3, 2)), np.zeros((5, 3)), DataError, r"shape \(5, 3, 2\)"),
        (np.zeros((5, 3), dtype=np.uint8), np.zeros((5, 3)), DataError, "type uint8"),
    ],
)
def test_unusable_features_are_refused(x, y, error, message):
    with pytest.raises(error, match=message):
        frechet(x, y)
