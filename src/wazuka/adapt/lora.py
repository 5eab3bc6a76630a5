"""LoRA: train low-rank changes of a frozen backbone and a linear head (Hu et al. 2021, arXiv:2106.09685).

As foundation models were adapted to mitotic figures by Ammeling et al. 2026 (arXiv:2508.04441): adapters in attention and
MLP layers, the head trained in full, batches balanced by patient and class, one-cycle learning rate. Unlike there, the
weights of the best validation inside the budget are kept, and patients never cross splits.

y = W x + (alpha / rank) B A x, B = 0 at first. BatchNorm and dropout of the backbone stay as in evaluation, so that a saved
adapter is all that changed: a few MB that fit the same backbone. The head works on features standardized by the unadapted
backbone's statistics on the training rows, which are folded into its weights at the end. It starts as the linear probe
(Kumar et al. 2022, arXiv:2202.10054: features are distorted less), and validation looks at this start too: where labels are
too few to adapt anything, the probe stays. With `blocks: k` only the last k
blocks are adapted; without augmentation the output of those before is computed once.
Study file: `adapt: {method: lora, rank: 16}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.errors import ConfigError
from wazuka.core.hashing import derive_seed
from wazuka.data.augment import Strength
from wazuka.nn import lora
from wazuka.nn.adaptable import adaptable
from wazuka.nn.batchnorm import with_statistics_of
from wazuka.nn.lora import Adapted, LoraNetwork, LoraSpec, Targets
from wazuka.nn.network import Classifier
from wazuka.nn.prefix import Suffix, prefix_output
from wazuka.training import batches, mixing, seeding
from wazuka.training.batches import TrainingImages
from wazuka.training.logistic import Problem, solve
from wazuka.training.loop import LoopSettings, Precision, StepLoss
from wazuka.training.optim import OptimizerName, Schedule
from wazuka.training.roles import Adapter, AdaptTask, Fitted, Runtime

PENALTIES = (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1)
DEFAULT_PENALTY = 1e-2
"""C of the probe that the head starts at, where the budget allows no choice; our choice."""
PREFIX_BYTES = 2**32
"""Stored outputs of the frozen blocks up to this size; beyond it they are computed at every step."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `lora`."""

    rank: int = 16
    """Rank of each change (paper 5)."""
    alpha: float = 16.0
    """The change is scaled by alpha / rank (paper 5)."""
    dropout: float = 0.1
    """Of an adapted layer's input, on the adapter's path (paper 5)."""
    targets: Targets | None = None
    """Of a transformer: attention, or attention+mlp (the default). A convolutional network's targets are all its ungrouped
    convolutions."""
    blocks: int | None = None
    """Adapt only the last so many blocks."""
    steps: int | None = None
    """Steps of the optimizer. Neither `steps` nor `epochs`: 30 epochs, at least 100 and at most 2,000 steps."""
    epochs: int | None = None
    """Passes over the training rows, instead of `steps`."""
    batch: int = 16
    """Images a step (fewer where the budget has fewer)."""
    accumulate: int = 1
    """Parts in which a batch passes through the network, to save memory; the gradient is that of the whole."""
    checkpointing: bool = False
    """Compute activations again in the backward pass, to save memory."""
    lr: float = 3e-4
    """Highest learning rate of the adapters."""
    head: Literal["probe", "zero"] = "probe"
    """Where the head starts: at the linear probe on the unadapted features, or at zero (paper 5: at random)."""
    head_lr_factor: float = 1.0
    """The head's learning rate relative to the adapters'."""
    weight_decay: float = 0.0
    """Decay of adapters and head (AdamW's decoupled form; at 0 AdamW is Adam)."""
    optimizer: OptimizerName = "adamw"
    """adamw or sgd."""
    schedule: Schedule = "one-cycle"
    """cosine, one-cycle or constant."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; one-cycle has its own."""
    clip_norm: float | None = 1.0
    """Highest norm of the gradient."""
    precision: Precision = "auto"
    """auto (bfloat16 where a GPU has it), fp32 or bf16."""
    augment: Strength | None = None
    """none, light or strong. Default: light; none with `blocks`, so that the frozen part is computed once."""
    patience: int = 6
    """Validations without improvement before stopping, where the budget allows validation."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""
    sampling: Literal["shuffled", "balanced"] = "balanced"
    """balanced: each class, and in it each patient, equally often; the head's bias is corrected afterwards, so that
    probabilities follow the classes' shares."""
    seed: int = 0
    """Changes the draws of this method, beside the study's seed."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"`steps: {self.steps}` and `epochs: {self.epochs}` are both given; give one of them.")
        positive = ("rank", "alpha", "blocks", "steps", "epochs", "batch", "accumulate", "lr", "head_lr_factor",
                    "patience", "clip_norm")  # fmt: skip
        batches.require_range({name: getattr(self, name) for name in positive}, above=0)
        batches.require_range({"weight_decay": self.weight_decay})
        batches.require_range({name: getattr(self, name) for name in ("dropout", "warmup", "label_smoothing")}, below=1)


def fit(tasks: Sequence[AdaptTask], *, config: Config, runtime: Runtime) -> list[Fitted]:
    """Adapt the backbone to each task."""
    return [_fit_one(task, config=config, runtime=runtime) for task in tasks]


def _fit_one(task: AdaptTask, *, config: Config, runtime: Runtime) -> Fitted:
    encoder, device, classes = task.encoder, runtime.device, len(task.classes)
    seed = derive_seed(task.seed, "lora", config.seed)
    strength: Strength = config.augment or ("none" if config.blocks else "light")
    train_rows, val_rows = batches.inner_rows(task)
    settings = _settings(config, len(train_rows), validated=len(val_rows) > 0)
    phases = mixing.plan_phases(
        task,
        train_rows,
        config.batch,
        steps=settings.steps,
        seed=derive_seed(seed, "order"),
        balance_classes=config.sampling == "balanced",
        balance_patients=config.sampling == "balanced",
    )
    shift = phases[-1].shift
    data = batches.open_images(task, mixing.pooled_images(task), device=device)
    backbone = encoder.build().to(device)
    if "test-batchnorm" in task.remedies:  # prediction replaces the backbone's statistics: train without them too
        parts = np.array_split(train_rows, -(-len(train_rows) // batches.BATCH))
        backbone = with_statistics_of(backbone, (data.inputs(part) for part in parts), name=encoder.name)
    spec = LoraSpec(
        rank=config.rank,
        alpha=config.alpha,
        layers=lora.choose_layers(backbone, config.targets, last=config.blocks, name=encoder.name),
    )
    plain = data.outputs(backbone, np.arange(len(data.images)))
    with seeding.own_randomness(device):
        torch.manual_seed(derive_seed(seed, "adapters"))
        lora.inject(backbone, spec, dropout=config.dropout)
    if config.checkpointing:
        _checkpoint_activations(backbone, encoder.name)
    fixed = strength == "none" and not {"stain-jitter", "randaugment"} & set(task.remedies)
    stored = None
    if config.blocks is not None and fixed:
        stored = _store_prefix(data, backbone, config.blocks, rows=len(data.images))
    inner = backbone if stored is None else stored.suffix
    network = Classifier(Adapted(inner, features=plain[torch.from_numpy(train_rows)]), encoder.feature_dim, classes)
    penalty = None
    if config.head == "probe":
        penalty = _start_at_probe(network.head, task, plain.cpu().numpy(), train_rows, val_rows, phases[0].shift)
    rows_data = data if stored is None else stored.data
    targets = torch.from_numpy(mixing.pooled_labels(task)[1]).to(device)

    def loss_of(phase: mixing.Phase) -> StepLoss:
        def step_loss(model: nn.Module, step: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
            rows = phase.rows(step)
            for part in np.array_split(rows, min(config.accumulate, len(rows))):
                logits = model(rows_data.inputs(part, strength, generator=generator))
                wanted = targets[torch.from_numpy(part).to(device)]
                loss = functional.cross_entropy(logits, wanted, label_smoothing=config.label_smoothing)
                yield loss * (len(part) / len(rows))

        return step_loss

    def validate(model: nn.Module) -> float:
        return batches.validation_loss(rows_data, model, val_rows, targets, shift)

    trained = mixing.train_phases(
        network,
        network.head,
        phases,
        loss_of,
        settings=settings,
        seed=seed,
        device=device,
        folder=runtime.folder,
        parts=[(network.backbone, 1.0), (network.head, config.head_lr_factor)],
        validate=validate if len(val_rows) else None,
        say=runtime.say,
    )
    batches.correct_bias(network.head, shift)
    threshold, how = batches.threshold_on(task, rows_data, network, val_rows)
    predictor = _predictor(task, backbone.cpu(), network.cpu(), spec)
    notes = batches.training_notes(settings, trained, batch=config.batch, train_rows=train_rows, val_rows=val_rows)
    notes |= {"adapted_layers": len(spec.layers), "rank": spec.rank, "alpha": spec.alpha}
    notes |= {"augment": strength, "prefix_stored": stored is not None, "remedies": list(task.remedies)}
    notes |= {"threshold": how, "bias_corrected": bool(np.any(shift)), "targets": _targets(backbone, config)}
    notes |= {"head_starts_at": config.head, "head_penalty": penalty, "trained_params": predictor.trained_params}
    notes |= mixing.notes(task)
    return Fitted(predictor=predictor, threshold=threshold, notes=notes, curves=trained.curves)


def _checkpoint_activations(backbone: nn.Module, name: str) -> None:
    for switch in ("set_grad_checkpointing", "gradient_checkpointing_enable"):
        if hasattr(backbone, switch):
            getattr(backbone, switch)()
            return
    raise ConfigError(
        f"`checkpointing: true` is not possible with `{name}`, which does not offer it; use `accumulate`."
    )


@dataclass(frozen=True)
class _StoredRows(TrainingImages):
    """Rows whose inputs are stored outputs of the frozen blocks."""

    values: torch.Tensor | None = None

    def inputs(
        self, positions: np.ndarray, strength: Strength = "none", *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        assert self.values is not None and strength == "none"
        return self.values[torch.from_numpy(positions)].to(self.device, non_blocking=True)


@dataclass(frozen=True)
class _Stored:
    data: _StoredRows
    suffix: Suffix


def _store_prefix(data: TrainingImages, backbone: nn.Module, last: int, *, rows: int) -> _Stored | None:
    """Compute the output of the frozen blocks once for all rows; None where there are none, or it would be too large."""
    blocks = adaptable(backbone).blocks
    skipped = blocks[: len(blocks) - last]
    if not skipped:
        return None
    first = prefix_output(backbone, skipped[-1], data.inputs(np.arange(1)))
    if first.numel() * 4 * rows > PREFIX_BYTES:
        return None
    values = torch.empty((rows, *first.shape[1:]))
    for start in range(0, rows, batches.BATCH):
        part = np.arange(start, min(start + batches.BATCH, rows))
        values[start : start + len(part)] = prefix_output(backbone, skipped[-1], data.inputs(part)).cpu()
    size = tuple(data.inputs(np.arange(1)).shape[-2:])
    if values.numel() * 4 <= batches.RESIDENT_BYTES:
        values = values.to(data.device)
    kept = _StoredRows(data.images, data.encoder, data.intensity, data.window, data.device, values=values)
    return _Stored(kept, Suffix(backbone, skipped, (size[0], size[1])))


def _settings(config: Config, rows: int, *, validated: bool) -> LoopSettings:
    """Settle what depends on the budget."""
    steps, every = batches.settle_steps(rows, config.batch, steps=config.steps, epochs=config.epochs)
    return LoopSettings(
        steps=steps,
        lr=config.lr,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        precision=config.precision,
        evaluate_every=every,
        patience=config.patience if validated else None,
        evaluate_first=config.head == "probe",
    )


def _start_at_probe(
    head: nn.Linear,
    task: AdaptTask,
    features: np.ndarray,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    shift: np.ndarray,
) -> float:
    """Put the optimum of penalized logistic regression on the training rows into the head; return its penalty C.

    The penalty is the one with the lowest loss on the validation rows, or the default where there are none. `shift` is
    added to the bias: drawing classes more often raises their logits, and is taken out again at the end. Training rows
    are those of the first phase: synthetic rows alone where these come first.
    """
    shares = batches.class_targets(task.labeled, len(task.classes)).astype(np.float64)
    soft = task.labeled.soft_labels is not None
    penalties, synthetic = PENALTIES if len(val_rows) else (DEFAULT_PENALTY,), mixing.synthetic_rows(task)
    if synthetic is not None:
        on: Literal["synthetic", "real+synthetic"]
        on = "real+synthetic" if synthetic.train_on == "real+synthetic" else "synthetic"
        problem = mixing.Pooled.of(synthetic, features, shares).problem(train_rows, on=on, penalties=penalties)
    else:
        problem = Problem(
            features=features,
            labels=None if soft else task.labeled.labels,
            soft_labels=shares if soft else None,
            n_classes=len(task.classes),
            rows=train_rows,
            penalties=penalties,
        )
    (solution,) = solve([problem], ())
    best = 0
    if len(val_rows):
        likely = np.log(np.maximum(solution.predict(features[val_rows]), np.finfo(np.float64).tiny))
        best = int(np.argmin(-(likely * shares[val_rows]).sum(2).mean(1)))
    coef, intercept = solution.coef[best], solution.intercept[best] - solution.prior_shift
    if len(coef) == 1:  # two classes: one logit, of the second
        coef, intercept = np.stack([np.zeros_like(coef[0]), coef[0]]), np.array([0.0, intercept[0]])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(np.ascontiguousarray(coef)))
        head.bias.copy_(torch.from_numpy(intercept + shift))
    return float(solution.penalties[best])


def _predictor(task: AdaptTask, backbone: nn.Module, network: Classifier, spec: LoraSpec) -> LoraNetwork:
    """Keep the adapters and the head, the standardization folded into it."""
    assert isinstance(network.backbone, Adapted)
    head = network.backbone.folded(network.head)
    state = lora.adapter_state(backbone) | {"head.weight": head.weight, "head.bias": head.bias}
    return LoraNetwork(
        encoder=task.encoder,
        classes=task.classes,
        state={name: value.detach().contiguous().clone() for name, value in state.items()},
        spec=spec,
        trained_params=sum(one.numel() for one in network.parameters() if one.requires_grad),
        test_batchnorm="test-batchnorm" in task.remedies,
        intensity=task.intensity,
        window=task.window,
    )


def _targets(backbone: nn.Module, config: Config) -> str:
    if not adaptable(backbone).is_transformer:
        return "every ungrouped convolution"
    return config.targets or "attention+mlp"


def images_trained(config: Config, labels: int) -> int:
    """Images that a training on so many labels passes through the network, if early stopping does not end it."""
    return _settings(config, labels, validated=False).steps * min(config.batch, labels)


METHOD = Adapter(
    name="lora",
    config=Config,
    summary="train low-rank changes of a frozen backbone and a head; a few MB per task",
    code_version=1,
    input="pixels",
    fit=fit,
    synthetic=True,
    backbone_kinds=("torch",),
    remedies=("stain-jitter", "randaugment", "domain-balanced", "test-batchnorm"),
    cites=(
        "Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang & Chen (2022). LoRA: Low-rank adaptation of large language models. "
        "ICLR. arXiv:2106.09685.",
        "Kumar, Raghunathan, Jones, Ma & Liang (2022). Fine-tuning can distort pretrained features and underperform "
        "out-of-distribution. ICLR. arXiv:2202.10054.",
        "Ammeling, Ganz, Wilm, Breininger & Aubreville (2026). Benchmarking foundation models for mitotic figure "
        "classification. MELBA 3. arXiv:2508.04441.",
    ),
    images_trained=images_trained,
)
