"""WZ109: the same pixels under different labels (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from wazuka.audit.exact_duplicates import duplicate_groups
from wazuka.audit.tables import CheckResult, Rule, Tables

CODE = "WZ109"
NAME = "same pixels, different labels"
THRESHOLDS: Mapping[str, float] = {"images": 0}
RULE = "issue: more than {images:g} images whose exact copy has another label"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Find exact copies that disagree in their label."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    usable = tables.usable
    labeled = usable["label"].notna().to_numpy(dtype=bool)
    if not labeled.any():
        return rule.not_applicable("no image has a label")
    group = duplicate_groups(tables)
    if group is None:
        return rule.not_applicable("the manifest has no pixel hashes (column `sha256`)")
    copied = labeled & (group >= 0)
    if not copied.any():
        return rule.passed(f"no two of {labeled.sum()} labeled images have the same pixels")
    labels = pd.Series(pd.factorize(usable["label"])[0][copied]).groupby(group[copied])
    bad = np.zeros(len(group), dtype=bool)
    bad[copied] = (labels.transform("min") != labels.transform("max")).to_numpy()
    if bad.sum() <= thresholds["images"]:
        return rule.passed(f"the {copied.sum()} labeled images that have exact copies agree with them")
    n = len(np.unique(group[bad]))
    return rule.result(
        "issue", f"{bad.sum()} images in {n} groups of equal pixels have different labels", ids=usable["id"][bad]
    )
