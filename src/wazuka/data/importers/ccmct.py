"""CCMCT and other SlideRunner databases: a SQLite file of annotations and whole slides (Bertram et al. 2019, Scientific Data
6:274): `wazuka import SOURCE --kind ccmct --patch-um 16 --out DATASET`.

SlideRunner keeps one row per object in `Annotations` (`agreedClass` is the experts' consensus), its points in
`Annotations_coordinates` (one for a spot, several for a rectangle, circle or polygon, whose center is that of their bounding
box), names in `Classes` and files in `Slides`. Older databases have no column `deleted`. The database is opened read-only;
each slide is one case. Of several databases in a folder, as CCMCT has them, the one named ODAEL (or CODAEL) is taken: the
variant that was completed with the help of detections.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wazuka.core.errors import DataError
from wazuka.data.annotated import CLASSES, Annotated, Locator, class_of, listing
from wazuka.data.importers.listing import ImportOptions, Listing

KIND = "ccmct"
SUFFIXES = (".sqlite", ".sqlite3", ".db")
TABLES: dict[str, tuple[str, ...]] = {
    "Slides": ("uid", "filename"),
    "Classes": ("uid", "name"),
    "Annotations": ("uid", "slide", "agreedClass"),
    "Annotations_coordinates": ("annoId", "coordinateX", "coordinateY"),
}
"""Tables and the columns of them that are needed."""
TUMORS = (
    (r"CCMCT", "canine cutaneous mast cell tumor"),
    (r"(^|_)CMC(_|$)", "canine mammary carcinoma"),
)
"""Part of the published database's name -> tumor type of all its slides."""


def recognize(source: Path) -> str | None:
    """A database with SlideRunner's tables, given itself or in a folder (or its subfolders `databases` and the like)."""
    found = _databases(source)
    if not found:
        return None
    names = ", ".join(one.name for one in found[:4])
    return f"{'a SlideRunner database' if len(found) == 1 else f'{len(found)} SlideRunner databases'} ({names})"


def _databases(source: Path) -> list[Path]:
    """SQLite files with SlideRunner's tables and both classes of the task."""
    if source.is_file():
        paths = [source] if source.suffix.lower() in SUFFIXES else []
    else:
        paths = sorted(one for pattern in ("*", "*/*") for one in source.glob(pattern) if one.is_file())
        paths = [one for one in paths if one.suffix.lower() in SUFFIXES]
    found = []
    for path in paths:
        try:
            with _opened(path) as database:
                classes = _classes(database, path)
        except DataError:
            continue
        if {class_of(name) for name in classes.values()} >= set(CLASSES):
            found.append(path)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, read-only: nothing is written beside it, and its own functions and triggers are not trusted.

    Raises:
        DataError: If the file is no database, lacks a table or column, or is damaged.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            present = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table, columns in TABLES.items():
                if table not in present:
                    raise DataError(f"{path} has no table `{table}`; a SlideRunner database has {', '.join(TABLES)}.")
                missing = [name for name in columns if name not in _columns(database, table)]
                if missing:
                    raise DataError(f"Table `{table}` of {path} has no column `{missing[0]}`; SlideRunner writes it.")
            yield database
    except (sqlite3.Error, OverflowError) as error:
        raise DataError(
            f"{path} is no readable SQLite database ({' '.join(str(error).split())[:120]}); download it again."
        ) from error


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[0] for row in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _classes(database: sqlite3.Connection, path: Path) -> dict[Any, str]:
    return {uid: str(name) for uid, name in database.execute("SELECT uid, name FROM Classes")}


