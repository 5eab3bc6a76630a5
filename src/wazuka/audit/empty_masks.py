"""WZ106: masks without any foreground (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from wazuka.audit.tables import NOT_MEASURED, CheckResult, Outcome, Rule, Tables

CODE = "WZ106"
NAME = "empty masks"
THRESHOLDS: Mapping[str, float] = {"issue_share": 0.5}
RULE = "warning: 1 empty mask of an image or volume; issue: more than {issue_share:.0%} of these are empty"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Count images and whole volumes whose masks hold only 0; single empty slices of a volume are usual. ids: rows."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    usable = tables.usable
    values = tables.measured("mask_values")
    if not usable["mask"].notna().any():
        return rule.not_applicable("no usable image has a mask")
    if values is None:
        return rule.not_applicable(NOT_MEASURED.format("mask_values"))
    known = np.array([isinstance(one, list | tuple | np.ndarray) for one in values], dtype=bool)
    if not known.any():
        return rule.not_applicable("the values of no mask are known")
    empty = np.array([ok and not any(int(v) for v in one) for ok, one in zip(known, values, strict=True)], dtype=bool)
    unit = usable["id"].astype("string")
    if "volume" in usable:
        unit = usable["volume"].astype("string").fillna(unit)
    whole = pd.Series(empty[known]).groupby(unit[known].to_numpy()).all()
    bad = known & unit.isin(whole.index[whole]).to_numpy(dtype=bool)
    n, total = int(whole.sum()), len(whole)
    what = "volumes" if tables.in_volume.any() else "masks"
    if n == 0:
        inside = f"; {empty.sum()} slices of volumes are" if empty.any() else ""
        return rule.passed(f"none of {total} {what} is empty{inside}")
    outcome: Outcome = "issue" if n / total > thresholds["issue_share"] else "warning"
    return rule.result(outcome, f"{n} of {total} {what} ({n / total:.1%}) have no foreground", ids=usable["id"][bad])
