"""The verdict on one strategy at one budget: a pure function of plain inputs (CONTRACTS, section 6).

    adopt                 (better, or as good with fewer labels, or as good at lower cost) and every gate met or waived
    do not adopt          a gate not met, a blocking audit, or the upper bound of the difference below the margin
                          without saving anything
    not enough evidence   everything else; always for the baseline and for a study of one strategy

All differences are oriented so that above 0 is better than the baseline; their bounds are the Holm-adjusted ones.
Used by `wazuka poc`, `wazuka run` and `wazuka report`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from wazuka.report.texts import Reason

Verdict = Literal["adopt", "do not adopt", "not enough evidence"]
GateState = Literal["met", "not met", "not shown", "not measured", "not applicable", "waived"]
PASSING: tuple[GateState, ...] = ("met", "waived", "not applicable")
"""States that do not stand in the way. `not applicable` means that the gate has no object here (no synthetic images)."""


@dataclass(frozen=True)
class Bounds:
    """A difference to the baseline (above 0: better) and its Holm-adjusted interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Gate:
    """A condition of the study file and what became of it.

    Attributes:
        name: As in the study file.
        state: `met` and `not met` are judged by the bound on the wrong side, where there is an interval: `met` when the
            whole interval is on the right side; `not met` when the estimate itself is on the wrong side; else `not
            shown` (the estimate would do, its interval does not yet).
        detail: The figures, or why there are none.
        title: The condition in words.
    """

    name: str
    state: GateState
    detail: Reason
    title: Reason

    @property
    def passes(self) -> bool:
        """Whether the gate lets the strategy through."""
        return self.state in PASSING


@dataclass(frozen=True)
class Larger:
    """The comparison of this row with the baseline at a larger budget."""

    budget: str
    labels: int
    difference: Bounds


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the verdict on one row depends on.

    Attributes:
        is_baseline: The row belongs to the baseline.
        strategies: Number of strategies of the study that have results.
        difference: Against the baseline at the same budget; None where no repeat has both.
        larger: Against the baseline at each larger budget.
        margin: Smallest difference that matters, at least 0.
        cheaper: Whether the strategy costs less than the baseline at this budget.
        gates: Every gate of the study.
        blocking: Names of audits that block this strategy.
        holds_for: Domains that the comparison holds for.
        not_for: Domains tested where it does not hold.
    """

    is_baseline: bool
    strategies: int
    difference: Bounds | None
    margin: float
    larger: tuple[Larger, ...] = ()
    cheaper: bool = False
    gates: tuple[Gate, ...] = ()
    blocking: tuple[str, ...] = ()
    holds_for: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """A verdict and the sentences that carry it, the decisive one first."""

    verdict: Verdict
    reasons: tuple[Reason, ...] = field(default_factory=tuple)
    waits_for: tuple[Gate, ...] = ()
    """Gates that alone stand between this row and `adopt`."""


def decide(evidence: Evidence) -> Decision:
    """Judge one strategy at one budget by the rule of the module's docstring."""
    if evidence.strategies < 2:
        alone = (Reason("verdict.single"), *((Reason("verdict.baseline"),) if evidence.is_baseline else ()))
        return Decision("not enough evidence", alone)
    if evidence.is_baseline:
        return Decision("not enough evidence", (Reason("verdict.baseline"),))
    against = _forbidding(evidence)
    if against:
        return Decision("do not adopt", against)
    if evidence.difference is None and not evidence.larger:
        return Decision("not enough evidence", (Reason("verdict.unpaired"),))
    favor = _favoring(evidence)
    if favor:
        open_gates = [gate for gate in evidence.gates if not gate.passes]
        if open_gates:
            waiting = tuple(Reason(f"verdict.gate {gate.state}", _gate_values(gate)) for gate in open_gates)
            return Decision("not enough evidence", (*waiting, *favor), tuple(open_gates))
        return Decision("adopt", (*favor, _scope(evidence)))
    if evidence.difference is not None and _useless(evidence):
        return Decision("do not adopt", (_values(evidence, "verdict.useless"),))
    return Decision("not enough evidence", (_undecided(evidence),))


def is_better(difference: Bounds, margin: float) -> bool:
    """Adjusted lower bound above 0 and estimate at least the margin."""
    return difference.low > 0 and difference.estimate >= margin


def is_as_good(difference: Bounds, margin: float) -> bool:
    """Lower bound above minus the margin."""
    return difference.low > -margin


def _forbidding(evidence: Evidence) -> tuple[Reason, ...]:
    """Why the strategy must not be adopted, whatever its score."""
    gates = [Reason("verdict.gate not met", _gate_values(gate)) for gate in evidence.gates if gate.state == "not met"]
    audits = [Reason("verdict.blocked", {"name": name}) for name in evidence.blocking]
    return (*gates, *audits)


def _favoring(evidence: Evidence) -> tuple[Reason, ...]:
    """Each of the three ways to be worth adopting that is shown."""
    found = []
    difference = evidence.difference
    if difference is not None and is_better(difference, evidence.margin):
        found.append(_values(evidence, "verdict.better"))
    saving = [one for one in evidence.larger if is_as_good(one.difference, evidence.margin)]
    if saving:
        most = max(saving, key=lambda one: one.labels)
        found.append(_values(evidence, "verdict.fewer labels", most))
    if difference is not None and evidence.cheaper and is_as_good(difference, evidence.margin):
        found.append(_values(evidence, "verdict.cheaper"))
    return tuple(found)


def _useless(evidence: Evidence) -> bool:
    """No gain of the margin is left in the interval, and no saving either (shown, or still possible at lower cost)."""
    assert evidence.difference is not None
    saving_possible = evidence.cheaper and evidence.difference.high > -evidence.margin
    return evidence.difference.high < evidence.margin and not saving_possible


def _undecided(evidence: Evidence) -> Reason:
    if evidence.difference is None:
        return Reason("verdict.unpaired")
    if evidence.difference.low > 0:
        return _values(evidence, "verdict.small")
    return _values(evidence, "verdict.undecided")


def _scope(evidence: Evidence) -> Reason:
    """Which domains an adoption holds for."""
    if len(evidence.holds_for) + len(evidence.not_for) < 2:
        names = [*evidence.holds_for, *evidence.not_for]
        return Reason("verdict.one domain named", {"name": names[0]}) if names else Reason("verdict.one domain")
    if evidence.not_for:
        if not evidence.holds_for:
            return Reason("verdict.no domain alone", {"not_for": list(evidence.not_for)})
        return Reason("verdict.some domains", {"names": list(evidence.holds_for), "not_for": list(evidence.not_for)})
    return Reason("verdict.domains", {"names": list(evidence.holds_for)})


def _values(evidence: Evidence, key: str, larger: Larger | None = None) -> Reason:
    difference = larger.difference if larger is not None else evidence.difference
    assert difference is not None
    values: dict[str, object] = {
        "estimate": difference.estimate,
        "low": difference.low,
        "high": difference.high,
        "margin": evidence.margin,
    }
    if larger is not None:
        values["larger"] = name_budget(larger.budget, larger.labels)
    return Reason(key, values)


def name_budget(budget: str, labels: int) -> Reason:
    """A budget for use inside a sentence: `100 labels`, or `10% (138 labels)`."""
    if budget == str(labels):
        return Reason("labels.n", {"labels": labels})
    return Reason("labels.budget", {"budget": budget, "labels": labels})


def _gate_values(gate: Gate) -> dict[str, object]:
    return {"name": gate.title, "detail": gate.detail}
