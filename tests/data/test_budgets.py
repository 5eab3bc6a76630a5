"""Budgets: what users write, prefixes, the smallest and the largest possible."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.data.budgets import parse, select, smallest
from wazuka.data.splits import Test, make_splits

PATIENTS = Test(kind="patients")


def make_table(
    *, patients: int = 20, images: int = 4, classes: int = 2, domains: int = 2, unlabeled: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """A clinic in which each patient has one domain and mostly one class."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    label = np.where(rng.random(len(patient)) < 0.2, rng.integers(0, classes, len(patient)), patient % classes)
    table = pd.DataFrame(
        {
            "id": [f"image{i:05d}" for i in range(len(patient))],
            "patient": [f"p{i:04d}" for i in patient],
            "label": pd.array([f"class{i}" for i in label], dtype="string"),
            "domain": pd.array([f"scanner{i // classes % domains}" for i in patient], dtype="string"),
        }
    )
    table.loc[rng.random(len(table)) < unlabeled, "label"] = pd.NA
    return table


def make_volumes(*, volumes: int = 10, slices: int = 7) -> pd.DataFrame:
    """Volumes of one patient each; the first and the last slice are empty, the last volume has no mask."""
    rows = [(f"v{v:02d}", s) for v in range(volumes) for s in range(slices)]
    table = pd.DataFrame(rows, columns=["volume", "frame"])
    table["id"] = [f"{v}#{s:04d}" for v, s in rows]
    table["patient"] = table["volume"]
    table["label"] = pd.array([pd.NA] * len(table), dtype="string")
    table["domain"] = pd.array([pd.NA] * len(table), dtype="string")
    table["foreground"] = pd.array(table["frame"].between(1, slices - 2), dtype="boolean")
    table.loc[table["volume"] == rows[-1][0], "foreground"] = pd.NA
    return table


def split(table: pd.DataFrame, *, seed: int = 0, task: str = "classification") -> tuple[pd.DataFrame, pd.Series]:
    rows = make_splits(table, test=PATIENTS, repeats=1, redraw=True, seed=seed, task=task)  # type: ignore[arg-type]
    return rows, table.set_index("id")["label"]


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [(20, 20, "images"), ("20", 20, "images"), ("10%", 10, "percent"), ("2.5 %", Fraction(5, 2), "percent"),
     ("4 slices", 4, "slices"), ("1 slice", 1, "slices"), ("1 volumes", 1, "volumes"), ("3volume", 3, "volumes")],
)  # fmt: skip
def test_budgets_are_read_in_all_units(text: str | int, amount: Fraction, unit: str):
    budget = parse(text)
    assert (budget.amount, budget.unit, budget.written, str(budget)) == (amount, unit, str(text), str(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12 slics", r"Budget `12 slics` has the unknown unit `slics`; write .*\. Did you mean `12 slices`\?"),
        ("2 volume s", "Budget `2 volume s` is not understood; write `20`, `10%`, `4 slices` or `1 volumes`"),
        ("20 images", r"unknown unit `images`.* Did you mean `20`\?"),
        ("0", "Budget `0` is zero; use 1 or more"),
        ("0%", "Budget `0%` is zero"),
        ("120%", "Budget `120%` is above 100%"),
        ("-3", "Budget `-3` is not understood"),
        ("2.5", "Budget `2.5` is not understood"),
        (True, "Budget `True` is not understood"),
        ("many", "Budget `many` is not understood"),
    ],
)
def test_wrong_budgets_are_refused(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse(text)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 100), st.integers(2, 4))
def test_each_budget_contains_the_smaller_ones(seed: int, percent: int, classes: int):
    rows, labels = split(make_table(patients=25, images=3, classes=classes, unlabeled=0.1, seed=seed), seed=seed)
    ranked = int(rows["rank"].notna().sum())
    least = smallest(rows, labels)
    before: list[str] = []
    for n in range(least, ranked + 1, 7):
        ids = select(rows, parse(n), labels=labels).ids
        assert len(ids) == n
        assert ids[: len(before)] == before
        before = ids
    n = math.ceil(Fraction(percent * ranked, 100))
    if n >= least:
        assert select(rows, parse(f"{percent}%"), labels=labels).ids == select(rows, parse(n), labels=labels).ids
    assert len(select(rows, parse("100%"), labels=labels).ids) == ranked


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_the_smallest_budget_has_two_patients_of_each_class_and_one_less_is_refused(seed: int, classes: int):
    table = make_table(patients=24, images=3, classes=classes, seed=seed)
    rows, labels = split(table, seed=seed)
    trainable = rows[rows["rank"].notna()].assign(label=lambda t: t["id"].map(labels))
    assume((trainable.groupby("label")["patient"].nunique() >= 2).all())  # else no budget is possible at all
    least = smallest(rows, labels)
    assert least == 2 * classes
    chosen = table[table["id"].isin(select(rows, parse(least), labels=labels).ids)]
    assert (chosen.groupby("label")["patient"].nunique() == 2).all()
    with pytest.raises(NotEnoughData, match=f"the smallest possible budget is {least}\\."):
        select(rows, parse(least - 1), labels=labels)


