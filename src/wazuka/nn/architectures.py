"""Networks without weights, by name: any timm model, and builders of our own.

A network here maps a normalized batch (B, 3, H, W) to pooled features (B, dim); its classifier is left out.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from wazuka.core.errors import ConfigError, nearest
from wazuka.nn import vits, weights
from wazuka.nn.cards import CARDS, IMAGENET_MEAN, IMAGENET_STD, Card, Triple

MOBILENET = "mobilenetv1-025"


def mobilenetv1_025() -> nn.Module:
    """Build MobileNet v1 of width 0.25 (Howard et al. 2017, arXiv:1704.04861) as TensorFlow padded and normalized it."""
    from timm.models.efficientnet import _gen_mobilenet_v1

    return _gen_mobilenet_v1("mobilenetv1_100", 0.25, pad_type="same", bn_eps=1e-3, num_classes=0)


BUILDERS: dict[str, Callable[..., nn.Module]] = {
    MOBILENET: mobilenetv1_025,
    "pooled-vit": vits.pooled_vit,
    "hf-vit": vits.hf_vit,
}
"""Our own builders: name -> function of the encoder's `args`. All other names are timm's."""
HEADS: dict[str, tuple[str, ...]] = {MOBILENET: ("classifier",), "pooled-vit": ("head",), "hf-vit": vits.HF_HEADS}
"""Modules of the classifier in files of our own builders' networks."""
PREFIXES: dict[str, tuple[str, ...]] = {"hf-vit": vits.HF_PREFIXES}
"""What may stand before the names of all tensors in such files."""


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

    if name in CARDS:
        return ConfigError(
            f"Backbone `{name}` needs a newer timm than {timm.__version__}, which does not know `{CARDS[name].arch}`;"
            " update it with `pip install --upgrade timm`."
        )
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
    for aside in (contextlib.nullcontext(), _ValuesOfLinspace()):
        try:
            with torch.device("meta"), aside:
                return build_network(arch, args)
        except (ConfigError, NotImplementedError):
            continue
    return build_seeded(arch, args, seed=0)  # a few timm models compute with other values while they are built


class _ValuesOfLinspace(TorchFunctionMode):
    """Gives `torch.linspace` values on any default device: older timm reads drop rates from it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.linspace:
            options.setdefault("device", "cpu")
        return func(*args, **options)


def head_keys(arch: str, network: nn.Module) -> tuple[str, ...]:
    """Name the modules of the classifier that the network was built without."""
    if arch in BUILDERS:
        return HEADS[arch]
    head = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    return (head,) if isinstance(head, str) else tuple(head)


def fit_weights(arch: str, network: nn.Module, state: weights.State, *, path: Path) -> tuple[weights.State, str]:
    """Hold a file's tensors against a network of `arch`: `weights.fit_state` with what is known of such files."""
    heads, prefixes = head_keys(arch, network), PREFIXES.get(arch, ())
    return weights.fit_state(network, state, path=path, head_keys=heads, prefixes=prefixes)


def card_of(arch: str, args: Mapping[str, Any]) -> Card | None:
    """Find the card of a network; of several cards that differ in their weights alone, the first."""
    return next((one for one in CARDS.values() if one.arch == arch and dict(one.args) == dict(args)), None)


def inspect_network(arch: str, args: Mapping[str, Any], network: nn.Module, *, card: Card | None = None) -> InputSpec:
    """Read what a network expects from its card, else its builder, and its feature dimension from a forward pass.

    Args:
        network: From `build_meta` or `build_network` with the same `arch` and `args`.
        card: Of the name that the user gave; None looks for one by `arch` and `args`.

    Raises:
        ConfigError: If it does not give one feature vector an image.
    """
    card = card or card_of(arch, args)
    config: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    if card is not None:
        size, fixed, mean, std = card.input_size, card.fixed_size, card.mean, card.std
        license_name, source = card.license, card.source
    else:
        size = int(args.get("img_size") or args.get("size") or (config.get("input_size") or (3, 224, 224))[-1])
        fixed = arch in BUILDERS or (bool(config.get("fixed_input_size")) and not args.get("dynamic_img_size"))
        mean, std = config.get("mean") or IMAGENET_MEAN, config.get("std") or IMAGENET_STD
        license_name, source = "unknown", arch
        if arch not in BUILDERS:
            license_name = config.get("license") or "unknown"
            source = config.get("hf_hub_id") or config.get("url") or "timm"
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
