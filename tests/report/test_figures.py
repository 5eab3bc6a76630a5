"""Figures: well-formed, deterministic, inside their frame, and true to scale."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from wazuka.report.figures import Point, Row, Series, curves, intervals, styles
from wazuka.report.svg import log_scale
from wazuka.report.svg import ticks as make_ticks
from wazuka.report.verdict import Bounds

LOOKS = styles(["base", "new <b>"], "base")


def draw(values: list[tuple[int, float]], target: float | None = None) -> str:
    points = tuple(Point(labels, Bounds(value, value - 0.05, value + 0.04)) for labels, value in values)
    series = [Series("base", LOOKS["base"], points), Series("new <b>", LOOKS["new <b>"], points)]
    goal = None if target is None else (target, "goal")
    return str(curves(series, x_title="labels", y_title="AUROC", title="t", description='d "quoted" <', target=goal))


def svgs(page: str) -> list[ET.Element]:
    return list(ET.fromstring(f"<div>{page}</div>").iter("svg"))


def test_a_curve_is_well_formed_for_desk_and_phone_and_names_are_escaped() -> None:
    page = draw([(20, 0.6), (100, 0.7), (1377, 0.8)], target=0.85)
    assert len(svgs(page)) == 2
    assert "new <b>" not in page and "new &lt;b&gt;" in page
    assert all(one.get("role") == "img" and one.get("aria-label") for one in svgs(page))


def test_the_same_input_gives_the_same_bytes() -> None:
    assert draw([(20, 0.6), (100, 0.7)]) == draw([(20, 0.6), (100, 0.7)])


def test_the_label_axis_is_logarithmic() -> None:
    scale = log_scale([10, 1000], 0.0, 100.0)
    assert round(scale(100), 6) == 50.0
    assert scale(10) == 0.0 and round(scale(1000), 6) == 100.0


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(4, 5000), st.floats(0.1, 0.9)), min_size=1, max_size=5, unique_by=lambda one: one[0])
)
def test_every_point_lies_inside_the_frame(values: list[tuple[int, float]]) -> None:
    for one in svgs(draw(sorted(values), target=0.95)):
        _, _, width, height = map(float, (one.get("viewBox") or "").split())
        for circle in one.iter("circle"):
            assert 0 <= float(circle.get("cx") or -1) <= width
            assert 0 <= float(circle.get("cy") or -1) <= height


@given(st.floats(-1, 1), st.floats(1e-3, 2))
def test_ticks_are_round_and_inside_the_range(low: float, span: float) -> None:
    ticks = make_ticks(low, low + span, 6)
    assert 1 <= len(ticks) <= 8
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    assert all(low - 1e-6 * span <= one <= low + span + 1e-6 * span for one in ticks)
    assert re.match(r"[125]\.0*e", f"{step:.3e}") or len(ticks) == 1


def test_the_interval_plot_draws_left_for_worse_and_right_for_better() -> None:
    rows = [
        Row("worse", LOOKS["base"], Bounds(-0.1, -0.2, -0.05)),
        Row("better", LOOKS["base"], Bounds(0.1, 0.05, 0.2), "adopt"),
    ]
    wide = svgs(str(intervals(rows, x_title="x", title="t", description="d", margin=0.01)))[0]
    worse, better = (float(one.get("cx") or 0) for one in wide.iter("circle"))
    zero = next(float(one.get("x1") or 0) for one in wide.iter("line") if one.get("class") == "axis")
    assert worse < zero < better
    assert abs((zero - worse) - (better - zero)) < 0.2


def test_the_baseline_is_dashed_and_strategies_differ_by_marker_and_color() -> None:
    looks = styles(["base", "a", "b", "c"], "base")
    assert looks["base"].dashed and not looks["a"].dashed
    assert len({(one.color, one.marker) for one in looks.values()}) == 4
