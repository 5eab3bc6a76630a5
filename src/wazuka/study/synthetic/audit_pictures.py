"""Pictures of an audit: real and synthetic images side by side, and the pairs that lie closest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wazuka.audit.synthetic import Memorized
from wazuka.data.pixels import to_picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from wazuka.study.synthetic.audit_sides import Sides

ACROSS = 8
"""Images in a row of the grid."""
ROWS = 3
"""Rows of real and of synthetic images of each class."""
PAIRS = 16
SIDE = 64
"""Pixels that an image takes in a picture."""
GAP = 2
GROUND = (255, 255, 255)


def draw(sides: Sides, nearest: Memorized, *, folder: Path, seed: int) -> dict[str, str]:
    """Draw `grid.png` (per class: real rows, then synthetic rows) and `pairs.png` (synthetic above its nearest real one).

    Returns:
        Name -> file.
    """
    rng = np.random.default_rng(seed)
    pictures = {"grid": "grid.png"}
    grid = []
    classes = sorted({str(one) for one in sides.synthetic["label"].dropna()})
    for name in classes or [""]:
        for table, pixels in ((sides.real, sides.real_pixels), (sides.synthetic, sides.synthetic_pixels)):
            places = np.flatnonzero((table["label"] == name).to_numpy(bool)) if name else np.arange(len(table))
            chosen = (
                places if len(places) <= ACROSS * ROWS else np.sort(rng.choice(places, ACROSS * ROWS, replace=False))
            )
            shown = [_tile(pixels[one], sides) for one in chosen]
            grid += [shown[start : start + ACROSS] for start in range(0, len(shown), ACROSS)]
    _mosaic(grid).save(folder / "grid.png")
    space = next(iter(nearest.limits), None)
    if space is not None:
        order = np.argsort(nearest.table[f"{space}_distance"].to_numpy(), kind="stable")[:PAIRS]
        partners = nearest.table[f"{space}_row"].to_numpy()[order]
        tiles = [
            (_tile(sides.synthetic_pixels[one], sides), _tile(sides.real_pixels[other], sides))
            for one, other in zip(order, partners, strict=True)
        ]
        rows = []
        for start in range(0, len(tiles), ACROSS):
            part = tiles[start : start + ACROSS]
            rows += [[one for one, _ in part], [other for _, other in part]]
        _mosaic(rows).save(folder / "pairs.png")
        pictures["pairs"] = "pairs.png"
    return pictures


def _tile(image: np.ndarray, sides: Sides) -> Image:
    from PIL import Image as Pillow

    return (
        Pillow.fromarray(to_picture(image, sides.cache)).convert("RGB").resize((SIDE, SIDE), Pillow.Resampling.BICUBIC)
    )


def _mosaic(rows: list[list[Image]]) -> Image:
    """Lay tiles out in rows."""
    from PIL import Image as Pillow

    width = max((len(one) for one in rows), default=1) * (SIDE + GAP) + GAP
    picture = Pillow.new("RGB", (width, max(1, len(rows)) * (SIDE + GAP) + GAP), GROUND)
    for line, row in enumerate(rows):
        for column, tile in enumerate(row):
            picture.paste(tile, (GAP + column * (SIDE + GAP), GAP + line * (SIDE + GAP)))
    return picture
