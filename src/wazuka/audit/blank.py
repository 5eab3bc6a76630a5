"""WZ102: images of one value, or nearly (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wazuka.audit.tables import NOT_MEASURED, CheckResult, Outcome, Rule, Tables

CODE = "WZ102"
NAME = "blank or constant images"
THRESHOLDS: Mapping[str, float] = {"std": 1.0, "issue_share": 0.05}
RULE = (
    "warning: 1 image of one value only or, with 8 bits, of a standard deviation below {std:g};"
    " issue: more than {issue_share:.0%} of the images that are no slices of a volume"
)
EIGHT_BIT = ("rgb8", "gray8", "ultrasound")


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Count usable images without content; empty slices at the ends of a volume are usual and only warned of."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    constant, std = tables.measured("constant"), tables.measured("std")
    if constant is None or std is None:
        return rule.not_applicable(NOT_MEASURED.format("constant"))
    if len(constant) == 0:
        return rule.not_applicable("no image is usable")
    blank = constant.to_numpy(dtype=bool)
    if tables.card.get("intensity") in EIGHT_BIT:
        blank = blank | (std.to_numpy(dtype=float) < thresholds["std"])
    if not blank.any():
        return rule.passed(f"none of {len(blank)} images is blank")
    single = ~tables.in_volume
    share = blank[single].mean() if single.any() else 0.0
    outcome: Outcome = "issue" if share > thresholds["issue_share"] else "warning"
    slices = int(np.sum(blank & ~single))
    of = f" ({slices} of them slices of volumes)" if slices else ""
    return rule.result(outcome, f"{blank.sum()} of {len(blank)} images are blank{of}", ids=tables.usable["id"][blank])
