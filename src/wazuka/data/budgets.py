"""Budgets: how many labels a trial may use, as the user writes them (`20`, `10%`, `4 slices`, `1 volumes`).

Every budget of a repeat is a prefix of that repeat's label order (`splits.parquet`), so each contains the smaller ones.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import pandas as pd

from wazuka.core.errors import ConfigError, NotEnoughData, nearest

Unit = Literal["images", "percent", "slices", "volumes"]
PATIENTS_FOR_INNER_SPLIT = 5
"""Patients of each class (or volumes) from which a budget can be divided once more for choices and early stopping."""
HEAD = 10_000
"""Rows of a prefix that are looked at first when patients are counted."""
FORMS = "`20`, `10%`, `4 slices` or `1 volumes`"


@dataclass(frozen=True)
class Budget:
    """A number of labels.

    Attributes:
        amount: How many; a percentage may have decimals.
        unit: Of what.
        written: As the user wrote it; what tables and reports show.
    """

    amount: Fraction
    unit: Unit
    written: str

    def __str__(self) -> str:
        return self.written


@dataclass(frozen=True)
class Selection:
    """The rows of one budget.

    Attributes:
        ids: Their ids, in label order.
        is_val: Which of them early stopping may use, bool (n,); all False without an inner split.
        inner_split: Whether the budget allows choices on held-out parts of it.
        labels: Number of labeled images or slices, n.
    """

    ids: list[str]
    is_val: np.ndarray
    inner_split: bool
    labels: int


def parse(text: str | int) -> Budget:
    """Read a budget.

    Raises:
        ConfigError: If it is no budget, is not above zero or is above 100 %.
    """
    written = str(text).strip()
    match = re.fullmatch(r"(\d+)\s*(%|[A-Za-z]+)?|(\d+\.\d+)\s*(%)", written)
    if match is None or isinstance(text, bool):
        raise ConfigError(f"Budget `{text}` is not understood; write {FORMS}.")
    amount, unit = Fraction(match[1] or match[3]), match[2] or match[4]
    if unit is None:
        named: Unit = "images"
    elif unit == "%":
        named = "percent"
    elif unit in ("slice", "slices"):
        named = "slices"
    elif unit in ("volume", "volumes"):
        named = "volumes"
    else:
        close = (
            {"images": "", "image": ""}.get(unit)
            if unit in ("images", "image")
            else nearest(unit, ["slices", "volumes"])
        )
        hint = "" if close is None else f" Did you mean `{f'{match[1]} {close}'.strip()}`?"
        raise ConfigError(f"Budget `{text}` has the unknown unit `{unit}`; write {FORMS}.{hint}")
    if amount <= 0:
        raise ConfigError(f"Budget `{text}` is zero; use 1 or more.")
    if named == "percent" and amount > 100:
        raise ConfigError(f"Budget `{text}` is above 100%; use a share of the training labels.")
    return Budget(amount, named, written)


def select(rows: pd.DataFrame, budget: Budget, *, labels: pd.Series | None) -> Selection:
    """Choose the labeled rows of a budget.

    Args:
        rows: One repeat and train domain of `splits.parquet`.
        budget: From `parse`.
        labels: Label per id (index: ids) of the whole study, its values naming all classes; None in segmentation.

    Raises:
        ConfigError: If the budget's unit does not fit the data.
        NotEnoughData: If the budget is larger than the data (the largest possible is named) or too small (the
            smallest possible is named).
    """
    volumes = bool(rows["volume_rank"].notna().any())
    if volumes:
        return _select_volumes(rows, budget)
    if budget.unit in ("slices", "volumes"):
        raise ConfigError(
            f"Budget `{budget.written}` needs volumes, and this task has single images; write a number of images or `10%`."
        )
    rank = rows["rank"].fillna(-1).to_numpy(dtype=np.int64)
    n, total = _count(budget, int((rank >= 0).sum()), what="labeled training images")
    place = np.flatnonzero((rank >= 0) & (rank < n))
    place = place[np.argsort(rank[place])]
    is_val = (rows["role"] == "val").to_numpy(dtype=bool)[place]
    codes, names = _classes(rows, place, labels=labels)
    counts = _patients_per_class(rows["patient"], place, codes, n_classes=len(names))
    if labels is not None and counts.min() < 2:
        lacking = str(names[int(np.argmin(counts))])
        raise _too_small(rows, budget, labels=labels, lacking=lacking, total=total)
    inner = counts.min() >= PATIENTS_FOR_INNER_SPLIT and all(
        is_val[codes == code].any() and not is_val[codes == code].all() for code in range(len(names))
    )
    return Selection(rows["id"].iloc[place].tolist(), is_val if inner else np.zeros_like(is_val), bool(inner), n)


def _classes(rows: pd.DataFrame, place: np.ndarray, *, labels: pd.Series | None) -> tuple[np.ndarray, list[str]]:
    """Class per chosen row, and the classes' names; one nameless class without labels."""
    if labels is None:
        return np.zeros(len(place), dtype=np.int64), ["image"]
    names = sorted(labels.dropna().unique())
    # labels in the order of the rows need no look-up, which a million ids make slow
    aligned = len(labels) == len(rows) and bool((rows["id"].array == labels.index.array).all())
    found = labels.iloc[place] if aligned else labels.loc[rows["id"].iloc[place].tolist()]
    return pd.Categorical(found, categories=names).codes.astype(np.int64), names


