"""Fine-tuning: train the whole network, or only a linear head, on the labels of a budget.

The usual recipe, the baseline that other ways of using few labels have to beat: cross-entropy, AdamW, warm-up and cosine,
light augmentation on the device, a backbone rate below the head's (from pretrained weights), early stopping on the part
of the budget set aside for it. Where the budget allows no such part the number of steps is fixed, and the record says so.
Study file: `adapt: {method: finetune, steps: 300}`; `weights: none` trains from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.hashing import derive_seed
from wazuka.data.augment import augment
from wazuka.data.views import Images, LabeledImages
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import BATCH
from wazuka.nn.network import Classifier
from wazuka.nn.normalize import from_unit, to_unit
from wazuka.nn.predictors import LinearHead, Network, to_probabilities
from wazuka.training.loop import LoopSettings, Precision, Trained, train
from wazuka.training.optim import OptimizerName, Schedule
from wazuka.training.roles import Adapter, AdaptTask, Fitted, Runtime
from wazuka.training.sampling import BalancedRows, ShuffledRows
from wazuka.training.thresholds import DEFAULT, choose_threshold

DEFAULT_EPOCHS = 30
MIN_STEPS, MAX_STEPS = 100, 2000
"""Bounds on the steps that `DEFAULT_EPOCHS` comes to; our choice."""
PRETRAINED_LR, SCRATCH_LR, HEAD_LR = 1e-4, 1e-3, 3e-3
"""Learning rates where none is given; our choice."""
EVALUATIONS = 20
"""Validations of a training, at most one an epoch."""
RESIDENT_BYTES = 2**30
"""Pixels up to this size are kept on the device for the whole training."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `finetune`."""

    train: Literal["all", "head"] = "all"
    """What is trained: the whole network, or a linear head on the frozen backbone."""
    steps: int | None = None
    """Steps of the optimizer. Neither `steps` nor `epochs`: 30 epochs, at least 100 and at most 2,000 steps."""
    epochs: int | None = None
    """Passes over the training rows, instead of `steps`."""
    batch: int = 32
    """Images a step (fewer where the budget has fewer)."""
    lr: float | None = None
    """Highest learning rate. Default: 1e-4 for pretrained weights, 1e-3 from scratch, 3e-3 for a head."""
    weight_decay: float = 0.05
    """Decay of all matrices and kernels (AdamW's decoupled form)."""
    head_lr_factor: float = 10.0
    """The head's learning rate relative to the backbone's; without meaning where only a head or from scratch is trained."""
    optimizer: OptimizerName = "adamw"
    """adamw or sgd."""
    schedule: Schedule = "cosine"
    """cosine, one-cycle or constant."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    clip_norm: float | None = 1.0
    """Highest norm of the gradient."""
    ema: float | None = None
    """Decay of a running average of the weights (0.99, say), which is then evaluated and kept."""
    precision: Precision = "auto"
    """auto (bfloat16 where a GPU has it), fp32 or bf16."""
    augment: Literal["none", "light", "strong"] = "light"
    """Strength of augmentation."""
    patience: int = 6
    """Validations without improvement before stopping, where the budget allows validation."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same in the loss; the head's bias is corrected afterwards, so that probabilities
    still follow the classes' shares."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """balanced: each class comes equally often; the head's bias is corrected likewise."""
    seed: int = 0
    """Changes the draws of this method, beside the study's seed."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"`steps: {self.steps}` and `epochs: {self.epochs}` are both given; give one of them.")
        for name in ("steps", "epochs", "batch", "lr", "head_lr_factor", "patience", "clip_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` is {value}; give a number above 0.")
        for name, most in (("weight_decay", None), ("warmup", 1.0), ("label_smoothing", 1.0), ("ema", 1.0)):
            value = getattr(self, name)
            if value is not None and (value < 0 or (most is not None and value >= most)):
                raise ValueError(
                    f"`{name}` is {value}; give a number from 0{f' to below {most:g}' if most else ' on'}."
                )


@dataclass(frozen=True)
class _Data:
    """The budget's pixels, normalized batch by batch on the device.

    Attributes:
        resident: All pixels on the device, where they fit; else they are read step by step.
    """

    images: Images
    encoder: Encoder
    intensity: str
    window: str | None
    device: str
    resident: torch.Tensor | None

    def unit(self, positions: np.ndarray) -> torch.Tensor:
        """Images at `positions`, (B, C, H, W) float32 in [0, 1]."""
        if self.resident is not None:
            pixels = self.resident[torch.from_numpy(positions).to(self.device)]
        else:
            pixels = torch.from_numpy(self.images.batch(positions)).to(self.device, non_blocking=True)
        return to_unit(pixels, intensity=self.intensity, window=self.window)

    def logits(self, network: nn.Module, positions: np.ndarray) -> torch.Tensor:
        """Outputs of a network in evaluation mode, (n, classes) float32."""
        parts = [positions[start : start + BATCH] for start in range(0, len(positions), BATCH)]
        with torch.no_grad():
            return torch.cat([network(from_unit(self.unit(part), self.encoder)).float() for part in parts])


