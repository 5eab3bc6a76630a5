"""FixMatch: the other training images teach, too, where the network is sure of them.

Sohn et al. (2020), arXiv:2001.07685, equations 3 and 4 and algorithm 1. Each step takes B labeled images, weakly augmented,
and mu B images without labels, each once weakly and once strongly augmented. Where the highest probability of the weak
version reaches tau, its class is the label of the strong version:

    loss = mean_B CE(y, p(weak)) + lambda_u * sum_{mu B} 1[max q >= tau] CE(argmax q, p(strong)) / (mu B)

with q = p(weak) as it is, without gradient. All three go through the network in one pass, so BatchNorm sees them together,
and the running average of the weights is what is evaluated and kept, both as in the paper. Ours: AdamW as in `finetune`
instead of SGD, few steps, early stopping inside the budget, strong augmentation as in `data/augment.py` (no cutout), and
the labeled images are not repeated among those without labels.
Study file: `adapt: {method: fixmatch, steps: 500}`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.hashing import derive_seed
from wazuka.nn.network import Classifier
from wazuka.training import batches
from wazuka.training.batches import TrainingImages
from wazuka.training.loop import LoopSettings, Precision, train
from wazuka.training.optim import OptimizerName, Schedule
from wazuka.training.roles import Adapter, AdaptTask, Fitted, Runtime
from wazuka.training.sampling import ShuffledRows

PRETRAINED_LR, SCRATCH_LR = 1e-4, 1e-3
"""Learning rates where none is given; those of `finetune`."""
LONGEST_AVERAGE = 0.999
"""The paper's decay of the weights' average (section 4), for its 2^20 steps."""
PREDICTED_DECAY = 0.99
"""Of the running mean of predictions for `distribution_alignment`; our choice (the paper averages 128 batches)."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `fixmatch`."""

    tau: float = 0.95
    """Probability from which a prediction becomes a label."""
    lambda_u: float = 1.0
    """Weight of the loss on images without labels."""
    mu: int = 7
    """Images without labels per labeled image of a batch (fewer where there are fewer)."""
    distribution_alignment: bool = False
    """Whether predictions on images without labels are scaled so that their mean follows the labels' class shares."""
    steps: int | None = None
    """Steps of the optimizer. Neither `steps` nor `epochs`: 30 epochs, at least 100 and at most 2,000 steps."""
    epochs: int | None = None
    """Passes over the labeled training rows, instead of `steps`."""
    batch: int = 16
    """Labeled images a step, B (fewer where the budget has fewer)."""
    lr: float | None = None
    """Highest learning rate. Default: 1e-4 for pretrained weights, 1e-3 from scratch."""
    weight_decay: float = 0.05
    """Decay of all matrices and kernels (AdamW's decoupled form)."""
    head_lr_factor: float = 10.0
    """The head's learning rate relative to a pretrained backbone's; without meaning from scratch."""
    optimizer: OptimizerName = "adamw"
    """adamw, or sgd as in the paper."""
    schedule: Schedule = "cosine"
    """cosine, one-cycle or constant."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    clip_norm: float | None = 1.0
    """Highest norm of the gradient."""
    ema: float | None = None
    """Decay of the running average of the weights that is evaluated and kept; 0 keeps the weights themselves. Default:
    1 - 10 / steps, at most 0.999, so that the average spans the last tenth of the training."""
    precision: Precision = "auto"
    """auto (bfloat16 where a GPU has it), fp32 or bf16."""
    augment: Literal["none", "light", "strong"] = "light"
    """The weak augmentation: of labeled images, and of those without labels to predict their class."""
    augment_strong: Literal["none", "light", "strong"] = "strong"
    """The strong augmentation of images without labels; the remedy `randaugment` is added to it, and to it only."""
    patience: int = 6
    """Validations without improvement before stopping, where the budget allows validation."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """balanced: each class comes equally often among the labeled images; the head's bias is corrected afterwards, so that
    probabilities still follow the labels' shares."""
    seed: int = 0
    """Changes the draws of this method, beside the study's seed."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"`steps: {self.steps}` and `epochs: {self.epochs}` are both given; give one of them.")
        positive = ("mu", "steps", "epochs", "batch", "lr", "head_lr_factor", "patience", "clip_norm")
        batches.require_range({name: getattr(self, name) for name in positive}, above=0)
        batches.require_range({name: getattr(self, name) for name in ("warmup", "ema")}, below=1)
        batches.require_range({"weight_decay": self.weight_decay, "lambda_u": self.lambda_u})
        if not 0 <= self.tau <= 1:
            raise ValueError(f"`tau` is {self.tau}; give a probability from 0 to 1, as 0.95.")


class SemiSupervised(nn.Module):
    """A classifier and what its training has seen: buffers, so that they survive an interruption with the weights.

    Args:
        classifier: (B, 3, H, W) -> logits (B, classes).
        classes: Number of classes.
        steps: Of the training.
    """

    masked: torch.Tensor
    predicted: torch.Tensor

    def __init__(self, classifier: Classifier, classes: int, steps: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("masked", torch.zeros(steps))  # of each step, the share of images that got a label
        self.register_buffer("predicted", torch.full((classes,), 1 / classes))  # running mean of predictions

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        return self.classifier(images)


def pseudo_labels(
    weak_logits: torch.Tensor, tau: float, *, scale: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Label images by the predictions on their weak versions; no gradient passes.

    Args:
        weak_logits: (B, classes).
        tau: Probability from which a prediction becomes a label.
        scale: (classes,), multiplies the probabilities, which are then normalized again; None: as they are.

    Returns:
        (classes (B,) int64, whether each reaches tau (B,) bool).
    """
    probs = weak_logits.detach().float().softmax(dim=1)
    if scale is not None:
        probs = probs * scale
        probs = probs / probs.sum(dim=1, keepdim=True)
    highest, labels = probs.max(dim=1)
    return labels, highest >= tau


