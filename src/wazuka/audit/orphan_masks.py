"""WZ115: masks whose image is not there (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

from wazuka.audit.tables import CheckResult, Rule, Tables, some

CODE = "WZ115"
NAME = "masks without an image"
THRESHOLDS: Mapping[str, float] = {"masks": 0}
RULE = "warning: more than {masks:g} mask files without an image"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Report the mask files that the import could not pair; ids: their paths."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    imported = tables.card.get("imported") or {}
    if "orphan_masks" not in imported:
        return rule.not_applicable("dataset.yaml does not say whether masks were left over")
    orphans = list(imported["orphan_masks"])
    if len(orphans) > thresholds["masks"]:
        return rule.result("warning", f"{len(orphans)} masks have no image: {some(orphans)}", ids=orphans)
    if not tables.manifest["mask"].notna().any():
        return rule.not_applicable("the dataset has no masks")
    return rule.passed("every mask has its image")
