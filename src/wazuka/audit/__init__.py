"""Coded checks of a dataset, one file each; `wazuka check DATASET` runs them all. No image is opened and no torch used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from wazuka.audit import (
    blank,
    burned_in_text,
    conflicting_labels,
    domain_names,
    empty_masks,
    exact_duplicates,
    few_patients,
    identifying_tags,
    label_domain_confounding,
    mask_mismatch,
    near_duplicates,
    not_finite,
    orphan_masks,
    patient_missing,
    uneven_patients,
    unknown_mask_values,
    unreadable,
)
from wazuka.audit.tables import CheckResult, Rule, Tables
from wazuka.core.errors import unknown_name

__all__ = ["CHECKS", "CheckResult", "Tables", "run_checks"]

CHECKS: tuple[ModuleType, ...] = (
    unreadable,
    blank,
    not_finite,
    mask_mismatch,
    unknown_mask_values,
    empty_masks,
    exact_duplicates,
    near_duplicates,
    conflicting_labels,
    few_patients,
    label_domain_confounding,
    patient_missing,
    identifying_tags,
    burned_in_text,
    orphan_masks,
    domain_names,
    uneven_patients,
)
"""Every check, in the order of its code. A new check adds one line here and one section to docs/checks.md."""


def run_checks(
    tables: Any,
    *,
    checks: Sequence[ModuleType] = CHECKS,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    ignore: tuple[str, ...] = (),
    skip: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[CheckResult]:
    """Run every check.

    Args:
        tables: The dataset, `Tables`; for other checks what these are given.
        checks: The checks; those of a dataset by default.
        thresholds: Code -> the thresholds that replace the check's own.
        ignore: Codes that the user does not want to hear about; their outcome is `ignored`.
        skip: Code -> why it is not run now; their outcome is `skipped`.
        say: Takes the name of each check before it runs.

    Returns:
        One result per check, in the order of `checks`.

    Raises:
        ConfigError: If a code or threshold is unknown.
    """
    given, skipped = dict(thresholds or {}), dict(skip or {})
    known = {check.CODE: check for check in checks}
    for code in (*given, *ignore, *skipped):
        if code not in known:
            raise unknown_name("check", code, sorted(known))
    for code, values in given.items():
        for name in values:
            if name not in known[code].THRESHOLDS:
                raise unknown_name("threshold", name, sorted(known[code].THRESHOLDS), where=code)
    results = []
    for code, check in known.items():
        limits: dict[str, Any] = {**check.THRESHOLDS, **given.get(code, {})}
        rule = Rule(code, check.NAME, check.RULE.format(**limits))
        if code in ignore:
            results.append(rule.result("ignored", "ignored by the user's own word"))
        elif code in skipped:
            results.append(rule.result("skipped", skipped[code]))
        else:
            if say is not None:
                say(check.NAME)
            results.append(check.check(tables, limits))
    return results
