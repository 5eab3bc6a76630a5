"""The regression of the classifier two-sample test (WZ204), and the images that it compares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from wazuka.audit.synthetic.inputs import Inputs
from wazuka.training.grouped_cv import assign_folds

FOLDS = 5
PENALTY = 0.01
"""C of the regression on standardized columns: with fewer rows than columns a strong penalty, as for few-label probes."""


@dataclass(frozen=True)
class TwoSides:
    """Equal numbers n of real and synthetic images; arrays of 2n have the real ones first.

    Attributes:
        real_rows, synthetic_rows: Rows of the tables, ascending, int64 (n,) each.
        is_synthetic: bool (2n,).
        groups: Code of the patient (of what stays together), int64 (2n,).
        fold: Of the cross-validation, int64 (2n,); a group lies in one.
    """

    real_rows: np.ndarray
    synthetic_rows: np.ndarray
    is_synthetic: np.ndarray
    groups: np.ndarray
    fold: np.ndarray


def draw_sides(inputs: Inputs, most: int) -> TwoSides:
    """Draw as many real as synthetic images, at most `most` on each side, and assign folds."""
    rng = np.random.default_rng(inputs.seed)
    size = min(len(inputs.real), len(inputs.synthetic), most)
    real_rows = np.sort(rng.choice(len(inputs.real), size, replace=False))
    rows = np.sort(rng.choice(len(inputs.synthetic), size, replace=False))
    is_synthetic = np.repeat([False, True], size)
    groups = np.concatenate([inputs.patients[real_rows], inputs.synthetic_groups[rows]])
    fold = assign_folds(is_synthetic.astype(np.int64), groups, folds=FOLDS, seed=inputs.seed)
    return TwoSides(real_rows, rows, is_synthetic, groups, fold)


def fit(values: np.ndarray, is_synthetic: np.ndarray) -> Pipeline:
    """Fit the regression of "synthetic" on standardized columns (n, dim) float64."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=2000, tol=1e-3))
    return model.fit(values, is_synthetic)


def raw_weights(model: Pipeline) -> tuple[np.ndarray, float]:
    """Weights (dim,) and intercept of a fitted regression on the columns as they were before standardization."""
    scaler, regression = model[0], model[-1]
    weights = regression.coef_[0] / scaler.scale_
    return weights, float(regression.intercept_[0] - weights @ scaler.mean_)
