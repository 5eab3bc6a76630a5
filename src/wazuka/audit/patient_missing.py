"""WZ112: patients that nobody told (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

from wazuka.audit.tables import CheckResult, Rule, Tables

CODE = "WZ112"
NAME = "patient column missing"
THRESHOLDS: Mapping[str, float] = {}
RULE = "warning: `patient_source` in dataset.yaml is image, volume or study"
KNOWN = {"table": "a table", "dicom": "DICOM", "file name": "file names"}
STANDING_IN = {
    "image": "each image counts as a patient of its own, so images of one person may be on both sides of a split",
    "volume": "each volume counts as a patient of its own; two volumes of one person may be on both sides of a split",
    "study": "each study counts as a patient of its own; two studies of one person may be on both sides of a split",
}


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Look at where the import took the patients from; count: rows, no ids (it would be all)."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if len(tables.usable) == 0:
        return rule.not_applicable("no image is usable")
    source = str(tables.card.get("patient_source") or "image")
    if source in STANDING_IN:
        return rule.result("warning", f"no patient is known: {STANDING_IN[source]}", count=len(tables.usable))
    n = int(tables.usable["patient"].nunique())
    return rule.passed(f"{n} patients are known from {KNOWN.get(source, source)}")
