"""FG-SSL: learn from jigsaw puzzles of images, from fine to coarse, each at its own depth of one network.

Park & Ryu (2024), Fine-grained self-supervised learning with jigsaw puzzles for medical image classification (Computers
in Biology and Medicine; arXiv:2308.05770). A batch is seen in two views. The first is cut into tiles that are shuffled,
three times: the finest puzzle is embedded from the shallowest of three depths, the coarsest from the deepest, the whole
image from all three. The cross-correlation of each embedding with that of the second, distorted view, at the same depth
of the same network, is brought to the identity. No negatives, no second network, no asymmetry.

Network: `nn.taps`, `nn.hierarchy`; puzzles: `training.jigsaw`; loss: `training.correlation_losses`; views:
`training.ssl_views`. The released code computes embeddings 2 and 3 from level 1; here each reads its own.
Study file: `pretrain: {method: fg-ssl, steps: 2000}`; `wazuka pretrain fg-ssl DATASET --out FOLDER`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.core.hashing import derive_seed
from wazuka.core.records import read_json, write_json
from wazuka.data.augment import Symmetries
from wazuka.nn.encoders import Encoder
from wazuka.nn.hierarchy import JOINED, PRESETS, Hierarchy
from wazuka.nn.normalize import from_unit
from wazuka.nn.taps import LEVELS, Taps
from wazuka.nn.weights import write_state
from wazuka.training import seeding, ssl_views
from wazuka.training.batches import RESIDENT_BYTES, TrainingImages, require_range
from wazuka.training.correlation_losses import (
    Weighting,
    correlation_loss,
    cross_correlation,
    with_cached_embeddings,
)
from wazuka.training.embedding_monitor import collapsed, embedding_figures
from wazuka.training.jigsaw import draw_permutations, shuffle
from wazuka.training.loop import Looked, LoopSettings, Precision, Trained, train
from wazuka.training.optim import OptimizerName, Schedule
from wazuka.training.roles import Pretrained, Pretrainer, PretrainTask, Runtime
from wazuka.training.sampling import ShuffledRows

Grain = Literal["32-16-8", "16-8-4", "8-4-2"]
GRAINS: dict[Grain, tuple[int, int, int]] = {"32-16-8": (32, 16, 8), "16-8-4": (16, 8, 4), "8-4-2": (8, 4, 2)}
"""Tiles along a side of the three puzzles, finest first; the paper's: (16, 8, 4) for ISIC, (32, 16, 8) for APTOS."""
LEAST_TILE = 2
"""Pixels along a side that a tile has at least."""
HEADS = "heads.safetensors"
"""Blocks and heads, for progressive tuning."""
WATCHED = 256
"""Training images whose embeddings the monitors measure."""
LOOKS = 20
TRIAL_SHARE = 0.05
"""Steps of a short training of each grain for `auto`, as a share of all steps."""
PASSES = 4.3
"""Images that pass through the network for each image of a batch: two views, and puzzles that stop at their level."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `fg-ssl`."""

    steps: int = 2000
    """Batches seen."""
    batch: int = 128
    """Images a step (fewer where there are fewer)."""
    micro_batch: int | None = None
    """Images that are in memory at once; the correlation is still that of the whole batch. Batch norm in the network sees
    the part."""
    grain: Literal["32-16-8", "16-8-4", "8-4-2", "auto"] = "16-8-4"
    """Tiles along a side of the three puzzles, finest first; auto: of those that fit the images the one whose short
    training leaves the features with the highest effective rank."""
    levels: Literal[1, 2, 3] = 3
    """Levels with a puzzle, from the deepest (coarsest) on."""
    updates: Literal["joint", "sequential"] = "joint"
    """joint: one update by the sum of the four losses; sequential: four in turn, from the finest puzzle to the whole
    image, as released."""
    hierarchy: Literal["full", "light"] = "full"
    """full: blocks of the paper; light: half the channels on maps of at most 14 x 14."""
    dim: int = 512
    """Length of an embedding."""
    weighting: Weighting = "barlow"
    """barlow: off-diagonal entries weigh `off_diagonal`; equal: all entries alike, as released."""
    off_diagonal: float = 0.005
    """Weight of the off-diagonal entries of the cross-correlation."""
    joined_weight: float = 2.0
    """Weight of the whole image's loss; each puzzle has 1."""
    augment: ssl_views.Strength = "light"
    """light (the paper's views) or strong (BYOL's)."""
    symmetries: Symmetries = "mirror"
    """What a flip may do: mirror, all (also turns and upside down: images without a top), none."""
    photometric: Literal["none", "border-crop", "illumination", "gray-world"] = "none"
    """Preprocessing: crop a black border (fundus), even out the illumination, gray-world colors (skin)."""
    optimizer: OptimizerName = "sgd"
    """sgd (momentum 0.9) or adamw."""
    lr: float = 0.002
    """Highest learning rate, of the new blocks; of all layers where the backbone starts from scratch."""
    backbone_lr_factor: float = 0.1
    """The backbone's learning rate relative to it, from pretrained weights."""
    weight_decay: float = 0.0005
    """Decay of matrices and kernels."""
    schedule: Schedule = "cosine"
    """cosine, one-cycle or constant."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises."""
    clip_norm: float | None = None
    """Highest norm of the gradient; none is clipped by default."""
    precision: Precision = "auto"
    """auto (bfloat16 where a GPU has it), fp32 or bf16."""
    seed: int = 0
    """Changes the draws of this method, beside the study's seed."""

    def __post_init__(self) -> None:
        names = ("steps", "batch", "micro_batch", "dim", "lr", "backbone_lr_factor", "clip_norm")
        require_range({name: getattr(self, name) for name in names}, above=0)
        require_range({name: getattr(self, name) for name in ("off_diagonal", "joined_weight", "weight_decay")})
        require_range({"warmup": self.warmup}, below=1)
        if self.batch < 2 or self.micro_batch == 1:
            raise ValueError("`batch` or `micro_batch` is 1; a correlation over a batch needs 2 or more.")


