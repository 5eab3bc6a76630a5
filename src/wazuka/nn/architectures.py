"""Networks without weights, by name: any timm model, and builders of our own.

A network here maps a normalized batch (B, 3, H, W) to pooled features (B, dim); its classifier is left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wazuka.core.errors import ConfigError, nearest
from wazuka.nn.cards import CARDS, HALF, IMAGENET_MEAN, IMAGENET_STD, Triple

MOBILENET = "mobilenetv1-025"


def mobilenetv1_025() -> nn.Module:
    """Build MobileNet v1 of width 0.25 (Howard et al. 2017, arXiv:1704.04861) as TensorFlow padded and normalized it."""
    from timm.models.efficientnet import _gen_mobilenet_v1

    return _gen_mobilenet_v1("mobilenetv1_100", 0.25, pad_type="same", bn_eps=1e-3, num_classes=0)


BUILDERS: dict[str, Callable[..., nn.Module]] = {MOBILENET: mobilenetv1_025}
"""Our own builders: name -> function of the encoder's `args`. All other names are timm's."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a network expects, as its builder knows it."""

    size: int
    fixed: bool
    """Whether only `size` works (position embeddings of a fixed grid); else any size does."""
    mean: Triple
    std: Triple
    feature_dim: int
    parameters: int
    """Values that training may change, without the classifier."""
    head_keys: tuple[str, ...]
    """Modules of the classifier: their tensors in a weights file are no part of the encoder."""
    license: str
    source: str


def is_known(arch: str) -> bool:
    """Tell whether `arch` can be built. A timm name may carry the tag of its weights (`resnet18.a1_in1k`)."""
    if arch in BUILDERS:
        return True
    import timm

    return timm.is_model(arch)


def unknown_backbone(name: str, added: tuple[str, ...] = ()) -> ConfigError:
    """Build the error for a backbone that no one knows, offering the nearest name of all."""
    import timm

    curated = [*CARDS, *added]
    found = [one for one in (nearest(name, curated), nearest(name, timm.list_models())) if one]
    close = max(found, key=lambda one: difflib.SequenceMatcher(None, name, one).ratio(), default=None)  # ties: curated
    hint = f" Did you mean `{close}`?" if close else ""
    listed = ", ".join(f"`{one}`" for one in curated)
    return ConfigError(
        f"Unknown backbone `{name}`.{hint} Known: {listed}, any other timm model, FILE.onnx, or an artifact folder."
    )


def build_network(arch: str, args: Mapping[str, Any]) -> nn.Module:
    """Build a network with freshly drawn weights (from torch's generator) and no classifier, in evaluation mode.

    Raises:
        ConfigError: If the name is unknown or the arguments do not suit it.
    """
    if not is_known(arch):
        raise unknown_backbone(arch)
    try:
        if arch in BUILDERS:
            return BUILDERS[arch](**args).eval()
        import timm

        return timm.create_model(arch, pretrained=False, num_classes=0, **args).eval()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"Backbone `{arch}` cannot be built with {dict(args)}: {_one_line(error)}.") from error


def build_seeded(arch: str, args: Mapping[str, Any], *, seed: int) -> nn.Module:
    """Build a network whose weights depend on `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(arch, args)


def build_meta(arch: str, args: Mapping[str, Any]) -> nn.Module:
    """Build a network of shapes only (device "meta"): no memory for weights, no time to draw them."""
    try:
        with torch.device("meta"):
            return build_network(arch, args)
    except (ConfigError, NotImplementedError):  # a few timm models compute with values while they are built
        return build_seeded(arch, args, seed=0)


def head_keys(arch: str, network: nn.Module) -> tuple[str, ...]:
    """Name the modules of the classifier that the network was built without."""
    if arch in BUILDERS:
        return ("classifier",)
    head = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    return (head,) if isinstance(head, str) else tuple(head)


def inspect_network(arch: str, args: Mapping[str, Any], network: nn.Module) -> InputSpec:
    """Read what a network expects from its builder, and its feature dimension from a forward pass.

    Args:
        network: From `build_meta` or `build_network` with the same `arch` and `args`.

    Raises:
        ConfigError: If it does not give one feature vector an image.
    """
    if arch in BUILDERS:
        card = CARDS[arch]
        size, fixed, mean, std = card.input_size, False, HALF, HALF
        license_name, source = card.license, card.source
    else:
        config: Mapping[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
        size = int(args.get("img_size") or (config.get("input_size") or (3, 224, 224))[-1])
        fixed = bool(config.get("fixed_input_size")) and not args.get("dynamic_img_size")
        mean, std = config.get("mean") or IMAGENET_MEAN, config.get("std") or IMAGENET_STD
        license_name, source = (
            config.get("license") or "unknown",
            config.get("hf_hub_id") or config.get("url") or "timm",
        )
    device = next(network.parameters()).device
    with torch.inference_mode():
        shape = tuple(network(torch.zeros(2, 3, size, size, device=device)).shape)
    if len(shape) != 2:
        raise ConfigError(
            f"Backbone `{arch}` gives features of shape {shape} for two images; choose one that gives (2, dim)."
        )
    return InputSpec(
        size=size,
        fixed=fixed,
        mean=_triple(mean),
        std=_triple(std),
        feature_dim=shape[1],
        parameters=sum(one.numel() for one in network.parameters() if one.requires_grad),
        head_keys=head_keys(arch, network),
        license=str(license_name),
        source=str(source),
    )


def _triple(values: Any) -> Triple:
    red, green, blue = (float(one) for one in values)
    return red, green, blue


def _one_line(error: BaseException) -> str:
    """The first line of a library's error, without its final period."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
