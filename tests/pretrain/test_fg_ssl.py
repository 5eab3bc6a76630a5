"""FG-SSL: what a step sees and computes, against puzzles laid by hand; grains; both ways to update."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy_images import as_images, noise, tiny_encoder
from wazuka.core.config import build
from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.nn.hierarchy import Hierarchy
from wazuka.nn.weights import read_state
from wazuka.pretrain import fg_ssl
from wazuka.pretrain.fg_ssl import HEADS, METHOD, Config, PuzzleNetwork, Puzzles, build_network, fit
from wazuka.training.jigsaw import draw_permutations
from wazuka.training.roles import Pretrained, PretrainTask, Runtime

TINY = Config(steps=4, batch=6, grain="8-4-2", hierarchy="light", dim=8)


def make_task(folder: Path, n: int = 12, *, size: int = 32) -> PretrainTask:
    return PretrainTask(name="toy", images=as_images(noise(n, size=size), folder), encoder=tiny_encoder(), seed=0)


def run(task: PretrainTask, folder: Path, config: Config = TINY) -> Pretrained:
    folder.mkdir(exist_ok=True)
    return fit(task, config=config, runtime=Runtime(device="cpu", threads=1, folder=folder))


def laid_by_hand(image: torch.Tensor, grid: int, order: torch.Tensor) -> torch.Tensor:
    """The puzzle of one image (C, H, W), tile by tile."""
    side, result = image.shape[-1] // grid, image.clone()
    for place in range(grid * grid):
        source = int(order[place])
        (y, x), (v, u) = divmod(place, grid), divmod(source, grid)
        tile = image[:, v * side : (v + 1) * side, u * side : (u + 1) * side]
        result[:, y * side : (y + 1) * side, x * side : (x + 1) * side] = tile
    return result


def draw(network: PuzzleNetwork, n: int = 4) -> Puzzles:
    generator = torch.Generator().manual_seed(0)
    orders = {level: draw_permutations(n, network.grain[level - 1], generator) for level in (1, 2, 3)}
    return Puzzles(torch.randn(n, 3, 32, 32), torch.randn(n, 3, 32, 32), orders)


def test_the_embeddings_are_those_of_puzzles_laid_by_hand_each_at_its_own_depth() -> None:
    network = build_network(tiny_encoder(), TINY, seed=0).eval()
    batch = draw(network)
    with torch.no_grad():
        found = network(batch, (1, 2, 3, 4))
        distorted = network.taps(batch.second)
        for level in (1, 2, 3):
            puzzles = [
                laid_by_hand(image, network.grain[level - 1], order)
                for image, order in zip(batch.first, batch.orders[level], strict=True)
            ]
            maps = network.taps(torch.stack(puzzles))
            ours, theirs = found[2 * level - 2], found[2 * level - 1]
            assert torch.allclose(ours, network.hierarchy.forward_level(level, maps[level - 1]), atol=1e-5)
            assert torch.allclose(theirs, network.hierarchy.forward_level(level, distorted[level - 1]), atol=1e-5)
        assert torch.allclose(found[6], network.hierarchy.forward_joined(network.taps(batch.first)), atol=1e-5)
        assert torch.allclose(found[7], network.hierarchy.forward_joined(distorted), atol=1e-5)


@pytest.mark.parametrize(
    ("which", "depths"), [((1, 2, 3, 4), [3, 1, 2, 3, 3]), ((1,), [1, 1]), ((2,), [2, 2]), ((4,), [3, 3])]
)
def test_a_puzzle_stops_at_its_level_and_the_distorted_view_is_encoded_once(
    which: tuple[int, ...], depths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(tiny_encoder(), TINY, seed=0)
    asked: list[int] = []
    forward = network.taps.forward

    def counted(images: torch.Tensor, upto: int = 3) -> list[torch.Tensor]:
        asked.append(upto)
        return forward(images, upto)

    monkeypatch.setattr(network.taps, "forward", counted)
    network(draw(network), which)
    assert asked == depths


def seen_batches(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Puzzles, Any]]:
    seen: list[tuple[Puzzles, Any]] = []
    forward = PuzzleNetwork.forward

    def kept(self: PuzzleNetwork, batch: Puzzles, which: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        seen.append((batch, which))
        return forward(self, batch, which)

    monkeypatch.setattr(PuzzleNetwork, "forward", kept)
    run(make_task(tmp_path / "data"), tmp_path / "run", config)
    return seen


def test_four_updates_in_turn_see_one_batch_from_the_finest_puzzle_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(TINY, steps=2, updates="sequential")
    seen = seen_batches(config, tmp_path, monkeypatch)
    assert [which for _, which in seen] == [(1,), (2,), (3,), (4,)] * 2
    firsts = [batch.first for batch, _ in seen]
    assert all(torch.equal(one, firsts[0]) for one in firsts[:4])
    assert all(torch.equal(one, firsts[4]) for one in firsts[4:]) and not torch.equal(firsts[0], firsts[4])


def test_one_update_has_all_losses_and_fewer_levels_keep_the_deepest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [which for _, which in seen_batches(TINY, tmp_path / "a", monkeypatch)] == [(1, 2, 3, 4)] * 4
    config = dataclasses.replace(TINY, levels=1, steps=1)
    ((batch, which),) = seen_batches(config, tmp_path / "b", monkeypatch)
    assert which == (3, 4) and set(batch.orders) == {3}


def test_parts_of_a_batch_hold_each_image_once() -> None:
    network = build_network(tiny_encoder(), TINY, seed=0)
    whole = draw(network, 5)
    parts = whole.split(2)
    assert [len(one.first) for one in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([one.second for one in parts]), whole.second)
    assert torch.equal(torch.cat([one.orders[1] for one in parts]), whole.orders[1])


def test_what_is_kept_are_the_encoders_weights_and_beside_them_the_heads(tmp_path: Path) -> None:
    task = make_task(tmp_path / "data")
    result = run(task, tmp_path / "run")
    network = task.encoder.build()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    network.load_state_dict(dict(result.state))
    assert any(not torch.equal(one, before[name]) for name, one in network.state_dict().items())
    heads = read_state(tmp_path / "run" / HEADS)
    shape = build_network(task.encoder, TINY, seed=0)
    Hierarchy(shape.taps.channels, width=256, pool=14, dim=8).load_state_dict(
        {name.removeprefix("hierarchy."): one for name, one in heads.items()}
    )
    assert result.notes["grain"] == "8-4-2" and result.notes["images"] == 12
    assert {"train_loss", "effective_rank", "spread", "alignment", "uniformity"} <= set(result.curves)


def test_auto_takes_the_grain_whose_short_training_has_the_highest_effective_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {"16-8-4": 5.0, "8-4-2": 3.0}
    tried: list[str] = []
    original = fg_ssl._train

    def short(task: Any, config: Config, runtime: Runtime) -> Any:
        network, result = original(task, dataclasses.replace(config, steps=1), runtime)
        if "grain" in runtime.folder.name:
            tried.append(str(config.grain))
            result.notes["monitor"]["effective_rank"] = ranks[config.grain]
        return network, result

    monkeypatch.setattr(fg_ssl, "_train", short)
    result = run(make_task(tmp_path / "data"), tmp_path / "run", dataclasses.replace(TINY, grain="auto"))
    assert tried == ["16-8-4", "8-4-2"]  # 32 tiles of one pixel do not fit 32 pixels
    assert result.notes["grain"] == "16-8-4" and result.notes["tried_grains"]["8-4-2"]["effective_rank"] == 3.0
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_a_finished_trial_of_a_grain_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = fg_ssl._train, []

    def dies(task: Any, config: Config, runtime: Runtime) -> Any:
        calls.append(runtime.folder.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(task, config, runtime)

    monkeypatch.setattr(fg_ssl, "_train", dies)
    config, task = dataclasses.replace(TINY, grain="auto"), make_task(tmp_path / "data")
    with pytest.raises(KeyboardInterrupt):
        run(task, tmp_path / "run", config)
    run(task, tmp_path / "run", config)
    assert calls == ["checkpoint_grain_16-8-4", "checkpoint_grain_8-4-2", "checkpoint_grain_8-4-2", "run"]


def test_a_grain_that_is_too_fine_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, grain="32-16-8")
    with pytest.raises(ConfigError, match="into 32 x 32 tiles of 1 pixels; use 16-8-4 or 8-4-2"):
        run(make_task(tmp_path / "data"), tmp_path / "run", config)


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughData, match="1 image"):
        run(make_task(tmp_path / "data", 1), tmp_path / "run")


def test_presets_are_settings_of_the_method() -> None:
    assert set(METHOD.presets) == {"smoke", "quick", "standard", "paper"}
    for name, values in METHOD.presets.items():
        build(METHOD.config, values, where=name)


@pytest.mark.parametrize("values", [{"batch": 1}, {"micro_batch": 1}, {"levels": 4}, {"grain": "4-2-1"}])
def test_wrong_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(Config, values, where="pretrain")


def test_puzzles_are_of_the_training_images_only(tmp_path: Path) -> None:
    images = noise(12)
    images[6:] = 255
    task = PretrainTask(
        name="toy", images=as_images(images, tmp_path, rows=np.arange(6)), encoder=tiny_encoder(), seed=0
    )
    other = dataclasses.replace(task, images=as_images(images[:6], tmp_path / "alone"))
    first, second = run(task, tmp_path / "a"), run(other, tmp_path / "b")
    assert all(torch.equal(one, second.state[name]) for name, one in first.state.items())
