"""MSG-GAN: a generator with an image at every scale, against a discriminator that sees all of them.

Karnewar & Wang (2020), MSG-GAN (CVPR, arXiv:1903.06048), ProGAN form; used for histopathology patches in Aytar & Gunduc
(2024, arXiv:2405.16286). Networks: `nn.msg_gan`; loop, averaging and monitors: `training.adversarial`. Draws
and losses of a step (relativistic average hinge, WGAN-GP, non-saturating with or without R1, penalties as means over the
scales): `training.gan_game`; under differential privacy (`dp`, non-saturating only): `training.private_game`. Ours: one
conditional generator (projection discriminator that also sees real images under another class) for all classes and
differentiable augmentation for few images.
Study file: `synthesize: {method: msg-gan, steps: 3000, latent: 128}`; `wazuka synthesize msg-gan DATASET --out DATASET2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.core.hashing import derive_seed
from wazuka.nn.msg_gan import (
    LARGEST,
    SMALLEST,
    Combine,
    Discriminator,
    Generator,
    MsgGanGenerator,
    draw_latents,
)
from wazuka.nn.rows import ArrayImages, ImageRows
from wazuka.training import diff_augment, seeding
from wazuka.training.adversarial import AdversarialSettings, TrainedPair, seconds_per_step, train
from wazuka.training.batches import require_range
from wazuka.training.gan_game import GanGame, Loss
from wazuka.training.image_grid import write_grid
from wazuka.training.loop import Precision
from wazuka.training.private import require_opacus
from wazuka.training.private_game import PrivateGame
from wazuka.training.pyramid_images import Flips
from wazuka.training.roles import Generated, Runtime, SynthesisTask, Synthesizer
from wazuka.training.sample_monitor import Quality, SampleMonitor

MONITORS = 20
"""Looks at the images in a training where `monitor_every` is not given."""
WON_BELOW = 1e-3
"""Loss of a discriminator that recognizes every image (with `mismatch` also every class), for the losses that end at 0."""
ALIKE_UNTIL = 500
"""Steps in which images may be alike without being called a collapse, where the image layers start at zero."""
GRID_COLUMNS = 8
MONITORS_COST = 1.1
"""Time of a training with its monitors relative to its steps alone."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `msg-gan`."""

    steps: int = 3000
    """Steps, each of one update of the discriminator and one of the generator; of all pairs together with `per-class`."""
    batch: int = 16
    """Real images a step, and as many generated ones (fewer where there are fewer real ones)."""
    size: int | None = None
    """Side of the images, 32, 64, 128 or 256. Default: the largest of these that the images have. Images of another size
    are resized for training and back."""
    latent: int = 128
    """Length of the latent vector and width of the coarse levels: 32, 64, 128, 256 or 512."""
    lr: float = 0.003
    """Learning rate of both networks, constant (their layers are scaled to learn at one rate)."""
    betas: tuple[float, float] = (0.0, 0.99)
    """Adam's decays."""
    loss: Loss = "ra-hinge"
    """ra-hinge (relativistic average hinge), wgan-gp, ns-r1 (non-saturating with the R1 penalty) or ns (without it)."""
    mismatch: float | None = None
    """Weight of real images under another class among the false ones, so that the classes are learned early. Default: 1 with
    `projection`; 0 else and with `dp`."""
    gamma: float = 1.0
    """Weight of R1 (half of it is used, as usual)."""
    penalty: float = 10.0
    """Weight of WGAN-GP's gradient penalty."""
    drift: float = 0.001
    """Weight of WGAN-GP's squared scores of real images, which keeps them near 0."""
    combine: Combine = "lin-cat"
    """How the discriminator joins an image with the finer level's features: simple, lin-cat or cat-lin."""
    conditional: Literal["projection", "per-class", "none"] = "projection"
    """projection: one generator that takes the class; per-class: one for each class; none: images without labels."""
    start: Literal["zero", "normal"] = "zero"
    """Weights of the layers that give images: zero, so that the first steps do not unlearn the latent vector (see the docs),
    or normal, as in the published code."""
    ema: float = 0.999
    """Decay of the running average of the generator's weights, which is what is kept."""
    augment: diff_augment.Policy = "adaptive"
    """Differentiable augmentation: none, light (color, shift), strong (and cutout), adaptive (strong, by overfitting: from
    the first step it slows a short training down)."""
    flips: Flips = "horizontal"
    """Flips of real images, each with chance 1/2; all: up and down too, where the images have no orientation."""
    precision: Precision = "auto"
    """auto: bfloat16 arithmetic where a GPU has it; fp32, bf16."""
    compile: bool = False
    """Whether `torch.compile` is used; only with `ra-hinge`: the penalties need gradients of gradients."""
    monitor_every: int | None = None
    """Steps between looks at the images. Default: 20 looks."""
    patience: int | None = 6
    """Looks without a smaller distance before stopping, where the budget allows validation."""
    clip: float = 1.0
    """Largest norm of an image's gradient in the discriminator; with `dp` only."""
    seed: int = 0
    """Changes the draws of this method, beside the study's seed."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size not in (32, 64, 128, 256):
            raise ValueError(f"`size` is {self.size}; give 32, 64, 128 or 256.")
        if self.latent not in (32, 64, 128, 256, 512):
            raise ValueError(f"`latent` is {self.latent}; give 32, 64, 128, 256 or 512.")
        if self.compile and self.loss != "ra-hinge":
            raise ValueError(f"`compile: true` is not possible with `loss: {self.loss}`; set `compile: false`.")
        positive = ("steps", "batch", "lr", "monitor_every", "patience", "clip")
        require_range({name: getattr(self, name) for name in positive}, above=0)
        require_range(
            {name: getattr(self, name) for name in ("gamma", "penalty", "drift")} | {"mismatch": self.mismatch or 0}
        )
        if self.mismatch and self.conditional != "projection":
            raise ValueError(
                f"`mismatch` is {self.mismatch:g} with `conditional: {self.conditional}`; only `conditional: projection` has it."
            )
        require_range({"ema": self.ema, "betas[0]": self.betas[0], "betas[1]": self.betas[1]}, below=1)


def make_game(
    images: ImageRows,
    labels: np.ndarray | None,
    *,
    size: int,
    config: Config,
    intensity: str,
    window: str | None,
    device: str,
    seed: int,
) -> GanGame:
    """The draws and losses of a training, as configured; arguments as in `training.gan_game.GanGame`."""
    names = ("latent", "batch", "steps", "loss", "gamma", "penalty", "drift", "augment", "flips")
    own = {name: getattr(config, name) for name in names} | {
        "mismatch": 1.0 if config.mismatch is None else config.mismatch
    }
    return GanGame(images, labels, size=size, intensity=intensity, window=window, device=device, seed=seed, **own)


def settle_size(config: Config, shape: tuple[int, int, int]) -> int:
    """Side of the networks' images: as configured, else the largest power of two that the images have."""
    if config.size is not None:
        return config.size
    side = min(shape[:2])
    return max(SMALLEST, min(LARGEST, 1 << (side.bit_length() - 1)))


