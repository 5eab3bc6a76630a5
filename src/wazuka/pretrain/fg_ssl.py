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
from typing import Literal, get_args

import torch
from torch import nn

from wazuka.core.errors import ConfigError
from wazuka.core.hashing import derive_seed
from wazuka.core.records import read_json, write_json
from wazuka.nn.encoders import Encoder
from wazuka.nn.hierarchy import JOINED, PRESETS, Hierarchy
from wazuka.nn.taps import LEVELS, Taps
from wazuka.nn.weights import write_state
from wazuka.training import seeding, ssl_views
from wazuka.training.batches import require_range
from wazuka.training.correlation_losses import (
    Weighting,
    correlation_loss,
    cross_correlation,
    with_cached_embeddings,
)
from wazuka.training.jigsaw import draw_permutations, shuffle
from wazuka.training.roles import Pretrained, Pretrainer, PretrainTask, Runtime
from wazuka.training.self_supervised import SharedConfig, drawn_from, open_unlabeled, train_encoder

Grain = Literal["32-16-8", "16-8-4", "8-4-2"]
GRAINS: dict[Grain, tuple[int, int, int]] = {"32-16-8": (32, 16, 8), "16-8-4": (16, 8, 4), "8-4-2": (8, 4, 2)}
"""Tiles along a side of the three puzzles, finest first; the paper's: (16, 8, 4) for ISIC, (32, 16, 8) for APTOS."""
LEAST_TILE = 2
"""Pixels along a side that a tile has at least."""
HEADS = "heads.safetensors"
"""Blocks and heads, for progressive tuning."""
TRIAL_SHARE = 0.05
"""Steps of a short training of each grain for `auto`, as a share of all steps."""
PASSES = 4.3
"""Images that pass through the network for each image of a batch: two views, and puzzles that stop at their level."""


@dataclass(frozen=True, kw_only=True)
class Config(SharedConfig):
    """Settings of `fg-ssl`; `lr` is that of the new blocks."""

    micro_batch: int | None = None
    """Images that are in memory at once; the correlation is still that of the whole batch. Batch norm in the network sees
    the part."""
    grain: Literal["32-16-8", "16-8-4", "8-4-2", "auto"] = "16-8-4"
    """Tiles along a side of the three puzzles, finest first; auto: of those that fit the images the one whose short
    training leaves the features with the highest effective rank."""
    levels: Literal[1, 2, 3] = 3
    """Levels with a puzzle, from the deepest (coarsest) on."""
    updates: Literal["joint", "sequential"] = "joint"
    """joint: one update by the sum of the losses; sequential: one for each in turn, from the finest puzzle to the whole
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
    backbone_lr_factor: float = 0.1
    """The backbone's learning rate relative to that of the new blocks, from pretrained weights (the paper's)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range({name: getattr(self, name) for name in ("micro_batch", "dim", "backbone_lr_factor")}, above=0)
        require_range({name: getattr(self, name) for name in ("off_diagonal", "joined_weight")})
        if self.micro_batch == 1:
            raise ValueError("`micro_batch` is 1; batch norm needs 2 images or more.")


@dataclass
class Puzzles:
    """What a step sees of some images of its batch. Not frozen: Fabric rebuilds what it hands to a network.

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

    @property
    def backbone(self) -> nn.Module:
        """The encoder's network."""
        return self.taps.network

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
    side = task.encoder.input_size if task.encoder.fixed_size else min(task.images.shape[:2])
    tried: dict[str, dict[str, float]] = {}
    if config.grain == "auto":
        chosen, tried = _choose_grain(task, config, runtime, side)
    else:
        chosen = config.grain
        check_grain(GRAINS[chosen], side)
    network, result = _train(task, replace(config, grain=chosen), runtime)
    for name in tried:
        shutil.rmtree(_trial_folder(runtime, name))
    heads = {f"hierarchy.{name}": one.cpu().contiguous() for name, one in network.hierarchy.state_dict().items()}
    write_state(runtime.folder / HEADS, heads)
    new = sum(one.numel() for one in network.hierarchy.parameters())
    own = {"grain": chosen, "tried_grains": tried, "updates": config.updates, "new_params": new}
    return replace(result, notes=result.notes | own)


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


