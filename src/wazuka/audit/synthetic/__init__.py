"""Coded checks of synthetic images against real ones, one file each; `wazuka audit` runs them all on arrays, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType

from wazuka.audit import run_checks
from wazuka.audit.synthetic import (
    attribute_proportions,
    checkerboard,
    color,
    diversity,
    fidelity,
    membership,
    memorization,
    proportions,
    spectrum,
    subgroup_coverage,
    two_sample,
)
from wazuka.audit.synthetic.inputs import Distance, Inputs
from wazuka.audit.synthetic.memorization import Memorized, memorized
from wazuka.audit.tables import CheckResult

__all__ = ["CHECKS", "Distance", "Inputs", "Memorized", "memorized", "run_synthetic_checks"]

CHECKS: tuple[ModuleType, ...] = (
    memorization,
    membership,
    diversity,
    two_sample,
    color,
    spectrum,
    checkerboard,
    proportions,
    attribute_proportions,
    subgroup_coverage,
    fidelity,
)
"""Every check, in the order of its code. A new check adds one line here and one section to docs/synthetic_checks.md."""


def run_synthetic_checks(
    inputs: Inputs,
    *,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    ignore: tuple[str, ...] = (),
    skip: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[CheckResult]:
    """Run every check of synthetic images; arguments and errors as in `audit.run_checks`."""
    return run_checks(inputs, checks=CHECKS, thresholds=thresholds, ignore=ignore, skip=skip, say=say)
