"""Differentially private steps of a network: Poisson sampling, clipped and noised per-sample gradients, the budget spent.

Abadi et al. (2016), Deep Learning with Differential Privacy (CCS, arXiv:1607.00133). A step sees each private image with
the same chance, on its own; the gradient of each one's loss is cut to a largest norm C; noise of standard deviation
sigma C is added to the sum. One image more or less then changes one summand, by at most C. opacus (Yousefpour et al. 2021,
arXiv:2109.12298) clips, adds the noise and keeps account (Rényi accountant); the per-sample gradients come from
`torch.func`, because opacus' own hooks know no layer that scales its weights in use.

Everything drawn follows the seed, so that a training can be repeated and resumed. The bound therefore holds towards
whoever does not know the seed.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from wazuka.core.errors import ConfigError
from wazuka.core.hashing import derive_seed
from wazuka.training import seeding
from wazuka.training.roles import Privacy

GRADIENT_BYTES = 2**28
"""Memory of the per-sample gradients held at once."""

Loss = Callable[[torch.Tensor], torch.Tensor]
"""Scores (B,) -> loss of each (B,)."""


@dataclass(frozen=True)
class Part:
    """Images of one kind in a step: at every scale (B, C, side, side), their classes (B,), and what is asked of them."""

    images: Sequence[torch.Tensor]
    labels: torch.Tensor | None
    loss: Loss


def require_opacus() -> None:
    """Refuse where the optional package is absent.

    Raises:
        ConfigError: With what to install.
    """
    if importlib.util.find_spec("opacus") is None:
        raise ConfigError("`dp` needs the package opacus, which is not installed; run `pip install 'wazuka[dp]'`.")


def check_delta(delta: float, images: int) -> None:
    """Refuse a delta with which giving away one whole image would count as private.

    Raises:
        ConfigError: If delta is not below 1 / images.
    """
    if delta * images >= 1:
        raise ConfigError(
            f"`dp.delta` is {delta:g}, and the generator learns from {images} images; give less than 1/{images}, as"
            f" {0.1 / images:.1g}."
        )


@contextmanager
def _orders_as_they_are() -> Iterator[None]:
    """opacus warns where its largest or smallest order is the best one: the bound is valid then, if not the tightest."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        yield


@lru_cache(maxsize=64)
def noise_for(privacy: Privacy, *, sample_rate: float, steps: int) -> float:
    """Find the noise multiplier (standard deviation / C) with which so many steps stay within a budget.

    Raises:
        ConfigError: If no noise is enough.
    """
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _orders_as_they_are():
            return float(
                get_noise_multiplier(
                    target_epsilon=privacy.epsilon,
                    target_delta=privacy.delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant="rdp",
                    epsilon_tolerance=privacy.epsilon / 200,
                )
            )
    except ValueError as error:
        raise ConfigError(
            f"`dp.epsilon` {privacy.epsilon:g} at delta {privacy.delta:g} cannot be met in {steps} steps; give a larger"
            " epsilon or delta, or fewer steps."
        ) from error


class PoissonRows:
    """Rows of a step: each with the same chance, independent of all others; none at all is possible.

    Args:
        n: Rows.
        rate: The chance, in (0, 1].
        seed: Of the draws.
    """

    def __init__(self, n: int, rate: float, *, seed: int) -> None:
        assert n >= 1 and 0 < rate <= 1, (n, rate)
        self.n, self.rate, self.seed = n, rate, seed

    def __call__(self, step: int) -> np.ndarray:
        """Positions of the rows of step 0, 1, ..., int64, ascending."""
        return np.flatnonzero(np.random.default_rng(derive_seed(self.seed, "poisson", step)).random(self.n) < self.rate)


