"""Weighted metrics against scikit-learn on literally resampled rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from wazuka.core.errors import ConfigError
from wazuka.evaluate.predictions import Scores, decide
from wazuka.evaluate.weighted_scores import ECE_BINS, METRICS, metric, values


def calibration_error(hit, prob):
    """The expected calibration error as a loop over bins."""
    total = 0.0
    for k in range(ECE_BINS):
        rows = (prob >= k / ECE_BINS) & ((prob < (k + 1) / ECE_BINS) | (k == ECE_BINS - 1))
        if rows.any():
            total += rows.mean() * abs(hit[rows].mean() - prob[rows].mean())
    return total


def reference(name, labels, probs, predicted, positive, k):
    """scikit-learn's value, None where ours must be undefined."""
    present = np.unique(labels)
    if name == "accuracy":
        return sk.accuracy_score(labels, predicted)
    if name == "brier" and k is None:
        return np.mean((probs - np.eye(probs.shape[1])[labels]) ** 2)
    if name == "ece" and k is None and positive is None:
        return np.mean([calibration_error(labels == c, probs[:, c]) for c in range(probs.shape[1])])
    if k is None and positive is not None and name not in ("balanced_accuracy", "kappa"):
        k = positive
    if name == "brier":
        return np.mean((probs[:, k] - (labels == k)) ** 2)
    if name == "ece":
        return calibration_error(labels == k, probs[:, k])
    if name == "sensitivity" and k is not None:
        return sk.recall_score(labels == k, predicted == k) if k in present else None
    if name == "f1" and k is not None:
        return sk.f1_score(labels == k, predicted == k) if k in present else None
    if name == "specificity" and k is not None:
        return sk.recall_score(labels != k, predicted != k) if (present != k).any() else None
    if len(present) < 2:
        return None
    if name == "balanced_accuracy":
        return np.mean([np.mean(predicted[labels == c] == c) for c in present])
    if name == "kappa":
        return sk.cohen_kappa_score(labels, predicted)
    if k is None:
        return np.mean([reference(name, labels, probs, predicted, positive, c) for c in present])
    if k not in present:
        return None
    return {"auroc": sk.roc_auc_score, "average_precision": sk.average_precision_score}[name](labels == k, probs[:, k])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("name", METRICS)
def test_weighting_patients_equals_resampling_their_rows(make_scores, name, classes):
    rng = np.random.default_rng(3)
    scores = make_scores(rng, n=60, classes=classes, patients=12)
    weights = rng.multinomial(12, np.full(12, 1 / 12), size=14).T.astype(np.uint8)
    weights[:, 0] = 1  # the sample itself
    only = np.unique(scores.units[scores.labels == 0])  # draws with few patients, hence missing classes
    weights[:, 1:6] = 0
    weights[only[:5], [1, 2, 3, 4, 5]] = 2
    wanted = [(name, None)]
    if METRICS[name].per_class and classes > 2:
        wanted += [(name, k) for k in range(classes)]
    found = values(scores, weights, wanted)
    for row, (_, k) in enumerate(wanted):
        for draw in range(weights.shape[1]):
            rows = np.repeat(np.arange(60), weights[scores.units, draw])
            expected = reference(
                name, scores.labels[rows], scores.probs[rows], scores.predicted[rows], scores.positive, k
            )
            if expected is None:
                assert np.isnan(found[row, draw]), (k, draw)
            else:
                assert found[row, draw] == pytest.approx(expected, abs=1e-12), (k, draw)


def test_macro_scores_equal_those_of_scikit_learn_when_all_classes_are_there(make_scores):
    scores = make_scores(np.random.default_rng(0), n=300, classes=5, patients=300, digits=3)
    ones = np.ones((300, 1))
    expected = {
        "auroc": sk.roc_auc_score(scores.labels, scores.probs, multi_class="ovr"),
        "average_precision": sk.average_precision_score(np.eye(5)[scores.labels], scores.probs),
        "balanced_accuracy": sk.balanced_accuracy_score(scores.labels, scores.predicted),
        "f1": sk.f1_score(scores.labels, scores.predicted, average="macro"),
        "brier": sk.brier_score_loss(scores.labels, scores.probs, scale_by_half=False) / 5,
    }
    for name, value in expected.items():
        assert values(scores, ones, [(name, None)])[0, 0] == pytest.approx(value, abs=1e-12), name


def test_at_one_half_is_the_score_of_decisions_at_one_half(make_scores):
    scores = make_scores(np.random.default_rng(1), n=80, classes=2, patients=80, threshold=0.2)
    at_half = Scores(
        scores.ids,
        scores.labels,
        scores.probs,
        decide(scores.probs, positive=1, threshold=0.5),
        scores.units,
        scores.positive,
    )
    ones = np.ones((80, 1))
    for name, about in METRICS.items():
        if about.thresholded:
            found = values(scores, ones, [(f"{name}_at_0.5", None)])
            assert found == values(at_half, ones, [(name, None)])
            assert found != values(scores, ones, [(name, None)]), name


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 3)), min_size=2, max_size=25),
    st.integers(1, 5),
)
def test_ranking_metrics_ignore_the_scale_of_scores_and_of_weights(rows, factor):
    score, label, weight = (np.array(part) for part in zip(*rows, strict=True))
    n = len(score)

    def both(of_score, of_weight):
        prob = of_score / 400
        scores = Scores(
            np.arange(n), label.astype(int), np.stack([1 - prob, prob], 1), label.astype(int), np.arange(n), 1
        )
        return values(scores, of_weight[:, None], [("auroc", None), ("average_precision", None)])

    expected = both(score, weight)
    np.testing.assert_allclose(both(score**3 + score, weight * factor), expected, rtol=1e-12)


def test_an_empty_choice_of_rows_has_no_score(make_scores):
    scores = make_scores(np.random.default_rng(0), n=10, classes=2, patients=5)
    empty = scores.take(np.zeros(10, dtype=bool))
    for name in METRICS:
        assert np.isnan(values(empty, np.ones((5, 3)), [(name, None)])).all()


def test_many_draws_in_blocks_equal_draws_one_by_one(make_scores):
    rng = np.random.default_rng(5)
    scores = make_scores(rng, n=500, classes=2, patients=50)
    weights = rng.integers(0, 4, size=(50, 600)).astype(np.uint8)
    wanted = [(name, None) for name in METRICS]
    together = values(scores, weights, wanted)
    for draw in (0, 261, 262, 263, 599):
        np.testing.assert_allclose(together[:, draw], values(scores, weights[:, [draw]], wanted)[:, 0], rtol=1e-12)


def test_an_unknown_metric_offers_the_nearest():
    with pytest.raises(ConfigError, match=r"Unknown metric `auroc_`\. Did you mean `auroc`\?"):
        metric("auroc_")
    with pytest.raises(ConfigError, match=r"Unknown metric `auroc_at_0\.5`"):
        metric("auroc_at_0.5")
    assert not metric("brier_patient").higher_is_better


def test_a_metric_of_units_is_refused_for_images(make_scores):
    scores = make_scores(np.random.default_rng(0), n=10, classes=2, patients=5)
    with pytest.raises(ConfigError, match="`auroc_patient` is of units, not images; aggregate"):
        values(scores, np.ones((5, 1)), [("auroc_patient", None)])
