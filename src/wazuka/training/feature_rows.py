"""What adapters on frozen features share: their checks, their targets, the threshold from held-out probabilities."""

from __future__ import annotations

import numpy as np

from wazuka.core.errors import DataError, NotEnoughData
from wazuka.training.roles import AdaptTask
from wazuka.training.thresholds import DEFAULT, choose_threshold


def class_shares(task: AdaptTask) -> np.ndarray:
    """Share of each class per row, (n, classes) float64: the annotators' votes where they are given, else 0 and 1."""
    if task.labeled.soft_labels is not None:
        return np.asarray(task.labeled.soft_labels, dtype=np.float64)
    return np.eye(len(task.classes))[task.labeled.labels]


def check_features(task: AdaptTask) -> np.ndarray:
    """Return the task's features, (n, dim), if they can be learned from.

    Raises:
        DataError: If they are missing, do not fit the rows, or are not finite (the row is named).
        NotEnoughData: If a class has no row.
    """
    features = task.features
    if features is None or features.ndim != 2 or len(features) != len(task.labeled):
        shape = None if features is None else features.shape
        raise DataError(f"Features of {task.name} have shape {shape}; give ({len(task.labeled)}, dim).")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise DataError(
            f"Features of row {bad[0]} of {task.name} hold NaN or Inf ({len(bad)} such rows); check that image and the "
            "backbone's weights."
        )
    shares = class_shares(task)
    for index, name in enumerate(task.classes):
        if not shares[:, index].any():
            raise NotEnoughData(
                f"The budget of {task.name} has 0 images of class `{name}`; this method needs one or more of each class."
            )
    return features


def held_out_log_loss(probs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mean log-loss (any leading shape) of probabilities (..., n, classes) against class shares (n, classes)."""
    likely = np.log(np.maximum(probs, np.finfo(np.float64).tiny))
    return np.asarray(-(likely * shares).sum(-1).mean(-1))


def held_out_threshold(
    task: AdaptTask, rows: np.ndarray, probs: np.ndarray | None, *, why_not: str
) -> tuple[float, str]:
    """Choose the decision threshold from held-out probabilities, and say how.

    Args:
        task: Two classes, else there is no threshold.
        rows: Rows of the task that were held out, (n,).
        probs: Their probabilities, (n, classes); None where the budget allows no choice.
        why_not: What to say then.

    Returns:
        (threshold, a line for the record).
    """
    if task.positive is None or len(task.classes) != 2:
        return DEFAULT, "none: not a two-class task"
    if probs is None:
        return DEFAULT, f"0.5: {why_not}"
    labels = task.labeled.labels[rows] == task.positive
    threshold = choose_threshold(labels, probs[:, task.positive])
    return threshold, "highest balanced accuracy on the pooled out-of-fold probabilities"
