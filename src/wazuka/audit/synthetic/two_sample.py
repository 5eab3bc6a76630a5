"""WZ204: how well a classifier tells synthetic images from real ones (`wazuka audit`).

Classifier two-sample test (Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests"): logistic regression on
frozen features and on small pixels, cross-validated so that the images of a patient stay in one fold. An AUROC of 0.5 means
that it cannot; today's generators are far from there, so this alone is never an issue.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import SpaceAuroc, auroc_interval
from wazuka.audit.tables import CheckResult, Rule
from wazuka.training.grouped_cv import assign_folds

CODE = "WZ204"
NAME = "real and synthetic told apart"
THRESHOLDS: Mapping[str, float] = {"warning_auroc": 0.9, "images": 50, "patients": 5}
RULE = (
    "warning: the lower 95% bound of the cross-validated AUROC of a logistic regression between real and synthetic images"
    " exceeds {warning_auroc:g}, on features or on 32-pixel images; never an issue by itself"
)
FOLDS = 5
PENALTY = 0.01
"""C of the regression on standardized columns: with fewer rows than columns a strong penalty, as for few-label probes."""
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
    if max(one.low for one in found) > thresholds["warning_auroc"]:
        return rule.result("warning", reason, count=m)
    return rule.passed(reason)


def told_apart(inputs: Inputs) -> list[SpaceAuroc]:
    """Cross-validate in every space there is, with equal numbers of real and synthetic images."""
    rng = np.random.default_rng(inputs.seed)
    size = min(len(inputs.real), len(inputs.synthetic), MOST)
    real_rows = np.sort(rng.choice(len(inputs.real), size, replace=False))
    rows = np.sort(rng.choice(len(inputs.synthetic), size, replace=False))
    is_synthetic = np.repeat([False, True], size)
    groups = np.concatenate([inputs.patients[real_rows], inputs.synthetic_groups[rows]])
    fold = assign_folds(is_synthetic.astype(np.int64), groups, folds=FOLDS, seed=inputs.seed)
    found = []
    for name, (real, synthetic) in inputs.spaces.items():
        values = np.concatenate([real[real_rows].reshape(size, -1), synthetic[rows].reshape(size, -1)]).astype(
            np.float64
        )
        scores = np.zeros(2 * size)
        for one in np.unique(fold):
            test = fold == one
            model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=2000, tol=1e-3))
            scores[test] = model.fit(values[~test], is_synthetic[~test]).decision_function(values[test])
        found.append(SpaceAuroc(name, *auroc_interval(scores, is_synthetic, groups, seed=inputs.seed)))
    return found
