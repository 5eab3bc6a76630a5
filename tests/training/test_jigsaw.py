"""Jigsaw puzzles against a loop over tiles, and as permutations that can be undone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wazuka.core.errors import ConfigError
from wazuka.training.jigsaw import draw_permutations, shuffle, unshuffle

FORMATS = (torch.contiguous_format, torch.channels_last)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Images in which no value occurs twice."""
    return torch.arange(batch * channels * height * width, dtype=torch.float32).view(batch, channels, height, width)


def by_loop(images: torch.Tensor, grid: int, permutations: torch.Tensor) -> torch.Tensor:
    result = images.clone()
    high, wide = images.shape[-2] // grid, images.shape[-1] // grid
    for b in range(len(images)):
        for tile in range(grid * grid):
            y, x = divmod(tile, grid)
            v, u = divmod(int(permutations[b, tile]), grid)
            result[b, :, y * high : (y + 1) * high, x * wide : (x + 1) * wide] = images[
                b, :, v * high : (v + 1) * high, u * wide : (u + 1) * wide
            ]
    return result


@st.composite
def puzzles(draw: st.DrawFn) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Images of any small size, a grid that suits them, an order per image."""
    batch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 13)), draw(st.integers(1, 13))
    grid = draw(st.integers(1, min(height, width)))
    images = numbered(batch, channels, height, width).contiguous(memory_format=draw(st.sampled_from(FORMATS)))
    return images, grid, draw_permutations(batch, grid, generator(draw(st.integers(0, 2**31))))


@settings(max_examples=60, deadline=None)
@given(puzzles())
def test_a_puzzle_equals_a_loop_over_tiles_and_can_be_undone(
    puzzle: tuple[torch.Tensor, int, torch.Tensor],
) -> None:
    images, grid, permutations = puzzle
    shuffled = shuffle(images, grid, permutations)
    assert torch.equal(shuffled, by_loop(images, grid, permutations))
    assert torch.equal(unshuffle(shuffled, grid, permutations), images)
    assert torch.equal(shuffle(unshuffle(images, grid, permutations), grid, permutations), images)
    # No pixel is lost or doubled, and each stays in its own image and channel.
    assert torch.equal(shuffled.flatten(2).sort(dim=2).values, images.flatten(2).sort(dim=2).values)
    assert shuffled.is_contiguous(memory_format=torch.channels_last) or images.is_contiguous()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 16), st.integers(0, 2**31))
def test_every_tile_appears_once_in_every_drawn_order(batch: int, grid: int, seed: int) -> None:
    permutations = draw_permutations(batch, grid, generator(seed))
    assert permutations.dtype == torch.int64
    expected = torch.arange(grid * grid).expand(batch, -1)
    assert torch.equal(permutations.sort(dim=1).values, expected)
    assert torch.equal(permutations, draw_permutations(batch, grid, generator(seed)))


def test_orders_are_drawn_for_each_sample_and_all_are_equally_likely() -> None:
    permutations = draw_permutations(24_000, 2, generator())
    codes = (permutations * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1].double()
    assert len(counts) == 24
    chi_squared = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi_squared < 49.7  # 99.9 % of chi-squared with 23 degrees of freedom


def test_the_border_that_no_tile_covers_stays() -> None:
    images = numbered(2, 3, 11, 14)
    order = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 0]]).expand(2, -1)
    shuffled = shuffle(images, 3, order)
    assert torch.equal(shuffled[..., 9:, :], images[..., 9:, :])
    assert torch.equal(shuffled[..., 12:], images[..., 12:])
    assert torch.equal(shuffled[..., :3, :4], images[..., :3, 4:8])


def test_gradients_go_back_to_where_the_pixels_came_from() -> None:
    images = numbered(2, 3, 7, 7).requires_grad_()
    permutations = draw_permutations(2, 3, generator())
    weights = torch.rand(2, 3, 7, 7, generator=generator(1))
    (shuffle(images, 3, permutations) * weights).sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, unshuffle(weights, 3, permutations))


def test_grids_that_do_not_suit_the_images_are_refused() -> None:
    images = numbered(2, 1, 8, 6)
    with pytest.raises(ConfigError, match=r"7 x 7 tiles cannot be cut from 8 x 6 pixels; use 1 to 6"):
        shuffle(images, 7, draw_permutations(2, 7, generator()))
    with pytest.raises(ConfigError, match=r"0 x 0 tiles"):
        shuffle(images, 0, draw_permutations(2, 0, generator()))
    with pytest.raises(ConfigError, match=r"shape \(1, 9\).*need \(2, 9\)"):
        shuffle(images, 3, draw_permutations(1, 3, generator()))
