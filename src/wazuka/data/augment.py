"""Augmentation of whole batches on the device: parameters are drawn first (`draw`), then applied (`apply`, pure).

No Python runs per sample. Strengths (study key `augment` of trained methods; the values are our choice):

    light    flips and quarter turns, brightness and contrast by up to 10 %
    strong   besides a small affine map (15 degrees, 10 % scale, 6 % shift), brightness and contrast by up to 25 %,
             saturation by 25 %, hue by 0.1 of a half turn, blur in one of three images (up to 1.2 pixels), noise (0.03)

Every operation keeps the label of a classified image. Where left and right or up and down mean something (a chest X-ray),
`symmetries="mirror"` or `"none"` leaves out quarter turns or all of these. Masks are not handled here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

Strength = Literal["none", "light", "strong"]
Symmetries = Literal["all", "mirror", "none"]

BLUR_RADIUS = 3
"""Pixels on either side that the blur reaches: 2.5 standard deviations of the strongest."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


@dataclass(frozen=True)
class _Ranges:
    degrees: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    blur: float = 0.0
    blur_share: float = 0.0
    noise: float = 0.0


_RANGES = {
    "light": _Ranges(brightness=0.1, contrast=0.1),
    "strong": _Ranges(
        degrees=15.0,
        scale=0.1,
        shift=0.06,
        brightness=0.25,
        contrast=0.25,
        saturation=0.25,
        hue=0.1,
        blur=1.2,
        blur_share=1 / 3,
        noise=0.03,
    ),
}


@dataclass(frozen=True)
class Parameters:
    """One draw for a batch of B images; None where the strength leaves an operation out.

    Attributes:
        transpose: Swap rows and columns, bool (B,); with the two flips this gives all quarter turns.
        flip_rows: Turn upside down, bool (B,).
        flip_columns: Mirror, bool (B,).
        affine: (B, 2, 3), from output to input coordinates in [-1, 1], as `affine_grid` takes it.
        brightness: Factor, (B,).
        contrast: Factor of the distance from the image's mean luma, (B,).
        saturation: Factor of the distance from gray, (B,).
        hue: Angle in radians, (B,).
        blur: Standard deviation in pixels, (B,); 0 leaves the image as it is.
        noise: Added values, (B, C, H, W).
    """

    transpose: torch.Tensor | None = None
    flip_rows: torch.Tensor | None = None
    flip_columns: torch.Tensor | None = None
    affine: torch.Tensor | None = None
    brightness: torch.Tensor | None = None
    contrast: torch.Tensor | None = None
    saturation: torch.Tensor | None = None
    hue: torch.Tensor | None = None
    blur: torch.Tensor | None = None
    noise: torch.Tensor | None = None

    def to(self, device: torch.device) -> Parameters:
        """Return the same draw on a device."""
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return Parameters(**{name: None if one is None else one.to(device) for name, one in values.items()})


def augment(
    batch: torch.Tensor,
    strength: Strength,
    *,
    generator: torch.Generator,
    symmetries: Symmetries = "all",
) -> torch.Tensor:
    """Augment a batch; same generator state, same result.

    Args:
        batch: (B, C, H, W) float in [0, 1], C 1 or 3.
        strength: "none" returns the batch itself and draws nothing.
        generator: The parameters are drawn on its device.
        symmetries: "all" (flips and, for squares, quarter turns), "mirror" (left-right only) or "none".

    Returns:
        (B, C, H, W), same dtype, in [0, 1].
    """
    if strength == "none":
        return batch
    parameters = draw(tuple(batch.shape), strength, generator=generator, symmetries=symmetries)
    return apply(batch, parameters.to(batch.device))


def draw(
    shape: tuple[int, ...], strength: Strength, *, generator: torch.Generator, symmetries: Symmetries = "all"
) -> Parameters:
    """Draw the parameters for a batch of `shape` (B, C, H, W), on the generator's device."""
    if strength == "none":
        return Parameters()
    ranges = _RANGES[strength]
    count, channels, height, width = shape
    device = generator.device

    def uniform(span: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator, device=device) * 2 - 1) * span

    def coin() -> torch.Tensor:
        return torch.rand(count, generator=generator, device=device) < 0.5

    color = channels == 3
    return Parameters(
        transpose=coin() if symmetries == "all" and height == width else None,
        flip_rows=coin() if symmetries == "all" else None,
        flip_columns=coin() if symmetries != "none" else None,
        affine=_affine(uniform, ranges) if ranges.degrees else None,
        brightness=1 + uniform(ranges.brightness),
        contrast=1 + uniform(ranges.contrast),
        saturation=1 + uniform(ranges.saturation) if ranges.saturation and color else None,
        hue=uniform(ranges.hue * math.pi) if ranges.hue and color else None,
        blur=(
            torch.where(uniform(1.0).abs() < ranges.blur_share, uniform(ranges.blur).abs(), 0.0)
            if ranges.blur
            else None
        ),
        noise=torch.randn(shape, generator=generator, device=device) * ranges.noise if ranges.noise else None,
    )