def fit(tasks: Sequence[AdaptTask], *, config: Config, runtime: Runtime) -> list[Fitted]:
    """Fine-tune one network for each task."""
    return [_fit_one(task, config=config, runtime=runtime) for task in tasks]


def _fit_one(task: AdaptTask, *, config: Config, runtime: Runtime) -> Fitted:
    labeled, encoder, device = task.labeled, task.encoder, runtime.device
    seed = derive_seed(task.seed, "finetune", config.seed)
    data = _open_data(task, device=device)
    is_val = labeled.is_val if task.inner_split else np.zeros(len(labeled), bool)
    train_rows, val_rows = np.flatnonzero(~is_val), np.flatnonzero(is_val)
    targets = torch.from_numpy(_targets(labeled, len(task.classes))).to(device)
    weights, shift = _class_weights(labeled.labels[train_rows], len(task.classes), config)
    row_weights = torch.from_numpy(weights[labeled.labels].astype(np.float32)).to(device)
    network = Classifier(encoder.build(), encoder.feature_dim, len(task.classes))
    if config.train == "head":
        network.backbone = _Frozen(network.backbone, data.logits(network.backbone.to(device), train_rows))
    settings = _settings(config, len(train_rows), from_scratch=not encoder.pretrained, validated=len(val_rows) > 0)
    sampler = _sampler(config, labeled.labels[train_rows], seed=derive_seed(seed, "order"))

    def step_loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        rows = train_rows[sampler(step)]
        images = augment(data.unit(rows), config.augment, generator=generator)
        index = torch.from_numpy(rows).to(device)
        logits = model(from_unit(images, encoder))
        each = functional.cross_entropy(
            logits, targets[index], reduction="none", label_smoothing=config.label_smoothing
        )
        return (each * row_weights[index]).mean()

    def validate(model: nn.Module) -> float:
        index = torch.from_numpy(val_rows).to(device)
        each = functional.cross_entropy(data.logits(model, val_rows), targets[index], reduction="none")
        return float((each * row_weights[index]).sum() / row_weights[index].sum())

    factor = 1.0 if config.train == "head" or not encoder.pretrained else config.head_lr_factor
    trained = train(
        network,
        step_loss,
        settings=settings,
        seed=seed,
        device=device,
        folder=runtime.folder,
        parts=[(network.backbone, 1.0), (network.head, factor)],
        validate=validate if len(val_rows) else None,
        say=runtime.say,
    )
    with torch.no_grad():
        network.head.bias.sub_(torch.from_numpy(shift).to(network.head.bias))
    threshold, how = _threshold(task, data, network, val_rows)
    notes = _notes(config, settings, trained, rows=len(train_rows), val_rows=len(val_rows)) | {"threshold": how}
    predictor = _predictor(task, data, network.cpu(), config)
    notes["trained_params"] = predictor.trained_params
    return Fitted(predictor=predictor, threshold=threshold, notes=notes, curves=trained.curves)


class _Frozen(nn.Module):
    """A backbone that training leaves untouched (evaluation mode always, no gradient), its features standardized.

    Args:
        backbone: (B, 3, H, W) -> (B, dim).
        features: Of the training rows, (n, dim): their mean and deviation are taken out of all features.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, backbone: nn.Module, features: torch.Tensor) -> None:
        super().__init__()
        self.inner = backbone.requires_grad_(False)
        deviation = features.std(dim=0, correction=0)
        self.register_buffer("mean", features.mean(dim=0))
        self.register_buffer("scale", torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def train(self, mode: bool = True) -> _Frozen:
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return (self.inner(images) - self.mean) / self.scale


def _open_data(task: AdaptTask, *, device: str) -> _Data:
    """Move the budget's pixels to a GPU where they fit; on a CPU the memory-mapped cache is as near."""
    images = task.labeled.images
    size = len(images) * int(np.prod(images.shape)) * images.pixels.itemsize
    resident = None
    if device.startswith("cuda") and size <= RESIDENT_BYTES:
        resident = torch.from_numpy(images.batch(np.arange(len(images)))).to(device)
    return _Data(images, task.encoder, task.intensity, task.window, device, resident)


def _targets(labeled: LabeledImages, classes: int) -> np.ndarray:
    """Class probabilities to learn, (n, classes) float32: the annotators' votes where they are given."""
    if labeled.soft_labels is not None:
        return labeled.soft_labels.astype(np.float32)
    return np.eye(classes, dtype=np.float32)[labeled.labels]


