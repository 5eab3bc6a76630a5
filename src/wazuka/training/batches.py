"""The rows of a budget as training batches: pixels to network inputs, targets, remedies, class shares, the threshold.

What adapters that train a network on pixels share (`finetune`, `lora`, `fixmatch`); each keeps its own loss and steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka.core.errors import ConfigError
from wazuka.data.augment import Strength, augment
from wazuka.data.views import Images, JoinedImages, LabeledImages
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import BATCH
from wazuka.nn.network import Classifier
from wazuka.nn.normalize import from_unit, to_unit
from wazuka.nn.predictors import Network, to_probabilities
from wazuka.training.loop import LoopSettings, Trained
from wazuka.training.roles import AdaptTask
from wazuka.training.sampling import BalancedRows, ShuffledRows
from wazuka.training.thresholds import DEFAULT, choose_threshold

DEFAULT_EPOCHS = 30
MIN_STEPS, MAX_STEPS = 100, 2000
"""Bounds on the steps that `DEFAULT_EPOCHS` comes to; our choice."""
EVALUATIONS = 20
"""Validations of a training, at most one an epoch."""
RESIDENT_BYTES = 2**30
"""Pixels up to this size are kept on the device for the whole training."""


@dataclass(frozen=True)
class TrainingImages:
    """Images normalized batch by batch on the device.

    Attributes:
        images: The pixels.
        encoder: Says what its network expects.
        intensity, window: As in `AdaptTask`.
        device: Where batches are made.
        remedies: Changes of training images against domain shift: `stain-jitter`, `randaugment`.
        resident: All pixels on the device, where they fit; else they are read step by step.
    """

    images: Images | JoinedImages
    encoder: Encoder
    intensity: str
    window: str | None
    device: str
    remedies: tuple[str, ...] = ()
    resident: torch.Tensor | None = None

    def unit(self, positions: np.ndarray) -> torch.Tensor:
        """Images at `positions`, (B, C, H, W) float32 in [0, 1]."""
        if self.resident is not None:
            pixels = self.resident[torch.from_numpy(positions).to(self.device)]
        else:
            pixels = torch.from_numpy(self.images.batch(positions)).to(self.device, non_blocking=True)
        return to_unit(pixels, intensity=self.intensity, window=self.window)

    def inputs(
        self, positions: np.ndarray, strength: Strength = "none", *, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Normalized inputs of the network, (B, 3, H, W) float32; with a generator augmented, and changed by remedies."""
        images = self.unit(positions)
        if generator is not None:
            if "stain-jitter" in self.remedies:  # on the stains as they are, before colors change
                from wazuka.data.stain_jitter import stain_jitter

                images = stain_jitter(images, generator=generator)
            images = augment(images, strength, generator=generator)
            if "randaugment" in self.remedies:
                from wazuka.data.randaugment import randaugment

                images = randaugment(images, generator=generator)
        return from_unit(images, self.encoder)

    def outputs(self, network: nn.Module, positions: np.ndarray) -> torch.Tensor:
        """Outputs of a network in evaluation mode on images as they are, (n, ...) float32."""
        parts = [positions[start : start + BATCH] for start in range(0, len(positions), BATCH)]
        with torch.no_grad():
            return torch.cat([network(self.inputs(part)).float() for part in parts])


def open_images(task: AdaptTask, images: Images | JoinedImages, *, device: str) -> TrainingImages:
    """Open a task's labeled or unlabeled images, or its labeled and synthetic ones together.

    Pixels move to a GPU where they fit; on a CPU the memory-mapped cache is as near.

    Raises:
        ConfigError: If `stain-jitter` is asked for on images that are not RGB.
    """
    if "stain-jitter" in task.remedies and task.intensity != "rgb8":
        raise ConfigError(f"`stain-jitter` needs RGB images, these are {task.intensity}; drop it from `remedies`.")
    size = len(images) * int(np.prod(images.shape)) * images.dtype.itemsize
    resident = None
    if device.startswith("cuda") and size <= RESIDENT_BYTES:
        resident = torch.from_numpy(images.batch(np.arange(len(images)))).to(device)
    return TrainingImages(images, task.encoder, task.intensity, task.window, device, task.remedies, resident)


