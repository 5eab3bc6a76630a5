"""Permutation tests against swapping the predictions for real."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import kstest, rankdata

from wazuka.evaluate.permutation import LINEAR, contributions, general_p_value, p_values
from wazuka.evaluate.predictions import Scores
from wazuka.evaluate.weighted_scores import METRICS, values


def pair(make_scores, rng, *, classes, n=24, patients=8):
    """Two strategies' predictions of the same images."""
    a = make_scores(rng, n=n, classes=classes, patients=patients)
    b = make_scores(rng, n=n, classes=classes, patients=patients)
    return a, Scores(a.ids, a.labels, b.probs, b.predicted, a.units, a.positive)


def swapped(a, b, swap, *, on_ranks):
    """Both strategies after exchanging the predictions of the patients in `swap`."""
    probs = [rankdata(one.probs, axis=0) if on_ranks else one.probs for one in (a, b)]
    rows = swap[a.units]
    out = []
    for own, other, one, two in ((probs[0], probs[1], a, b), (probs[1], probs[0], b, a)):
        mixed = np.where(rows[:, None], other, own)
        out.append(Scores(a.ids, a.labels, mixed, np.where(rows, two.predicted, one.predicted), a.units, a.positive))
    return out


def difference(a, b, name, k):
    ones = np.ones((a.units.max() + 1, 1))
    return float(values(a, ones, [(name, k)])[0, 0] - values(b, ones, [(name, k)])[0, 0])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LINEAR)
def test_the_difference_after_any_swap_is_linear_in_the_patients_parts(make_scores, name, classes):
    rng = np.random.default_rng(1)
    a, b = pair(make_scores, rng, classes=classes)
    for k in [None] if classes == 2 or not METRICS[name].per_class else [None, 0, 2]:
        parts = contributions(a, b, metric=name, index=k, n_units=8)
        for _ in range(20):
            swap = rng.random(8) < 0.5
            expected = difference(*swapped(a, b, swap, on_ranks=METRICS[name].on_ranks), name, k)
            assert (1 - 2 * swap) @ parts == pytest.approx(expected, abs=1e-12)


def test_few_patients_are_enumerated_exactly():
    parts = np.array([0.3, -0.1, 0.25, 0.05, 0.0])
    swaps = [abs(np.dot(signs, parts)) >= parts.sum() - 1e-12 for signs in itertools.product([1, -1], repeat=5)]
    found = p_values(parts[:, None], permutations=10, rng=np.random.default_rng(0))
    assert found[0] == pytest.approx(np.mean(swaps))


def test_random_swaps_come_close_to_all_swaps():
    rng = np.random.default_rng(0)
    parts = rng.normal(0.15, 1, size=16)
    signs = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = np.mean(np.abs(signs @ parts) >= abs(parts.sum()) - 1e-12)
    found = p_values(parts[:, None], permutations=20_000, rng=np.random.default_rng(1))[0]
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_the_smallest_p_value_is_one_over_the_permutations_plus_one():
    found = p_values(np.ones((60, 1)), permutations=2000, rng=np.random.default_rng(0))
    assert found[0] == pytest.approx(1 / 2001)


def test_equal_predictions_have_p_one():
    assert p_values(np.zeros((30, 1)), permutations=100, rng=np.random.default_rng(0)).tolist() == [1.0]


@pytest.mark.parametrize("name", ["auroc", "average_precision", "f1", "kappa", "ece", "f1_at_0.5"])
def test_scoring_every_swapped_sample_equals_swapping_for_real(make_scores, name):
    rng = np.random.default_rng(4)
    a, b = pair(make_scores, rng, classes=2, n=18, patients=6)
    on_ranks = METRICS[name.removesuffix("_at_0.5")].on_ranks
    observed = abs(difference(*swapped(a, b, np.zeros(6, bool), on_ranks=on_ranks), name, None))
    extreme = []
    for swap in itertools.product([False, True], repeat=6):
        extreme.append(
            abs(difference(*swapped(a, b, np.array(swap), on_ranks=on_ranks), name, None)) >= observed - 1e-12
        )
    found = general_p_value(
        [(a, b)],
        lambda parts: parts[0],
        metric=name,
        index=None,
        n_units=6,
        permutations=100,
        rng=np.random.default_rng(0),
    )
    assert found == pytest.approx(np.mean(extreme))


def test_the_two_ways_to_a_p_value_agree(make_scores):
    a, b = pair(make_scores, np.random.default_rng(2), classes=3, n=60, patients=30)
    parts = contributions(a, b, metric="auroc", index=None, n_units=30)
    fast = p_values(parts[:, None], permutations=4000, rng=np.random.default_rng(0))[0]
    slow = general_p_value(
        [(a, b)],
        lambda parts: parts[0],
        metric="auroc",
        index=None,
        n_units=30,
        permutations=4000,
        rng=np.random.default_rng(1),
    )
    assert fast == pytest.approx(slow, abs=0.04)


def test_p_values_are_uniform_when_the_strategies_are_exchangeable():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(250):
        units = np.repeat(np.arange(25), 2)
        labels = (rng.random(50) < 0.4).astype(int)
        labels[:2] = [0, 1]
        shared = labels + rng.normal(size=50) + rng.normal(size=25)[units]
        own = [1 / (1 + np.exp(-shared - rng.normal(size=25)[units] - rng.normal(size=50))) for _ in range(2)]
        a, b = (Scores(np.arange(50), labels, np.stack([1 - p, p], 1), labels, units, 1) for p in own)
        found.append(contributions(a, b, metric="auroc", index=None, n_units=25))
    p = p_values(np.array(found).T, permutations=2000, rng=np.random.default_rng(1))
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 250)


def test_monotone_changes_of_one_strategys_scale_do_not_matter_for_rankings(make_scores):
    a, b = pair(make_scores, np.random.default_rng(6), classes=2, n=40, patients=20)
    prob = b.probs[:, 1] ** 3 / 10
    moved = Scores(b.ids, b.labels, np.stack([1 - prob, prob], 1), b.predicted, b.units, 1)
    first = contributions(a, b, metric="auroc", index=None, n_units=20)
    np.testing.assert_allclose(contributions(a, moved, metric="auroc", index=None, n_units=20), first, atol=1e-12)
