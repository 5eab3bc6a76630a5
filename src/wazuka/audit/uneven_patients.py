"""WZ117: a few patients who have most of the images (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

from wazuka.audit.tables import CheckResult, Rule, Tables

CODE = "WZ117"
NAME = "few patients have most images"
THRESHOLDS: Mapping[str, float] = {"effective_patients": 5, "share": 0.1}
RULE = "warning: the effective number of patients, (sum n)^2 / sum n^2 over their images n, is below {effective_patients:g}"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Compute the effective number of patients (Kish 1965); ids: patients with over a tenth of the images."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    counts = tables.usable["patient"].value_counts().sort_index()
    least = thresholds["effective_patients"]
    if len(counts) < least:
        return rule.not_applicable(f"there are {len(counts)} patients only; see WZ110")
    n = counts.to_numpy(dtype=float)
    effective = n.sum() ** 2 / (n**2).sum()
    if effective >= least:
        return rule.passed(f"the images of {len(n)} patients weigh like those of {effective:.1f} equal ones")
    most = counts[n > thresholds["share"] * n.sum()]
    return rule.result(
        "warning",
        f"{len(most)} patients have {most.sum() / n.sum():.0%} of the images; {len(n)} patients weigh like {effective:.1f} equal ones",
        ids=most.index,
    )
