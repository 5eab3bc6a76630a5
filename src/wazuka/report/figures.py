"""Figures as hand-made SVG: the label-efficiency curve with bands and the interval plot. Same input, same bytes.

Each is drawn twice, for a desk and for a phone, and the page's style shows the one that fits; text stays text, and every
figure has a title, a description and a table beside it. Drawn by hand because two plain charts need no plotting library:
the page stays small, sharp in print and free of generated identifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wazuka.report.svg import (
    NARROW,
    WIDE,
    Scale,
    Style,
    draw_line,
    draw_marker,
    draw_text,
    extent,
    linear,
    log_scale,
    open_svg,
    short,
    spread,
    ticks,
    tidy,
)
from wazuka.report.verdict import Bounds

COLORS = ("#1d4f91", "#c2410c", "#0f766e", "#9d2f6b", "#6d4aa8", "#8a6100", "#2878b5", "#5b6b1f")
BASELINE_COLOR = "#4b5563"
MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Point:
    """One point of a curve: labels used and the score with its interval."""

    labels: int
    score: Bounds


@dataclass(frozen=True)
class Series:
    """One strategy's curve."""

    name: str
    style: Style
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Row:
    """One line of an interval plot."""

    name: str
    style: Style
    value: Bounds
    note: str = ""


def styles(strategies: Sequence[str], baseline: str) -> dict[str, Style]:
    """Give each strategy its look; the baseline is grey and dashed."""
    found, number = {}, 0
    for name in strategies:
        if name == baseline:
            found[name] = Style(BASELINE_COLOR, "circle", True)
        else:
            color = COLORS[number % len(COLORS)]
            found[name] = Style(color, MARKERS[(number + 1) % len(MARKERS)], False)
            number += 1
    return found


def curves(
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    title: str,
    description: str,
    target: tuple[float, str] | None = None,
    chance: tuple[float, str] | None = None,
) -> Markup:
    """Draw scores over the number of labels (logarithmic), each with its 95 % band."""
    texts = {"x": x_title, "y": y_title, "title": title, "description": description}
    drawn = [_curves(series, texts, width, target, chance) for width in (WIDE, NARROW)]
    return Markup(  # noqa: S704  (made of numbers and escaped text only)
        f'<div class="wide">{drawn[0]}</div><div class="narrow">{drawn[1]}</div>'
    )


