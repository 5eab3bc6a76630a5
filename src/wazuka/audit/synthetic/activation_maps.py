"""Where in the image real and synthetic images can be told apart: class-activation maps of the two-sample test (WZ204).

Zhou et al. 2016, "Learning deep features for discriminative localization" (arXiv:1512.04150), section 2: where features are
averages over positions and the classifier is linear, its weights times the spatial features say what each position adds
to the decision, exactly. The regression is that of WZ204, fitted on these averages; every image's map comes from the fold
that held its patient out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wazuka.audit.synthetic.inputs import FeatureMaps, Inputs
from wazuka.audit.synthetic.intervals import DRAWS, SpaceAuroc, auroc_interval, draw_groups
from wazuka.audit.synthetic.two_sample_fit import TwoSides, draw_sides, fit, raw_weights

MOST = 500
"""Images on each side."""
LEAST_SIDE = 3
"""Positions along a side below which a map shows no place."""
RING = 8
"""The border ring is this part (1/8) of the shorter side wide, and one position at least."""
NAMES = (("upper left", "top", "upper right"), ("left", "center", "right"), ("lower left", "bottom", "lower right"))
KEEP_BYTES = 2**29
"""Spatial features of all compared images that are kept in memory; larger ones are computed twice."""
KEY = "activation maps"


@dataclass(frozen=True)
class Share:
    """What part of the difference comes from some positions, beside their part of all positions (an even spread).

    Parts may be negative or above 1: elsewhere the difference may have the other sign.
    """

    share: float
    even: float


@dataclass(frozen=True, kw_only=True)
class ActivationMaps:
    """Maps of 2n held-out images, the n real ones first.

    Attributes:
        sides: Which images.
        maps: What each position adds to the decision value, intercept included, float32 (2n, height, width): the mean of
            an image's map is its decision value. Positive speaks for synthetic.
        scores: Held-out decision values, float64 (2n,).
        auroc: Of these scores.
        ring_low, ring_high: 95 % interval of the border ring's share, groups (patients) drawn on each side.
    """

    sides: TwoSides
    maps: np.ndarray
    scores: np.ndarray
    auroc: SpaceAuroc
    ring_low: float
    ring_high: float

    @cached_property
    def real(self) -> np.ndarray:
        """Mean map of the real images, float64 (height, width)."""
        return np.asarray(self.maps[~self.sides.is_synthetic].mean(axis=0, dtype=np.float64))

    @cached_property
    def synthetic(self) -> np.ndarray:
        """Mean map of the synthetic images, float64 (height, width)."""
        return np.asarray(self.maps[self.sides.is_synthetic].mean(axis=0, dtype=np.float64))

    @property
    def difference(self) -> np.ndarray:
        """Mean map of synthetic minus that of real images: its mean is the difference of the mean decision values."""
        return self.synthetic - self.real

    @property
    def told_apart(self) -> bool:
        """Whether there is a difference to localize: the AUROC's lower bound exceeds 0.5."""
        return self.auroc.low > 0.5 and float(self.difference.sum()) > 0

    @property
    def ring(self) -> Share:
        """The border ring's part."""
        return self._share(border_ring(*self.difference.shape))

    @property
    def strongest(self) -> tuple[str, Share]:
        """The strongest of nine parts of the image (thirds by thirds), by mean difference, and its part."""
        rows, columns = (3 * (2 * np.arange(n) + 1) // (2 * n) for n in self.difference.shape)
        parts = {
            name: (rows == down)[:, None] & (columns == right)[None, :]
            for down, line in enumerate(NAMES)
            for right, name in enumerate(line)
        }
        best = max(parts, key=lambda name: float(self.difference[parts[name]].mean()))
        return best, self._share(parts[best])

    def _share(self, where: np.ndarray) -> Share:
        return Share(float(self.difference[where].sum() / self.difference.sum()), float(where.mean()))

    def __str__(self) -> str:
        """What the maps say, as the end of a sentence."""
        height, width = self.difference.shape
        one = self.auroc
        begin = f"AUROC {one.auroc:.2f} [{one.low:.2f}, {one.high:.2f}] on features of {height} x {width} positions"
        if not self.told_apart:
            return f"{begin}, too low to say"
        name, best = self.strongest
        return (
            f"{begin}, of whose difference {self.ring.share:.0%} [{self.ring_low:.0%}, {self.ring_high:.0%}] comes from the"
            f" border ring (even spread: {self.ring.even:.0%}) and {best.share:.0%} from the strongest ninth, {name}"
            f" (even spread: {best.even:.0%})"
        )


def search(inputs: Inputs) -> ActivationMaps | str:
    """Make the maps, or say why there are none; kept in `inputs.found` for the pictures."""
    if KEY not in inputs.found:
        given = inputs.feature_maps
        inputs.found[KEY] = f"no map: {given}" if isinstance(given, str) else _make(inputs, given)
    found: ActivationMaps | str = inputs.found[KEY]
    return found


def drawable(inputs: Inputs) -> ActivationMaps | None:
    """The maps that the check made and that show a difference; None without any."""
    found = inputs.found.get(KEY)
    return found if isinstance(found, ActivationMaps) and found.told_apart else None


def border_ring(height: int, width: int) -> np.ndarray:
    """Positions near the border, bool (height, width).

    >>> border_ring(3, 4).astype(int).tolist()
    [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    """
    wide = max(1, round(min(height, width) / RING))
    ring = np.ones((height, width), bool)
    ring[wide : height - wide, wide : width - wide] = False
    return ring


def _make(inputs: Inputs, feature_maps: FeatureMaps) -> ActivationMaps | str:
    """Two passes over the spatial features, for the averages that the regression takes and for the maps."""
    sides = draw_sides(inputs, MOST)
    means: list[np.ndarray] = []
    kept: list[np.ndarray] = []
    shape, fits = (0, 0), False
    for batch in feature_maps(sides.real_rows, sides.synthetic_rows):
        if not means:
            fits = batch[0].nbytes * len(sides.fold) <= KEEP_BYTES
        if fits:
            kept.append(batch)
        means.append(batch.mean(axis=(2, 3), dtype=np.float64))
        shape = batch.shape[2:]
        if min(shape) < LEAST_SIDE:
            return (
                f"no map: the spatial features have {shape[0]} x {shape[1]} positions, fewer than {LEAST_SIDE} a side"
            )
    values = np.concatenate(means)
    folds = np.unique(sides.fold)
    place = np.searchsorted(folds, sides.fold)
    fitted = [raw_weights(fit(values[sides.fold != one], sides.is_synthetic[sides.fold != one])) for one in folds]
    weights = np.stack([one for one, _ in fitted])[place]
    intercepts = np.array([one for _, one in fitted])[place]
    maps = np.empty((len(values), *shape), np.float32)
    done = 0
    for batch in kept if fits else feature_maps(sides.real_rows, sides.synthetic_rows):
        rows = slice(done, done + len(batch))
        # Weights of columns that hardly vary are large: single precision would lose what they leave of each other.
        maps[rows] = np.einsum("nchw,nc->nhw", batch.astype(np.float64), weights[rows]) + intercepts[rows, None, None]
        done += len(batch)
    scores = (values * weights).sum(axis=1) + intercepts
    value, low, high = auroc_interval(scores, sides.is_synthetic, sides.groups, seed=inputs.seed)
    ring_low, ring_high = _ring_interval(maps, sides, seed=inputs.seed)
    return ActivationMaps(
        sides=sides,
        maps=maps,
        scores=scores,
        auroc=SpaceAuroc("feature maps", value, low, high),
        ring_low=ring_low,
        ring_high=ring_high,
    )


def _ring_interval(maps: np.ndarray, sides: TwoSides, *, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the border ring's share; groups are drawn on each side."""
    parts = np.stack([maps[:, border_ring(*maps.shape[1:])].sum(axis=1), maps.sum(axis=(1, 2))]).astype(np.float64)
    drawn = draw_groups(sides.groups, sides.is_synthetic.astype(int), draws=DRAWS, rng=np.random.default_rng(seed))

    def mean(side: np.ndarray) -> np.ndarray:
        return np.asarray(parts[:, side] @ drawn[side] / drawn[side].sum(axis=0))

    ring, total = mean(sides.is_synthetic) - mean(~sides.is_synthetic)
    shares = ring[total != 0] / total[total != 0]
    if not len(shares):  # every map is flat
        return np.nan, np.nan
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)