def _class_weights(labels: np.ndarray, classes: int, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return (weight of each class in the loss, shift that takes the changed class shares out of the logits again).

    Weighting class c by w_c, like drawing it w_c times as often, adds log w_c to the optimal logit of c.
    """
    share = np.maximum(np.bincount(labels, minlength=classes), 1) / len(labels)
    balance = 1 / (share * classes)
    weights = balance if config.class_weights == "balanced" else np.ones(classes)
    drawn = balance if config.sampling == "balanced" else np.ones(classes)
    return weights, np.log(weights * drawn)


def _settings(config: Config, rows: int, *, from_scratch: bool, validated: bool) -> LoopSettings:
    """Settle what depends on the budget."""
    epoch = max(1, -(-rows // min(config.batch, rows)))
    steps = config.steps
    if steps is None and config.epochs is not None:
        steps = config.epochs * epoch
    if steps is None:
        steps = min(MAX_STEPS, max(MIN_STEPS, DEFAULT_EPOCHS * epoch))
    default = HEAD_LR if config.train == "head" else SCRATCH_LR if from_scratch else PRETRAINED_LR
    return LoopSettings(
        steps=steps,
        lr=config.lr or default,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        ema=config.ema,
        precision=config.precision,
        evaluate_every=max(epoch, -(-steps // EVALUATIONS)),
        patience=config.patience if validated else None,
    )


def images_trained(config: Config, labels: int) -> int:
    """Images that a training on so many labels passes through the network, if early stopping does not end it."""
    return _settings(config, labels, from_scratch=False, validated=False).steps * min(config.batch, labels)


def _sampler(config: Config, labels: np.ndarray, *, seed: int) -> ShuffledRows | BalancedRows:
    if config.sampling == "balanced":
        return BalancedRows(labels, config.batch, seed=seed)
    return ShuffledRows(len(labels), config.batch, seed=seed)


def _threshold(task: AdaptTask, data: _Data, network: nn.Module, val_rows: np.ndarray) -> tuple[float, str]:
    """Choose the decision threshold on the validation rows, where there are any."""
    if task.positive is None or len(task.classes) != 2:
        return DEFAULT, "none: not a two-class task"
    if not len(val_rows):
        return DEFAULT, "0.5: the budget allows no inner split"
    probs = to_probabilities(data.logits(network, val_rows).double().cpu().numpy())[:, task.positive]
    labels = task.labeled.labels[val_rows] == task.positive
    if labels.all() or not labels.any():
        return DEFAULT, "0.5: the validation rows are of one class"
    return choose_threshold(labels, probs), "highest balanced accuracy on the validation rows"


def _predictor(task: AdaptTask, data: _Data, network: Classifier, config: Config) -> LinearHead | Network:
    """A trained head needs only itself beside the encoder; a trained network is kept whole."""
    how: dict[str, Any] = {"intensity": data.intensity, "window": data.window}
    if config.train == "head":
        assert isinstance(network.backbone, _Frozen)
        mean, scale = (one.numpy().astype(np.float64) for one in (network.backbone.mean, network.backbone.scale))
        weight = network.head.weight.detach().numpy().T.astype(np.float64)
        bias = network.head.bias.detach().numpy().astype(np.float64)
        how |= {"mean": mean, "scale": scale, "weight": weight, "bias": bias}
        return LinearHead(encoder=task.encoder, classes=task.classes, **how)
    count = sum(one.numel() for one in network.parameters() if one.requires_grad)
    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    return Network(encoder=task.encoder, classes=task.classes, state=state, trained_params=count, **how)


def _notes(config: Config, settings: LoopSettings, trained: Trained, *, rows: int, val_rows: int) -> dict[str, Any]:
    """What the record should say."""
    stopping = (
        "validation loss inside the budget" if val_rows else "none: the budget allows no inner split; fixed steps"
    )
    return {
        "train": config.train,
        "train_rows": rows,
        "val_rows": val_rows,
        "steps_planned": settings.steps,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "best_val_loss": trained.best_value,
        "stopped_early": trained.stopped_early,
        "early_stopping": stopping,
        "batch": min(config.batch, rows),
        "lr": settings.lr,
        "precision": trained.precision,
        "bias_corrected": config.class_weights == "balanced" or config.sampling == "balanced",
    }


METHOD = Adapter(
    name="finetune",
    config=Config,
    summary="train the network, or its head, on the budget's labels, with early stopping inside the budget",
    code_version=1,
    input="pixels",
    fit=fit,
    backbone_kinds=("torch",),
    cites=(
        "Yosinski, Clune, Bengio & Lipson (2014). How transferable are features in deep neural networks? NeurIPS. "
        "arXiv:1411.1792.",
        "Loshchilov & Hutter (2019). Decoupled weight decay regularization. ICLR. arXiv:1711.05101.",
    ),
    images_trained=images_trained,
)
