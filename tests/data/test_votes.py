"""Votes: shares worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wazuka.core.errors import DataError
from wazuka.data import votes
from wazuka.data.manifest import DatasetCard


def _card(described: dict[str, str | int], classes: tuple[str, ...] = ("atypical", "normal")) -> DatasetCard:
    return DatasetCard(name="x", task="classification", classes=classes, root="/", imported={"votes": described})


def _text(**columns: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.array(values, dtype="string") for name, values in columns.items()})


def test_the_class_without_a_column_gets_the_voters_that_are_left() -> None:
    table = _text(votes_atypical=["0", "1", "2", "3"])
    described, columns = votes.read_votes(table, ("atypical", "normal"))
    assert described == {"atypical": "votes_atypical", "voters": 3}
    manifest = pd.DataFrame({**columns, "label": ["normal", "normal", "atypical", "atypical"]})
    expected = np.array([[0, 3], [1, 2], [2, 1], [3, 0]]) / 3
    assert np.allclose(votes.soft_labels(manifest, _card(described)), expected)
    assert votes.unanimous(manifest, _card(described)).tolist() == [True, False, False, True]


def test_a_column_of_voters_counts_by_row() -> None:
    table = _text(votes_atypical=["1", "1"], voters=["1", "4"])
    described, columns = votes.read_votes(table, ("atypical", "normal"))
    assert described == {"atypical": "votes_atypical", "voters": 4, "voters_column": "voters"}
    manifest = pd.DataFrame({**columns, "label": ["atypical", "normal"]})
    assert np.allclose(votes.soft_labels(manifest, _card(described)), [[1, 0], [0.25, 0.75]])


def test_with_a_column_for_every_class_each_row_has_its_own_voters() -> None:
    table = _text(votes_a=["2", "1"], votes_b=["0", "1"], votes_c=["0", "2"])
    described, columns = votes.read_votes(table, ("a", "b", "c"))
    manifest = pd.DataFrame({**columns, "label": ["a", "c"]})
    card = _card(described, ("a", "b", "c"))
    assert np.allclose(votes.soft_labels(manifest, card), [[1, 0, 0], [0.25, 0.25, 0.5]])
    assert votes.unanimous(manifest, card).tolist() == [True, False]


def test_rows_without_votes_are_certain_of_their_label_and_not_counted_as_unanimous() -> None:
    described: dict[str, str | int] = {"atypical": "votes_atypical", "voters": 2}
    manifest = pd.DataFrame(
        {
            "votes_atypical": pd.array([1, None, None], dtype="Int64"),
            "label": pd.array(["normal", "atypical", None], dtype="string"),
        }
    )
    shares = votes.soft_labels(manifest, _card(described))
    assert np.allclose(shares[:2], [[0.5, 0.5], [1, 0]])
    assert np.isnan(shares[2]).all()
    assert votes.unanimous(manifest, _card(described)).tolist() == [False, False, False]
    assert votes.voted(manifest, _card(described)).tolist() == [True, False, False]


def test_class_names_match_without_regard_to_case_and_spaces() -> None:
    assert votes.find_votes(["Votes_Not_Sure", "votes_x"], ["not sure", "y"]) == {"not sure": "Votes_Not_Sure"}
    assert votes.read_votes(_text(other=["1"]), ("a", "b")) == ({}, {})


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"votes_a": ["1", "x"]}, "Column `votes_a` holds `x` in row 3; votes are whole numbers from 0"),
        ({"votes_a": ["-1"]}, "holds `-1` in row 2"),
        ({"votes_a": ["1.5"]}, "holds `1.5` in row 2"),
        ({"votes_a": ["1", "3"], "voters": ["2", "2"]}, "Row 3 of the table has 3 votes but 2 in `voters`"),
    ],
)
def test_votes_that_cannot_be_are_refused(columns: dict[str, list[str | None]], text: str) -> None:
    with pytest.raises(DataError) as error:
        votes.read_votes(_text(**columns), ("a", "b"))
    assert text in str(error.value)


def test_a_dataset_without_votes_says_so() -> None:
    card = DatasetCard(name="x", task="classification", classes=("a", "b"), root="/")
    with pytest.raises(DataError, match="Dataset x has no votes; its table needs columns `votes_CLASS`"):
        votes.soft_labels(pd.DataFrame({"label": ["a"]}), card)


def test_two_classes_without_a_column_cannot_share_what_is_left() -> None:
    card = _card({"a": "votes_a", "voters": 3}, ("a", "b", "c"))
    with pytest.raises(DataError, match="no votes for the classes b, c; at most one class may go without"):
        votes.soft_labels(pd.DataFrame({"votes_a": [1], "label": ["a"]}), card)
