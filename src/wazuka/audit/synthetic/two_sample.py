"""WZ204: how well a classifier tells synthetic images from real ones (`wazuka audit`).

Classifier two-sample test (Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests"): logistic regression on
frozen features and on small pixels, cross-validated so that the images of a patient stay in one fold. An AUROC of 0.5 means
that it cannot; today's generators are far from there, so this alone is never an issue. `activation_maps` shows where in
the image it tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wazuka.audit.synthetic import activation_maps
from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import SpaceAuroc, auroc_interval
from wazuka.audit.synthetic.two_sample_fit import draw_sides, fit
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ204"
NAME = "real and synthetic told apart"
THRESHOLDS: Mapping[str, float] = {"warning_auroc": 0.9, "images": 50, "patients": 5}
RULE = (
    "warning: the lower 95% bound of the cross-validated AUROC of a logistic regression between real and synthetic images"
    " exceeds {warning_auroc:g}, on features or on 32-pixel images; never an issue by itself"
)
MOST = 1000
"""Images on each side."""


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Run the test in each space; `count` is the number of synthetic images, there are no ids."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if not inputs.spaces:
        return rule.not_applicable("there are neither small pixels nor features")
    n, m, people = len(inputs.real), len(inputs.synthetic), len(np.unique(inputs.patients))
    if min(n, m) < thresholds["images"] or people < thresholds["patients"]:
        return rule.not_applicable(
            f"there are {n} real images of {people} patients and {m} synthetic ones; it takes {thresholds['images']:g} of "
            f"{thresholds['patients']:g} and {thresholds['images']:g}"
        )
    found = told_apart(inputs)
    reason = "; ".join(f"AUROC {one.auroc:.2f} [{one.low:.2f}, {one.high:.2f}] on {one.space}" for one in found)
    reason += f"; where: {activation_maps.search(inputs)}"
    if max(one.low for one in found) > thresholds["warning_auroc"]:
        return rule.result("warning", reason, count=m)
    return rule.passed(reason)


def told_apart(inputs: Inputs) -> list[SpaceAuroc]:
    """Cross-validate in every space there is, with equal numbers of real and synthetic images."""
    sides = draw_sides(inputs, MOST)
    size = len(sides.real_rows)
    found = []
    for name, (real, synthetic) in inputs.spaces.items():
        values = np.concatenate(
            [real[sides.real_rows].reshape(size, -1), synthetic[sides.synthetic_rows].reshape(size, -1)]
        ).astype(np.float64)
        scores = np.zeros(2 * size)
        for one in np.unique(sides.fold):
            test = sides.fold == one
            scores[test] = fit(values[~test], sides.is_synthetic[~test]).decision_function(values[test])
        found.append(SpaceAuroc(name, *auroc_interval(scores, sides.is_synthetic, sides.groups, seed=inputs.seed)))
    return found
