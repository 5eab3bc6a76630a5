"""Patch scores to images and patients."""

from __future__ import annotations

import numpy as np
import pytest

from wazuka.core.errors import DataError
from wazuka.evaluate.aggregate import aggregate, why_not


@pytest.fixture
def patches(make_table):
    labels = np.array([0, 0, 0, 1, 1, 0])
    return make_table(
        np.array([-1.0, 0.4, -2.0, 2.0, -1.0, 3.0]),
        labels,
        np.array([0, 0, 0, 1, 1, 2]),
        parents=np.array(["x", "x", "y", "z", "z", None], dtype=object),
        domains=np.array(["s1", "s1", "s2", "s1", "s1", "s1"]),
    )


def test_probabilities_are_averaged_over_each_unit(patches):
    by_patient = aggregate(patches, level="patient", positive="yes").set_index("id")
    prob = patches["p_yes"].to_numpy()
    assert by_patient["p_yes"].tolist() == pytest.approx([prob[:3].mean(), prob[3:5].mean(), prob[5]])
    assert by_patient["label"].tolist() == ["no", "yes", "no"]
    assert by_patient["domain"].isna().tolist() == [True, False, False]  # the first patient was seen at two sites


def test_an_image_that_was_not_cut_is_its_own_parent(patches):
    by_parent = aggregate(patches, level="parent", positive="yes")
    assert by_parent["id"].tolist() == ["i00005", "x", "y", "z"]
    assert by_parent["patient"].tolist() == ["p2", "p0", "p0", "p1"]


def test_the_decision_uses_the_trials_threshold(make_table):
    table = make_table(np.array([-0.5, -0.5]), np.array([1, 1]), np.array([0, 0]), threshold=0.3)
    assert aggregate(table, level="patient", positive="yes")["predicted"].tolist() == ["yes"]


def test_units_of_mixed_labels_have_no_score_and_say_why(make_table):
    table = make_table(np.zeros(4), np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))
    assert why_not(table, "patient") == "1 of 2 patients have images of different labels"
    with pytest.raises(DataError, match="cannot be aggregated to the patient: 1 of 2 patients have images"):
        aggregate(table, level="patient", positive="yes")


def test_one_image_per_unit_needs_no_aggregation(make_table):
    table = make_table(np.zeros(2), np.array([0, 1]), np.array([0, 1]))
    assert why_not(table, "patient") == "every patient has one image"
    assert why_not(table, "parent") == "every parent has one image"


def test_a_parent_of_two_patients_is_refused(make_table):
    table = make_table(np.zeros(2), np.array([1, 1]), np.array([0, 1]), parents=np.array(["x", "x"], dtype=object))
    with pytest.raises(DataError, match="Image `x` has patches of several patients"):
        aggregate(table, level="parent", positive="yes")
