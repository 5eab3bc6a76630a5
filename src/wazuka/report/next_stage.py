"""The proposed next stage of a study: how many labels, which strategies to drop, how many repeats; each with a reason.

Plain rules on the judged rows, no new statistics: intervals of means narrow with the square root of what is averaged, so
a figure is an order of magnitude and the report says "about".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wazuka.report.texts import Reason
from wazuka.report.verdict import Bounds, Verdict

MOST_REPEATS = 50
"""Beyond this more repeats of the same patients are no way to decide; more test patients are."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One row as the proposal needs it; `difference` is None for the baseline."""

    strategy: str
    is_baseline: bool
    budget: str
    labels: int
    repeats: int
    n_patients: int
    score: Bounds | None
    difference: Bounds | None
    verdict: Verdict


@dataclass(frozen=True)
class Needed:
    """Labels that a strategy needs for the target: the number, and the sentence part with its interval."""

    strategy: str
    labels: int
    words: Reason


@dataclass(frozen=True, kw_only=True)
class NextStage:
    """What to do next.

    Attributes:
        labels: Labels to have in all at the next stage; None where the present ones will do or nothing can be said.
        labels_more: Of these, still to be made.
        repeats: Repeats of the next stage; None where more repeats do not help.
        test_patients: Test patients that would decide, where repeats alone do not; None where not needed.
        keep: Strategies to go on with.
        drop: Strategies to drop.
        reasons: Why, one sentence for each part.
    """

    labels: int | None
    labels_more: int | None
    repeats: int | None
    test_patients: int | None
    keep: tuple[str, ...]
    drop: tuple[str, ...]
    reasons: tuple[Reason, ...]


def propose(
    rows: Sequence[Judged],
    *,
    margin: float,
    target: float | None,
    labels_for_target: Needed | None,
    higher_is_better: bool = True,
) -> NextStage:
    """Propose the next stage from the judged rows of a study.

    Args:
        rows: Every strategy and budget.
        margin: Smallest difference that matters.
        target: The goal's score, if one is given.
        labels_for_target: What the learning curve that reaches the target soonest says, if one does.
        higher_is_better: Direction of the metric.
    """
    names = list(dict.fromkeys(row.strategy for row in rows))
    baseline = {row.strategy for row in rows if row.is_baseline}
    keep = [name for name in names if name in baseline or not _is_out(name, rows)]
    drop = [name for name in names if name not in keep]
    reasons = [Reason("next.drop", {"name": name}) for name in drop]
    if len(names) < 2:
        reasons.append(Reason("next.compare"))
    repeats, patients = _to_decide([row for row in rows if row.strategy in keep], margin, reasons)
    labels, more = _labels(
        [row for row in rows if row.strategy in keep],
        margin=margin,
        target=target,
        labels_for_target=labels_for_target,
        higher_is_better=higher_is_better,
        reasons=reasons,
    )
    if not reasons:
        reasons.append(Reason("next.nothing"))
    return NextStage(
        labels=labels,
        labels_more=more,
        repeats=repeats,
        test_patients=patients,
        keep=tuple(keep),
        drop=tuple(drop),
        reasons=tuple(reasons),
    )


def _is_out(name: str, rows: Sequence[Judged]) -> bool:
    """A strategy is dropped when every one of its rows says `do not adopt`."""
    own = [row.verdict for row in rows if row.strategy == name]
    return all(one == "do not adopt" for one in own)


def _to_decide(rows: Sequence[Judged], margin: float, reasons: list[Reason]) -> tuple[int | None, int | None]:
    """Repeats, or else test patients, that would decide the most promising open row."""
    if any(row.verdict == "adopt" for row in rows):
        return None, None
    candidates = [row for row in rows if row.verdict == "not enough evidence" and row.difference is not None]
    if not candidates:
        return None, None
    best = max(candidates, key=lambda row: (row.difference.estimate, row.labels) if row.difference else (0.0, 0))
    difference = best.difference
    assert difference is not None
    half = (difference.high - difference.low) / 2
    values = {"name": best.strategy, "budget": best.budget, "now": best.repeats, "patients": best.n_patients}
    distance = max(difference.estimate if difference.estimate >= margin else margin - difference.estimate, 1e-9)
    if half <= 0:
        return None, None
    factor = (half / distance) ** 2
    if factor <= 1:
        return None, None
    repeats = math.ceil(best.repeats * factor)
    if repeats <= MOST_REPEATS:
        reasons.append(Reason("next.repeats", values | {"repeats": repeats}))
        return repeats, None
    patients = math.ceil(best.n_patients * factor)
    if factor > 100:
        reasons.append(Reason("next.alike", values | {"margin": margin}))
        return None, None
    reasons.append(Reason("next.patients", values | {"needed": patients}))
    return None, patients


def _labels(
    rows: Sequence[Judged],
    *,
    margin: float,
    target: float | None,
    labels_for_target: Needed | None,
    higher_is_better: bool,
    reasons: list[Reason],
) -> tuple[int | None, int | None]:
    """Labels of the next stage: what the target needs, else twice as many while the curve still rises."""
    scored = [row for row in rows if row.score is not None]
    if not scored:
        return None, None
    have = max(row.labels for row in scored)
    sign = 1 if higher_is_better else -1
    best = max((row for row in scored if row.labels == have), key=lambda row: sign * _score(row).estimate)
    if target is not None:
        bound = _score(best).low if higher_is_better else _score(best).high
        if sign * (bound - target) >= 0:
            reasons.append(Reason("next.target met", {"name": best.strategy, "target": target, "labels": have}))
            return None, None
        if labels_for_target is not None and labels_for_target.labels > have:
            labels, more = labels_for_target.labels, labels_for_target.labels - have
            values = {"name": labels_for_target.strategy, "target": target, "more": more}
            reasons.append(Reason("next.labels", values | {"count": labels_for_target.words}))
            return labels, more
    smaller = [row for row in scored if row.strategy == best.strategy and row.labels < have]
    if not smaller:
        return None, None
    before = max(smaller, key=lambda row: row.labels)
    gain = sign * (_score(best).estimate - _score(before).estimate)
    doublings = math.log2(have / before.labels)
    values = {"name": best.strategy, "gain": gain / doublings, "have": have, "labels": 2 * have}
    if gain / doublings >= max(margin, 1e-9):
        reasons.append(Reason("next.double", values))
        return 2 * have, have
    reasons.append(Reason("next.flat", values | {"margin": margin}))
    return None, None


def _score(row: Judged) -> Bounds:
    assert row.score is not None
    return row.score
