"""WZ209: domains and attributes that synthetic images look like too often or too rarely (`wazuka audit`).

A synthetic image has no scanner and no age. It is given those of its nearest real image; real images are given those of
their nearest image of another patient, so that both sides err in the same way, and the shares are compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.neighbors import nearest
from wazuka.audit.synthetic.proportions import Share, shares
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ209"
NAME = "domain and attribute proportions"
THRESHOLDS: Mapping[str, float] = {"difference": 0.15, "images": 20, "patients": 5, "groups": 12}
RULE = (
    "warning: the share of a domain or attribute among the nearest real images differs by more than {difference:g} from the"
    " share among the nearest of other patients for real images, and the 95% intervals do not meet; not applicable without"
    " two groups of {patients:g} patients, and columns of more than {groups:g} groups are left out; never an issue by itself"
)
MOST = 5000
"""Images on each side."""


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Compare every column of groups; ids: COLUMN=GROUP of those that are off."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if inputs.best_space is None:
        return rule.not_applicable("there are neither small pixels nor features")
    if min(len(inputs.real), len(inputs.synthetic)) < thresholds["images"]:
        return rule.not_applicable(
            f"there are {len(inputs.real)} real and {len(inputs.synthetic)} synthetic images; it takes {thresholds['images']:g}"
        )
    columns, left_out = group_columns(inputs, patients=int(thresholds["patients"]), groups=int(thresholds["groups"]))
    if not columns:
        return rule.not_applicable(
            "; ".join(f"{name}: {why}" for name, why in left_out.items())
            or "there is neither a domain nor an attribute"
        )
    off, texts = [], []
    for column, found in attribute_shares(inputs, list(columns)).items():
        for one in found:
            if one.off(thresholds["difference"]):
                off.append(f"{column}={one.name}")
                texts.append(f"{column} {one.text}")
    aside = "".join(f"; {name} not judged: {why}" for name, why in left_out.items())
    if off:
        return rule.result("warning", "; ".join(texts) + aside, ids=off)
    return rule.passed(f"none of {', '.join(columns)} is off{aside}")


def group_columns(inputs: Inputs, *, patients: int, groups: int) -> tuple[dict[str, pd.Series], dict[str, str]]:
    """Columns with two groups of enough patients: name -> text per real row (missing where it is), and why others are not."""
    found, left_out = {}, {}
    for name in ("domain", *inputs.attributes):
        values = inputs.real[name].astype("string")
        people = inputs.real.groupby(values)["patient"].nunique()
        if len(people) > groups:
            left_out[name] = f"{len(people)} groups"
        elif (people >= patients).sum() < 2:
            left_out[name] = f"{int((people >= patients).sum())} groups of {patients} patients"
        else:
            found[name] = values
    return found, left_out


def attribute_shares(inputs: Inputs, columns: list[str]) -> dict[str, list[Share]]:
    """Shares of each column's groups among the nearest real images, for synthetic and for real ones."""
    space = inputs.best_space
    assert space is not None
    _, real, synthetic = space
    rng = np.random.default_rng(inputs.seed)
    theirs, ours = (np.sort(rng.choice(n, min(n, MOST), replace=False)) for n in (len(real), len(synthetic)))
    found = {}
    for column in columns:
        values = inputs.real[column].astype("string")
        known = np.flatnonzero(values.notna().to_numpy(dtype=bool))
        base = real[known]
        near = nearest(synthetic[ours], base, 1).rows[:, 0]
        asked = np.intersect1d(theirs, known)
        own = nearest(
            real[asked], base, 1, query_groups=inputs.patients[asked], reference_groups=inputs.patients[known]
        ).rows[:, 0]
        asked, own = asked[own >= 0], own[own >= 0]
        found[column] = shares(
            values.iloc[known[own]],
            values.iloc[known[near]],
            inputs.patients[asked],
            inputs.synthetic_groups[ours],
            seed=inputs.seed,
        )
    return found
