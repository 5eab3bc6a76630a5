"""Learning curves: labels needed, labels saved, crossovers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from wazuka.core.errors import ConfigError, DataError
from wazuka.evaluate.learning_curve import (
    Curve,
    crossover,
    curve,
    fit_law,
    isotonic,
    labels_needed,
    labels_saved,
    law_reaches,
)
from wazuka.evaluate.panel import Panel

CLASSES = {"classes": ("no", "yes"), "positive": "yes"}
LABELS = np.array([20.0, 50, 100, 300, 1000])


def exact(function, *, name="a", labels=LABELS, noise=0.0, higher=True, draws=300):
    """A curve through known scores; its draws are moved up and down together by `noise`."""
    shift = np.concatenate([[0.0], np.linspace(-2, 2, draws)]) * noise
    values = function(labels)[:, None] + shift
    sign = 1 if higher else -1
    return Curve(
        strategy=name,
        metric="auroc" if higher else "brier",
        higher_is_better=higher,
        best=1.0 if higher else 0.0,
        budgets=tuple(str(int(n)) for n in labels),
        labels=labels,
        estimates=(),
        repeats=np.full(len(labels), 5),
        measured=values,
        fitted=sign * isotonic(sign * values, weights=np.full(len(labels), 5)),
    )


def rising(n):
    """0.6 at 20 labels, 0.1 more for each factor of ten."""
    return 0.6 + 0.1 * np.log10(n / 20)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 5)), min_size=1, max_size=8))
def test_isotonic_regression_equals_that_of_scikit_learn(points):
    values, weights = (np.array(part, dtype=float) for part in zip(*points, strict=True))
    expected = IsotonicRegression().fit_transform(np.arange(len(values)), values, sample_weight=weights)
    found = isotonic(np.stack([values, -values], axis=1), weights=weights)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-9)
    assert (np.diff(found, axis=0) >= -1e-12).all()


def test_labels_needed_are_read_between_budgets_in_log_labels():
    found = labels_needed(exact(rising, noise=0.01), 0.7)
    assert found.estimate == 200
    # Draws moved by d reach 0.7 at 20 * 10^(1 - 10 d); d runs evenly from -0.02 to 0.02.
    assert found.low == pytest.approx(20 * 10 ** (1 - 10 * 0.019), abs=2)
    assert found.high == pytest.approx(20 * 10 ** (1 + 10 * 0.019), abs=4)
    assert not found.already
    assert not found.extrapolated


def test_a_target_beyond_the_data_is_more_than_the_largest_budget():
    found = labels_needed(exact(rising, noise=0.001), 0.9)
    assert (found.estimate, found.low, found.high, found.more_than) == (None, None, None, 1000)


def test_an_interval_may_be_open_above_only():
    found = labels_needed(exact(rising, noise=0.02), float(rising(700.0)))
    assert found.estimate == 700
    assert found.low is not None
    assert found.high is None


def test_a_target_met_at_the_smallest_budget_says_so():
    found = labels_needed(exact(rising), 0.55)
    assert found.estimate == 20
    assert found.already


def test_a_dip_does_not_make_a_curve_fall():
    dip = exact(lambda n: np.array([0.6, 0.7, 0.68, 0.8, 0.85]))
    assert dip.fitted[:, 0].tolist() == pytest.approx([0.6, 0.69, 0.69, 0.8, 0.85])
    assert labels_needed(dip, 0.69).estimate == 50


def test_lower_is_better_for_errors():
    error = exact(lambda n: 0.3 - 0.1 * np.log10(n / 20), higher=False)
    assert labels_needed(error, 0.2).estimate == 200
    assert labels_needed(error, 0.35).already


def test_the_inverse_power_law_recovers_its_own_parameters():
    truth = np.array([[0.9, 0.85], [1.2, 0.6], [0.5, 0.9]])
    values = np.stack([a - b * LABELS**-c for a, b, c in truth.T], axis=1)
    law = fit_law(LABELS, values, weights=np.ones(5), best=1.0)
    refitted = law[0] - law[1] * LABELS[:, None] ** -law[2]
    np.testing.assert_allclose(refitted, values, atol=2e-3)
    np.testing.assert_allclose(law_reaches(law, np.array([0.88, 0.84])), [3600, (0.6 / 0.01) ** (1 / 0.9)], rtol=0.35)


def test_the_law_never_promises_more_than_the_best_score_nor_a_fall():
    law = fit_law(LABELS, np.stack([rising(LABELS) + 0.15, -rising(LABELS)], axis=1), weights=np.ones(5), best=1.0)
    assert law[0].max() <= 1.0
    assert (law[1] >= 0).all()
    assert law_reaches(law, np.array([1.0, 0.5])).tolist() == [np.inf, np.inf]


def test_a_projection_is_made_only_when_asked_and_is_marked():
    saturating = exact(lambda n: 0.9 - 1.2 * n**-0.5, noise=0.0005)
    found = labels_needed(saturating, 0.87, max_labels=5000)
    assert found.extrapolated
    assert found.estimate == pytest.approx(1600, rel=0.2)
    assert labels_needed(saturating, 0.87).estimate is None
    assert labels_needed(saturating, 0.9, max_labels=5000).estimate is None
    few = exact(lambda n: 0.9 - 1.2 * n**-0.5, labels=LABELS[:3])
    assert labels_needed(few, 0.87, max_labels=5000).estimate is None


def test_labels_saved_are_what_the_baseline_needs_beyond_the_budget():
    baseline = exact(rising, name="base")
    better = exact(lambda n: rising(2 * n), name="better")
    assert labels_saved(better, baseline, budget="100").estimate == 100
    assert labels_saved(baseline, baseline, budget="100").estimate == 0
    worse = exact(lambda n: rising(n / 2), name="worse")
    found = labels_saved(worse, baseline, budget="100")
    assert found.estimate == -50
    assert not found.at_most
    assert labels_saved(worse, baseline, budget="20").at_most
    beyond = labels_saved(better, baseline, budget="1000")
    assert (beyond.estimate, beyond.more_than) == (None, 0)


def test_curves_that_do_not_cross_have_no_crossover():
    found = crossover(exact(lambda n: rising(n) + 0.05, name="up"), exact(rising, name="down"))
    assert (found.labels, found.ahead_below, found.ahead_above, found.share) == (None, "up", "up", 0.0)


def test_a_crossover_is_found_where_the_lines_meet():
    flat = exact(lambda n: np.full(len(n), 0.7), name="flat")
    steep = exact(rising, name="steep", noise=0.01)
    found = crossover(steep, flat)
    assert found.labels == pytest.approx(200, abs=3)
    assert (found.ahead_below, found.ahead_above) == ("flat", "steep")
    assert found.low < 200 < found.high
    assert found.share == 1.0


def test_curves_of_different_metrics_or_ranges_are_refused():
    with pytest.raises(DataError, match="are not of one panel and metric"):
        crossover(exact(rising), exact(rising, higher=False))
    with pytest.raises(DataError, match="have no range of labels in common"):
        crossover(exact(rising, labels=LABELS[:2]), exact(rising, labels=LABELS[3:]))
    with pytest.raises(ConfigError, match="Unknown budget `99` in `a`"):
        labels_saved(exact(rising), exact(rising), budget="99")


def test_the_curve_of_a_study_has_its_budgets_in_order_and_shares_draws(make_study):
    trials = make_study(
        np.random.default_rng(0),
        strategies={"a": (0.5, 1.0, 2.0), "b": (1.0, 1.5, 2.5)},
        budgets=(20, 100, 500),
        patients=60,
    )
    panel = Panel(trials, **CLASSES, draws=300)
    a, b = (curve(panel, name, metric="auroc") for name in ("a", "b"))
    assert a.budgets == ("20", "100", "500")
    assert (np.diff(a.fitted, axis=0) >= 0).all()
    assert a.estimates[0].estimate == pytest.approx(a.measured[0, 0])
    assert np.corrcoef(a.measured[0, 1:], b.measured[0, 1:])[0, 1] > 0.2
    assert labels_saved(b, a, budget="100").estimate > 0
    error = curve(panel, "a", metric="brier")
    assert (np.diff(error.fitted, axis=0) <= 0).all()
    with pytest.raises(ConfigError, match="Unknown strategy `c`"):
        curve(panel, "c", metric="auroc")