def test_a_budget_that_is_too_small_is_named_with_the_class_it_lacks():
    table = make_table().assign(label=lambda t: t["label"].map({"class0": "atypical", "class1": "normal"}))
    rows, labels = split(table)
    # class order starts atypical, normal, atypical, normal: three labels lack the second normal one
    with pytest.raises(
        NotEnoughData,
        match=r"Budget 3 is too small: class `normal` needs two labeled images from two patients; the smallest possible budget is 4\.",
    ):
        select(rows, parse(3), labels=labels)
    ranked = int(rows["rank"].notna().sum())
    with pytest.raises(
        NotEnoughData, match=rf"the smallest possible budget is 4 \({3 * 100 // ranked + 1}% of {ranked}\)\."
    ):
        select(rows, parse("1%"), labels=labels)


def test_a_budget_larger_than_the_data_is_named_with_the_largest():
    rows, labels = split(make_table())
    total = int(rows["rank"].notna().sum())
    with pytest.raises(
        NotEnoughData,
        match=f"Budget 5000 is larger than the data: there are {total} labeled training images; the largest possible budget is {total}",
    ):
        select(rows, parse(5000), labels=labels)


def test_a_class_that_cannot_be_trained_on_makes_every_budget_impossible():
    table = make_table(patients=20)
    table.loc[table["patient"].isin(["p0000", "p0001"]), "label"] = "rare"
    rows, labels = split(table)
    with pytest.raises(
        NotEnoughData, match="Class `rare` has training labels from 1 patients in `all`; every budget needs two"
    ):
        select(rows, parse(40), labels=labels)


def test_shares_are_rounded_up_in_exact_integers():
    rows, labels = split(make_table(patients=125, images=1))
    assert int(rows["rank"].notna().sum()) == 100
    assert select(rows, parse("7%"), labels=labels).labels == 7  # 0.07 * 100 is 7.000000000000001 in floats
    assert select(rows, parse("7.01%"), labels=labels).labels == 8


def test_an_inner_split_needs_five_patients_of_each_class_with_val_rows_on_both_sides():
    rows, labels = split(make_table(patients=125, images=1))
    table = rows.set_index("id").join(labels)
    seen = set()
    for n in range(4, 60):
        chosen = select(rows, parse(n), labels=labels)
        part = table.loc[chosen.ids]
        val = part["role"] == "val"
        wanted = (part.groupby("label")["patient"].nunique() >= 5).all() and all(
            set(val[part["label"] == name]) == {True, False} for name in ("class0", "class1")
        )
        assert chosen.inner_split == wanted
        assert chosen.is_val.tolist() == (val.tolist() if wanted else [False] * n)
        seen.add(wanted)
    assert seen == {True, False}


def test_volume_budgets_take_whole_volumes_and_slices_of_the_first():
    table = make_volumes(volumes=12)
    rows, _ = split(table, task="segmentation")
    total = rows["volume_rank"].nunique()
    by_slices = {k: select(rows, parse(f"{k} slices"), labels=None) for k in range(1, 6)}
    for k in range(1, 6):
        assert by_slices[k].ids == by_slices[5].ids[:k]
        assert not by_slices[k].inner_split
    assert [name[-1] for name in by_slices[5].ids] == ["3", "1", "5", "2", "4"]
    one, two = select(rows, parse("1 volumes"), labels=None), select(rows, parse("2 volumes"), labels=None)
    assert set(by_slices[5].ids) <= set(one.ids)
    assert two.ids[: len(one.ids)] == one.ids
    assert (len(one.ids), len(two.ids), one.labels) == (7, 14, 7)
    assert select(rows, parse("50%"), labels=None).labels == 7 * math.ceil(total / 2)
    everything = select(rows, parse("100%"), labels=None)
    assert everything.inner_split
    assert 0 < everything.is_val.sum() < len(everything.is_val)
    assert not select(rows, parse("4 volumes"), labels=None).inner_split


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("20", ConfigError, "Budget `20` has no unit, and this dataset has volumes; write `20 slices` or `20 volumes`"),
        (
            "6 slices",
            NotEnoughData,
            "there are 5 slices with foreground in the first volume; the largest possible budget is 5",
        ),
        ("99 volumes", NotEnoughData, "the largest possible budget is"),
    ],
)
def test_volume_budgets_that_do_not_fit_are_refused(text: str, error: type[Exception], message: str):
    rows, _ = split(make_volumes(volumes=12), task="segmentation")
    with pytest.raises(error, match=message):
        select(rows, parse(text), labels=None)


def test_slices_of_single_images_are_refused():
    rows, labels = split(make_table())
    with pytest.raises(ConfigError, match="Budget `4 slices` needs volumes, and this task has single images"):
        select(rows, parse("4 slices"), labels=labels)


def test_a_study_without_labels_has_no_budget():
    rows = make_splits(
        make_table().assign(label=pd.NA), test=PATIENTS, repeats=1, redraw=True, seed=0, task="unlabeled"
    )
    with pytest.raises(NotEnoughData, match="there are no labeled training images"):
        select(rows, parse(20), labels=None)
