"""Low-rank adapters in a frozen backbone (Hu et al. 2021, arXiv:2106.09685), with peft, and the predictor they make.

A layer y = W x + b becomes y = W x + b + (alpha / rank) B A x, with A (rank, in) random, B (out, rank) zero at first;
for a convolution A has the layer's own kernel, stride and padding, and B is 1 x 1. Only A and B are trained (section 4).
Merging adds (alpha / rank) B A to W, and the network is as fast as before.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.nn.adaptable import Adaptable, adaptable
from wazuka.nn.network import Classifier
from wazuka.nn.predictors import TENSORS, Network, load_its_encoder, write_facts, written_encoder
from wazuka.nn.weights import read_state, write_state

Targets = Literal["attention", "attention+mlp"]
ADAPTER = "default"
"""peft's name of the one adapter that a network has here."""
KIND = "lora"


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """What is adapted, and how strongly.

    Attributes:
        rank: Of B A.
        alpha: Its scale is alpha / rank.
        layers: Names of the adapted layers.
    """

    rank: int
    alpha: float
    layers: tuple[str, ...]


def choose_layers(network: nn.Module, targets: Targets | None, *, last: int | None, name: str) -> tuple[str, ...]:
    """Choose the layers to adapt.

    Args:
        network: The backbone.
        targets: Of a transformer; None is "attention+mlp". Of a convolutional network always None: all its ungrouped
            convolutions.
        last: Only in the last so many blocks.
        name: The backbone's, for messages.

    Raises:
        ConfigError: If the network has no such layers.
    """
    found = adaptable(network)
    if not found.is_transformer:
        if targets is not None:
            raise ConfigError(
                f"`targets: {targets}` needs a transformer, `{name}` has no attention; leave `targets` out to adapt its"
                " convolutions."
            )
        layers: tuple[str, ...] = found.convolutions
    else:
        layers = found.attention if targets == "attention" else found.attention + found.mlp
    if last is not None:
        inside = tuple(f"{one}." for one in last_blocks(found, last, name=name))
        layers = tuple(one for one in layers if one.startswith(inside))
    if not layers:
        raise ConfigError(f"`{name}` has no layer that adapters can change; use `finetune`, or another backbone.")
    order = {one: place for place, (one, _) in enumerate(network.named_modules())}
    return tuple(sorted(layers, key=order.__getitem__))


def last_blocks(found: Adaptable, last: int, *, name: str) -> tuple[str, ...]:
    """Names of the last blocks of a network.

    Raises:
        ConfigError: If it has no blocks that follow one another, or too few.
    """
    if not found.blocks:
        raise ConfigError(f"`blocks: {last}` needs blocks that follow one another, `{name}` has none; leave it out.")
    if last > len(found.blocks):
        raise ConfigError(f"`blocks` is {last}, `{name}` has {len(found.blocks)}; give that many at most.")
    return found.blocks[-last:]


def inject(network: nn.Module, spec: LoraSpec, *, dropout: float = 0.0) -> None:
    """Put adapters into a network, in place; all else is frozen. A is drawn from torch's generator, B is zero.

    Args:
        dropout: Of an adapted layer's input, on the adapter's path only.
    """
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(False)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # peft divides it by the rank; any number does
        lora_dropout=dropout,
        target_modules="|".join(re.escape(one) for one in spec.layers),  # matched in full, unlike a list's suffixes
        bias="none",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice for language models
        inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    found = sum(1 for name, _ in network.named_modules() if name.endswith(".lora_A"))
    assert found == len(spec.layers), f"{found} of {len(spec.layers)} layers were adapted"


def adapter_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' tensors, as in the network's state dict."""
    return {name: value for name, value in network.state_dict().items() if ".lora_" in name}


def merge(network: nn.Module) -> None:
    """Add the adapters to the weights they adapt, in place, and take them out of the network."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            owner, _, leaf = name.rpartition(".")
            parent = network.get_submodule(owner)
            base = module.get_base_layer()
            if leaf.isdigit():
                parent[int(leaf)] = base  # type: ignore[operator]
            else:
                setattr(parent, leaf, base)


