"""A table with one row per image (CSV, TSV or Parquet): `wazuka import SOURCE --table FILE --image COL --label COL ...`.

Paths in it are relative to SOURCE. Columns are taken by name, or by a common spelling where only one fits, which is then
said. Every other column becomes an attribute. A row may list a volume (NIfTI) with its mask.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError, nearest
from wazuka.data.importers.listing import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    SLIDE_SUFFIXES,
    TABLE_SUFFIXES,
    VOLUME_SUFFIXES,
    ImportOptions,
    Listing,
    find_files,
    relative_paths,
    without_suffix,
)
from wazuka.data.manifest import COLUMNS
from wazuka.data.spacing import MPP
from wazuka.data.votes import read_votes

KIND = "table"
SPELLINGS: dict[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "path", "file", "filename", "file_name", "filepath", "file_path", "img", "images"),
    "label": ("label", "class", "target", "diagnosis", "dx", "labels", "ground_truth"),
    "mask": ("mask", "mask_path", "segmentation", "seg", "masks", "mask_file", "label_path"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "case", "case_id", "participant_id"),
    "domain": ("domain", "scanner", "site", "center", "centre", "hospital", "institution"),
}
"""Common spellings; a column that has the first one's name is meant in any case."""
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "<NA>")
"""What a missing cell is written as. `None` is a value: it may be a class."""
READABLE = (*IMAGE_SUFFIXES, *VOLUME_SUFFIXES, *DICOM_SUFFIXES, *SLIDE_SUFFIXES)
TAKEN = (*COLUMNS, "volume", "slice", "parent", "patch_y", "patch_x", "patch_px")
"""Names that the manifest has a meaning for; a table's own column of such a name becomes `table_NAME`."""
ROWS_PROBED = 20
MICRONS = (0.01, 10_000)
"""Plausible microns per pixel: from below any light microscope (where a value in mm would lie) to 10 mm."""


def recognize(source: Path) -> str | None:
    """A table file, or a folder with exactly one table whose rows name images that are there."""
    path = _only_table(source)
    if path is None:
        return None
    try:
        table = read_table_file(path)
        column = _image_column(table, path, root=_root(source))
    except DataError:
        return None
    if not _names_files(table[column], _root(source)):
        return None
    return f"a table {path.name} of {len(table):,} rows with the columns {', '.join(map(str, table.columns[:8]))}"


def _root(source: Path) -> Path:
    return source.parent if source.is_file() else source


def _only_table(source: Path) -> Path | None:
    if source.is_file():
        return source if source.name.lower().endswith(TABLE_SUFFIXES) else None
    found = [
        one
        for one in sorted(source.iterdir())
        if one.is_file() and one.name.lower().endswith(TABLE_SUFFIXES) and not one.name.startswith(".")
    ]
    return found[0] if len(found) == 1 else None


def _names_files(paths: pd.Series, root: Path) -> bool:
    """Whether the first values name files under the root (as paths, file names or stems)."""
    first = paths.dropna().head(ROWS_PROBED).tolist()
    if any((root / one).is_file() for one in first):
        return True
    files = find_files(root, READABLE)
    names = {one.name for one in files} | {without_suffix(one.name) for one in files}
    return any(Path(one).name in names for one in first)


