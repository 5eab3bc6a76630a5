"""Bootstrap draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wazuka.evaluate.resampling import draw_patients, draw_repeats, interval


def test_each_draw_is_as_large_as_the_sample_and_each_patient_comes_once_on_average():
    counts, redrawn = draw_patients(30, draws=3000, rng=np.random.default_rng(0))
    assert counts.shape == (30, 3000)
    assert (counts.sum(axis=0) == 30).all()
    assert redrawn == 0
    assert counts.mean(axis=1) == pytest.approx(1.0, abs=5 * np.sqrt(1 / 3000))
    assert counts.var() == pytest.approx(1 - 1 / 30, rel=0.05)


def test_draws_with_one_class_are_drawn_again_and_counted():
    classes = np.array([[3, 0]] * 5 + [[0, 2]])  # one patient has the second class
    counts, redrawn = draw_patients(6, draws=4000, rng=np.random.default_rng(1), classes=[classes])
    assert (counts[5] > 0).all()
    assert (counts[:5].sum(axis=0) > 0).all()
    # Acceptance is 1 - (5/6)^6 - (1/6)^6, so the share redrawn is known.
    assert redrawn / (4000 + redrawn) == pytest.approx((5 / 6) ** 6 + (1 / 6) ** 6, abs=0.02)


def test_every_part_must_keep_two_classes():
    first = np.array([[1, 0], [0, 1], [0, 0], [0, 0]])
    second = np.array([[0, 0], [0, 0], [1, 0], [0, 1]])
    counts, _ = draw_patients(4, draws=50, rng=np.random.default_rng(2), classes=[first, second])
    assert (counts == 1).all()  # all four are needed


def test_samples_that_hardly_ever_have_two_classes_end_with_fewer_draws():
    parts = [np.eye(2, dtype=int)[[0] * 12 + [1] * 12][:, :] * (np.arange(24) % 12 == k)[:, None] for k in range(12)]
    counts, redrawn = draw_patients(24, draws=20, rng=np.random.default_rng(0), classes=parts)
    assert counts.shape[1] < 20
    assert redrawn >= 20 * 100 - 20


def test_repeats_are_shares_and_carry_the_unbiased_variance():
    shares = draw_repeats(5, draws=40_000, rng=np.random.default_rng(0))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    values = np.array([0.1, 0.5, 0.2, 0.9, 0.4])
    assert (shares @ values).var() == pytest.approx(values.var(ddof=1) / 5, rel=0.03)
    assert (draw_repeats(1, draws=3, rng=np.random.default_rng(0)) == 1).all()


def test_an_interval_is_made_of_percentiles_of_the_defined_draws():
    values = np.concatenate([np.arange(1001) / 1000, [np.nan] * 50])
    assert interval(values) == pytest.approx((0.025, 0.975))
    assert interval(values, level=0.9) == pytest.approx((0.05, 0.95))
    assert interval(values, reflect=0.4, low=0.0) == pytest.approx((0.0, 0.775))
    assert interval(values, reflect=0.9, high=1.0) == pytest.approx((0.825, 1.0))
    assert interval(values, reflect=0.01, low=-9.0) == pytest.approx((-0.955, 0.01))
    assert interval(values[:99]) == (None, None)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 5))
def test_the_same_seed_gives_the_same_draws_and_fewer_are_a_prefix_of_more(patients, draws, seed):
    more, _ = draw_patients(patients, draws=draws + 7, rng=np.random.default_rng(seed))
    fewer, _ = draw_patients(patients, draws=draws, rng=np.random.default_rng(seed))
    assert np.array_equal(fewer, more[:, :draws])
