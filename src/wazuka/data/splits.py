"""Splits: who is trained on, who is tested, and in which order labels are spent (`splits.parquet` of `wazuka run`).

Everything is drawn by patient (`data/drawing.py`). The labels of one repeat form one order of which every budget is a
prefix (`data/label_order.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import pandas as pd

from wazuka.core.errors import ConfigError, DataError, NotEnoughData, nearest
from wazuka.core.hashing import derive_seed
from wazuka.data.drawing import draw_patients
from wazuka.data.label_order import class_sequence, farthest_point_order, spread, two_patients_first

COLUMNS = ["repeat", "train_domain", "id", "patient", "role", "rank", "volume_rank"]
ROLES = ("train", "val", "test")
VAL_SHARE = Fraction(1, 5)
"""Share of the training patients whose labels early stopping may use, where a budget allows an inner split."""
Kind = Literal["patients", "leave-one-out", "each-to-each", "column", "dataset"]
Task = Literal["classification", "segmentation", "unlabeled"]


@dataclass(frozen=True, kw_only=True)
class Test:
    """How the test part is chosen."""

    __test__ = False  # not a test class for pytest

    kind: Kind = "patients"
    """`patients`: drawn; `leave-one-out`, `each-to-each`: by domain; `column`: as a column says; `dataset`: `is_test`."""
    share: str = "20%"
    """Share of the patients (`patients`) or of each domain's patients (`each-to-each`)."""
    column: str | None = None
    """Column whose values are train, val or test (`column`)."""


@dataclass(frozen=True)
class _Rows:
    """The table as arrays, sorted by id; codes index `patients`, `classes` and `domains`."""

    table: pd.DataFrame
    task: Task
    patient: np.ndarray  # (n,) int64
    patients: pd.Index
    label: np.ndarray  # (n,) int64, -1 where there is no label
    classes: list[str]
    domain: np.ndarray  # (n,) int64, -1 where unknown
    domains: list[str]
    volume: np.ndarray | None  # (n,) int64, or None where rows are images of their own
    slice_rank: np.ndarray | None  # (n,) int64 within the row's volume, -1 for slices without foreground


def make_splits(
    table: pd.DataFrame, *, test: Test, repeats: int, redraw: bool, seed: int, task: Task = "classification"
) -> pd.DataFrame:
    """Make every repeat's split and label order; the result does not depend on the order of the rows.

    Args:
        table: Usable rows: `id`, `patient`, `label` (missing: unlabeled), `domain`; for segmentation `foreground`
            (True: mask with foreground, False: empty mask, missing: no mask) and, for volumes, `volume` and `frame`;
            the column that `test` names, or `is_test`.
        test: The rule for the test part.
        repeats: How many repeats, numbered from 0.
        redraw: Whether each repeat draws its own test patients; else all share one draw and only labels are redrawn.
        seed: Seed of all draws.
        task: What the labels are.

    Returns:
        One row per repeat, train domain and id, sorted so, with the columns `COLUMNS`. `rank` and `volume_rank` are
        missing for test and unlabeled rows; a slice without foreground has a `volume_rank` but no `rank`.

    Raises:
        DataError: If ids, patients, domains or the split column are wrong.
        NotEnoughData: If there is one patient only, or a class has too few patients for both sides.
        ConfigError: If the share is no percentage.
    """
    rows = _read(table, task=task)
    if repeats < 1:
        raise ConfigError(f"`repeats` is {repeats}; use 1 or more.")
    parts = []
    for name, repeat, train, is_test, val in _sides(rows, test=test, repeats=repeats, redraw=redraw, seed=seed):
        rng = np.random.default_rng(derive_seed(seed, "order", repeat, name))
        labeled = train & (rows.label >= 0)
        if val is None:
            val = _draw_val(rows, labeled, rng=rng)
        rank, volume_rank = _ranks(rows, labeled, val=val, rng=rng)
        role = np.where(is_test, 2, np.where(val[rows.patient], 1, 0))
        parts.append((repeat, name, role, rank, volume_rank))
    return _assemble(rows, parts)


