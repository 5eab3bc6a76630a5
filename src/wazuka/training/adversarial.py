"""The training loop of a generator against a discriminator: alternating steps, averaging, monitors, collapse, resume.

A technique gives two networks and a `Game`: what a step sees and the two losses. As in `training.loop`, step t draws from
(seed, t) alone and nothing waits for the device inside an interval; losses are read when one of `monitor_every` steps ends.
One checkpoint is kept, replaced atomically, with the best and the last sound average in it.

The images of a step are made once: the discriminator's step gets them cut off from the generator's graph, so that nothing
flows through the generator there, and its own step, on the same latent vectors and still the same weights, goes on with
them. The discriminator's weights collect no gradient in the generator's step.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from wazuka.core.hashing import make_key
from wazuka.training import seeding
from wazuka.training.checkpoints import read_checkpoint, write_checkpoint
from wazuka.training.early_stopping import EarlyStopping, State, copy_state
from wazuka.training.loop import SECONDS_BETWEEN_LINES, Precision, choose_precision
from wazuka.training.sample_monitor import Quality

LEAST_DIVERSITY = 0.1
"""Diversity relative to real images below which a generator counts as collapsed; our choice."""
JUDGED_FROM = 0.2
"""Share of the steps after which a collapse ends the training and the smallest distance is looked for: before, few images
differ anyway, and among few held-out images an early state can come nearest by chance."""
IN_A_ROW = 2
"""Monitors in a row that must agree on a collapse."""
AVERAGE_RISE = 10
"""The average's decay is at most (1 + t) / (10 + t) in step t, so that a short training is averaged over its later part."""

Pyramid = list[torch.Tensor]
"""Images at every scale, coarsest first."""
Monitor = Callable[[nn.Module, int], Quality]
"""(averaged generator in evaluation mode, steps run) -> how good its images are."""


class Game(Protocol):
    """What the two networks are trained on. Everything random is drawn from the generators given."""

    def draw(self, step: int, generator: torch.Generator) -> Any:
        """What step 0, 1, ... sees: real images, latent vectors, labels."""

    def make(self, network: nn.Module, batch: Any) -> Pyramid:
        """The generator's images for a step."""

    def discriminator_loss(
        self, network: nn.Module, batch: Any, fakes: Pyramid, draws: torch.Generator
    ) -> torch.Tensor:
        """Loss of the discriminator; `fakes` carry no graph."""

    def generator_loss(self, network: nn.Module, batch: Any, fakes: Pyramid, draws: torch.Generator) -> torch.Tensor:
        """Loss of the generator; the discriminator's weights collect no gradient."""

    def to_plain(self) -> dict[str, Any]:
        """What changes from step to step, for a checkpoint."""

    def restore(self, plain: dict[str, Any]) -> None:
        """Go on from `to_plain()`."""


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings:
    """How to train; a technique fills it from its `Config`."""

    steps: int
    lr: float
    """Of both networks, constant."""
    betas: tuple[float, float] = (0.0, 0.99)
    """Adam's."""
    ema: float = 0.999
    """Decay of the average of the generator's weights, which is what is kept."""
    precision: Precision = "auto"
    monitor_every: int = 100
    patience: int | None = None
    """Monitors without a smaller distance before stopping; None, or no distance: all steps."""
    won_below: float | None = None
    """Loss of the discriminator below which it recognizes every image; None: its loss has no such bound."""
    judged_from: int = 0
    """Steps after which a collapse may be called one, besides a fifth of all steps."""
    compile: bool = False
    """Whether `torch.compile` is used."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints; decides no result."""


@dataclass(frozen=True, kw_only=True)
class TrainedPair:
    """How a training went.

    Attributes:
        state: The averaged generator, on the CPU: the best by distance where there is one, else the last; after a
            collapse the best, else the last sound one.
        steps: Steps run, over all interruptions.
        best_step: Step of `state`.
        best_distance: Its distance to the validation images; None without these.
        stopped_early: Whether patience ended it.
        collapsed: Why it was stopped as useless, one sentence; None where it was not.
        precision: "fp32" or "bf16".
        curves: Name -> list of (step, value): losses (mean of the interval), gradient norms, diversity, distance.
    """

    state: State
    steps: int
    best_step: int
    best_distance: float | None
    stopped_early: bool
    collapsed: str | None
    precision: str
    curves: dict[str, list[tuple[float, float]]]


@dataclass
class _Progress:
    """What changes while training, beside networks, optimizers and the game."""

    step: int = 0
    done: bool = False
    stopped: bool = False
    collapsed: str | None = None
    doubts: list[str] = field(default_factory=list)
    """What the last monitors in a row found wrong."""
    good_step: int = 0
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def train(
    generator: nn.Module,
    discriminator: nn.Module,
    game: Game,
    *,
    settings: AdversarialSettings,
    seed: int,
    device: str,
    checkpoint: Path,
    monitor: Monitor,
    say: Callable[[str], None] = lambda line: None,
) -> TrainedPair:
    """Train two networks against each other; an interrupted training goes on as if nothing had happened.

    Args:
        generator, discriminator: Trained in place on `device`.
        seed: Of all randomness.
        checkpoint: Its file. It stays when the training is done, and a second call then returns at once; the caller
            removes it when it has no more use for it.
        monitor: Looks at the averaged generator at the end of every interval; must depend on nothing else.
        say: Takes lines of progress.
    """
    loop = _Loop(generator, discriminator, game, settings, seed, device, Path(checkpoint), monitor, say)
    with seeding.own_randomness(device), seeding.repeatable(device):
        return loop.run()