def intervals(
    rows: Sequence[Row],
    *,
    x_title: str,
    title: str,
    description: str,
    zero: bool = True,
    margin: float | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> Markup:
    """Draw one line per row with its estimate and interval; `margin` shades the differences too small to matter."""
    texts = {"x": x_title, "title": title, "description": description}
    drawn = [_intervals(rows, texts, width, zero, margin, limits) for width in (WIDE, NARROW)]
    return Markup(f'<div class="wide">{drawn[0]}</div><div class="narrow">{drawn[1]}</div>')  # noqa: S704


def swatch(style: Style) -> Markup:
    """Draw the key to a strategy's look, for legends and tables."""
    dash = ' stroke-dasharray="5 3"' if style.dashed else ""
    line = f'<line x1="1" y1="7" x2="29" y2="7" stroke="{style.color}" stroke-width="2.2"{dash}/>'
    return Markup(  # noqa: S704
        f'<svg class="swatch" width="30" height="14" viewBox="0 0 30 14" aria-hidden="true">{line}{draw_marker(style, 15, 7)}</svg>'
    )


def _curves(
    series: Sequence[Series],
    texts: dict[str, str],
    width: int,
    target: tuple[float, str] | None,
    chance: tuple[float, str] | None,
) -> str:
    wide = width == WIDE
    height = 410 if wide else 330
    left, right, top, bottom = 58 if wide else 44, 170 if wide else 12, 34, 54
    labels = sorted({point.labels for one in series for point in one.points})
    low, high = extent([point.score for one in series for point in one.points], target, chance)
    x = log_scale(labels, left + 14, width - right - 14)
    y = linear(low, high, height - bottom, top)
    parts = [open_svg(width, height, texts)]
    for value in ticks(low, high, 6):
        parts.append(draw_line(left, y(value), width - right, y(value), "grid"))
        parts.append(draw_text(left - 8, y(value) + 4, tidy(value, high - low), "tick", "end"))
    for place, value in spread([(x(one), one) for one in labels], 34):
        parts.append(draw_line(place, height - bottom, place, height - bottom + 5, "axis"))
        parts.append(draw_text(place, height - bottom + 19, f"{value:,}", "tick", "middle"))
    parts.append(draw_line(left, height - bottom, width - right, height - bottom, "axis"))
    parts.append(draw_text((left + width - right) / 2, height - 12, texts["x"], "title", "middle"))
    parts.append(draw_text(left - 40 if wide else 4, 13, texts["y"], "title", "start"))
    lines = [(one, kind) for one, kind in ((target, "target"), (chance, "chance")) if one and low <= one[0] <= high]
    parts += [draw_line(left, y(one[0]), width - right, y(one[0]), kind) for one, kind in lines]
    parts += [_band(one, x, y) for one in series] + [_curve(one, x, y) for one in series]
    if wide:
        parts += _names(series, lines, x, y, (width - right, top, height - bottom))
    else:
        parts += [draw_text(left + 4, y(one[0]) - 5, one[1], kind, "start") for one, kind in lines]
    return "".join([*parts, "</svg>"])


def _names(
    series: Sequence[Series],
    lines: Sequence[tuple[tuple[float, str], str]],
    x: Scale,
    y: Scale,
    frame: tuple[float, float, float],
) -> list[str]:
    """Names of curves and lines to the right of the frame (its right edge, top and bottom), none on another."""
    edge, top, bottom = frame
    parts = []
    ends: list[tuple[float, str, Series | str]] = [(y(one.points[-1].score.estimate), one.name, one) for one in series]
    ends += [(y(value), name, kind) for (value, name), kind in lines]
    for place, name, one in _apart(ends, 17, top, bottom):
        if isinstance(one, str):
            parts.append(draw_text(edge + 6, place + 4, name, one, "start"))
            continue
        end = one.points[-1]
        parts.append(_leader(x(end.labels) + 7, y(end.score.estimate), edge + 2, place, one.style))
        parts.append(draw_text(edge + 6, place + 4, short(name, 22), "name", "start", one.style.color))
    return parts


def _band(one: Series, x: Scale, y: Scale) -> str:
    """The 95 % band; for a single budget an interval."""
    if len(one.points) == 1:
        point = one.points[0]
        place = x(point.labels)
        return (
            f'<line x1="{place:.1f}" y1="{y(point.score.low):.1f}" x2="{place:.1f}" y2="{y(point.score.high):.1f}"'
            f' stroke="{one.style.color}" stroke-width="2" stroke-opacity=".6"/>'
        )
    upper = [f"{x(point.labels):.1f},{y(point.score.high):.1f}" for point in one.points]
    lower = [f"{x(point.labels):.1f},{y(point.score.low):.1f}" for point in reversed(one.points)]
    return f'<polygon points="{" ".join([*upper, *lower])}" fill="{one.style.color}" fill-opacity=".13"/>'


def _curve(one: Series, x: Scale, y: Scale) -> str:
    points = " ".join(f"{x(point.labels):.1f},{y(point.score.estimate):.1f}" for point in one.points)
    dash = ' stroke-dasharray="6 4"' if one.style.dashed else ""
    line = f'<polyline points="{points}" fill="none" stroke="{one.style.color}" stroke-width="2.2"{dash}/>'
    return line + "".join(draw_marker(one.style, x(point.labels), y(point.score.estimate)) for point in one.points)


def _intervals(
    rows: Sequence[Row],
    texts: dict[str, str],
    width: int,
    zero: bool,
    margin: float | None,
    limits: tuple[float, float],
) -> str:
    wide = width == WIDE
    left, right, top = (230, 150, 8) if wide else (12, 12, 8)
    step = 30 if wide else 46
    height = top + step * len(rows) + 52
    values = [row.value for row in rows]
    low, high = extent(values, (0.0, "") if zero else None, None, limits=limits)
    x = linear(low, high, left + 8, width - right - 8)
    floor = top + step * len(rows)
    parts = [open_svg(width, height, texts)]
    if margin:
        start, end = x(max(-margin, low)), x(min(margin, high))
        parts.append(
            f'<rect x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{floor - top}" class="margin"/>'
        )
    for value in ticks(low, high, 6 if wide else 4):
        parts.append(draw_line(x(value), top, x(value), floor, "grid"))
        parts.append(draw_text(x(value), floor + 17, tidy(value, high - low, signed=zero), "tick", "middle"))
    if zero:
        parts.append(draw_line(x(0.0), top, x(0.0), floor, "axis"))
    for number, row in enumerate(rows):
        place = top + step * number + (step / 2 if wide else step - 13)
        color = row.style.color
        parts.append(
            f'<line x1="{x(max(row.value.low, low)):.1f}" y1="{place:.1f}" x2="{x(min(row.value.high, high)):.1f}" y2="{place:.1f}"'
            f' stroke="{color}" stroke-width="3" stroke-opacity=".55" stroke-linecap="round"/>'
        )
        parts.append(draw_marker(row.style, x(row.value.estimate), place))
        if wide:
            parts.append(draw_text(left - 10, place + 4, short(row.name, 34), "label", "end"))
            parts.append(draw_text(width - right + 10, place + 4, row.note, "tick", "start"))
        else:
            parts.append(draw_text(left, place - 13, short(row.name, 30), "label", "start"))
            parts.append(draw_text(width - right, place - 13, row.note, "tick", "end"))
    parts.append(draw_text((left + width - right) / 2, height - 12, texts["x"], "title", "middle"))
    return "".join([*parts, "</svg>"])


def _apart(
    ends: Sequence[tuple[float, str, Series | str]], apart: float, top: float, bottom: float
) -> list[tuple[float, str, Series | str]]:
    """Move names so that they do not cover each other, as little as needed."""
    ordered = sorted(ends, key=lambda one: (one[0], one[1]))
    places: list[float] = []
    for place, _, _ in ordered:
        places.append(max(place, places[-1] + apart) if places else max(place, top))
    limit = bottom
    for number in range(len(places) - 1, -1, -1):
        places[number] = min(places[number], limit)
        limit = places[number] - apart
    return [(place, name, one) for place, (_, name, one) in zip(places, ordered, strict=True)]


def _leader(x1: float, y1: float, x2: float, y2: float, style: Style) -> str:
    """A thin line from a curve's end to its name."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{style.color}" stroke-width="1"'
        ' stroke-opacity=".5"/>'
    )
