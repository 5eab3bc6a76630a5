"""All channels of a network's spatial features, a batch at a time, for maps of where a linear classifier looks.

Timm networks give them as they give `spatial_features`; Inception those of its last block, whose averages are its features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wazuka.core.errors import ConfigError
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import iterate_batches, run_batches
from wazuka.nn.inception import BATCH, load_inception
from wazuka.nn.rows import ArrayImages

LEAST_SIDE = 7
"""Positions along the shorter side of a map that shows where; the deepest layer with so many is taken."""
INCEPTION_LAYER = "Mixed_7c"

FeatureMaps = Callable[[np.ndarray, np.ndarray], Iterator[np.ndarray]]
"""Rows of real and rows of synthetic images -> maps of the former, then of the latter, in order: float32 (a batch,
channels, height, width)."""


def why_no_maps(encoder: Encoder) -> str | None:
    """Why an encoder gives no spatial features, or None where it does."""
    from wazuka.nn.architectures import build_meta

    if encoder.kind == "onnx":
        return f"{encoder.name} is an ONNX graph, which gives pooled features only"
    if not hasattr(build_meta(encoder.arch, encoder.args), "forward_intermediates"):
        return f"{encoder.name} does not give the features of its layers"
    return None


def feature_maps(
    real: np.ndarray,
    synthetic: np.ndarray,
    encoder: Encoder,
    *,
    intensity: str,
    window: str | None = None,
    device: str = "cpu",
) -> FeatureMaps:
    """Prepare maps of the deepest layer with 7 positions a side (where none has as many: of the one with the most).

    The network is built at each call of the result; only a batch of maps is in memory.

    Args:
        real, synthetic: Pixels (n, height, width, channels) and (m, ...) as in the pixel cache.
        encoder: Frozen network.
        intensity, window: Of the images.
        device: Where it runs, in float32.

    Raises:
        ConfigError: If the encoder gives no maps (see `why_no_maps`).
    """
    why = why_no_maps(encoder)
    if why is not None:
        raise ConfigError(f"{why}; choose a timm network.")

    def yield_maps(real_rows: np.ndarray, synthetic_rows: np.ndarray) -> Iterator[np.ndarray]:
        network = encoder.build().to(device).eval()
        layer: list[int] = []
        shape: list[tuple[int, ...]] = []

        def forward(batch: torch.Tensor) -> torch.Tensor:
            if not layer:
                layer.append(_choose_layer(network, batch[:1]))
            (maps,) = network.forward_intermediates(batch, indices=layer, intermediates_only=True)  # type: ignore[operator]
            shape[:] = [tuple(maps.shape[1:])]
            return maps.float().flatten(1)

        for pixels, rows in ((real, real_rows), (synthetic, synthetic_rows)):
            images = ArrayImages(pixels[rows])
            for part in run_batches(forward, images, encoder, intensity=intensity, window=window, device=device):
                yield part.reshape(-1, *shape[0])

    return yield_maps


def inception_maps(
    real: np.ndarray, synthetic: np.ndarray, *, weights: Path | None = None, device: str = "cpu"
) -> FeatureMaps:
    """As `feature_maps`, of Inception's last block, (2048, 8, 8); arguments and errors as in `inception_features`."""

    def yield_maps(real_rows: np.ndarray, synthetic_rows: np.ndarray) -> Iterator[np.ndarray]:
        network = load_inception(weights=weights, device=device)
        maps: list[torch.Tensor] = []
        network.get_submodule(INCEPTION_LAYER).register_forward_hook(lambda *given: maps.append(given[2].detach()))
        for pixels, rows in ((real, real_rows), (synthetic, synthetic_rows)):
            for batch in iterate_batches(ArrayImages(pixels[rows]), batch=BATCH):
                maps.clear()
                with torch.inference_mode():
                    network(torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).expand(-1, 3, -1, -1))
                yield maps[0].float().cpu().numpy()

    return yield_maps


def _choose_layer(network: nn.Module, batch: torch.Tensor) -> int:
    """The deepest layer whose maps have `LEAST_SIDE` positions a side, else the deepest of those with the most."""
    maps = network.forward_intermediates(batch, intermediates_only=True)  # type: ignore[operator]
    sides = [min(one.shape[-2:]) for one in maps]
    wanted = min(LEAST_SIDE, max(sides))
    return max(number for number, side in enumerate(sides) if side >= wanted)
