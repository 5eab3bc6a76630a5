"""WZ116: domains that are one under two spellings, or too small to be held out (`wazuka check`)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pandas as pd

from wazuka.audit.tables import CheckResult, Rule, Tables, some

CODE = "WZ116"
NAME = "doubtful domains"
THRESHOLDS: Mapping[str, float] = {"patients": 5}
RULE = "warning: domains with fewer than {patients:g} patients, without a name, or that differ in case, spaces and punctuation only"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Look at the domains' names and sizes; ids: domains."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    usable = tables.usable[["domain", "patient"]]
    if not usable["domain"].notna().any():
        return rule.not_applicable("no image has a domain")
    counts = usable.groupby("domain", observed=True)["patient"].nunique()
    key = pd.Series([re.sub(r"[\W_]+", "", str(name)).lower() for name in counts.index], index=counts.index)
    alike = [str(name) for name in counts.index[key.duplicated(keep=False)]]
    small = [str(name) for name in counts.index[counts < thresholds["patients"]]]
    unnamed = int(usable["domain"].isna().sum())
    parts = []
    if alike:
        parts.append(f"{some(alike)} may be the same")
    if small:
        parts.append(
            f"{some(small)} {'has' if len(small) == 1 else 'have'} fewer than {thresholds['patients']:g} patients"
        )
    if unnamed:
        parts.append(f"{unnamed} images have no domain")
    if not parts:
        return rule.passed(f"{len(counts)} domains with {counts.min()} patients or more")
    return rule.result("warning", "; ".join(parts), ids=set(alike) | set(small))