def split_hash(rows: pd.DataFrame) -> str:
    """SHA-256 (hexadecimal) of one repeat and train domain's rows: ids, roles and ranks; independent of row order."""
    rows = rows.sort_values("id", kind="stable")
    ids = rows["id"].tolist()
    digest = hashlib.sha256(np.fromiter(map(len, ids), dtype="<i8", count=len(ids)).tobytes())
    digest.update("".join(ids).encode())
    digest.update(pd.Categorical(rows["role"], categories=list(ROLES)).codes.astype(np.int8).tobytes())
    for name in ("rank", "volume_rank"):
        digest.update(rows[name].astype("Int64").fillna(-1).to_numpy(dtype="<i8").tobytes())
    return digest.hexdigest()


def small_classes(table: pd.DataFrame, minimum: int) -> dict[str, int]:
    """Classes that fewer than `minimum` patients have, each with its number of patients."""
    labeled = table[["label", "patient"]].dropna()
    counts = labeled.groupby("label", observed=True)["patient"].nunique().sort_index()
    return {str(name): int(n) for name, n in counts.items() if n < minimum}


def parse_share(text: str) -> Fraction:
    """Read a percentage strictly between 0 and 100.

    Raises:
        ConfigError: If it is anything else.
    """
    written = str(text).strip()
    try:
        share = Fraction(written[:-1].strip()) / 100 if written.endswith("%") and "/" not in written else None
    except ValueError:
        share = None
    if share is None or not 0 < share < 1:
        raise ConfigError(f"Test share `{text}` is no percentage between 0 and 100; write `20%`.")
    return share


# ---------------------------------------------------------------------------------------------------- the table


def _read(table: pd.DataFrame, *, task: Task) -> _Rows:
    table = table.sort_values("id", kind="stable").reset_index(drop=True)
    if len(table) == 0:
        raise NotEnoughData("The dataset has no usable image; import images that can be read.")
    repeated = table["id"][table["id"].duplicated()]
    if len(repeated):
        raise DataError(f"Id `{repeated.iloc[0]}` stands in more than one row; ids must be unique.")
    missing = int(table["patient"].isna().sum())
    if missing:
        raise DataError(f"{missing} rows have no patient; give each row one (its own id where nothing is known).")
    patient, patients = pd.factorize(table["patient"].astype("string"), sort=True)
    domain, domains = pd.factorize(table["domain"].astype("string"), sort=True)
    volume = slice_rank = None
    if task == "segmentation":
        if "foreground" not in table:
            raise DataError("Column `foreground` is missing; segmentation needs it to know which rows have a mask.")
        shown = table["foreground"].astype("boolean")
        label = np.where(shown.isna(), -1, np.where(shown.fillna(False), 1, 0)).astype(np.int64)
        present = np.unique(label[label >= 0])
        classes = [("empty mask", "foreground")[one] for one in present]
        if "volume" in table and table["volume"].notna().any():
            names = table["volume"].astype("string").fillna(table["id"].astype("string"))
            volume = pd.factorize(names, sort=True)[0]
            _one_patient_each(table, volume, patient)
            slice_rank = _slice_ranks(table, volume, label)
        label = np.where(label < 0, -1, np.searchsorted(present, label))
    elif task == "classification":
        codes, found_names = pd.factorize(table["label"].astype("string"), sort=True)
        label, classes = codes.astype(np.int64), [str(one) for one in found_names]
        if len(classes) < 2:
            found = f"one class only, `{classes[0]}`" if classes else "no label"
            raise DataError(f"Column `label` holds {found}; a classifier needs labeled images of two classes or more.")
    else:
        label, classes = np.full(len(table), -1), []
    return _Rows(
        table,
        task,
        patient.astype(np.int64),
        pd.Index(patients),
        label,
        classes,
        domain.astype(np.int64),
        [str(one) for one in domains],
        volume,
        slice_rank,
    )


