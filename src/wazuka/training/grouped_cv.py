"""Cross-validation inside a budget: whole patients move together, and each fold gets its share of every class.

Used by `adapt/linear_probe.py` to choose a penalty and a threshold; nothing here sees more than the rows of one budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fold:
    """One fold.

    Attributes:
        train: Rows to fit on, int64.
        held_out: Rows to predict, int64; no patient is on both sides.
        lacks_in_train: Classes of the budget without a row in `train`: no classifier of all classes can be fitted.
        lacks_in_held_out: Classes of the budget without a row in `held_out`.
    """

    train: np.ndarray
    held_out: np.ndarray
    lacks_in_train: tuple[int, ...]
    lacks_in_held_out: tuple[int, ...]


def assign_folds(labels: np.ndarray, patients: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """Assign a fold to every row, whole patients together, classes spread as evenly as the patients allow.

    Greedy: patients with the rarest class first (rare by patients), then by size, then in random order; each goes to the
    fold where the squared class shares rise least. The result does not depend on the order of the rows.

    Args:
        labels: Class index per row, (n,).
        patients: Patient code per row, (n,).
        folds: Number of folds; fewer are used where there are fewer patients.
        seed: Of the random order.

    Returns:
        Fold of each row, int64 (n,).
    """
    codes, place = np.unique(patients, return_inverse=True)
    n_classes = int(labels.max()) + 1
    counts = np.zeros((len(codes), n_classes))
    np.add.at(counts, (place, labels), 1)
    total = np.maximum(counts.sum(0), 1)
    rarity = np.argsort(np.argsort((counts > 0).sum(0), kind="stable"), kind="stable")  # 0: in fewest patients
    rarest = np.where(counts > 0, rarity, n_classes).min(1)
    shuffled = np.random.default_rng(seed).permutation(len(codes))
    order = np.lexsort((shuffled, -counts.sum(1), rarest))
    filled = np.zeros((min(folds, len(codes)), n_classes))
    fold_of = np.zeros(len(codes), dtype=np.int64)
    for patient in order:
        added = counts[patient]
        rise = ((2 * filled * added + added**2) / total**2).sum(1)
        nearly = np.flatnonzero(rise <= rise.min() + 1e-12)
        chosen = nearly[np.argmin(filled[nearly].sum(1))]
        fold_of[patient] = chosen
        filled[chosen] += added
    return fold_of[place]


def make_folds(labels: np.ndarray, patients: np.ndarray, *, folds: int, seed: int) -> list[Fold]:
    """Cut a budget into folds; see `assign_folds`. Every row is held out once.

    Returns:
        The folds; a single patient gives one fold with nothing to train on.
    """
    fold_of = assign_folds(labels, patients, folds=folds, seed=seed)
    present = set(np.unique(labels).tolist())
    found = []
    for fold in range(int(fold_of.max()) + 1):
        train, held_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        missing = [tuple(sorted(present - set(labels[rows].tolist()))) for rows in (train, held_out)]
        found.append(Fold(train, held_out, *missing))
    return found