def _losses(config: Config) -> tuple[int, ...]:
    """Numbers of the losses in the order of training, finest puzzle first."""
    return (*range(LEVELS + 1 - config.levels, LEVELS + 1), JOINED)


def _train(task: PretrainTask, config: Config, runtime: Runtime) -> tuple[PuzzleNetwork, Pretrained]:
    """Train a new network on the task's images with a settled grain."""
    assert config.grain != "auto"
    device, encoder, losses = runtime.device, task.encoder, _losses(config)
    seed = derive_seed(task.seed, "fg-ssl", config.seed)
    unlabeled = open_unlabeled(task, config, device=device, seed=seed)
    network = build_network(encoder, config, seed=seed)
    joint = config.updates == "joint"

    def draw(step: int) -> Puzzles:
        """The batch of a step, from (seed, step) alone: updates in turn see the same one."""
        generator = seeding.step_generator(seed, "views", step, device=device)
        first, second = unlabeled.two_inputs(unlabeled.rows(step), generator)
        puzzles = [one for one in losses if one != JOINED]
        orders = {level: draw_permutations(len(first), network.grain[level - 1], generator) for level in puzzles}
        return Puzzles(first, second, orders)

    def step_loss(model: nn.Module, step: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        which = losses if joint else (losses[step % len(losses)],)
        batch = draw(step if joint else step // len(losses))
        weights = [config.joined_weight if one == JOINED else 1.0 for one in which]

        def loss(*embeddings: torch.Tensor) -> torch.Tensor:
            pairs = zip(embeddings[::2], embeddings[1::2], weights, strict=True)
            return torch.stack([weight * _correlation_loss(a, b, config) for a, b, weight in pairs]).sum()

        parts = batch.split(config.micro_batch or len(batch.first))
        if len(parts) > 1 and len(parts[-1].first) == 1:
            parts.pop()  # batch norm needs two
        return with_cached_embeddings(model, lambda part: model(part, which), parts, loss)

    factor = config.backbone_lr_factor if encoder.pretrained else 1.0
    result = train_encoder(
        network,
        step_loss,
        task=task,
        unlabeled=unlabeled,
        seed=seed,
        runtime=runtime,
        parts=[(network.taps, factor), (network.hierarchy, 1.0)],
        updates=1 if joint else len(losses),
    )
    return network, result


def build_network(encoder: Encoder, config: Config, *, seed: int) -> PuzzleNetwork:
    """The encoder's network with freshly drawn blocks and heads; `config.grain` is settled.

    Raises:
        ConfigError: If it gives no maps of three depths.
    """
    taps = Taps(encoder.build(), name=encoder.name)
    with drawn_from(derive_seed(seed, "weights")):
        hierarchy = Hierarchy(taps.channels, dim=config.dim, **PRESETS[config.hierarchy])
    return PuzzleNetwork(taps, hierarchy, GRAINS[config.grain])  # type: ignore[index]


def _correlation_loss(first: torch.Tensor, second: torch.Tensor, config: Config) -> torch.Tensor:
    return correlation_loss(
        cross_correlation(first, second), weighting=config.weighting, off_diagonal=config.off_diagonal
    )


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
            settled = replace(config, grain=name, steps=max(2, round(TRIAL_SHARE * config.steps)))
            runtime.say(f"Trying grain {name} for {settled.steps} steps.")
            _, result = _train(task, settled, replace(runtime, folder=folder))
            write_json(kept, result.notes["monitor"])
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
        "paper": {
            "steps": 40000,
            "batch": 200,
            "updates": "sequential",
            "weighting": "equal",
            "optimizer": "sgd",
            "lr": 0.002,
            "weight_decay": 0.0005,
            "warmup": 0.0,
        },
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
