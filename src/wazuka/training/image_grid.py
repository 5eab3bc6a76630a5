"""Pictures of images under way: rows of equal cells in one PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional

from wazuka.core.records import writing

GAP = 2
"""White pixels between cells."""


def write_grid(path: Path, rows: Sequence[torch.Tensor], *, cell: int) -> None:
    """Write one row of cells per tensor, atomically.

    Args:
        path: PNG file.
        rows: Per row (columns, 1 or 3, side, side) in [-1, 1], beyond it cut off; any side that divides `cell`. Pixels
            are repeated up to the cell's size.
        cell: Side of a cell.
    """
    from PIL import Image

    step, columns = cell + GAP, max(len(one) for one in rows)
    canvas = torch.full((3, len(rows) * step - GAP, columns * step - GAP), 255, dtype=torch.uint8)
    for y, images in enumerate(rows):
        values = (
            ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
        )
        large = functional.interpolate(values, scale_factor=cell // values.shape[-1], mode="nearest")
        for x, one in enumerate(large):
            canvas[:, y * step : y * step + cell, x * step : x * step + cell] = one
    with writing(path) as file:
        Image.fromarray(canvas.permute(1, 2, 0).numpy()).save(file, format="PNG")
