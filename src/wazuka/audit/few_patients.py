"""WZ110: classes that too few patients have (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

from wazuka.audit.tables import CheckResult, Rule, Tables

CODE = "WZ110"
NAME = "too few patients"
THRESHOLDS: Mapping[str, float] = {"patients": 5}
RULE = "warning: a class (without labels: the dataset) with fewer than {patients:g} patients; issue: fewer than two classes left"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Count patients per class, or per dataset where there are no labels; ids: classes."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    least = thresholds["patients"]
    labeled = tables.usable[["label", "patient"]].dropna()
    if len(labeled) == 0:
        return _without_labels(tables, rule, least)
    counts = labeled.groupby("label", observed=True)["patient"].nunique()
    small = counts[counts < least]
    if len(small) == 0 and len(counts) >= 2:
        return rule.passed(f"every class has {counts.min()} patients or more")
    listed = ", ".join(f"`{name}` ({n})" for name, n in small.items())
    left = len(counts) - len(small)
    if left < 2:
        found = f", without {listed}" if listed else ""
        return rule.result(
            "issue",
            f"{left} of {len(counts)} classes have enough patients{found}; a classifier needs two",
            ids=small.index,
        )
    return rule.result("warning", f"classes with too few patients, left out of studies: {listed}", ids=small.index)


def _without_labels(tables: Tables, rule: Rule, least: float) -> CheckResult:
    n = int(tables.usable["patient"].nunique())
    if not tables.usable["mask"].notna().any():
        return rule.not_applicable("no image has a label or a mask")
    if n >= least:
        return rule.passed(f"{n} patients have images")
    return rule.result("warning", f"the dataset has {n} patients; no interval over patients is worth much", count=n)
