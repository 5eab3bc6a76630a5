"""The predictions table: schema, decision rule, round trip."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wazuka.core.errors import DataError
from wazuka.evaluate.predictions import (
    check,
    columns,
    decide,
    make_predictions,
    positive_index,
    read_predictions,
    to_scores,
    write_predictions,
)


@pytest.fixture
def good(make_table) -> pd.DataFrame:
    return make_table(np.array([-2.0, 0.5, 1.0, -0.2]), np.array([0, 1, 1, 0]), np.array([0, 0, 1, 2]))


def test_columns_are_those_of_the_contract():
    assert columns(["a", "b"]) == [
        "id",
        "patient",
        "domain",
        "test_domain",
        "parent",
        "label",
        "p_a",
        "p_b",
        "threshold",
        "predicted",
    ]


def test_a_table_survives_writing_and_reading(tmp_path, good):
    write_predictions(tmp_path / "predictions.parquet", good, positive="yes")
    read = read_predictions(tmp_path / "predictions.parquet", classes=("no", "yes"), positive="yes")
    pd.testing.assert_frame_equal(read, good)


def test_the_positive_class_is_predicted_from_the_threshold_on():
    probs = np.array([[0.7, 0.3], [0.69, 0.31], [0.2, 0.8]])
    assert decide(probs, positive=1, threshold=0.31).tolist() == [0, 1, 1]
    assert decide(probs, positive=0, threshold=0.7).tolist() == [0, 1, 1]


def test_more_classes_are_decided_by_the_largest_probability_and_ties_by_the_first():
    probs = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    assert decide(probs, positive=None, threshold=0.9).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="patient"), "lack the columns patient; a predictions table has id, patient"),
        (lambda t: t.assign(extra=1), "unknown columns extra"),
        (lambda t: t.iloc[:0], "have no rows"),
        (lambda t: t.assign(id="x"), "Id `x` stands twice"),
        (lambda t: t.assign(patient=None), "`patient` of the predictions is empty in 4 rows"),
        (lambda t: t.assign(label="maybe"), "holds `maybe`; the classes are no, yes"),
        (lambda t: t.assign(p_no=0.9), "must lie in \\[0, 1\\] and sum to 1"),
        (lambda t: t.assign(p_no=np.nan), "must lie in \\[0, 1\\] and sum to 1"),
        (lambda t: t.assign(threshold=[0.5, 0.5, 0.5, 0.6]), "is not one number"),
        (lambda t: t.assign(predicted="no"), "`predicted` of `i00001` is `no`, but its probabilities"),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(good, change, message):
    with pytest.raises(DataError, match=message):
        check(change(good), positive="yes")


def test_probabilities_of_the_wrong_shape_are_refused(good):
    with pytest.raises(DataError, match=r"`probs` has shape \(4, 3\); 4 rows and 2 classes need \(4, 2\)"):
        make_predictions(good, np.ones((4, 3)) / 3, classes=("no", "yes"), positive="yes", threshold=0.5)


def test_the_positive_class_must_be_one_of_two_classes():
    with pytest.raises(DataError, match="Positive class `x` is not one of `a`, `b`"):
        positive_index(["a", "b"], "x")
    with pytest.raises(DataError, match="There are 1 classes"):
        positive_index(["a"], None)
    assert positive_index(["a", "b", "c"], None) is None


def test_unlabeled_predictions_cannot_be_scored(good):
    unlabeled = check(good.assign(label=[None, "yes", "yes", None]), positive="yes")
    with pytest.raises(DataError, match="2 of 4 predictions have no label"):
        to_scores(unlabeled, classes=("no", "yes"), positive="yes")


def test_arrays_do_not_depend_on_the_order_of_the_rows(good):
    first = to_scores(good, classes=("no", "yes"), positive="yes")
    second = to_scores(good.iloc[[2, 0, 3, 1]], classes=("no", "yes"), positive="yes")
    for name in ("ids", "labels", "probs", "predicted", "units"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