def read(source: Path, options: ImportOptions) -> Listing:
    """List one row per mitotic figure or look-alike.

    Raises:
        DataError: If there is not one database, or an entry of it is wrong.
    """
    notes: list[str] = []
    path = _only(source, notes=notes)
    root = source if source.is_dir() else source.parent
    with _opened(path) as database:
        classes = _classes(database, path)
        if not {class_of(name) for name in classes.values()} >= set(CLASSES):
            raise DataError(
                f"{path} has the classes {', '.join(classes.values()) or 'none'}; mitotic figures and their look-alikes (non-mitotic, mitosis-like, hard negative) are needed."
            )
        slides = _slides(database, path)
        cells = _cells(database, path, classes=classes, slides=slides, notes=notes)
    tumor = next((name for pattern, name in TUMORS if re.search(pattern, path.stem)), None)
    annotated = [
        Annotated(
            name=slides[key],
            centers=np.array([one[:2] for one in found], np.float64).reshape(-1, 2),
            labels=tuple(one[2] for one in found),
            numbers=tuple(one[3] for one in found),
            domain=tumor,
            attributes={"tumor_type": tumor},
        )
        for key, found in cells.items()
    ]
    return listing(annotated, Locator(root, path.parent, where=path.name), options=options, notes=notes)


def _only(source: Path, *, notes: list[str]) -> Path:
    if source.is_file():
        return source
    found = _databases(source)
    chosen = [one for one in found if "ODAEL" in one.stem.upper()] if len(found) > 1 else found
    names = ", ".join(one.name for one in found[:5]) or "none"
    if len(chosen) != 1:
        raise DataError(
            f"{source} holds {len(found)} SlideRunner databases with mitotic figures and look-alikes ({names}), not one; leave one in it."
        )
    if len(found) > 1:
        notes.append(f"of {len(found)} databases ({names}) {chosen[0].name} is taken")
    return chosen[0]


def _slides(database: sqlite3.Connection, path: Path) -> dict[Any, str]:
    """Slide id -> file name. SlideRunner's column `directory` is a folder of another machine and is not used."""
    slides: dict[Any, str] = {}
    for uid, name in database.execute("SELECT uid, filename FROM Slides ORDER BY uid"):
        if not isinstance(name, str) or not name:
            raise DataError(f"Slide {uid} of {path} has no file name; mend the table `Slides`.")
        slides[uid] = name
    return slides


def _cells(
    database: sqlite3.Connection, path: Path, *, classes: dict[Any, str], slides: dict[Any, str], notes: list[str]
) -> dict[Any, list[tuple[float, float, str, str]]]:
    """Slide id -> (y, x, class, annotation id) of each cell; what is left out is counted in the notes."""
    deleted = "deleted" if "deleted" in _columns(database, "Annotations") else "0"
    rows = database.execute(
        f"""SELECT a.uid, a.slide, a.agreedClass, a.{deleted},
            MIN(c.coordinateX), MAX(c.coordinateX), MIN(c.coordinateY), MAX(c.coordinateY)
            FROM Annotations a LEFT JOIN Annotations_coordinates c ON c.annoId = a.uid
            GROUP BY a.uid ORDER BY a.uid""".replace("a.0", "0")  # noqa: S608 - one of two fixed words
    )
    cells: dict[Any, list[tuple[float, float, str, str]]] = {key: [] for key in slides}
    left: Counter[str] = Counter()
    for uid, slide, agreed, is_deleted, *edges in rows:
        name = classes.get(agreed)
        label = None if name is None else class_of(name)
        if is_deleted:
            left["deleted"] += 1
        elif label is None:
            left["without an agreed class" if name is None else name] += 1
        elif all(one is None for one in edges):
            left["without coordinates"] += 1
        elif slide not in slides:
            raise DataError(f"Annotation {uid} of {path} is of slide {slide}, which the table `Slides` does not have.")
        elif not all(isinstance(one, int | float) and math.isfinite(one) for one in edges):
            raise DataError(f"Annotation {uid} of {path} has the coordinates {edges}; they are numbers in pixels.")
        else:
            cells[slide].append(((edges[2] + edges[3]) / 2, (edges[0] + edges[1]) / 2, label, str(uid)))
    if left:
        counted = ", ".join(f"{name} {count:,}" for name, count in sorted(left.items()))
        notes.append(f"{sum(left.values()):,} annotations are left out: {counted}")
    return cells
