"""From images to what they belong to: the mean probability of an image's patches, or of a patient's images.

A label of a unit exists only where all its images agree on it: an image with two cells of different classes has none.
Then `why_not` says so, and no score of that level is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.evaluate.predictions import PREFIX, check, classes_of, decide, positive_index

Level = Literal["parent", "patient"]


def unit_names(table: pd.DataFrame, level: Level) -> pd.Series:
    """Return the unit of each row: its patient, or the image it was cut from (itself, if it was not cut)."""
    return table["patient"] if level == "patient" else table["parent"].fillna(table["id"])


def why_not(table: pd.DataFrame, level: Level) -> str | None:
    """Say why predictions have no scores at this level, or None if they have.

    Args:
        table: From `predictions.check`, one test domain.
        level: "parent" (the image of a patch) or "patient".
    """
    grouped = table.groupby(unit_names(table, level), sort=False)
    if int(grouped.size().max()) < 2:
        return f"every {level} has one image"
    labels = grouped["label"].nunique()
    mixed = int((labels > 1).sum())
    if mixed:
        return f"{mixed} of {grouped.ngroups} {level}s have images of different labels"
    return None


def aggregate(
    table: pd.DataFrame, *, level: Level, classes: Sequence[str] | None = None, positive: str | None = None
) -> pd.DataFrame:
    """Average probabilities over each unit and decide with the trial's own threshold.

    Args:
        table: From `predictions.check`, one test domain.
        level: "parent" or "patient".
        classes: Class names; None takes those of the columns.
        positive: The positive class (two classes), else None.

    Returns:
        A predictions table with one row per unit, sorted by unit; `id` is the unit; `domain` is null where a unit's
        images come from several.

    Raises:
        DataError: If the units have no labels of their own (see `why_not`), or a parent's patches have two patients.
    """
    reason = why_not(table, level)
    if reason is not None and "different labels" in reason:
        raise DataError(f"Predictions cannot be aggregated to the {level}: {reason}; score the images.")
    classes = classes_of(table) if classes is None else tuple(classes)
    table = table.assign(unit=unit_names(table, level)).sort_values("id", kind="stable")
    grouped = table.groupby("unit", sort=True)
    patients = grouped["patient"].nunique()
    if level == "parent" and (patients > 1).any():
        raise DataError(
            f"Image `{patients.idxmax()}` has patches of several patients; a parent belongs to one patient."
        )
    first = grouped.first()
    probs = grouped[[PREFIX + name for name in classes]].mean().to_numpy()
    decided = decide(probs, positive=positive_index(classes, positive), threshold=float(table["threshold"].iloc[0]))
    domains = grouped["domain"].nunique(dropna=False)
    out = pd.DataFrame(
        {
            "id": first.index.to_series().to_numpy(),
            "patient": first["patient"].to_numpy(),
            "domain": first["domain"].where(domains == 1, None).to_numpy(),
            "test_domain": first["test_domain"].to_numpy(),
            "parent": pd.array([pd.NA] * len(first), dtype="string"),
            "label": first["label"].to_numpy(),
            **{PREFIX + name: probs[:, number] for number, name in enumerate(classes)},
            "threshold": first["threshold"].to_numpy(),
            "predicted": np.asarray(classes, dtype=object)[decided],
        }
    )
    return check(out, classes=classes, positive=positive)