def _one_patient_each(table: pd.DataFrame, volume: np.ndarray, patient: np.ndarray) -> None:
    first = np.zeros(volume.max() + 1, dtype=np.int64)
    first[volume] = patient
    wrong = np.flatnonzero(first[volume] != patient)
    if len(wrong):
        name = table["volume"].iloc[wrong[0]]
        raise DataError(f"Volume `{name}` belongs to more than one patient; a volume has one.")


def _slice_ranks(table: pd.DataFrame, volume: np.ndarray, label: np.ndarray) -> np.ndarray:
    frame = table["frame"].astype("Int64").fillna(0).to_numpy(dtype=np.int64)
    ranks = np.full(len(table), -1, dtype=np.int64)
    shown = np.flatnonzero(label == 1)
    shown = shown[np.lexsort((shown, frame[shown], volume[shown]))]
    for block in np.split(shown, np.flatnonzero(np.diff(volume[shown])) + 1) if len(shown) else []:
        frames = frame[block]
        ranks[block[np.array(farthest_point_order(tuple((frames - frames[0]).tolist())))]] = np.arange(len(block))
    return ranks


# ------------------------------------------------------------------------------------------------------ the sides

_Side = tuple[str, int, np.ndarray, np.ndarray, np.ndarray | None]


def _sides(rows: _Rows, *, test: Test, repeats: int, redraw: bool, seed: int) -> Iterator[_Side]:
    """Yield (train domain, repeat, rows that may be ranked, test rows, val patients or None to draw them)."""
    if test.kind == "patients":
        share = parse_share(test.share)
        for repeat in range(repeats):
            draw = repeat if redraw else 0
            rng = np.random.default_rng(derive_seed(seed, "test", draw))
            is_test = _draw_test(rows, share=share, rng=rng)[rows.patient]
            yield "all", repeat, ~is_test, is_test, None
    elif test.kind == "column":
        is_test, val = _from_column(rows, test.column)
        for repeat in range(repeats):
            yield "all", repeat, ~is_test, is_test, val
    elif test.kind == "dataset":
        is_test = rows.table["is_test"].to_numpy(dtype=bool)
        _check_sides(
            rows,
            np.where(is_test, 2, 0),
            "the training and the test dataset",
            "give the test patients names of their own",
        )
        for repeat in range(repeats):
            yield "all", repeat, ~is_test, is_test, None
    elif test.kind == "leave-one-out":
        _check_domains(rows, "a leave-one-out")
        for repeat in range(repeats):
            for code, name in enumerate(rows.domains):
                is_test = _patients_of(rows, rows.domain == code)[rows.patient]
                if is_test.all():
                    raise NotEnoughData(
                        f"Every patient has images in domain `{name}`; nobody is left to train on without it."
                    )
                yield f"not:{name}", repeat, ~is_test, is_test, None
    elif test.kind == "each-to-each":
        _check_domains(rows, "an each-to-each")
        share = parse_share(test.share)
        for repeat in range(repeats):
            draw = repeat if redraw else 0
            chosen = np.zeros(len(rows.patients), dtype=bool)
            for code, name in enumerate(rows.domains):
                chosen |= _draw_in_domain(rows, code, share=share, seed=derive_seed(seed, "test", draw, name))
            is_test = chosen[rows.patient]
            for code, name in enumerate(rows.domains):
                own = ~is_test & (rows.domain == code)
                if not own.any():
                    raise NotEnoughData(
                        f"All patients of domain `{name}` are drawn for the test part; use fewer domains or more patients."
                    )
                yield name, repeat, own, is_test, None
    else:
        raise ConfigError(
            f"Test rule `{test.kind}` is unknown; use patients, leave-one-out, each-to-each, column or dataset."
        )


def _patients_of(rows: _Rows, mask: np.ndarray) -> np.ndarray:
    """Patients (as a mask) who have a row in `mask`."""
    has = np.zeros(len(rows.patients), dtype=bool)
    has[rows.patient[mask]] = True
    return has


