"""The adversarial loop against one written out plainly, and what it does when things go wrong."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from wazuka.training import seeding
from wazuka.training.adversarial import AdversarialSettings, TrainedPair, seconds_per_step, train
from wazuka.training.checkpoints import read_checkpoint
from wazuka.training.sample_monitor import Quality

SETTINGS = AdversarialSettings(steps=20, lr=0.05, monitor_every=4, precision="fp32")


class Pairs:
    """A game of points in the plane: real ones near (2, -1). Counts its steps, which a checkpoint has to carry."""

    def __init__(self, *, break_at: int | None = None, kill_at: int | None = None) -> None:
        self.break_at, self.kill_at, self.steps_played = break_at, kill_at, 0

    def draw(self, step: int, generator: torch.Generator) -> Any:
        if step == self.kill_at:
            raise KeyboardInterrupt
        real = torch.tensor([2.0, -1.0]) + 0.1 * torch.randn(8, 2, generator=generator)
        return step, real, torch.randn(8, 2, generator=generator)

    def make(self, network: nn.Module, batch: Any) -> list[torch.Tensor]:
        return [network(batch[2])]

    def discriminator_loss(
        self, network: nn.Module, batch: Any, fakes: list[torch.Tensor], draws: torch.Generator
    ) -> torch.Tensor:
        assert not fakes[0].requires_grad  # no graph of the generator
        self.steps_played += 1
        real = network(batch[1] + 0.01 * torch.randn(8, 2, generator=draws))
        loss = functional.softplus(network(fakes[0])).mean() + functional.softplus(-real).mean()
        return loss * float("nan") if batch[0] == self.break_at else loss

    def generator_loss(
        self, network: nn.Module, batch: Any, fakes: list[torch.Tensor], draws: torch.Generator
    ) -> torch.Tensor:
        assert not any(one.requires_grad for one in network.parameters())
        return functional.softplus(-network(fakes[0])).mean()

    def to_plain(self) -> dict[str, Any]:
        return {"steps_played": self.steps_played}

    def restore(self, plain: dict[str, Any]) -> None:
        self.steps_played = plain["steps_played"]


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))


def sound(network: nn.Module, step: int) -> Quality:
    return Quality(diversity=1.0)


def distances(*values: float) -> Callable[[nn.Module, int], Quality]:
    """A monitor that finds these distances, one after the other (every 4 steps)."""
    return lambda network, step: Quality(distance=values[step // 4 - 1], diversity=1.0)


def run(
    folder: Path,
    *,
    game: Pairs | None = None,
    monitor: Callable[[nn.Module, int], Quality] = sound,
    seed: int = 1,
    **changes: Any,
) -> TrainedPair:
    return train(
        *networks(),
        game or Pairs(),
        settings=dataclasses.replace(SETTINGS, **changes),
        seed=seed,
        device="cpu",
        checkpoint=folder / "checkpoint_0.pt",
        monitor=monitor,
    )


def same(first: TrainedPair, second: TrainedPair) -> bool:
    equal = all(torch.equal(one, second.state[name]) for name, one in first.state.items())
    return equal and dataclasses.replace(first, state={}) == dataclasses.replace(second, state={})


def test_training_equals_the_steps_written_out(tmp_path: Path) -> None:
    generator, discriminator = networks()
    average, game = copy.deepcopy(generator), Pairs()
    adam = {"lr": 0.05, "betas": (0.0, 0.99)}
    g_adam = torch.optim.Adam(generator.parameters(), **adam)  # type: ignore[arg-type]
    d_adam = torch.optim.Adam(discriminator.parameters(), **adam)  # type: ignore[arg-type]
    g_losses, d_losses = [], []
    for step in range(20):
        draws = seeding.step_generator(1, "step", step)
        batch = game.draw(step, draws)
        loss = game.discriminator_loss(discriminator, batch, [generator(batch[2]).detach()], draws)
        d_adam.zero_grad()
        loss.backward()
        d_adam.step()
        d_losses.append(float(loss.detach()))
        loss = functional.softplus(-discriminator(generator(batch[2]))).mean()
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()
        g_losses.append(float(loss.detach()))
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), generator.parameters(), strict=True):
                mean.copy_(decay * mean + (1 - decay) * value)
    trained = run(tmp_path)
    for name, value in average.state_dict().items():
        assert torch.allclose(trained.state[name], value, atol=1e-6)
    for name, losses in (("g_loss", g_losses), ("d_loss", d_losses)):
        assert [step for step, _ in trained.curves[name]] == [4, 8, 12, 16, 20]
        means = [sum(losses[start : start + 4]) / 4 for start in range(0, 20, 4)]
        assert [value for _, value in trained.curves[name]] == pytest.approx(means, abs=1e-5)


def test_the_generator_learns_where_the_real_points_are(tmp_path: Path) -> None:
    trained = run(tmp_path, steps=300, monitor_every=100)
    assert trained.state["bias"].tolist() == pytest.approx([2.0, -1.0], abs=0.4)


@pytest.mark.parametrize("kill_at", [1, 6, 8, 19])
def test_an_interrupted_training_ends_with_the_same_bytes(kill_at: int, tmp_path: Path) -> None:
    watch = distances(5.0, 3.0, 4.0, 3.5, 3.2)
    whole_game, game = Pairs(), Pairs(kill_at=kill_at)
    whole = run(tmp_path / "whole", game=whole_game, monitor=watch, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", game=game, monitor=watch, checkpoint_seconds=0)
    game.kill_at, game.steps_played = None, -100
    assert same(whole, run(tmp_path / "killed", game=game, monitor=watch, checkpoint_seconds=0))
    assert game.steps_played == whole_game.steps_played == 20
    assert [one.name for one in (tmp_path / "killed").iterdir()] == ["checkpoint_0.pt"]


def test_a_finished_training_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert same(first, run(tmp_path, game=Pairs(kill_at=0)))


def test_a_checkpoint_of_other_settings_is_not_used(tmp_path: Path) -> None:
    run(tmp_path, lr=0.01)
    assert same(run(tmp_path), run(tmp_path / "fresh"))


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    assert same(first, run(tmp_path / "b")) and not same(first, run(tmp_path / "c", seed=2))


def test_the_step_with_the_smallest_distance_is_kept(tmp_path: Path) -> None:
    trained = run(tmp_path / "a", monitor=distances(3.0, 1.0, 2.0, 1.0, 5.0))
    assert (trained.best_step, trained.best_distance, trained.steps) == (8, 1.0, 20)
    short = run(tmp_path / "b", steps=8, monitor_every=4)
    assert all(torch.equal(one, short.state[name]) for name, one in trained.state.items())
    assert trained.curves["distance"] == [(4, 3.0), (8, 1.0), (12, 2.0), (16, 1.0), (20, 5.0)]


def test_the_smallest_distance_is_looked_for_after_a_fifth_of_the_steps(tmp_path: Path) -> None:
    trained = run(tmp_path, monitor=distances(0.1, 2.0, 1.0, 3.0, 5.0))
    assert (trained.best_step, trained.best_distance) == (12, 1.0)


def test_patience_ends_a_training_that_comes_no_nearer(tmp_path: Path) -> None:
    trained = run(tmp_path, monitor=distances(3.0, 1.0, 2.0, 1.5, 0.5), patience=2)
    assert (trained.stopped_early, trained.steps, trained.best_step, trained.collapsed) == (True, 16, 8, None)


def test_without_a_distance_the_last_step_is_kept(tmp_path: Path) -> None:
    trained = run(tmp_path, patience=1)
    assert (trained.stopped_early, trained.steps, trained.best_step, trained.best_distance) == (False, 20, 20, None)


def diversities(*values: float) -> Callable[[nn.Module, int], Quality]:
    return lambda network, step: Quality(diversity=values[step // 4 - 1])


def test_lost_diversity_twice_in_a_row_stops_with_the_last_sound_state(tmp_path: Path) -> None:
    trained = run(tmp_path / "a", steps=40, monitor=diversities(0.9, 0.05, 0.5, 0.04, 0.03, 0.9))
    assert trained.steps == 20 and trained.best_step == 12
    assert trained.collapsed == (
        "Stopped at step 20: at step 16 the images differ by 4.0% of what real ones do (below 10%); at step 20 the images "
        "differ by 3.0% of what real ones do (below 10%); the generator is that of step 12."
    )
    short = run(tmp_path / "b", steps=12)
    assert all(torch.equal(one, short.state[name]) for name, one in trained.state.items())


def test_little_diversity_in_the_first_fifth_is_no_collapse(tmp_path: Path) -> None:
    trained = run(
        tmp_path, steps=20, monitor_every=2, monitor=lambda network, step: Quality(diversity=0.01 + (step > 6))
    )
    assert trained.collapsed is None and trained.steps == 20


def test_a_discriminator_that_recognizes_everything_is_a_collapse(tmp_path: Path) -> None:
    class Won(Pairs):
        """From step 8 on the discriminator's loss is next to nothing and the generator's rises."""

        def discriminator_loss(self, network: nn.Module, batch: Any, fakes: Any, draws: Any) -> torch.Tensor:
            loss = super().discriminator_loss(network, batch, fakes, draws)
            return loss * 1e-6 if batch[0] >= 8 else loss

        def generator_loss(self, network: nn.Module, batch: Any, fakes: Any, draws: Any) -> torch.Tensor:
            return super().generator_loss(network, batch, fakes, draws) + batch[0]

    trained = run(tmp_path / "a", game=Won(), steps=32, won_below=1e-3)
    assert trained.collapsed is not None and "at step 12 every image is recognized" in trained.collapsed
    assert (trained.steps, trained.best_step) == (16, 8)
    assert run(tmp_path / "b", game=Won(), steps=32).collapsed is None  # a loss without such a bound


def test_a_loss_that_is_not_finite_stops_with_the_last_sound_state(tmp_path: Path) -> None:
    trained = run(tmp_path / "a", game=Pairs(break_at=9), checkpoint_seconds=0)
    assert trained.collapsed == (
        "Stopped at step 12: the loss is not finite between steps 8 and 12 (lr 0.05, fp32); lower `lr` or set "
        "`precision: fp32`; the generator is that of step 8."
    )
    assert (trained.steps, trained.best_step) == (12, 8)
    short = run(tmp_path / "b", steps=8)
    assert all(torch.equal(one, short.state[name]) for name, one in trained.state.items())
    first = run(tmp_path / "c", game=Pairs(break_at=0))
    assert first.collapsed is not None and first.best_step == 0
    assert all(torch.equal(one, networks()[0].state_dict()[name]) for name, one in first.state.items())


def test_a_killed_training_never_goes_on_from_values_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, game=Pairs(break_at=9, kill_at=11), checkpoint_seconds=0)
    kept = read_checkpoint(tmp_path / "checkpoint_0.pt")
    assert kept is not None and kept["progress"]["step"] == 9
    assert all(bool(torch.isfinite(one).all()) for one in kept["generator"].values())


def test_a_step_is_timed_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert 0 < seconds_per_step(*networks(), Pairs(), settings=SETTINGS, device="cpu") < 1
    assert not list(tmp_path.iterdir())