@dataclass(frozen=True)
class Puzzles:
    """What a step sees of some images of its batch.

    Attributes:
        first: The view that puzzles are made of, normalized (b, 3, H, W).
        second: The distorted view, likewise.
        orders: Order of the tiles for each level in use: level -> (b, tiles).
    """

    first: torch.Tensor
    second: torch.Tensor
    orders: dict[int, torch.Tensor]

    def split(self, size: int) -> list[Puzzles]:
        """Parts of at most `size` images."""
        starts = range(0, len(self.first), size)
        return [
            Puzzles(
                self.first[start : start + size],
                self.second[start : start + size],
                {level: one[start : start + size] for level, one in self.orders.items()},
            )
            for start in starts
        ]


class PuzzleNetwork(nn.Module):
    """A backbone read at three depths, with blocks and heads on them."""

    def __init__(self, taps: Taps, hierarchy: Hierarchy, grain: tuple[int, int, int]) -> None:
        super().__init__()
        self.taps, self.hierarchy, self.grain = taps, hierarchy, grain

    def forward(self, batch: Puzzles, which: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """Embeddings (b, dim) of the losses `which` (1 to 3: puzzles, 4: the whole image), each of both views in turn.

        The distorted view is encoded once, no deeper than needed; a puzzle stops at its level.
        """
        result = []
        maps = self.taps(batch.second, upto=LEVELS if JOINED in which else max(which))
        distorted = self.hierarchy(maps) if JOINED in which else ()
        for number in which:
            if number == JOINED:
                result += [self.hierarchy.forward_joined(self.taps(batch.first)), distorted[JOINED - 1]]
                continue
            puzzle = shuffle(batch.first, self.grain[number - 1], batch.orders[number])
            ours = self.hierarchy.forward_level(number, self.taps(puzzle, upto=number)[-1])
            theirs = distorted[number - 1] if distorted else self.hierarchy.forward_level(number, maps[number - 1])
            result += [ours, theirs]
        return tuple(result)


def fit(task: PretrainTask, *, config: Config, runtime: Runtime) -> Pretrained:
    """Pretrain one encoder.

    Raises:
        ConfigError: If the backbone gives no maps of three depths, or the grain is too fine for the images.
        NotEnoughData: If there is one image only.
    """
    if len(task.images) < 2:
        raise NotEnoughData(f"{len(task.images)} image to pretrain on; a correlation over images needs 2 or more.")
    side = _side(task)
    tried: dict[str, Any] = {}
    if config.grain == "auto":
        chosen, tried = _choose_grain(task, config, runtime, side)
    else:
        chosen = config.grain
        check_grain(GRAINS[chosen], side)
    network, trained = _train(task, replace(config, grain=chosen), runtime, runtime.folder, steps=config.steps)
    for name in tried:
        shutil.rmtree(_trial_folder(runtime, name))
    heads = {f"hierarchy.{name}": one.cpu().contiguous() for name, one in network.hierarchy.state_dict().items()}
    write_state(runtime.folder / HEADS, heads)
    notes = {
        "images": len(task.images),
        "grain": chosen,
        "tried_grains": tried,
        "batch": min(config.batch, len(task.images)),
        "steps": trained.steps // _updates(config),
        "updates": trained.steps,
        "collapsed": trained.collapsed,
        "precision": trained.precision,
        "new_params": sum(one.numel() for one in network.hierarchy.parameters()),
    }
    state = {name: one.detach().cpu().contiguous() for name, one in network.taps.network.state_dict().items()}
    return Pretrained(encoder=task.encoder, state=state, notes=notes, curves=trained.curves)


def check_grain(grain: tuple[int, int, int], side: int) -> None:
    """Refuse puzzles whose tiles are too small.

    Raises:
        ConfigError: With the grains that fit.
    """
    if side // grain[0] < LEAST_TILE:
        fitting = [name for name, one in GRAINS.items() if side // one[0] >= LEAST_TILE]
        raise ConfigError(
            f"`grain` cuts images of {side} pixels into {grain[0]} x {grain[0]} tiles of {side // grain[0]} pixels; use "
            f"{' or '.join(fitting) or 'larger images'}."
        )


def _side(task: PretrainTask) -> int:
    """Shorter side of the network's input."""
    return task.encoder.input_size if task.encoder.fixed_size else min(task.images.shape[:2])


def _updates(config: Config) -> int:
    return 1 if config.updates == "joint" else len(_losses(config))


def _losses(config: Config) -> tuple[int, ...]:
    """Numbers of the losses in the order of training, finest puzzle first."""
    return (*range(LEVELS + 1 - config.levels, LEVELS + 1), JOINED)


def _train(
    task: PretrainTask, config: Config, runtime: Runtime, folder: Path, *, steps: int
) -> tuple[PuzzleNetwork, Trained]:
    """Train a new network on the task's images with a settled grain."""
    assert config.grain != "auto"
    device, encoder, losses = runtime.device, task.encoder, _losses(config)
    seed = derive_seed(task.seed, "fg-ssl", config.seed)
    images = open_unlabeled(task, device=device)
    rows = ShuffledRows(len(task.images), config.batch, seed=derive_seed(seed, "order"))
    network = build_network(encoder, config, seed=seed)

    def draw(step: int) -> Puzzles:
        """The batch of a step, from (seed, step) alone: four updates in turn see the same one."""
        generator = seeding.step_generator(seed, "views", step, device=device)
        unit = preprocess(images.unit(rows(step)), config.photometric)
        views = ssl_views.two_views(unit, config.augment, generator=generator, symmetries=config.symmetries)
        orders = {
            level: draw_permutations(len(unit), network.grain[level - 1], generator)
            for level in losses
            if level != JOINED
        }
        first, second = (from_unit(one, encoder) for one in views)
        return Puzzles(first, second, orders)

    def step_loss(model: nn.Module, step: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        joint = config.updates == "joint"
        which = losses if joint else (losses[step % len(losses)],)
        batch = draw(step if joint else step // len(losses))
        weights = [config.joined_weight if one == JOINED else 1.0 for one in which]

        def loss(*embeddings: torch.Tensor) -> torch.Tensor:
            pairs = zip(embeddings[::2], embeddings[1::2], weights, strict=True)
            parts = [weight * _correlation_loss(a, b, config) for a, b, weight in pairs]
            return torch.stack(parts).sum()

        parts = batch.split(config.micro_batch or len(batch.first))
        if len(parts) > 1 and len(parts[-1].first) == 1:
            parts.pop()  # batch norm needs two
        return with_cached_embeddings(model, lambda part: model(part, which), parts, loss)

    updates = _updates(config)
    settings = LoopSettings(
        steps=steps * updates,
        lr=config.lr,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        precision=config.precision,
        evaluate_every=max(1, -(-steps // LOOKS)) * updates,
        patience=None,
    )
    factor = config.backbone_lr_factor if encoder.pretrained else 1.0
    trained = train(
        network,
        step_loss,
        settings=settings,
        seed=seed,
        device=device,
        folder=folder,
        parts=[(network.taps, factor), (network.hierarchy, 1.0)],
        look=_watch(images, config, seed=seed, device=device),
        say=runtime.say,
    )
    return network.cpu(), trained


def build_network(encoder: Encoder, config: Config, *, seed: int) -> PuzzleNetwork:
    """The encoder's network with freshly drawn blocks and heads; `config.grain` is settled.

    Raises:
        ConfigError: If it gives no maps of three depths.
    """
    taps = Taps(encoder.build(), name=encoder.name)
    with seeding.own_randomness("cpu"):
        torch.manual_seed(derive_seed(seed, "weights"))
        hierarchy = Hierarchy(taps.channels, dim=config.dim, **PRESETS[config.hierarchy])
    return PuzzleNetwork(taps, hierarchy, GRAINS[config.grain])  # type: ignore[index]


def open_unlabeled(task: PretrainTask, *, device: str) -> TrainingImages:
    """The task's pixels; on a GPU they stay there where they fit."""
    images, resident = task.images, None
    size = len(images) * int(np.prod(images.shape)) * images.dtype.itemsize
    if device.startswith("cuda") and size <= RESIDENT_BYTES:
        resident = torch.from_numpy(images.batch(np.arange(len(images)))).to(device)
    return TrainingImages(images, task.encoder, task.intensity, task.window, device, (), resident)


def preprocess(unit: torch.Tensor, how: str) -> torch.Tensor:
    """Photometric preprocessing of images in [0, 1]."""
    if how == "border-crop":
        return ssl_views.border_crop(unit)
    if how == "illumination":
        return ssl_views.even_illumination(unit)
    return ssl_views.gray_world(unit) if how == "gray-world" else unit


def _correlation_loss(first: torch.Tensor, second: torch.Tensor, config: Config) -> torch.Tensor:
    return correlation_loss(
        cross_correlation(first, second), weighting=config.weighting, off_diagonal=config.off_diagonal
    )


def _watch(images: TrainingImages, config: Config, *, seed: int, device: str) -> Any:
    """Label-free figures of the backbone's features of some training images, always the same ones."""
    rng = np.random.default_rng(derive_seed(seed, "watched"))
    rows = rng.permutation(len(images.images))[:WATCHED]

    def look(model: nn.Module, step: int) -> Looked:
        network: nn.Module = model.taps.network  # type: ignore[assignment, union-attr]
        found: list[list[torch.Tensor]] = [[], []]
        for start in range(0, len(rows), 64):
            generator = seeding.step_generator(seed, "watched views", start, device=device)
            unit = preprocess(images.unit(rows[start : start + 64]), config.photometric)
            views = ssl_views.two_views(unit, config.augment, generator=generator, symmetries=config.symmetries)
            for kept, one in zip(found, views, strict=True):
                kept.append(network(from_unit(one, images.encoder)).float())
        figures = embedding_figures(torch.cat(found[0]), torch.cat(found[1]))
        return Looked(figures=figures, useless=collapsed(figures))

    return look


def _choose_grain(
    task: PretrainTask, config: Config, runtime: Runtime, side: int
) -> tuple[Grain, dict[str, dict[str, float]]]:
    """Train with every grain that fits for a short time and take the one with the highest effective rank of features.

    No label has a part in it. Figures of finished trials are kept beside the checkpoints, so that an interrupted
    pretraining does not repeat them.
    """
    found: dict[str, dict[str, float]] = {}
    fitting: list[Grain] = [name for name in get_args(Grain) if side // GRAINS[name][0] >= LEAST_TILE]
    if not fitting:
        check_grain(GRAINS["8-4-2"], side)
    for name in fitting:
        folder = _trial_folder(runtime, name)
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "figures.json"
        if not kept.is_file():
            settled = replace(config, grain=name)
            steps = max(2, round(TRIAL_SHARE * config.steps))
            runtime.say(f"Trying grain {name} for {steps} steps.")
            _, trained = _train(task, settled, runtime, folder, steps=steps)
            figures = {one: values[-1][1] for one, values in trained.curves.items()}
            write_json(kept, figures)
        found[name] = read_json(kept)
    best = max(fitting, key=lambda name: found[name]["effective_rank"])
    return best, found


def _trial_folder(runtime: Runtime, grain: str) -> Path:
    return runtime.folder / f"checkpoint_grain_{grain}"


def images_trained(config: Config, images: int) -> int:
    """Images that pass through the network forward and backward."""
    return round(config.steps * min(config.batch, images) * PASSES)


METHOD = Pretrainer(
    name="fg-ssl",
    config=Config,
    summary="jigsaw puzzles from fine to coarse at three depths of the network, cross-correlated with a distorted view",
    code_version=1,
    fit=fit,
    presets={
        "smoke": {"steps": 4, "batch": 8, "grain": "8-4-2", "hierarchy": "light", "dim": 16},
        "quick": {"steps": 500, "hierarchy": "light"},
        "standard": {"steps": 2000},
        "paper": {"steps": 40000, "batch": 200, "updates": "sequential", "weighting": "equal"},
    },
    cites=(
        "Park & Ryu (2024). Fine-grained self-supervised learning with jigsaw puzzles for medical image classification. "
        "Computers in Biology and Medicine. arXiv:2308.05770.",
        "Du, Chang, Bhunia, Xie, Ma, Song & Guo (2020). Fine-grained visual classification via progressive "
        "multi-granularity training of jigsaw patches. ECCV. arXiv:2003.03836.",
        "Zbontar, Jing, Misra, LeCun & Deny (2021). Barlow Twins: Self-supervised learning via redundancy reduction. "
        "ICML. arXiv:2103.03230.",
    ),
    images_trained=images_trained,
)
