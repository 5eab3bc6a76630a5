"""Scores of one trial: what is listed, and what is undefined."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from wazuka.evaluate.classification import confusion, score
from wazuka.evaluate.predictions import make_predictions


@pytest.fixture
def three() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 50)
    probs = rng.dirichlet(np.ones(3), 50) * 0.5 + 0.5 * np.eye(3)[labels] * rng.random((50, 1))
    probs /= probs.sum(axis=1, keepdims=True)
    rows = pd.DataFrame(
        {
            "id": np.arange(50).astype(str),
            "patient": np.arange(50).astype(str),
            "domain": None,
            "test_domain": "all",
            "parent": None,
            "label": np.array(["a", "b", "c"])[labels],
        }
    )
    return make_predictions(rows, probs, classes=("a", "b", "c"), positive=None, threshold=0.5)


def test_two_classes_report_one_half_besides_the_chosen_threshold(make_table):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    table = make_table(labels + rng.normal(size=80), labels, np.arange(80), threshold=0.7)
    found = {name: value for name, class_, value in score(table, classes=("no", "yes"), positive="yes") if class_ == ""}
    prob = table["p_yes"].to_numpy()
    assert found["sensitivity"] == pytest.approx(sk.recall_score(labels, prob >= 0.7), abs=1e-12)
    assert found["sensitivity_at_0.5"] == pytest.approx(sk.recall_score(labels, prob >= 0.5), abs=1e-12)
    assert found["specificity_at_0.5"] == pytest.approx(sk.recall_score(1 - labels, prob < 0.5), abs=1e-12)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(labels, prob), abs=1e-12)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels, prob), abs=1e-12)


def test_sensitivity_is_about_the_positive_class_named(make_table):
    labels = np.array([0, 0, 0, 1, 1])
    table = make_table(np.array([-1.0, -1.0, 1.0, 1.0, 1.0]), labels, np.arange(5))
    about_no = table.assign(predicted=np.where(table["p_no"] >= 0.5, "no", "yes"))
    found = {name: value for name, _, value in score(about_no, classes=("no", "yes"), positive="no")}
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert found["specificity"] == pytest.approx(1.0)


def test_more_classes_have_a_value_each_and_no_threshold(three):
    found = score(three, classes=("a", "b", "c"), positive=None)
    assert {class_ for _, class_, _ in found} == {"", "a", "b", "c"}
    assert not any("_at_" in name for name, _, _ in found)
    each = {class_: value for name, class_, value in found if name == "auroc"}
    for class_ in "abc":
        expected = sk.roc_auc_score(three["label"] == class_, three[f"p_{class_}"])
        assert each[class_] == pytest.approx(expected, abs=1e-12)
    assert each[""] == pytest.approx(np.mean([each["a"], each["b"], each["c"]]))


def test_scores_of_one_class_are_undefined_but_errors_of_probabilities_are_not(make_table):
    table = make_table(np.array([0.5, -1.0, 2.0]), np.array([1, 1, 1]), np.arange(3))
    found = {name: value for name, _, value in score(table, classes=("no", "yes"), positive="yes")}
    for name in ("auroc", "average_precision", "balanced_accuracy", "specificity", "kappa"):
        assert found[name] is None, name
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["brier"] is not None


def test_only_the_metrics_asked_for_are_scored(three):
    found = score(three, classes=("a", "b", "c"), positive=None, metrics=["kappa"])
    assert [(name, class_) for name, class_, _ in found] == [("kappa", "")]


def test_the_confusion_counts_every_image_once(three):
    counts = confusion(three, classes=("a", "b", "c"))
    expected = sk.confusion_matrix(
        three["label"].astype(object), three["predicted"].astype(object), labels=["a", "b", "c"]
    )
    assert (counts.to_numpy() == expected).all()
    assert counts.loc["a"].sum() == (three["label"] == "a").sum()
