"""All trials of a study over one list of patients and one set of bootstrap draws.

Estimates, differences, curves and gaps are functions of the same draws, so that what two strategies or two budgets have
in common cancels. `Panel` computes each trial's score under all draws once and keeps it.

    panel = Panel(trials, classes=("a", "b"), positive="b", seed=0)
    estimate(panel, Key("linear-probe", "100"), metric="auroc")          # intervals.py
    compare(panel, metric="auroc", baseline="linear-probe")              # comparisons.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError, unknown_name
from wazuka.core.hashing import derive_seed
from wazuka.evaluate.predictions import Scores, check, to_scores
from wazuka.evaluate.resampling import draw_patients, draw_repeats
from wazuka.evaluate.weighted_scores import values

POOLED = "all"
SYNTHETIC = "synthetic"


class Key(NamedTuple):
    """What is estimated: a strategy at a budget."""

    strategy: str
    budget: str
    local_labels: int = 0


class Cell(NamedTuple):
    """One test part of one trial: `part` is the test domain, `all`, or one domain of a pooled test."""

    repeat: int
    train_domain: str
    part: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A finished trial: what was trained, on how many labels, and what it predicted.

    Attributes:
        predictions: Its predictions table (see predictions.py), every row labeled.
        Others: as in `results.parquet`.
    """

    strategy: str
    budget: str
    labels: int
    repeat: int
    predictions: pd.DataFrame = field(repr=False)
    train_domain: str = POOLED
    local_labels: int = 0


@dataclass(frozen=True, eq=False)
class RepeatValues:
    """Scores of one or several keys over the repeats (and parts) that all of them have.

    Attributes:
        repeats: Repeat numbers, sorted.
        values: Per key, (repeats, 1 + draws): the score itself, then the score under each draw of patients; the mean
            over the repeat's parts. NaN is a draw in which it is undefined.
        cells: The parts used.
        undefined: Parts left out because the score is undefined there (one class).
        units: The distinct patients in the parts used, as positions in the panel's list.
    """

    repeats: tuple[int, ...]
    values: tuple[np.ndarray, ...]
    cells: tuple[Cell, ...]
    undefined: int
    units: np.ndarray

    @property
    def n_patients(self) -> int:
        """Distinct patients in the parts used."""
        return len(self.units)


RowChoice = Callable[[Scores], np.ndarray]
"""Chooses rows of a test part: gives a boolean mask (n,)."""


