"""The training loop, on Lightning Fabric: device, precision, schedule, clipping, averaging, early stopping, resume.

A technique gives a network, its loss for one step and, where it may choose, a validation loss. The loop never waits for
the device inside an interval: losses are summed there and read when an interval of `evaluate_every` steps ends.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from wazuka.core.errors import ConfigError, WazukaError
from wazuka.core.hashing import make_key
from wazuka.training import seeding
from wazuka.training.checkpoints import CHECKPOINT, LAST_GOOD, read_checkpoint, write_checkpoint
from wazuka.training.early_stopping import EarlyStopping, State, copy_state
from wazuka.training.optim import OptimizerName, Schedule, lr_factor, make_optimizer, parameter_groups, set_lr

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["auto", "fp32", "bf16"]
StepLoss = Callable[[nn.Module, int, torch.Generator], torch.Tensor | Iterator[torch.Tensor]]
"""(network, step, generator on the device) -> scalar loss; or an iterator of parts that sum to it, each passed backward
before the next is computed (gradient accumulation)."""
Validate = Callable[[nn.Module], float]
"""(network in evaluation mode) -> loss on what early stopping may use."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a look at a network in training found; no label has a part in it.

    Attributes:
        figures: Name -> value, for the curves; the same names at every look.
        useless: Why going on makes no sense, one sentence; None where it does.
    """

    figures: Mapping[str, float]
    useless: str | None = None


Look = Callable[[nn.Module, int], Looked]
"""(network in evaluation mode, steps so far) -> figures for the curves, and whether to go on."""

SECONDS_BETWEEN_LINES = 10.0


class TrainingDiverged(WazukaError):
    """The loss or its gradient stopped being finite."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How to train; a technique fills it from its `Config`."""

    steps: int
    lr: float
    """Highest learning rate."""
    optimizer: OptimizerName = "adamw"
    weight_decay: float = 0.05
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    clip_norm: float | None = 1.0
    """Highest norm of the gradient of all parameters together; None does not clip."""
    ema: float | None = None
    """Decay of the running average of the weights that is evaluated and kept; None keeps the weights themselves."""
    precision: Precision = "auto"
    """"auto": bfloat16 arithmetic where a GPU has it, else float32."""
    evaluate_every: int = 50
    """Steps between validations, finiteness checks and points of the curves."""
    patience: int | None = 10
    """Validations without improvement before stopping."""
    evaluate_first: bool = False
    """Whether the network is validated before the first step too: it may already be the best."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints; decides no result."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a training went.

    Attributes:
        steps: Steps run, over all interruptions.
        best_step: Step whose weights the network now has.
        best_value: Validation loss there; None without validation.
        stopped_early: Whether patience ended it.
        precision: "fp32" or "bf16".
        curves: Name -> list of (step, value): train_loss, with validation val_loss, and the figures of `look`.
        collapsed: Why `look` ended it as useless; None where it did not.
    """

    steps: int
    best_step: int
    best_value: float | None
    stopped_early: bool
    precision: str
    curves: dict[str, list[tuple[float, float]]]
    collapsed: str | None = None


@dataclass
class _Progress:
    """What changes while training; with the network and optimizer it is all that a checkpoint holds."""

    stopper: EarlyStopping
    step: int = 0
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    finite: torch.Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.bool))
    train_loss: list[tuple[float, float]] = field(default_factory=list)
    val_loss: list[tuple[float, float]] = field(default_factory=list)
    figures: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    stopped: bool = False
    collapsed: str | None = None


def choose_precision(wanted: Precision, device: str) -> Literal["fp32", "bf16"]:
    """Settle "auto" for a device.

    Raises:
        ConfigError: If bfloat16 is asked of a GPU that has none.
    """
    gpu = device.startswith("cuda")
    has_it = gpu and torch.cuda.is_bf16_supported()
    if wanted == "auto":
        return "bf16" if has_it else "fp32"
    if wanted == "bf16" and gpu and not has_it:
        raise ConfigError("`precision: bf16` is not possible on this GPU; use `fp32` or `auto`.")
    return wanted


