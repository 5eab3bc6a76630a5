"""Nearest class mean on the frozen features of a backbone: one point per class, the least that a classifier can learn.

SimpleShot (Wang et al. 2019), its variant CL2N: features minus the mean of the training rows, brought to length 1 (z); a
class's prototype c is the mean of its z; probabilities are the softmax over -|z - c|^2 / T + log(share of c) (Prototypical
Networks, Snell et al. 2017, equation 2, has T = 1 and equal shares). Ours: T is chosen inside the budget where this allows
it; the mean is that of the budget's rows, since there are no base classes; probabilities follow the classes' shares.
Study file: `adapt: prototype`, or `adapt: {method: prototype, temperature: 0.1}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wazuka.nn.neighbors import Prototypes, prototype_probabilities, to_unit
from wazuka.training.feature_rows import check_features, class_shares, held_out_log_loss, held_out_threshold
from wazuka.training.grouped_cv import make_folds
from wazuka.training.roles import Adapter, AdaptTask, Fitted, Runtime

DEFAULT_TEMPERATURE = 1.0
"""Where the budget allows no choice: the softmax of Prototypical Networks. It ranks as any other T does for two classes."""
SAME_LOSS = 1e-6
"""Relative difference below which two mean log-losses are a tie."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `prototype`."""

    temperature: float | None = None
    """T; smaller is surer. Default: chosen among `temperatures` where the budget allows cross-validation, else 1."""
    temperatures: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    """Values of `temperature` to choose from."""
    folds: int = 5
    """Folds of the cross-validation (fewer where there are fewer patients)."""

    def __post_init__(self) -> None:
        given = self.temperatures if self.temperature is None else (*self.temperatures, self.temperature)
        if not self.temperatures or any(not 0 < one < float("inf") for one in given):
            raise ValueError(f"`temperatures` {list(given)} must be finite numbers above 0, at least one.")
        if self.folds < 2:
            raise ValueError(f"`folds` is {self.folds}; give 2 or more.")


def fit(tasks: Sequence[AdaptTask], *, config: Config, runtime: Runtime) -> list[Fitted]:
    """Average each task's features by class and settle temperature and threshold.

    Raises:
        NotEnoughData: If a class has no row in a budget.
        DataError: If features are missing or not finite (the row is named).
    """
    del runtime
    return [_fit_one(task, config) for task in tasks]


def _fit_one(task: AdaptTask, config: Config) -> Fitted:
    features, shares = check_features(task), class_shares(task)
    grid = sorted(config.temperatures) if config.temperature is None else [config.temperature]
    notes: dict[str, Any] = {
        "rows": len(features),
        "temperature": DEFAULT_TEMPERATURE if config.temperature is None else config.temperature,
        "temperature_chosen_by": "fixed default" if config.temperature is None else "setting",
        "soft_labels": task.labeled.soft_labels is not None,
    }
    rows, held_out, curves = np.zeros(0, np.int64), None, {}
    why_not = "the budget allows no inner split"
    if task.inner_split:
        rows, probs, notes["folds"] = _cross_validate(task, features, shares, grid, config)
        why_not = "no fold has every class among its training rows"
        if len(rows):
            losses = held_out_log_loss(probs, shares[rows])
            place = int(np.flatnonzero(losses <= losses.min() * (1 + SAME_LOSS))[-1])  # the smoothest of equals
            held_out, notes["temperature"] = probs[place], grid[place]
            curves = {"out-of-fold log-loss by temperature": list(zip(grid, losses.tolist(), strict=True))}
            if config.temperature is None:
                notes["temperature_chosen_by"] = "cross-validation"
                notes["temperature_at_edge_of_grid"] = place in (0, len(grid) - 1)
    threshold, notes["threshold"] = held_out_threshold(task, rows, held_out, why_not=why_not)
    mean, prototypes = _average(features, shares)
    predictor = Prototypes(
        encoder=task.encoder,
        classes=task.classes,
        mean=mean,
        prototypes=prototypes,
        prior=shares.mean(axis=0),
        temperature=notes["temperature"],
        intensity=task.intensity,
        window=task.window,
    )
    notes["trained_params"] = predictor.trained_params
    return Fitted(predictor=predictor, threshold=threshold, notes=notes, curves=curves)


def _average(features: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the features (dim,), and per class that of the centered features at length 1, (classes, dim) float64."""
    mean = features.astype(np.float64).mean(axis=0)
    return mean, (shares.T @ to_unit(features - mean)) / shares.sum(axis=0)[:, None]


def _cross_validate(
    task: AdaptTask, features: np.ndarray, shares: np.ndarray, grid: list[float], config: Config
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Predict whole held-out patients: (their rows, probabilities (temperatures, rows, classes), counts of folds)."""
    made = make_folds(task.labeled.labels, task.labeled.patients, folds=config.folds, seed=task.seed)
    used = [fold for fold in made if (shares[fold.train].sum(axis=0) > 0).all()]
    parts = [np.zeros((len(grid), 0, shares.shape[1]))]
    for fold in used:
        mean, prototypes = _average(features[fold.train], shares[fold.train])
        held_out = features[fold.held_out]
        how = {"mean": mean, "prototypes": prototypes, "prior": shares[fold.train].mean(axis=0)}
        parts.append(np.stack([prototype_probabilities(held_out, temperature=one, **how) for one in grid]))
    rows = np.concatenate([np.zeros(0, np.int64), *(fold.held_out for fold in used)])
    notes = {
        "made": len(made),
        "used": len(used),
        "left_out_for_a_class_missing_in_training": len(made) - len(used),
        "rows_without_prediction": len(features) - len(rows),
    }
    return rows, np.concatenate(parts, axis=1), notes


METHOD = Adapter(
    name="prototype",
    config=Config,
    summary="nearest class mean of the frozen backbone's centered, normalized features",
    code_version=1,
    input="features",
    fit=fit,
    cites=(
        "Wang, Chao, Weinberger & van der Maaten (2019). SimpleShot: Revisiting nearest-neighbor classification for "
        "few-shot learning. arXiv:1911.04623.",
        "Snell, Swersky & Zemel (2017). Prototypical networks for few-shot learning. NeurIPS. arXiv:1703.05175.",
    ),
)
