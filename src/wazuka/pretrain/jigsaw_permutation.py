"""Jigsaw puzzles as a classification: in which of K fixed permutations do the tiles of an image come?

Noroozi & Favaro (2016), Unsupervised learning of visual representations by solving jigsaw puzzles, arXiv:1603.09246:
the context-free network (section 3.1), far apart permutations (algorithm 1), and what keeps it from shortcuts (section
4.2): a random gap between tiles, each tile standardized by itself, and grayscale images among the others.
What we changed: any encoder in place of AlexNet; permutations are chosen by the least distance to those chosen before
(the sum of distances, algorithm 1, breaks ties); batch norm gets the statistics of whole images at the end, as an encoder is
used on them.
Study file: `pretrain: {method: jigsaw-permutation, steps: 2000}`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.errors import DataError
from wazuka.core.hashing import derive_seed
from wazuka.nn.batchnorm import batchnorm_layers, with_statistics_of
from wazuka.nn.encoders import Encoder
from wazuka.nn.normalize import from_unit
from wazuka.training.batches import require_range
from wazuka.training.roles import Pretrained, Pretrainer, PretrainTask, Runtime
from wazuka.training.self_supervised import SharedConfig, Unlabeled, drawn_from, open_unlabeled, train_encoder

TILE_SHARE = 64 / 75
"""Side of a tile relative to its cell: the rest is the room in which it is placed at random (section 3.1)."""
LEAST_CELL = 4
"""Pixels a side of the smallest cell; our choice."""
FLAT = 1e-3
"""Least standard deviation that a tile is divided by."""
STATISTICS_IMAGES = 2048
"""Images whose statistics batch norm gets at the end, at most."""


@dataclass(frozen=True, kw_only=True)
class Config(SharedConfig):
    """Settings of `jigsaw-permutation`."""

    grid: Literal[2, 3] = 3
    """Tiles a side."""
    permutations: int = 100
    """Classes: permutations to tell apart; at most 24 for a grid of 2. The paper has 1,000."""
    hidden: int = 1024
    """Width of the classifier's hidden layer (4,096 in the paper, with AlexNet)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range({"hidden": self.hidden}, above=0)
        most = math.factorial(self.grid**2)
        if not 2 <= self.permutations <= most:
            raise ValueError(f"`permutations` is {self.permutations}; give 2 to {most:,} for a grid of {self.grid}.")


@lru_cache(maxsize=8)
def distant_permutations(count: int, tiles: int, *, seed: int) -> np.ndarray:
    """Choose permutations far apart, greedily: (count, tiles) int64.

    The first is drawn; each next one has the largest least Hamming distance to those before, then the largest sum of
    distances, then the first place in lexicographic order.
    """
    every = np.array(list(itertools.permutations(range(tiles))), np.int8)
    chosen = [int(np.random.default_rng(seed).integers(len(every)))]
    least, total = np.full(len(every), tiles, np.int64), np.zeros(len(every), np.int64)
    while True:
        distance = (every != every[chosen[-1]]).sum(axis=1)
        least, total = np.minimum(least, distance), total + distance
        if len(chosen) == count:
            return every[chosen].astype(np.int64)
        chosen.append(int(np.argmax(least * (count * tiles + 1) + total)))