def build_networks(
    config: Config, *, size: int, channels: int, classes: int, seed: int, deviation: bool = True
) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator, freshly drawn; `classes` above 0 for conditional ones, `deviation` as of the latter."""
    with seeding.own_randomness("cpu"):
        torch.manual_seed(derive_seed(seed, "weights"))
        generator = Generator(size, config.latent, channels=channels, classes=classes)
        discriminator = Discriminator(
            size, config.latent, channels=channels, classes=classes, combine=config.combine, deviation=deviation
        )
    if config.start == "zero":
        for name, weights in generator.to_image.named_parameters():
            if name.endswith("weight"):
                nn.init.zeros_(weights)
    return generator, discriminator


def check_private(config: Config) -> None:
    """Refuse settings under which something besides clipped gradients would look at real images.

    Raises:
        ConfigError: With the setting that would be right.
    """
    if config.loss != "ns":
        raise ConfigError(
            f"`loss: {config.loss}` has no private form (penalties, and losses over a batch, mix images); with `dp` use"
            " `loss: ns`."
        )
    if config.augment == "adaptive":
        raise ConfigError("`augment: adaptive` follows the scores of real images; with `dp` use none, light or strong.")
    if config.mismatch:
        raise ConfigError(f"`mismatch: {config.mismatch:g}` has no private form here; with `dp` leave it out.")
    if config.conditional == "per-class":
        raise ConfigError(
            "`conditional: per-class` would spend a budget for each class; with `dp` use `conditional: projection`, or none."
        )
    require_opacus()


def fit(task: SynthesisTask, *, config: Config, runtime: Runtime) -> Generated:
    """Train one pair of networks, or one per class in turn.

    Raises:
        ConfigError: If differential privacy is asked for and settings, delta or budget do not allow it.
        NotEnoughData: If a class has no image to train on.
    """
    if task.privacy is not None:
        check_private(config)
    names = task.classes if config.conditional != "none" and len(task.classes) > 1 else ("",)
    labels = np.zeros(len(task.images), np.int64) if names == ("",) else task.labels
    assert labels is not None, "this method needs labels"
    present = np.bincount(labels[~task.is_val], minlength=len(names)) > 0
    if not present.all():
        raise NotEnoughData(
            f"Class `{names[int(present.argmin())] or 'all'}` has no image to train on; give at least one of each class."
        )
    per_class = config.conditional == "per-class" and len(names) > 1
    parts = (
        [np.flatnonzero(labels == number) for number in range(len(names))] if per_class else [np.arange(len(labels))]
    )
    states, collapsed = [], []
    result: dict[str, dict[str, Any]] = {"notes": {}, "curves": {}, "pictures": {}}
    for number, rows in enumerate(parts):
        pair, notes, picture = _train_pair(task, config, runtime, labels, rows, number=number, parts=len(parts))
        prefix = f"{names[number]}: " if per_class else ""
        found = {"notes": notes, "curves": pair.curves, "pictures": {"scales": picture}}
        for kind, values in found.items():
            result[kind] |= {f"{prefix}{name}": one for name, one in values.items()}
        states.append(pair.state)
        collapsed += [prefix + pair.collapsed] if pair.collapsed else []
    for number in range(len(parts)):
        (runtime.folder / _checkpoint(number)).unlink(missing_ok=True)
    return Generated(generator=_generator(task, config, states), collapsed=" ".join(collapsed) or None, **result)


def _checkpoint(number: int) -> str:
    return f"checkpoint_{number}.pt"


def _conditional(task: SynthesisTask, config: Config) -> bool:
    return config.conditional == "projection" and len(task.classes) > 1


def _generator(task: SynthesisTask, config: Config, states: Sequence[dict[str, torch.Tensor]]) -> MsgGanGenerator:
    labeled = config.conditional != "none" or len(task.classes) == 1
    return MsgGanGenerator(
        classes=task.classes if labeled else (),
        shape=task.images.shape,
        intensity=task.intensity,
        window=task.window,
        size=settle_size(config, task.images.shape),
        latent=config.latent,
        conditional=_conditional(task, config),
        states=tuple(states),
    )


def _train_pair(
    task: SynthesisTask,
    config: Config,
    runtime: Runtime,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    number: int,
    parts: int,
) -> tuple[TrainedPair, dict[str, Any], str]:
    """Train on some of the task's rows: how it went, notes for the record, the picture's name."""
    device, size, conditional = runtime.device, settle_size(config, task.images.shape), _conditional(task, config)
    seed = derive_seed(task.seed, "msg-gan", config.seed, number)
    pixels = {"intensity": task.intensity, "window": task.window, "device": device}
    train_rows, count = rows[~task.is_val[rows]], len(task.classes) if conditional else 0
    steps, images = max(1, config.steps // parts), task.images.take(train_rows)
    own_labels = labels[train_rows] if conditional else None
    game: GanGame | PrivateGame
    monitor: SampleMonitor | None = None
    if task.privacy is not None:
        seed = derive_seed(seed, "dp", task.privacy.epsilon, task.privacy.delta, config.clip)  # no other's checkpoint
        game = PrivateGame(
            images,
            own_labels,
            classes=count,
            size=size,
            latent=config.latent,
            batch=config.batch,
            steps=steps,
            augment=config.augment,
            flips=config.flips,
            privacy=task.privacy,
            max_grad_norm=config.clip,
            seed=seed,
            **pixels,  # type: ignore[arg-type]
        )
    else:
        game = make_game(images, own_labels, size=size, config=config, seed=seed, **pixels)  # type: ignore[arg-type]
        monitor = SampleMonitor(
            task.images.take(rows),
            labels[rows],
            task.is_val[rows],
            encoder=task.encoder,
            seed=seed,
            **pixels,  # type: ignore[arg-type]
        )
    networks = build_networks(
        config, size=size, channels=images.shape[2], classes=count, seed=seed, deviation=task.privacy is None
    )
    picture = f"scales_{number}.png"
    latents = draw_latents(np.arange(GRID_COLUMNS), config.latent).to(device)
    shown = torch.arange(GRID_COLUMNS, device=device) % count if conditional else None

    def look(network: nn.Module, step: int) -> Quality:
        with torch.no_grad():
            write_grid(runtime.folder / picture, network(latents, shown), cell=size)
        if monitor is None or not isinstance(game, GanGame):
            return Quality()  # the others look at real images
        state = {name: one.detach().cpu().contiguous() for name, one in network.state_dict().items()}
        quality = monitor.measure(_generator(task, config, [state]))
        more = {} if game.adaptive is None else {"augment_chance": float(game.adaptive.chance)}
        return Quality(distance=quality.distance, diversity=quality.diversity, more=more)

    trained = train(
        *networks,
        game,
        settings=_settings(config, steps, task.privacy is not None),
        seed=seed,
        device=device,
        checkpoint=runtime.folder / _checkpoint(number),
        monitor=look,
        say=runtime.say,
    )
    networks[0].load_state_dict(trained.state)
    with torch.no_grad():
        write_grid(runtime.folder / picture, networks[0](latents, shown), cell=size)
    has_val = trained.best_distance is not None
    held_out = len(rows) - len(train_rows)
    why_not = "no validation rows" if held_out < 2 else "no monitor found sound images"
    if task.privacy is not None:
        why_not = "differential privacy"
    notes: dict[str, Any] = {
        "train_rows": len(train_rows),
        "val_rows": held_out,
        "size": size,
        "generator_params": sum(one.numel() for one in networks[0].parameters()),
        "discriminator_params": sum(one.numel() for one in networks[1].parameters()),
        "batch": game.batch,
        "steps_planned": steps,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "best_distance": trained.best_distance,
        "stopped_early": trained.stopped_early,
        "early_stopping": "feature distance inside the budget" if has_val else f"none: {why_not}; fixed steps",
        "precision": trained.precision,
    }
    if isinstance(game, PrivateGame):
        notes["privacy"] = game.gradients.notes(patients=task.patients[train_rows])
    return trained, notes, picture


def _settings(config: Config, steps: int, private: bool = False) -> AdversarialSettings:
    return AdversarialSettings(
        steps=steps,
        lr=config.lr,
        betas=config.betas,
        ema=config.ema,
        precision=config.precision,
        monitor_every=config.monitor_every or max(1, -(-steps // MONITORS)),
        patience=config.patience,
        judged_from=ALIKE_UNTIL if config.start == "zero" else 0,
        won_below=None if private or config.loss == "wgan-gp" else WON_BELOW,
        compile=config.compile,
    )


def expected_seconds(config: Config, images: int, shape: tuple[int, int, int], device: str) -> float:
    """Time of one training on so many images, from two steps on this machine."""
    size, count = settle_size(config, shape), max(1, min(images, config.batch))
    rows = ArrayImages(np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8))
    classes = 2 if config.conditional == "projection" else 0
    labels = np.arange(count, dtype=np.int64) % 2 if classes else None
    game = make_game(rows, labels, size=size, config=config, intensity="rgb8", window=None, device=device, seed=0)
    networks = build_networks(config, size=size, channels=shape[2], classes=classes, seed=0)
    measured = seconds_per_step(*networks, game, settings=_settings(config, config.steps), device=device)
    return measured * config.steps * MONITORS_COST


METHOD = Synthesizer(
    name="msg-gan",
    config=Config,
    summary="generator with an image at every scale, one for all classes or one per class, against one discriminator",
    code_version=2,
    fit=fit,
    needs="labels",
    private=True,
    check_private=check_private,
    presets={
        "smoke": {"steps": 8, "latent": 32, "size": 32, "batch": 8, "monitor_every": 4},
        "quick": {"steps": 1000, "latent": 64, "size": 32},
        "standard": {"steps": 3000, "latent": 128},
        "paper": {
            "steps": 40000,
            "latent": 512,
            "size": 64,
            "batch": 20,
            "conditional": "per-class",
            "augment": "none",
            "loss": "ra-hinge",
            "start": "normal",
        },
    },
    cites=(
        "Karnewar & Wang (2020). MSG-GAN: Multi-scale gradients for generative adversarial networks. CVPR. "
        "arXiv:1903.06048.",
        "Aytar & Gunduc (2024). Generation of synthetic data using breast cancer dataset and classification with resnet18. "
        "arXiv:2405.16286.",
        "Miyato & Koyama (2018). cGANs with projection discriminator. ICLR. arXiv:1802.05637.",
        "Reed, Akata, Yan, Logeswaran, Schiele & Lee (2016). Generative adversarial text to image synthesis. ICML. "
        "arXiv:1605.05396.",
        "Zhao, Liu, Lin, Zhu & Han (2020). Differentiable augmentation for data-efficient GAN training. NeurIPS. "
        "arXiv:2006.10738.",
    ),
    expected_seconds=expected_seconds,
)
