"""Several annotators' votes: columns `votes_CLASS` of the source's table, kept with the manifest.

The card says `imported["votes"] = {class: column, "voters": n}` and, where the number of voters differs by image,
`"voters_column": column`. Evaluation scores unanimous and disputed images apart; training may use the shares as soft labels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.data.manifest import DatasetCard

PREFIX = "votes_"
VOTERS_COLUMNS = ("voters", "n_voters", "votes_total")
RESERVED = ("voters", "voters_column")


def find_votes(columns: Iterable[str], classes: Iterable[str]) -> dict[str, str]:
    """Class -> its column `votes_CLASS` (spelling of the class without regard to case, space as underscore)."""
    lowered = {str(name).lower(): str(name) for name in columns}
    found = {}
    for name in classes:
        for written in (name, name.replace(" ", "_")):
            column = lowered.get(f"{PREFIX}{written}".lower())
            if column is not None and name not in RESERVED:
                found[name] = column
                break
    return found


def read_votes(table: pd.DataFrame, classes: tuple[str, ...]) -> tuple[dict[str, str | int], dict[str, pd.Series]]:
    """Find and check the votes in a source's table (values as text).

    The number of voters is a column `voters` (`n_voters`, `votes_total`) if there is one, else the largest sum of
    votes of any row: all images are taken to have been seen by as many.

    Returns:
        What goes into the card (empty without votes), and the vote columns as whole numbers.

    Raises:
        DataError: If a vote is no whole number, is negative, or a row has more votes than voters.
    """
    found = find_votes(table.columns, classes)
    if not found:
        return {}, {}
    numbers = {column: _whole(table[column]) for column in found.values()}
    cast = pd.DataFrame(numbers).sum(axis=1)
    lowered = {str(name).lower(): str(name) for name in table.columns}
    column = next((lowered[name] for name in VOTERS_COLUMNS if name in lowered), None)
    described: dict[str, str | int] = dict(found)
    if column is None:
        described["voters"] = int(cast.max())
    else:
        numbers[column] = _whole(table[column])
        voters = numbers[column].fillna(0)
        described |= {"voters": int(voters.max()), "voters_column": column}
        over = np.flatnonzero((cast > voters).to_numpy(dtype=bool))
        if len(over):
            raise DataError(
                f"Row {over[0] + 2} of the table has {int(cast.iloc[over[0]])} votes but {int(voters.iloc[over[0]])} in `{column}`; mend the row."
            )
    if described["voters"] == 0:
        return {}, {}
    return described, numbers


def _whole(values: pd.Series) -> pd.Series:
    """A text column as Int64, missing cells kept."""
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = (
        (numbers.isna() & values.notna()) | (numbers < 0) | (numbers != numbers.round()).where(numbers.notna(), False)
    )
    position = np.flatnonzero(wrong.fillna(False).to_numpy(dtype=bool))
    if len(position):
        raise DataError(
            f"Column `{values.name}` holds `{values.iloc[position[0]]}` in row {position[0] + 2}; votes are whole numbers from 0."
        )
    return numbers.astype("Int64")


def soft_labels(manifest: pd.DataFrame, card: DatasetCard) -> np.ndarray:
    """Share of the annotators' votes per class, float64 (n, K), each row sum 1, columns as `card.classes`.

    Where one class has no column of its own, it gets the voters that are left. A row without votes gets its label as
    certain; without a label too, NaN.

    Raises:
        DataError: If the dataset has no votes, or two or more classes have no column.
    """
    shares = _shares(manifest, card)
    columns = {name: position for position, name in enumerate(card.classes)}
    codes = manifest["label"].map(columns).to_numpy(dtype=np.float64, na_value=np.nan)
    silent = np.isnan(shares).any(axis=1)
    known = silent & ~np.isnan(codes)
    shares[silent] = np.nan
    shares[known] = np.eye(len(card.classes))[codes[known].astype(np.int64)]
    return shares


def unanimous(manifest: pd.DataFrame, card: DatasetCard) -> np.ndarray:
    """Whether all annotators agree on a row, bool (n,); a row without votes is not unanimous (see `voted`)."""
    shares = _shares(manifest, card)
    return np.nan_to_num(shares, nan=0.0).max(axis=1) == 1.0


def voted(manifest: pd.DataFrame, card: DatasetCard) -> np.ndarray:
    """Whether a row has votes at all, bool (n,): disputed rows are those voted on and not unanimous."""
    return ~np.isnan(_shares(manifest, card)).any(axis=1)


def _shares(manifest: pd.DataFrame, card: DatasetCard) -> np.ndarray:
    """Shares (n, K); a row that lacks a vote or has no voter is NaN."""
    described = card.imported.get("votes") or {}
    if not described:
        raise DataError(f"Dataset {card.name} has no votes; its table needs columns `votes_CLASS`.")
    without = [name for name in card.classes if name not in described]
    if len(without) > 1:
        raise DataError(
            f"Dataset {card.name} has no votes for the classes {', '.join(without)}; at most one class may go without a column."
        )
    counts = np.full((len(manifest), len(card.classes)), np.nan)
    for position, name in enumerate(card.classes):
        if name in described:
            counts[:, position] = manifest[described[name]].to_numpy(dtype=np.float64, na_value=np.nan)
    if "voters_column" in described:
        voters = manifest[described["voters_column"]].to_numpy(dtype=np.float64, na_value=np.nan)
    elif without:
        voters = np.full(len(manifest), float(described["voters"]))
    else:
        voters = counts.sum(axis=1)  # every class has a column: those who voted on this row
    if without:
        position = card.classes.index(without[0])
        counts[:, position] = voters - np.delete(counts, position, axis=1).sum(axis=1)
    voters = np.where(voters > 0, voters, np.nan)
    shares = counts / voters[:, None]
    totals = shares.sum(axis=1, keepdims=True)  # below 1 where someone abstained: shares are of the votes cast
    return shares / np.where(totals > 0, totals, np.nan)
