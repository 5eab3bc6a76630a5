"""The statistics behind the checks of synthetic images against closed forms, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist
from sklearn.metrics import roc_auc_score

from tests.audit.synthetic_cases import make_inputs
from wazuka.audit.synthetic import color, spectrum
from wazuka.audit.synthetic.checkerboard import period_two
from wazuka.audit.synthetic.intervals import (
    against_floor,
    auroc,
    auroc_interval,
    draw_groups,
    halves,
    lower_bound,
    share_interval,
)
from wazuka.audit.synthetic.neighbors import pair_distances
from wazuka.audit.synthetic.proportions import shares
from wazuka.audit.synthetic.spectrum import BANDS, ROUNDING, band_power


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 400), share=st.floats(0, 1))
def test_bounds_of_a_share_are_the_exact_ones(n: int, share: float):
    hits = round(share * n)
    exact = stats.binomtest(hits, n, alternative="greater").proportion_ci(0.95, method="exact")
    assert lower_bound(hits, n) == pytest.approx(exact.low, abs=1e-9)
    both = stats.binomtest(hits, n).proportion_ci(0.95, method="exact")
    assert share_interval(hits, n) == pytest.approx((both.low, both.high), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 40), levels=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_weighted_auroc_equals_that_of_repeated_rows(n: int, levels: int, seed: int):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, levels, n).astype(float), rng.random(n) < 0.5
    weights = rng.integers(0, 3, (n, 4))
    found = auroc(scores, positive, weights)
    for draw in range(4):
        rows = np.repeat(np.arange(n), weights[:, draw])
        if len(np.unique(positive[rows])) < 2:
            assert np.isnan(found[draw])
        else:
            assert found[draw] == pytest.approx(roc_auc_score(positive[rows], scores[rows]))


def test_groups_are_drawn_whole_and_each_side_keeps_its_number():
    rng = np.random.default_rng(0)
    groups, strata = rng.integers(0, 9, 80), rng.integers(0, 2, 80)
    weights = draw_groups(groups, strata, draws=50, rng=rng)
    for stratum in (0, 1):
        total = np.zeros(50)
        for group in np.unique(groups[strata == stratum]):
            own = weights[(strata == stratum) & (groups == group)]
            assert (own == own[0]).all()
            total += own[0]
        assert (total == len(np.unique(groups[strata == stratum]))).all()


def test_intervals_over_patients_are_wider_than_over_images():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 10)
    scores = rng.normal(size=20)[patients] + 0.1 * rng.normal(size=200)
    positive = patients % 2 == 0
    wide = auroc_interval(scores, positive, patients, seed=0)
    narrow = auroc_interval(scores, positive, np.arange(200), seed=0)
    assert wide[0] == narrow[0]
    assert wide[2] - wide[1] > 2 * (narrow[2] - narrow[1])


@settings(max_examples=20, deadline=None)
@given(patients=st.lists(st.integers(0, 12), min_size=2, max_size=60), seed=st.integers(0, 99))
def test_halves_share_no_patient_and_lose_no_row(patients: list[int], seed: int):
    codes = np.array(patients)
    if len(set(patients)) < 2:
        return
    for one, other in halves(codes, splits=5, seed=seed):
        assert len(one) and len(other)
        assert sorted([*one, *other]) == list(range(len(codes)))
        assert not set(codes[one]) & set(codes[other])


def test_the_floor_is_that_of_equal_numbers_on_both_sides():
    sizes = []

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        sizes.append((len(first), len(second)))
        return abs(float(first.mean() - second.mean()))

    rng = np.random.default_rng(0)
    found = against_floor(distance, rng.normal(size=200), rng.normal(size=30) + 5, np.repeat(np.arange(20), 10), seed=0)
    assert set(sizes) == {(30, 30)}
    assert found.value == pytest.approx(5, abs=0.5)
    assert found.floor < found.floor_high < 1
    assert found.beyond(2) and found.ratio == pytest.approx(found.value / found.floor)


def test_pair_distances_equal_scipy():
    rows = np.random.default_rng(0).normal(3, 1, (40, 7)).astype(np.float32)
    np.testing.assert_allclose(pair_distances(rows), pdist(rows), rtol=1e-4)
    assert pair_distances(rows[:1]).shape == (0,)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), low=st.integers(-1000, 200), spread=st.integers(1, 300))
def test_the_distance_of_histograms_is_the_wasserstein_distance(seed: int, low: int, spread: int):
    rng = np.random.default_rng(seed)
    a, b = (np.full((rows, 50), low) + rng.integers(0, spread, (rows, 50)) for rows in (6, 9))
    start, end = min(a.min(), b.min()), max(a.max(), b.max())
    width = (end - start) / color.BINS
    found = color._of_histograms(color._histograms(a, start, width), color._histograms(b, start, width)) * width
    assert found == pytest.approx(stats.wasserstein_distance(a.ravel(), b.ravel()), abs=1.01 * width)


def test_a_shift_is_reported_in_standard_deviations_of_the_real_values():
    inputs = make_inputs()
    assert inputs.real_pixels is not None
    moved = make_inputs(synthetic_pixels=inputs.real_pixels[:180] + np.float32([0, 0, 40]))
    found = {(one.channel, one.quantity): one.distance for one in color.shifts(moved)}
    deviation = inputs.real_pixels[..., 2].std()
    for quantity in ("values", "image means"):
        assert found["blue", quantity].value == pytest.approx(40 / deviation, rel=0.2)
    assert found["blue", "image contrasts"].value < 0.2 * found["blue", "values"].value


def test_white_noise_has_its_variance_in_every_band():
    images = np.random.default_rng(0).normal(100, 12, (200, 48, 64, 1)).astype(np.float32)
    found = 10 ** (band_power(images) / 10) - ROUNDING
    # the mean of 10 log10 over images lies a little below the logarithm of the mean
    np.testing.assert_allclose(found.mean(axis=0), 144, rtol=0.08)


def test_a_wave_lands_in_its_band():
    x = np.arange(64)
    wave = np.tile(128 + 40 * np.sin(2 * np.pi * 0.28 * x), (1, 64, 1))[..., None]
    assert band_power(wave)[0].argmax() == int(0.28 * 2 * BANDS) == 4
    assert spectrum.SMALLEST == 32


def test_amplitudes_of_period_two_follow_the_closed_form():
    # a (-1)^(y + x) has all its power, a^2 per pixel, at one frequency: amplitude a sqrt(height * width)
    y, x = np.mgrid[:31, :24]
    for k, wave in enumerate(((-1.0) ** y, (-1.0) ** x, (-1.0) ** (y + x))):
        images = np.stack([100 + 3 * wave, 100 - 2 * wave])[..., None]
        signed, near = period_two(images)  # the odd row is left out
        np.testing.assert_allclose(signed[:, k], np.array([3, -2]) * np.sqrt(30 * 24), rtol=0.01)
        assert np.abs(np.delete(signed, k, axis=1)).max() < 1
        assert near.max() < 1


def test_white_noise_has_its_variance_at_and_beside_the_nyquist_frequencies():
    images = np.random.default_rng(1).normal(0, 5, (800, 32, 32, 1))
    signed, near = period_two(images)
    np.testing.assert_allclose((signed**2).mean(axis=0), 25, rtol=0.2)
    np.testing.assert_allclose(near.mean(axis=0), 25, rtol=0.1)
    np.testing.assert_allclose(signed.mean(axis=0), 0, atol=0.6)


def test_shares_have_exact_intervals_where_images_stand_alone_and_wider_ones_over_patients():
    patients = np.repeat(np.arange(10), 10)
    real = pd.Series(np.where(patients < 5, "a", "b"))
    made = pd.Series(["a"] * 30 + ["b"] * 10)
    found = {one.name: one for one in shares(real, made, patients, np.arange(40), seed=0)}
    assert found["a"].synthetic == 0.75
    assert (found["a"].low, found["a"].high) == share_interval(30, 40)
    assert found["a"].real_high - found["a"].real_low > 0.4  # ten patients, not a hundred images
    grouped = shares(real, made, patients, np.repeat(np.arange(4), 10), seed=0)[0]
    assert grouped.high - grouped.low > found["a"].high - found["a"].low
