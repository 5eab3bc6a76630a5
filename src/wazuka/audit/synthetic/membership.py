"""WZ202: synthetic images that give away which real images the generator was trained on (`wazuka audit`).

The attack needs nothing but the synthetic images: a real image near to one of them was probably trained on (Chen et al.
2020, "GAN-Leaks", full black box). Its AUROC over training and held-out images is 0.5 where nothing leaks. Memorization
(WZ201) looks for copies; this finds a faint pull of all images toward the training set.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import SpaceAuroc, auroc_interval
from wazuka.audit.synthetic.neighbors import nearest
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ202"
NAME = "membership inference"
THRESHOLDS: Mapping[str, float] = {"warning_auroc": 0.55, "issue_auroc": 0.7, "images": 20, "patients": 5}
RULE = (
    "the distance from a real image to its nearest synthetic one tells training from held-out images; warning: the lower 95%"
    " bound of its AUROC exceeds {warning_auroc:g}; issue: {issue_auroc:g}; in 32-pixel images or in features"
)
MOST = 5000
"""Real images looked at on each side."""


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Attack in each space; `count` is the number of training images, there are no ids."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if not inputs.spaces:
        return rule.not_applicable("there are neither small pixels nor features")
    if not len(inputs.synthetic):
        return rule.not_applicable("there are no synthetic images")
    for name, rows in (("training", inputs.training), ("held-out", ~inputs.training)):
        n, people = int(rows.sum()), len(np.unique(inputs.patients[rows]))
        if n < thresholds["images"] or people < thresholds["patients"]:
            return rule.not_applicable(
                f"there are {n} {name} images of {people} patients; it takes {thresholds['images']:g} of {thresholds['patients']:g}"
            )
    found = attack(inputs)
    worst = max(found, key=lambda one: one.low)
    reason = "; ".join(f"AUROC {one.auroc:.2f} [{one.low:.2f}, {one.high:.2f}] in {one.space}" for one in found)
    count = int(inputs.training.sum())
    if worst.low > thresholds["issue_auroc"]:
        return rule.result("issue", reason, count=count)
    if worst.low > thresholds["warning_auroc"]:
        return rule.result("warning", reason, count=count)
    return rule.passed(reason)


def attack(inputs: Inputs) -> list[SpaceAuroc]:
    """Score real images by their nearest synthetic one, in every space there is."""
    rng = np.random.default_rng(inputs.seed)
    rows = np.concatenate(
        [
            np.sort(rng.choice(side, min(len(side), MOST), replace=False))
            for side in (np.flatnonzero(inputs.training), np.flatnonzero(~inputs.training))
        ]
    )
    found = []
    for name, (real, synthetic) in inputs.spaces.items():
        near = nearest(real[rows], synthetic, 1).distances[:, 0]
        value, low, high = auroc_interval(-near, inputs.training[rows], inputs.patients[rows], seed=inputs.seed)
        found.append(SpaceAuroc(name, value, low, high))
    return found
