"""WZ201: synthetic images that are copies of training images (`wazuka audit`, and the filter before training on them).

Every synthetic image is compared with its nearest training images, in 32-pixel images under flips (no weights: nobody can
call the distance a property of some encoder) and in feature space. One is flagged when both its distance to the nearest
and that distance divided by the mean distance to the 2nd to 10th nearest lie below the 1 % quantile that real images
reach against training images of other patients. The distance alone would flag honest but blurred images: they lie near
everything. The ratio alone would flag isolated ones. A copy is near to one image only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.audit.synthetic.intervals import lower_bound
from wazuka.audit.synthetic.neighbors import nearest
from wazuka.audit.tables import CheckResult, Outcome, Rule

CODE = "WZ201"
NAME = "memorized training images"
THRESHOLDS: Mapping[str, float] = {"quantile": 0.01, "warning_share": 0.02, "issue_share": 0.05, "power": 0.9}
RULE = (
    "flagged: in 32-pixel images or in features, both the distance to the nearest training image and its ratio to the mean"
    " of the 2nd to 10th lie below the {quantile:.0%} quantile of real images against other patients; warning: the lower"
    " 95% bound of the flagged share exceeds {warning_share:.0%}; issue: {issue_share:.0%} (both higher with few real"
    " images); not applicable where fewer than {power:.0%} of planted copies would be flagged in the 32-pixel images"
)
NEIGHBORS = 10
ENOUGH = 100
"""With so many held-out images the quantiles come from them alone, else training images join; with fewer real images
altogether the thresholds on the flagged share rise."""
LEAST_NULL = 10
MOST_NULL = 2000
PLANTED = 200
NOISE = 0.05
"""Standard deviation of the noise on planted copies, relative to that of the training images."""
COPY = 0.9
"""Share of planted copies below which a real image is taken for a copy of another patient's."""
FEW_DOUBLES, MOST_DOUBLES = 2, 0.02
"""So many real images, or such a share of them, may be copies of another patient's without setting the limits."""


@dataclass(frozen=True)
class Limits:
    """What real images reach in one space.

    Attributes:
        distance, ratio: The quantiles below which an image is flagged.
        null: Real images behind them.
        power: Share of planted copies (training images, flipped, with noise) that would be flagged.
    """

    distance: float
    ratio: float
    null: int
    power: float


@dataclass(frozen=True)
class Memorized:
    """What the search found.

    Attributes:
        table: One row per synthetic image: `flag`, and per space used `SPACE_row` (the nearest training image, a row of
            the real arrays), `SPACE_distance`, `SPACE_ratio`, `SPACE_flag`, for pixels also `pixels_flip` (index into
            `neighbors.FLIPS`).
        limits: Space -> its limits, for the spaces that were used.
        unusable: Space -> why it was not.
        source: Which real images the limits come from.
    """

    table: pd.DataFrame
    limits: Mapping[str, Limits]
    unusable: Mapping[str, str]
    source: str

    @property
    def usable(self) -> bool:
        """Whether copies, flipped ones too, would have been found: that takes the pixels."""
        return "pixels" in self.limits

    @property
    def flagged(self) -> int:
        """Number of synthetic images flagged."""
        return int(self.table["flag"].sum())

    @property
    def chance(self) -> float:
        """Share that honest images exceed in at most 1 of 20 cases where few real images set the limits, else 0.

        Below the lowest of n real distances lies, in 19 of 20 draws, no more than 1 - 0.05^(1/n) of all; over s spaces
        these shares of 1 - 0.05/s add up. From 100 real images on the limits are good enough to do without.
        """
        few = [one.null for one in self.limits.values() if one.null < ENOUGH]
        return sum(1 - (0.05 / len(self.limits)) ** (1 / n) for n in few)


