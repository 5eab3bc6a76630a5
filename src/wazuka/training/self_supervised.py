"""What pretrainers share that learn from two views: settings, views of a task's images, the training with its monitor.

Each technique (`pretrain/`) has its own network and loss for a step. What is kept is the encoder alone. The monitor
(`training.embedding_monitor`) looks at the encoder's features of training images without their labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from wazuka.core.errors import NotEnoughData
from wazuka.core.hashing import derive_seed
from wazuka.data.augment import Symmetries
from wazuka.nn.features import BATCH
from wazuka.nn.normalize import from_unit
from wazuka.training import ssl_views
from wazuka.training.batches import RESIDENT_BYTES, TrainingImages, require_range
from wazuka.training.embedding_monitor import collapsed, embedding_figures
from wazuka.training.loop import Looked, LoopSettings, Precision, StepLoss, train
from wazuka.training.optim import OptimizerName, Schedule
from wazuka.training.roles import Pretrained, PretrainTask, Runtime
from wazuka.training.sampling import ShuffledRows
from wazuka.training.seeding import step_generator

DEFAULT_LR = {"adamw": 1e-3, "sgd": 0.12}
"""Learning rates from scratch; sgd's for 256 images a step, in proportion for others. Our choice."""
PRETRAINED_FACTOR = 0.3
"""On the learning rate where the weights are pretrained; our choice."""
DEFAULT_DECAY = {"adamw": 0.05, "sgd": 5e-4}
LOOKS = 20
"""Looks of the monitor in a training."""
LOOKED_AT = 256
"""Images that the monitor looks at, at most."""
SETTLED = 0.2
"""Share of the steps before which nothing counts as collapsed."""


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """Settings that pretrainers share; a technique's `Config` adds its own."""

    steps: int = 2000
    """Steps of the optimizer."""
    batch: int = 128
    """Images a step (fewer where there are fewer)."""
    lr: float | None = None
    """Highest learning rate. Default: 1e-3 for adamw; 0.12 for sgd and 256 images, in proportion for other batches; 0.3
    times that where training starts from pretrained weights."""
    weight_decay: float | None = None
    """Decay of all matrices and kernels. Default: 0.05 for adamw, 5e-4 for sgd."""
    optimizer: OptimizerName = "adamw"
    """adamw or sgd (Nesterov momentum 0.9). The papers use LARS, made for batches of thousands."""
    schedule: Schedule = "cosine"
    """cosine, one-cycle or constant."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    clip_norm: float | None = None
    """Highest norm of the gradient; by default it is not clipped, as in the papers."""
    precision: Precision = "auto"
    """auto (bfloat16 where a GPU has it), fp32 or bf16."""
    augment: ssl_views.Strength = "strong"
    """Views of an image: light (mirroring, grayscale, blur, solarization) or strong (also crops and color jitter)."""
    symmetries: Symmetries = "mirror"
    """What views may do to an image's orientation: mirror (left-right), all (also upside down and quarter turns) or
    none."""
    smallest_crop: float = 0.2
    """Least area of a crop of strong views, as a share of the image's."""
    photometric: ssl_views.Photometric = "none"
    """Preprocessing before views are made: border-crop (a fundus out of its black border), illumination (divided by a
    strong blur) or gray-world (color constancy; skin)."""
    seed: int = 0
    """Changes the draws of this method, beside the study's seed."""

    def __post_init__(self) -> None:
        positive = ("steps", "batch", "lr", "clip_norm")
        require_range({name: getattr(self, name) for name in positive}, above=0)
        require_range({"weight_decay": self.weight_decay})
        require_range({"warmup": self.warmup}, below=1)
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"`smallest_crop` is {self.smallest_crop}; give a share above 0, at most 1.")
        if self.batch < 2:
            raise ValueError(f"`batch` is {self.batch}; give 2 or more.")


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw new layers from `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class Unlabeled:
    """A task's images as batches of views, on the device.

    Attributes:
        data: The images.
        rows: Step -> positions.
        config: Says what views are.
    """

    data: TrainingImages
    rows: ShuffledRows
    config: SharedConfig

    def unit(self, positions: np.ndarray) -> torch.Tensor:
        """Images at `positions` after photometric preprocessing, (B, C, H, W) float32 in [0, 1]."""
        return ssl_views.preprocess(self.data.unit(positions), self.config.photometric)

    def two_units(self, positions: np.ndarray, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Both views of the images at `positions`, in [0, 1]."""
        config = self.config
        return ssl_views.two_views(
            self.unit(positions),
            config.augment,
            generator=generator,
            symmetries=config.symmetries,
            smallest_crop=config.smallest_crop,
        )

    def two_inputs(self, positions: np.ndarray, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Both views as the network takes them, (B, 3, H', W') float32."""
        first, second = self.two_units(positions, generator)
        return from_unit(first, self.data.encoder), from_unit(second, self.data.encoder)


def open_unlabeled(task: PretrainTask, config: SharedConfig, *, device: str, seed: int) -> Unlabeled:
    """Open a task's images; they move to a GPU where they fit.

    Raises:
        NotEnoughData: If there are fewer than two.
    """
    images = task.images
    if len(images) < 2:
        raise NotEnoughData(f"There is {len(images)} image to pretrain on; give 2 or more.")
    resident = None
    if device.startswith("cuda") and len(images) * int(np.prod(images.shape)) * images.dtype.itemsize <= RESIDENT_BYTES:
        resident = torch.from_numpy(images.batch(np.arange(len(images)))).to(device)
    data = TrainingImages(images, task.encoder, task.intensity, task.window, device, resident=resident)
    return Unlabeled(data, ShuffledRows(len(images), config.batch, seed=derive_seed(seed, "order")), config)


def loop_settings(config: SharedConfig, *, pretrained: bool) -> LoopSettings:
    """Settle what depends on the optimizer and on where the weights come from."""
    default = DEFAULT_LR[config.optimizer] * (PRETRAINED_FACTOR if pretrained else 1.0)
    if config.optimizer == "sgd":
        default *= config.batch / 256
    return LoopSettings(
        steps=config.steps,
        lr=config.lr if config.lr is not None else default,
        optimizer=config.optimizer,
        weight_decay=DEFAULT_DECAY[config.optimizer] if config.weight_decay is None else config.weight_decay,
        schedule=config.schedule,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        precision=config.precision,
        evaluate_every=max(1, math.ceil(config.steps / LOOKS)),
        patience=None,
    )


def train_encoder(
    network: nn.Module,
    step_loss: StepLoss,
    *,
    task: PretrainTask,
    unlabeled: Unlabeled,
    seed: int,
    runtime: Runtime,
    parts: Sequence[tuple[nn.Module, float]] | None = None,
    updates: int = 1,
) -> Pretrained:
    """Train a network whose `backbone` is the task's encoder, watch its features, keep the encoder.

    Args:
        network: Has the encoder's network as `backbone`; heads beside it are not kept.
        step_loss: As in `training.loop.train`.
        task: Of the pretrainer.
        unlabeled: Its images, which the monitor looks at too.
        seed: Of all randomness.
        runtime: Where to train and to keep checkpoints.
        parts: As in `training.loop.train`.
        updates: Updates for each of `config.steps`, where a technique makes several of one batch.

    Returns:
        The result, its weights on the CPU. A collapsed training ends early; its last weights are kept, and the notes
        say `collapsed`.
    """
    config = unlabeled.config
    settings = loop_settings(config, pretrained=task.encoder.pretrained)
    settings = replace(settings, steps=settings.steps * updates, evaluate_every=settings.evaluate_every * updates)
    count = len(task.images)
    order = np.random.default_rng(derive_seed(seed, "looked at")).permutation(count)[:LOOKED_AT]

    def look(model: nn.Module, step: int) -> Looked:
        generator = step_generator(seed, "look", 0, device=runtime.device)  # the same views at every look
        found: tuple[list[torch.Tensor], list[torch.Tensor]] = [], []
        for start in range(0, len(order), BATCH):
            views = unlabeled.two_inputs(order[start : start + BATCH], generator)
            for kept, view in zip(found, views, strict=True):
                kept.append(model.backbone(view))  # type: ignore[operator]
        figures = embedding_figures(torch.cat(found[0]), torch.cat(found[1]))
        return Looked(figures=figures, useless=collapsed(figures) if step >= SETTLED * settings.steps else None)

    trained = train(
        network,
        step_loss,
        settings=settings,
        seed=seed,
        device=runtime.device,
        folder=runtime.folder,
        parts=parts,
        look=look,
        say=runtime.say,
    )
    network.cpu()
    notes: dict[str, Any] = {
        "images": count,
        "batch": min(config.batch, count),
        "steps_planned": settings.steps,
        "steps": trained.steps,
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "precision": trained.precision,
        "collapsed": trained.collapsed,
        "monitor": {name: values[-1][1] for name, values in trained.curves.items() if name != "train_loss"},
    }
    state = {name: value.detach().contiguous() for name, value in network.backbone.state_dict().items()}  # type: ignore[union-attr]
    return Pretrained(encoder=task.encoder, state=state, notes=notes, curves=trained.curves)