class Panel:
    """All trials of a study, on one list of patients.

    Args:
        trials: Finished trials, any order. All strategies share the test images of a repeat; the parts named
            `synthetic` are left out here (they have their intervals in `results.parquet`).
        classes: Class names.
        positive: The positive class (two classes), else None.
        draws: Bootstrap draws.
        seed: Of the draws; the same patients and seed give the same draws whatever the order of trials and rows.

    Attributes:
        weights: (patients, 1 + draws) uint8: ones, then the counts of each draw.
        redrawn: Draws that left only one class in a part and were drawn again.

    Raises:
        DataError: If there are no trials, one stands twice, or trials of one repeat have different test images.
    """

    def __init__(
        self, trials: Sequence[Trial], *, classes: Sequence[str], positive: str | None, draws: int = 2000, seed: int = 0
    ) -> None:
        if not trials:
            raise DataError("There are no finished trials; an estimate needs at least one.")
        self.classes, self.positive, self.seed = tuple(classes), positive, seed
        tables = [check(trial.predictions, classes=classes, positive=positive) for trial in trials]
        tables = [table[table["test_domain"] != SYNTHETIC] for table in tables]
        if not sum(len(table) for table in tables):
            raise DataError("The trials have no real test images; an estimate needs at least one.")
        names = np.unique(np.concatenate([table["patient"].unique().astype(str) for table in tables]))
        self.patients = pd.Index(names, dtype=object)
        self.scores: dict[Key, dict[Cell, Scores]] = {}
        self.labels: dict[Key, dict[int, list[int]]] = {}
        self.headline: set[Cell] = set()
        for trial, table in sorted(zip(trials, tables, strict=True), key=lambda pair: _order(pair[0])):
            self._add(trial, table)
        self._check_shared()
        parts = {
            cell: scores for cells in self.scores.values() for cell, scores in cells.items() if cell in self.headline
        }
        classes_found = [_class_counts(scores, len(names)) for _, scores in sorted(parts.items())]
        several = [one for one in classes_found if ((one > 0).any(axis=0)).sum() >= 2]
        drawn, self.redrawn = draw_patients(
            len(names),
            draws=draws,
            rng=np.random.default_rng(derive_seed(seed, "patients")),
            classes=_distinct(several),
        )
        self.weights = np.concatenate([np.ones((len(names), 1), dtype=np.uint8), drawn], axis=1)
        self._values: dict[tuple[Key, Cell, str, int | None], np.ndarray] = {}
        self._repeats: dict[tuple[int, ...], np.ndarray] = {}

    def _add(self, trial: Trial, table: pd.DataFrame) -> None:
        key = Key(trial.strategy, trial.budget, trial.local_labels)
        cells = self.scores.setdefault(key, {})
        pooled = bool((table["test_domain"] == POOLED).any())
        for part, rows in table.groupby("test_domain", sort=True):
            cell = Cell(trial.repeat, trial.train_domain, str(part))
            if cell in cells:
                raise DataError(
                    f"Two trials of `{trial.strategy}` at budget {trial.budget} have repeat {trial.repeat} and train domain `{trial.train_domain}`; give each once."
                )
            scores = to_scores(rows, classes=self.classes, positive=self.positive, patients=self.patients)
            cells[cell] = scores
            if part == POOLED or (not pooled and part != trial.train_domain):
                self.headline.add(cell)
            if part == POOLED and len(rows["domain"].dropna().unique()) > 1:
                domain = rows.set_index("id")["domain"].reindex(scores.ids).to_numpy(dtype=object)
                for name in sorted(rows["domain"].dropna().unique()):
                    cells[cell._replace(part=str(name))] = scores.take(domain == name)
        self.labels.setdefault(key, {}).setdefault(trial.repeat, []).append(trial.labels)

    def _check_shared(self) -> None:
        seen: dict[Cell, tuple[Key, Scores]] = {}
        for key, cells in self.scores.items():
            for cell, scores in cells.items():
                other_key, other = seen.setdefault(cell, (key, scores))
                if not (
                    np.array_equal(other.ids, scores.ids)
                    and np.array_equal(other.labels, scores.labels)
                    and np.array_equal(other.units, scores.units)
                ):
                    raise DataError(
                        f"`{key.strategy}` at {key.budget} and `{other_key.strategy}` at {other_key.budget} have different test images, labels or patients in repeat {cell.repeat}; only trials on the same split can be compared."
                    )

    @property
    def keys(self) -> list[Key]:
        """All strategies and budgets, budgets of a strategy by their number of labels."""
        return sorted(self.scores, key=lambda key: (key.strategy, key.local_labels, self.mean_labels(key), key.budget))

    def mean_labels(self, key: Key) -> float:
        """Labels used at this budget, averaged over repeats and train domains (shares of the data differ a little)."""
        self.require(key)
        return float(np.mean([np.mean(labels) for labels in self.labels[key].values()]))

    def require(self, key: Key) -> None:
        """Refuse a key without trials.

        Raises:
            ConfigError: Naming the nearest strategy, or the budgets there are.
        """
        if key in self.scores:
            return
        strategies = sorted({one.strategy for one in self.scores})
        if key.strategy not in strategies:
            raise unknown_name("strategy", key.strategy, strategies)
        raise unknown_name(
            "budget",
            key.budget,
            sorted({one.budget for one in self.scores if one.strategy == key.strategy}),
            where=f"`{key.strategy}`",
        )

    def class_index(self, class_: str) -> int | None:
        """Index of a class; None for "" (overall)."""
        if class_ == "":
            return None
        if class_ not in self.classes:
            raise unknown_name("class", class_, self.classes)
        return self.classes.index(class_)

    def values(self, key: Key, cell: Cell, *, metric: str, class_: str = "") -> np.ndarray:
        """One part's score, then its score under each draw, (1 + draws,); NaN where undefined."""
        index = self.class_index(class_)
        name = (key, cell, metric, index)
        if name not in self._values:
            self._values[name] = values(self.scores[key][cell], self.weights, [(metric, index)])[0]
        return self._values[name]

    def _values_of(
        self, key: Key, cell: Cell, *, metric: str, class_: str, subset: RowChoice | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for a choice of rows, and the units of these rows."""
        scores = self.scores[key][cell]
        if subset is None:
            return self.values(key, cell, metric=metric, class_=class_), scores.units
        chosen = scores.take(subset(scores))
        return values(chosen, self.weights, [(metric, self.class_index(class_))])[0], chosen.units

    def over_repeats(
        self,
        keys: Sequence[Key],
        *,
        metric: str,
        class_: str = "",
        cells: Callable[[Cell], bool] | None = None,
        subset: RowChoice | None = None,
    ) -> RepeatValues:
        """Scores of several keys over the parts that all of them have, averaged within each repeat.

        Args:
            keys: Strategies at budgets.
            metric: A metric's name.
            class_: One class, or "" for the overall score.
            cells: Which parts; None takes the headline ones: the pooled test (`all`); with leave-one-out the domain
                left out; with each-to-each the domains that were not trained on.
            subset: Rows within each part.
        """
        for key in keys:
            self.require(key)
        common = set.intersection(*(set(self.scores[key]) for key in keys))
        chosen = sorted(cell for cell in common if (cell in self.headline if cells is None else cells(cell)))
        each = {
            cell: [self._values_of(key, cell, metric=metric, class_=class_, subset=subset) for key in keys]
            for cell in chosen
        }
        used = [cell for cell in chosen if not any(np.isnan(found[0]) for found, _ in each[cell])]
        repeats = tuple(sorted({cell.repeat for cell in used}))
        stacked = np.empty((len(keys), len(repeats), self.weights.shape[1]))
        for row, repeat in enumerate(repeats):
            parts = [[found for found, _ in each[cell]] for cell in used if cell.repeat == repeat]
            stacked[:, row] = np.mean(parts, axis=0)
        units = np.unique(np.concatenate([each[cell][0][1] for cell in used])) if used else np.zeros(0, dtype=np.int64)
        return RepeatValues(repeats, tuple(stacked), tuple(used), len(chosen) - len(used), units)

    def over_draws(self, values: np.ndarray, repeats: tuple[int, ...]) -> tuple[float, np.ndarray]:
        """Combine (repeats, 1 + draws) to the mean over repeats and its crossed-bootstrap draws, (draws,).

        A draw is undefined (NaN) only where the score is undefined in a repeat that was drawn.
        """
        if repeats not in self._repeats:
            rng = np.random.default_rng(derive_seed(self.seed, "repeats", list(repeats)))
            self._repeats[repeats] = draw_repeats(len(repeats), draws=self.weights.shape[1] - 1, rng=rng)
        shares = self._repeats[repeats]
        drawn = np.where(shares.T > 0, values[:, 1:], 0.0)  # 0 times NaN would be NaN
        return float(values[:, 0].mean()), np.einsum("dr,rd->d", shares, drawn)


def _order(trial: Trial) -> tuple[str, str, int, int, str]:
    return (trial.strategy, trial.budget, trial.local_labels, trial.repeat, trial.train_domain)


def _class_counts(scores: Scores, n_patients: int) -> np.ndarray:
    """Images per (patient, class)."""
    flat = np.bincount(scores.units * scores.n_classes + scores.labels, minlength=n_patients * scores.n_classes)
    return flat.reshape(n_patients, scores.n_classes)


def _distinct(tables: list[np.ndarray]) -> list[np.ndarray]:
    """Drop repeated tables (with a fixed test part all repeats have the same one)."""
    return list({one.tobytes(): one for one in tables}.values())
