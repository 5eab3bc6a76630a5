"""The table of predictions of a classification trial: its schema, the decision rule, and its numeric form.

Columns: `id, patient, domain, test_domain, parent, label, p_CLASS ..., threshold, predicted`, one row per test image
(CONTRACTS section 4). `wazuka run` writes it with each trial, `wazuka predict` with `label` null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.core.records import read_table, write_table

BEFORE = ("id", "patient", "domain", "test_domain", "parent", "label")
AFTER = ("threshold", "predicted")
PREFIX = "p_"
SUM_TOLERANCE = 1e-4
"""How far the probabilities of a row may be from summing to 1; float32 softmax stays within 1e-6."""


def columns(classes: Sequence[str]) -> list[str]:
    """Return the columns of a predictions table, in order."""
    return [*BEFORE, *(PREFIX + name for name in classes), *AFTER]


def classes_of(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the class names, in the order of the table's probability columns."""
    return tuple(name.removeprefix(PREFIX) for name in table.columns if name.startswith(PREFIX))


def decide(probs: np.ndarray, *, positive: int | None, threshold: float) -> np.ndarray:
    """Turn probabilities into class indices.

    Args:
        probs: (n, classes), rows sum to 1.
        positive: Index of the positive class with two classes: it is predicted where its probability is at least
            `threshold`. None with more classes: the most probable class, the first one on ties.
        threshold: Used with two classes only, in [0, 1].

    Returns:
        Class index per row, int64 (n,).
    """
    if probs.shape[1] == 2 and positive is not None:
        return np.where(probs[:, positive] >= threshold, positive, 1 - positive).astype(np.int64)
    return probs.argmax(axis=1).astype(np.int64)


def make_predictions(
    rows: pd.DataFrame, probs: np.ndarray, *, classes: Sequence[str], positive: str | None, threshold: float
) -> pd.DataFrame:
    """Build and check a predictions table.

    Args:
        rows: The test images with the columns `id, patient, domain, test_domain, parent, label` (nulls as in the schema).
        probs: (n, classes) in the order of `classes`.
        classes: Class names.
        positive: The positive class (two classes), else None.
        threshold: Chosen inside the budget; ignored with more than two classes.
    """
    index = positive_index(classes, positive)
    probs = np.asarray(probs, dtype=np.float64)
    if probs.shape != (len(rows), len(classes)):
        raise DataError(
            f"`probs` has shape {probs.shape}; {len(rows)} rows and {len(classes)} classes need {(len(rows), len(classes))}."
        )
    table = rows.loc[:, list(BEFORE)].reset_index(drop=True)
    table = pd.concat([table, pd.DataFrame(probs, columns=[PREFIX + name for name in classes])], axis=1)
    table["threshold"] = float(threshold)
    names = np.asarray(classes, dtype=object)
    table["predicted"] = names[decide(probs, positive=index, threshold=threshold)]
    return check(table, classes=classes, positive=positive)


def positive_index(classes: Sequence[str], positive: str | None) -> int | None:
    """Return the index of the positive class: needed with two classes, None with more.

    Raises:
        DataError: If there are fewer than two classes, or two and `positive` is not one of them.
    """
    if len(classes) < 2:
        raise DataError(f"There are {len(classes)} classes ({', '.join(classes)}); scores need at least two.")
    if len(classes) > 2:
        return None
    if positive not in classes:
        raise DataError(
            f"Positive class `{positive}` is not one of {', '.join(f'`{one}`' for one in classes)}; give one of them."
        )
    return list(classes).index(str(positive))


def check(table: pd.DataFrame, *, classes: Sequence[str] | None = None, positive: str | None = None) -> pd.DataFrame:
    """Check a predictions table against its schema and return it with the schema's dtypes and column order.

    Args:
        table: The predictions.
        classes: Expected class names; None takes those of the probability columns.
        positive: The positive class; with two classes, `predicted` must follow the threshold rule for it. None leaves
            `predicted` unchecked with two classes.

    Raises:
        DataError: Naming the first thing that does not fit, with its value.
    """
    classes = tuple(classes) if classes is not None else classes_of(table)
    wanted = columns(classes)
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise DataError(
            f"The predictions lack the columns {', '.join(missing)}; a predictions table has {', '.join(wanted)}."
        )
    unknown = [name for name in table.columns if name not in wanted]
    if unknown:
        raise DataError(
            f"The predictions have unknown columns {', '.join(unknown)}; a predictions table has {', '.join(wanted)}."
        )
    if len(table) == 0:
        raise DataError("The predictions have no rows; a test part needs at least one image.")
    numbers = {*(PREFIX + one for one in classes), "threshold"}
    typed = {name: table[name].astype("float64" if name in numbers else "string") for name in wanted}
    table = pd.DataFrame(typed).reset_index(drop=True)
    for name in ("id", "patient", "test_domain", "predicted"):
        empty = int(typed[name].isna().sum())
        if empty:
            raise DataError(f"Column `{name}` of the predictions is empty in {empty} rows; every row needs a value.")
    if not typed["id"].is_unique:
        repeated = table.loc[table.duplicated(["id", "test_domain"]), "id"]
        if len(repeated):
            raise DataError(
                f"Id `{repeated.iloc[0]}` stands twice in the predictions; each image is tested once per test domain."
            )
    for name in ("label", "predicted"):
        bad = set(typed[name].dropna().unique()) - set(classes)
        if bad:
            raise DataError(
                f"Column `{name}` of the predictions holds `{min(bad)}`; the classes are {', '.join(classes)}."
            )
    _check_probabilities(table, classes, positive)
    return table


