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
