"""Synthetic rows beside a budget's own, for adapters that declare `synthetic`: what is trained on, how often, how long.

`AdaptTask.synthetic.train_on` says what is trained on: `synthetic`, `real+synthetic` or `synthetic-then-real`. In every way
the real rows decide the number of steps, the standardization, penalty, threshold and stopping, so that trainings with
and without synthetic rows differ by their data alone. Labels that the synthetic rows bring change the classes' shares;
logits are corrected by the logarithm of the change, so that probabilities follow the real shares.

Positions of pooled rows: the real ones 0..n-1 in the order of the task, then the synthetic ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from wazuka.core.errors import DataError, NotEnoughData
from wazuka.core.hashing import derive_seed, make_key
from wazuka.data.views import Images, JoinedImages
from wazuka.training import batches
from wazuka.training.checkpoints import read_checkpoint, write_checkpoint
from wazuka.training.logistic import Problem
from wazuka.training.loop import LoopSettings, StepLoss, Trained, Validate, train
from wazuka.training.roles import AdaptTask, SyntheticRows
from wazuka.training.sampling import BalancedRows, ShuffledRows

FIRST = "checkpoint_first.pt"
"""Weights after the first of two phases; removed when the second is done."""


def synthetic_rows(task: AdaptTask, *, features: bool = False) -> SyntheticRows | None:
    """Return the synthetic rows that are trained on, checked; None where only real rows are.

    Args:
        task: A task.
        features: Whether the method learns from features.

    Raises:
        DataError: If the parts do not fit each other or the task.
        NotEnoughData: If a class has no synthetic image where these are trained on alone.
    """
    found = task.synthetic
    if found is None or found.train_on == "real":
        return None
    labels, count = found.labels, len(task.classes)
    if len(labels) != len(found.images):
        raise DataError(
            f"{task.name} has {len(found.images)} synthetic images but {len(labels)} labels; give one each."
        )
    if not len(labels):
        raise NotEnoughData(f"{task.name} has 0 synthetic images; `train_on: {found.train_on}` needs some.")
    if labels.min() < 0 or labels.max() >= count:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"Label {wrong} of a synthetic image is outside 0..{count - 1}; give class indices.")
    if not 0 < found.weight < np.inf:
        raise DataError(f"`weight` of the synthetic rows is {found.weight}; give a finite number above 0.")
    missing = np.flatnonzero(np.bincount(labels, minlength=count) == 0)
    if len(missing) and found.train_on != "real+synthetic":
        raise NotEnoughData(
            f"{task.name} has 0 synthetic images of class `{task.classes[missing[0]]}`; `train_on: {found.train_on}` needs "
            "one or more of each class."
        )
    if features:
        _check_features(task, found)
    return found


def _check_features(task: AdaptTask, found: SyntheticRows) -> None:
    """Refuse synthetic features that do not go with the real ones, (n, dim) of the task."""
    assert task.features is not None
    wanted = (len(found.labels), task.features.shape[1])
    shape = None if found.features is None else found.features.shape
    if found.features is None or shape != wanted:
        raise DataError(f"Synthetic features of {task.name} have shape {shape}; give {wanted}.")
    bad = np.flatnonzero(~np.isfinite(found.features).all(axis=1))
    if len(bad):
        raise DataError(
            f"Features of synthetic row {bad[0]} of {task.name} hold NaN or Inf ({len(bad)} such rows); check that image "
            "and the backbone's weights."
        )


def notes(task: AdaptTask) -> dict[str, Any]:
    """What the record should say of the rows trained on; nothing where the task has no synthetic rows."""
    found = task.synthetic
    if found is None:
        return {}
    if found.train_on == "real":
        return {"train_on": "real"}
    said: dict[str, Any] = {"train_on": found.train_on, "synthetic_rows": len(found.labels)}
    said["synthetic_rows_per_class"] = np.bincount(found.labels, minlength=len(task.classes)).tolist()
    if found.train_on == "real+synthetic":
        said["synthetic_share_of_the_weight"] = found.weight / (1 + found.weight)
    return said


@dataclass(frozen=True, eq=False)
class Pooled:
    """Real and synthetic rows as one table of features, for exact methods.

    Attributes:
        features: (n + m, dim), real rows first.
        shares: Share of each class per row, (n + m, classes) float64.
        real: n.
        weight: Total weight of the synthetic rows relative to that of the real ones, where both are trained on.
    """

    features: np.ndarray
    shares: np.ndarray
    real: int
    weight: float

    @classmethod
    def of(cls, synthetic: SyntheticRows, features: np.ndarray, shares: np.ndarray) -> Pooled:
        """Pool rows.

        Args:
            synthetic: The synthetic rows.
            features: Of both, (n + m, dim), real rows first.
            shares: Class shares of the real rows, (n, classes).
        """
        both = np.concatenate([np.asarray(shares, np.float64), np.eye(shares.shape[1])[synthetic.labels]])
        return cls(features, both, len(shares), synthetic.weight)

    def problem(
        self,
        real_rows: np.ndarray,
        *,
        on: Literal["real", "synthetic", "real+synthetic"],
        penalties: tuple[float, ...],
        balanced: bool = False,
        offsets: np.ndarray | None = None,
    ) -> Problem:
        """The regression on some of the real rows, on all synthetic rows, or on both.

        Whatever is trained on, features are standardized on the real rows and probabilities follow their class shares.

        Args:
            real_rows: Real rows that take part; synthetic rows alone weigh as much as these together.
            on: What is trained on.
            penalties: Values of C.
            balanced: Whether each class weighs the same in the loss.
            offsets: Per pooled row, (n + m, K); see `Problem`.
        """
        count = len(self.features) - self.real
        relative = self.weight if on == "real+synthetic" else 1.0
        weights = np.ones(len(self.features))
        weights[self.real :] = relative * len(real_rows) / count
        own = np.arange(self.real, len(self.features))
        rows = {"real": real_rows, "synthetic": own, "real+synthetic": np.concatenate([real_rows, own])}[on]
        totals = (self.shares[rows] * weights[rows, None]).sum(0)
        return Problem(
            features=self.features,
            soft_labels=self.shares,
            n_classes=self.shares.shape[1],
            rows=rows,
            weights=weights,
            class_weights=totals.sum() / (len(totals) * totals) if balanced else None,
            offsets=offsets,
            standardize_on=real_rows,
            prior=self.shares[real_rows].mean(0),
            penalties=penalties,
        )


def pooled_images(task: AdaptTask) -> Images | JoinedImages:
    """Images of a task's rows, the synthetic ones after the real ones."""
    synthetic = synthetic_rows(task)
    return task.labeled.images if synthetic is None else JoinedImages(task.labeled.images, synthetic.images)


