"""Batch-norm statistics of the images to predict instead of the training images' (remedy `test-batchnorm`).

Nado et al. (2020), "Evaluating prediction-time batch normalization for robustness under covariate shift",
arXiv:2006.10963; Schneider et al. (2020), "Improving robustness against common corruptions by covariate shift
adaptation", NeurIPS, arXiv:2006.16971 with N = 0, that is without the training statistics. It is transductive: a
prediction depends on the other images of its domain, and a report has to say so. No labels are used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wazuka.core.errors import ConfigError, DataError


class _Moments:
    """Mean and variance per channel of all values so far, merged batch by batch (Chan et al. 1983), in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: torch.Tensor) -> None:
        """Add the input (B, C, ...) of a batch-norm layer."""
        axes = [axis for axis in range(values.ndim) if axis != 1]
        variance, mean = torch.var_mean(values.detach().float(), dim=axes, correction=0)
        added, mean, variance = values.numel() // values.shape[1], mean.double(), variance.double()
        if not self.count:
            self.count, self.mean, self.squares = added, mean, variance * added
            return
        total = self.count + added
        step = mean - self.mean
        self.squares = self.squares + variance * added + step**2 * (self.count * added / total)
        self.mean, self.count = self.mean + step * (added / total), total


def batchnorm_layers(network: nn.Module) -> list[_BatchNorm]:
    """All batch-norm layers of a network, in order; a network on the meta device will do."""
    return [one for one in network.modules() if isinstance(one, _BatchNorm)]


@torch.no_grad()
def with_statistics_of(network: nn.Module, batches: Iterable[torch.Tensor], *, name: str = "this network") -> nn.Module:
    """Copy a network and give its batch-norm layers the statistics of the images of one domain.

    One pass over the batches in their order: batch-norm layers normalize each batch by its own mean and (biased)
    variance, as in training; all else is in evaluation mode (no dropout). What a layer gets is mean and biased variance
    of all values that reached it, every value with the same weight, so that a smaller last batch counts for less; a
    last batch under half the size of the one before is joined to it. The first layer's statistics do not depend on
    how the images are split into batches at all; those of deeper ones do slightly, because the layers before them
    normalize batch by batch. With one batch of all images the copy gives exactly the output of batch norm in training.

    Args:
        network: Left as it is.
        batches: Inputs of the network, (B, ...) float on its device, of ONE domain: mixing domains gives statistics
            that fit none of them.
        name: Of the network, for the error.

    Returns:
        The copy, in evaluation mode.

    Raises:
        ConfigError: If the network has no batch-norm layer.
        DataError: If there are no images, or a batch of one image only.
    """
    if not batchnorm_layers(network):
        raise ConfigError(f"`test-batchnorm` needs BatchNorm layers; `{name}` has none; drop it.")
    adapted = copy.deepcopy(network).eval()
    layers = batchnorm_layers(adapted)
    moments = {layer: _Moments() for layer in layers}
    hooks = [layer.register_forward_pre_hook(lambda one, inputs: moments[one].add(inputs[0])) for layer in layers]
    for layer in layers:  # without running statistics a layer normalizes by those of the batch, in evaluation mode too
        layer.running_mean = layer.running_var = None
    images = 0
    for batch in _joined(batches):
        if len(batch) < 2:
            raise DataError(
                f"`test-batchnorm` got a batch of {len(batch)} image; give batches of 2 or more, or drop it."
            )
        images += len(batch)
        adapted(batch)
    if not images:
        raise DataError("`test-batchnorm` got no images; give 2 or more of a domain, or drop it.")
    for hook in hooks:
        hook.remove()
    for layer, before in zip(layers, batchnorm_layers(network), strict=True):
        found = moments[layer]
        if not found.count:  # a layer that the forward pass leaves out keeps what it has
            layer.running_mean, layer.running_var = copy.deepcopy((before.running_mean, before.running_var))
            continue
        kept = before.running_mean if before.running_mean is not None else before.weight
        dtype = kept.dtype if kept is not None else torch.float32
        layer.running_mean = found.mean.to(dtype)
        layer.running_var = (found.squares / found.count).to(dtype)
    return adapted


def _joined(batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The batches, the last one joined to the one before if it has less than half its size."""
    held: list[torch.Tensor] = []
    for batch in batches:
        if len(held) == 2:
            yield held.pop(0)
        held.append(batch)
    if len(held) == 2 and 2 * len(held[1]) < len(held[0]):
        held = [torch.cat(held)]
    yield from held