def per_sample_gradients(network: nn.Module, part: Part) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradient of each sample's own loss: per parameter (B, *its shape), and the losses (B,).

    `network(images, labels)` must score samples independently of each other.
    """

    def one(values: dict[str, torch.Tensor], images: list[torch.Tensor], label: torch.Tensor | None) -> torch.Tensor:
        inputs = ([image[None] for image in images], None if label is None else label[None])
        return part.loss(functional_call(network, values, inputs)).sum()

    values = {name: one.detach() for name, one in network.named_parameters()}
    over = vmap(grad_and_value(one), in_dims=(None, 0, None if part.labels is None else 0))
    found: tuple[dict[str, torch.Tensor], torch.Tensor] = over(values, list(part.images), part.labels)
    return found


class PrivateGradients:
    """Makes the noised gradients of a network's steps and keeps account of them.

    Args:
        privacy: The budget.
        images: Private images, n.
        batch: Private images that a step sees on average (n where that is smaller); the divisor of the summed gradients.
        steps: Of the whole training.
        max_grad_norm: C, largest norm of one sample's gradient over all parameters.
        seed: Of the noise.
        device: Of the network.

    Raises:
        ConfigError: If opacus is absent, or the budget cannot be met.
    """

    def __init__(
        self,
        privacy: Privacy,
        *,
        images: int,
        batch: int,
        steps: int,
        max_grad_norm: float,
        seed: int,
        device: str,
    ) -> None:
        require_opacus()
        check_delta(privacy.delta, images)
        from opacus.accountants import RDPAccountant

        self.privacy, self.images, self.batch = privacy, images, min(batch, images)
        self.sample_rate, self.max_grad_norm = self.batch / images, max_grad_norm
        self.noise_multiplier = noise_for(privacy, sample_rate=self.sample_rate, steps=steps)
        self.seed, self.device = seed, device
        self.accountant = RDPAccountant()
        self._optimizer: Any = None

    def __call__(
        self, network: nn.Module, *, step: int, private: Part | None, public: Part
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Make one step's gradient: (sum of clipped gradients of both parts + noise) / batch.

        Public samples get noise of no use to them, but are clipped to the same norm, so that both parts keep their
        weights relative to each other. Their number must not depend on the private ones.

        Args:
            private: The Poisson sample; None where it is empty.
            public: Samples that are no function of the private ones but through the network's weights.

        Returns:
            A gradient per parameter, float32, and the losses of the public samples. No loss of a private one is given.
        """
        parameters = dict(network.named_parameters())
        optimizer = self._prepared(list(parameters.values()))
        optimizer.generator = seeding.step_generator(self.seed, "noise", step, device=self.device)
        size = 4 * sum(one.numel() for one in parameters.values())
        chunk, losses = max(1, GRADIENT_BYTES // size), torch.empty(0)
        for part in (private, public):
            if part is None:
                continue
            found = []
            for piece in _pieces(part, chunk):
                gradients, some = per_sample_gradients(network, piece)
                for name, parameter in parameters.items():
                    parameter.grad_sample = gradients[name]  # type: ignore[attr-defined]
                optimizer.clip_and_accumulate()
                found.append(some)
            losses = torch.cat(found)
        optimizer.add_noise()
        optimizer.scale_grad()
        result = [one.grad for one in parameters.values()]
        optimizer.zero_grad(set_to_none=True)  # frees the per-sample gradients too
        self.accountant.step(noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate)
        return result, losses  # type: ignore[return-value]

    def _prepared(self, parameters: list[nn.Parameter]) -> Any:
        """opacus' optimizer, of which clipping, noise and scaling are used; the update itself is the loop's."""
        if self._optimizer is None:
            from opacus.optimizers import DPOptimizer

            self._optimizer = DPOptimizer(
                torch.optim.SGD(parameters, lr=0.0),
                noise_multiplier=self.noise_multiplier,
                max_grad_norm=self.max_grad_norm,
                expected_batch_size=self.batch,
                loss_reduction="mean",
            )
        ours = all(a is b for a, b in zip(parameters, self._optimizer.params, strict=True))
        assert ours, "one network per account"
        return self._optimizer

    def spent(self) -> float:
        """Epsilon spent so far, at the budget's delta."""
        with _orders_as_they_are():
            return float(self.accountant.get_epsilon(delta=self.privacy.delta))

    def to_plain(self) -> dict[str, Any]:
        """The account, for a checkpoint."""
        return {"history": [list(one) for one in self.accountant.history]}

    def restore(self, plain: dict[str, Any]) -> None:
        """Go on from `to_plain()`."""
        self.accountant.history = [(sigma, rate, steps) for sigma, rate, steps in plain["history"]]

    def notes(self, *, patients: np.ndarray) -> dict[str, Any]:
        """What the record says of the guarantee; `patients` is the patient code of each private image, int (n,)."""
        assert len(patients) == self.images, (len(patients), self.images)
        most, spent = int(np.unique(patients, return_counts=True)[1].max()), self.spent()
        return {
            "epsilon_asked": self.privacy.epsilon,
            "epsilon_spent": spent,
            "delta": self.privacy.delta,
            "accountant": "rdp",
            "noise_multiplier": self.noise_multiplier,
            "max_grad_norm": self.max_grad_norm,
            "sample_rate": self.sample_rate,
            "steps": sum(steps for _, _, steps in self.accountant.history),
            "images": self.images,
            "neighbors": "data sets that differ by one image, added or removed",
            "most_images_of_a_patient": most,
            "epsilon_per_patient_at_most": most * spent,
            "delta_per_patient_at_most": group_delta(self.privacy.delta, spent, most),
            "not_covered": list(NOT_COVERED),
        }


NOT_COVERED = (
    "patients: the bound is per image; for a patient with k images it is k times epsilon",
    "the choice of settings: trying several on the same images spends the budget of each",
    "counts: numbers of images and the most images of a patient are taken as public",
    "which images the training was handed: the cut into budgets and validation rows",
    "whoever knows the seed: sampling and noise can be drawn again from it",
    "what is measured on real images afterwards: memorization, audit, scores of classifiers",
)


def group_delta(delta: float, epsilon: float, size: int) -> float:
    """Delta of (size epsilon)-privacy of a group: size exp((size - 1) epsilon) delta, at most 1 (which bounds nothing).

    Vadhan (2017), The Complexity of Differential Privacy, lemma 2.2 (group privacy), in its slightly looser form.
    """
    exponent = math.log(delta) + math.log(size) + (size - 1) * epsilon
    return math.exp(min(0.0, exponent))


def with_gradient(network: nn.Module, gradients: Sequence[torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    """A scalar that is `value` and whose derivative by the network's parameters is `gradients`, exactly.

    So a loop that calls `backward()` on a loss takes a step along gradients that were made otherwise.
    """
    pairs = zip(network.parameters(), gradients, strict=True)
    total = torch.stack([(parameter * gradient).sum() for parameter, gradient in pairs]).sum()
    return total - total.detach() + value.detach()


def _pieces(part: Part, size: int) -> Iterator[Part]:
    for start in range(0, len(part.images[0]), size):
        cut = slice(start, start + size)
        yield Part([one[cut] for one in part.images], None if part.labels is None else part.labels[cut], part.loss)
