"""WZ211: how far the synthetic images are from the real ones, in units of how far these are from each other (`wazuka audit`).

Judges distances that were measured elsewhere: those between equal numbers of real and synthetic images beside those
between patient-disjoint halves of the real ones. A Fréchet distance alone says nothing: its floor depends on the number of
images, the encoder and how different patients look.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ211"
NAME = "distance from the real images"
THRESHOLDS: Mapping[str, float] = {"ratio": 2}
RULE = (
    "warning: the lower 95% bound of a distance (Fréchet, kernel) exceeds {ratio:g} times the mean and once the largest"
    " real-versus-real distance; never an issue by itself"
)


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Judge every distance given; `count` is the number of synthetic images, there are no ids."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if not inputs.fidelity:
        return rule.not_applicable("no distance was measured")
    for name, one in inputs.fidelity.items():
        if not np.isfinite([one.value, one.low, one.high, one.floor, one.floor_high]).all():
            return rule.not_applicable(f"the distance `{name}` or its floor is not a number")
    texts, far = [], False
    for name, one in inputs.fidelity.items():
        # an unbiased kernel distance has a floor around 0, so no ratio; its largest one still bounds chance
        far |= one.low > max(thresholds["ratio"] * one.floor, one.floor_high)
        times = (
            f", {one.value / one.floor:.1f} [{one.low / one.floor:.1f}, {one.high / one.floor:.1f}] times"
            if one.floor > 0
            else ", beside"
        )
        texts.append(
            f"{name} {one.value:.4g} [{one.low:.4g}, {one.high:.4g}]{times} the floor {one.floor:.4g} (at most {one.floor_high:.4g})"
        )
    if far:
        return rule.result("warning", "; ".join(texts), count=len(inputs.synthetic))
    return rule.passed("; ".join(texts))