def _patients_per_class(patients: pd.Series, place: np.ndarray, codes: np.ndarray, *, n_classes: int) -> np.ndarray:
    """Patients per class, int (n_classes,); counted on a beginning of the prefix if that suffices for all rules."""
    for stop in (HEAD, len(codes)):
        numbers = pd.factorize(patients.iloc[place[:stop]])[0].astype(np.int64)
        pairs = np.unique(numbers * n_classes + codes[:stop])
        counts = np.bincount(pairs % n_classes, minlength=n_classes)
        if counts.min() >= PATIENTS_FOR_INNER_SPLIT:
            break
    return counts


def smallest(rows: pd.DataFrame, labels: pd.Series) -> int:
    """Number of images of the smallest possible budget: two labeled images from two patients of each class.

    Raises:
        NotEnoughData: If a class has training labels from fewer than two patients, so that no budget is possible.
    """
    ranked = rows[rows["rank"].notna()].sort_values("rank")
    label = labels.loc[ranked["id"].tolist()].to_numpy(dtype=object)
    patient = ranked["patient"].to_numpy(dtype=object)
    needed = 0
    for name in sorted(labels.dropna().unique()):
        places = np.flatnonzero(label == name)
        other = places[patient[places] != patient[places[0]]] if len(places) else places
        if len(other) == 0:
            found = 1 if len(places) else 0
            raise NotEnoughData(
                f"Class `{name}` has training labels from {found} patients in `{rows['train_domain'].iloc[0]}`; every budget needs two, so add patients or leave the class out."
            )
        needed = max(needed, int(ranked["rank"].iloc[other[0]]) + 1)
    return needed


def _too_small(rows: pd.DataFrame, budget: Budget, *, labels: pd.Series, lacking: str, total: int) -> NotEnoughData:
    least = smallest(rows, labels)
    share = f" ({_percent_of(least, total)}% of {total})" if budget.unit == "percent" else ""
    return NotEnoughData(
        f"Budget {budget.written} is too small: class `{lacking}` needs two labeled images from two patients; the smallest possible budget is {least}{share}."
    )


def _percent_of(n: int, total: int) -> int:
    """Smallest whole percentage of `total` that gives at least `n`."""
    return (n - 1) * 100 // total + 1


def _count(budget: Budget, total: int, *, what: str) -> tuple[int, int]:
    """Turn a budget into a number of units, at most `total`: (number, total)."""
    if total == 0:
        raise NotEnoughData(
            f"Budget {budget.written} needs labels, and there are no {what}; label some or choose another task."
        )
    if budget.unit == "percent":
        return math.ceil(budget.amount * total / 100), total
    if budget.amount > total:
        raise NotEnoughData(
            f"Budget {budget.written} is larger than the data: there are {total} {what}; the largest possible budget is {total}."
        )
    return int(budget.amount), total


def _select_volumes(rows: pd.DataFrame, budget: Budget) -> Selection:
    if budget.unit == "images":
        raise ConfigError(
            f"Budget `{budget.written}` has no unit, and this dataset has volumes; write `{budget.written} slices` or `{budget.written} volumes`."
        )
    ranked = rows[rows["volume_rank"].notna()]
    if budget.unit == "slices":
        first = ranked[(ranked["volume_rank"] == 0).to_numpy(dtype=bool) & ranked["rank"].notna().to_numpy(dtype=bool)]
        n, _ = _count(budget, len(first), what="slices with foreground in the first volume")
        ids = first[(first["rank"] < n).to_numpy(dtype=bool)].sort_values("rank")["id"].tolist()
        return Selection(ids, np.zeros(len(ids), dtype=bool), False, len(ids))
    total = int(ranked["volume_rank"].max()) + 1
    n, _ = _count(budget, total, what="training volumes with masks")
    chosen = ranked[(ranked["volume_rank"] < n).to_numpy(dtype=bool)].sort_values(["volume_rank", "id"], kind="stable")
    is_val = (chosen["role"] == "val").to_numpy(dtype=bool)
    inner = n >= PATIENTS_FOR_INNER_SPLIT and bool(is_val.any()) and not bool(is_val.all())
    return Selection(chosen["id"].tolist(), is_val if inner else np.zeros_like(is_val), inner, len(chosen))
