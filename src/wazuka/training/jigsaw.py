"""Jigsaw puzzles of a batch: images cut into a grid of tiles, each image's tiles in an order of its own.

Park & Ryu (2024), fine-grained self-supervised learning with jigsaw puzzles (arXiv:2308.05770): the puzzle's grain sets
how much of an image's layout survives. Tiles have side // grid pixels a side; what is left over at the right and at the
bottom stays where it is. All images are cut in one indexed copy of rows of pixels.
"""

from __future__ import annotations

import torch

from wazuka.core.errors import ConfigError


def draw_permutations(batch: int, grid: int, generator: torch.Generator) -> torch.Tensor:
    """Draw an order of the tiles for every image, (batch, grid * grid) int64 on the generator's device.

    Args:
        batch: Images.
        grid: Tiles along a side.
        generator: All randomness; each order is uniform over all orders.
    """
    numbers = torch.rand(batch, grid * grid, generator=generator, device=generator.device, dtype=torch.float64)
    return numbers.argsort(dim=1)  # float64: ties would favor some orders


def shuffle(images: torch.Tensor, grid: int, permutations: torch.Tensor) -> torch.Tensor:
    """Put tile `permutations[b, t]` of image b where its tile t was; tiles are counted row by row.

    Args:
        images: (B, C, H, W), any type; contiguous or channels_last, and so is the result.
        grid: Tiles along a side, from 1 (nothing changes) to the shorter side (tiles of one pixel a row or column).
        permutations: (B, grid * grid) int64, each row an order of the tiles, on the images' device.

    Returns:
        New images of the same shape; differentiable with respect to `images`.

    Raises:
        ConfigError: If the grid does not suit the images or the permutations.
    """
    height, width = images.shape[-2:]
    if not 1 <= grid <= min(height, width):
        raise ConfigError(
            f"A jigsaw of {grid} x {grid} tiles cannot be cut from {height} x {width} pixels; use 1 to {min(height, width)}."
        )
    if tuple(permutations.shape) != (len(images), grid * grid):
        raise ConfigError(
            f"`permutations` has shape {tuple(permutations.shape)}; a grid of {grid} and {len(images)} images need "
            f"{(len(images), grid * grid)}."
        )
    # A row of a tile is one run of numbers in memory in both layouts: (B, C, H, W, 1) or (B, 1, H, W, C).
    last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
    planes = images.permute(0, 2, 3, 1)[:, None] if last else images[..., None]
    tile_height, tile_width = height // grid, width // grid
    inner = planes[:, :, : grid * tile_height, : grid * tile_width]
    index = _rows(permutations, grid, tile_height, inner.shape[1])
    moved = inner.reshape(-1, tile_width * inner.shape[-1]).index_select(0, index).view(inner.shape)
    if inner.shape != planes.shape:
        whole = planes.clone()
        whole[:, :, : grid * tile_height, : grid * tile_width] = moved
        moved = whole
    return moved[:, 0].permute(0, 3, 1, 2) if last else moved[..., 0]


def unshuffle(images: torch.Tensor, grid: int, permutations: torch.Tensor) -> torch.Tensor:
    """Undo `shuffle` with the same `grid` and `permutations`; arguments and errors are the same."""
    return shuffle(images, grid, permutations.argsort(dim=1))


def _rows(permutations: torch.Tensor, grid: int, tile_height: int, planes: int) -> torch.Tensor:
    """Where each row of a tile comes from, flat, in the order (image, plane, tile row, row in the tile, tile column)."""
    device, batch = permutations.device, len(permutations)
    first = permutations // grid * (tile_height * grid) + permutations % grid  # the tile's first row within a plane
    below = torch.arange(tile_height, device=device) * grid
    within = first.view(batch, 1, grid, 1, grid) + below.view(1, 1, 1, tile_height, 1)
    start = torch.arange(batch * planes, device=device) * (grid * tile_height * grid)
    return (within + start.view(batch, planes, 1, 1, 1)).flatten()
