"""Joint embedding: an encoder learns to give two views of an image one embedding, in five published ways.

SimSiam    Chen & He (2021), arXiv:2011.10566: a predictor on one side, no gradient on the other
BYOL       Grill et al. (2020), arXiv:2006.07733: besides, that other side is a moving average of the network
Barlow Twins    Zbontar et al. (2021), arXiv:2103.03230: the views' cross-correlation becomes the identity
SimCLR     Chen, Kornblith, Norouzi & Hinton (2020), arXiv:2002.05709: a view is told from those of other images
VICReg     Bardes, Ponce & LeCun (2022), arXiv:2105.04906: agreement, variance and covariance, each with its weight

They share encoder, views, steps and optimizer, so that they differ in heads and loss alone; each view is a batch of its
own for batch norm. What we changed: AdamW (or SGD) in place of LARS, heads in proportion to the encoder (`scale_heads`).
Study file: `pretrain: {method: byol, steps: 2000}`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from wazuka.core.hashing import derive_seed
from wazuka.training import correlation_losses, ssl_losses
from wazuka.training.batches import require_range
from wazuka.training.roles import Pretrained, Pretrainer, PretrainTask, Runtime
from wazuka.training.self_supervised import SharedConfig, drawn_from, open_unlabeled, train_encoder

PAPER_FEATURES = 2048
"""Features of the papers' encoder, a ResNet50."""
LEAST_WIDTH = 256
"""Heads are not scaled below this; our choice."""


@dataclass(frozen=True, kw_only=True)
class Config(SharedConfig):
    """Settings of a projector; each method adds its own."""

    projector_layers: int = 2
    """Linear layers of the projector, 1 or more."""
    projector_hidden: int = 2048
    """Width of its hidden layers."""
    projector_dim: int = 2048
    """Length of the embedding."""
    scale_heads: bool = True
    """Whether the widths of heads (as given here for 2048 features, a ResNet50) follow the encoder's feature length, down
    to 256 at least; widths below 256 stay."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range({name: getattr(self, name) for name in _POSITIVE if hasattr(self, name)}, above=0)


_POSITIVE = ("projector_layers", "projector_hidden", "projector_dim", "predictor_hidden", "temperature")


@dataclass(frozen=True, kw_only=True)
class SimSiamConfig(Config):
    """Settings of `simsiam`."""

    projector_layers: int = 3
    """Linear layers of the projector; the last is followed by batch norm without scale and shift."""
    predictor_hidden: int = 512
    """Width of the predictor's hidden layer."""


@dataclass(frozen=True, kw_only=True)
class ByolConfig(Config):
    """Settings of `byol`."""

    projector_hidden: int = 4096
    """Width of the projector's hidden layer."""
    projector_dim: int = 256
    """Length of the embedding."""
    predictor_hidden: int = 4096
    """Width of the predictor's hidden layer."""
    target_decay: float = 0.996
    """Decay of the target network's moving average in the first step; it rises to 1 along half a cosine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range({"target_decay": self.target_decay}, below=1)


@dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig(Config):
    """Settings of `barlow-twins`."""

    projector_layers: int = 3
    """Linear layers of the projector."""
    projector_hidden: int = 8192
    """Width of its hidden layers."""
    projector_dim: int = 8192
    """Length of the embedding."""
    off_diagonal: float = 0.005
    """Weight of the redundancy between features (lambda, equation 1)."""
    weighting: correlation_losses.Weighting = "barlow"
    """barlow (as published), or equal: diagonal and off-diagonal entries weigh the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range({"off_diagonal": self.off_diagonal}, above=0)


@dataclass(frozen=True, kw_only=True)
class SimClrConfig(Config):
    """Settings of `simclr`."""

    projector_dim: int = 128
    """Length of the embedding."""
    temperature: float = 0.1
    """tau of equation 1."""


