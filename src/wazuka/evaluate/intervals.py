"""Intervals: the rows of `results.parquet` (patients within one trial) and estimates over repeats (crossed bootstrap)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.core.hashing import derive_seed
from wazuka.evaluate.aggregate import Level, aggregate, why_not
from wazuka.evaluate.classification import wanted_metrics
from wazuka.evaluate.panel import POOLED, SYNTHETIC, Cell, Key, Panel, RowChoice
from wazuka.evaluate.predictions import check, to_scores
from wazuka.evaluate.resampling import draw_patients, interval
from wazuka.evaluate.weighted_scores import metric as describe
from wazuka.evaluate.weighted_scores import values

RESULT_COLUMNS = {
    "strategy": "string",
    "budget": "string",
    "labels": "int64",
    "repeat": "int64",
    "train_domain": "string",
    "test_domain": "string",
    "metric": "string",
    "class": "string",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "n_patients": "int64",
    "n_images": "int64",
    "split_hash": "string",
    "trial": "string",
    "local_labels": "int64",
}
"""Columns of `results.parquet` and their dtypes; an undefined score is null."""
LEVELS: tuple[Level, ...] = ("parent", "patient")


def result_rows(
    predictions: pd.DataFrame,
    *,
    strategy: str,
    budget: str,
    labels: int,
    repeat: int,
    train_domain: str,
    split_hash: str,
    trial: str,
    local_labels: int,
    classes: Sequence[str],
    positive: str | None,
    threshold: float | None = None,
    draws: int = 1000,
    seed: int = 0,
    agreement: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Score one trial on all its test parts, with a 95 % patient bootstrap: its rows of `results.parquet`.

    Parts: each test domain; for a pooled test (`all`) also each of its domains, where there are several. Metrics get
    the suffix `_parent` or `_patient` for mean probabilities of units with several images (where these have labels of
    their own, see aggregate.py), `_unanimous` and `_disputed` for images on which all annotators agree or not.

    Args:
        predictions: The trial's predictions table, every row labeled.
        strategy, budget, labels, repeat, train_domain, split_hash, trial, local_labels: Copied into every row.
        classes: Class names.
        positive: The positive class (two classes), else None.
        threshold: The trial's threshold, if it is to be compared with the table's column.
        draws: Bootstrap draws; those with one class are drawn again.
        seed: Of the draws.
        agreement: Image id -> share of the annotators who gave the image's label, in (0, 1]; synthetic images need none.

    Raises:
        DataError: If the table does not follow its schema, a row has no label or no agreement, or `threshold` differs.
    """
    table = check(predictions, classes=classes, positive=positive)
    if threshold is not None and len(classes) == 2 and float(table["threshold"].iloc[0]) != threshold:
        raise DataError(
            f"The predictions have threshold {table['threshold'].iloc[0]} but the trial has {threshold}; they must be equal."
        )
    rows: list[dict[str, object]] = []
    for part, one in _parts(table):
        votes = None if part == SYNTHETIC else agreement
        for suffix, variant in _variants(one, classes=classes, positive=positive, agreement=votes):
            rng = np.random.default_rng(derive_seed(seed, "within trial", part, suffix))
            for row in _scored(
                variant, classes=classes, positive=positive, draws=draws, rng=rng, overall_only=bool(suffix)
            ):
                rows.append({**row, "test_domain": part, "metric": f"{row['metric']}{suffix}"})
    frame = pd.DataFrame(rows)
    fixed: dict[str, Any] = {
        "strategy": strategy,
        "budget": str(budget),
        "labels": labels,
        "repeat": repeat,
        "train_domain": train_domain,
    }
    frame = frame.assign(**fixed, split_hash=split_hash, trial=trial, local_labels=local_labels)
    return frame[list(RESULT_COLUMNS)].astype(RESULT_COLUMNS)


