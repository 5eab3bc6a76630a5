"""Small figures of a generator's training: one curve per repeat over the steps. Same input, same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from wazuka.report.svg import draw_line, draw_text, linear, open_svg, short, ticks, tidy

WIDTH, HEIGHT = 250, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 28, 36
COLORS = ("#1d4f91", "#c2410c", "#0f766e", "#9d2f6b", "#6d4aa8")
"""One per repeat, in turn; the figure is about the repeats' spread, not about telling them apart."""


def training_curve(repeats: Sequence[Sequence[tuple[float, float]]], *, texts: Mapping[str, str]) -> Markup | None:
    """Draw one figure of the training, a line per repeat; None without two finite points.

    Args:
        repeats: Per repeat (step, value); values that are not finite are left out.
        texts: `title, description, x`.
    """
    lines = [[(float(x), float(y)) for x, y in one if math.isfinite(y)] for one in repeats]
    points = [point for one in lines for point in one]
    if len(points) < 2:
        return None
    low, high = min(y for _, y in points), max(y for _, y in points)
    air = max((high - low) * 0.06, abs(high) * 1e-3, 1e-6)
    low, high = low - air, high + air
    x = linear(0.0, max(one for one, _ in points), LEFT, WIDTH - RIGHT)
    y = linear(low, high, HEIGHT - BOTTOM, TOP)
    parts = [open_svg(WIDTH, HEIGHT, dict(texts)).replace("<svg ", f'<svg style="width:{WIDTH}px;max-width:100%" ', 1)]
    parts.append(draw_text(2, 15, short(texts["title"], 32), "name", "start"))
    for value in ticks(low, high, 4):
        parts.append(draw_line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        parts.append(draw_text(LEFT - 5, y(value) + 4, _tick(value, high - low), "tick", "end"))
    last = max(one for one, _ in points)
    parts.append(draw_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    parts.append(draw_text(LEFT, HEIGHT - BOTTOM + 16, "0", "tick", "middle"))
    parts.append(draw_text(WIDTH - RIGHT, HEIGHT - BOTTOM + 16, f"{last:,.0f}", "tick", "end"))
    parts.append(draw_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 16, texts["x"], "tick", "middle"))
    for number, one in enumerate(lines):
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in one)
        color = COLORS[number % len(COLORS)]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6" stroke-opacity=".8"/>')
    return Markup("".join([*parts, "</svg>"]))  # noqa: S704  (made of numbers and escaped text only)


def _tick(value: float, span: float) -> str:
    """A tick; below the digits that `tidy` has, in powers of ten."""
    if 0 < span < 0.004:
        return "0" if abs(value) < span * 1e-9 else f"{value:.1e}".replace("e-0", "e-").replace("-", "\u2212")
    return tidy(value, span)
