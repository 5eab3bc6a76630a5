"""Feature maps of three depths of a network, computed no further than asked.

Convolutional networks and others that halve their maps: the last three stages. Vision transformers: the ends of the
second, third and fourth quarter of their blocks, without class token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wazuka.core.errors import ConfigError
from wazuka.nn.vits import HfVit

LEVELS = 3


class Taps(nn.Module):
    """A network read at three levels: normalized (B, 3, H, W) -> maps (B, channels[i], h_i, w_i).

    Args:
        network: Any timm network with `forward_intermediates`, or our `hf-vit`. Its tensors are those of `self.network`.
        levels: Numbers of three layers as that method counts them, ascending; None: see above.
        name: Of the network, for errors.

    Attributes:
        levels: As given or found.
        channels: Channels of the three maps.

    Raises:
        ConfigError: If the network gives no such maps, or too few.
    """

    def __init__(
        self, network: nn.Module, levels: tuple[int, int, int] | None = None, *, name: str = "this network"
    ) -> None:
        super().__init__()
        self.network = network
        layers = _layers(network, name)
        if len(layers) < LEVELS:
            raise ConfigError(f"Backbone `{name}` has {len(layers)} layers to read; choose one with {LEVELS} or more.")
        self.levels = _default_levels(layers) if levels is None else levels
        ordered = self.levels[0] < self.levels[1] < self.levels[2]
        if not ordered or self.levels[0] < 0 or self.levels[2] >= len(layers):
            raise ConfigError(
                f"`levels` {list(self.levels)} do not suit `{name}`; give three ascending numbers from 0 to {len(layers) - 1}."
            )
        self.channels: tuple[int, int, int] = tuple(layers[one][0] for one in self.levels)  # type: ignore[assignment]

    def forward(self, images: torch.Tensor, upto: int = LEVELS) -> list[torch.Tensor]:
        """Compute the maps of levels 1 to `upto`, and nothing of the network beyond.

        Args:
            images: Normalized, (B, 3, H, W).
            upto: 1, 2 or 3.

        Returns:
            `upto` maps, shallowest first.
        """
        assert 1 <= upto <= LEVELS, upto
        wanted = list(self.levels[:upto])
        if isinstance(self.network, HfVit):
            return _maps_of_hf_vit(self.network, images, wanted)
        forward: Any = self.network.forward_intermediates
        return list(forward(images, indices=wanted, stop_early=True, output_fmt="NCHW", intermediates_only=True))

    def unreached(self, images: torch.Tensor) -> tuple[str, ...]:
        """Name the network's parameters on which no map depends: training through the maps leaves them as they are.

        A vision transformer's last normalization is one, so is the convolution after an EfficientNet's last stage.

        Args:
            images: One image will do, (B, 3, H, W) on the network's device.
        """
        named = [(name, one) for name, one in self.network.named_parameters() if one.requires_grad]
        training = self.training
        with torch.enable_grad():
            total = torch.stack([one.float().sum() for one in self.eval()(images)]).sum()
            gradients = torch.autograd.grad(total, [one for _, one in named], allow_unused=True)
        self.train(training)
        return tuple(name for (name, _), one in zip(named, gradients, strict=True) if one is None)


def _layers(network: nn.Module, name: str) -> list[tuple[int, int]]:
    """Channels and reduction (pixels of the input a position, 0 if unknown) of every layer that can be read."""
    if isinstance(network, HfVit):
        layers: Any = network.encoder.layer
        return [(len(_patch_weight(network)), _patch_weight(network).shape[-1])] * len(layers)
    info: Any = getattr(network, "feature_info", None)
    if not hasattr(network, "forward_intermediates") or not isinstance(info, list):
        raise ConfigError(f"Backbone `{name}` does not give the maps of its stages; choose a timm network that does.")
    return [(int(one["num_chs"]), int(one.get("reduction", 0))) for one in info]


def _default_levels(layers: list[tuple[int, int]]) -> tuple[int, int, int]:
    count = len(layers)
    if len({reduction for _, reduction in layers}) == 1:  # all maps of one size: blocks, not stages
        second, third = -(-count // 2) - 1, -(-3 * count // 4) - 1
        return second, third, count - 1
    return count - 3, count - 2, count - 1


def _maps_of_hf_vit(network: HfVit, images: torch.Tensor, wanted: list[int]) -> list[torch.Tensor]:
    from torch.utils.checkpoint import checkpoint

    tokens = network.embeddings(images)
    patch = _patch_weight(network).shape[-1]
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    layers: Any = network.encoder.layer
    maps = []
    for number in range(wanted[-1] + 1):
        if network.checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(layers[number], tokens, use_reentrant=False)
        else:
            tokens = layers[number](tokens)
        if number in wanted:
            maps.append(tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)).contiguous())
    return maps


def _patch_weight(network: HfVit) -> torch.Tensor:
    """(dim, 3, patch, patch)."""
    return network.get_parameter("embeddings.patch_embeddings.projection.weight")