def _parts(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Test parts of a trial: its test domains, and the domains within a pooled one."""
    parts: list[tuple[str, pd.DataFrame]] = []
    for name, rows in table.groupby("test_domain", sort=True):
        parts.append((str(name), rows))
        if name == POOLED and len(rows["domain"].dropna().unique()) > 1:
            parts += [(str(domain), some) for domain, some in rows.groupby("domain", sort=True)]
    return parts


def _variants(
    table: pd.DataFrame, *, classes: Sequence[str], positive: str | None, agreement: Mapping[str, float] | None
) -> list[tuple[str, pd.DataFrame]]:
    """The images of a part, and what else is scored there, with the suffix of its metrics."""
    variants = [("", table)]
    for level in LEVELS:
        if why_not(table, level) is None:
            variants.append((f"_{level}", aggregate(table, level=level, classes=classes, positive=positive)))
    if agreement is not None:
        agreed = table["id"].map(dict(agreement)).astype("float64")
        if agreed.isna().any():
            raise DataError(
                f"{int(agreed.isna().sum())} of {len(table)} predicted images have no annotator agreement; give it for all or for none."
            )
        for suffix, some in (
            ("_unanimous", table[(agreed >= 1).to_numpy()]),
            ("_disputed", table[(agreed < 1).to_numpy()]),
        ):
            if len(some):
                variants.append((suffix, some))
    return variants


def _scored(
    table: pd.DataFrame,
    *,
    classes: Sequence[str],
    positive: str | None,
    draws: int,
    rng: np.random.Generator,
    overall_only: bool,
) -> list[dict[str, object]]:
    """All metrics of one part with their intervals."""
    scores = to_scores(table, classes=classes, positive=positive)
    n_patients = scores.n_patients
    counts = np.zeros((n_patients, len(classes)), dtype=np.int64)
    np.add.at(counts, (scores.units, scores.labels), 1)
    several = [counts] if (counts.sum(axis=0) > 0).sum() >= 2 else []
    drawn, _ = draw_patients(n_patients, draws=draws, rng=rng, classes=several)
    weights = np.concatenate([np.ones((n_patients, 1), dtype=np.uint8), drawn], axis=1)
    wanted = wanted_metrics(len(classes), overall_only=overall_only)
    rows: list[dict[str, object]] = []
    for (name, k), found in zip(wanted, values(scores, weights, wanted), strict=True):
        low, high = (None, None) if np.isnan(found[0]) else _bounds(name, float(found[0]), found[1:])
        rows.append(
            {
                "metric": name,
                "class": "" if k is None else classes[k],
                "value": found[0],
                "low": np.nan if low is None else low,
                "high": np.nan if high is None else high,
                "n_patients": n_patients,
                "n_images": len(scores),
            }
        )
    return rows


def _bounds(metric: str, estimate: float, drawn: np.ndarray, level: float = 0.95) -> tuple[float | None, float | None]:
    about = describe(metric)
    return interval(drawn, level=level, reflect=estimate if about.inflated else None, low=about.low, high=about.high)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean score over repeats with its 95 % interval.

    Attributes:
        estimate: Mean over repeats of the mean over a repeat's parts; None where undefined everywhere.
        low, high: Crossed-bootstrap interval; None where too few draws are defined. With one repeat it says nothing
            about the choice of labels.
        n_patients: Distinct test patients.
        repeats: Repeats averaged.
        redrawn: Draws with one class that were drawn again or (one class of several) left out.
        undefined: Parts left out because they have one class.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n_patients: int
    repeats: int
    redrawn: int
    undefined: int


def estimate(
    panel: Panel,
    key: Key,
    *,
    metric: str,
    class_: str = "",
    level: float = 0.95,
    cells: Callable[[Cell], bool] | None = None,
    subset: RowChoice | None = None,
) -> Estimate:
    """Estimate a strategy's score at a budget over all its repeats.

    Args:
        panel: The study's trials.
        key: Strategy and budget.
        metric: A metric's name.
        class_: One class, or "" for the overall score.
        level: Of the interval, two-sided.
        cells: Which test parts; None takes the headline ones (see `Panel.over_repeats`).
        subset: Rows within each part.
    """
    found = panel.over_repeats([key], metric=metric, class_=class_, cells=cells, subset=subset)
    if not found.repeats:
        return Estimate(
            estimate=None,
            low=None,
            high=None,
            n_patients=0,
            repeats=0,
            redrawn=panel.redrawn,
            undefined=found.undefined,
        )
    point, drawn = panel.over_draws(found.values[0], found.repeats)
    low, high = _bounds(metric, point, drawn, level)
    return Estimate(
        estimate=point,
        low=low,
        high=high,
        n_patients=found.n_patients,
        repeats=len(found.repeats),
        redrawn=panel.redrawn + int(np.isnan(drawn).sum()),
        undefined=found.undefined,
    )
