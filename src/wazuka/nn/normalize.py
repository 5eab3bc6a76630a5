"""From pixels as the cache keeps them to what a network expects, on the device, whole batches at a time.

uint8 pixels are 0..255 whatever the modality (16-bit and MR images were scaled when they were cached). int16 pixels are
Hounsfield units and need a window; the window's range becomes 0..255.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from wazuka.core.errors import DataError, unknown_name
from wazuka.core.windows import DEFAULT_WINDOW, WINDOWS
from wazuka.nn.encoders import Encoder


def to_unit(batch: torch.Tensor, *, intensity: str, window: str | None = None) -> torch.Tensor:
    """Scale pixels to [0, 1].

    Args:
        batch: (B, H, W, C), uint8, or int16 in Hounsfield units; C is 1 or 3.
        intensity: The dataset's intensity, as in its card.
        window: Name of a window of Hounsfield units; `DEFAULT_WINDOW` if None. Without meaning for uint8.

    Returns:
        (B, C, H, W) float32 in channels-last memory.

    Raises:
        DataError: If the type of the pixels does not suit the intensity, or C is neither 1 nor 3.
    """
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3):
        raise DataError(f"Images have shape {tuple(batch.shape)}; give (images, height, width, 1 or 3 channels).")
    planes = batch.permute(0, 3, 1, 2)
    if batch.dtype == torch.uint8:
        return planes.to(torch.float32) / 255
    if batch.dtype != torch.int16 or intensity != "hounsfield":
        raise DataError(
            f"Pixels are {batch.dtype} with intensity `{intensity}`; give uint8, or int16 with `hounsfield`."
        )
    if (window or DEFAULT_WINDOW) not in WINDOWS:
        raise unknown_name("window", str(window), WINDOWS)
    center, width = WINDOWS[window or DEFAULT_WINDOW]
    return ((planes.to(torch.float32) - (center - width / 2)) / width).clamp(0, 1)


def from_unit(unit: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """Turn images in [0, 1] into an encoder's input: its size where that is fixed, three channels, its mean and deviation.

    Args:
        unit: (B, 1 or 3, H, W) float in [0, 1].

    Returns:
        (B, 3, H', W') float32.
    """
    if encoder.fixed_size and tuple(unit.shape[-2:]) != (encoder.input_size, encoder.input_size):
        size = (encoder.input_size, encoder.input_size)
        unit = functional.interpolate(unit, size, mode="bilinear", align_corners=False, antialias=True)
    unit = unit.expand(-1, 3, -1, -1)
    gain, offset = input_gain(encoder)
    gain_, offset_ = (torch.tensor(one, device=unit.device).view(1, 3, 1, 1) for one in (gain, offset))
    return torch.addcmul(offset_, unit, gain_)


def to_input(batch: torch.Tensor, encoder: Encoder, *, intensity: str, window: str | None = None) -> torch.Tensor:
    """Turn cached pixels (B, H, W, C) into an encoder's input (B, 3, H', W') float32; see `to_unit` and `from_unit`."""
    return from_unit(to_unit(batch, intensity=intensity, window=window), encoder)


def input_gain(encoder: Encoder) -> tuple[list[float], list[float]]:
    """Return (gain, offset) per channel: input = unit * gain + offset, from input = (unit * 255 * scale - mean) / std."""
    gain = [255 * encoder.scale / std for std in encoder.std]
    offset = [-mean / std for mean, std in zip(encoder.mean, encoder.std, strict=True)]
    return gain, offset
