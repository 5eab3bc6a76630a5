"""Two random views of every image of a batch, for learning without labels; drawn first (`draw`), then applied (`apply`).

Everything runs on whole batches on the device, on images in [0, 1] before normalization; each image has its own draws.

    light    what FG-SSL's puzzles start from (Park & Ryu 2024, arXiv:2308.05770): mirroring, grayscale in one of five
             images, blur always (first view) or in one of ten (second), solarization in one of five (second); no crop
    strong   as BYOL (Grill et al. 2020, arXiv:2006.07733, appendix B) after SimCLR (Chen et al. 2020, arXiv:2002.05709):
             besides a random crop resized to the image's size, and jitter of brightness, contrast, saturation and hue

Gray images (also CT after its window) have no color to change: saturation, hue and grayscale are left out. The order of
color operations, random in the papers, is fixed here. Blur is as in SimCLR: 0.1 to 2 pixels, cut off at a twentieth of
the side in each direction, so that it is milder in small images.

`border_crop`, `even_illumination` and `gray_world` are photometric preprocessing: nothing is drawn, both views have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from wazuka.data import augment
from wazuka.data.augment import Symmetries

Strength = Literal["light", "strong"]
Photometric = Literal["none", "border-crop", "illumination", "gray-world"]

BLUR_SIGMA = (0.1, 2.0)
"""Standard deviation of the blur in pixels."""
BLUR_REACH = 0.05
"""Half of the kernel as a share of the side (SimCLR: a kernel of a tenth)."""
SOLARIZE_FROM = 0.5
"""Values from here on are inverted."""
ASPECT = (3 / 4, 4 / 3)
"""Width to height of a crop."""
GRAY_CHANCE = 0.2
DARK = 0.06
"""Highest value of the black border around a photographed fundus; our choice."""
LIT_SHARE = 0.02
"""A row or column belongs to the picture if more than this share of its pixels is brighter than the border."""
LIGHT_SPREAD = 0.15
"""Standard deviation of the blur that estimates the illumination, as a share of the side; our choice."""
LEAST_LIGHT = 0.05
"""Illumination below this is not divided by: a black border stays black."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What may happen to an image in one view; chances are in [0, 1].

    Attributes:
        crop: Whether a random part is cut out and resized to the image's size.
        flip: Whether the image is mirrored at random (and turned, as the symmetries allow).
        jitter: Chance of jitter of brightness, contrast, saturation and hue together.
        blur: Chance of a Gaussian blur.
        solarize: Chance that bright values are inverted.
    """

    crop: bool
    flip: bool
    jitter: float
    blur: float
    solarize: float


VIEWS: dict[Strength, tuple[View, View]] = {
    "light": (
        View(crop=False, flip=True, jitter=0.0, blur=1.0, solarize=0.0),
        View(crop=False, flip=False, jitter=0.0, blur=0.1, solarize=0.2),
    ),
    "strong": (
        View(crop=True, flip=True, jitter=0.8, blur=1.0, solarize=0.0),
        View(crop=True, flip=True, jitter=0.8, blur=0.1, solarize=0.2),
    ),
}
"""Strength -> first and second view."""
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
"""BYOL's spans: factors 1 - x to 1 + x, hue in turns of the color circle."""


@dataclass(frozen=True)
class Draws:
    """One draw for B images.

    Attributes:
        pixels: Flips, crop and colors, as `data.augment.apply` takes them.
        sigma: (B,) standard deviation of the blur in pixels; 0 leaves the image as it is.
        solarized: (B,) bool.
    """

    pixels: augment.Parameters
    sigma: torch.Tensor
    solarized: torch.Tensor


