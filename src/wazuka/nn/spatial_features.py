"""Feature maps of a middle layer, for distances that see where things are (sFID, Nash et al. 2021, arXiv:2103.03841)."""

from __future__ import annotations

import numpy as np
import torch

from wazuka.nn.encoders import Encoder
from wazuka.nn.features import run_batches
from wazuka.nn.rows import ImageRows

CHANNELS = 7
"""The first so many channels, as published for Inception."""
LAYER = -2
"""The last stage but one."""


def spatial_features(
    images: ImageRows, encoder: Encoder, *, intensity: str, window: str | None = None, device: str = "cpu"
) -> np.ndarray | None:
    """Maps of the last stage but one of a timm network, (n, 7, height, width) float32; None where a network gives none.

    Args:
        images: Cached pixels, n rows.
        encoder: Frozen network.
        intensity, window: Of the images.
        device: Where it runs.
    """
    if encoder.kind == "onnx" or not len(images):
        return None
    network = encoder.build().to(device).eval()
    if not hasattr(network, "forward_intermediates"):
        return None
    shape: list[tuple[int, ...]] = []

    def forward(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            (maps,) = network.forward_intermediates(batch, indices=[LAYER], intermediates_only=True)  # type: ignore[operator]
        maps = maps[:, :CHANNELS].float()
        shape.append(tuple(maps.shape[1:]))
        return maps.flatten(1)

    parts = list(run_batches(forward, images, encoder, intensity=intensity, window=window, device=device))
    return np.concatenate(parts).reshape(-1, *shape[0])
