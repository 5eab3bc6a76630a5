"""Jigsaw permutations: how far apart they are, what tiles are, and that a puzzle can be solved."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy_images import as_images, noise, tiny_encoder
from wazuka.core.config import build
from wazuka.core.errors import ConfigError, DataError
from wazuka.nn.batchnorm import batchnorm_layers
from wazuka.pretrain.jigsaw_permutation import METHOD, Puzzle, cut_tiles, distant_permutations, tile_inputs
from wazuka.training.roles import PretrainTask, Runtime


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("count", [2, 7, 24])
def test_permutations_are_those_of_the_written_out_greedy_choice(count: int) -> None:
    found = [tuple(one) for one in distant_permutations(count, 4, seed=3).tolist()]
    every = list(itertools.permutations(range(4)))
    expected = found[:1]
    while len(expected) < count:
        rest = [one for one in every if one not in expected]
        expected.append(
            max(
                rest,
                key=lambda one: (
                    min(distance(one, other) for other in expected),
                    sum(distance(one, other) for other in expected),
                ),
            )
        )
    assert found == expected and len(set(found)) == count


def test_a_hundred_permutations_of_nine_tiles_are_far_apart() -> None:
    found = distant_permutations(100, 9, seed=0)
    assert (np.sort(found, axis=1) == np.arange(9)).all()
    distances = (found[:, None] != found[None]).sum(axis=2)[~np.eye(100, dtype=bool)]
    assert distances.min() >= 6 and distances.mean() > 7.9


def test_every_tile_is_a_standardized_piece_of_its_own_cell() -> None:
    images = torch.rand(3, 2, 33, 46, generator=generator())
    tiles = cut_tiles(images, 3, generator=generator(1))
    assert tiles.shape == (3, 9, 2, 9, 13)  # cells of 11 x 15
    mean, deviation = tiles.mean(dim=(3, 4)), tiles.std(dim=(3, 4))
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=1e-4, rtol=0)
    places = set()
    for image, tile in itertools.product(range(3), range(9)):
        row, column = divmod(tile, 3)
        cell = images[image, :, row * 11 : row * 11 + 11, column * 15 : column * 15 + 15]
        windows = cell.unfold(1, 9, 1).unfold(2, 13, 1).permute(1, 2, 0, 3, 4)  # every place in the cell
        windows = windows - windows.mean(dim=(3, 4), keepdim=True)
        windows = windows / windows.std(dim=(3, 4), keepdim=True)
        error = (windows - tiles[image, tile]).abs().amax(dim=(2, 3, 4))
        assert float(error.min()) < 1e-4
        places.add(int(error.argmin()))
    assert len(places) > 3, "places are drawn anew for every tile"


def test_a_flat_tile_is_zero_and_small_images_are_refused() -> None:
    assert not cut_tiles(torch.full((1, 1, 16, 16), 0.4), 2, generator=generator()).abs().gt(1e-3).any()
    with pytest.raises(DataError, match="Images of 9 x 20 pixels are too small for a 3 x 3 puzzle; give 12 a side"):
        cut_tiles(torch.zeros(1, 3, 9, 20), 3, generator=generator())


def test_the_network_sees_each_tile_alone_and_its_order() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    network = Puzzle(backbone, 5, tiles=4, hidden=8, classes=3).eval()
    tiles = torch.rand(2, 4, 3, 4, 4)
    features = torch.stack([backbone(tiles[:, index]) for index in range(4)], dim=1)
    torch.testing.assert_close(network(tiles), network.head(features.flatten(1)))
    assert not torch.allclose(network(tiles), network(tiles.flip(1)))


def test_tiles_fit_an_encoder_of_one_size() -> None:
    import dataclasses

    tiles = torch.rand(2, 4, 1, 5, 5)
    assert tile_inputs(tiles, dataclasses.replace(tiny_encoder(), fixed_size=False)).shape == (2, 4, 3, 5, 5)
    fixed = dataclasses.replace(tiny_encoder(), fixed_size=True, input_size=8)
    assert tile_inputs(tiles, fixed).shape == (2, 4, 3, 8, 8)


def test_too_many_permutations_are_refused() -> None:
    with pytest.raises(ConfigError, match="`permutations` is 25; give 2 to 24 for a grid of 2"):
        build(METHOD.config, {"grid": 2, "permutations": 25}, where="pretrain")


def test_batch_norm_ends_with_the_statistics_of_whole_images(tmp_path: Path) -> None:
    images = noise(8, size=24)
    task = PretrainTask(name="x", images=as_images(images, tmp_path), encoder=tiny_encoder(), seed=0)
    config = build(METHOD.config, METHOD.presets["smoke"] | {"steps": 1, "grid": 2}, where="x")
    result = METHOD.fit(task, config=config, runtime=Runtime(device="cpu", threads=1, folder=tmp_path))
    network = result.encoder.build_empty()
    network.load_state_dict(dict(result.state))
    first, seen = batchnorm_layers(network)[0], []
    first.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(one)[:, None, None] for one in (task.encoder.mean, task.encoder.std))
    with torch.no_grad():
        network.eval()((pixels - mean) / std)
    torch.testing.assert_close(first.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-3)
