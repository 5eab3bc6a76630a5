"""WZ104: masks that cannot be read or do not lie on their image (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from wazuka.audit.tables import NOT_MEASURED, CheckResult, Rule, Tables

CODE = "WZ104"
NAME = "masks that do not fit their image"
THRESHOLDS: Mapping[str, float] = {"spacing": 0.01}
RULE = (
    "issue: 1 mask or more that is unreadable, of another height or width, or of a spacing more than {spacing:.0%} off"
)


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Compare shape and spacing of every mask with its image, quarantined rows included; ids: images."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    manifest = tables.manifest
    has_mask = manifest["mask"].notna().to_numpy(dtype=bool)
    if not has_mask.any():
        return rule.not_applicable("the dataset has no masks")
    height, width = tables.measured("mask_height", usable=False), tables.measured("mask_width", usable=False)
    error, spacing = tables.measured("mask_error", usable=False), tables.measured("mask_spacing_mm", usable=False)
    if height is None or width is None or error is None or spacing is None:
        return rule.not_applicable(NOT_MEASURED.format("mask_height"))
    unread = has_mask & error.notna().to_numpy(dtype=bool)
    shape = has_mask & (_differs(height, manifest["height"]) | _differs(width, manifest["width"]))
    off = np.zeros(len(manifest), dtype=bool)
    own, of_mask = manifest["spacing_mm"].to_numpy(dtype=object), spacing.to_numpy(dtype=object)
    for at in np.flatnonzero(has_mask):
        off[at] = _spacing_differs(own[at], of_mask[at], tolerance=thresholds["spacing"])
    bad = unread | shape | off
    if not bad.any():
        compared = int((has_mask & height.notna().to_numpy(dtype=bool)).sum())
        return rule.passed(f"{compared} masks have the shape and, where both are known, the spacing of their image")
    parts = [(unread, "unreadable"), (shape, "of another shape"), (off, "of another spacing")]
    found = ", ".join(f"{mask.sum()} {what}" for mask, what in parts if mask.any())
    return rule.result("issue", f"{bad.sum()} of {has_mask.sum()} masks do not fit: {found}", ids=manifest["id"][bad])


def _differs(mask: pd.Series, image: pd.Series) -> np.ndarray:
    both = mask.notna().to_numpy(dtype=bool) & image.notna().to_numpy(dtype=bool)
    left = mask.astype("Int64").fillna(0).to_numpy(dtype=np.int64)
    right = image.astype("Int64").fillna(0).to_numpy(dtype=np.int64)
    return both & (left != right)


def _spacing_differs(image: Any, mask: Any, *, tolerance: float) -> bool:
    """Compare the entries that both know, relative to the image's."""
    if not all(isinstance(one, list | tuple | np.ndarray) for one in (image, mask)):
        return False
    return any(
        not pd.isna(a) and not pd.isna(b) and abs(a - b) > tolerance * abs(a) for a, b in zip(image, mask, strict=False)
    )
