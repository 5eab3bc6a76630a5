"""Order of the training rows: every row once an epoch, classes in balance, any step at any time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wazuka.training.sampling import BalancedRows, ShuffledRows


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 99))
def test_every_row_comes_exactly_once_an_epoch(n: int, batch: int, seed: int) -> None:
    sampler = ShuffledRows(n, batch, seed=seed)
    steps = [sampler(step) for step in range(3 * n)]
    assert {len(one) for one in steps} == {min(n, batch)}
    stream = np.concatenate(steps)
    for epoch in range(len(stream) // n):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_a_step_is_the_same_in_whatever_order_steps_are_asked_for() -> None:
    forward, backward = ShuffledRows(10, 4, seed=5), ShuffledRows(10, 4, seed=5)
    expected = [forward(step).tolist() for step in range(20)]
    assert [backward(step).tolist() for step in reversed(range(20))] == expected[::-1]
    other = ShuffledRows(10, 4, seed=6)
    assert [other(step).tolist() for step in range(20)] != expected


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=30).map(np.array),
    batch=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_balanced_batches_give_every_class_its_share_and_every_row_its_turn(
    labels: np.ndarray, batch: int, seed: int
) -> None:
    sampler = BalancedRows(labels, batch, seed=seed)
    steps = 60
    stream = np.concatenate([sampler(step) for step in range(steps)])
    drawn = labels[stream]
    present = np.unique(labels)
    shares = [(drawn == one).sum() for one in present]
    assert max(shares) - min(shares) <= 1, "draws of the classes differ by one at most, at any time"
    for one in present:
        of_class, rows = stream[drawn == one], np.flatnonzero(labels == one)
        for start in range(0, len(of_class) - len(rows) + 1, len(rows)):
            assert sorted(of_class[start : start + len(rows)]) == rows.tolist()
    assert np.array_equal(BalancedRows(labels, batch, seed=seed)(7), sampler(7))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 5)), min_size=1, max_size=30),
    batch=st.integers(1, 20),
    seed=st.integers(0, 99),
    balance_classes=st.booleans(),
    use_domains=st.booleans(),
    use_patients=st.booleans(),
)
def test_at_every_level_groups_of_one_parent_get_equal_shares_at_any_time(
    rows: list[tuple[int, int, int]],
    batch: int,
    seed: int,
    balance_classes: bool,
    use_domains: bool,
    use_patients: bool,
) -> None:
    labels, domains, patients = np.array(rows).T
    sampler = BalancedRows(
        labels,
        batch,
        seed=seed,
        domains=domains if use_domains else None,
        patients=patients if use_patients else None,
        balance_classes=balance_classes,
    )
    stream = np.concatenate([sampler(step) for step in range(40)])
    used = [
        codes
        for codes, wanted in ((labels, balance_classes), (domains, use_domains), (patients, use_patients))
        if wanted
    ]

    def check(drawn: np.ndarray, members: np.ndarray, levels: list[np.ndarray]) -> None:
        """`drawn` is the part of the stream that came from `members`; down to the rows, whose shares are even too."""
        groups = levels[0] if levels else np.arange(len(labels))
        present = np.unique(groups[members])
        for end in range(len(drawn) + 1):
            counts = [(groups[drawn[:end]] == one).sum() for one in present]
            assert max(counts) - min(counts) <= 1
        if levels:
            for one in present:
                check(drawn[groups[drawn] == one], members[groups[members] == one], levels[1:])

    assert set(stream) <= set(range(len(labels)))
    check(stream, np.arange(len(labels)), used)
    again = BalancedRows(
        labels,
        batch,
        seed=seed,
        domains=domains if use_domains else None,
        patients=patients if use_patients else None,
        balance_classes=balance_classes,
    )
    assert [again(step).tolist() for step in (39, 7)] == [sampler(step).tolist() for step in (39, 7)]


def test_a_patient_with_many_rows_comes_no_more_often_than_one_with_few() -> None:
    labels = np.array([0] * 11 + [1] * 4)
    patients = np.array([7] * 10 + [8] + [7, 7, 7, 9])
    stream = np.concatenate([BalancedRows(labels, 8, seed=3, patients=patients)(step) for step in range(10)])
    counts = {(c, p): int(((labels == c) & (patients == p))[stream].sum()) for c in (0, 1) for p in (7, 8, 9)}
    assert counts == {(0, 7): 20, (0, 8): 20, (0, 9): 0, (1, 7): 20, (1, 8): 0, (1, 9): 20}


def test_domains_come_equally_often_without_regard_to_classes() -> None:
    labels, domains = np.array([0] * 12 + [1] * 3), np.array([0] * 10 + [1] * 4 + [2])
    sampler = BalancedRows(labels, 6, seed=0, domains=domains, balance_classes=False)
    for step in range(20):
        assert np.bincount(domains[sampler(step)]).tolist() == [2, 2, 2]


def test_with_nothing_to_balance_the_draws_are_those_of_shuffled_rows() -> None:
    labels = np.array([0, 0, 1, 0, 2, 1, 1])
    plain, balanced = ShuffledRows(7, 3, seed=4), BalancedRows(labels, 3, seed=4, balance_classes=False)
    assert [balanced(step).tolist() for step in range(9)] == [plain(step).tolist() for step in range(9)]


def test_the_draws_of_class_balance_alone_never_change() -> None:
    # Trained models depend on these; fixed when patients and domains were added.
    labels = np.array([0, 0, 0, 2, 2, 5, 0])
    sampler = BalancedRows(labels, 4, seed=11)
    assert [sampler(step).tolist() for step in range(4)] == [[4, 1, 5, 5], [2, 3, 5, 3], [6, 5, 0, 4], [0, 3, 5, 4]]
