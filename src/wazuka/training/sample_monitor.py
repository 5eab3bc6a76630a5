"""How good a generator's images are while it trains: distance to held-out images and diversity, in frozen features.

For choosing a step and seeing a collapse; what a report says of a finished generator is computed elsewhere, on more
images. Both figures see the rows that the synthesizer was handed and no others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from wazuka.core.hashing import derive_seed
from wazuka.data.views import Images
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import load_forward, run_batches
from wazuka.nn.generators import Generator
from wazuka.nn.rows import ArrayImages, ImageRows

SAMPLES = 256
"""Images made for the distance, the same number of each class; our choice."""
HELD_OUT = 512
"""Held-out images that they are compared with, at most."""
PER_CLASS = 16
"""Images of each class, made and real, whose differences are the diversity."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What a monitor found.

    Attributes:
        distance: Squared maximum mean discrepancy to the held-out images of the same class (see `feature_distance`), mean of
            the classes; None without these. Without classes in between a generator that mixes them up would look good.
        diversity: How much images of one class differ, relative to real ones, in the least diverse class; None where no
            class has two real images.
        more: Further figures for the curves.
    """

    distance: float | None = None
    diversity: float | None = None
    more: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """All that is known, by name."""
        known = {"distance": self.distance, "diversity": self.diversity}
        return {name: value for name, value in known.items() if value is not None} | self.more


def feature_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of features (n, D) and (m, D), kernel (x.y / D + 1)^3.

    It is 0 on average for equal distributions, whatever n and m, unlike Fréchet's distance (Binkowski et al. 2018,
    Demystifying MMD GANs, arXiv:1801.01401); a single value may be below 0.
    """
    x, y = x.double(), y.double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: torch.Tensor) -> torch.Tensor:
        values, n = kernel(a, a), len(a)
        return (values.sum() - values.diagonal().sum()) / (n * (n - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def mean_difference(features: torch.Tensor) -> float:
    """Mean Euclidean distance between two different rows of features (n, D), n at least 2."""
    return float(torch.pdist(features.double()).mean())


class SampleMonitor:
    """Compares a generator's images with real ones; always with the same seeds, so that steps can be compared.

    Args:
        images: Real images, n rows.
        labels: Class index per row, int64 (n,).
        is_val: Held-out rows, bool (n,); fewer than two in every class: no distance.
        encoder: Frozen network whose features are compared.
        intensity, window: Of the images.
        device: Where encoder and generator run.
        seed: Of rows and samples.
    """

    def __init__(
        self,
        images: Images,
        labels: np.ndarray,
        is_val: np.ndarray,
        *,
        encoder: Encoder,
        intensity: str,
        window: str | None,
        device: str,
        seed: int,
    ) -> None:
        self.encoder, self.intensity, self.window, self.device = encoder, intensity, window, device
        self._forward = load_forward(encoder, device=device)
        rng = np.random.default_rng(derive_seed(seed, "monitor rows"))
        held_out = rng.permutation(np.flatnonzero(is_val))[:HELD_OUT]
        held_out = held_out[np.argsort(labels[held_out], kind="stable")]
        counts = np.bincount(labels[held_out], minlength=1)
        held_out = held_out[counts[labels[held_out]] > 1]  # a distance within a class takes two images
        self.held_out: dict[int, torch.Tensor] = {}
        if len(held_out):
            features = self._features(images.take(held_out))
            self.held_out = {
                int(label): features[torch.from_numpy(labels[held_out] == label)]
                for label in np.unique(labels[held_out])
            }
        spread = np.repeat(np.array(list(self.held_out), np.int64), SAMPLES // max(1, len(self.held_out)))
        self.real_difference: dict[int, float] = {}
        for label in np.unique(labels[~is_val]):
            rows = rng.permutation(np.flatnonzero((labels == label) & ~is_val))[:PER_CLASS]
            difference = mean_difference(self._features(images.take(rows))) if len(rows) > 1 else 0.0
            if difference > 0:
                self.real_difference[int(label)] = difference
        self._labels = np.concatenate([spread, np.repeat(np.array(list(self.real_difference), np.int64), PER_CLASS)])
        self._spread = len(spread)
        self._seeds = np.array([derive_seed(seed, "monitor", number) for number in range(len(self._labels))], np.int64)

    def measure(self, generator: Generator) -> Quality:
        """Make images and compare them."""
        if not len(self._labels):
            return Quality()
        features = self._features(ArrayImages(generator.sample(self._labels, self._seeds, device=self.device)))
        alike = features[: self._spread].chunk(len(self.held_out)) if self.held_out else ()
        distances = [feature_distance(one, real) for one, real in zip(alike, self.held_out.values(), strict=True)]
        made = features[self._spread :].split(PER_CLASS)
        shares = [mean_difference(one) / real for one, real in zip(made, self.real_difference.values(), strict=True)]
        return Quality(
            distance=float(np.mean(distances)) if distances else None,
            diversity=min(shares, default=None),
        )

    def _features(self, images: ImageRows) -> torch.Tensor:
        how = {"intensity": self.intensity, "window": self.window, "device": self.device}
        parts = run_batches(self._forward, images, self.encoder, **how)  # type: ignore[arg-type]
        return torch.from_numpy(np.concatenate(list(parts)))