def two_views(
    batch: torch.Tensor,
    strength: Strength,
    *,
    generator: torch.Generator,
    symmetries: Symmetries = "mirror",
    smallest_crop: float = 0.2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw and apply both views of a batch; same generator state, same result.

    Args:
        batch: (B, C, H, W) float in [0, 1], C 1 or 3.
        strength: As in this file's head.
        generator: On the batch's device.
        symmetries: What a flip is: "mirror" (left-right, as in the papers), "all" (also upside down and, for squares,
            quarter turns: images without a top, as in microscopy) or "none".
        smallest_crop: Least area of a crop, as a share of the image's, in (0, 1]. The papers have 0.08 to 0.2.

    Returns:
        Two batches like the given one, in [0, 1].
    """
    first, second = (
        apply(batch, draw(batch.shape, view, generator=generator, symmetries=symmetries, smallest_crop=smallest_crop))
        for view in VIEWS[strength]
    )
    return first, second


def draw(
    shape: torch.Size | tuple[int, ...],
    view: View,
    *,
    generator: torch.Generator,
    symmetries: Symmetries = "mirror",
    smallest_crop: float = 0.2,
) -> Draws:
    """Draw one view of a batch of `shape` (B, C, H, W), on the generator's device; arguments as in `two_views`."""
    count, channels, height, width = shape
    device = generator.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=device)

    def chosen(chance: float) -> torch.Tensor:
        return torch.rand(count, generator=generator, device=device) < chance

    def factor(name: str, jittered: torch.Tensor) -> torch.Tensor:
        return torch.where(jittered, uniform(1 - JITTER[name], 1 + JITTER[name]), 1.0)

    flips = symmetries if view.flip else "none"
    color, jitter = channels == 3, view.jitter > 0
    transpose = chosen(0.5) if flips == "all" and height == width else None
    flip_rows = chosen(0.5) if flips == "all" else None
    flip_columns = chosen(0.5) if flips != "none" else None
    affine = _draw_crop(uniform, smallest_crop) if view.crop else None
    jittered = chosen(view.jitter)
    pixels = augment.Parameters(
        transpose=transpose,
        flip_rows=flip_rows,
        flip_columns=flip_columns,
        affine=affine,
        brightness=factor("brightness", jittered) if jitter else None,
        contrast=factor("contrast", jittered) if jitter else None,
        # grayscale is a saturation of 0
        saturation=torch.where(chosen(GRAY_CHANCE), 0.0, factor("saturation", jittered)) if color else None,
        hue=torch.where(jittered, 2 * math.pi * uniform(-JITTER["hue"], JITTER["hue"]), 0.0)
        if color and jitter
        else None,
    )
    sigma = torch.where(chosen(view.blur), uniform(*BLUR_SIGMA), 0.0)
    return Draws(pixels=pixels, sigma=sigma, solarized=chosen(view.solarize))


def _draw_crop(uniform: Callable[[float, float], torch.Tensor], smallest: float) -> torch.Tensor:
    """Boxes of random area, shape and place, as maps from output to input coordinates in [-1, 1]: (B, 2, 3)."""
    side = torch.sqrt(uniform(smallest, 1.0))
    stretch = torch.exp(uniform(math.log(ASPECT[0]), math.log(ASPECT[1])) / 2)
    width, height = (side * stretch).clamp(max=1.0), (side / stretch).clamp(max=1.0)
    x, y = (1 - width) * uniform(-1.0, 1.0), (1 - height) * uniform(-1.0, 1.0)
    return _box(width, height, x, y)


