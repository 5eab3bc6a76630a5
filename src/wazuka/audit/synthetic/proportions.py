"""WZ208: synthetic images whose classes are not as frequent as in the real ones (`wazuka audit`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import DRAWS, draw_groups, share_interval
from wazuka.audit.tables import CheckResult, Rule

CODE = "WZ208"
NAME = "class proportions"
THRESHOLDS: Mapping[str, float] = {"difference": 0.1, "images": 20, "patients": 5}
RULE = (
    "warning: the share of a class differs from that of the real images by more than {difference:g}, and the 95% intervals"
    " (real: over patients) do not meet; issue: a class of {patients:g} real patients or more is absent where at least"
    " {patients:g} images were to be expected; not applicable with fewer than {images:g} labeled images on a side"
)


@dataclass(frozen=True)
class Share:
    """Share of one group on both sides, with 95 % intervals."""

    name: str
    real: float
    real_low: float
    real_high: float
    synthetic: float
    low: float
    high: float

    def off(self, difference: float) -> bool:
        """Whether the shares differ by more than `difference` and their intervals do not meet."""
        apart = self.high < self.real_low or self.low > self.real_high
        return apart and abs(self.synthetic - self.real) > difference

    @property
    def text(self) -> str:
        """For a reason."""
        return (
            f"{self.name}: {self.synthetic:.0%} [{self.low:.0%}, {self.high:.0%}]"
            f" against {self.real:.0%} [{self.real_low:.0%}, {self.real_high:.0%}]"
        )


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Compare the classes' shares; ids: classes that are off."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    labeled = inputs.real["label"].notna().to_numpy(dtype=bool)
    labels = inputs.synthetic["label"].dropna()
    n, m = int(labeled.sum()), len(labels)
    if min(n, m) < thresholds["images"]:
        return rule.not_applicable(
            f"there are {n} labeled real and {m} labeled synthetic images; it takes {thresholds['images']:g}"
        )
    real = inputs.real["label"][labeled]
    people = inputs.real[labeled].groupby(real.astype(str).to_numpy())["patient"].nunique()
    if len(people) < 2 and labels.nunique() < 2:
        return rule.not_applicable("there is one class")
    found = shares(
        real,
        labels,
        inputs.patients[labeled],
        inputs.synthetic_groups[inputs.synthetic["label"].notna().to_numpy(dtype=bool)],
        seed=inputs.seed,
    )
    absent = [
        one
        for one in found
        if one.synthetic == 0
        and one.real * m >= thresholds["patients"]
        and people.get(one.name, 0) >= thresholds["patients"]
    ]
    if absent:
        return rule.result("issue", "; ".join(one.text for one in absent), ids=[one.name for one in absent])
    off = [one for one in found if one.off(thresholds["difference"])]
    if off:
        return rule.result("warning", "; ".join(one.text for one in off), ids=[one.name for one in off])
    return rule.passed("; ".join(one.text for one in found))


def shares(
    real: pd.Series, synthetic: pd.Series, patients: np.ndarray, groups: np.ndarray, *, seed: int
) -> list[Share]:
    """Shares of every group on both sides, sorted by name.

    Args:
        real, synthetic: Group per image, none missing.
        patients: Code per real image; the interval draws patients.
        groups: The same of synthetic images. Where each stands alone the interval is the exact one.
        seed: Of the draws.
    """
    theirs, ours = real.astype(str).to_numpy(), synthetic.astype(str).to_numpy()
    rng = np.random.default_rng(seed)
    weights = draw_groups(patients, np.zeros(len(theirs)), draws=DRAWS, rng=rng)
    alone = len(np.unique(groups)) == len(groups)
    own = None if alone else draw_groups(groups, np.zeros(len(ours)), draws=DRAWS, rng=rng)
    found = []
    for name in sorted({*theirs, *ours}):
        low, high = _drawn(theirs == name, weights)
        hits = int(np.sum(ours == name))
        bounds = share_interval(hits, len(ours)) if own is None else _drawn(ours == name, own)
        found.append(Share(name, float(np.mean(theirs == name)), low, high, hits / len(ours), bounds[0], bounds[1]))
    return found


def _drawn(member: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(weights[member].sum(axis=0) / weights.sum(axis=0), [0.025, 0.975])
    return float(low), float(high)
