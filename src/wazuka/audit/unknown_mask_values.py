"""WZ105: mask values that no structure is listed for (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wazuka.audit.tables import NOT_MEASURED, CheckResult, Rule, Tables, some

CODE = "WZ105"
NAME = "unknown mask values"
THRESHOLDS: Mapping[str, float] = {"masks": 0}
RULE = "issue: more than {masks:g} masks with a value that `structures` in dataset.yaml does not list"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Count usable masks with values that would be taken for nothing; ids: images."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if not tables.usable["mask"].notna().any():
        return rule.not_applicable("no usable image has a mask")
    values = tables.measured("mask_values")
    if values is None:
        return rule.not_applicable(NOT_MEASURED.format("mask_values"))
    structures = {int(one) for one in tables.card.get("structures") or {}}
    if not structures:
        return rule.not_applicable("dataset.yaml lists no structures")
    renamed = {int(a): int(b) for a, b in (tables.card.get("mask_values") or {}).items()}
    known = structures | {0}
    unknown: dict[tuple[int, ...], set[int]] = {}
    bad = np.zeros(len(values), dtype=bool)
    for at, present in enumerate(values):
        if present is None or not isinstance(present, list | tuple | np.ndarray):
            continue
        key = tuple(int(one) for one in present)
        if key not in unknown:
            unknown[key] = {one for one in key if renamed.get(one, one) not in known}
        bad[at] = bool(unknown[key])
    if bad.sum() <= thresholds["masks"]:
        return rule.passed(f"every mask holds only {some(map(str, sorted(known)), 10)}")
    found = sorted(set().union(*unknown.values()))
    return rule.result(
        "issue",
        f"{bad.sum()} masks hold values without a structure: {', '.join(map(str, found[:10]))}{' ...' if len(found) > 10 else ''}",
        ids=tables.usable["id"][bad],
    )
