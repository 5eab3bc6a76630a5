"""What importers of challenge sets share: ground truth in a table per part, and images in a folder per part.

Used by `isic_2017`, `isic_2018` and `aptos_2019`. The parts of a challenge become the attribute `split` (train, val, test),
so that a study can keep them (`test: {column: split}`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.data.importers.listing import IMAGE_SUFFIXES, SUFFIX_PATTERN, find_files
from wazuka.data.importers.table import read_table_file

SPLIT_SOURCE = "published split"
"""Where the attribute `split` comes from."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """How a part of a challenge is called."""

    split: str
    """train, val or test."""
    folder: str
    """Folder of its images."""
    table: str
    """File with its ground truth."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part as it was found."""

    published: Published
    rows: pd.DataFrame
    """One row per image of the table: `image` (its name without suffix), then columns of `Listing.rows` and attributes."""


def tables_named(source: Path, names: Iterable[str]) -> dict[str, list[Path]]:
    """Name -> the files under a folder that are called so, in lower or upper case; empty for a source that is a file."""
    found: dict[str, list[Path]] = {name: [] for name in names}
    spelled = {name.lower(): name for name in found}
    for path in find_files(source, (".csv",)) if source.is_dir() else []:
        if path.name.lower() in spelled:
            found[spelled[path.name.lower()]].append(path)
    return found


def only(paths: Sequence[Path], source: Path) -> Path | None:
    """The path, or None if there is none.

    Raises:
        DataError: If there are several.
    """
    if len(paths) > 1:
        places = ", ".join(one.relative_to(source).as_posix() for one in paths[:3])
        raise DataError(
            f"{source} has {len(paths)} files named {paths[0].name} ({places}); keep one, or give a lower folder."
        )
    return paths[0] if paths else None