def check(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Judge the share of flagged images; ids: the flagged ones, whatever the outcome."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    if not len(inputs.synthetic):
        return rule.not_applicable("there are no synthetic images")
    found = search(inputs, thresholds)
    if not found.limits:
        return rule.not_applicable("; ".join(f"{name}: {why}" for name, why in found.unusable.items()) or NOTHING)
    n, hits = len(found.table), found.flagged
    outcome, low = judge(hits, n, found, thresholds)
    reason = (
        f"{hits} of {n} synthetic images ({hits / n:.1%}, lower bound {low:.1%}) are as near to one training image as a copy"
        f" ({', '.join(found.limits)}; limits from {found.source})"
    )
    if outcome == "not applicable":
        return rule.not_applicable(
            f"{found.unusable.get('pixels', 'there are no small pixels')}; by features, {reason}"
        )
    aside = "".join(f"; {name} not used: {why}" for name, why in found.unusable.items())
    return rule.result(outcome, reason + aside, ids=inputs.synthetic["id"].to_numpy()[found.table["flag"].to_numpy()])


def judge(hits: int, n: int, found: Memorized, thresholds: Mapping[str, float] = THRESHOLDS) -> tuple[Outcome, float]:
    """Judge `hits` flagged of `n` images by the limits in `found`; the outcome and the lower 95 % bound of the share.

    Passes only on pixels: encoders tell an image from its mirror image, so features alone would let flipped copies pass.
    """
    low = lower_bound(hits, n)
    if found.limits and low > max(thresholds["issue_share"], found.chance):
        return "issue", low
    if found.limits and low > max(thresholds["warning_share"], found.chance):
        return "warning", low
    return ("passed" if found.usable and n else "not applicable"), low


NOTHING = "there are neither small pixels nor features"


def search(inputs: Inputs, thresholds: Mapping[str, float] = THRESHOLDS) -> Memorized:
    """Find the flagged images, once per inputs and thresholds."""
    key = (CODE, thresholds["quantile"], thresholds["power"])
    if key not in inputs.found:
        inputs.found[key] = memorized(
            {name: pair[1] for name, pair in inputs.spaces.items()},
            {name: pair[0] for name, pair in inputs.spaces.items()},
            training=inputs.training,
            patients=inputs.patients,
            quantile=thresholds["quantile"],
            power=thresholds["power"],
            seed=inputs.seed,
        )
    found: Memorized = inputs.found[key]
    return found


def memorized(
    synthetic: Mapping[str, np.ndarray],
    real: Mapping[str, np.ndarray],
    *,
    training: np.ndarray,
    patients: np.ndarray,
    quantile: float = THRESHOLDS["quantile"],
    power: float = THRESHOLDS["power"],
    seed: int = 0,
) -> Memorized:
    """Flag synthetic images that are copies of training images; usable as a filter by itself.

    Args:
        synthetic: Space -> its rows: `pixels` (m, 32, 32, channels), `features` (m, d); one of them or both.
        real: The same of real images, (n, ...).
        training: Real rows that the generator was trained on, bool (n,). The others set the limits where there are 100
            of them or more.
        patients: Code per real row, int64 (n,): a real image is never compared with its own patient's.
        quantile: Of each of the two figures. An honest image meets both in one space less often than this.
        power: Least share of planted copies that must be flagged in a space for it to be used.
        seed: Of draws among many real images and of the noise on planted copies.
    """
    rng = np.random.default_rng(seed)
    trained, held_out = np.flatnonzero(training), np.flatnonzero(~training)
    rows, source = held_out, f"{len(held_out)} held-out real images"
    if len(held_out) < ENOUGH:
        rows = np.concatenate([held_out, trained])
        source = f"{len(held_out)} held-out and {len(trained)} training images, each against other patients"
    if len(rows) > MOST_NULL:
        rows = np.sort(rng.choice(rows, MOST_NULL, replace=False))
        source = f"{MOST_NULL} of {source}"
    m = len(next(iter(synthetic.values()))) if synthetic else 0
    table = pd.DataFrame({"flag": np.zeros(m, dtype=bool)})
    limits: dict[str, Limits] = {}
    unusable: dict[str, str] = {}
    left_out: list[str] = []
    for name in synthetic:
        if len(trained) <= NEIGHBORS:
            unusable[name] = f"there are {len(trained)} training images; it takes {NEIGHBORS + 1}"
            continue
        base = real[name][trained]
        null = nearest(
            real[name][rows], base, NEIGHBORS, query_groups=patients[rows], reference_groups=patients[trained]
        ).distances
        null = null[np.isfinite(null).all(axis=1)]
        planted = nearest(_planted(base, rng), base, NEIGHBORS).distances
        null, doubles = _without_doubles(null, planted)
        if doubles:
            left_out.append(f"{doubles} real copies of each other left out in {name}")
        if len(null) < LEAST_NULL:
            unusable[name] = (
                f"{len(null)} real images have {NEIGHBORS} training images of other patients; it takes {LEAST_NULL}"
            )
            continue
        # below the k-th smallest of n, k = ceil(n quantile), lies the share k / (n + 1) of such images in the mean
        distance, ratio = (
            float(np.quantile(one, quantile, method="inverted_cdf")) for one in (null[:, 0], _ratio(null))
        )
        seen = float(np.mean((planted[:, 0] < distance) & (_ratio(planted) < ratio)))
        if seen < power:
            unusable[name] = (
                f"of planted copies only {seen:.0%} would be flagged, because real images of different patients are as alike"
            )
            continue
        limits[name] = Limits(distance, ratio, len(null), seen)
        found = nearest(synthetic[name], base, NEIGHBORS)
        flag = (found.distances[:, 0] < distance) & (_ratio(found.distances) < ratio)
        table[f"{name}_row"] = trained[found.rows[:, 0]]
        table[f"{name}_distance"] = found.distances[:, 0]
        table[f"{name}_ratio"] = _ratio(found.distances)
        if synthetic[name].ndim == 4:
            table[f"{name}_flip"] = found.flips
        table[f"{name}_flag"] = flag
        table["flag"] |= flag
    return Memorized(table, limits, unusable, "; ".join([source, *left_out]))


def _without_doubles(null: np.ndarray, planted: np.ndarray) -> tuple[np.ndarray, int]:
    """Leave out real images that are copies of another patient's (a second export, say): what is left, and their number.

    One is taken for a copy where both its distance and its ratio lie below those of most planted copies. A few such say
    nothing of what honest images reach, but would set the limits; where they are more, real images are that alike, and
    all stay.

    Args:
        null, planted: Distances of real images and of planted copies to their nearest training images, (n, neighbors).
    """
    copies = (null[:, 0] <= np.quantile(planted[:, 0], COPY)) & (_ratio(null) <= np.quantile(_ratio(planted), COPY))
    if not 0 < copies.sum() <= max(FEW_DOUBLES, MOST_DOUBLES * len(null)):
        return null, 0
    return null[~copies], int(copies.sum())


def _ratio(distances: np.ndarray) -> np.ndarray:
    """Nearest distance over the mean of the 2nd to 10th; 1 where these are all 0 (so many copies in the training set)."""
    others = distances[:, 1:].mean(axis=1)
    return np.divide(distances[:, 0], others, out=np.ones(len(distances)), where=others > 0)


def _planted(base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some training rows with noise, images also flipped: what a generator that copies would give."""
    rows = base[rng.choice(len(base), min(PLANTED, len(base)), replace=False)].astype(np.float32)
    if rows.ndim == 4:
        rows = rows[:, :, ::-1]
    spread = base.std(axis=0, dtype=np.float64) if base.ndim == 2 else base.std(dtype=np.float64)
    return rows + (NOISE * spread * rng.standard_normal(rows.shape)).astype(np.float32)
