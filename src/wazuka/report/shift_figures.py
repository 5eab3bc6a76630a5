"""Figures on domains: the heat map of a cross-domain matrix and the curves over local labels. Same input, same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wazuka.report.svg import (
    Scale,
    Style,
    draw_line,
    draw_marker,
    draw_text,
    extent,
    linear,
    open_svg,
    short,
    spread,
    ticks,
    tidy,
)
from wazuka.report.verdict import Bounds

PALE, DARK = (238, 243, 249), (22, 66, 124)
"""Ends of the color scale, worst and best; one hue, so that it survives print in grey and color blindness."""
LEAST_SPAN = 0.1
"""Scores that differ by less do not get the whole scale: a hundredth must not look like the difference of day and night."""
CELL_WIDTH, CELL_HEIGHT = 96, 50
NARROW_FIGURE = 370


@dataclass(frozen=True)
class HeatCell:
    """One cell: its place, the mean, and the interval in words ("" without one)."""

    row: int
    column: int
    value: float
    interval: str


@dataclass(frozen=True)
class LocalSeries:
    """One strategy in one target: (local labels, score) by increasing labels, and its in-domain score."""

    style: Style
    points: tuple[tuple[int, Bounds], ...]
    reference: float


def color_range(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the color scale for all heat maps of a page: the values' range, widened to `LEAST_SPAN`."""
    low, high = min(values), max(values)
    missing = max(LEAST_SPAN - (high - low), 0.0)
    return low - missing / 2, high + missing / 2


def fill(share: float) -> tuple[str, str]:
    """Color of a cell from 0 (worst) to 1 (best), and of its text: black or white, whichever stands out more."""
    parts = [round(pale + share * (dark - pale)) for pale, dark in zip(PALE, DARK, strict=True)]
    linear_parts = [_linear_light(one / 255) for one in parts]
    luminance = 0.2126 * linear_parts[0] + 0.7152 * linear_parts[1] + 0.0722 * linear_parts[2]
    on_white = 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05
    return "#" + "".join(f"{one:02x}" for one in parts), "#ffffff" if on_white else "#000000"


def _linear_light(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4)


