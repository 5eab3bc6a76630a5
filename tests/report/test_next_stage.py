"""The proposed next stage: what is dropped, kept, repeated and labeled, each with its reason."""

from __future__ import annotations

from typing import Any

from wazuka.report.next_stage import MOST_REPEATS, Judged, Needed, NextStage, propose
from wazuka.report.texts import Reason, say
from wazuka.report.verdict import Bounds


def row(name: str, labels: int, score: float, verdict: str, **changes: Any) -> Judged:
    values: dict[str, Any] = {
        "strategy": name,
        "is_baseline": name == "base",
        "budget": str(labels),
        "labels": labels,
        "repeats": 5,
        "n_patients": 40,
        "score": Bounds(score, score - 0.03, score + 0.03),
        "difference": None,
        "verdict": verdict,
    }
    return Judged(**(values | changes))


OPEN = "not enough evidence"


def stage(rows: list[Judged], **changes: Any) -> NextStage:
    values: dict[str, Any] = {"margin": 0.01, "target": None, "labels_for_target": None}
    return propose(rows, **(values | changes))


def keys(found: NextStage) -> list[str]:
    for lang in ("en", "ja"):
        assert all(say(one, lang=lang) for one in found.reasons)
    return [one.key for one in found.reasons]


def test_a_strategy_refused_at_every_budget_is_dropped_and_the_baseline_never_is() -> None:
    rows = [
        row("base", 50, 0.7, OPEN),
        row("base", 100, 0.7, OPEN),
        row("bad", 50, 0.6, "do not adopt"),
        row("bad", 100, 0.6, "do not adopt"),
        row("mixed", 50, 0.7, "do not adopt"),
        row("mixed", 100, 0.7, OPEN, difference=Bounds(0.0, -0.02, 0.02)),
    ]
    found = stage(rows)
    assert found.drop == ("bad",)
    assert found.keep == ("base", "mixed")
    assert "next.drop" in keys(found)


def test_repeats_grow_with_the_square_of_the_interval_over_the_distance() -> None:
    rows = [row("base", 100, 0.7, OPEN), row("new", 100, 0.74, OPEN, difference=Bounds(0.04, -0.02, 0.10))]
    found = stage(rows)
    assert found.repeats == 12  # 5 x (0.06 / 0.04)^2 = 11.25
    assert "next.repeats" in keys(found)


def test_more_patients_are_proposed_where_repeats_cannot_decide() -> None:
    rows = [row("base", 100, 0.7, OPEN), row("new", 100, 0.72, OPEN, difference=Bounds(0.02, -0.06, 0.10))]
    found = stage(rows)
    assert found.repeats is None
    assert found.test_patients == 640  # 40 x (0.08 / 0.02)^2; repeats would be 80
    assert MOST_REPEATS < 5 * 16


def test_nothing_is_to_be_decided_once_a_strategy_is_adopted() -> None:
    rows = [row("base", 100, 0.7, OPEN), row("new", 100, 0.8, "adopt", difference=Bounds(0.1, 0.05, 0.15))]
    found = stage(rows)
    assert found.repeats is None and found.test_patients is None


def test_labels_double_while_the_curve_rises_by_the_margin_and_stop_when_flat() -> None:
    rising = [row("base", 50, 0.70, OPEN), row("base", 100, 0.73, OPEN)]
    found = stage(rising)
    assert (found.labels, found.labels_more) == (200, 100)
    flat = [row("base", 50, 0.70, OPEN), row("base", 100, 0.705, OPEN)]
    found = stage(flat)
    assert found.labels is None and "next.flat" in keys(found)


def test_a_reached_target_needs_no_more_labels_and_an_open_one_names_them() -> None:
    rows = [row("base", 50, 0.70, OPEN), row("base", 100, 0.80, OPEN)]
    assert "next.target met" in keys(stage(rows, target=0.77))
    needed = Needed("base", 180, Reason("count.number", {"value": 180}))
    found = stage(rows, target=0.85, labels_for_target=needed)
    assert (found.labels, found.labels_more) == (180, 80)


def test_lower_is_better_turns_gain_and_target() -> None:
    rows = [row("base", 50, 0.30, OPEN), row("base", 100, 0.20, OPEN)]
    assert "next.target met" in keys(stage(rows, target=0.25, higher_is_better=False))
    assert stage(rows, higher_is_better=False).labels == 200


def test_a_single_strategy_is_told_to_add_another() -> None:
    assert "next.compare" in keys(stage([row("base", 100, 0.7, OPEN)]))
