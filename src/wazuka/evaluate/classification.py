"""Scores of one classification trial, without intervals: what `results.parquet` holds as `value`.

Two classes: sensitivity, specificity and F1 are about the positive class at the trial's threshold, and again at 0.5
(`NAME_at_0.5`). More classes: macro one-versus-rest, and one value per class. Definitions in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from wazuka.evaluate.predictions import Scores, check, to_scores
from wazuka.evaluate.weighted_scores import AT_HALF, METRICS, values


def wanted_metrics(n_classes: int, *, overall_only: bool = False) -> list[tuple[str, int | None]]:
    """List what is reported: pairs of metric and class index (None: overall).

    Args:
        n_classes: Two classes have decisions at 0.5 besides, more have values per class.
        overall_only: Neither of these.
    """
    wanted: list[tuple[str, int | None]] = [(name, None) for name in METRICS]
    if overall_only:
        return wanted
    if n_classes == 2:
        return wanted + [(name + AT_HALF, None) for name, one in METRICS.items() if one.thresholded]
    return wanted + [(name, k) for name, one in METRICS.items() if one.per_class for k in range(n_classes)]


def score(
    table: pd.DataFrame, *, classes: Sequence[str], positive: str | None, metrics: Sequence[str] | None = None
) -> list[tuple[str, str, float | None]]:
    """Score labeled predictions.

    Args:
        table: A predictions table, every row labeled; its `threshold` and `predicted` are used.
        classes: Class names.
        positive: The positive class (two classes), else None.
        metrics: Only these metrics; None takes all.

    Returns:
        (metric, class, value): class "" is the overall value, value None is undefined (one class in the labels).

    Raises:
        DataError: If the table does not follow its schema or a row has no label.
    """
    scores = to_scores(check(table, classes=classes, positive=positive), classes=classes, positive=positive)
    wanted = [one for one in wanted_metrics(len(classes)) if metrics is None or one[0] in metrics]
    return [
        (name, "" if k is None else classes[k], value)
        for (name, k), value in zip(wanted, score_arrays(scores, wanted), strict=True)
    ]


def score_arrays(scores: Scores, wanted: Sequence[tuple[str, int | None]]) -> list[float | None]:
    """Score arrays with every patient counted once; None is undefined."""
    ones = np.ones((int(scores.units.max()) + 1, 1), dtype=np.uint8)
    return [None if np.isnan(value) else float(value) for value in values(scores, ones, wanted)[:, 0]]


def confusion(table: pd.DataFrame, *, classes: Sequence[str]) -> pd.DataFrame:
    """Count images per label (rows) and decision (columns), in the order of `classes`; zeros included."""
    counts = pd.crosstab(table["label"].astype(object), table["predicted"].astype(object))
    return counts.reindex(index=list(classes), columns=list(classes), fill_value=0).astype("int64")
