"""Predictors that compare features instead of weighing them: nearest neighbors and class prototypes.

Kinds `neighbors` (`adapt/knn.py`) and `prototypes` (`adapt/prototype.py`). Neither is linear in the features, because both
bring every feature vector to length 1 first; so neither can be a `LinearHead`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from scipy.special import softmax

from wazuka.core.errors import DataError
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import Forward, load_forward, run_batches
from wazuka.nn.predictors import TENSORS, common_facts, load_its_encoder, write_facts, written_encoder
from wazuka.nn.rows import ImageRows
from wazuka.nn.weights import read_state, write_state

QUERIES, SUPPORT = 256, 8192
"""Rows compared at a time: 16 MiB of similarities, whatever the size of the dataset."""
DIGITS = 10**9
"""Similarities are equal if they agree to 1e-9: equal features tie whatever their place in a matrix product."""
EXCLUDED = -2.0
"""Stands for a row that may not vote; below any cosine."""
INDEX = 2**32


def to_unit(features: np.ndarray) -> np.ndarray:
    """Scale rows (n, dim) to length 1, float64; a row of zeros stays, and is equally far from everything."""
    rows = features.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def nearest_rows(
    queries: np.ndarray,
    support: np.ndarray,
    k: int,
    *,
    query_groups: np.ndarray | None = None,
    support_groups: np.ndarray | None = None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Find the k rows of highest cosine for each query, in blocks: no (queries, support) matrix is ever whole.

    Args:
        queries: (q, dim), rows of length 1.
        support: (n, dim), rows of length 1, n below 2^32.
        k: Neighbors per query, at most n.
        query_groups: (q,); a query has no neighbor of its own group. With `support_groups` (n,), or both None.
        support_groups: See `query_groups`.

    Yields:
        (which queries, similarities (b, k) falling, rows of the support (b, k)). Equal similarities come in the order of
        the support; an excluded row has the similarity `EXCLUDED`.
    """
    assert 1 <= k <= len(support) < INDEX, (k, len(support))
    for start in range(0, len(queries), QUERIES):
        block = slice(start, min(start + QUERIES, len(queries)))
        best = np.empty((block.stop - start, 0), np.int64)
        for low in range(0, len(support), SUPPORT):
            rows = slice(low, min(low + SUPPORT, len(support)))
            cosine = queries[block].astype(np.float64) @ support[rows].astype(np.float64).T
            if query_groups is not None and support_groups is not None:
                cosine[query_groups[block, None] == support_groups[None, rows]] = EXCLUDED
            # One whole number orders by similarity, then by row: a partition of it is exact also among ties.
            keys = np.rint(cosine * DIGITS).astype(np.int64) * INDEX - np.arange(rows.start, rows.stop)
            best = np.concatenate([best, keys], axis=1)
            if best.shape[1] > k:
                best = np.partition(best, -k, axis=1)[:, -k:]
        best = -np.sort(-best, axis=1)
        index = -best % INDEX
        yield block, (best + index) // INDEX / DIGITS, index


def vote(
    similarities: np.ndarray,
    shares: np.ndarray,
    *,
    temperature: float,
    smoothing: float,
    prior: np.ndarray,
) -> np.ndarray:
    """Turn neighbors into class probabilities for every number of neighbors up to k.

    The neighbor j votes for its classes with the weight exp((s_j - s_1) / T), s_1 the highest similarity; `smoothing` is
    the weight, relative to the nearest neighbor's, of one more vote that is spread as `prior`:

        p_c = (sum_j w_j y_jc + smoothing * prior_c) / (sum_j w_j + smoothing)

    Args:
        similarities: (q, k), falling; `EXCLUDED` does not vote.
        shares: Class shares y of these neighbors, (q, k, classes).
        temperature: T.
        smoothing: Zero or more; with zero a class without a neighbor has the probability 0.
        prior: (classes,) or (q, classes), summing to 1.

    Returns:
        (q, k, classes): at place j the probabilities from the j + 1 nearest.
    """
    weights = np.exp((similarities - similarities[:, :1]) / temperature)
    weights[similarities == EXCLUDED] = 0.0
    votes = np.cumsum(weights[:, :, None] * shares, axis=1)
    total = np.cumsum(weights, axis=1)[:, :, None]
    prior = np.broadcast_to(prior, (len(shares), shares.shape[2]))[:, None]
    return (votes + smoothing * prior) / (total + smoothing)


