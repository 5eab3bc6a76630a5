"""Memory before a training starts: closed forms of small networks, and what autograd really saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.toy_images import TINY, tiny_encoder
from wazuka.core.errors import ConfigError
from wazuka.nn import lora, memory
from wazuka.nn.architectures import build_meta, build_seeded
from wazuka.nn.features import BATCH
from wazuka.nn.memory import Footprint, Training, footprint, network_footprint, training_bytes

A, B, C = 48, 20, 8


def perceptron() -> nn.Module:
    """(n, 3, 4, 4) -> (n, C), on the meta device."""
    with torch.device("meta"):
        return nn.Sequential(nn.Flatten(), nn.Linear(A, B), nn.ReLU(), nn.Linear(B, C))


def test_a_perceptrons_memory_is_the_closed_form() -> None:
    training = Training(trained="all", images=7, classes=5, moments=2, copies=1)
    found = network_footprint(perceptron(), (3, 4, 4), training, dim=C)
    weights = 4 * ((A * B + B) + (B * C + C) + (C * 5 + 5))
    # saved: the input of the first layer, and the output of ReLU, which is also the input of the second
    assert (found.saved, found.fixed, found.trained, found.parameters) == (4 * (A + B), 0, weights, weights)
    assert found.frozen == 4 * (A + 2 * B)  # at ReLU: the input, and what goes into ReLU and comes out
    # at ReLU's backward: what is saved, the result, and the gradients that go into ReLU and come out
    assert found.per_image == 4 * (A + B + C + 2 * B)
    kept = max(7 * found.per_image, BATCH * 4 * (A + 2 * B))
    estimate = found.estimate()
    assert estimate.total == weights * (1 + 1 + 2 + 1) + kept
    assert (estimate.gradients, estimate.optimizer, estimate.copies) == (weights, 2 * weights, weights)


def test_a_running_average_is_one_more_network_and_sgd_keeps_one_moment() -> None:
    plain = Training(trained="all", images=1)
    found = network_footprint(perceptron(), (3, 4, 4), plain, dim=C)
    other = memory.with_training(found, average=True, moments=1)
    assert other.estimate().copies == found.estimate().copies + found.parameters
    assert 2 * other.estimate().optimizer == found.estimate().optimizer


@pytest.mark.parametrize("images", [2, 5])
def test_the_estimate_is_what_autograd_really_saves(images: int) -> None:
    real = build_seeded(TINY, {}, seed=0).train()
    found = footprint(tiny_encoder(), Training(trained="all"), size=32)
    assert found.fixed + images * found.saved == memory.saved_for_backward(real, (3, 32, 32), images) > 10**5


@pytest.mark.parametrize("backward", [False, True])
def test_tensors_without_memory_have_the_peak_of_real_ones(backward: bool) -> None:
    real, meta = build_seeded(TINY, {}, seed=0).train(), build_meta(TINY, {}).train()
    with memory._without_memory(meta):
        found = memory.peak(meta, (3, 32, 32), 6, backward=backward)
    assert found == memory.peak(real, (3, 32, 32), 6, backward=backward) > 10**5


@pytest.mark.parametrize("name", [TINY, "test_vit"])
def test_adapters_are_counted_in_closed_form_and_save_less_in_fewer_blocks(name: str) -> None:
    encoder = tiny_encoder(name)
    network = build_meta(encoder.arch, encoder.args)
    sizes = []
    for blocks in (None, 1):
        layers = lora.choose_layers(network, None, last=blocks, name=name)
        found = footprint(encoder, Training(trained="adapters", rank=3, blocks=blocks, classes=4), size=32)
        head = encoder.feature_dim * 4 + 4
        assert found.trained == 4 * (lora.parameter_count(network, layers, 3) + head)
        sizes.append(found.per_image)
    assert sizes[1] < sizes[0]


def test_a_probe_keeps_nothing_for_a_backward_pass() -> None:
    encoder = tiny_encoder()
    found = training_bytes(encoder, Training(trained="nothing"), size=32)
    assert (found.gradients, found.optimizer, found.copies) == (0, 0, 0)
    network = build_seeded(TINY, {}, seed=0)
    own = sum(one.numel() * one.element_size() for one in (*network.parameters(), *network.buffers()))
    assert found.parameters == own
    assert found.activations >= BATCH * 3 * 32 * 32 * 4


def test_checkpointing_and_bfloat16_save_memory_and_the_frozen_pass_is_its_floor() -> None:
    def of(**changes: Any) -> Footprint:
        return footprint(tiny_encoder("test_vit"), Training(trained="all", **changes), size=160)

    plain, again, half = of(), of(checkpointing=True), of(half=True)
    assert again.per_image < plain.per_image and half.per_image < plain.per_image
    assert half.fixed > 0, "bfloat16 copies of the weights are saved whatever the batch"
    assert plain.estimate(1).activations == plain.frozen * BATCH > plain.per_image >= plain.saved


def test_the_most_images_are_those_that_just_fit() -> None:
    found = footprint(tiny_encoder(), Training(trained="all"), size=32)
    for limit in (found.estimate(1).total, found.estimate(200).total, found.estimate(1000).total + 17):
        most = found.most_images(limit)
        assert found.estimate(most).total <= limit < found.estimate(most + 1).total
    assert found.most_images(found.estimate(1).total - 1) == 0


def test_blocks_that_a_network_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`blocks` is 99, `test_resnet` has \d+; give that many at most"):
        footprint(tiny_encoder(), Training(trained="adapters", blocks=99), size=32)


def test_no_memory_is_taken_and_no_random_number_drawn() -> None:
    state = torch.random.get_rng_state()
    found = footprint(tiny_encoder("test_vit"), Training(trained="adapters", images=10**6), size=160)
    assert found.estimate().total > 10**11, "a pass that no machine could run"
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_machines_memory_is_known(tmp_path: Path) -> None:
    room = memory.memory_of("cpu")
    assert 0 < room.free <= room.total
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("1048576\n")
    assert [memory._number(tmp_path / name) for name in ("max", "limit", "absent")] == [None, 1048576, None]
