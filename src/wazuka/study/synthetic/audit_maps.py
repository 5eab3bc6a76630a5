"""Where an audit's two sides can be told apart: the spatial features for the maps of WZ204, and their picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wazuka.audit.synthetic.activation_maps import ActivationMaps
from wazuka.data.pixels import to_picture
from wazuka.nn.feature_maps import FeatureMaps, feature_maps, inception_maps, why_no_maps
from wazuka.study.context import Settings
from wazuka.study.synthetic.audit_sides import Inception, Sides

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "where.png"
SHOWN = 8
"""Images of each side."""
SIDE = 80
"""Pixels that an image takes."""
GAP = 2
SPACE = 10
"""Between the parts of the picture."""
GROUND = (255, 255, 255)
SYNTHETIC = (190, 20, 30)
REAL = (30, 80, 190)
STRENGTH = 0.75
"""Opacity of the strongest color."""
QUANTILE = 0.99
"""Values beyond this quantile of the shown magnitudes have the strongest color."""


def maps_of(sides: Sides, settings: Settings) -> FeatureMaps | str:
    """What computes the spatial features of both sides' images, or why the encoder gives none."""
    if isinstance(sides.encoder, Inception):
        pixels = sides.real_pixels, sides.synthetic_pixels
        return inception_maps(*pixels, weights=sides.encoder.weights, device=settings.device)
    why = why_no_maps(sides.encoder)
    if why is not None:
        return why
    return feature_maps(
        sides.real_pixels,
        sides.synthetic_pixels,
        sides.encoder,
        intensity=sides.cache.intensity,
        window=sides.cache.transform.window,
        device=settings.device,
    )


def draw_maps(found: ActivationMaps, sides: Sides, *, folder: Path) -> dict[str, str]:
    """Draw `where.png`: the images easiest to tell apart with their maps below, then the mean maps.

    Rows: synthetic images of the highest held-out scores, their maps; real images of the lowest, their maps; the mean map
    of the real images, of the synthetic ones, and their difference. Red speaks for synthetic, blue for real. An image's map
    is drawn minus the mean of both sides, so that what a network's padding adds at every border does not show.

    Returns:
        Name -> file.
    """
    n = len(found.sides.real_rows)
    order = np.argsort(found.scores, kind="stable")
    real = order[order < n][:SHOWN]
    synthetic = order[order >= n][::-1][:SHOWN]
    middle = (found.real + found.synthetic) / 2
    shown = [
        (sides.synthetic_pixels[found.sides.synthetic_rows[synthetic - n]], found.maps[synthetic] - middle),
        (sides.real_pixels[found.sides.real_rows[real]], found.maps[real] - middle),
    ]
    top = float(np.quantile(np.abs(np.concatenate([maps for _, maps in shown])), QUANTILE))
    rows: list[list[Image]] = []
    for pixels, maps in shown:
        pictures = [to_picture(one, sides.cache) for one in pixels]
        rows.append([_tile(one) for one in pictures])
        rows.append([_overlay(_gray(one), heat, top) for one, heat in zip(pictures, maps, strict=True)])
    plain = np.full((SIDE, SIDE), 235.0)
    means = float(max(np.abs(found.real).max(), np.abs(found.synthetic).max()))
    last = [_overlay(plain, one, means) for one in (found.real, found.synthetic)]
    rows.append([*last, _overlay(plain, found.difference, float(np.abs(found.difference).max()))])
    _lay_out(rows).save(folder / FILE)
    return {"where": FILE}


def _tile(picture: np.ndarray) -> Image:
    from PIL import Image as Pillow

    return Pillow.fromarray(picture).convert("RGB").resize((SIDE, SIDE), Pillow.Resampling.BICUBIC)


def _gray(picture: np.ndarray) -> np.ndarray:
    return np.asarray(_tile(picture).convert("L"), np.float64)


def _overlay(gray: np.ndarray, heat: np.ndarray, top: float) -> Image:
    """Color a gray image (SIDE, SIDE) by a map of any size; magnitudes of `top` and more get the strongest color."""
    from PIL import Image as Pillow

    strength = Pillow.fromarray((heat / max(top, 1e-12)).clip(-1, 1).astype(np.float32))
    large = np.asarray(strength.resize((SIDE, SIDE), Pillow.Resampling.BILINEAR), np.float64)[:, :, None]
    color = np.where(large >= 0, SYNTHETIC, REAL).astype(np.float64)
    mixed = gray[:, :, None] + (color - gray[:, :, None]) * (STRENGTH * np.abs(large))
    return Pillow.fromarray(np.rint(mixed).astype(np.uint8))


def _lay_out(rows: list[list[Image]]) -> Image:
    """Rows of tiles, with some space after every second."""
    from PIL import Image as Pillow

    width = max(len(one) for one in rows) * (SIDE + GAP) + GAP
    tops = [GAP + line * (SIDE + GAP) + line // 2 * SPACE for line in range(len(rows))]
    picture = Pillow.new("RGB", (width, tops[-1] + SIDE + GAP), GROUND)
    for top, row in zip(tops, rows, strict=True):
        for column, tile in enumerate(row):
            picture.paste(tile, (GAP + column * (SIDE + GAP), top))
    return picture
