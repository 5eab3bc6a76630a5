"""WZ113: DICOM files that still name their patient (`wazuka check`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from wazuka.audit.tables import NOT_MEASURED, CheckResult, Rule, Tables

CODE = "WZ113"
NAME = "identifying DICOM tags"
THRESHOLDS: Mapping[str, float] = {"images": 0}
RULE = "issue: more than {images:g} images whose source file has a non-empty identifying tag"
SUFFIXES = (".dcm", ".dicom", ".ima")


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Count images whose file names a person; the tags' values are never read from the dataset, it has none."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    tags = tables.measured("identifying_tags", usable=False)
    if tags is None:
        return rule.not_applicable(NOT_MEASURED.format("identifying_tags"))
    if len(tags) == 0:
        return rule.not_applicable("the manifest has no row")
    counts: Counter[str] = Counter()
    bad = np.zeros(len(tags), dtype=bool)
    for at, names in enumerate(tags):
        if isinstance(names, list | tuple | np.ndarray) and len(names):
            bad[at] = True
            counts.update(str(one) for one in names)
    if bad.sum() > thresholds["images"]:
        listed = ", ".join(f"{name} ({n})" for name, n in counts.most_common(5))
        more = f" and {len(counts) - 5} more tags" if len(counts) > 5 else ""
        return rule.result(
            "issue",
            f"the source files of {bad.sum()} images identify persons: {listed}{more}",
            ids=tables.manifest["id"][bad],
        )
    imported = tables.card.get("imported") or {}
    names = tables.manifest["path"].astype("string").str.lower()
    if imported.get("kind") != "dicom" and not names.str.endswith(SUFFIXES).any():
        return rule.not_applicable("no file is DICOM; other formats have no such tags")
    return rule.passed(f"no identifying tag is filled in {len(tags)} images")
