"""Simulated predictions: patients with several images, repeats with their own label draw, strategies that share noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from wazuka.evaluate.panel import Trial
from wazuka.evaluate.predictions import Scores, decide, make_predictions


def table(
    scores: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    domains: np.ndarray | None = None,
    test_domain: str | np.ndarray = "all",
    ids: np.ndarray | None = None,
    parents: np.ndarray | None = None,
    threshold: float = 0.5,
) -> pd.DataFrame:
    """A two-class predictions table ("no", "yes") from logits (n,), labels 0/1 and patient numbers."""
    n = len(labels)
    prob = 1 / (1 + np.exp(-scores))
    rows = pd.DataFrame(
        {
            "id": [f"i{k:05d}" for k in (np.arange(n) if ids is None else ids)],
            "patient": [f"p{k}" for k in patients],
            "domain": pd.array([pd.NA] * n if domains is None else domains, dtype="string"),
            "test_domain": test_domain,
            "parent": pd.array([pd.NA] * n if parents is None else parents, dtype="string"),
            "label": np.where(labels == 1, "yes", "no"),
        }
    )
    return make_predictions(
        rows, np.stack([1 - prob, prob], axis=1), classes=("no", "yes"), positive="yes", threshold=threshold
    )


def study(
    rng: np.random.Generator,
    *,
    strategies: dict[str, tuple[float, ...]],
    budgets: tuple[int, ...] = (50,),
    repeats: int = 3,
    patients: int = 40,
    share: float = 1.0,
    redraw: bool = False,
    label_noise: float = 0.0,
    own_noise: float = 0.5,
    domains: int = 1,
) -> list[Trial]:
    """A pooled study: strategy -> effect size at each budget; images of a patient and repeats of an image share noise."""
    n = 3 * patients
    patient = np.repeat(np.arange(patients), 3)
    label = (rng.random(n) < 0.4).astype(int)
    shared = rng.normal(0, 0.5, patients)[patient] + rng.normal(0, 0.6, n)
    domain = np.array([f"d{k % domains}" for k in patient]) if domains > 1 else None
    tested = rng.permutation(patients)[: round(share * patients)]
    trials = []
    for repeat in range(repeats):
        if redraw:
            tested = rng.permutation(patients)[: round(share * patients)]
        rows = np.isin(patient, tested)
        for name, effects in strategies.items():
            for budget, effect in zip(budgets, effects, strict=True):
                own = rng.normal(0, own_noise, patients)[patient] + rng.normal(0, own_noise, n)
                score = label * (effect + label_noise * rng.normal()) + shared + own
                part = table(
                    score[rows],
                    label[rows],
                    patient[rows],
                    ids=np.flatnonzero(rows),
                    domains=None if domain is None else domain[rows],
                )
                trials.append(Trial(strategy=name, budget=str(budget), labels=budget, repeat=repeat, predictions=part))
    return trials


def random_scores(
    rng: np.random.Generator, *, n: int, classes: int, patients: int, digits: int = 2, threshold: float = 0.4
) -> Scores:
    """Random probabilities with many ties, about `classes`, for `patients` patients."""
    labels = rng.integers(0, classes, n)
    labels[:classes] = np.arange(classes)
    logits = rng.normal(size=(n, classes)) + np.eye(classes)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probs = np.round(probs, digits)
    probs[:, -1] = 1 - probs[:, :-1].sum(axis=1)
    probs = np.abs(probs)
    positive = 1 if classes == 2 else None
    predicted = decide(probs, positive=positive, threshold=threshold)
    units = np.concatenate([np.arange(patients), rng.integers(0, patients, n - patients)])
    return Scores(np.arange(n).astype(object), labels, probs, predicted, units, positive)


@pytest.fixture(scope="session")
def make_table() -> Callable[..., pd.DataFrame]:
    return table


@pytest.fixture(scope="session")
def make_study() -> Callable[..., list[Trial]]:
    return study


@pytest.fixture(scope="session")
def make_scores() -> Callable[..., Scores]:
    return random_scores