def train(
    network: nn.Module,
    step_loss: StepLoss,
    *,
    settings: LoopSettings,
    seed: int,
    device: str,
    folder: Path,
    parts: Sequence[tuple[nn.Module, float]] | None = None,
    validate: Validate | None = None,
    look: Look | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train a network in place; an interrupted training goes on from `folder`'s checkpoint as if nothing had happened.

    Args:
        network: Trained on `device` and left there, in evaluation mode, with the best weights (with `validate`), else
            the last, averaged where `ema` is set.
        step_loss: Loss of one step. It draws from its generator or from torch's own, which is seeded for each step.
        seed: Of all randomness.
        folder: Where the checkpoint lives; removed when the training is done.
        parts: Pairs (module, factor on the learning rate); the whole network with 1 if None.
        validate: What early stopping watches; only where the budget allows choices.
        look: Called at the end of every interval; it may end the training as useless. The weights are then the last.
        say: Takes lines of progress.

    Raises:
        TrainingDiverged: If loss or gradient stop being finite; the network then has its last good weights, which are
            also in `folder`.
    """
    loop = _Loop(network, step_loss, settings, seed, device, Path(folder), parts, validate, look, say)
    with seeding.own_randomness(device), seeding.repeatable(device):
        return loop.run()


class _Loop:
    """One training; see `train`."""

    def __init__(
        self,
        network: nn.Module,
        step_loss: StepLoss,
        settings: LoopSettings,
        seed: int,
        device: str,
        folder: Path,
        parts: Sequence[tuple[nn.Module, float]] | None,
        validate: Validate | None,
        look: Look | None,
        say: Callable[[str], None],
    ) -> None:
        self.step_loss, self.settings, self.seed, self.device = step_loss, settings, seed, device
        self.folder, self.validate, self.look, self.say = folder, validate, look, say
        self.precision = choose_precision(settings.precision, device)
        self.fabric = _make_fabric(device, self.precision)
        groups = parameter_groups(parts or [(network, 1.0)], lr=settings.lr, weight_decay=settings.weight_decay)
        optimizer = make_optimizer(groups, settings.optimizer)
        self.network = network.to(memory_format=torch.channels_last)
        self.wrapped, self.optimizer = self.fabric.setup(self.network, optimizer)
        self.trainable = [one for group in groups for one in group["params"]]
        self.frozen = frozenset(name for name, one in self.network.named_parameters() if not one.requires_grad)
        self.average = copy.deepcopy(self.network).requires_grad_(False) if settings.ema is not None else None
        self.now = _Progress(EarlyStopping(settings.patience))
        self.now.loss_sum = self.now.loss_sum.to(device)
        self.now.finite = self.now.finite.to(device)
        self.key = make_key(
            settings, seed, sorted((name, list(one.shape)) for name, one in network.state_dict().items())
        )
        self.last_said = self.last_saved = time.monotonic()

    def run(self) -> Trained:
        self._resume()
        settings, now = self.settings, self.now
        self.last_good = copy_state(self._state(self.network))
        self.last_good_step = now.step
        if settings.evaluate_first and now.step == 0 and not now.val_loss and self.validate is not None:
            self._validate()
        while now.step < settings.steps and not now.stopped:
            self._step()
            if now.step % settings.evaluate_every == 0 or now.step == settings.steps:
                self._close_interval()
            if time.monotonic() - self.last_saved >= settings.checkpoint_seconds and now.step < settings.steps:
                self._save()
        best_step = now.step
        if self.average is not None:
            self._load(self._state(self.average))
        if now.stopper.best_state:
            self._load(now.stopper.best_state)
            best_step = now.stopper.best_step
        self.network.eval()
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        curves = {"train_loss": now.train_loss} | ({"val_loss": now.val_loss} if self.validate else {}) | now.figures
        return Trained(
            steps=now.step,
            best_step=best_step,
            best_value=now.stopper.best_value if now.stopper.best_state else None,
            stopped_early=now.stopped and now.collapsed is None,
            precision=self.precision,
            curves=curves,
            collapsed=now.collapsed,
        )

    def _state(self, network: nn.Module) -> State:
        """What training may change in a network: frozen weights are left out, and cost no copies."""
        return {name: one for name, one in network.state_dict().items() if name not in self.frozen}

    def _load(self, state: Mapping[str, torch.Tensor], network: nn.Module | None = None) -> None:
        missing, unexpected = (network or self.network).load_state_dict(dict(state), strict=False)
        assert not unexpected and set(missing) <= self.frozen, (missing, unexpected)

    def _step(self) -> None:
        """One step: forward, backward, clip, update, average. Nothing here waits for the device."""
        settings, now = self.settings, self.now
        set_lr(
            self.optimizer,
            lr_factor(now.step, steps=settings.steps, schedule=settings.schedule, warmup=settings.warmup),
        )
        self.wrapped.train()
        seeding.seed_layers(self.seed, now.step)
        generator = seeding.step_generator(self.seed, "step", now.step, device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        found = self.step_loss(self.wrapped, now.step, generator)
        loss = torch.zeros((), device=self.device)
        for part in (found,) if isinstance(found, torch.Tensor) else found:
            self.fabric.backward(part)
            loss += part.detach().float()
        now.finite &= torch.isfinite(loss)
        if settings.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.trainable, settings.clip_norm)
            now.finite &= torch.isfinite(norm)
        self.optimizer.step()
        now.loss_sum += loss
        if self.average is not None:
            assert settings.ema is not None
            _move_average(self.average, self.network, decay=settings.ema)
        now.step += 1

    def _close_interval(self) -> None:
        """Read the losses of the interval, check that all is finite, validate, decide whether to stop."""
        now, every = self.now, self.settings.evaluate_every
        self._require_finite()
        count = (now.step - 1) % every + 1
        now.train_loss.append((now.step, float(now.loss_sum) / count))
        now.loss_sum.zero_()
        line = f"step {now.step} of {self.settings.steps}: loss {now.train_loss[-1][1]:.4f}"
        if self.validate is not None:
            line += f", validation {self._validate():.4f}"
        if self.look is not None:
            self._look()
        self.last_good, self.last_good_step = copy_state(self._state(self.network)), now.step
        if time.monotonic() - self.last_said >= SECONDS_BETWEEN_LINES:
            self.say(line)
            self.last_said = time.monotonic()

    def _validate(self) -> float:
        assert self.validate is not None
        network, now = self.average or self.network, self.now
        network.eval()
        with torch.no_grad():
            value = float(self.validate(network))
        now.val_loss.append((now.step, value))
        now.stopped = now.stopper.update(now.step, value, self._state(network))
        return value

    def _look(self) -> None:
        """Keep the figures of a look; end the training where it says so."""
        assert self.look is not None
        network, now = self.average or self.network, self.now
        network.eval()
        with torch.no_grad():
            found = self.look(network, now.step)
        for name, value in found.figures.items():
            now.figures.setdefault(name, []).append((now.step, float(value)))
        if found.useless is not None:
            now.stopped, now.collapsed = True, found.useless
            self.say(f"Training ends at step {now.step}: {found.useless}")

    def _require_finite(self) -> None:
        weights = all(bool(torch.isfinite(one).all()) for one in self.trainable)
        if bool(self.now.finite) and weights:
            return
        self._load(self.last_good)
        self.network.eval()
        write_checkpoint(self.folder / LAST_GOOD, {"step": self.last_good_step, "network": _to_cpu(self.last_good)})
        raise TrainingDiverged(
            f"Training stopped: the loss is not finite between steps {self.last_good_step} and {self.now.step} "
            f"(lr {self.settings.lr:g}, {self.precision}); lower `lr` or set `precision: fp32`. The last good weights are "
            f"in {self.folder / LAST_GOOD}."
        )

    def _save(self) -> None:
        self._require_finite()
        now = self.now
        content = {
            "key": self.key,
            "network": self._state(self.network),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self._state(self.average),
            "stopper": now.stopper.to_plain(),
            "step": now.step,
            "loss_sum": now.loss_sum,
            "train_loss": now.train_loss,
            "val_loss": now.val_loss,
            "figures": now.figures,
            "stopped": now.stopped,
            "collapsed": now.collapsed,
        }
        write_checkpoint(self.folder / CHECKPOINT, content)
        self.last_saved = time.monotonic()

    def _resume(self) -> None:
        found = read_checkpoint(self.folder / CHECKPOINT)
        if found is None:
            return
        if found.get("key") != self.key:
            self.say(f"{self.folder / CHECKPOINT} belongs to other settings; training starts again.")
            return
        self._load(found["network"])
        self.optimizer.load_state_dict(found["optimizer"])
        if self.average is not None:
            self._load(found["average"], self.average)
        now = self.now
        now.stopper.restore(found["stopper"])
        now.stopper.best_state = {name: one.to(self.device) for name, one in now.stopper.best_state.items()}
        now.step, now.stopped = found["step"], found["stopped"]
        now.loss_sum = found["loss_sum"].to(self.device)
        now.train_loss, now.val_loss = list(found["train_loss"]), list(found["val_loss"])
        # a checkpoint of an earlier version has no figures: nothing looked
        now.figures, now.collapsed = found.get("figures", {}), found.get("collapsed")
        self.say(f"Going on from step {now.step} of {self.settings.steps}.")


def _make_fabric(device: str, precision: str) -> Fabric:
    from lightning_fabric import Fabric

    kind, _, index = device.partition(":")
    devices: Any = [int(index or 0)] if kind == "cuda" else 1
    return Fabric(accelerator=kind, devices=devices, precision="bf16-mixed" if precision == "bf16" else "32-true")


@torch.no_grad()
def _move_average(average: nn.Module, network: nn.Module, *, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network; buffers (BatchNorm's statistics) are copied."""
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
    for kept, now in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(now)


def _to_cpu(state: Mapping[str, torch.Tensor]) -> State:
    return {name: value.cpu() for name, value in state.items()}