def _check_probabilities(table: pd.DataFrame, classes: Sequence[str], positive: str | None) -> None:
    """Refuse probabilities outside [0, 1], rows that do not sum to 1, and decisions that break the rule."""
    probs = table[[PREFIX + name for name in classes]].to_numpy()
    bad = ~np.isfinite(probs).all(axis=1) | (probs < 0).any(axis=1) | (probs > 1).any(axis=1)
    bad |= np.abs(probs.sum(axis=1) - 1) > SUM_TOLERANCE
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"The probabilities of `{table['id'].iloc[row]}` are {probs[row].tolist()}; they must lie in [0, 1] and sum to 1."
        )
    if len(classes) == 2 and positive is None:
        return
    thresholds = table["threshold"].to_numpy()
    threshold = float(thresholds[0])
    if len(classes) == 2 and not (thresholds == threshold).all():
        raise DataError(
            "Column `threshold` of the predictions is not one number; all rows of a trial share its threshold."
        )
    decided = decide(probs, positive=positive_index(classes, positive), threshold=threshold)
    wrong = np.flatnonzero(np.asarray(classes, dtype=object)[decided] != table["predicted"].to_numpy(dtype=object))
    if len(wrong):
        name, found = table["id"].iloc[wrong[0]], table["predicted"].iloc[wrong[0]]
        raise DataError(
            f"`predicted` of `{name}` is `{found}`, but its probabilities and threshold give `{classes[decided[wrong[0]]]}`."
        )


def write_predictions(path: Path, table: pd.DataFrame, *, positive: str | None = None) -> None:
    """Check the table and write it as Parquet, atomically."""
    write_table(path, check(table, positive=positive))


def read_predictions(path: Path, *, classes: Sequence[str] | None = None, positive: str | None = None) -> pd.DataFrame:
    """Read a predictions table and check it.

    Raises:
        ArtifactError: If the file is missing or damaged.
        DataError: If the table does not follow the schema.
    """
    return check(read_table(path), classes=classes, positive=positive)


@dataclass(frozen=True, eq=False)
class Scores:
    """Labeled predictions as arrays, n rows sorted by id.

    Attributes:
        ids: Image ids, object (n,).
        labels: Class index, int64 (n,).
        probs: (n, classes) float64.
        predicted: Class index decided with the trial's threshold, int64 (n,).
        units: Row of the weight matrix that weighs this image (its patient), int64 (n,).
        positive: Index of the positive class (two classes), else None.
    """

    ids: np.ndarray
    labels: np.ndarray
    probs: np.ndarray
    predicted: np.ndarray
    units: np.ndarray
    positive: int | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.probs.shape[1]

    @property
    def n_patients(self) -> int:
        """Number of distinct patients."""
        return len(np.unique(self.units))

    def take(self, rows: np.ndarray) -> Scores:
        """Return the rows selected by a boolean mask or by positions."""
        return Scores(
            self.ids[rows], self.labels[rows], self.probs[rows], self.predicted[rows], self.units[rows], self.positive
        )


def to_scores(
    table: pd.DataFrame, *, classes: Sequence[str], positive: str | None, patients: pd.Index | None = None
) -> Scores:
    """Turn a checked predictions table into arrays.

    Args:
        table: From `check`; every row labeled.
        classes: Class names, in the order of the indices.
        positive: The positive class (two classes), else None.
        patients: Patient names that number the units; None takes the sorted patients of the table.

    Raises:
        DataError: If a row has no label.
    """
    index = positive_index(classes, positive)
    if table["label"].isna().any():
        raise DataError(
            f"{int(table['label'].isna().sum())} of {len(table)} predictions have no label; only labeled images can be scored."
        )
    ids = table["id"].to_numpy(dtype=object)
    order = np.argsort(ids.astype(str), kind="stable")
    names = table["patient"].to_numpy(dtype=object)[order]
    patients = pd.Index(np.unique(names.astype(str)), dtype=object) if patients is None else patients
    codes = {name: number for number, name in enumerate(classes)}
    return Scores(
        ids=ids[order],
        labels=table["label"].map(codes).to_numpy(dtype=np.int64)[order],
        probs=table[[PREFIX + name for name in classes]].to_numpy(dtype=np.float64)[order],
        predicted=table["predicted"].map(codes).to_numpy(dtype=np.int64)[order],
        units=patients.get_indexer(pd.Index(names)).astype(np.int64),
        positive=index,
    )
