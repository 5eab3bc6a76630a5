"""Pixel spacing of the manifest's rows, where it comes from more places than the file itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

MPP = "mpp"
"""Column of a table (or attribute of an importer): microns per pixel, equal in both directions of the plane."""
TOLERANCE = 0.01
"""Relative difference of two spacings from which on they are said to differ."""


def settle_spacing(listed: pd.DataFrame, rows: pd.DataFrame, notes: list[str]) -> pd.Series:
    """Spacing of each row, [row, column, slice] in mm, or None where unknown.

    Microns per pixel in the listing hold over what the file says (a difference is noted); the distance of slices that
    an importer measured holds over the file's thickness.

    Args:
        listed: The importer's listing, perhaps with columns `mpp` and `slice_spacing_mm` (text).
        rows: Its future manifest rows: `item` (row of the listing) and `spacing_mm` as the file gives it.
        notes: Of the import; a note may be added.
    """
    if MPP not in listed and "slice_spacing_mm" not in listed:
        return rows["spacing_mm"]
    items = rows["item"].to_numpy()
    spacing = [_as_list(own) for own in rows["spacing_mm"]]
    if MPP in listed:
        differ = 0
        for index, microns in enumerate(_numbers(listed[MPP])[items]):
            own = spacing[index]
            if np.isnan(microns):
                continue
            side = float(microns) / 1000
            differ += own is not None and any(one is None or abs(one / side - 1) > TOLERANCE for one in own[:2])
            spacing[index] = [side, side, own[2] if own is not None else None]
        if differ:
            notes.append(
                f"the pixel spacing in the file of {differ} images differs from the column {MPP}, which is used"
            )
    if "slice_spacing_mm" in listed:
        between = _numbers(listed["slice_spacing_mm"])[items]
        spacing = [
            own if own is None or np.isnan(step) else [own[0], own[1], float(step)]
            for own, step in zip(spacing, between, strict=True)
        ]
    return pd.Series(spacing, index=rows.index, dtype="object")


def _as_list(spacing: Sequence[float | None] | float | None) -> list[float | None] | None:
    return None if spacing is None or isinstance(spacing, float) else list(spacing)  # a float is a missing value, NaN


def _numbers(values: pd.Series) -> np.ndarray:
    """A column of numbers in text as float64, NaN where missing."""
    return pd.to_numeric(values).astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
