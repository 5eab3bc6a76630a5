"""Which layers of a network low-rank adapters may change, and its blocks in order: found by looking at the modules.

Transformers: the linear layers of each block, told apart as attention and MLP. Convolutional networks: every ungrouped,
undilated convolution, spatial and pointwise, and the linear layers that blocks use as pointwise convolutions. Depthwise
and grouped convolutions are left out: peft cannot merge adapters into them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

ATTENTION = frozenset({"attn", "attention", "self_attn", "self_attention", "attn_block", "attn_grid"})
"""Modules that are attention, as timm and transformers name them."""
BLOCK = re.compile(r"^(?:.*\.)?(?:blocks|layers?|stages?|layer[1-4])(?:\.\d+)+$")


@dataclass(frozen=True)
class Adaptable:
    """Names of a network's layers, as in `named_modules`.

    Attributes:
        attention: Linear layers of attention (query, key, value, output).
        mlp: The other linear layers of a transformer's blocks.
        convolutions: Of a convolutional network: what adapters may change.
        skipped: Grouped and dilated convolutions, which adapters leave alone.
        blocks: The network's blocks, outermost first to last, where they follow one another; else empty.
    """

    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    convolutions: tuple[str, ...]
    skipped: tuple[str, ...]
    blocks: tuple[str, ...]

    @property
    def is_transformer(self) -> bool:
        """Whether the network has attention."""
        return bool(self.attention)


def adaptable(network: nn.Module) -> Adaptable:
    """Look at a network (also one of shapes only, on the meta device)."""
    linear: dict[str, bool] = {}
    convolutions: list[str] = []
    skipped: list[str] = []
    for name, module in network.named_modules():
        parts = set(name.split("."))
        if isinstance(module, nn.Linear):
            linear[name] = bool(parts & ATTENTION)
        elif isinstance(module, nn.Conv2d):
            plain = module.groups == 1 and set(module.dilation) == {1}
            (convolutions if plain else skipped).append(name)
    blocks = _blocks(network)
    inside = tuple(f"{one}." for one in blocks)
    attention = tuple(name for name, is_attention in linear.items() if is_attention)
    if attention:
        mlp = tuple(name for name, is_attention in linear.items() if not is_attention and name.startswith(inside))
        return Adaptable(attention, mlp, (), tuple(skipped), blocks)
    pointwise = [name for name in linear if name.startswith(inside)]
    return Adaptable((), (), (*convolutions, *pointwise), tuple(skipped), blocks)


def _blocks(network: nn.Module) -> tuple[str, ...]:
    """Blocks in the order in which they run; none where a network joins the outputs of several (DenseNet)."""
    if any(
        "dense" in type(one).__name__.lower() and "block" in type(one).__name__.lower() for one in network.modules()
    ):
        return ()
    found: list[str] = []
    for name, module in network.named_modules():
        if not BLOCK.fullmatch(name) or isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        if any(isinstance(one, nn.Sequential | nn.ModuleList) and _holds_blocks(one) for one in module.children()):
            continue  # a stage: its blocks follow
        if not any(name.startswith(f"{other}.") for other in found):
            found.append(name)
    return tuple(found)


def _holds_blocks(container: nn.Module) -> bool:
    """Whether a container's members are blocks: numbered modules with modules of their own."""
    members = list(container.children())
    return bool(members) and all(any(True for _ in one.children()) for one in members)
