"""WZ103: pixels that are NaN or infinite (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

from wazuka.audit.tables import NOT_MEASURED, CheckResult, Rule, Tables

CODE = "WZ103"
NAME = "NaN or infinite pixels"
THRESHOLDS: Mapping[str, float] = {"pixels": 0}
RULE = "issue: 1 usable image or more with over {pixels:g} such pixels"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Count usable images with pixels that are no numbers."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    nan, inf = tables.measured("nan_count"), tables.measured("inf_count")
    if nan is None or inf is None:
        return rule.not_applicable(NOT_MEASURED.format("nan_count"))
    if len(nan) == 0:
        return rule.not_applicable("no image is usable")
    pixels = nan.to_numpy() + inf.to_numpy()
    bad = pixels > thresholds["pixels"]
    if not bad.any():
        return rule.passed(f"every pixel of {len(bad)} images is a number")
    return rule.result(
        "issue",
        f"{bad.sum()} of {len(bad)} images have pixels that are NaN or infinite, {pixels[bad].sum()} in all",
        ids=tables.usable["id"][bad],
    )