def cut_tiles(images: torch.Tensor, grid: int, *, generator: torch.Generator) -> torch.Tensor:
    """Cut a tile at a random place out of each cell of a grid, and standardize each channel of each tile.

    Args:
        images: (B, C, H, W) float.
        grid: Cells a side; the leftover border (right, bottom) is in none.
        generator: On the images' device.

    Returns:
        (B, grid * grid, C, h, w), row by row.

    Raises:
        DataError: If cells are smaller than `LEAST_CELL` pixels.
    """
    count, _, height, width = images.shape
    cells = height // grid, width // grid
    if min(cells) < LEAST_CELL:
        raise DataError(
            f"Images of {height} x {width} pixels are too small for a {grid} x {grid} puzzle; give {LEAST_CELL * grid} "
            "a side or more."
        )
    device, tiles = images.device, grid * grid
    place = torch.arange(tiles, device=device)
    at = []
    for cell, number in zip(cells, (place // grid, place % grid), strict=True):
        side = max(1, round(cell * TILE_SHARE))
        gap = torch.randint(0, cell - side + 1, (count, tiles), generator=generator, device=device)
        at.append((number * cell + gap)[..., None] + torch.arange(side, device=device))  # (B, tiles, side)
    rows, columns = at[0][..., :, None], at[1][..., None, :]
    sample = torch.arange(count, device=device)[:, None, None, None]
    cut = images[sample, :, rows, columns].permute(0, 1, 4, 2, 3)  # (B, tiles, C, h, w)
    deviation, mean = torch.std_mean(cut, dim=(3, 4), keepdim=True)
    return (cut - mean) / deviation.clamp(min=FLAT)


class Puzzle(nn.Module):
    """The context-free network: each tile is seen alone, then all features together in the order of the tiles.

    Args:
        backbone: (B, 3, h, w) -> features (B, dim).
        features: dim.
        tiles: Tiles of an image.
        hidden: Width of the hidden layer.
        classes: Permutations.
    """

    def __init__(self, backbone: nn.Module, features: int, *, tiles: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.Linear(tiles * features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, classes),
        )

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tiles of B images (B, T, 3, h, w) -> logits (B, classes)."""
        return self.head(self.backbone(tiles.flatten(0, 1)).view(len(tiles), -1))


def fit(task: PretrainTask, *, config: Config, runtime: Runtime) -> Pretrained:
    """Pretrain the task's encoder on puzzles of its images."""
    seed = derive_seed(task.seed, "jigsaw-permutation", config.seed)
    tiles = config.grid**2
    chosen = distant_permutations(config.permutations, tiles, seed=derive_seed(seed, "permutations"))
    permutations = torch.from_numpy(chosen).to(runtime.device)
    with drawn_from(derive_seed(seed, "heads")):
        network = Puzzle(
            task.encoder.build(), task.encoder.feature_dim, tiles=tiles, hidden=config.hidden, classes=len(chosen)
        )
    unlabeled = open_unlabeled(task, config, device=runtime.device, seed=seed)

    def step_loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        images, _ = unlabeled.two_units(unlabeled.rows(step), generator)
        cut = cut_tiles(images, config.grid, generator=generator)
        label = torch.randint(len(permutations), (len(cut),), generator=generator, device=cut.device)
        order = permutations[label]
        shuffled = cut[torch.arange(len(cut), device=cut.device)[:, None], order]
        return functional.cross_entropy(model(tile_inputs(shuffled, task.encoder)), label)

    result = train_encoder(network, step_loss, task=task, unlabeled=unlabeled, seed=seed, runtime=runtime)
    state = _on_whole_images(network.backbone, unlabeled, batch=config.batch, seed=seed, device=runtime.device)
    return dataclasses.replace(result, state=state, notes=result.notes | {"permutations": len(chosen)})


def tile_inputs(tiles: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    """Standardized tiles (B, T, C, h, w) as an encoder takes them: three channels, its size where that is fixed."""
    count, number = tiles.shape[:2]
    inputs = tiles.flatten(0, 1).expand(-1, 3, -1, -1)
    if encoder.fixed_size:
        size = (encoder.input_size, encoder.input_size)
        inputs = functional.interpolate(inputs, size, mode="bilinear", align_corners=False, antialias=True)
    return inputs.unflatten(0, (count, number))


def _on_whole_images(
    backbone: nn.Module, unlabeled: Unlabeled, *, batch: int, seed: int, device: str
) -> dict[str, torch.Tensor]:
    """The backbone's weights, with batch norm's statistics of whole images in place of those of tiles."""
    if not batchnorm_layers(backbone):
        return {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}
    count = len(unlabeled.data.images)
    rows = np.random.default_rng(derive_seed(seed, "statistics")).permutation(count)[:STATISTICS_IMAGES]
    size = max(2, min(batch, count))

    def inputs() -> Iterator[torch.Tensor]:
        for start in range(0, len(rows), size):
            yield from_unit(unlabeled.unit(rows[start : start + size]), unlabeled.data.encoder)

    adapted = with_statistics_of(backbone.to(device), inputs())
    return {name: value.detach().cpu().contiguous() for name, value in adapted.state_dict().items()}


def images_trained(config: Config, images: int) -> int:
    """The tiles of an image are together about as large as the image."""
    return config.steps * min(config.batch, images)


METHOD = Pretrainer(
    name="jigsaw-permutation",
    config=Config,
    summary="tiles of an image, each seen alone: in which of some fixed permutations do they come?",
    code_version=1,
    fit=fit,
    presets={
        "smoke": {"steps": 4, "batch": 8, "permutations": 8, "hidden": 32},
        "quick": {"steps": 500},
        "standard": {"steps": 2000},
        "paper": {"steps": 350_000, "batch": 256, "permutations": 1000, "hidden": 4096, "optimizer": "sgd", "lr": 0.01},
    },
    cites=(
        "Noroozi & Favaro (2016). Unsupervised learning of visual representations by solving jigsaw puzzles. ECCV. "
        "arXiv:1603.09246.",
    ),
    images_trained=images_trained,
)
