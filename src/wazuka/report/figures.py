"""Figures as hand-made SVG: the label-efficiency curve with bands and the interval plot. Same input, same bytes.

Each is drawn twice, for a desk and for a phone, and the page's style shows the one that fits; text stays text, and every
figure has a title, a description and a table beside it. Drawn by hand because two plain charts need no plotting library:
the page stays small, sharp in print and free of generated identifiers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from wazuka.report.verdict import Bounds

COLORS = ("#1d4f91", "#c2410c", "#0f766e", "#9d2f6b", "#6d4aa8", "#8a6100", "#2878b5", "#5b6b1f")
BASELINE_COLOR = "#4b5563"
MARKERS = ("circle", "square", "triangle", "diamond")
WIDE, NARROW = 760, 360


@dataclass(frozen=True)
class Style:
    """How one strategy looks in every figure; never told apart by color alone."""

    color: str
    marker: str
    dashed: bool


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
        f'<svg class="swatch" width="30" height="14" viewBox="0 0 30 14" aria-hidden="true">{line}{_marker(style, 15, 7)}</svg>'
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
    low, high = _extent([point.score for one in series for point in one.points], target, chance)
    x = _log_scale(labels, left + 14, width - right - 14)
    y = _linear(low, high, height - bottom, top)
    parts = [_open(width, height, texts)]
    for value in _ticks(low, high, 6):
        parts.append(_line(left, y(value), width - right, y(value), "grid"))
        parts.append(_text(left - 8, y(value) + 4, _tidy(value, high - low), "tick", "end"))
    for place, value in _spread([(x(one), one) for one in labels], 34):
        parts.append(_line(place, height - bottom, place, height - bottom + 5, "axis"))
        parts.append(_text(place, height - bottom + 19, f"{value:,}", "tick", "middle"))
    parts.append(_line(left, height - bottom, width - right, height - bottom, "axis"))
    parts.append(_text((left + width - right) / 2, height - 12, texts["x"], "title", "middle"))
    parts.append(_text(left - 40 if wide else 4, 13, texts["y"], "title", "start"))
    lines = [(one, kind) for one, kind in ((target, "target"), (chance, "chance")) if one and low <= one[0] <= high]
    parts += [_line(left, y(one[0]), width - right, y(one[0]), kind) for one, kind in lines]
    parts += [_band(one, x, y) for one in series] + [_curve(one, x, y) for one in series]
    if wide:
        parts += _names(series, lines, x, y, (width - right, top, height - bottom))
    else:
        parts += [_text(left + 4, y(one[0]) - 5, one[1], kind, "start") for one, kind in lines]
    return "".join([*parts, "</svg>"])


def _names(
    series: Sequence[Series],
    lines: Sequence[tuple[tuple[float, str], str]],
    x: _Scale,
    y: _Scale,
    frame: tuple[float, float, float],
) -> list[str]:
    """Names of curves and lines to the right of the frame (its right edge, top and bottom), none on another."""
    edge, top, bottom = frame
    parts = []
    ends: list[tuple[float, str, Series | str]] = [(y(one.points[-1].score.estimate), one.name, one) for one in series]
    ends += [(y(value), name, kind) for (value, name), kind in lines]
    for place, name, one in _apart(ends, 17, top, bottom):
        if isinstance(one, str):
            parts.append(_text(edge + 6, place + 4, name, one, "start"))
            continue
        end = one.points[-1]
        parts.append(_leader(x(end.labels) + 7, y(end.score.estimate), edge + 2, place, one.style))
        parts.append(_text(edge + 6, place + 4, _short(name, 22), "name", "start", one.style.color))
    return parts


def _band(one: Series, x: _Scale, y: _Scale) -> str:
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


def _curve(one: Series, x: _Scale, y: _Scale) -> str:
    points = " ".join(f"{x(point.labels):.1f},{y(point.score.estimate):.1f}" for point in one.points)
    dash = ' stroke-dasharray="6 4"' if one.style.dashed else ""
    line = f'<polyline points="{points}" fill="none" stroke="{one.style.color}" stroke-width="2.2"{dash}/>'
    return line + "".join(_marker(one.style, x(point.labels), y(point.score.estimate)) for point in one.points)


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
    low, high = _extent(values, (0.0, "") if zero else None, None, limits=limits)
    x = _linear(low, high, left + 8, width - right - 8)
    floor = top + step * len(rows)
    parts = [_open(width, height, texts)]
    if margin:
        start, end = x(max(-margin, low)), x(min(margin, high))
        parts.append(
            f'<rect x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{floor - top}" class="margin"/>'
        )
    for value in _ticks(low, high, 6 if wide else 4):
        parts.append(_line(x(value), top, x(value), floor, "grid"))
        parts.append(_text(x(value), floor + 17, _tidy(value, high - low, signed=zero), "tick", "middle"))
    if zero:
        parts.append(_line(x(0.0), top, x(0.0), floor, "axis"))
    for number, row in enumerate(rows):
        place = top + step * number + (step / 2 if wide else step - 13)
        color = row.style.color
        parts.append(
            f'<line x1="{x(max(row.value.low, low)):.1f}" y1="{place:.1f}" x2="{x(min(row.value.high, high)):.1f}" y2="{place:.1f}"'
            f' stroke="{color}" stroke-width="3" stroke-opacity=".55" stroke-linecap="round"/>'
        )
        parts.append(_marker(row.style, x(row.value.estimate), place))
        if wide:
            parts.append(_text(left - 10, place + 4, _short(row.name, 34), "label", "end"))
            parts.append(_text(width - right + 10, place + 4, row.note, "tick", "start"))
        else:
            parts.append(_text(left, place - 13, _short(row.name, 30), "label", "start"))
            parts.append(_text(width - right, place - 13, row.note, "tick", "end"))
    parts.append(_text((left + width - right) / 2, height - 12, texts["x"], "title", "middle"))
    return "".join([*parts, "</svg>"])


class _Scale:
    """Maps a value to a place in pixels, after `change` (identity or logarithm)."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        self.log = log
        self.low, self.high = (math.log(low), math.log(high)) if log else (low, high)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        place = math.log(value) if self.log else value
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start)