def _box(width: torch.Tensor, height: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Boxes of `width` and `height` in shares of the image's, around (x, y) in [-1, 1]: (B, 2, 3)."""
    zero = torch.zeros_like(width)
    return torch.stack([torch.stack([width, zero, x], dim=1), torch.stack([zero, height, y], dim=1)], dim=1)


def apply(batch: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Apply a draw to a batch (B, C, H, W) in [0, 1]; the same draw gives the same result."""
    images = augment.apply(batch, draws.pixels)
    images = blur(images, draws.sigma, reach=BLUR_REACH).clamp(0.0, 1.0)
    inverted = draws.solarized[:, None, None, None] & (images >= SOLARIZE_FROM)
    return torch.where(inverted, 1 - images, images)


def blur(images: torch.Tensor, sigma: torch.Tensor, *, reach: float) -> torch.Tensor:
    """Blur each image by a Gaussian of its own, mirrored at the edges, as a product with one matrix per direction.

    A product is fast and exactly repeatable on every device; its cost does not depend on the deviation.

    Args:
        images: (B, C, H, W) float.
        sigma: (B,) standard deviations in pixels; 0 leaves an image as it is, exactly.
        reach: Where the Gaussian is cut off on either side, as a share of the side (one pixel at least).
    """
    down, across = (_blur_matrices(sigma.to(images.dtype), size, reach=reach) for size in images.shape[2:])
    return down[:, None] @ images @ across[:, None].transpose(2, 3)


def _blur_matrices(sigma: torch.Tensor, size: int, *, reach: float) -> torch.Tensor:
    """Weights over the pixels of a line for each of its pixels, those beyond an edge folded back: (B, size, size)."""
    radius = min(max(1, round(reach * size)), size - 1)  # a mirror needs one pixel more than it shows
    to, source = torch.meshgrid(*[torch.arange(size, device=sigma.device)] * 2, indexing="ij")
    scale = sigma.clamp(min=1e-3)[:, None, None]

    def weights(distance: torch.Tensor) -> torch.Tensor:
        return torch.where(distance.abs() <= radius, torch.exp(-0.5 * (distance / scale) ** 2), 0.0)

    last = size - 1
    mirrored = weights(source + to) * (source > 0) + weights(2 * last - source - to) * (source < last)
    matrices = weights(source - to) + mirrored
    return matrices / matrices.sum(dim=2, keepdim=True)


def preprocess(images: torch.Tensor, how: Photometric) -> torch.Tensor:
    """Photometric preprocessing of a batch (B, C, H, W) in [0, 1]; see `border_crop` and the two after it."""
    if how == "border-crop":
        return border_crop(images)
    if how == "illumination":
        return even_illumination(images)
    return gray_world(images) if how == "gray-world" else images


def border_crop(images: torch.Tensor, *, dark: float = DARK) -> torch.Tensor:
    """Cut each image down to what is brighter than a black border, and resize that to the image's size, undistorted.

    The box keeps the image's proportions; where it reaches beyond the image, that is black. An image without a bright
    row or column is left as it is.

    Args:
        images: (B, C, H, W) float in [0, 1].
        dark: Highest value of the border.
    """
    lit = images.amax(dim=1) > dark  # (B, H, W)
    columns, rows = (lit.float().mean(dim=axis) > LIT_SHARE for axis in (1, 2))
    (width, x), (height, y) = _extent(columns), _extent(rows)
    size = torch.maximum(width, height)
    empty = size == 0
    size, x, y = torch.where(empty, 1.0, size), torch.where(empty, 0.0, x), torch.where(empty, 0.0, y)
    grid = functional.affine_grid(_box(size, size, x, y), list(images.shape), align_corners=False)
    cut = functional.grid_sample(images, grid.to(images.dtype), padding_mode="zeros", align_corners=False)
    return torch.where((size == 1)[:, None, None, None] & (x == 0)[:, None, None, None], images, cut)


def _extent(bright: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """From the first to the last bright line: its length as a share of all, (B,), and its middle in [-1, 1], (B,)."""
    count = bright.shape[1]
    first = bright.int().argmax(dim=1)
    end = count - bright.flip(1).int().argmax(dim=1)  # one past the last
    length = torch.where(bright.any(dim=1), end - first, 0)
    return length / count, (first + end) / count - 1


def even_illumination(images: torch.Tensor) -> torch.Tensor:
    """Divide each image by its illumination, a strong blur of its brightness, and keep its mean brightness.

    Args:
        images: (B, C, H, W) float in [0, 1].

    Returns:
        The same shape, in [0, 1]: values beyond are cut off.
    """
    brightness = images.mean(dim=1, keepdim=True)
    sigma = torch.full((len(images),), LIGHT_SPREAD * max(images.shape[2:]), device=images.device)
    light = blur(brightness, sigma, reach=1.0)
    level = brightness.mean(dim=(2, 3), keepdim=True)
    return (images * level / light.clamp(min=LEAST_LIGHT)).clamp(0.0, 1.0)


def gray_world(images: torch.Tensor) -> torch.Tensor:
    """Scale each image's channels to one mean: color constancy under the gray-world assumption (Buchsbaum 1980).

    Args:
        images: (B, C, H, W) float in [0, 1]; gray images come back unchanged, and so does a black channel.

    Returns:
        The same shape, in [0, 1]: values beyond are cut off.
    """
    means = images.mean(dim=(2, 3), keepdim=True)
    goal = means.mean(dim=1, keepdim=True)
    return (images * torch.where(means > 0, goal / means, 1.0)).clamp(0.0, 1.0)
