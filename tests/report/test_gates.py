"""Gates: judged by the bound, never met without evidence."""

from __future__ import annotations

import pytest

from wazuka.report.gates import NAMES, Measured, judge_gates
from wazuka.report.texts import say
from wazuka.report.verdict import Bounds


def state(asked: dict[str, object], measured: Measured) -> str:
    (gate,) = judge_gates(asked, measured)
    for lang in ("en", "ja"):
        assert say(gate.detail, lang=lang) and say(gate.title, lang=lang)
    return gate.state


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(0.95, 0.91, 0.98), "met"),
        (Bounds(0.95, 0.90, 0.98), "met"),
        (Bounds(0.93, 0.87, 0.97), "not shown"),
        (Bounds(0.85, 0.80, 0.93), "not met"),
        (Bounds(0.70, 0.60, 0.80), "not met"),
    ],
)
def test_sensitivity_is_judged_by_its_lower_bound(bounds: Bounds, expected: str) -> None:
    assert state({"min_sensitivity": 0.9}, Measured(sensitivity=bounds)) == expected


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(0.01, -0.02, 0.04), "met"),
        (Bounds(0.03, 0.00, 0.08), "not shown"),
        (Bounds(0.07, 0.03, 0.11), "not met"),
    ],
)
@pytest.mark.parametrize("name", ["max_domain_gap", "max_subgroup_gap"])
def test_gaps_are_judged_by_their_upper_bound(name: str, bounds: Bounds, expected: str) -> None:
    measured = Measured(domains=3, domain_gap=bounds, subgroup_gap=bounds)
    assert state({name: 0.05}, measured) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if name != "memorization"])
def test_without_evidence_no_gate_is_met(name: str) -> None:
    assert state({name: 0.5}, Measured()) == "not measured"


def test_time_and_memory_are_judged_as_measured() -> None:
    measured = Measured(milliseconds=12.0, memory_gb=1.5)
    assert state({"max_ms": 12.0}, measured) == "met"
    assert state({"max_ms": 11.9}, measured) == "not met"
    assert state({"max_memory_gb": 2}, measured) == "met"
    assert state({"max_memory_gb": 1}, measured) == "not met"


def test_memorization_concerns_only_strategies_that_make_images() -> None:
    assert state({"memorization": "pass"}, Measured()) == "not applicable"
    assert state({"memorization": "pass"}, Measured(generates=True)) == "not measured"
    assert state({"memorization": "pass"}, Measured(generates=True, memorization="passed")) == "met"
    assert state({"memorization": "pass"}, Measured(generates=True, memorization="issue")) == "not met"
    assert state({"memorization": "pass"}, Measured(generates=True, memorization="not applicable")) == "not measured"


def test_a_warning_of_memorization_is_met_and_said() -> None:
    (gate,) = judge_gates({"memorization": "pass"}, Measured(generates=True, memorization="warning"))
    assert gate.state == "met" and say(gate.detail, lang="en") == "memorization check: warning"
    assert say(gate.detail, lang="ja") == "丸暗記の検査：警告"


@pytest.mark.parametrize("name", NAMES)
def test_a_waived_gate_is_listed_as_waived(name: str) -> None:
    assert state({name: "waived"}, Measured()) == "waived"


def test_gates_that_the_study_does_not_ask_for_are_absent() -> None:
    assert judge_gates({"min_sensitivity": None, "max_ms": None}, Measured()) == ()


def test_sensitivity_needs_two_classes_and_says_so() -> None:
    (gate,) = judge_gates({"min_sensitivity": 0.9}, Measured(classes=5))
    assert say(gate.detail, lang="en") == "sensitivity needs two classes"