def _linear(low: float, high: float, start: float, end: float) -> _Scale:
    return _Scale(low, high, start, end)


def _log_scale(labels: Sequence[int], start: float, end: float) -> _Scale:
    return _Scale(max(min(labels), 1), max(labels), start, end, log=True)


def _extent(
    values: Sequence[Bounds],
    target: tuple[float, str] | None,
    chance: tuple[float, str] | None,
    *,
    limits: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Range of an axis: all intervals, and the lines that must be seen, with a little air."""
    lows, highs = [one.low for one in values], [one.high for one in values]
    low, high = min(lows), max(highs)
    for line in (target, chance):
        if line is not None and (line is target or low - 0.15 < line[0]):
            low, high = min(low, line[0]), max(high, line[0])
    air = max((high - low) * 0.06, 1e-3)
    low, high = low - air, high + air
    if limits is not None:
        return max(low, limits[0]), min(high, limits[1])
    inside = min(lows) >= 0 and max(highs) <= 1
    return (max(low, 0.0), min(high, 1.0)) if inside else (low, high)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within the range."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _tidy(value: float, span: float, *, signed: bool = False) -> str:
    digits = 0 if span >= 20 else 1 if span > 2 else 2 if span > 0.08 else 3
    value = 0.0 if abs(value) < 1e-12 else value
    text = f"{value:+.{digits}f}" if signed and value else f"{value:.{digits}f}"
    return text.replace("-", "\u2212")


def _spread(places: list[tuple[float, int]], apart: float) -> list[tuple[float, int]]:
    """Leave out ticks that would touch; the last one always stays."""
    kept: list[tuple[float, int]] = []
    for place in reversed(places):
        if not kept or kept[-1][0] - place[0] >= apart:
            kept.append(place)
    return kept[::-1]


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


def _marker(style: Style, x: float, y: float) -> str:
    look = f'fill="{style.color}" stroke="#fff" stroke-width="1.2"'
    if style.marker == "square":
        return f'<rect x="{x - 4.2:.1f}" y="{y - 4.2:.1f}" width="8.4" height="8.4" {look}/>'
    if style.marker == "triangle":
        return f'<polygon points="{x:.1f},{y - 5.5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}" {look}/>'
    if style.marker == "diamond":
        return f'<polygon points="{x:.1f},{y - 5.6:.1f} {x + 5.6:.1f},{y:.1f} {x:.1f},{y + 5.6:.1f} {x - 5.6:.1f},{y:.1f}" {look}/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.6" {look}/>'


def _open(width: int, height: int, texts: dict[str, str]) -> str:
    label = escape(f"{texts['title']}. {texts['description']}")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" class="figure">'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str, color: str | None = None) -> str:
    fill = f' style="fill:{color}"' if color else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="t-{kind}" text-anchor="{anchor}"{fill}>{escape(text)}</text>'


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