def unsupervised_loss(strong_logits: torch.Tensor, labels: torch.Tensor, sure: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the strong versions (B, classes) against pseudo-labels, those not sure counting 0 (equation 4)."""
    each = functional.cross_entropy(strong_logits, labels, reduction="none")
    return (each * sure).mean()


def fit(tasks: Sequence[AdaptTask], *, config: Config, runtime: Runtime) -> list[Fitted]:
    """Train one network for each task."""
    return [_fit_one(task, config=config, runtime=runtime) for task in tasks]


def _fit_one(task: AdaptTask, *, config: Config, runtime: Runtime) -> Fitted:
    encoder, device, classes = task.encoder, runtime.device, len(task.classes)
    seed = derive_seed(task.seed, "fixmatch", config.seed)
    gentle = dataclasses.replace(task, remedies=tuple(one for one in task.remedies if one != "randaugment"))
    data = batches.open_images(gentle, task.labeled.images, device=device)
    train_rows, val_rows = batches.inner_rows(task)
    targets = torch.from_numpy(batches.class_targets(task.labeled, classes)).to(device)
    balanced = config.sampling == "balanced"
    order = derive_seed(seed, "order")
    drawing = batches.draw_rows(task, train_rows, config.batch, seed=order, balance_classes=balanced)
    settings = _settings(config, len(train_rows), from_scratch=not encoder.pretrained, validated=len(val_rows) > 0)
    classifier = Classifier(encoder.build(), encoder.feature_dim, classes)
    network = SemiSupervised(classifier, classes, settings.steps)
    unlabeled = _Unlabeled.open(task, config, seed=derive_seed(seed, "unlabeled"), device=device)
    shares = targets[torch.from_numpy(train_rows).to(device)].mean(dim=0)
    shift = torch.from_numpy(drawing.shift.astype(np.float32)).to(device)  # of drawing classes evenly

    def step_loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        rows = train_rows[drawing.sampler(step)]
        index = torch.from_numpy(rows).to(device)
        images = data.inputs(rows, config.augment, generator=generator)
        if unlabeled is None:
            return functional.cross_entropy(model(images), targets[index])
        weak, strong = unlabeled.views(step, generator)
        logits = model(torch.cat([images, weak, strong]))  # one pass: BatchNorm's statistics are those of all
        from_labels, from_weak, from_strong = logits.split([len(rows), len(weak), len(strong)])
        scale = _alignment(network, from_weak, shares) if config.distribution_alignment else None
        labels, sure = pseudo_labels(from_weak - shift, config.tau, scale=scale)
        network.masked[step] = sure.float().mean()
        supervised = functional.cross_entropy(from_labels, targets[index])
        return supervised + config.lambda_u * unsupervised_loss(from_strong, labels, sure)

    def validate(model: nn.Module) -> float:
        return batches.validation_loss(data, model, val_rows, targets, drawing.shift)

    trained = train(
        network,
        step_loss,
        settings=settings,
        seed=seed,
        device=device,
        folder=runtime.folder,
        parts=[(classifier.backbone, 1.0), (classifier.head, config.head_lr_factor if encoder.pretrained else 1.0)],
        validate=validate if len(val_rows) else None,
        say=runtime.say,
    )
    batches.correct_bias(classifier.head, drawing.shift)
    threshold, how = batches.threshold_on(task, data, classifier, val_rows)
    curve = _mask_curve(network.masked.cpu().numpy(), trained.best_step, settings.evaluate_every)
    curves = trained.curves | ({} if unlabeled is None else {"pseudo_labeled": curve})
    notes = batches.training_notes(settings, trained, batch=config.batch, train_rows=train_rows, val_rows=val_rows)
    notes |= {"ema": settings.ema}
    notes |= _unlabeled_notes(unlabeled, curve, config)
    notes |= {"threshold": how, "bias_corrected": bool(np.any(drawing.shift)), "remedies": list(task.remedies)}
    predictor = batches.to_network(task, classifier)
    notes["trained_params"] = predictor.trained_params
    return Fitted(predictor=predictor, threshold=threshold, notes=notes, curves=curves)


@dataclass(frozen=True)
class _Unlabeled:
    """The images without labels, weakly and strongly augmented."""

    weak: TrainingImages
    strong: TrainingImages
    sampler: ShuffledRows
    config: Config

    @classmethod
    def open(cls, task: AdaptTask, config: Config, *, seed: int, device: str) -> _Unlabeled | None:
        """Open a task's images without labels; None where it has none."""
        if task.unlabeled is None or not len(task.unlabeled):
            return None
        strong = batches.open_images(task, task.unlabeled, device=device)
        weak = dataclasses.replace(strong, remedies=tuple(one for one in task.remedies if one != "randaugment"))
        batch = config.mu * min(config.batch, len(batches.inner_rows(task)[0]))
        return cls(weak, strong, ShuffledRows(len(task.unlabeled), batch, seed=seed), config)

    def views(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same images twice, weakly and strongly augmented, (mu B, 3, H, W) each."""
        rows = self.sampler(step)
        weak = self.weak.inputs(rows, self.config.augment, generator=generator)
        return weak, self.strong.inputs(rows, self.config.augment_strong, generator=generator)


@torch.no_grad()
def _alignment(network: SemiSupervised, weak_logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Update the running mean of predictions; return class shares over it (Berthelot et al. 2020, arXiv:1911.09785)."""
    now = weak_logits.float().softmax(dim=1).mean(dim=0)
    network.predicted.lerp_(now, 1 - PREDICTED_DECAY)
    return shares / network.predicted.clamp(min=1e-6)


def _settings(config: Config, rows: int, *, from_scratch: bool, validated: bool) -> LoopSettings:
    """Settle what depends on the budget."""
    steps, every = batches.settle_steps(rows, config.batch, steps=config.steps, epochs=config.epochs)
    return LoopSettings(
        steps=steps,
        lr=config.lr or (SCRATCH_LR if from_scratch else PRETRAINED_LR),
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        ema=min(LONGEST_AVERAGE, max(0.0, 1 - 10 / steps)) if config.ema is None else config.ema,
        precision=config.precision,
        evaluate_every=every,
        patience=config.patience if validated else None,
    )


def images_trained(config: Config, labels: int) -> int:
    """Images that a training on so many labels passes through the network, if there are enough without labels."""
    steps = _settings(config, labels, from_scratch=False, validated=False).steps
    return steps * min(config.batch, labels) * (1 + 2 * config.mu)


def _mask_curve(masked: np.ndarray, steps: int, every: int) -> list[tuple[float, float]]:
    """Share of images that got a label, averaged over each interval, up to the step whose weights are kept."""
    ends = [*range(every, steps, every), steps]
    starts = [0, *ends[:-1]]
    return [(float(end), float(masked[start:end].mean())) for start, end in zip(starts, ends, strict=True)]


def _unlabeled_notes(unlabeled: _Unlabeled | None, curve: list[tuple[float, float]], config: Config) -> dict[str, Any]:
    """What the record should say about the images without labels."""
    if unlabeled is None:
        return {
            "unlabeled_images": 0,
            "semi_supervised": "no: the budget leaves no training image without a label; plain training on the labels",
        }
    return {
        "unlabeled_images": unlabeled.sampler.n,
        "unlabeled_batch": unlabeled.sampler.batch,
        "semi_supervised": f"FixMatch, tau {config.tau:g}, lambda_u {config.lambda_u:g}, mu {config.mu}",
        "distribution_alignment": config.distribution_alignment,
        "pseudo_labeled_last": curve[-1][1],
    }


METHOD = Adapter(
    name="fixmatch",
    config=Config,
    summary="train the network on the budget's labels and on sure predictions for the other training images",
    code_version=1,
    input="pixels",
    fit=fit,
    semi_supervised=True,
    remedies=("stain-jitter", "randaugment", "domain-balanced", "test-batchnorm"),
    backbone_kinds=("torch",),
    cites=(
        "Sohn et al. (2020). FixMatch: Simplifying semi-supervised learning with consistency and confidence. NeurIPS. "
        "arXiv:2001.07685.",
        "Berthelot et al. (2020). ReMixMatch: Semi-supervised learning with distribution alignment and augmentation "
        "anchoring. ICLR. arXiv:1911.09785.",
    ),
    images_trained=images_trained,
)
