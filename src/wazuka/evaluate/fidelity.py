"""How close synthetic images are to real ones in feature space, each number next to what real images reach themselves.

All numbers depend on how many rows they are taken from, so both sides always have equally many (the larger is
subsampled), and a distance is set against the real-versus-real one at that one's number of rows:

- `value`: all rows that the smaller side has, n, against n of the other.
- Halves: real patients in random order are cut into two halves of the same h <= n/2 rows; h of the n synthetic rows are
  drawn. `matched` is the mean over the draws of (first half, synthetic), `floor` that of (first half, second half):
  patient-disjoint, same rows. Their difference is what the generator, not the sample, is to blame for.
- Interval: delete-half jackknife (Shao and Wu 1989; Politis and Romano 1994 for m of n). Half of the patients and half
  of the synthetic rows, drawn without replacement, scatter around their mean as the whole does around its own, since
  (1/h - 1/n) = 1/n: their 2.5 and 97.5 % deviations are laid around `value` with no further scaling. Drawing with
  replacement would not do: repeated rows look like copies to a nearest neighbor and like low rank to a covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wazuka.core.errors import ConfigError, DataError, unknown_name
from wazuka.core.hashing import derive_seed
from wazuka.evaluate.frechet import check_features, frechet_distance
from wazuka.evaluate.kernel_distance import kernel_distance, kernel_distances
from wazuka.evaluate.manifold import Manifold, manifold
from wazuka.evaluate.resampling import MIN_DRAWS, interval

METRICS = ("frechet", "kernel", "precision", "recall", "density", "coverage")
DISTANCES = ("frechet", "kernel")
"""Metrics that are better when lower."""
SHARES = ("precision", "recall", "coverage")
MIN_PATIENTS = 4
"""Two on either side of a patient-disjoint split; with fewer there is no spread between patients to measure."""
MIN_ROWS = 10
"""On either side."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of real against synthetic rows, and its real-versus-real reference.

    Attributes:
        value: At `Fidelity.rows` rows a side.
        low, high: 95 % interval of `value`: about its expectation at that number of rows, not at infinitely many.
        matched: Real against synthetic at `Fidelity.half_rows` rows a side, mean over the draws.
        floor: Patient-disjoint halves of the real rows at the same number, mean over the splits. For precision, recall,
            density and coverage it is the ceiling that honest images reach.
        floor_low, floor_high: Range over the splits.
    """

    value: float
    low: float
    high: float
    matched: float
    floor: float
    floor_low: float
    floor_high: float

    @property
    def excess(self) -> float:
        """`matched` less `floor`: 0 for images as good as other patients' real ones."""
        return self.matched - self.floor


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Fidelity and diversity of synthetic images in one feature space.

    Attributes:
        scores: Metric -> its score; metrics that could not be measured are in `missing` instead.
        missing: Metric -> why it was not measured.
        rows: Rows a side behind `value`.
        half_rows: Rows a side behind `matched` and `floor`; 0 if nothing was measured.
        n_patients: Real patients.
        k: Neighbors of precision, recall, density and coverage.
        draws, splits: Behind the interval and `matched`; behind `floor`.
    """

    scores: dict[str, Score]
    missing: dict[str, str]
    rows: int
    half_rows: int
    n_patients: int
    k: int
    draws: int
    splits: int


def fidelity(
    real: np.ndarray,
    synthetic: np.ndarray,
    *,
    real_patients: np.ndarray | Sequence[object],
    seed: int,
    metrics: Sequence[str] = METRICS,
    k: int = 5,
    draws: int = 100,
    splits: int = 10,
    max_rows: int = 2000,
) -> Fidelity:
    """Measure synthetic against real features with intervals and the real-versus-real floor.

    Synthetic rows count as independent draws of the one generator; the interval says nothing about training it again.

    Args:
        real: Features, (n, dim), of images the generator has not seen, or its distance flatters it.
        synthetic: Features of the same encoder, (m, dim), with the classes in the same proportions.
        real_patients: Patient of each real row, (n,).
        seed: Of all draws.
        metrics: Some of `METRICS`.
        k: Neighbors.
        draws: Half samples behind the interval, at least 100.
        splits: Those of them that also give the floor, at least 1.
        max_rows: Rows a side at most, chosen at random; the time grows with their square. 2,000 rows of 1,024 features take
            about 40 s on one core.

    Raises:
        ConfigError: If a metric is unknown, or a number is too small.
        DataError: If shapes do not fit or values are not finite.
    """
    for name in metrics:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    if draws < MIN_DRAWS or not 1 <= splits <= draws or k < 1 or max_rows < MIN_ROWS:
        raise ConfigError(
            f"fidelity() got draws={draws}, splits={splits}, k={k}, max_rows={max_rows}; "
            f"wanted are draws >= {MIN_DRAWS}, 1 <= splits <= draws, k >= 1, max_rows >= {MIN_ROWS}."
        )
    check_features(real, synthetic, least=0)
    named = np.asarray(real_patients, dtype=object)
    if named.shape != (len(real),) or pd.isna(named).any():
        raise DataError(
            f"`real_patients` has {len(named)} entries, {int(pd.isna(named).sum())} of them missing, for {len(real)} rows; pass one patient per row."
        )
    rows = min(len(real), len(synthetic), max_rows)
    chosen = _choose(len(real), rows, seed, "real rows")
    real, synthetic = real[chosen], synthetic[_choose(len(synthetic), rows, seed, "synthetic rows")]
    _, patients = np.unique(named[chosen].astype(str), return_inverse=True)
    n_patients = int(patients.max(initial=-1)) + 1
    parts = _halve(patients, draws=draws, seed=seed) if n_patients >= MIN_PATIENTS and rows >= MIN_ROWS else None
    half = 0 if parts is None else parts.half
    scores: dict[str, Score] = {}
    missing = _missing(metrics, n_patients=n_patients, rows=rows, half=half, k=k)
    wanted = [name for name in METRICS if name in metrics and name not in missing]
    if parts is not None and wanted:
        whole = _measure(real, synthetic, wanted, k)
        drawn, floors = _repeat(real, synthetic, parts, wanted, k, splits)
        scores = {name: _score(name, whole[name], drawn[name], floors[name]) for name in wanted}
    return Fidelity(
        scores=scores,
        missing=missing,
        rows=rows,
        half_rows=half if scores else 0,
        n_patients=n_patients,
        k=k,
        draws=draws if scores else 0,
        splits=splits if scores else 0,
    )


def spatial_rows(features: np.ndarray, *, channels: int = 7) -> np.ndarray:
    """Flatten a middle layer for a Fréchet distance that sees where things are (sFID, Nash et al. 2021).

    Args:
        features: (n, channels, height, width), of `nn.inception` for the published one.
        channels: The first so many are used; 7 of Inception's 17 x 17 map give 2,023 features a row.

    Raises:
        DataError: If there are other than four axes, or too few channels.
    """
    if features.ndim != 4 or features.shape[1] < channels:
        raise DataError(
            f"The spatial features have shape {features.shape}; pass (n, channels, height, width) with at least {channels} channels."
        )
    return np.asarray(features[:, :channels].reshape(len(features), -1))


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """Row numbers of the half samples, (draws, half): of either real half, and of the synthetic rows."""

    first: np.ndarray
    second: np.ndarray
    drawn: np.ndarray
    half: int


def _choose(n: int, rows: int, seed: int, what: str) -> np.ndarray:
    """Some of n rows at random, in order."""
    return np.sort(np.random.default_rng(derive_seed(seed, "fidelity", what)).permutation(n)[:rows])


def _missing(metrics: Sequence[str], *, n_patients: int, rows: int, half: int, k: int) -> dict[str, str]:
    """Metric -> why it cannot be measured."""
    if rows < MIN_ROWS:
        return dict.fromkeys(metrics, f"{rows} rows on a side; {MIN_ROWS} are the least")
    if n_patients < MIN_PATIENTS:
        return dict.fromkeys(metrics, f"{n_patients} real patients; {MIN_PATIENTS} are the least")
    if half < MIN_ROWS // 2:
        return dict.fromkeys(metrics, f"one patient has nearly all real rows: disjoint halves have only {half}")
    if half <= k:
        why = f"{half} rows in a half sample; {k + 1} are the least for k = {k}"
        return {name: why for name in metrics if name not in DISTANCES}
    return {}


def _halve(patients: np.ndarray, *, draws: int, seed: int) -> _Parts:
    """Draw half samples; all have the same number of rows, so that bias in it does not look like noise."""
    counts = np.bincount(patients)
    rng = np.random.default_rng(derive_seed(seed, "fidelity", "halves"))
    pairs = []
    for _ in range(draws):
        order = rng.permutation(len(counts))
        ahead = np.cumsum(counts[order])[:-1]
        cut = int(np.argmin(np.abs(2 * ahead - len(patients)))) + 1  # the most even of all cuts between two patients
        pairs.append((order[:cut], order[cut:]))
    half = min(int(counts[side].sum()) for pair in pairs for side in pair)

    def rows_of(side: np.ndarray) -> np.ndarray:
        return np.asarray(rng.permutation(np.flatnonzero(np.isin(patients, side)))[:half])

    chosen = [(rows_of(one), rows_of(other)) for one, other in pairs]
    return _Parts(
        first=np.stack([one for one, _ in chosen]),
        second=np.stack([other for _, other in chosen]),
        drawn=np.stack([rng.permutation(len(patients))[:half] for _ in pairs]),
        half=half,
    )


def _measure(real: np.ndarray, synthetic: np.ndarray, wanted: Sequence[str], k: int) -> dict[str, float]:
    """The wanted metrics of two equally large feature sets."""
    found: dict[str, float] = {}
    around: Manifold | None = None
    for name in wanted:
        if name == "frechet":
            found[name] = frechet_distance(real, synthetic)
        elif name == "kernel":
            found[name] = kernel_distance(real, synthetic)
        else:
            around = around or manifold(real, synthetic, k=k)
            found[name] = getattr(around, name)
    return found


def _repeat(
    real: np.ndarray, synthetic: np.ndarray, parts: _Parts, wanted: Sequence[str], k: int, splits: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The wanted metrics of all draws, and of the splits' two halves: name -> values."""
    single = [name for name in wanted if name != "kernel"]
    draws = [_measure(real[i], synthetic[j], single, k) for i, j in zip(parts.first, parts.drawn, strict=True)]
    pairs = zip(parts.first[:splits], parts.second[:splits], strict=True)
    halves = [_measure(real[i], real[j], single, k) for i, j in pairs]
    drawn = {name: np.array([one[name] for one in draws]) for name in single}
    floors = {name: np.array([one[name] for one in halves]) for name in single}
    if "kernel" in wanted:
        first, second = _members(parts.first, len(real)), _members(parts.second, len(real))
        others = _members(parts.drawn, len(synthetic))
        drawn["kernel"] = kernel_distances(real, synthetic, of_first=first, of_second=others)
        floors["kernel"] = kernel_distances(real, real, of_first=first[:, :splits], of_second=second[:, :splits])
    return drawn, floors


def _members(chosen: np.ndarray, rows: int) -> np.ndarray:
    """Row numbers (draws, half) as columns of members, (rows, draws) bool."""
    members = np.zeros((rows, len(chosen)), dtype=bool)
    members[chosen.T, np.arange(len(chosen))] = True
    return members


def _score(name: str, value: float, drawn: np.ndarray, floors: np.ndarray) -> Score:
    least = -np.inf if name == "kernel" else 0.0
    low, high = interval(value + drawn - drawn.mean(), low=least, high=1.0 if name in SHARES else np.inf)
    assert low is not None and high is not None  # `draws` is at least MIN_DRAWS and no metric is undefined
    return Score(
        value=value,
        low=low,
        high=high,
        matched=float(drawn.mean()),
        floor=float(floors.mean()),
        floor_low=float(floors.min()),
        floor_high=float(floors.max()),
    )