def read_rows(path: Path, columns: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """Read columns of a table as text; the first one names images, and is called `image` in the answer.

    Other columns of the table are not used, which is noted.

    Raises:
        DataError: If the table cannot be read, lacks a column, or leaves an image out or names it twice.
    """
    table = read_table_file(path)
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DataError(
            f"Table {path.name} has no column `{missing[0]}` (it has {', '.join(table.columns)}); as published it has"
            f" {', '.join(columns)}: download it again."
        )
    unused = [name for name in table.columns if name not in columns]
    if unused:
        notes.append(f"columns of {path.name} that are not used: {', '.join(unused)}")
    table = table[list(columns)].rename(columns={columns[0]: "image"})
    if table["image"].isna().any():
        row = int(np.flatnonzero(table["image"].isna().to_numpy())[0])
        raise DataError(f"Column `{columns[0]}` of {path.name} is empty in row {row + 2}; each row names an image.")
    repeated = table["image"].duplicated(keep=False).to_numpy()
    if repeated.any():
        name = table["image"].to_numpy()[repeated][0]
        places = (np.flatnonzero((table["image"] == name).to_numpy()) + 2).tolist()
        raise DataError(
            f"Image {name} stands in rows {', '.join(map(str, places[:5]))} of {path.name}; list each image once."
        )
    return table


def read_marks(table: pd.DataFrame, columns: Sequence[str], path: Path, *, least: int) -> np.ndarray:
    """Read columns of 0.0 and 1.0, one per class, of which at most one is 1.

    Args:
        table: `image` and the columns, as text.
        columns: Names of the classes.
        path: The table's file, for the error.
        least: How many of a row are 1 at least: 1, or 0 where no mark means one more class.

    Returns:
        Which class each row is, bool (rows, classes).

    Raises:
        DataError: If a cell holds something else or a row has too few or too many marks.
    """
    cells = table[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    marks = cells == 1
    count = marks.sum(axis=1)
    wrong = ~(marks | (cells == 0)).all(axis=1) | (count < least) | (count > 1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        held = ", ".join(f"{name} {table[name].iloc[row]}" for name in columns)
        allowed = "one 1.0" if least else "at most one 1.0"
        raise DataError(
            f"Row {row + 2} of {path.name} ({table['image'].iloc[row]}) holds {held}; a row has {allowed} and else 0.0."
        )
    return marks


def place(
    source: Path, parts: Sequence[Part], *, suffix: str, pattern: str, notes: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Find the images of all parts.

    An image is looked up in its part's folder, else outside of all parts' folders; one that is nowhere keeps the path that
    it should have, and the import quarantines it. Images in a part's folder that its table does not name come without a
    label.

    Args:
        source: The folder.
        parts: As found.
        suffix: Of the images as published, with the dot.
        pattern: Regular expression of their names without suffix.
        notes: Gets what the user should know.

    Returns:
        Rows with `path, split, image` and the columns of the parts; and the paths of images that are left out.

    Raises:
        DataError: If an image is in two parts or in two places.
    """
    start = len(os.fspath(source)) + 1
    path = pd.Series([os.fspath(one)[start:] for one in find_files(source, IMAGE_SUFFIXES)], dtype="string")
    path = path.str.replace(os.sep, "/", regex=False)
    stem = path.str.rsplit("/", n=1).str[-1].str.replace(SUFFIX_PATTERN, "", regex=True)
    folders = [one.published.folder for one in parts]
    home = path.str.extract(rf"(?:^|/)({'|'.join(map(re.escape, folders))})/", expand=False)
    named = stem.str.fullmatch(pattern)
    outside = _by_stem(path[home.isna()], stem[home.isna()])
    taken: set[str] = set()
    found: list[pd.DataFrame] = []
    for part in parts:
        own = home == part.published.folder
        inside = _by_stem(path[own.fillna(False)], stem[own.fillna(False)])
        rows, listed = part.rows, part.rows["image"].tolist()
        where = [_place_of(name, inside.get(name) or outside.get(name), source) for name in listed]
        strays = [one for name, one in zip(listed, where, strict=True) if one and name not in inside]
        if strays:
            notes.append(
                f"{len(strays):,} images of {part.published.table} lie outside of {part.published.folder}/, as {strays[0]}"
            )
        top = _folder_of(path[own.fillna(False)], part.published.folder)
        rows = rows.assign(path=[one or f"{top}{name}{suffix}" for name, one in zip(listed, where, strict=True)])
        more = path[(own & named & ~stem.isin(listed)).fillna(False)]
        if len(more):
            names = stem[more.index]
            notes.append(f"{len(more):,} images of {part.published.folder}/ stand in no table and have no label")
            rows = pd.concat([rows, pd.DataFrame({"image": names, "path": more})], ignore_index=True)
        found.append(rows.assign(split=part.published.split))
        taken |= set(rows["path"])
    rows = pd.concat(found, ignore_index=True)
    for name in rows.columns:
        rows[name] = rows[name].astype("string")
    repeated = rows[rows["image"].duplicated(keep=False)]
    if len(repeated):
        name = repeated["image"].iloc[0]
        both = rows[rows["image"] == name]
        raise DataError(
            f"Image {name} is there more than once ({', '.join(both['split'] + ' ' + both['path'])}); keep one of it."
        )
    return rows, path[~path.isin(taken)].tolist()


def _by_stem(path: pd.Series, stem: pd.Series) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one, name in zip(path.tolist(), stem.tolist(), strict=True):
        found.setdefault(name, []).append(one)
    return found


def _place_of(name: str, paths: list[str] | None, source: Path) -> str | None:
    if paths and len(paths) > 1:
        raise DataError(
            f"{source} has {len(paths)} images named {name} ({', '.join(paths[:3])}); keep one, or give a lower folder."
        )
    return paths[0] if paths else None


def _folder_of(inside: pd.Series, folder: str) -> str:
    """The folder of a part's images, with a slash: where they lie, else as published."""
    return f"{inside.iloc[0].rsplit('/', 1)[0]}/" if len(inside) else f"{folder}/"


def note_left_out(paths: list[str], what: str, notes: list[str]) -> None:
    """Note how many images are left out, if any."""
    if paths:
        notes.append(f"{len(paths):,} {what} left out, as {paths[0]}")