def pooled_labels(task: AdaptTask) -> tuple[np.ndarray, np.ndarray]:
    """Class index (N,) int64 and class probabilities to learn (N, classes) float32 of a task's rows, pooled."""
    classes, synthetic = len(task.classes), synthetic_rows(task)
    labels, targets = task.labeled.labels, batches.class_targets(task.labeled, classes)
    if synthetic is None:
        return labels, targets
    more = np.eye(classes, dtype=np.float32)[synthetic.labels]
    return np.concatenate([labels, synthetic.labels.astype(labels.dtype)]), np.concatenate([targets, more])


@dataclass(frozen=True)
class Phase:
    """A number of steps on rows drawn in one way.

    Attributes:
        steps: Its length.
        rows: Step of the phase -> pooled positions of its rows, int64.
        shift: (classes,) float64, to be subtracted from logits (`batches.Drawing.shift`).
        weights: (classes,) float64 weight of each class in the loss.
    """

    steps: int
    rows: Callable[[int], np.ndarray]
    shift: np.ndarray
    weights: np.ndarray


class MixedRows:
    """Batches of two streams of draws, one of which gets a fixed share: of any k draws k times the share, less than 1 off.

    Args:
        real, synthetic: Number of a draw -> the position it gives, int64 (1,).
        share: Of the synthetic stream, in [0, 1].
        batch: Rows a step.
    """

    def __init__(
        self,
        real: Callable[[int], np.ndarray],
        synthetic: Callable[[int], np.ndarray],
        *,
        share: float,
        batch: int,
    ) -> None:
        assert 0 <= share <= 1 and batch >= 1, (share, batch)
        self.real, self.synthetic, self.share, self.batch = real, synthetic, share, batch

    def __call__(self, step: int) -> np.ndarray:
        """Positions of the rows of step 0, 1, ...: int64 (batch,)."""
        start, end = step * self.batch, (step + 1) * self.batch
        first, last = int(start * self.share), int(end * self.share)  # synthetic draws before the step, and after it
        drawn = [self.real(one) for one in range(start - first, end - last)]
        return np.concatenate(drawn + [self.synthetic(one) for one in range(first, last)])