def _check_domains(rows: _Rows, rule: str) -> None:
    unknown = int((rows.domain < 0).sum())
    if unknown:
        raise DataError(f"{unknown} images have no domain; {rule} test needs one for each.")
    if len(rows.domains) < 2:
        raise DataError(f"All images have the domain `{rows.domains[0]}`; {rule} test needs two domains or more.")


def _check_sides(rows: _Rows, side: np.ndarray, what: str, remedy: str) -> None:
    low = np.full(len(rows.patients), 9)
    high = np.full(len(rows.patients), -1)
    np.minimum.at(low, rows.patient, side)
    np.maximum.at(high, rows.patient, side)
    both = np.flatnonzero(low != high)
    if len(both):
        raise DataError(
            f"{len(both)} patients are on two sides of {what}, for example `{rows.patients[both[0]]}`; {remedy}."
        )


def _from_column(rows: _Rows, column: str | None) -> tuple[np.ndarray, np.ndarray | None]:
    if column is None:
        raise ConfigError("The test rule `column` names no column; write `test: {column: split}`.")
    if column not in rows.table:
        close = nearest(column, rows.table.columns)
        hint = f" Did you mean `{close}`?" if close else ""
        raise DataError(f"Column `{column}` of the test rule is not in the manifest.{hint}")
    values = rows.table[column].astype("string")
    wrong = values[~values.isin(ROLES)]
    if len(wrong):
        shown = "an empty cell" if pd.isna(wrong.iloc[0]) else f"`{wrong.iloc[0]}`"
        raise DataError(f"Column `{column}` holds {shown} ({len(wrong)} rows); its values must be train, val or test.")
    side = pd.Categorical(values, categories=list(ROLES)).codes.astype(np.int64)
    _check_sides(rows, side, f"column `{column}`", "give all images of a patient the same value")
    for code, name in ((0, "train"), (2, "test")):
        if not (side == code).any():
            raise DataError(f"Column `{column}` has no row `{name}`; it needs training and test rows.")
    if rows.task == "classification" and not (rows.label[side == 2] >= 0).any():
        raise NotEnoughData(f"No row with `test` in column `{column}` has a label; write `test: {{patients: 20%}}`.")
    return side == 2, _patients_of(rows, side == 1) if (side == 1).any() else None


# --------------------------------------------------------------------------------------------- drawing patients


def _class_table(rows: _Rows, mask: np.ndarray) -> np.ndarray:
    """Which patient has which class among the rows of `mask`: bool (patients, classes)."""
    has = np.zeros((len(rows.patients), len(rows.classes)), dtype=bool)
    labeled = mask & (rows.label >= 0)
    has[rows.patient[labeled], rows.label[labeled]] = True
    return has


def _first_domain(rows: _Rows) -> np.ndarray:
    domain = np.full(len(rows.patients), -1, dtype=np.int64)
    domain[rows.patient[::-1]] = rows.domain[::-1]
    return domain


def _draw_test(rows: _Rows, *, share: Fraction, rng: np.random.Generator) -> np.ndarray:
    """Draw the test patients of a pooled study, every class on both sides."""
    if len(rows.patients) < 2:
        raise NotEnoughData(
            f"The data have one patient only, `{rows.patients[0]}`; a test part needs two patients or more."
        )
    has = _class_table(rows, np.ones(len(rows.patient), dtype=bool))
    needed = rows.task == "classification"
    for code, n in enumerate(has.sum(axis=0)):
        if needed and n < 2:
            raise NotEnoughData(
                f"Class `{rows.classes[code]}` has {n} patient; it needs two or more to be trained on and tested."
            )
    chosen = draw_patients(has, groups=_first_domain(rows), share=share, rng=rng)
    for code in range(len(rows.classes)):
        in_test, in_train = has[chosen, code].any(), has[~chosen, code].any()
        if needed and not (in_test and in_train):
            raise NotEnoughData(
                f"Class `{rows.classes[code]}` cannot be both trained on and tested: its {has[:, code].sum()} patients"
                " also carry other rare classes; add patients or leave the class out."
            )
    return chosen