def settle_steps(rows: int, batch: int, *, steps: int | None, epochs: int | None) -> tuple[int, int]:
    """Return (steps of a training, steps between its validations).

    Args:
        rows: To train on.
        batch: Rows a step.
        steps, epochs: As configured. Neither: 30 epochs, at least 100 and at most 2,000 steps.
    """
    epoch = max(1, -(-rows // min(batch, rows)))
    if steps is None and epochs is not None:
        steps = epochs * epoch
    if steps is None:
        steps = min(MAX_STEPS, max(MIN_STEPS, DEFAULT_EPOCHS * epoch))
    return steps, max(epoch, -(-steps // EVALUATIONS))


def require_range(
    values: Mapping[str, float | None], *, above: float | None = None, below: float | None = None
) -> None:
    """Refuse settings out of their range; None is not set.

    Raises:
        ValueError: Naming the first. With `below` the range is from 0 on.
    """
    for name, value in values.items():
        if value is None:
            continue
        if above is not None and value <= above:
            raise ValueError(f"`{name}` is {value}; give a number above {above:g}.")
        if above is None and (value < 0 or (below is not None and value >= below)):
            raise ValueError(f"`{name}` is {value}; give a number from 0{f' to below {below:g}' if below else ' on'}.")


def inner_rows(task: AdaptTask) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to train on and to validate on; none of the latter where the budget allows no inner split."""
    is_val = task.labeled.is_val if task.inner_split else np.zeros(len(task.labeled), bool)
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def class_targets(labeled: LabeledImages, classes: int) -> np.ndarray:
    """Class probabilities to learn, (n, classes) float32: the annotators' votes where they are given."""
    if labeled.soft_labels is not None:
        return labeled.soft_labels.astype(np.float32)
    return np.eye(classes, dtype=np.float32)[labeled.labels]


@dataclass(frozen=True)
class Drawing:
    """How training rows are drawn, and what that does to the classes' shares.

    Attributes:
        sampler: Step -> positions among the training rows.
        shift: (classes,) float64, to be subtracted from logits: drawing (or weighting) a class c w_c times as often
            adds log w_c to its optimal logit, and probabilities should follow the shares among the labels.
        weights: (classes,) float64 weight of each class in the loss.
    """

    sampler: ShuffledRows | BalancedRows
    shift: np.ndarray
    weights: np.ndarray


def draw_rows(
    task: AdaptTask,
    rows: np.ndarray,
    batch: int,
    *,
    seed: int,
    balance_classes: bool,
    balance_patients: bool = False,
    weigh_classes: bool = False,
) -> Drawing:
    """Decide how rows come: shuffled, or balanced by class, patient and (remedy `domain-balanced`) domain.

    Args:
        task: Its labels, patients, domains and remedies count.
        rows: Positions of the training rows in the budget.
        batch: Rows a step.
        seed: Of the order.
        balance_classes: Each class equally often.
        balance_patients: Each patient of a class (and domain) equally often.
        weigh_classes: Each class weighs the same in the loss.
    """
    labels, count = task.labeled.labels[rows], len(task.classes)
    by_domain = "domain-balanced" in task.remedies
    share = np.maximum(np.bincount(labels, minlength=count), 1) / len(labels)
    weights = 1 / (share * count) if weigh_classes else np.ones(count)
    if not (balance_classes or balance_patients or by_domain):
        return Drawing(ShuffledRows(len(labels), batch, seed=seed), np.log(weights), weights)
    sampler = BalancedRows(
        labels,
        batch,
        seed=seed,
        patients=task.labeled.patients[rows] if balance_patients else None,
        domains=task.labeled.domains[rows] if by_domain else None,
        balance_classes=balance_classes,
    )
    if not balance_classes:  # weights by domain or patient leave what an image says of its class as it is
        return Drawing(sampler, np.log(weights), weights)
    levels = [labels] * balance_classes + [task.labeled.domains[rows]] * by_domain
    levels += [task.labeled.patients[rows]] * balance_patients
    chances = _chances(levels, len(rows))
    drawn = np.maximum(np.bincount(labels, weights=chances, minlength=count), 1 / len(labels))
    return Drawing(sampler, np.log(weights * drawn / (drawn.sum() * share)), weights)


def _chances(levels: list[np.ndarray], n: int) -> np.ndarray:
    """Chance of each row in one draw that is even over the groups of each level in turn, then over what is below."""
    result = np.zeros(n)

    def spread(rows: np.ndarray, mass: float, rest: list[np.ndarray]) -> None:
        if not rest:
            result[rows] = mass / len(rows)
            return
        codes = rest[0][rows]
        for code in (present := np.unique(codes)):
            spread(rows[codes == code], mass / len(present), rest[1:])

    spread(np.arange(n), 1.0, levels)
    return result


def threshold_on(task: AdaptTask, data: TrainingImages, network: nn.Module, val_rows: np.ndarray) -> tuple[float, str]:
    """Choose the decision threshold on the validation rows, where there are any; with a word on how."""
    if task.positive is None or len(task.classes) != 2:
        return DEFAULT, "none: not a two-class task"
    if not len(val_rows):
        return DEFAULT, "0.5: the budget allows no inner split"
    probs = to_probabilities(data.outputs(network, val_rows).double().cpu().numpy())[:, task.positive]
    labels = task.labeled.labels[val_rows] == task.positive
    if labels.all() or not labels.any():
        return DEFAULT, "0.5: the validation rows are of one class"
    return choose_threshold(labels, probs), "highest balanced accuracy on the validation rows"


def validation_loss(
    data: TrainingImages, network: nn.Module, rows: np.ndarray, targets: torch.Tensor, shift: np.ndarray
) -> float:
    """Cross-entropy of the validation rows with the classes' shares put right, as the finished model has them."""
    logits = data.outputs(network, rows) - torch.from_numpy(shift.astype(np.float32)).to(data.device)
    return float(functional.cross_entropy(logits, targets[torch.from_numpy(rows).to(data.device)]))


def training_notes(
    settings: LoopSettings, trained: Trained, *, batch: int, train_rows: np.ndarray, val_rows: np.ndarray
) -> dict[str, Any]:
    """What the record should say about a training."""
    stopping = (
        "validation loss inside the budget" if len(val_rows) else "none: the budget allows no inner split; fixed steps"
    )
    return {
        "train_rows": len(train_rows),
        "val_rows": len(val_rows),
        "steps_planned": settings.steps,
        "steps": trained.steps,
        "best_step": trained.best_step,
        "best_val_loss": trained.best_value,
        "stopped_early": trained.stopped_early,
        "early_stopping": stopping,
        "batch": min(batch, len(train_rows)),
        "lr": settings.lr,
        "precision": trained.precision,
    }


def to_network(task: AdaptTask, classifier: Classifier) -> Network:
    """Keep a network that was trained end to end."""
    return Network(
        encoder=task.encoder,
        classes=task.classes,
        state={name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()},
        trained_params=sum(one.numel() for one in classifier.parameters() if one.requires_grad),
        test_batchnorm="test-batchnorm" in task.remedies,
        intensity=task.intensity,
        window=task.window,
    )


def correct_bias(head: nn.Linear, shift: np.ndarray) -> None:
    """Take the changed class shares out of a head's bias."""
    with torch.no_grad():
        head.bias.sub_(torch.from_numpy(shift).to(head.bias))
