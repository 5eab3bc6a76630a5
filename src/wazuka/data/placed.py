"""The check of images of which an importer itself placed the patches (`data/annotated.py`), as `data/inspect.py` checks others.

One job opens one image and measures all its patches; the answers become one row per patch. Used by
`importing.import_dataset` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.data import assemble, decode
from wazuka.data.formats.base import Spacing
from wazuka.data.inspect import Checked, Job, check_file, measure, unreadable
from wazuka.data.patches import cut

MICROSCOPE_UM = (0.05, 10.0)
"""Microns per pixel that a file of a slide scanner may say."""


@dataclass(frozen=True, kw_only=True)
class PlacedJob(Job):
    """One image file and the patches to cut from it."""

    places: tuple[dict[str, int], ...]
    """`patch_y, patch_x, patch_px` each."""


def plausible(spacing: Spacing | None) -> tuple[float, float] | None:
    """Row and column spacing in mm, if a slide scanner may have them."""
    row, column, _ = spacing or (None, None, None)
    if (
        row is None
        or column is None
        or not all(MICROSCOPE_UM[0] <= 1000 * one <= MICROSCOPE_UM[1] for one in (row, column))
    ):
        return None
    return (row, column)


def lay_out(listed: pd.DataFrame, root: Path) -> tuple[list[Job], list[np.ndarray]]:
    """Make one job per image file and say which rows of the listing each serves."""
    jobs: list[Job] = []
    groups: list[np.ndarray] = []
    for path, rows in listed.groupby("path", sort=False):
        groups.append(rows.index.to_numpy())
        known: dict[str, Any] = {"number": len(jobs), "path": f"{root}/{path}", "mask": None, "frames": None}
        known["root"] = str(root)
        if rows["patch_px"].isna().any():
            jobs.append(Job(**known))
            continue
        places = tuple(_place(row) for row in rows.to_dict("records"))
        jobs.append(PlacedJob(**known, places=places))
    return jobs, groups


def _place(row: dict[Any, Any]) -> dict[str, int]:
    return {name: int(row[name]) for name in ("patch_y", "patch_x", "patch_px")}


def check(job: Job) -> Checked:
    """Open one image and measure its patches, as `inspect.check_file` does for whole images. Never raises."""
    if not isinstance(job, PlacedJob):
        return check_file(job)
    path = Path(job.path)
    answer = Checked(number=job.number)
    try:
        if not path.resolve().is_relative_to(job.root):
            raise decode.DecodeError("a link that leaves the source folder")
        answer.info = decode.probe(path, patches=True)
        if answer.info.frames is not None:
            raise decode.DecodeError(f"holds {answer.info.frames} frames; one image is expected")
        image = decode.decode(path)[0]
        common = unreadable("", path.stat().st_size) | {"decode_error": None, "reason": None}
        spacing = plausible(answer.info.spacing_mm)
        common["spacing_mm"] = None if spacing is None else [*spacing, None]
        answer.rows = [common | place | measure(cut(image, place)) for place in job.places]
    except (decode.DecodeError, OSError) as error:
        answer.error = str(error)
    except Exception as error:  # as in `inspect.check_file`: a hostile file must not stop the import
        answer.error = f"{type(error).__name__}: {error}"
    if answer.error is not None:
        answer.rows = [unreadable(answer.error, path.stat().st_size if path.exists() else 0)]
    return answer


def gather(answers: Iterable[Checked], listed: pd.DataFrame, groups: list[np.ndarray]) -> assemble.Gathered:
    """Collect the answers as `assemble.gather` does, one row per annotation."""
    single = [np.array([item]) for item in range(len(listed))]
    return assemble.gather(_by_row(answers, listed, groups), listed, single)


def _by_row(answers: Iterable[Checked], listed: pd.DataFrame, groups: list[np.ndarray]) -> Iterator[Checked]:
    """One answer per row of the listing; where a file failed, each of its rows has the reason and its place."""
    placed = listed["patch_px"].notna().to_numpy()
    places = listed[["patch_y", "patch_x", "patch_px"]].to_dict("records")
    for answer in answers:
        items = groups[answer.number]
        rows = answer.rows * len(items) if answer.error is not None else answer.rows
        for item, row in zip(items, rows, strict=True):
            place = _place(places[item]) if placed[item] else {}
            yield Checked(number=int(item), info=answer.info, error=answer.error, rows=[row | place])