class Adapted(nn.Module):
    """A backbone with adapters: its own layers stay in evaluation mode, so that BatchNorm and dropout do not change.

    Args:
        backbone: x -> features (B, dim), with adapters from `inject`.
        features: Of the training rows before adaptation, (n, dim): their mean and deviation are taken out of all features.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, backbone: nn.Module, features: torch.Tensor) -> None:
        super().__init__()
        self.inner = backbone
        deviation = features.std(dim=0, correction=0)
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("scale", torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def train(self, mode: bool = True) -> Adapted:
        """Only the adapters' dropout follows the mode."""
        super().train(mode)
        self.inner.eval()
        for name, module in self.inner.named_modules():
            if ".lora_dropout" in name:
                module.train(mode)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images to standardized features."""
        return (self.inner(x) - self.mean) / self.scale

    def folded(self, head: nn.Linear) -> nn.Linear:
        """The linear layer on plain features that equals `head` on standardized ones."""
        result = nn.Linear(head.in_features, head.out_features)
        with torch.no_grad():
            weight = head.weight.double() / self.scale.double()
            result.bias.copy_(head.bias.double() - weight @ self.mean.double())
            result.weight.copy_(weight)
        return result


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraNetwork(Network):
    """A frozen encoder, adapters and a linear head: a few MB beside the encoder that it needs.

    Attributes:
        state: Adapters as in the adapted backbone's state dict, `head.weight` (classes, dim) and `head.bias` (classes,).
        spec: What is adapted.
        Others: as in `Network`.
    """

    spec: LoraSpec

    def build(self) -> Classifier:
        """Build the network with the adapters merged into its weights, in evaluation mode, on the CPU.

        Raises:
            ArtifactError: If the saved adapters do not fit the backbone.
        """
        backbone = self.encoder.build()
        with torch.random.fork_rng(devices=[]):
            inject(backbone, self.spec)
        network = Classifier(backbone, self.encoder.feature_dim, len(self.classes))
        expected = {f"backbone.{name}" for name in adapter_state(backbone)} | {"head.weight", "head.bias"}
        given = {name if name.startswith("head.") else f"backbone.{name}": one for name, one in self.state.items()}
        if set(given) != expected:
            odd = sorted(set(given) ^ expected)[0]
            raise ArtifactError(
                f"The saved adapters do not fit `{self.encoder.name}`: tensor `{odd}` is on one side only."
            )
        try:
            network.load_state_dict(given, strict=False)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ArtifactError(f"The saved adapters of `{self.encoder.name}` do not fit ({reason}).") from error
        merge(network.backbone)
        return network.eval()

    def save(self, folder: Path, *, encoder_folder: Path | None = None) -> None:
        """Write adapters and head; `encoder_folder` (relative to `folder`) spares a copy of the encoder."""
        folder = Path(folder)
        encoder, where = written_encoder(self.encoder, folder, encoder_folder)
        write_state(folder / TENSORS, self.state)
        more = {"encoder_folder": where, "lora": self.spec, "test_batchnorm": self.test_batchnorm}
        write_facts(self, folder, KIND, encoder, more)

    @classmethod
    def from_folder(cls, folder: Path, facts: Mapping[str, Any]) -> LoraNetwork:
        """Read what `save` wrote; `facts` is the content of `predictor.json`."""
        values = facts["lora"]
        spec = LoraSpec(rank=values["rank"], alpha=values["alpha"], layers=tuple(values["layers"]))
        return cls(
            encoder=load_its_encoder(folder, facts),
            state=read_state(folder / TENSORS),
            spec=spec,
            **cls.common(facts),
        )


def parameter_count(network: nn.Module, layers: Sequence[str], rank: int) -> int:
    """Trainable values of adapters, in closed form: rank (in + out) for a linear layer, rank (in k_h k_w + out) for a
    convolution with kernel (k_h, k_w)."""
    total = 0
    for name in layers:
        layer = network.get_submodule(name)
        if isinstance(layer, nn.Linear):
            total += rank * (layer.in_features + layer.out_features)
        else:
            assert isinstance(layer, nn.Conv2d), type(layer)
            height, width = layer.kernel_size
            total += rank * (layer.in_channels * height * width + layer.out_channels)
    return total
