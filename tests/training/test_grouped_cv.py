"""Folds: a partition, no patient on two sides, every class in every fold where the patients allow it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wazuka.training.grouped_cv import assign_folds, make_folds


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 80),
    patients=st.integers(1, 30),
    classes=st.integers(1, 4),
    folds=st.integers(2, 6),
    seed=st.integers(0, 1000),
)
def test_folds_are_a_partition_without_a_patient_on_two_sides_and_do_not_depend_on_the_order_of_rows(
    n: int, patients: int, classes: int, folds: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    patient, labels = rng.integers(0, patients, n) * 7, rng.integers(0, classes, n)
    made = make_folds(labels, patient, folds=folds, seed=seed)
    assert len(made) == min(folds, len(np.unique(patient))), "none is empty"
    np.testing.assert_array_equal(np.sort(np.concatenate([one.held_out for one in made])), np.arange(n))
    for one in made:
        np.testing.assert_array_equal(np.sort(np.concatenate([one.train, one.held_out])), np.arange(n))
        assert not set(patient[one.train]) & set(patient[one.held_out])
        for rows, lacks in ((one.train, one.lacks_in_train), (one.held_out, one.lacks_in_held_out)):
            assert set(lacks) == set(labels) - set(labels[rows])
    order = rng.permutation(n)
    again = assign_folds(labels[order], patient[order], folds=folds, seed=seed)
    np.testing.assert_array_equal(again, assign_folds(labels, patient, folds=folds, seed=seed)[order])


@settings(max_examples=40, deadline=None)
@given(per_class=st.lists(st.integers(5, 12), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_with_five_patients_of_each_class_every_fold_has_every_class(per_class: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    label_of = np.repeat(np.arange(len(per_class)), per_class)
    patient = np.repeat(np.arange(len(label_of)), rng.integers(1, 9, len(label_of)))
    for one in make_folds(label_of[patient], patient, folds=5, seed=seed):
        assert one.lacks_in_train == () and one.lacks_in_held_out == ()


def test_single_images_are_spread_as_evenly_as_integers_allow() -> None:
    labels = np.repeat([0, 1, 2], [50, 23, 7])
    fold_of = assign_folds(labels, np.arange(80), folds=5, seed=0)
    counts = np.stack([np.bincount(fold_of[labels == one], minlength=5) for one in range(3)])
    assert (counts.max(1) - counts.min(1) <= 1).all()


def test_another_seed_gives_other_folds() -> None:
    labels = np.arange(40) % 2
    first, second = (assign_folds(labels, np.arange(40), folds=5, seed=seed) for seed in (0, 1))
    assert (first != second).any()
