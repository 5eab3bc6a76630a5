"""WZ114: text burned into the pixels, which may name the patient or give the label away (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

from wazuka.audit.tables import NOT_MEASURED, CheckResult, Rule, Tables

CODE = "WZ114"
NAME = "text burned into pixels"
THRESHOLDS: Mapping[str, float] = {"text_score": 0.0}
RULE = "warning: 1 image or more whose share of pixels in rows of letters is above {text_score:g}"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Count usable images in which the import found four or more bright letter-like components in a row."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    score = tables.measured("text_score")
    if score is None:
        return rule.not_applicable(NOT_MEASURED.format("text_score"))
    known = score.notna().to_numpy(dtype=bool)
    if not known.any():
        return rule.not_applicable("no usable image was searched for text")
    bad = known & (score.to_numpy(dtype=float) > thresholds["text_score"])
    if not bad.any():
        return rule.passed(f"no row of bright letters in {known.sum()} images")
    return rule.result(
        "warning",
        f"{bad.sum()} of {known.sum()} images seem to have text in their pixels; look whether it names a person or the diagnosis",
        ids=tables.usable["id"][bad],
    )
