"""What hand-made SVG figures are drawn with: scales, ticks, lines, texts and markers. Numbers and escaped text only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import escape

from wazuka.report.verdict import Bounds

WIDE, NARROW = 760, 360


@dataclass(frozen=True)
class Style:
    """How one strategy looks in every figure; never told apart by color alone."""

    color: str
    marker: str
    dashed: bool


class Scale:
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


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """Map low..high to start..end."""
    return Scale(low, high, start, end)


def log_scale(labels: Sequence[int], start: float, end: float) -> Scale:
    """Map numbers of labels to start..end, in their logarithm."""
    return Scale(max(min(labels), 1), max(labels), start, end, log=True)


def extent(
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


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within the range."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tidy(value: float, span: float, *, signed: bool = False) -> str:
    """A tick as few digits as its axis needs, with a minus sign."""
    digits = 0 if span >= 20 else 1 if span > 2 else 2 if span > 0.08 else 3
    value = 0.0 if abs(value) < 1e-12 else value
    text = f"{value:+.{digits}f}" if signed and value else f"{value:.{digits}f}"
    return text.replace("-", "\u2212")


def spread(places: list[tuple[float, int]], apart: float) -> list[tuple[float, int]]:
    """Leave out ticks that would touch; the last one always stays."""
    kept: list[tuple[float, int]] = []
    for place in reversed(places):
        if not kept or kept[-1][0] - place[0] >= apart:
            kept.append(place)
    return kept[::-1]


def draw_marker(style: Style, x: float, y: float) -> str:
    """A marker, centered."""
    look = f'fill="{style.color}" stroke="#fff" stroke-width="1.2"'
    if style.marker == "square":
        return f'<rect x="{x - 4.2:.1f}" y="{y - 4.2:.1f}" width="8.4" height="8.4" {look}/>'
    if style.marker == "triangle":
        return f'<polygon points="{x:.1f},{y - 5.5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}" {look}/>'
    if style.marker == "diamond":
        return f'<polygon points="{x:.1f},{y - 5.6:.1f} {x + 5.6:.1f},{y:.1f} {x:.1f},{y + 5.6:.1f} {x - 5.6:.1f},{y:.1f}" {look}/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.6" {look}/>'


def open_svg(width: int, height: int, texts: dict[str, str]) -> str:
    """Open a figure with its title and description for screen readers."""
    label = escape(f"{texts['title']}. {texts['description']}")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}" class="figure">'


def draw_line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line of a kind that the page styles."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def draw_text(x: float, y: float, text: str, kind: str, anchor: str, color: str | None = None) -> str:
    """A text of a kind that the page styles, escaped."""
    fill = f' style="fill:{color}"' if color else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="t-{kind}" text-anchor="{anchor}"{fill}>{escape(text)}</text>'


def short(name: str, most: int) -> str:
    """A name cut to so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"