def _affine(uniform: Callable[[float], torch.Tensor], ranges: _Ranges) -> torch.Tensor:
    """Rotation, scale and shift about the center: (B, 2, 3)."""
    angle = uniform(math.radians(ranges.degrees))
    scale = torch.exp(uniform(math.log1p(ranges.scale)))
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    first = torch.stack([cos, -sin, uniform(2 * ranges.shift)], dim=1)
    second = torch.stack([sin, cos, uniform(2 * ranges.shift)], dim=1)
    return torch.stack([first, second], dim=1)


def apply(batch: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    """Apply a draw to a batch (B, C, H, W) in [0, 1]; the same draw gives the same result."""
    images = batch
    if parameters.transpose is not None:
        images = torch.where(_each(parameters.transpose), images.transpose(2, 3), images)
    if parameters.flip_rows is not None:
        images = torch.where(_each(parameters.flip_rows), images.flip(2), images)
    if parameters.flip_columns is not None:
        images = torch.where(_each(parameters.flip_columns), images.flip(3), images)
    if parameters.affine is not None:
        images = _warp(images, parameters.affine)
    if parameters.blur is not None:
        images = _blur(images, parameters.blur)
    images = _recolor(images, parameters)
    if parameters.noise is not None:
        images = images + parameters.noise.to(images.dtype)
    return images if images is batch else images.clamp(0.0, 1.0)


def _each(values: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]


def _warp(images: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    """Bilinear; what lies outside is the mirror image of what lies inside. Angles are true in pixels also off squares."""
    height, width = images.shape[2:]
    square = torch.tensor([[1.0, height / width, 1.0], [width / height, 1.0, 1.0]], device=affine.device)
    grid = functional.affine_grid(affine * square, list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur, each image with its own deviation, as a sum of shifted images (no convolution: exactly repeatable)."""
    for axis in (2, 3):
        length = images.shape[axis]
        radius = min(BLUR_RADIUS, length - 1)  # a mirror needs one pixel more than it shows
        offsets = torch.arange(-radius, radius + 1, device=sigma.device)
        taps = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)  # (B, taps)
        taps = (taps / taps.sum(dim=1, keepdim=True)).to(images.dtype)
        edge = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = functional.pad(images, edge, mode="reflect")
        images = torch.zeros_like(images)
        for tap in range(2 * radius + 1):
            images = images + padded.narrow(axis, tap, length) * _each(taps[:, tap])
    return images


def _recolor(images: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    """Brightness, contrast, saturation and hue; a gray image stays gray."""
    if images.shape[1] == 3:
        luma = torch.einsum("bchw,c->bhw", images, _luma(images))[:, None]
    else:
        luma = images.mean(dim=1, keepdim=True)
    if parameters.saturation is not None:
        images = luma + (images - luma) * _each(parameters.saturation).to(images.dtype)
    if parameters.hue is not None:
        images = torch.einsum("bij,bjhw->bihw", _hue_matrices(parameters.hue).to(images.dtype), images)
    if parameters.contrast is not None:
        middle = luma.mean(dim=(1, 2, 3), keepdim=True)
        images = middle + (images - middle) * _each(parameters.contrast).to(images.dtype)
    if parameters.brightness is not None:
        images = images * _each(parameters.brightness).to(images.dtype)
    return images


def _luma(images: torch.Tensor) -> torch.Tensor:
    return torch.tensor(LUMA, device=images.device, dtype=images.dtype)


def _hue_matrices(angles: torch.Tensor) -> torch.Tensor:
    """Rotation of the chroma plane of YIQ about the gray axis, in RGB: (B, 3, 3)."""
    to_yiq = torch.tensor(
        [LUMA, (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135)], dtype=torch.float64
    )
    to_rgb = torch.linalg.inv(to_yiq).to(angles.device)
    turn = torch.zeros(len(angles), 3, 3, device=angles.device, dtype=torch.float64)
    cos, sin = torch.cos(angles.double()), torch.sin(angles.double())
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = cos
    turn[:, 1, 2], turn[:, 2, 1] = -sin, sin
    return to_rgb @ turn @ to_yiq.to(angles.device)
