"""k nearest neighbors on the frozen features of a backbone: nothing is trained, so it shows what the features hold.

As in evaluations of self-supervised networks (Wu et al. 2018, section 3.4; Caron et al. 2021): features of length 1, cosine
similarity s, neighbors vote with the weight exp(s / T), T = 0.07. Ours: k is chosen inside the budget where this allows it
(no image votes on one of its own patient), and votes are smoothed towards the class shares, so that no probability is 0.
Study file: `adapt: knn`, or `adapt: {method: knn, k: 20}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wazuka.nn.neighbors import Neighbors, nearest_rows, to_unit, vote
from wazuka.training.feature_rows import check_features, class_shares, held_out_log_loss, held_out_threshold
from wazuka.training.roles import Adapter, AdaptTask, Fitted, Runtime

DEFAULT_K = 10
"""Where the budget allows no choice: the smallest k of Caron et al., whose largest is for a million images."""
SAME_LOSS = 1e-6
"""Relative difference below which two mean log-losses are a tie."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `knn`."""

    k: int | None = None
    """Neighbors that vote (all rows where the budget has fewer). Default: chosen among `ks` where the budget allows it,
    else 10."""
    ks: tuple[int, ...] = (1, 3, 5, 10, 20, 50, 100, 200)
    """Values of `k` to choose from."""
    temperature: float = 0.07
    """T of the weights exp(s / T), s the cosine similarity."""
    smoothing: float = 1.0
    """Weight, relative to the nearest neighbor's, of one more vote that is spread as the classes of the budget are."""

    def __post_init__(self) -> None:
        given = self.ks if self.k is None else (*self.ks, self.k)
        if not self.ks or min(given) < 1:
            raise ValueError(f"`k` and `ks` {list(given)} must be whole numbers of 1 or more, at least one.")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"`temperature` is {self.temperature}; give a number above 0.")
        if not 0 <= self.smoothing < float("inf"):
            raise ValueError(f"`smoothing` is {self.smoothing}; give a number of 0 or more.")


def fit(tasks: Sequence[AdaptTask], *, config: Config, runtime: Runtime) -> list[Fitted]:
    """Keep the features of each task's rows and settle k and threshold.

    Raises:
        NotEnoughData: If a class has no row in a budget.
        DataError: If features are missing or not finite (the row is named).
    """
    del runtime
    return [_fit_one(task, config) for task in tasks]


def _fit_one(task: AdaptTask, config: Config) -> Fitted:
    unit = to_unit(check_features(task)).astype(np.float32)
    shares, patients = class_shares(task), task.labeled.patients
    order = _order(unit, shares, patients)  # equal similarities go by place: it must not be that of the rows in a file
    unit, shares, patients = unit[order], shares[order], patients[order]
    grid = sorted({min(one, len(unit)) for one in (config.ks if config.k is None else (config.k,))})
    why_not, held_out, losses = "the budget allows no inner split", None, np.zeros(0)
    if task.inner_split and len(np.unique(patients)) == 1:
        why_not = "all rows are of one patient"
    elif task.inner_split:
        held_out = _leave_patients_out(unit, shares, patients, grid, config)  # (ks, n, classes)
        losses = held_out_log_loss(held_out, shares)
    notes: dict[str, Any] = {
        "rows": len(unit),
        "k_chosen_by": "fixed default" if config.k is None else "setting",
        "temperature": config.temperature,
        "smoothing": config.smoothing,
        "soft_labels": task.labeled.soft_labels is not None,
    }
    k, place = min(config.k or DEFAULT_K, len(unit)), 0
    if held_out is not None and config.k is None:
        place = int(np.flatnonzero(losses <= losses.min() * (1 + SAME_LOSS))[-1])  # the smoothest of equals
        k = grid[place]
        notes |= {"k_chosen_by": "leave-one-patient-out log-loss", "k_at_edge_of_grid": place in (0, len(grid) - 1)}
    chosen = None if held_out is None else held_out[place]
    threshold, how = held_out_threshold(task, order, chosen, why_not=why_not)
    notes |= {"k": k, "threshold": how, "trained_params": 0}
    predictor = Neighbors(
        encoder=task.encoder,
        classes=task.classes,
        support=unit,
        shares=shares,
        k=k,
        temperature=config.temperature,
        smoothing=config.smoothing,
        intensity=task.intensity,
        window=task.window,
    )
    curve = [(float(one), float(loss)) for one, loss in zip(grid, losses, strict=False)]
    curves = {"leave-one-patient-out log-loss by k": curve} if curve else {}
    return Fitted(predictor=predictor, threshold=threshold, notes=notes, curves=curves)


def _order(unit: np.ndarray, shares: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """An order of the rows that depends on their content only: of a hash, since any fixed order will do."""
    hashes = [
        hashlib.sha256(feature.tobytes() + share.tobytes() + int(patient).to_bytes(8, "big", signed=True)).digest()
        for feature, share, patient in zip(unit, shares, patients, strict=True)
    ]
    return np.array(sorted(range(len(hashes)), key=hashes.__getitem__), np.int64)


def _leave_patients_out(
    unit: np.ndarray, shares: np.ndarray, patients: np.ndarray, grid: list[int], config: Config
) -> np.ndarray:
    """Predict every row from those of the other patients, for each k: (ks, n, classes)."""
    code = np.unique(patients, return_inverse=True)[1]
    own = np.zeros((int(code.max()) + 1, shares.shape[1]))
    np.add.at(own, code, shares)
    others = shares.sum(axis=0) - own  # of each patient, the shares of all others
    prior = (others / others.sum(axis=1, keepdims=True))[code]
    places = np.array(grid) - 1
    result = np.empty((len(grid), *shares.shape))
    how: dict[str, Any] = {"temperature": config.temperature, "smoothing": config.smoothing}
    found = nearest_rows(unit, unit, grid[-1], query_groups=patients, support_groups=patients)
    for block, similarities, rows in found:
        probs = vote(similarities, shares[rows], prior=prior[block], **how)
        result[:, block] = probs[:, places].transpose(1, 0, 2)
    return result


METHOD = Adapter(
    name="knn",
    config=Config,
    summary="similarity-weighted vote of the nearest labeled images in the frozen backbone's features",
    code_version=1,
    input="features",
    fit=fit,
    cites=(
        "Wu, Xiong, Yu & Lin (2018). Unsupervised feature learning via non-parametric instance discrimination. CVPR. "
        "arXiv:1805.01978.",
        "Caron et al. (2021). Emerging properties in self-supervised vision transformers. ICCV. arXiv:2104.14294.",
    ),
)
