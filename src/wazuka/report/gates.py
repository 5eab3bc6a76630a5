"""Gates: the conditions of a study file that a strategy must meet before it may be adopted.

A gate is judged by the bound of its interval, not by the estimate, wherever there is an interval: sensitivity by its
lower bound, gaps by their upper bound. `met | not met | not shown | not measured | not applicable | waived`; see
`verdict.Gate`. A gate without evidence is never `met`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wazuka.report.texts import Reason
from wazuka.report.verdict import Bounds, Gate, GateState

NAMES = ("min_sensitivity", "max_domain_gap", "max_subgroup_gap", "memorization", "max_ms", "max_memory_gb")
AFTER_THE_TRIALS = ("max_ms", "max_memory_gb")
"""Gates that may have to wait for the refitted model: they are measured on it."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known about one strategy at one budget; None is not measured.

    Attributes:
        classes: Number of classes.
        sensitivity: At the decision threshold chosen inside the budget.
        domains: Number of domains tested.
        domain_gap: Best minus worst domain in the study's metric, at least 0.
        subgroup_gap: Largest difference between subgroups of one attribute.
        generates: Whether the strategy trains on images that it made (else nothing memorized can reach its model).
        memorization: Outcome of the memorization check, as in `audit` (`passed`, `warning`, `issue`, `not applicable`).
        milliseconds: 95th percentile of the time for one image.
        memory_gb: Peak memory, 10^9 bytes.
    """

    classes: int = 2
    sensitivity: Bounds | None = None
    domains: int = 1
    domain_gap: Bounds | None = None
    subgroup_gap: Bounds | None = None
    generates: bool = False
    memorization: str | None = None
    milliseconds: float | None = None
    memory_gb: float | None = None


def judge_gates(asked: Mapping[str, Any], measured: Measured) -> tuple[Gate, ...]:
    """Judge every gate that the study asks for, in the order of `NAMES`; None in the study file is not asked for."""
    return tuple(_judge(name, asked[name], measured) for name in NAMES if asked.get(name) is not None)


def _judge(name: str, asked: Any, measured: Measured) -> Gate:
    if asked == "waived":
        return Gate(name, "waived", Reason("gate.waived"), Reason(f"gate.short.{name}"))
    if name == "memorization":
        return _memorization(measured)
    title = Reason(f"gate.name.{name}", {"asked": float(asked)})
    if name == "min_sensitivity":
        why = "gate.no positive class" if measured.classes != 2 else "gate.no sensitivity"
        return _bounded(name, title, measured.sensitivity, upward=True, asked=float(asked), why=why)
    if name == "max_domain_gap":
        why = "gate.one domain" if measured.domains < 2 else "gate.no domain gap"
        return _bounded(name, title, measured.domain_gap, upward=False, asked=float(asked), why=why)
    if name == "max_subgroup_gap":
        why = "gate.no subgroups"
        return _bounded(name, title, measured.subgroup_gap, upward=False, asked=float(asked), why=why)
    value = measured.milliseconds if name == "max_ms" else measured.memory_gb
    if value is None:
        return Gate(name, "not measured", Reason("gate.no latency" if name == "max_ms" else "gate.no memory"), title)
    state: GateState = "met" if value <= asked else "not met"
    return Gate(name, state, Reason(f"gate.{name}", {"value": value, "asked": float(asked)}), title)


def _memorization(measured: Measured) -> Gate:
    title = Reason("gate.name.memorization")
    if not measured.generates:
        return Gate("memorization", "not applicable", Reason("gate.no images made"), title)
    if measured.memorization is None:
        return Gate("memorization", "not measured", Reason("gate.no memorization check"), title)
    if measured.memorization == "not applicable":
        return Gate("memorization", "not measured", Reason("gate.memorization not applicable"), title)
    state: GateState = "met" if measured.memorization in ("passed", "warning") else "not met"
    outcome = Reason(f"check.{measured.memorization}")
    return Gate("memorization", state, Reason("gate.memorization", {"outcome": outcome}), title)


def _bounded(name: str, title: Reason, value: Bounds | None, *, upward: bool, asked: float, why: str) -> Gate:
    """Judge a figure with an interval against a floor (`upward`) or a ceiling."""
    if value is None:
        return Gate(name, "not measured", Reason(why), title)
    sign = 1 if upward else -1
    bound = value.low if upward else value.high
    state: GateState = "not shown"
    if sign * (bound - asked) >= 0:
        state = "met"
    elif sign * (value.estimate - asked) < 0:
        state = "not met"
    key = "gate.floor" if upward else "gate.ceiling"
    values = {"estimate": value.estimate, "low": value.low, "high": value.high, "asked": asked}
    return Gate(name, state, Reason(key, values), title)
