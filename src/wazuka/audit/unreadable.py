"""WZ101: images that could not be read or used, left out of everything (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from wazuka.audit.tables import CheckResult, Outcome, Rule, Tables

CODE = "WZ101"
NAME = "unreadable images"
THRESHOLDS: Mapping[str, float] = {"issue_share": 0.05}
RULE = "warning: 1 image or more; issue: more than {issue_share:.0%} of the images"
REASONS_SHOWN = 3


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Count the quarantined images, by reason; ids: images."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    manifest = tables.manifest
    if len(manifest) == 0:
        return rule.not_applicable("the manifest has no row")
    quarantined = (manifest["status"] == "quarantined").to_numpy(dtype=bool)
    error = tables.measured("decode_error", usable=False)
    unread = quarantined if error is None else quarantined | error.notna().to_numpy(dtype=bool)
    ids = manifest["id"][unread]
    if not unread.any():
        return rule.passed(f"all {len(manifest)} images could be read")
    reasons = manifest["reason"].astype("object")
    if error is not None:
        reasons = reasons.where(reasons.notna(), error.astype("object"))
    counts = pd.Series(reasons[unread]).fillna("no reason given").value_counts(sort=True)
    listed = "; ".join(f"{reason} ({n})" for reason, n in counts.head(REASONS_SHOWN).items())
    more = f"; {len(counts) - REASONS_SHOWN} more reasons" if len(counts) > REASONS_SHOWN else ""
    share = unread.mean()
    outcome: Outcome = "issue" if share > thresholds["issue_share"] else "warning"
    return rule.result(
        outcome, f"{unread.sum()} of {len(manifest)} images ({share:.1%}) are left out: {listed}{more}", ids=ids
    )
