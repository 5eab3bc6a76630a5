"""Fine-tuning: train the whole network, or only a linear head, on the labels of a budget.

The usual recipe, the baseline that other ways of using few labels have to beat: cross-entropy, AdamW, warm-up and cosine,
light augmentation on the device, a backbone rate below the head's (from pretrained weights), early stopping on the part
of the budget set aside for it. Where the budget allows no such part the number of steps is fixed, and the record says so.
With synthetic rows (`train_on`) the steps stay those of the real rows, and so do validation and threshold.
Study file: `adapt: {method: finetune, steps: 300}`; `weights: none` trains from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.hashing import derive_seed
from wazuka.nn.network import Classifier
from wazuka.nn.predictors import LinearHead, Network
from wazuka.training import batches, mixing
from wazuka.training.loop import LoopSettings, Precision, StepLoss
from wazuka.training.optim import OptimizerName, Schedule
from wazuka.training.roles import Adapter, AdaptTask, Fitted, Runtime

PRETRAINED_LR, SCRATCH_LR, HEAD_LR = 1e-4, 1e-3, 3e-3
"""Learning rates where none is given; our choice."""


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
        positive = ("steps", "epochs", "batch", "lr", "head_lr_factor", "patience", "clip_norm")
        batches.require_range({name: getattr(self, name) for name in positive}, above=0)
        batches.require_range({"weight_decay": self.weight_decay})
        shares = ("warmup", "label_smoothing", "ema")
        batches.require_range({name: getattr(self, name) for name in shares}, below=1)


def fit(tasks: Sequence[AdaptTask], *, config: Config, runtime: Runtime) -> list[Fitted]:
    """Fine-tune one network for each task."""
    return [_fit_one(task, config=config, runtime=runtime) for task in tasks]


def _fit_one(task: AdaptTask, *, config: Config, runtime: Runtime) -> Fitted:
    encoder, device, classes = task.encoder, runtime.device, len(task.classes)
    seed = derive_seed(task.seed, "finetune", config.seed)
    data = batches.open_images(task, mixing.pooled_images(task), device=device)
    train_rows, val_rows = batches.inner_rows(task)
    labels, targets = (torch.from_numpy(one).to(device) for one in mixing.pooled_labels(task))
    settings = _settings(config, len(train_rows), from_scratch=not encoder.pretrained, validated=len(val_rows) > 0)
    phases = mixing.plan_phases(
        task,
        train_rows,
        config.batch,
        steps=settings.steps,
        seed=derive_seed(seed, "order"),
        balance_classes=config.sampling == "balanced",
        weigh_classes=config.class_weights == "balanced",
    )
    shift = phases[-1].shift
    network = Classifier(encoder.build(), encoder.feature_dim, classes)
    if config.train == "head":
        network.backbone = _Frozen(network.backbone, data.outputs(network.backbone.to(device), train_rows))

    def loss_of(phase: mixing.Phase) -> StepLoss:
        class_weights = torch.from_numpy(phase.weights.astype(np.float32)).to(device)

        def step_loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
            rows = phase.rows(step)
            index = torch.from_numpy(rows).to(device)
            logits = model(data.inputs(rows, config.augment, generator=generator))
            each = functional.cross_entropy(
                logits, targets[index], reduction="none", label_smoothing=config.label_smoothing
            )
            return (each * class_weights[labels[index]]).mean()

        return step_loss

    def validate(model: nn.Module) -> float:
        return batches.validation_loss(data, model, val_rows, targets, shift)

    factor = 1.0 if config.train == "head" or not encoder.pretrained else config.head_lr_factor
    trained = mixing.train_phases(
        network,
        network.head,
        phases,
        loss_of,
        settings=settings,
        seed=seed,
        device=device,
        folder=runtime.folder,
        parts=[(network.backbone, 1.0), (network.head, factor)],
        validate=validate if len(val_rows) else None,
        say=runtime.say,
    )
    batches.correct_bias(network.head, shift)
    threshold, how = batches.threshold_on(task, data, network, val_rows)
    notes = {"train": config.train} | batches.training_notes(
        settings, trained, batch=config.batch, train_rows=train_rows, val_rows=val_rows
    )
    notes |= {"threshold": how, "bias_corrected": bool(np.any(shift)), "remedies": list(task.remedies)} | mixing.notes(
        task
    )
    predictor = _predictor(task, network.cpu(), config)
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


def _settings(config: Config, rows: int, *, from_scratch: bool, validated: bool) -> LoopSettings:
    """Settle what depends on the budget."""
    steps, every = batches.settle_steps(rows, config.batch, steps=config.steps, epochs=config.epochs)
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
        evaluate_every=every,
        patience=config.patience if validated else None,
    )


def images_trained(config: Config, labels: int) -> int:
    """Images that a training on so many labels passes through the network, if early stopping does not end it."""
    return _settings(config, labels, from_scratch=False, validated=False).steps * min(config.batch, labels)


def _predictor(task: AdaptTask, network: Classifier, config: Config) -> LinearHead | Network:
    """A trained head needs only itself beside the encoder; a trained network is kept whole."""
    if config.train == "all":
        return batches.to_network(task, network)
    assert isinstance(network.backbone, _Frozen)
    mean, scale = (one.cpu().numpy().astype(np.float64) for one in (network.backbone.mean, network.backbone.scale))
    return LinearHead(
        encoder=task.encoder,
        classes=task.classes,
        mean=mean,
        scale=scale,
        weight=network.head.weight.detach().cpu().numpy().T.astype(np.float64),
        bias=network.head.bias.detach().cpu().numpy().astype(np.float64),
        intensity=task.intensity,
        window=task.window,
    )


METHOD = Adapter(
    name="finetune",
    config=Config,
    summary="train the network, or its head, on the budget's labels, with early stopping inside the budget",
    code_version=2,
    input="pixels",
    remedies=("stain-jitter", "randaugment", "domain-balanced", "test-batchnorm"),
    fit=fit,
    synthetic=True,
    backbone_kinds=("torch",),
    cites=(
        "Yosinski, Clune, Bengio & Lipson (2014). How transferable are features in deep neural networks? NeurIPS. "
        "arXiv:1411.1792.",
        "Loshchilov & Hutter (2019). Decoupled weight decay regularization. ICLR. arXiv:1711.05101.",
    ),
    images_trained=images_trained,
)
