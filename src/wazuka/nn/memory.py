"""How much memory a training takes, before it starts: from shapes alone, without weights and without computing.

Weights, gradients, the optimizer's moments and the copies that early stopping keeps are counts of parameters. What a pass
needs is found by running the network's own forward and backward pass on tensors that have shapes but no memory (torch's
fake tensors): what autograd saves, each storage once, and what is alive at the peak, which is a little more and, with
activation checkpointing (Chen et al. 2016, arXiv:1604.06174), much less than without. Both grow in proportion to the
images, so two runs give any batch.
Not in it: the program itself, a GPU's context, workspaces of convolutions, fragmentation; `HEADROOM` is kept for them.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wazuka.nn.encoders import Encoder
from wazuka.nn.features import BATCH
from wazuka.nn.lora import LoraSpec, Targets, choose_layers, inject

FLOAT = 4
"""Bytes of a float32: weights, gradients and moments, also where the arithmetic is bfloat16."""
HEADROOM = 0.1
"""Share of a GPU's memory that is not planned with."""
HEAP_HEADROOM = 0.35
"""The same in main memory: the C library's heap does not give back all that was freed; measured up to 1.8 times the tensors
alone, mostly 1.1 to 1.6 (docs/speed.md)."""
SMALL, LARGE = 32, 64
"""Batches whose difference gives the bytes of an image: large enough for activations, not gradients, to make the peak."""

