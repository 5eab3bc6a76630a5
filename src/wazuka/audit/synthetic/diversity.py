"""WZ203: synthetic images of a class that look too much alike (`wazuka audit`): mode collapse.

Two figures per class, both against all real images of it: the mean distance of two images, and the share of pairs that are
nearly the same. k equally frequent images, repeated, have the share 1 / k, so 1 / share is read as a number of distinct
images (the inverse Simpson index).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.neighbors import pair_distances
from wazuka.audit.tables import CheckResult, Rule, some

CODE = "WZ203"
NAME = "diversity"
THRESHOLDS: Mapping[str, float] = {
    "warning_spread": 0.75,
    "issue_spread": 0.5,
    "warning_same": 0.01,
    "issue_same": 0.05,
    "same": 0.001,
    "images": 10,
}
RULE = (
    "per class, against the real images; warning: the mean distance of two images is below {warning_spread:g} of theirs, or"
    " more than {warning_same:.0%} of pairs are as near as the nearest {same:.1%} of theirs; issue: below {issue_spread:g},"
    " or more than {issue_same:.0%}; not applicable without a class of {images:g} images on both sides"
)
MOST = 2000
"""Images of a class looked at on each side."""


@dataclass(frozen=True)
class Spread:
    """One class.

    Attributes:
        label: The class, None for images without labels.
        ratio: Mean distance of two synthetic images over that of two real ones.
        same: Share of synthetic pairs that are nearly the same.
    """

    label: str | None
    ratio: float
    same: float


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Measure every class with enough images; ids: the classes below a threshold."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if inputs.best_space is None:
        return rule.not_applicable("there are neither small pixels nor features")
    found, too_few = spreads(inputs, near=thresholds["same"], least=int(thresholds["images"]))
    if not found:
        return rule.not_applicable(f"no class has {thresholds['images']:g} real and as many synthetic images")

    def below(level: str) -> list[Spread]:
        return [
            one for one in found if one.ratio < thresholds[f"{level}_spread"] or one.same > thresholds[f"{level}_same"]
        ]

    figures = "; ".join(
        f"{'all' if one.label is None else one.label}: {one.ratio:.2f} of the real distance, {one.same:.2%} of pairs the same"
        for one in found
    )
    aside = f"; too few images to judge: {some(too_few)}" if too_few else ""
    worst, worse = below("issue"), below("warning")
    if worst or worse:
        ids = [str(one.label) for one in worse]
        return rule.result("issue" if worst else "warning", f"{figures} ({inputs.best_space[0]}){aside}", ids=ids)
    return rule.passed(f"{figures} ({inputs.best_space[0]}){aside}")


def spreads(inputs: Inputs, *, near: float, least: int) -> tuple[list[Spread], list[str]]:
    """Both figures per class, and the classes with too few images; all images as one where none has a label."""
    space = inputs.best_space
    assert space is not None
    _, real, synthetic = space
    rng = np.random.default_rng(inputs.seed)
    real_labels, labels = inputs.real["label"], inputs.synthetic["label"]
    classes: list[str | None] = [*sorted(set(labels.dropna().astype(str)))]
    if labels.isna().all() or real_labels.isna().all():
        classes = [None]
    found, too_few = [], []
    for label in classes:
        theirs, ours = (
            np.arange(len(column))
            if label is None
            else np.flatnonzero((column.astype("string") == label).fillna(False))
            for column in (real_labels, labels)
        )
        if min(len(theirs), len(ours)) < least:
            too_few.append(str(label))
            continue
        theirs, ours = (rng.choice(rows, min(len(rows), MOST), replace=False) for rows in (theirs, ours))
        far, own = pair_distances(real[theirs]), pair_distances(synthetic[ours])
        limit = float(np.quantile(far, near)) + 1e-3 * float(far.mean())  # rounding leaves copies a little apart
        mean = float(far.mean())
        found.append(Spread(label, float(own.mean()) / mean if mean > 0 else 1.0, float(np.mean(own <= limit))))
    return found, too_few
