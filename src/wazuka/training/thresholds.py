"""The decision threshold of a two-class predictor, chosen on labels inside the budget."""

from __future__ import annotations

import numpy as np

DEFAULT = 0.5


def choose_threshold(labels: np.ndarray, probs: np.ndarray) -> float:
    """Choose the threshold with the highest balanced accuracy; an image is positive from the threshold on.

    Candidates are the midpoints between neighboring distinct probabilities and 0.5; ties go to the one nearest to 0.5.

    Args:
        labels: True for the positive class, bool (n,).
        probs: Probability of the positive class, (n,).

    Returns:
        A threshold in (0, 1); 0.5 where only one class is present.

    >>> choose_threshold(np.array([False, False, True, True]), np.array([0.1, 0.2, 0.3, 0.4]))
    0.25
    """
    labels = np.asarray(labels, bool)
    if labels.all() or not labels.any():
        return DEFAULT
    values = np.unique(np.asarray(probs, np.float64))
    candidates = np.unique(np.append((values[1:] + values[:-1]) / 2, DEFAULT))
    positives, negatives = np.sort(probs[labels]), np.sort(probs[~labels])
    sensitivity = 1 - np.searchsorted(positives, candidates, side="left") / len(positives)
    specificity = np.searchsorted(negatives, candidates, side="left") / len(negatives)
    score = sensitivity + specificity
    best = candidates[np.isclose(score, score.max(), rtol=0, atol=1e-12)]
    return float(best[np.argmin(np.abs(best - DEFAULT))])