@dataclass(frozen=True, kw_only=True, eq=False)
class _OnFeatures:
    """What the predictors of this file share: a frozen encoder, and tensors and settings beside it."""

    kind: ClassVar[str]
    tensors: ClassVar[tuple[str, ...]]
    settings: ClassVar[tuple[str, ...]]

    encoder: Encoder
    classes: tuple[str, ...]
    intensity: str = "rgb8"
    window: str | None = None
    _forwards: dict[str, Forward] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_forwards": {}}

    @property
    @abstractmethod
    def trained_params(self) -> int:
        """Values that its training could change."""

    @abstractmethod
    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Map features (n, dim) to probabilities (n, classes) float64."""

    def _check(self, features: np.ndarray) -> None:
        if features.ndim != 2 or features.shape[1] != self.encoder.feature_dim:
            raise DataError(f"Features have shape {features.shape}; give (images, {self.encoder.feature_dim}).")

    def predict_images(self, images: ImageRows, *, device: str = "cpu") -> np.ndarray:
        """Map cached pixels to probabilities (n, classes) float64."""
        if device not in self._forwards:
            self._forwards[device] = load_forward(self.encoder, device=device)
        parts = run_batches(
            self._forwards[device], images, self.encoder, intensity=self.intensity, window=self.window, device=device
        )
        return self.predict_features(np.concatenate([np.empty((0, self.encoder.feature_dim), np.float32), *parts]))

    def save(self, folder: Path, *, encoder_folder: Path | None = None) -> None:
        """Write the predictor into `folder`; see `LinearHead.save`."""
        folder = Path(folder)
        encoder, where = written_encoder(self.encoder, folder, encoder_folder)
        write_state(folder / TENSORS, {name: torch.from_numpy(np.array(getattr(self, name))) for name in self.tensors})
        more = {name: getattr(self, name) for name in self.settings} | {"encoder_folder": where}
        write_facts(self, folder, self.kind, encoder, more)

    @classmethod
    def from_folder(cls, folder: Path, facts: Mapping[str, Any]) -> Self:
        """Read what `save` wrote; `facts` is the content of `predictor.json`."""
        encoder = load_its_encoder(folder, facts)
        state: dict[str, Any] = {name: value.numpy() for name, value in read_state(folder / TENSORS).items()}
        settings = {name: facts[name] for name in cls.settings}
        return cls(encoder=encoder, **common_facts(facts), **settings, **state)


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbors(_OnFeatures):
    """A frozen encoder and labeled feature vectors that vote on those of new images; see `vote`.

    The support is features of training patients: as sensitive as any derived data of theirs. Whoever has the predictor can
    tell whether an image was in it.

    Attributes:
        encoder: The backbone.
        classes: Class names.
        support: (n, dim) float32, rows of length 1.
        shares: Class shares of the support, (n, classes) float64, rows summing to 1; their mean is the smoothing's prior.
        k: Neighbors that vote, 1 to n.
        temperature: T of the weights exp(s / T).
        smoothing: Weight of the prior, relative to the nearest neighbor's.
        intensity: Of the images, as in the dataset's card.
        window: Window of Hounsfield units, for CT.
    """

    kind: ClassVar[str] = "neighbors"
    tensors: ClassVar[tuple[str, ...]] = ("support", "shares")
    settings: ClassVar[tuple[str, ...]] = ("k", "temperature", "smoothing")

    support: np.ndarray
    shares: np.ndarray
    k: int
    temperature: float
    smoothing: float

    def __post_init__(self) -> None:
        assert self.support.shape == (len(self.shares), self.encoder.feature_dim), self.support.shape
        assert self.shares.shape[1] == len(self.classes), self.shares.shape
        assert 1 <= self.k <= len(self.support) and self.temperature > 0 and self.smoothing >= 0, self

    @property
    def trained_params(self) -> int:
        """Zero: features are kept, nothing is fitted."""
        return 0

    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Map features (n, dim) to probabilities (n, classes) float64.

        Raises:
            DataError: If the features have another dimension than the encoder's.
        """
        self._check(features)
        result = np.empty((len(features), len(self.classes)))
        prior = self.shares.mean(axis=0)
        how: dict[str, Any] = {"temperature": self.temperature, "smoothing": self.smoothing, "prior": prior}
        for block, similarities, rows in nearest_rows(to_unit(features), self.support, self.k):
            result[block] = vote(similarities, self.shares[rows], **how)[:, -1]
        return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Prototypes(_OnFeatures):
    """A frozen encoder and one point per class: the softmax over -|z - c|^2 / T + log(share of c), z the centered
    features at length 1.

    Attributes:
        encoder: The backbone.
        classes: Class names.
        mean: (dim,) float64, subtracted from the features before these are brought to length 1.
        prototypes: Class means c of the training rows' z, (classes, dim) float64.
        prior: Shares of the classes among the training rows, (classes,) float64.
        temperature: T.
        intensity: Of the images, as in the dataset's card.
        window: Window of Hounsfield units, for CT.
    """

    kind: ClassVar[str] = "prototypes"
    tensors: ClassVar[tuple[str, ...]] = ("mean", "prototypes", "prior")
    settings: ClassVar[tuple[str, ...]] = ("temperature",)

    mean: np.ndarray
    prototypes: np.ndarray
    prior: np.ndarray
    temperature: float

    def __post_init__(self) -> None:
        assert self.prototypes.shape == (len(self.classes), self.encoder.feature_dim), self.prototypes.shape
        assert self.mean.shape == (self.encoder.feature_dim,) and self.temperature > 0, self.mean.shape

    @property
    def trained_params(self) -> int:
        """Values of mean and prototypes."""
        return int(self.mean.size + self.prototypes.size)

    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Map features (n, dim) to probabilities (n, classes) float64.

        Raises:
            DataError: If the features have another dimension than the encoder's.
        """
        self._check(features)
        return prototype_probabilities(
            features, self.mean, self.prototypes, prior=self.prior, temperature=self.temperature
        )


def prototype_probabilities(
    features: np.ndarray, mean: np.ndarray, prototypes: np.ndarray, *, prior: np.ndarray, temperature: float
) -> np.ndarray:
    """Return the probabilities of `Prototypes`, (n, classes) float64, of raw features (n, dim)."""
    points = to_unit(features - mean)
    distances = (points**2).sum(1, keepdims=True) + (prototypes**2).sum(1) - 2 * points @ prototypes.T
    return np.asarray(softmax(np.log(prior) - distances / temperature, axis=1))