Trained = Literal["nothing", "head", "adapters", "all"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a method trains, and how.

    Attributes:
        trained: "nothing" (probes and neighbors on frozen features), "head", "adapters" (LoRA) or "all".
        images: Images in one pass through the network: a step's batch, divided by `accumulate`.
        rank, targets, blocks: Of adapters, as in `adapt.lora.Config`.
        checkpointing: Whether activations are computed again in the backward pass.
        half: Whether the arithmetic is bfloat16.
        moments: Values the optimizer keeps per parameter: 2 for AdamW, 1 for SGD with momentum.
        copies: Copies of the trained weights that the loop keeps: the last good ones, and the best ones.
        average: Whether a running average of the whole network is kept.
        classes: Outputs of the head.
    """

    trained: Trained
    images: int = 1
    rank: int = 16
    targets: Targets | None = None
    blocks: int | None = None
    checkpointing: bool = False
    half: bool = False
    moments: int = 2
    copies: int = 2
    average: bool = False
    classes: int = 2


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes at the peak of a training.

    Attributes:
        parameters: Weights and buffers of the network.
        gradients: Of the trained weights.
        optimizer: Its moments.
        copies: Of the trained weights (early stopping), and the running average.
        activations: What a forward and backward pass needs at once, or a frozen pass, whichever is more.
    """

    parameters: int
    gradients: int
    optimizer: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        """Their sum."""
        return self.parameters + self.gradients + self.optimizer + self.copies + self.activations


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What was found about a network and a way to train it; gives the memory of any number of images.

    Attributes:
        parameters: Bytes of weights and buffers, head and adapters included.
        trained: Bytes of the trained weights.
        fixed: Bytes saved for the backward pass whatever the batch (bfloat16 copies of weights).
        saved: Bytes saved for the backward pass per image.
        per_image: Bytes per image that are alive at once, at the peak of forward and backward pass; `saved` at least.
        frozen: Bytes per image of a pass that saves nothing, at its peak; such passes take `features.BATCH` images.
        training: How.
    """

    parameters: int
    trained: int
    fixed: int
    saved: int
    per_image: int
    frozen: int
    training: Training

    def estimate(self, images: int | None = None) -> MemoryEstimate:
        """Memory with so many images in one pass; those of `training` if None."""
        count = self.training.images if images is None else images
        average = self.parameters if self.training.average else 0
        return MemoryEstimate(
            parameters=self.parameters,
            gradients=self.trained,
            optimizer=self.trained * self.training.moments,
            copies=self.trained * self.training.copies + average,
            activations=max(self.fixed + self.per_image * count, self.frozen * BATCH),
        )

    def most_images(self, limit: int) -> int:
        """Most images in one pass that fit into `limit` bytes; 0 if not even one does."""
        if self.estimate(1).total > limit:
            return 0
        if not self.per_image:
            return BATCH
        return (limit - self.estimate(0).total + self.estimate(0).activations - self.fixed) // self.per_image


def training_bytes(encoder: Encoder, training: Training, *, size: int) -> MemoryEstimate:
    """Estimate the memory of a training.

    Args:
        encoder: A torch backbone.
        training: What is trained, and how.
        size: Side of the images in pixels; ignored where the encoder takes one size only.

    Raises:
        ConfigError: If the network cannot be trained like this (no such blocks, no layers for adapters).
    """
    return footprint(encoder, training, size=size).estimate()


def footprint(encoder: Encoder, training: Training, *, size: int) -> Footprint:
    """Measure a backbone with a linear head; see `training_bytes`."""
    from wazuka.nn.architectures import build_meta

    network = build_meta(encoder.arch, encoder.args)
    side = encoder.input_size if encoder.fixed_size else size
    return network_footprint(network, (3, side, side), training, dim=encoder.feature_dim, name=encoder.name)


def network_footprint(
    network: nn.Module, shape: tuple[int, ...], training: Training, *, dim: int, name: str = "this network"
) -> Footprint:
    """Measure a network with a linear head.

    Args:
        network: (B, *shape) -> (B, dim), on the meta device; changed in place.
        shape: Of one input.
        training: What is trained, and how.
        dim: Length of the features.
        name: For messages.
    """
    head = FLOAT * (dim * training.classes + training.classes)
    _prepare(network, training, name)
    if training.checkpointing:
        _checkpoint(network)
    half = training.half
    with _without_memory(network):
        frozen = _growth(lambda count: peak(network, shape, count, half=half))
        fixed = saved = per_image = 0
        if training.trained in ("adapters", "all"):
            runs = {count: saved_for_backward(network, shape, count, half=half) for count in (SMALL, LARGE)}
            saved = (runs[LARGE] - runs[SMALL]) // (LARGE - SMALL)
            fixed = runs[SMALL] - SMALL * saved
            per_image = max(saved, _growth(lambda count: peak(network, shape, count, half=half, backward=True)))
    parameters = list(network.parameters())
    trained = 0 if training.trained == "nothing" else head + _bytes([one for one in parameters if one.requires_grad])
    weights = _bytes([*parameters, *network.buffers()])
    return Footprint(
        parameters=weights + (0 if training.trained == "nothing" else head),
        trained=trained,
        fixed=fixed,
        saved=saved,
        per_image=per_image,
        frozen=frozen,
        training=training,
    )


def _prepare(network: nn.Module, training: Training, name: str) -> None:
    """Freeze, adapt, and set the modes that training will set."""
    if training.trained == "all":
        network.train()
        return
    network.eval().requires_grad_(False)
    if training.trained == "adapters":
        layers = choose_layers(network, training.targets, last=training.blocks, name=name)
        with torch.random.fork_rng(devices=[]):
            inject(network, LoraSpec(rank=training.rank, alpha=1.0, layers=layers), dropout=0.1)
        for path, module in network.named_modules():
            if ".lora_dropout" in path:
                module.train()


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def _growth(measure: Callable[[int], int]) -> int:
    """Bytes per image of what grows in proportion to the images."""
    return (measure(LARGE) - measure(SMALL)) // (LARGE - SMALL)


def _checkpoint(network: nn.Module) -> None:
    """Switch activation checkpointing on, where the network offers it; training refuses it where it does not."""
    switch: Any = getattr(network, "set_grad_checkpointing", None)
    if switch is not None:
        switch()


@contextmanager
def _without_memory(network: nn.Module) -> Iterator[None]:
    """Inside, the network's tensors are CPU tensors without values, so that it takes the CPU's ways through its layers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        for module in network.modules():
            for name, one in module._parameters.items():
                if one is not None:
                    empty = torch.empty(one.shape, dtype=one.dtype, device="cpu")
                    module._parameters[name] = nn.Parameter(empty, requires_grad=one.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
        yield


def saved_for_backward(network: nn.Module, shape: tuple[int, ...], images: int, *, half: bool = False) -> int:
    """Run a forward pass and add up the bytes that autograd saves, each storage once, the network's own not counted.

    Works on tensors with and without values alike.
    """
    own = _storages(network)
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps their addresses from being used again

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), _arithmetic(half):
        network(torch.zeros(images, *shape))
    return sum(one.nbytes() for one in kept.values())


def _storages(network: nn.Module) -> set[int]:
    return {one.untyped_storage()._cdata for one in (*network.parameters(), *network.buffers())}


@contextmanager
def _arithmetic(half: bool) -> Iterator[None]:
    with warnings.catch_warnings(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        warnings.simplefilter("ignore")
        yield


class _Live(TorchDispatchMode):
    """Adds up the storages that are alive, from the first operation that makes one until it is let go."""

    def __init__(self, own: set[int]) -> None:
        super().__init__()
        self.own, self.alive, self.peak = own, 0, 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in torch.utils._pytree.tree_leaves(result):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self.known or storage._cdata in self.own:
            return
        self.known.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.alive -= size


def peak(network: nn.Module, shape: tuple[int, ...], images: int, *, half: bool = False, backward: bool = False) -> int:
    """Most bytes alive at once, input included and the network's own not, in a frozen forward pass or (`backward`) in a
    forward and backward pass, gradients of weights included."""
    live = _Live(_storages(network))
    with live, torch.set_grad_enabled(backward):
        with _arithmetic(half):
            result = network(torch.zeros(images, *shape))
        if backward:
            result.sum().backward()
    for one in network.parameters():
        one.grad = None
    return live.peak


def with_training(found: Footprint, **changes: Any) -> Footprint:
    """The same network, with other values of `Training` that change no activation (`images`, `moments`, `copies`)."""
    return replace(found, training=replace(found.training, **changes))


@dataclass(frozen=True, kw_only=True)
class Room:
    """Memory of a device in bytes: what is free now, and all there is."""

    free: int
    total: int


def memory_of(device: str) -> Room:
    """Look up the memory of a GPU, or of this machine (of the container that this process runs in, if that has less)."""
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return Room(free=free, total=total)
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    free = _available() or os.sysconf("SC_AVPHYS_PAGES") * page
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - (used or 0))
    return Room(free=max(0, free), total=total)


def _available() -> int | None:
    """What Linux says can be had without swapping: pages of files that are only cached count as free."""
    file = Path("/proc/meminfo")
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