@dataclass(frozen=True, kw_only=True)
class VicRegConfig(Config):
    """Settings of `vicreg`."""

    projector_layers: int = 3
    """Linear layers of the projector."""
    projector_hidden: int = 8192
    """Width of its hidden layers."""
    projector_dim: int = 8192
    """Length of the embedding."""
    invariance: float = 25.0
    """Weight of the views' agreement (lambda, equation 6)."""
    variance: float = 25.0
    """Weight of the standard deviation of each dimension, which should be 1 or more (mu)."""
    covariance: float = 1.0
    """Weight of the covariance of different dimensions (nu)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range({name: getattr(self, name) for name in ("invariance", "variance", "covariance")})


class Embedded(NamedTuple):
    """What a network says of one view: `prediction` should agree with the other view's `target`, both (B, D).

    Without a predictor both are the embedding.
    """

    prediction: torch.Tensor
    target: torch.Tensor


class JointEmbedding(nn.Module):
    """Encoder, projector and, where the method has them, predictor and moving target.

    Args:
        backbone: Normalized (B, 3, H, W) -> features.
        projector: Features -> embedding.
        predictor: Embedding -> prediction.
        moving: Whether the target is a moving average of backbone and projector; else it is the embedding itself.
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module | None, *, moving: bool) -> None:
        super().__init__()
        self.backbone, self.projector, self.predictor = backbone, projector, predictor
        self.target = MovingTarget(backbone, projector) if moving else None

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[Embedded, Embedded]:
        """Embed both views of B images."""
        return self._embed(first), self._embed(second)

    def _embed(self, view: torch.Tensor) -> Embedded:
        embedding = self.projector(self.backbone(view))
        prediction = embedding if self.predictor is None else self.predictor(embedding)
        return Embedded(prediction, embedding if self.target is None else self.target(view))


class MovingTarget(nn.Module):
    """A moving average of a network: its weights are buffers, so no optimizer sees them and every checkpoint has them.

    Batch norm normalizes by the batch in training, as the network itself does.

    Args:
        parts: Applied one after the other; the average starts as their copy.
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(copy.deepcopy(part) for part in parts)
        for module in self.parts.modules():
            for name, value in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, value.detach().clone())

    @torch.no_grad()
    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """Embed a view, without a gradient."""
        for part in self.parts:
            view = part(view)
        return view

    @torch.no_grad()
    def move(self, *parts: nn.Module, decay: float) -> None:
        """weights <- decay * weights + (1 - decay) * those of `parts`; statistics of batch norm are its own."""
        for mine, theirs in zip(self.parts, parts, strict=True):
            averaged = dict(mine.named_buffers())
            for name, value in theirs.named_parameters():
                averaged[name].lerp_(value, 1 - decay)


def decay_at(step: int, *, steps: int, base: float) -> float:
    """Decay of the target after step 0..steps-1: from `base` to 1 along half a cosine (BYOL, section 3.2)."""
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2


def scaled(width: int, features: int, config: Config) -> int:
    """Width of a head for an encoder of so many features; see `Config.scale_heads`."""
    if not config.scale_heads:
        return width
    return min(width, max(LEAST_WIDTH, round(width * features / PAPER_FEATURES)))


def perceptron(widths: list[int], *, last_norm: bool = False) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them; `last_norm`: the output too, without scale and shift."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_norm))
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if last_norm else []))


def build_network(backbone: nn.Module, features: int, config: Config) -> JointEmbedding:
    """Put a method's heads on an encoder of so many features; new layers draw from torch's generator."""
    hidden, dim = (scaled(one, features, config) for one in (config.projector_hidden, config.projector_dim))
    widths = [features, *[hidden] * (config.projector_layers - 1), dim]
    projector = perceptron(widths, last_norm=isinstance(config, SimSiamConfig))
    predictor = None
    if isinstance(config, SimSiamConfig | ByolConfig):
        predictor = perceptron([dim, scaled(config.predictor_hidden, features, config), dim])
    return JointEmbedding(backbone, projector, predictor, moving=isinstance(config, ByolConfig))


def joint_loss(first: Embedded, second: Embedded, config: Config) -> torch.Tensor:
    """The loss of a method on the two views of a batch; its `Config` says which."""
    if isinstance(config, SimSiamConfig):
        return (_agree(first, second) + _agree(second, first)) / 2
    if isinstance(config, ByolConfig):  # |p - t|^2 of unit vectors is 2 - 2 cos, for both directions (equation 2)
        return 4 + 2 * (_agree(first, second) + _agree(second, first))
    one, other = first.prediction, second.prediction
    if isinstance(config, BarlowTwinsConfig):
        correlation = correlation_losses.cross_correlation(one, other)
        return correlation_losses.correlation_loss(
            correlation, weighting=config.weighting, off_diagonal=config.off_diagonal
        )
    if isinstance(config, SimClrConfig):
        return ssl_losses.nt_xent(one, other, temperature=config.temperature)
    assert isinstance(config, VicRegConfig), config
    return ssl_losses.vicreg(
        one, other, invariance=config.invariance, variance=config.variance, covariance=config.covariance
    )


def _agree(one: Embedded, other: Embedded) -> torch.Tensor:
    return ssl_losses.negative_cosine(one.prediction, other.target)


def fit(task: PretrainTask, *, config: Config, runtime: Runtime, name: str) -> Pretrained:
    """Pretrain the task's encoder by the method `name`, whose settings `config` are."""
    seed = derive_seed(task.seed, name, config.seed)
    backbone = task.encoder.build()
    with drawn_from(derive_seed(seed, "heads")):
        network = build_network(backbone, task.encoder.feature_dim, config)
    unlabeled = open_unlabeled(task, config, device=runtime.device, seed=seed)

    def step_loss(model: nn.Module, step: int, generator: torch.Generator) -> torch.Tensor:
        if network.target is not None and step > 0:  # after the optimizer's last step
            assert isinstance(config, ByolConfig)
            decay = decay_at(step - 1, steps=config.steps, base=config.target_decay)
            network.target.move(network.backbone, network.projector, decay=decay)
        first, second = model(*unlabeled.two_inputs(unlabeled.rows(step), generator))
        return joint_loss(first, second, config)

    result = train_encoder(network, step_loss, task=task, unlabeled=unlabeled, seed=seed, runtime=runtime)
    heads = [one for one in (network.projector, network.predictor) if one is not None]
    new = sum(value.numel() for one in heads for value in one.parameters())
    return dataclasses.replace(result, notes=result.notes | {"new_params": new})