def read_table_file(path: Path) -> pd.DataFrame:
    """Read a table, every cell as text; missing cells (`MISSING`) are NA.

    Raises:
        DataError: If the file is missing, is no table or has no rows or no columns.
    """
    if path.is_dir():
        raise DataError(f"Table {path} is a folder; give the path of a CSV, TSV or Parquet file.")
    if not path.is_file():
        raise DataError(f"Table {path} does not exist{_near_file(path)}; give the path of a CSV, TSV or Parquet file.")
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
            table = pd.DataFrame({str(name): _as_text(table[name]) for name in table.columns})
        else:
            table = _read_text_table(path)
    except (OSError, ValueError, UnicodeError, csv.Error, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"Table {path} cannot be read ({reason}); give a UTF-8 CSV, a TSV or a Parquet file with a header line."
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    _refuse_twins(list(table.columns), path)
    if len(table) == 0 or len(table.columns) == 0:
        raise DataError(f"Table {path} has no rows; it needs a header line and one row per image.")
    for name in table.columns:
        text = table[name].str.strip()
        table[name] = text.mask(text.isin(MISSING))
    return table


def _read_text_table(path: Path) -> pd.DataFrame:
    """Read CSV (comma, or semicolon where the header has only these) or TSV; a row of another length is an error."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    separator = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in header and "," not in header else ","
    names = [one.strip() for one in next(csv.reader([header], delimiter=separator), [])]
    _refuse_twins(names, path)  # pandas would rename the second one
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # else cells too many are cut off with a warning
        return pd.read_csv(
            path,
            sep=separator,
            dtype="string",
            keep_default_na=False,
            na_values=list(MISSING),
            encoding="utf-8-sig",
            skipinitialspace=True,
            index_col=False,
        )


def _refuse_twins(names: list[str], path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"Table {path.name} has the column `{twice[0]}` twice; rename one.")


def _as_text(values: pd.Series) -> pd.Series:
    """A typed column as text; whole numbers kept as float because of a gap are written without `.0`."""
    if pd.api.types.is_float_dtype(values.dtype):
        known = values.dropna()
        if len(known) and np.isfinite(known).all() and (known == known.round()).all():
            return values.astype("Int64").astype("string")
    return values.astype("string")


def _near_file(path: Path) -> str:
    folder = path.parent
    close = nearest(path.name, [one.name for one in folder.iterdir()]) if folder.is_dir() else None
    return f" (did you mean {close}?)" if close else ""


def read(source: Path, options: ImportOptions) -> Listing:
    """List the rows of the table.

    Raises:
        DataError: If a file or column is missing, an id or image stands twice, or a path leaves the source.
    """
    root = _root(source)
    path = _table_path(source, options)
    table = read_table_file(path)
    notes: list[str] = []
    columns = _choose_columns(table, path, root=root, options=options, notes=notes)
    rows = pd.DataFrame({"path": _resolve(table[columns["image"]], path, root=root, what="image", notes=notes)})
    if "mask" in columns:
        rows["mask"] = _resolve(table[columns["mask"]], path, root=root, what="mask", notes=notes)
    for role in ("label", "patient", "domain"):
        if role in columns:
            rows[role] = table[columns[role]]
    rest = [name for name in table.columns if name not in columns.values()]
    if "id" in rest:
        rows["id"] = _check_ids(table["id"], path)
    for name in ("frame", "prompt", "volume"):
        if name in rest:
            rows[name] = _frames(table[name], path) if name == "frame" else table[name]
    rest = [name for name in rest if name not in ("id", "frame", "prompt", "volume")]
    if MPP in rest:
        known = _check_microns(table[MPP], path)
        notes.append(f"column {MPP} (microns per pixel) gives the pixel spacing of {known} of {len(table)} images")
    _refuse_repeats(rows, path, column=columns["image"])
    classes = tuple(sorted(rows["label"].dropna().unique())) if "label" in rows else ()
    votes, counted = read_votes(table, classes)
    for name in rest:
        kept = f"table_{name}" if name in TAKEN else name
        if kept != name:
            notes.append(f"column {name} is kept as {kept}: the manifest has its own {name}")
        rows[kept] = counted.get(name, table[name])
    attributes = {
        name: "table" for name in rows.columns if name not in COLUMNS and name not in ("volume", "patient_raw")
    }
    if votes:
        notes.append(f"votes of {votes['voters']} annotators: {', '.join(sorted(counted))}")
    return Listing(
        rows=rows,
        attribute_sources=attributes,
        notes=notes,
        patient_source="table" if "patient" in columns else None,
        votes=votes,
    )


def _table_path(source: Path, options: ImportOptions) -> Path:
    if options.table is not None:
        given = Path(options.table)
        within = _root(source) / given
        return within if not given.exists() and within.is_file() else given
    path = _only_table(source)
    if path is None:
        names = [one.name for one in sorted(source.iterdir()) if one.name.lower().endswith(TABLE_SUFFIXES)]
        raise DataError(
            f"{source} has {len(names)} tables ({', '.join(names[:5]) or 'none'}), not one; name the one you mean with --table."
        )
    return path


def _choose_columns(
    table: pd.DataFrame, path: Path, *, root: Path, options: ImportOptions, notes: list[str]
) -> dict[str, str]:
    """Role -> column: what the user named, else a common spelling that only one column has."""
    columns: dict[str, str] = {}
    for role in SPELLINGS:
        given = getattr(options, role)
        if given is None:
            continue
        if given not in table.columns:
            close = nearest(given, table.columns)
            hint = f"Did you mean `{close}`? " if close else ""
            raise DataError(
                f"Table {path.name} has no column `{given}` (--{role}). {hint}Its columns: {', '.join(table.columns)}."
            )
        columns[role] = given
    free = [name for name in table.columns if name not in columns.values()]
    for role in SPELLINGS:
        if role in columns:
            continue
        found = [_image_column(table[free], path, root=root)] if role == "image" else _spelled(free, role)
        if len(found) > 1 and role == "label":
            raise DataError(
                f"Table {path.name} has several columns that could be the label ({', '.join(found)}); name one with --label."
            )
        if len(found) > 1:
            notes.append(f"columns {', '.join(found)} could each be the {role}; none is used, name one with --{role}")
        elif found:
            columns[role] = found[0]
            free.remove(found[0])
            if found[0] != role:
                notes.append(f"column {found[0]} is taken as the {role}")
    return columns


def _spelled(names: Sequence[str], role: str) -> list[str]:
    spellings = SPELLINGS[role]
    found = [name for name in names if name.lower().replace(" ", "_").replace("-", "_") in spellings]
    exact = [name for name in found if name.lower() == spellings[0]]
    return exact if len(exact) == 1 else found


def _image_column(table: pd.DataFrame, path: Path, *, root: Path) -> str:
    """The column with the images' paths: by spelling, else the only one whose values are image files."""
    found = _spelled(list(table.columns), "image")
    if len(found) == 1:
        return found[0]
    candidates = found or list(table.columns)
    naming = [
        name for name in candidates if any((root / one).is_file() for one in table[name].dropna().head(ROWS_PROBED))
    ]
    if len(naming) == 1:
        return naming[0]
    what = (
        f"several columns that could be the image ({', '.join(naming or found)})"
        if naming or found
        else "no image column"
    )
    raise DataError(f"Table {path.name} has {what}; name it with --image, one of {', '.join(table.columns)}.")


def _resolve(written: pd.Series, path: Path, *, root: Path, what: str, notes: list[str]) -> pd.Series:
    """Paths relative to the root. What is no such file is looked up by its name or stem where only one file has it."""
    if what == "image" and written.isna().any():
        row = int(np.flatnonzero(written.isna().to_numpy())[0])
        raise DataError(
            f"Column `{written.name}` of {path.name} is empty in {int(written.isna().sum())} rows (first in row {row + 2}); each row needs an image."
        )
    relative = relative_paths(written, root)
    files = _index(root)
    known = files["path"]
    absent = np.array(relative.notna() & ~relative.isin(known), dtype=bool)
    texts, base = relative.tolist(), os.fspath(root)
    for position in np.flatnonzero(absent):  # a file of unknown suffix is there all the same
        absent[position] = not os.path.isfile(f"{base}/{texts[position]}")  # noqa: PTH113  (a million of them)
    if not absent.any():
        return relative
    names = relative[absent].str.rsplit("/", n=1).str[-1]
    found = names.map(_unique(files["name"], known)).astype("string")
    found = found.fillna(names.map(_unique(files["stem"], known)).astype("string"))
    resolved = found.notna()
    if resolved.any():
        first = relative[absent][resolved].iloc[0]
        notes.append(
            f"{int(resolved.sum())} paths in column {written.name} are found by file name ({first} is {found[resolved].iloc[0]})"
        )
        relative[absent] = found.fillna(relative[absent])
    return relative


def _index(root: Path) -> pd.DataFrame:
    """Image files under the root: path relative to it, name and stem."""
    prefix = len(os.fspath(root)) + 1
    paths = pd.Series([os.fspath(one)[prefix:] for one in find_files(root, READABLE)], dtype="string")
    names = paths.str.rsplit("/", n=1).str[-1].astype("string")
    return pd.DataFrame({"path": paths, "name": names, "stem": names.map(without_suffix).astype("string")})


def _unique(keys: pd.Series, values: pd.Series) -> dict[str, str]:
    """Key -> value where only one row has the key."""
    once = ~keys.duplicated(keep=False)
    return dict(zip(keys[once], values[once], strict=True))


def _check_ids(ids: pd.Series, path: Path) -> pd.Series:
    """Ids given by the table must be there and differ."""
    if ids.isna().any():
        row = int(np.flatnonzero(ids.isna().to_numpy())[0])
        raise DataError(
            f"Column `id` of {path.name} is empty in row {row + 2}; give each row an id or remove the column."
        )
    repeated = ids.duplicated(keep=False).to_numpy()
    if repeated.any():
        value = ids[repeated].iloc[0]
        places = (np.flatnonzero((ids == value).to_numpy()) + 2).tolist()
        raise DataError(
            f"Id `{value}` stands in rows {', '.join(map(str, places[:5]))} of {path.name}; ids must be unique (a patient's id belongs in --patient)."
        )
    return ids


def _frames(values: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    wrong = (values.notna() & (numbers.isna() | (numbers < 0) | (numbers % 1 != 0))).fillna(True).to_numpy(dtype=bool)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"Column `frame` of {path.name} holds `{values.iloc[row]}` in row {row + 2}; frames are whole numbers from 0."
        )
    return numbers.astype("Int64")


def _check_microns(values: pd.Series, path: Path) -> int:
    """Microns per pixel must be numbers of a plausible size; return how many there are."""
    numbers = pd.to_numeric(values, errors="coerce").astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    known = values.notna().to_numpy(dtype=bool)
    wrong = known & ~((numbers >= MICRONS[0]) & (numbers <= MICRONS[1]))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"Column `{MPP}` of {path.name} holds `{values.iloc[row]}` in row {row + 2}; give microns per pixel from {MICRONS[0]:g} to {MICRONS[1]:,}, or leave the cell empty."
        )
    return int(known.sum())


def _refuse_repeats(rows: pd.DataFrame, path: Path, *, column: str) -> None:
    """An image may stand in one row only (or in one row per frame)."""
    keys = ["path", "frame"] if "frame" in rows else ["path"]
    repeated = rows.duplicated(keys, keep=False).to_numpy()
    if repeated.any():
        first = rows.loc[repeated, "path"].iloc[0]
        places = (np.flatnonzero(((rows["path"] == first).to_numpy()) & repeated) + 2).tolist()
        raise DataError(
            f"Image {first} stands in rows {', '.join(map(str, places[:5]))} of {path.name} (column `{column}`; {int(rows.duplicated(keys).sum())} rows too many); list each image once."
        )
