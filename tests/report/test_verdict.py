"""The verdict rule against a literal transcription of CONTRACTS section 6, over every combination of what it looks at."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wazuka.report.texts import Reason, say
from wazuka.report.verdict import Bounds, Decision, Evidence, Gate, Larger, decide

MARGIN = 0.02
DIFFERENCES = {
    "none": None,
    "clearly better": Bounds(0.08, 0.04, 0.12),
    "better but small": Bounds(0.015, 0.005, 0.018),
    "maybe better": Bounds(0.05, -0.01, 0.11),
    "as good": Bounds(0.0, -0.01, 0.01),
    "as good, gain possible": Bounds(0.01, -0.015, 0.035),
    "unclear": Bounds(0.0, -0.05, 0.05),
    "no gain, maybe as good": Bounds(-0.01, -0.03, 0.01),
    "clearly worse": Bounds(-0.1, -0.15, -0.05),
}
LARGER = {
    "not compared": (),
    "kept": (Larger("100%", 800, Bounds(-0.005, -0.015, 0.01)),),
    "lost": (Larger("100%", 800, Bounds(-0.05, -0.09, -0.01)),),
    "kept at one of two": (
        Larger("300", 300, Bounds(0.0, -0.01, 0.01)),
        Larger("100%", 800, Bounds(-0.05, -0.09, -0.01)),
    ),
}
STATES = ("met", "waived", "not applicable", "not shown", "not measured", "not met")


def make_gate(state: str) -> Gate:
    values = {"estimate": 0.9, "low": 0.8, "high": 0.95, "asked": 0.85}
    title = Reason("gate.name.min_sensitivity", {"asked": 0.85})
    return Gate("min_sensitivity", state, Reason("gate.floor", values), title)  # type: ignore[arg-type]


GATES = {"none asked": ()} | {state: (make_gate("met"), make_gate(state)) for state in STATES}
EVERYTHING = list(itertools.product(DIFFERENCES, LARGER, (False, True), GATES, (False, True)))


def evidence(difference: str, larger: str, cheaper: bool, gates: str, blocked: bool) -> Evidence:
    return Evidence(
        is_baseline=False,
        strategies=3,
        difference=DIFFERENCES[difference],
        margin=MARGIN,
        larger=LARGER[larger],
        cheaper=cheaper,
        gates=GATES[gates],
        blocking=("memorization",) if blocked else (),
        holds_for=("A", "B"),
    )


def the_contract(one: Evidence) -> str:
    """CONTRACTS section 6, sentence by sentence."""
    d = one.difference
    better = d is not None and d.low > 0 and d.estimate >= one.margin
    fewer_labels = any(larger.difference.low > -one.margin for larger in one.larger)
    lower_cost = d is not None and one.cheaper and d.low > -one.margin
    every_gate_met_or_waived = all(gate.state in ("met", "waived", "not applicable") for gate in one.gates)
    if (better or fewer_labels or lower_cost) and every_gate_met_or_waived and not one.blocking:
        return "adopt"
    a_gate_not_met = any(gate.state == "not met" for gate in one.gates)
    # "without saving anything": no labels saved (that would be `adopt`), and no lower cost that may come at no loss
    saves = one.cheaper and d is not None and d.high > -one.margin
    no_use = d is not None and d.high < one.margin and not saves and not (better or fewer_labels or lower_cost)
    if a_gate_not_met or one.blocking or no_use:
        return "do not adopt"
    return "not enough evidence"


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_every_combination_gets_the_verdict_of_the_contract(difference: str) -> None:
    seen = set()
    for case in EVERYTHING:
        if case[0] != difference:
            continue
        one = evidence(*case)
        decision = decide(one)
        assert decision.verdict == the_contract(one), case
        assert decision.reasons, case
        seen.add(decision.verdict)
    assert len(seen) > 1


def test_the_table_holds_all_three_verdicts_without_any_gate_or_audit() -> None:
    plain = {
        case[0]: decide(evidence(case[0], "not compared", False, "none asked", False)).verdict for case in EVERYTHING
    }
    assert plain == {
        "none": "not enough evidence",
        "clearly better": "adopt",
        "better but small": "do not adopt",
        "maybe better": "not enough evidence",
        "as good": "do not adopt",
        "as good, gain possible": "not enough evidence",
        "unclear": "not enough evidence",
        "no gain, maybe as good": "do not adopt",
        "clearly worse": "do not adopt",
    }


def test_a_cheaper_strategy_is_adopted_when_as_good_and_left_open_while_that_may_still_be_shown() -> None:
    assert decide(evidence("as good", "not compared", True, "none asked", False)).verdict == "adopt"
    assert (
        decide(evidence("no gain, maybe as good", "not compared", True, "none asked", False)).verdict
        == "not enough evidence"
    )
    assert decide(evidence("clearly worse", "not compared", True, "none asked", False)).verdict == "do not adopt"


def test_fewer_labels_name_the_largest_budget_that_is_matched() -> None:
    larger = (
        Larger("100", 100, Bounds(0.01, -0.01, 0.03)),
        Larger("300", 300, Bounds(0.0, -0.01, 0.02)),
        Larger("100%", 800, Bounds(-0.05, -0.09, -0.01)),
    )
    one = Evidence(is_baseline=False, strategies=2, difference=DIFFERENCES["unclear"], margin=MARGIN, larger=larger)
    decision = decide(one)
    assert decision.verdict == "adopt"
    assert say(decision.reasons[0], lang="en").startswith("as good as the baseline with 300 labels: +0.000")


def test_the_baseline_and_a_single_strategy_are_never_judged() -> None:
    base = Evidence(is_baseline=True, strategies=3, difference=None, margin=MARGIN, gates=(make_gate("not met"),))
    assert words(decide(base)) == ("not enough evidence", ["the baseline"])
    alone = Evidence(is_baseline=True, strategies=1, difference=None, margin=MARGIN)
    assert words(decide(alone)) == (
        "not enough evidence",
        ["nothing to compare: the study has a single strategy", "the baseline"],
    )


def test_an_open_gate_holds_back_an_adoption_and_is_named_first() -> None:
    decision = decide(evidence("clearly better", "not compared", False, "not measured", False))
    assert decision.verdict == "not enough evidence"
    assert [gate.name for gate in decision.waits_for] == ["min_sensitivity"]
    assert say(decision.reasons[0], lang="en").startswith("condition not measured (Sensitivity at least 0.85)")


@pytest.mark.parametrize(
    ("holds", "fails", "text"),
    [
        ((), (), "for this scanner only: the data name no domains to compare"),
        (("XR",), (), "for this scanner only: XR"),
        ((), ("XR",), "for this scanner only: XR"),
        (("XR", "CS2"), (), "holds in each tested domain: XR and CS2"),
        (("XR",), ("CS2", "S360"), "holds in XR; not in CS2 and S360"),
        ((), ("CS2", "XR"), "holds over all domains together, in none alone (CS2 and XR)"),
    ],
)
def test_an_adoption_names_the_domains_it_holds_for(holds: tuple[str, ...], fails: tuple[str, ...], text: str) -> None:
    one = Evidence(
        is_baseline=False,
        strategies=2,
        difference=DIFFERENCES["clearly better"],
        margin=MARGIN,
        holds_for=holds,
        not_for=fails,
    )
    assert say(decide(one).reasons[-1], lang="en") == text


numbers = st.floats(-0.3, 0.3)


@given(low=numbers, middle=numbers, high=numbers, margin=st.floats(0, 0.1), shift=st.floats(0, 0.2))
def test_a_better_interval_never_turns_an_adoption_away(
    low: float, middle: float, high: float, margin: float, shift: float
) -> None:
    low, middle, high = sorted((low, middle, high))
    rank = {"do not adopt": 0, "not enough evidence": 1, "adopt": 2}

    def verdict(by: float) -> int:
        bounds = Bounds(middle + by, low + by, high + by)
        return rank[decide(Evidence(is_baseline=False, strategies=2, difference=bounds, margin=margin)).verdict]

    assert verdict(shift) >= verdict(0.0)


def words(decision: Decision) -> tuple[str, list[str]]:
    return decision.verdict, [say(one, lang="en") for one in decision.reasons]