def heat_map(
    cells: Sequence[HeatCell],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    span: tuple[float, float],
    higher_is_better: bool,
    diagonal: Sequence[tuple[int, int]],
    texts: Mapping[str, str],
) -> Markup:
    """Draw one matrix: numbers in cells, darker is better, in-domain cells framed.

    Args:
        cells: Cells with a score; others stay blank, with a dash.
        rows, columns: Names of trained and tested domains.
        span: Ends of the color scale (`color_range`), shared by the maps of a page.
        higher_is_better: The metric's direction.
        diagonal: Places of the in-domain cells, (row, column).
        texts: `title, description, trained, tested, better`.
    """
    left = min(max(9 * max(len(one) for one in rows), 78), 150) + 12
    width, top = left + CELL_WIDTH * len(columns) + 8, 80
    height = top + CELL_HEIGHT * len(rows) + 46
    parts = [open_svg(width, height, dict(texts)).replace("<svg ", f'<svg style="width:{width}px;max-width:100%" ', 1)]
    parts.append(draw_text(2, 16, short(texts["title"], max(width // 8, 8)), "name", "start"))
    parts.append(draw_text(left + CELL_WIDTH * len(columns) / 2, 37, texts["tested"], "tick", "middle"))
    parts.append(draw_text(left - 8, 71, texts["trained"], "tick", "end"))
    for number, name in enumerate(columns):
        lines = _two_lines(name)
        for place, line in zip((71 - 15 * (len(lines) - 1), 71), lines, strict=False):
            parts.append(draw_text(left + CELL_WIDTH * (number + 0.5), place, line, "label", "middle"))
    for number, name in enumerate(rows):
        parts.append(draw_text(left - 8, top + CELL_HEIGHT * (number + 0.5) + 4, short(name, 17), "label", "end"))
    found = {(one.row, one.column): one for one in cells}
    for row in range(len(rows)):
        for column in range(len(columns)):
            x, y = left + CELL_WIDTH * column, top + CELL_HEIGHT * row
            parts.append(_cell(found.get((row, column)), x, y, span, higher_is_better))
    for row, column in diagonal:  # after all cells, so that no neighbor covers a frame
        x, y = left + CELL_WIDTH * column + 2, top + CELL_HEIGHT * row + 2
        parts.append(
            f'<rect x="{x}" y="{y}" width="{CELL_WIDTH - 4}" height="{CELL_HEIGHT - 4}" fill="none" stroke="#c2410c" stroke-width="3"/>'
        )
    parts += _color_bar(left, top + CELL_HEIGHT * len(rows) + 14, CELL_WIDTH * len(columns), span, higher_is_better)
    parts.append(draw_text(2, top + CELL_HEIGHT * len(rows) + 24, texts["better"], "tick", "start"))
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704  (made of numbers and escaped text only)


def _two_lines(name: str, most: int = 12) -> list[str]:
    """A column's name in one line or, broken at a space, in two."""
    if len(name) <= most or " " not in name:
        return [short(name, most)]
    at = max(name.rfind(" ", 0, most + 1), name.find(" "))
    return [short(name[:at], most), short(name[at + 1 :], most)]


def _cell(one: HeatCell | None, x: float, y: float, span: tuple[float, float], higher_is_better: bool) -> str:
    if one is None:
        return draw_text(x + CELL_WIDTH / 2, y + CELL_HEIGHT / 2 + 4, "–", "tick", "middle")
    share = (one.value - span[0]) / (span[1] - span[0])
    color, ink = fill(share if higher_is_better else 1 - share)
    box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{CELL_WIDTH}" height="{CELL_HEIGHT}" fill="{color}" stroke="#fff" stroke-width="2"/>'
    middle = x + CELL_WIDTH / 2
    place = y + (21 if one.interval else 29)
    value = draw_text(middle, place, f"{one.value:.3f}".replace("-", "\u2212"), "name", "middle", ink)
    return box + value + (draw_text(middle, y + 38, one.interval, "small", "middle", ink) if one.interval else "")


def _color_bar(x: float, y: float, width: float, span: tuple[float, float], higher_is_better: bool) -> list[str]:
    """The key to the colors, in eight steps from worst to best, with the scores at its ends."""
    ends = span if higher_is_better else (span[1], span[0])
    step = width / 8
    parts = [
        f'<rect x="{x + step * number:.1f}" y="{y}" width="{step + 0.5:.1f}" height="9" fill="{fill((number + 0.5) / 8)[0]}"/>'
        for number in range(8)
    ]
    for place, value, anchor in ((x, ends[0], "start"), (x + width, ends[1], "end")):
        parts.append(draw_text(place, y + 24, f"{value:.2f}".replace("-", "\u2212"), "tick", anchor))
    return parts


def local_curves(
    series: Sequence[LocalSeries], *, extent_of: Sequence[Bounds], references: Sequence[float], texts: Mapping[str, str]
) -> Markup:
    """Draw scores over local labels in one target, on log(1 + n), with bands and dotted in-domain scores.

    Args:
        series: One per strategy.
        extent_of: Scores of all targets, so that all figures have one axis.
        references: In-domain scores of all targets, likewise.
        texts: `title, description, x, y`.
    """
    width, height, left, right, top, bottom = NARROW_FIGURE, 270, 46, 12, 44, 50
    numbers = sorted({number for one in series for number, _ in one.points})
    points = [Bounds(one, one, one) for one in references]
    low, high = extent([*extent_of, *points], None, None)
    x = Scale(1, max(numbers) + 1, left + 8, width - right - 10, log=True)
    y = linear(low, high, height - bottom, top)
    parts = [open_svg(width, height, dict(texts)).replace("<svg ", f'<svg style="width:{width}px;max-width:100%" ', 1)]
    parts.append(draw_text(2, 15, short(texts["title"], 44), "name", "start"))
    parts.append(draw_text(2, 33, texts["y"], "title", "start"))
    for value in ticks(low, high, 5):
        parts.append(draw_line(left, y(value), width - right, y(value), "grid"))
        parts.append(draw_text(left - 7, y(value) + 4, tidy(value, high - low), "tick", "end"))
    for place, number in spread([(x(one + 1), one) for one in numbers], 28):
        parts.append(draw_line(place, height - bottom, place, height - bottom + 5, "axis"))
        parts.append(draw_text(place, height - bottom + 19, f"{number:,}", "tick", "middle"))
    parts.append(draw_line(left, height - bottom, width - right, height - bottom, "axis"))
    parts.append(draw_text((left + width - right) / 2, height - 10, texts["x"], "title", "middle"))
    for one in series:
        parts.append(
            f'<line x1="{left}" y1="{y(one.reference):.1f}" x2="{width - right}" y2="{y(one.reference):.1f}"'
            f' stroke="{one.style.color}" stroke-width="1.6" stroke-dasharray="2 4"/>'
        )
        upper = [f"{x(n + 1):.1f},{y(value.high):.1f}" for n, value in one.points]
        lower = [f"{x(n + 1):.1f},{y(value.low):.1f}" for n, value in reversed(one.points)]
        parts.append(f'<polygon points="{" ".join([*upper, *lower])}" fill="{one.style.color}" fill-opacity=".13"/>')
    for one in series:
        line = " ".join(f"{x(n + 1):.1f},{y(value.estimate):.1f}" for n, value in one.points)
        dash = ' stroke-dasharray="6 4"' if one.style.dashed else ""
        parts.append(f'<polyline points="{line}" fill="none" stroke="{one.style.color}" stroke-width="2.2"{dash}/>')
        parts += [draw_marker(one.style, x(n + 1), y(value.estimate)) for n, value in one.points]
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704
