"""Scores on synthetic test images and adjusted differences: a table by hand, a literal bootstrap, pairing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from tests.evaluate.conftest import table
from wazuka.core.errors import DataError
from wazuka.evaluate.comparisons import paired_difference
from wazuka.evaluate.intervals import estimate
from wazuka.evaluate.panel import Key, Panel, Trial
from wazuka.evaluate.resampling import interval
from wazuka.evaluate.synthetic_matrix import adjusted_difference, synthetic_panel

CLASSES = {"classes": ("no", "yes"), "positive": "yes"}
KEY = Key("a", "10")


def trial(repeat: int, scores: list[float], labels: list[int], *, train_domain: str = "all") -> Trial:
    """A trial with two real images, always right, and the synthetic ones given."""
    n = len(labels)
    real = table(np.array([-1.0, 1.0]), np.array([0, 1]), np.array([0, 1]))
    made = table(np.array(scores), np.array(labels), np.arange(n), test_domain="synthetic", ids=np.arange(n) + 100)
    both = pd.concat([real, made.assign(patient=made["id"])], ignore_index=True)
    return Trial(strategy="a", budget="10", labels=10, repeat=repeat, predictions=both, train_domain=train_domain)


def test_scores_by_hand() -> None:
    # repeat 0: 2 of 2 "no" and 1 of 2 "yes" are right; repeat 1: 1 of 2 and 2 of 2, with equal ids of other images
    trials = [trial(0, [-2, -1, -3, 2], [0, 0, 1, 1]), trial(1, [-2, 3, 1, 2], [0, 0, 1, 1])]
    panel = synthetic_panel(trials, **CLASSES, draws=200)
    assert panel is not None and len(panel.patients) == 8
    for metric, value in {
        "accuracy": 0.75,
        "sensitivity": (0.5 + 1.0) / 2,
        "specificity": (1.0 + 0.5) / 2,
        "balanced_accuracy": 0.75,
        "auroc": (0.5 + 0.5) / 2,  # 2 of 4 pairs in the right order, twice
    }.items():
        found = estimate(panel, KEY, metric=metric)
        assert found.estimate == pytest.approx(value), metric
        assert found.repeats == 2 and found.n_patients == 8
    real = Panel(trials, **CLASSES, draws=200)
    assert estimate(real, KEY, metric="accuracy").estimate == 1.0


def test_the_interval_is_that_of_a_literal_bootstrap_over_images_and_repeats() -> None:
    rng = np.random.default_rng(0)
    n, repeats = 60, 4
    labels = np.arange(n) % 2
    logits = [(labels - 0.5) * strength + rng.normal(size=n) for strength in (1.0, 2.0, 3.0, 4.0)]
    trials = [trial(number, one.tolist(), labels.tolist()) for number, one in enumerate(logits)]
    panel = synthetic_panel(trials, **CLASSES, draws=4000, seed=1)
    assert panel is not None
    found = estimate(panel, KEY, metric="accuracy")
    right = np.array([(one > 0) == (labels == 1) for one in logits])
    assert found.estimate == pytest.approx(right.mean())
    drawn = np.empty(4000)
    for draw in range(len(drawn)):
        # all images of all repeats are one list to draw from; three of four repeats count
        counts = rng.multinomial(n * repeats, np.full(n * repeats, 1 / (n * repeats))).reshape(repeats, n)
        means = (counts * right).sum(axis=1) / counts.sum(axis=1)
        drawn[draw] = means[rng.integers(0, repeats, repeats - 1)].mean()
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.015) and found.high == pytest.approx(high, abs=0.015)


def test_train_domains_are_parts_of_their_own_generators() -> None:
    trials = [
        trial(0, [-2, -1, 1, 2], [0, 0, 1, 1], train_domain="x"),
        trial(0, [2, 1, -1, -2], [0, 0, 1, 1], train_domain="y"),
    ]
    panel = synthetic_panel(trials, **CLASSES, draws=100)
    assert panel is not None and len(panel.patients) == 8
    assert estimate(panel, KEY, metric="accuracy").estimate == 0.5


def test_without_synthetic_tests_there_is_no_panel_and_strategies_are_not_mixed() -> None:
    one = trial(0, [-1, 1], [0, 1])
    real = dataclasses.replace(one, predictions=one.predictions.query("test_domain != 'synthetic'"))
    assert synthetic_panel([real], **CLASSES) is None
    with pytest.raises(DataError, match="The trials are of 2 strategies and budgets"):
        synthetic_panel([one, dataclasses.replace(one, strategy="b")], **CLASSES)


def test_one_comparison_is_the_plain_paired_difference_and_more_widen_it(make_study) -> None:
    trials = make_study(np.random.default_rng(3), strategies={"a": (1.0,), "b": (1.5,)}, repeats=3)
    panel = Panel(trials, **CLASSES, draws=2000)
    first, second = Key("b", "50"), Key("a", "50")
    plain = paired_difference(panel, first, second, metric="auroc")
    one = adjusted_difference(panel, first, second, metric="auroc")
    assert plain is not None and one is not None
    assert (one.estimate, one.low, one.high) == (plain.estimate, plain.low, plain.high)
    assert (one.adjusted_low, one.adjusted_high) == (one.low, one.high)
    five = adjusted_difference(panel, first, second, metric="auroc", comparisons=5)
    found = panel.over_repeats([first, second], metric="auroc")
    _, drawn = panel.over_draws(found.values[0] - found.values[1], found.repeats)
    assert five is not None and (five.adjusted_low, five.adjusted_high) == interval(drawn, level=0.99)
    assert five.adjusted_low < five.low and five.adjusted_high > five.high


def test_no_comparison_at_all_is_refused(make_study) -> None:
    panel = Panel(make_study(np.random.default_rng(0), strategies={"a": (1.0,)}), **CLASSES, draws=100)
    with pytest.raises(DataError, match="`comparisons` is 0; give the number of differences looked at, 1 or more"):
        adjusted_difference(panel, Key("a", "50"), Key("a", "50"), metric="auroc", comparisons=0)