def images_trained(config: Config, images: int) -> int:
    """Both views of every image; BYOL's target adds a forward pass to each, a third of a step's work."""
    views = config.steps * min(config.batch, images) * 2
    return views * 4 // 3 if isinstance(config, ByolConfig) else views


def _method(
    name: str, config: type[Config], summary: str, cites: str, *, paper: dict[str, Any], smoke: dict[str, Any]
) -> Pretrainer:
    heads = {"projector_hidden": 32, "projector_dim": 16}
    return Pretrainer(
        name=name,
        config=config,
        summary=summary,
        code_version=1,
        fit=functools.partial(fit, name=name),
        presets={
            "smoke": {"steps": 4, "batch": 8} | heads | smoke,
            "quick": {"steps": 500},
            "standard": {"steps": 2000},
            "paper": {"scale_heads": False, "smallest_crop": 0.08} | paper,
        },
        cites=(cites,),
        images_trained=images_trained,
    )


SIMSIAM = _method(
    "simsiam",
    SimSiamConfig,
    "two views of an image predict each other, without negatives or momentum",
    "Chen & He (2021). Exploring simple Siamese representation learning. CVPR. arXiv:2011.10566.",
    paper={"steps": 250_000, "batch": 512, "optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4, "smallest_crop": 0.2},
    smoke={"predictor_hidden": 16},
)
BYOL = _method(
    "byol",
    ByolConfig,
    "one view predicts what a moving average of the network says of the other",
    "Grill et al. (2020). Bootstrap your own latent: a new approach to self-supervised learning. NeurIPS. "
    "arXiv:2006.07733.",
    paper={"steps": 312_500, "batch": 4096},
    smoke={"predictor_hidden": 32},
)
BARLOW_TWINS = _method(
    "barlow-twins",
    BarlowTwinsConfig,
    "the cross-correlation of two views' embeddings becomes the identity",
    "Zbontar, Jing, Misra, LeCun & Deny (2021). Barlow Twins: self-supervised learning via redundancy reduction. ICML. "
    "arXiv:2103.03230.",
    paper={"steps": 625_000, "batch": 2048},
    smoke={},
)
SIMCLR = _method(
    "simclr",
    SimClrConfig,
    "a view is told from the views of all other images of the batch",
    "Chen, Kornblith, Norouzi & Hinton (2020). A simple framework for contrastive learning of visual representations. "
    "ICML. arXiv:2002.05709.",
    paper={"steps": 312_500, "batch": 4096},
    smoke={},
)
VICREG = _method(
    "vicreg",
    VicRegConfig,
    "two views agree while dimensions keep their variance and lose their covariance",
    "Bardes, Ponce & LeCun (2022). VICReg: variance-invariance-covariance regularization for self-supervised learning. "
    "ICLR. arXiv:2105.04906.",
    paper={"steps": 625_000, "batch": 2048},
    smoke={},
)
