"""The cost ledger of one strategy at one budget: hours always, money only where the study file gives the price.

Labeling and computing are paid once; reading, misses and false alarms come every year. Nothing is guessed: what a line
would need and the study does not give is listed in `not_given`. Used for `cost` in `report.json` and the report's pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from wazuka.report.verdict import Bounds

CHEAPER_SHARE = 0.8
"""A strategy counts as cheaper only below this share of the baseline's machine time: times of one machine vary ..."""
CHEAPER_SECONDS = 60.0
"""... and only if it also saves this many seconds, so that a verdict never hangs on jitter."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """`costs` of the study file; None is not given."""

    minutes_per_label: float | None = None
    hourly_rate: float | None = None
    gpu_hour: float | None = None
    energy_kwh: float | None = None
    cases_per_year: float | None = None
    minutes_per_case_now: float | None = None
    minutes_per_case_with: float | None = None
    miss: float | None = None
    false_alarm: float | None = None
    currency: str | None = None

    @classmethod
    def read(cls, costs: Mapping[str, Any] | None) -> Prices:
        """Take the prices of a resolved study; no `costs` at all gives no price at all."""
        return cls(**{one.name: (costs or {}).get(one.name) for one in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one model of this strategy and budget took and does.

    Attributes:
        labels: Labels used.
        machine_seconds: Computing time for one model, shared steps included; None if not recorded.
        on_gpu: Whether it ran on a GPU.
        energy_kwh: Energy used, where it was measured.
        sensitivity, specificity: At the chosen threshold (two classes), with intervals.
        prevalence: Share of the positive class in the labeled data.
        labels_saved: Labels that the baseline needs more for the same score.
    """

    labels: int
    machine_seconds: float | None = None
    on_gpu: bool = False
    energy_kwh: float | None = None
    sensitivity: Bounds | None = None
    specificity: Bounds | None = None
    prevalence: float | None = None
    labels_saved: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the ledger.

    Attributes:
        name: labeling | computing | energy | reading_saved | misses | false_alarms | labels_saved.
        amount: In `unit`; for yearly lines, per year.
        unit: hours | kWh | cases | labels.
        low, high: Interval of `amount` where there is one.
        money: `amount` in the study's currency; None where a price is not given.
        yearly: Whether it comes every year.
        saving: Whether it is money saved, not spent.
    """

    name: str
    amount: float
    unit: str
    low: float | None = None
    high: float | None = None
    money: float | None = None
    yearly: bool = False
    saving: bool = False


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A filled ledger.

    Attributes:
        once: Sum of the priced lines paid once; None if none is priced.
        not_given: Keys of `costs` that a line would have needed.
    """

    lines: tuple[Line, ...]
    currency: str | None
    once: float | None
    not_given: tuple[str, ...]

    def line(self, name: str) -> Line | None:
        """Return the line of this name, if the ledger has it."""
        return next((one for one in self.lines if one.name == name), None)


def make_ledger(work: Work, prices: Prices) -> Cost:
    """Fill the ledger of one strategy at one budget."""
    lines: list[Line] = []
    missing: list[str] = []
    labeling = _product(missing, work.labels, minutes_per_label=prices.minutes_per_label)
    if labeling is not None:
        hours = labeling / 60
        lines.append(Line(name="labeling", amount=hours, unit="hours", money=_paid(missing, hours, prices)))
    if work.machine_seconds is not None:
        hours = work.machine_seconds / 3600
        money = _product(missing, hours, gpu_hour=prices.gpu_hour) if work.on_gpu else None
        lines.append(Line(name="computing", amount=hours, unit="hours", money=money))
    if work.energy_kwh is not None:
        money = _product(missing, work.energy_kwh, energy_kwh=prices.energy_kwh)
        lines.append(Line(name="energy", amount=work.energy_kwh, unit="kWh", money=money))
    lines += _yearly(work, prices, missing)
    if work.labels_saved is not None and work.labels_saved > 0:
        minutes = _product(missing, work.labels_saved, minutes_per_label=prices.minutes_per_label)
        money = None if minutes is None else _paid(missing, minutes / 60, prices)
        lines.append(Line(name="labels_saved", amount=work.labels_saved, unit="labels", money=money, saving=True))
    once = [one.money for one in lines if not one.yearly and not one.saving and one.money is not None]
    priced = any(one.money is not None for one in lines)
    return Cost(
        lines=tuple(lines),
        currency=prices.currency if priced else None,
        once=sum(once) if once else None,
        not_given=tuple(dict.fromkeys(missing)),
    )


def _yearly(work: Work, prices: Prices, missing: list[str]) -> list[Line]:
    """Reading time saved, misses and false alarms in a year of `cases_per_year` cases."""
    cases = prices.cases_per_year
    if cases is None:
        missing.append("cases_per_year")
        return []
    lines = []
    now, later = prices.minutes_per_case_now, prices.minutes_per_case_with
    missing += [name for name, one in (("minutes_per_case_now", now), ("minutes_per_case_with", later)) if one is None]
    if now is not None and later is not None:
        hours = cases * (now - later) / 60
        money = _paid(missing, hours, prices)
        lines.append(Line(name="reading_saved", amount=hours, unit="hours", money=money, yearly=True, saving=True))
    if work.prevalence is None:
        return lines
    errors = (
        ("misses", work.sensitivity, work.prevalence, "miss", prices.miss),
        ("false_alarms", work.specificity, 1 - work.prevalence, "false_alarm", prices.false_alarm),
    )
    for name, rate, share, key, price in errors:
        if rate is None:
            continue
        amount, low, high = (cases * share * (1 - one) for one in (rate.estimate, rate.high, rate.low))
        money = _product(missing, amount, **{key: price})
        lines.append(Line(name=name, amount=amount, unit="cases", low=low, high=high, money=money, yearly=True))
    return lines


def is_cheaper(work: Work, baseline: Work) -> bool:
    """Tell whether a strategy costs less than the baseline at the same budget.

    At one budget the labels cost the same, so what differs is machine time (and, where they differ, labels).
    """
    if work.labels > baseline.labels:
        return False
    if work.machine_seconds is None or baseline.machine_seconds is None:
        return False
    saved = baseline.machine_seconds - work.machine_seconds
    return work.machine_seconds <= CHEAPER_SHARE * baseline.machine_seconds and saved >= CHEAPER_SECONDS


def _product(missing: list[str], amount: float, **price: float | None) -> float | None:
    """Multiply by a named price, or note that it is not given."""
    ((name, value),) = price.items()
    if value is None:
        missing.append(name)
        return None
    return amount * value


def _paid(missing: list[str], hours: float, prices: Prices) -> float | None:
    return _product(missing, hours, hourly_rate=prices.hourly_rate)