def seconds_per_step(
    generator: nn.Module, discriminator: nn.Module, game: Game, *, settings: AdversarialSettings, device: str
) -> float:
    """Measure a step on this machine: the mean of two after one to warm up. The networks are changed by it."""
    loop = _Loop(
        generator, discriminator, game, settings, 0, device, Path(), lambda network, step: Quality(), lambda line: None
    )
    with seeding.own_randomness(device), seeding.repeatable(device):
        loop._step()
        began = time.perf_counter() if loop._is_finite() else 0.0  # reading a value waits for the device
        for _ in range(2):
            loop._step()
        loop._is_finite()
    return (time.perf_counter() - began) / 2


class _Loop:
    """One training; see `train`."""

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        game: Game,
        settings: AdversarialSettings,
        seed: int,
        device: str,
        checkpoint: Path,
        monitor: Monitor,
        say: Callable[[str], None],
    ) -> None:
        self.game, self.settings, self.seed, self.device = game, settings, seed, device
        self.checkpoint, self.monitor, self.say = checkpoint, monitor, say
        self.precision = choose_precision(settings.precision, device)
        self.generator = generator.to(device).to(memory_format=torch.channels_last)
        self.discriminator = discriminator.to(device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.run_generator, self.run_discriminator = self.generator, self.discriminator
        if settings.compile:
            self.run_generator = torch.compile(self.generator)  # type: ignore[assignment]
            self.run_discriminator = torch.compile(self.discriminator)  # type: ignore[assignment]
        self.optimizers = [
            torch.optim.Adam(one.parameters(), lr=settings.lr, betas=settings.betas, fused=True)
            for one in (self.generator, self.discriminator)
        ]
        self.now = _Progress()
        self.stopper = EarlyStopping(settings.patience)
        self.good = copy_state(self.average.state_dict())
        self.sums = torch.zeros(2, device=device)
        """Losses of generator and discriminator, summed over the interval."""
        self.norms = torch.zeros(2, device=device)
        """Gradient norms of both in the interval's last step."""
        shapes = [
            [(name, list(one.shape)) for name, one in network.state_dict().items()]
            for network in (generator, discriminator)
        ]
        self.key = make_key(settings, seed, shapes)
        self.last_said = self.last_saved = time.monotonic()

    def run(self) -> TrainedPair:
        self._resume()
        settings, now = self.settings, self.now
        while not now.done:
            self._step()
            if now.step % settings.monitor_every == 0 or now.step == settings.steps:
                self._close_interval()
                now.done = now.done or now.step == settings.steps
            if now.done or time.monotonic() - self.last_saved >= settings.checkpoint_seconds:
                self._save()
        state, best_step = dict(self.average.state_dict()), now.step
        if self.stopper.best_state:
            state, best_step = self.stopper.best_state, self.stopper.best_step
        elif now.collapsed:
            state, best_step = self.good, now.good_step
        return TrainedPair(
            state={name: one.detach().cpu().contiguous() for name, one in state.items()},
            steps=now.step,
            best_step=best_step,
            best_distance=self.stopper.best_value if self.stopper.best_state else None,
            stopped_early=now.stopped,
            collapsed=now.collapsed,
            precision=self.precision,
            curves=now.curves,
        )

    def _step(self) -> None:
        """One step of the discriminator, then one of the generator. Nothing here waits for the device."""
        now, game = self.now, self.game
        last_of_interval = (now.step + 1) % self.settings.monitor_every == 0 or now.step + 1 == self.settings.steps
        seeding.seed_layers(self.seed, now.step)
        draws = seeding.step_generator(self.seed, "step", now.step, device=self.device)
        batch = game.draw(now.step, draws)
        with self._arithmetic():
            fakes = game.make(self.run_generator, batch)
        self.discriminator.requires_grad_(True)
        with self._arithmetic():
            cut = [one.detach() for one in fakes]
            loss = game.discriminator_loss(self.run_discriminator, batch, cut, draws)
        self._update(1, self.discriminator, loss, measure=last_of_interval)
        self.discriminator.requires_grad_(False)
        with self._arithmetic():
            loss = game.generator_loss(self.run_discriminator, batch, fakes, draws)
        self._update(0, self.generator, loss, measure=last_of_interval)
        decay = min(self.settings.ema, (1 + now.step) / (AVERAGE_RISE + now.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)
        now.step += 1

    def _update(self, which: int, network: nn.Module, loss: torch.Tensor, *, measure: bool) -> None:
        optimizer = self.optimizers[which]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if measure:
            gradients = [one.grad for one in network.parameters() if one.grad is not None]
            self.norms[which] = nn.utils.get_total_norm(gradients)
        optimizer.step()
        self.sums[which] += loss.detach().float()

    def _arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.partition(":")[0], dtype=torch.bfloat16)

    def _close_interval(self) -> None:
        """Read the interval's figures, look at the images, decide whether to stop."""
        if not self._is_finite():
            self._stop_as_not_finite()
            return
        now, settings = self.now, self.settings
        count = (now.step - 1) % settings.monitor_every + 1
        g_loss, d_loss = (self.sums / count).tolist()
        g_norm, d_norm = self.norms.tolist()
        self.sums.zero_()
        before = now.curves.get("g_loss", [(0, float("inf"))])[-1][1]
        quality = self.monitor(self.average, now.step)
        figures = {"g_loss": g_loss, "d_loss": d_loss, "g_grad_norm": g_norm, "d_grad_norm": d_norm}
        figures |= quality.figures()
        for name, value in figures.items():
            now.curves.setdefault(name, []).append((now.step, value))
        won = settings.won_below is not None and d_loss < settings.won_below and g_loss > before
        doubt = _doubt(now.step, quality, won=won, d_loss=d_loss, g_loss=g_loss)
        if doubt is None:
            now.doubts.clear()
            self.good, now.good_step = copy_state(self.average.state_dict()), now.step
            if quality.distance is not None and now.step > JUDGED_FROM * settings.steps:
                now.stopped = self.stopper.update(now.step, quality.distance, self.good)
                now.done = now.stopped
        elif now.step > max(JUDGED_FROM * settings.steps, settings.judged_from):
            now.doubts.append(doubt)
            if len(now.doubts) >= IN_A_ROW:
                self._stop("; ".join(now.doubts[-IN_A_ROW:]))
        if time.monotonic() - self.last_said >= SECONDS_BETWEEN_LINES:
            found = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.say(f"step {now.step} of {settings.steps}: {found}")
            self.last_said = time.monotonic()

    def _is_finite(self) -> bool:
        weights = [*self.generator.parameters(), *self.discriminator.parameters()]
        return bool(torch.stack([torch.isfinite(one).all() for one in [self.sums, *weights]]).all())

    def _stop_as_not_finite(self) -> None:
        since = max(self.now.good_step, self.now.curves.get("g_loss", [(0, 0.0)])[-1][0])
        self._stop(
            f"the loss is not finite between steps {since:.0f} and {self.now.step} "
            f"(lr {self.settings.lr:g}, {self.precision}); lower `lr` or set `precision: fp32`"
        )

    def _stop(self, why: str) -> None:
        kept = self.stopper.best_step if self.stopper.best_state else self.now.good_step
        self.now.collapsed = f"Stopped at step {self.now.step}: {why}; the generator is that of step {kept}."
        self.now.done = True
        self.say(self.now.collapsed)

    def _save(self) -> None:
        """Write the checkpoint, unless values are no longer finite: the next monitor sees that and stops."""
        now = self.now
        self.last_saved = time.monotonic()
        if not now.done and not self._is_finite():
            return
        content = {
            "key": self.key,
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "good": self.good,
            "optimizers": [one.state_dict() for one in self.optimizers],
            "game": self.game.to_plain(),
            "stopper": self.stopper.to_plain(),
            "sums": self.sums,
            "progress": vars(now),
        }
        write_checkpoint(self.checkpoint, content)
        self.last_saved = time.monotonic()

    def _resume(self) -> None:
        found = read_checkpoint(self.checkpoint)
        if found is None:
            return
        if found.get("key") != self.key:
            self.say(f"{self.checkpoint} belongs to other settings; training starts again.")
            return
        for name in ("generator", "discriminator", "average"):
            getattr(self, name).load_state_dict(found[name])
        for optimizer, state in zip(self.optimizers, found["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.game.restore(found["game"])
        self.stopper.restore(found["stopper"])
        self.stopper.best_state = self._to_device(self.stopper.best_state)
        self.good = self._to_device(found["good"])
        self.sums.copy_(found["sums"])
        self.now = _Progress(**found["progress"])
        if not self.now.done:
            self.say(f"Going on from step {self.now.step} of {self.settings.steps}.")

    def _to_device(self, state: Mapping[str, torch.Tensor]) -> State:
        return {name: one.to(self.device) for name, one in state.items()}


def _doubt(step: int, quality: Quality, *, won: bool, d_loss: float, g_loss: float) -> str | None:
    """Say what speaks for a collapse at a monitor; None if nothing does."""
    if quality.diversity is not None and quality.diversity < LEAST_DIVERSITY:
        return (
            f"at step {step} the images differ by {quality.diversity:.1%} of what real ones do "
            f"(below {LEAST_DIVERSITY:.0%})"
        )
    if won:
        return f"at step {step} every image is recognized: discriminator's loss {d_loss:.2g}, generator's {g_loss:.3g}"
    return None
