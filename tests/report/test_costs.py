"""The cost ledger against sums done by hand, and its refusal to invent a price."""

from __future__ import annotations

import pytest

from wazuka.report.costs import Prices, Work, is_cheaper, make_ledger
from wazuka.report.verdict import Bounds

ALL = Prices(
    minutes_per_label=2,
    hourly_rate=60,
    gpu_hour=3,
    energy_kwh=0.3,
    cases_per_year=5000,
    minutes_per_case_now=4,
    minutes_per_case_with=2,
    miss=1000,
    false_alarm=20,
    currency="EUR",
)
WORK = Work(
    labels=300,
    machine_seconds=1800,
    on_gpu=True,
    energy_kwh=2.0,
    sensitivity=Bounds(0.9, 0.8, 0.95),
    specificity=Bounds(0.8, 0.7, 0.9),
    prevalence=0.25,
    labels_saved=150,
)


def test_every_line_is_the_product_done_by_hand() -> None:
    cost = make_ledger(WORK, ALL)
    amounts = {one.name: (one.amount, one.money) for one in cost.lines}
    assert amounts["labeling"] == (10.0, 600.0)  # 300 x 2 min = 10 h at 60
    assert amounts["computing"] == (0.5, 1.5)
    assert amounts["energy"] == (2.0, pytest.approx(0.6))
    assert amounts["reading_saved"] == (pytest.approx(5000 * 2 / 60), pytest.approx(10_000))
    assert amounts["misses"] == (pytest.approx(125), pytest.approx(125_000))  # 5000 x 0.25 x 0.1
    assert amounts["false_alarms"] == (pytest.approx(750), pytest.approx(15_000))  # 5000 x 0.75 x 0.2
    assert amounts["labels_saved"] == (150, 300.0)
    assert cost.once == pytest.approx(602.1)
    assert cost.currency == "EUR" and cost.not_given == ()
    misses = cost.line("misses")
    assert misses is not None and (misses.low, misses.high) == (pytest.approx(62.5), pytest.approx(250))


def test_without_prices_there_are_hours_and_no_money() -> None:
    cost = make_ledger(WORK, Prices(minutes_per_label=2))
    assert all(one.money is None for one in cost.lines)
    assert cost.currency is None and cost.once is None
    assert [one.name for one in cost.lines] == ["labeling", "computing", "energy", "labels_saved"]
    assert cost.not_given == ("hourly_rate", "gpu_hour", "energy_kwh", "cases_per_year")


def test_no_costs_at_all_leave_the_machine_time_alone() -> None:
    cost = make_ledger(WORK, Prices.read(None))
    assert [one.name for one in cost.lines] == ["computing", "energy", "labels_saved"]
    assert "minutes_per_label" in cost.not_given


def test_time_on_the_processor_is_not_priced_as_a_gpu_hour() -> None:
    cost = make_ledger(Work(labels=10, machine_seconds=3600), ALL)
    line = cost.line("computing")
    assert line is not None and line.amount == 1.0 and line.money is None
    assert "gpu_hour" not in cost.not_given


@pytest.mark.parametrize(
    ("seconds", "labels", "expected"),
    [(700, 100, True), (800, 100, True), (801, 100, False), (1000, 100, False), (100, 120, False)],
)
def test_cheaper_means_a_fifth_less_machine_time_and_no_more_labels(
    seconds: float, labels: int, expected: bool
) -> None:
    baseline = Work(labels=100, machine_seconds=1000)
    assert is_cheaper(Work(labels=labels, machine_seconds=seconds), baseline) is expected


def test_a_few_seconds_less_are_not_cheaper() -> None:
    assert not is_cheaper(Work(labels=100, machine_seconds=1), Work(labels=100, machine_seconds=60))


def test_unknown_times_are_not_cheaper() -> None:
    assert not is_cheaper(Work(labels=100), Work(labels=100, machine_seconds=1000))
