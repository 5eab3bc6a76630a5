"""WZ210: classes, domains or attributes of which the synthetic images show less (`wazuka audit`).

A real image is covered when a synthetic one lies nearer than its k-th nearest real neighbor (Naeem et al. 2020, "Reliable
fidelity and diversity metrics", k = 5). The share of covered images is compared between subgroups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wazuka.audit.synthetic.attribute_proportions import group_columns
from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import DRAWS, draw_groups
from wazuka.audit.synthetic.neighbors import nearest
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ210"
NAME = "coverage of subgroups"
THRESHOLDS: Mapping[str, float] = {"ratio": 0.5, "least": 0.1, "patients": 5, "images": 20, "groups": 12}
RULE = (
    "warning: the share of covered real images of a class, domain or attribute is below {ratio:g} of the best such group's, or"
    " below {least:.0%} for all; issue: the upper 95% bound (over patients) is below {ratio:g}; groups of fewer than"
    " {patients:g} patients or {images:g} images and columns of more than {groups:g} groups are left out; not applicable"
    " without two groups"
)
K = 5
MOST = 10_000
"""Real and synthetic images compared."""


@dataclass(frozen=True)
class Coverage:
    """One subgroup.

    Attributes:
        column, group: Which.
        share: Of its real images that are covered.
        ratio, low, high: That over the best group's of the column, with its 95 % interval over patients; 1 for the best.
    """

    column: str
    group: str
    share: float
    ratio: float
    low: float
    high: float


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Compare the groups of each column; ids: COLUMN=GROUP of those that are covered less."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if inputs.covered is None and inputs.best_space is None:
        return rule.not_applicable("there are neither small pixels nor features")
    if inputs.covered is None and (len(inputs.real) <= K or not len(inputs.synthetic)):
        return rule.not_applicable(f"there are {len(inputs.real)} real and {len(inputs.synthetic)} synthetic images")
    found = subgroup_coverage(
        inputs,
        patients=int(thresholds["patients"]),
        images=int(thresholds["images"]),
        groups=int(thresholds["groups"]),
    )
    if not found:
        return rule.not_applicable(
            f"no column has two groups of {thresholds['patients']:g} patients and {thresholds['images']:g} images"
        )
    best = {column: max(one.share for one in found if one.column == column) for column in {one.column for one in found}}
    if max(best.values()) < thresholds["least"]:
        return rule.result(
            "warning",
            f"no group is covered by more than {max(best.values()):.0%}: too little to compare groups",
            ids=[f"{one.column}={one.group}" for one in found],
        )
    less = [one for one in found if one.ratio < thresholds["ratio"] and best[one.column] >= thresholds["least"]]
    figures = "; ".join(
        f"{one.column}={one.group}: {one.share:.0%} covered, {one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}] of the best"
        for one in less or found
    )
    if any(one.high < thresholds["ratio"] for one in less):
        return rule.result("issue", figures, ids=[f"{one.column}={one.group}" for one in less])
    if less:
        return rule.result("warning", figures, ids=[f"{one.column}={one.group}" for one in less])
    return rule.passed(figures)


def subgroup_coverage(inputs: Inputs, *, patients: int, images: int, groups: int) -> list[Coverage]:
    """Coverage of every group with enough patients and images, of every column with two of them."""
    rows, covered = _covered(inputs)
    columns, _ = group_columns(inputs, patients=patients, groups=groups)
    labels = inputs.real["label"].astype("string")
    if labels.nunique() <= groups:
        columns = {"label": labels, **columns}
    people = inputs.patients[rows]
    weights = draw_groups(people, np.zeros(len(rows)), draws=DRAWS, rng=np.random.default_rng(inputs.seed))
    found = []
    for column, values in columns.items():
        here = values.iloc[rows].fillna("").to_numpy(dtype=str)
        members = {
            str(name): here == name
            for name in sorted(set(here) - {""})
            if np.sum(here == name) >= images and len(np.unique(people[here == name])) >= patients
        }
        if len(members) < 2:
            continue
        share = {name: float(covered[one].mean()) for name, one in members.items()}
        best = max(share, key=lambda name: share[name])
        drawn = {name: _weighted(covered, one, weights) for name, one in members.items()}
        for name in members:
            ratio = drawn[name] / np.maximum(drawn[best], 1 / len(rows))
            defined = ratio[~np.isnan(ratio)]
            low, high = (1.0, 1.0) if name == best else np.quantile(defined, [0.025, 0.975])
            value = share[name] / share[best] if share[best] > 0 else 1.0
            found.append(Coverage(column, name, share[name], value, float(low), float(high)))
    return found


def _weighted(covered: np.ndarray, member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of covered images of a group per draw; NaN where none of its patients was drawn."""
    total = weights[member].sum(axis=0)
    hits = weights[member & covered].sum(axis=0)
    return np.divide(hits, total, out=np.full(len(total), np.nan), where=total > 0)


def _covered(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `real` looked at and whether each is covered."""
    if inputs.covered is not None:
        return np.arange(len(inputs.real)), inputs.covered
    space = inputs.best_space
    assert space is not None
    _, real, synthetic = space
    rng = np.random.default_rng(inputs.seed)
    rows, ours = (np.sort(rng.choice(n, min(n, MOST), replace=False)) for n in (len(real), len(synthetic)))
    own = np.arange(len(rows))
    radius = nearest(real[rows], real[rows], K, query_groups=own, reference_groups=own).distances[:, K - 1]
    return rows, nearest(real[rows], synthetic[ours], 1).distances[:, 0] <= radius