def _draw_in_domain(rows: _Rows, code: int, *, share: Fraction, seed: int) -> np.ndarray:
    inside = rows.domain == code
    members = np.flatnonzero(_patients_of(rows, inside))
    if len(members) < 2:
        raise NotEnoughData(
            f"Domain `{rows.domains[code]}` has one patient; it needs two or more to be trained on and tested."
        )
    has = _class_table(rows, inside)[members]
    chosen = np.zeros(len(rows.patients), dtype=bool)
    drawn = draw_patients(has, groups=np.zeros(len(members)), share=share, rng=np.random.default_rng(seed))
    chosen[members[drawn]] = True
    return chosen


def _draw_val(rows: _Rows, labeled: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Draw about a fifth of the patients with labels for early stopping; nobody where there is only one."""
    val = np.zeros(len(rows.patients), dtype=bool)
    members = np.flatnonzero(_patients_of(rows, labeled))
    if len(members) >= 2:
        has = _class_table(rows, labeled)[members]
        drawn = draw_patients(has, groups=_first_domain(rows)[members], share=VAL_SHARE, rng=rng)
        val[members[drawn]] = True
    return val


# ------------------------------------------------------------------------------------------------ the label order


def _ranks(
    rows: _Rows, labeled: np.ndarray, *, val: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the labeled rows (and volumes) of one training part: (rank, volume_rank), -1 where there is none."""
    rank = np.full(len(labeled), -1, dtype=np.int64)
    volume_rank = np.full(len(labeled), -1, dtype=np.int64)
    index = np.flatnonzero(labeled)
    if len(index) == 0:
        return rank, volume_rank
    if rows.volume is None or rows.slice_rank is None:
        order = spread(index, rows.label, val=val[rows.patient], rng=rng)
        sizes = np.bincount(rows.label[index], minlength=len(rows.classes))
        blocks = np.split(order, np.cumsum(sizes)[:-1])
        order = np.concatenate([two_patients_first(block, rows.patient) for block in blocks])
        rank[order] = np.argsort(class_sequence(sizes), kind="stable")
        return rank, volume_rank
    codes, first = np.unique(rows.volume[index], return_index=True)
    shown = np.zeros(rows.volume.max() + 1, dtype=bool)
    shown[rows.volume[rows.slice_rank >= 0]] = True
    volume_val = np.zeros(len(shown), dtype=bool)
    volume_val[codes] = val[rows.patient[index[first]]]
    order = spread(codes, np.zeros(len(shown), dtype=np.int64), val=volume_val, rng=rng)
    if shown[order].any():  # the first volume is the one whose slices the smallest budgets take
        lead = int(np.argmax(shown[order]))
        order = np.concatenate([order[lead : lead + 1], order[:lead], order[lead + 1 :]])
    place = np.full(len(shown), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    volume_rank[index] = place[rows.volume[index]]
    rank[index] = rows.slice_rank[index]
    return rank, volume_rank


def _assemble(rows: _Rows, parts: list[tuple[int, str, np.ndarray, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    n, times = len(rows.table), len(parts)
    parts = sorted(parts, key=lambda part: part[:2])

    def again(name: str) -> pd.Series:
        """The column once per part; its text is shared, not copied."""
        return pd.concat([rows.table[name].astype("string")] * times, ignore_index=True)

    def ranks(column: int) -> pd.api.extensions.ExtensionArray:
        values = np.concatenate([part[column] for part in parts])
        return pd.arrays.IntegerArray(values, values < 0)

    names = pd.array([part[1] for part in parts], dtype="string")
    return pd.DataFrame(
        {
            "repeat": np.repeat(np.array([part[0] for part in parts], dtype=np.int64), n),
            "train_domain": names.take(np.repeat(np.arange(times), n)),
            "id": again("id"),
            "patient": again("patient"),
            "role": pd.array(list(ROLES), dtype="string").take(np.concatenate([part[2] for part in parts])),
            "rank": ranks(3),
            "volume_rank": ranks(4),
        }
    )
