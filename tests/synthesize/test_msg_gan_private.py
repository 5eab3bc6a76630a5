"""A training under differential privacy: what it leaves behind, what it never looks at, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant

from tests.synthesize.test_msg_gan import TINY, blobs, equal, make_task, run
from wazuka.core.errors import ConfigError
from wazuka.synthesize import msg_gan
from wazuka.synthesize.msg_gan import METHOD, Config, check_private
from wazuka.training.private import PoissonRows
from wazuka.training.private_game import PrivateGame
from wazuka.training.roles import Privacy, SynthesisTask

CONFIG = dataclasses.replace(TINY, loss="ns", augment="light", steps=6)


def private_task(folder: Path, **changes: Any) -> SynthesisTask:
    images, labels = blobs(16)
    return make_task(folder, images, labels, privacy=Privacy(epsilon=8.0, delta=1e-2), **changes)


def test_a_private_training_stays_within_its_budget_and_says_what_it_is(tmp_path: Path) -> None:
    task = private_task(tmp_path / "data", is_val=np.arange(16) >= 12, patients=np.arange(16) // 3)
    result = run(task, tmp_path / "run", CONFIG)
    notes = result.notes["privacy"]
    accountant = RDPAccountant()
    accountant.history = [(notes["noise_multiplier"], notes["sample_rate"], notes["steps"])]
    assert notes["epsilon_spent"] == accountant.get_epsilon(1e-2) <= notes["epsilon_asked"] == 8.0
    assert (notes["sample_rate"], notes["steps"], notes["images"]) == (4 / 12, 6, 12)
    assert (notes["most_images_of_a_patient"], notes["max_grad_norm"], notes["delta"]) == (3, 1.0, 1e-2)
    assert result.collapsed is None and result.notes["best_step"] == result.notes["steps"] == 6
    assert result.notes["early_stopping"] == "none: differential privacy; fixed steps"
    assert set(result.curves) == {"g_loss", "d_loss", "g_grad_norm", "d_grad_norm"}  # no distance, no diversity
    assert result.generator.sample(np.array([0, 1]), np.array([0, 1])).shape == (2, 32, 32, 3)


def test_the_same_seed_gives_the_same_bytes_and_a_killed_training_the_same_as_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, original = private_task(tmp_path / "data"), PrivateGame.draw
    whole = run(task, tmp_path / "whole", CONFIG)

    def killed(self: PrivateGame, step: int, generator: torch.Generator) -> Any:
        if step == 4:
            raise KeyboardInterrupt
        return original(self, step, generator)

    settings = msg_gan._settings
    monkeypatch.setattr(
        msg_gan, "_settings", lambda *given: dataclasses.replace(settings(*given), checkpoint_seconds=0)
    )
    with monkeypatch.context() as patched:
        patched.setattr(PrivateGame, "draw", killed)
        with pytest.raises(KeyboardInterrupt):
            run(task, tmp_path / "killed", CONFIG)
    assert list((tmp_path / "killed").glob("checkpoint*"))
    assert equal(whole, run(task, tmp_path / "killed", CONFIG))
    assert not equal(whole, run(dataclasses.replace(task, seed=1), tmp_path / "other", CONFIG))


def test_steps_without_a_real_image_are_taken_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real images then change nothing: another set of as many gives the same generator."""
    monkeypatch.setattr(PoissonRows, "__call__", lambda self, step: np.empty(0, np.int64))
    task = private_task(tmp_path / "data")
    other = make_task(tmp_path / "other", np.zeros((16, 32, 32, 3), np.uint8), np.arange(16) // 8, privacy=task.privacy)
    first = run(task, tmp_path / "a", CONFIG)
    assert first.notes["privacy"]["steps"] == 6
    assert equal(first, run(other, tmp_path / "b", CONFIG))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "ns-r1"}, "with `dp` use `loss: ns`"),
        ({"loss": "wgan-gp"}, "with `dp` use `loss: ns`"),
        ({"loss": "ra-hinge"}, "with `dp` use `loss: ns`"),
        ({"augment": "adaptive"}, "with `dp` use none, light or strong"),
        ({"mismatch": 0.5}, "with `dp` leave it out"),
        ({"conditional": "per-class"}, "with `dp` use `conditional: projection`"),
    ],
)
def test_settings_without_a_private_form_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    config = dataclasses.replace(Config(loss="ns", augment="none"), **changes)
    with pytest.raises(ConfigError) as caught:
        check_private(config)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert METHOD.private and METHOD.check_private is check_private
    check_private(Config(loss="ns", augment="strong", conditional="none"))


def test_a_delta_of_one_image_is_refused_before_training(tmp_path: Path) -> None:
    task = dataclasses.replace(private_task(tmp_path / "data"), privacy=Privacy(epsilon=8.0, delta=1 / 16))
    with pytest.raises(ConfigError, match=r"learns from 16 images; give less than 1/16"):
        run(task, tmp_path / "run", CONFIG)
