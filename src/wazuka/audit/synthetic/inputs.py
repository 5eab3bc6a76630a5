"""What the checks of synthetic images are given: arrays and tables that somebody else made; no image is opened here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError

SIDE = 32
"""Height and width of the small images in which copies are looked for."""
FeatureMaps = Callable[[np.ndarray, np.ndarray], Iterator[np.ndarray]]
"""Rows of `real` and rows of `synthetic` -> the spatial features of the former, then of the latter, in batches in order:
float32 (a batch, channels, height, width)."""
REAL_COLUMNS = ("id", "patient", "label", "domain")
SYNTHETIC_COLUMNS = ("id", "label", "seed")


@dataclass(frozen=True)
class Distance:
    """A distance between real and synthetic images that was measured elsewhere (`evaluate/fidelity.py`).

    Attributes:
        value: Of equal numbers of real and synthetic images.
        low, high: Its 95 % interval; low <= high.
        floor: Mean distance of the same numbers of real images from patient-disjoint halves.
        floor_high: The largest such distance.
    """

    value: float
    low: float
    high: float
    floor: float
    floor_high: float


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Real and synthetic images as arrays; row i of every real array is row i of `real`, likewise for `synthetic`.

    Attributes:
        real: One row per real image: `id`, `patient` (never missing), `label`, `domain` (both may be missing), and the
            columns named in `attributes`.
        synthetic: One row per synthetic image: `id`, `label` (may be missing), `seed`. A column `patient` is optional:
            images of one patient then stay together; without it each image stands alone.
        training: Real rows that the generator was trained on, bool (n,); the others are held-out real images.
        real_pixels, synthetic_pixels: (n, 32, 32, channels) and (m, 32, 32, channels) float32, area-resized, in the
            stored unit (gray levels 0 to 255, Hounsfield units); None where there are none.
        real_features, synthetic_features: (n, d) and (m, d) of one frozen encoder; None where there are none.
        real_large, synthetic_large: Some images in the size in which they are used, (a, S, S, channels) and
            (b, S, S, channels), for the spectrum; a few hundred suffice.
        real_large_rows: Row of `real` of each image of `real_large`, int64 (a,).
        covered: Real rows with a synthetic neighbor within the distance of their k-th real one, bool (n,); None: the
            check of coverage finds out itself.
        feature_maps: Computes spatial features of images, the same for the same rows; or why there are none.
        fidelity: Name ("frechet", "kid", ...) -> its figures; None where not measured.
        attributes: Columns of `real` to look at besides `domain`, each with few values.
        seed: Of every random choice.

    Raises:
        DataError: If shapes do not fit each other, a column is missing or a value is not finite.
    """

    real: pd.DataFrame
    synthetic: pd.DataFrame
    training: np.ndarray
    real_pixels: np.ndarray | None = None
    synthetic_pixels: np.ndarray | None = None
    real_features: np.ndarray | None = None
    synthetic_features: np.ndarray | None = None
    real_large: np.ndarray | None = None
    synthetic_large: np.ndarray | None = None
    real_large_rows: np.ndarray | None = None
    covered: np.ndarray | None = None
    feature_maps: FeatureMaps | str = "no spatial features were given"
    fidelity: Mapping[str, Distance] | None = None
    attributes: Sequence[str] = ()
    seed: int = 0
    found: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What one check found and another, or the report, needs again (the nearest training images, the maps)."""

    def __post_init__(self) -> None:
        _need_columns("real", self.real, (*REAL_COLUMNS, *self.attributes))
        _need_columns("synthetic", self.synthetic, SYNTHETIC_COLUMNS)
        if self.real["patient"].isna().any():
            raise DataError(
                f"{int(self.real['patient'].isna().sum())} of {len(self.real)} rows of `real` have no patient; "
                "where none is known give each image its own."
            )
        n, m = len(self.real), len(self.synthetic)
        for name, one in (("training", self.training), ("covered", self.covered)):
            if one is not None and (one.shape != (n,) or one.dtype != np.bool_):
                raise DataError(f"`{name}` is {one.dtype} {one.shape}; give bool ({n},), one per row of `real`.")
        for name, ends in (("pixels", (SIDE, SIDE)), ("features", ()), ("large", ())):
            self._check_pair(name, n, m, ends)
        rows = self.real_large_rows
        if self.real_large is not None and (
            rows is None
            or rows.shape != (len(self.real_large),)
            or (len(rows) > 0 and not 0 <= rows.min() <= rows.max() < n)
        ):
            raise DataError(
                f"`real_large_rows` does not name a row of `real` for each of the {len(self.real_large)} images of "
                f"`real_large`; give int64 ({len(self.real_large)},) below {n}."
            )

    def _check_pair(self, name: str, n: int, m: int, ends: tuple[int, ...]) -> None:
        real, synthetic = getattr(self, f"real_{name}"), getattr(self, f"synthetic_{name}")
        if (real is None) != (synthetic is None):
            raise DataError(f"`real_{name}` and `synthetic_{name}` must be given together or left out together.")
        if real is None:
            return
        if real.shape[1:] != synthetic.shape[1:] or real.ndim != (2 if name == "features" else 4):
            raise DataError(
                f"`real_{name}` is {real.shape}, `synthetic_{name}` {synthetic.shape}; their rows must agree."
            )
        if ends and real.shape[1:3] != ends:
            raise DataError(f"`real_{name}` is {real.shape}; give images of {SIDE} x {SIDE} pixels.")
        if name != "large" and (len(real), len(synthetic)) != (n, m):
            raise DataError(
                f"`real_{name}` and `synthetic_{name}` have {len(real)} and {len(synthetic)} rows; the tables have {n} and {m}."
            )
        for side, one in (("real", real), ("synthetic", synthetic)):
            if one.dtype.kind == "f" and not np.isfinite(one).all():
                raise DataError(f"`{side}_{name}` has NaN or infinite values; give finite ones.")

    @cached_property
    def patients(self) -> np.ndarray:
        """Code of each real row's patient, int64 (n,)."""
        return pd.factorize(self.real["patient"])[0].astype(np.int64)

    @cached_property
    def synthetic_groups(self) -> np.ndarray:
        """Code of what each synthetic image belongs to, int64 (m,); a patient of `real` has the code he has there."""
        if "patient" not in self.synthetic:
            return int(self.patients.max(initial=-1)) + 1 + np.arange(len(self.synthetic))
        both = pd.concat([self.real["patient"], self.synthetic["patient"]])
        return pd.factorize(both)[0].astype(np.int64)[len(self.real) :]

    @cached_property
    def spaces(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name -> (real rows, synthetic rows) of the spaces in which images can be compared."""
        pairs = {
            "pixels": (self.real_pixels, self.synthetic_pixels),
            "features": (self.real_features, self.synthetic_features),
        }
        return {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}

    @property
    def best_space(self) -> tuple[str, np.ndarray, np.ndarray] | None:
        """Features where there are any, else small pixels, as (name, (n, d), (m, d)); None where there are neither."""
        for name in ("features", "pixels"):
            if name in self.spaces:
                real, synthetic = self.spaces[name]
                width = int(np.prod(real.shape[1:]))
                return name, real.reshape(len(real), width), synthetic.reshape(len(synthetic), width)
        return None


def _need_columns(name: str, table: pd.DataFrame, wanted: Sequence[str]) -> None:
    missing = [one for one in wanted if one not in table]
    if missing:
        raise DataError(
            f"`{name}` has no column {', '.join(f'`{one}`' for one in missing)}; it has {', '.join(map(str, table.columns))}."
        )