def plan_phases(
    task: AdaptTask,
    train_rows: np.ndarray,
    batch: int,
    *,
    steps: int,
    seed: int,
    balance_classes: bool,
    balance_patients: bool = False,
    weigh_classes: bool = False,
) -> list[Phase]:
    """Plan which rows each step of a training sees: one phase, or first synthetic rows and then real ones.

    Args:
        task: What it trains on; without synthetic rows the draws are those of `batches.draw_rows`.
        train_rows: Positions of the real training rows.
        batch, balance_classes, balance_patients, weigh_classes: See `batches.draw_rows`. Synthetic rows have no patient
            and no domain; they are drawn evenly over classes where the real ones are.
        steps: Of both phases together; the first of two has the smaller half.
        seed: Of the order.
    """

    def draw(size: int, *, weigh: bool) -> batches.Drawing:
        return batches.draw_rows(
            task,
            train_rows,
            size,
            seed=seed,
            balance_classes=balance_classes,
            balance_patients=balance_patients,
            weigh_classes=weigh,
        )

    synthetic = synthetic_rows(task)
    both = synthetic is not None and synthetic.train_on == "real+synthetic"
    plain = draw(batch, weigh=weigh_classes)
    on_real = Phase(steps, lambda step: train_rows[plain.sampler(step)], plain.shift, plain.weights)
    if synthetic is None:
        return [on_real]
    count, real_labels = len(task.classes), task.labeled.labels[train_rows]
    share = synthetic.weight / (1 + synthetic.weight) if both else 1.0
    single = draw(1, weigh=False)
    order, own = derive_seed(seed, "synthetic"), synthetic.labels
    more = BalancedRows(own, 1, seed=order) if balance_classes else ShuffledRows(len(own), 1, seed=order)
    mixed = MixedRows(
        lambda one: train_rows[single.sampler(one)],
        lambda one: len(task.labeled) + more(one),
        share=share,
        batch=min(batch, len(train_rows)),
    )
    real = np.maximum(np.bincount(real_labels, minlength=count), 1) / len(real_labels)
    made = np.bincount(own, minlength=count) / len(own)
    there = (1 - share) * real + share * made
    weights = 1 / (there * count) if weigh_classes else np.ones(count)
    evenly = (made > 0) / (made > 0).sum()
    drawn = (1 - share) * real * np.exp(single.shift) + share * (evenly if balance_classes else made)
    first = steps // 2 if synthetic.train_on == "synthetic-then-real" else steps
    phase = Phase(first, mixed, np.log(weights * drawn / real), weights)
    if synthetic.train_on != "synthetic-then-real":
        return [phase]
    last = dataclasses.replace(on_real, steps=steps - first)
    return [phase, last] if first else [last]


def train_phases(
    network: nn.Module,
    head: nn.Linear,
    phases: Sequence[Phase],
    loss_of: Callable[[Phase], StepLoss],
    *,
    settings: LoopSettings,
    seed: int,
    device: str,
    folder: Path,
    parts: Sequence[tuple[nn.Module, float]],
    validate: Validate | None,
    say: Callable[[str], None],
) -> Trained:
    """Train one phase as `loop.train` does, or two in turn, each with its own schedule and optimizer.

    Only the last phase is validated: early stopping does not end the first, and the weights kept have seen real rows.
    Weights between the phases are kept in `folder`, so that an interrupted training ends with the same bytes.

    Args:
        head: Its bias is moved from the classes' shares of the first phase to those of the second.
        loss_of: Loss of one step of a phase; steps count from the phase's start.
        settings: Of the whole; `steps` is that of all phases.
        Others: as in `loop.train`.
    """

    def run(phase: Phase, here: LoopSettings, own_seed: int, watched: Validate | None) -> Trained:
        return train(
            network,
            loss_of(phase),
            settings=here,
            seed=own_seed,
            device=device,
            folder=folder,
            parts=parts,
            validate=watched,
            say=say,
        )

    if len(phases) == 1:
        return run(phases[0], settings, seed, validate)
    first, last = phases
    key = make_key(settings, seed, first.steps, first.shift.tolist(), last.shift.tolist())
    kept = read_checkpoint(folder / FIRST)
    if kept is None or kept["key"] != key:
        begin = dataclasses.replace(settings, steps=first.steps, patience=None, evaluate_first=False)
        begun = run(first, begin, derive_seed(seed, "first"), None)
        batches.correct_bias(head, first.shift - last.shift)
        frozen = {name for name, one in network.named_parameters() if not one.requires_grad}
        state = {name: one for name, one in network.state_dict().items() if name not in frozen}
        kept = {"key": key, "network": state, "train_loss": begun.curves["train_loss"]}
        write_checkpoint(folder / FIRST, kept)
    else:
        say(f"The first {first.steps} steps are done already.")
        network.load_state_dict(kept["network"], strict=False)
    ended = run(last, dataclasses.replace(settings, steps=last.steps), derive_seed(seed, "last"), validate)
    (folder / FIRST).unlink()
    curves = {name: [(step + first.steps, value) for step, value in curve] for name, curve in ended.curves.items()}
    curves["train_loss"] = [(step, value) for step, value in kept["train_loss"]] + curves["train_loss"]
    return dataclasses.replace(
        ended, steps=ended.steps + first.steps, best_step=ended.best_step + first.steps, curves=curves
    )
