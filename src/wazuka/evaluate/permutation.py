"""Is one strategy better than another on these patients? A paired permutation test that swaps whole patients.

Under the null hypothesis it does not matter which strategy made which of a patient's two predictions, so they are
swapped, in all repeats at once, with probability one half. Ranking metrics are swapped on ranks within the trial
(Venkatraman and Begg 1996): two strategies may order patients equally well on different scales, and mixing raw scores
of two scales would make every swapped order worse than either.

With e = +1 (kept) or -1 (swapped) per patient, the difference of two AUROCs after swapping is linear in e: with K the
kernel 1[x > y] + 1[x = y]/2, products e_i e_j cancel between the two strategies, and what is left is
sum_i e_i g_i + sum_j e_j g_j with

    g_i = 1/2 sum_j [K(a_i, a_j) + K(a_i, b_j) - K(b_i, a_j) - K(b_i, b_j)]     (i positive, j negative; g_j likewise)

over the number of pairs. So are the differences of accuracies, sensitivities and Brier scores. Thousands of swaps are
then one matrix product. Average precision, F1, kappa and the calibration error are computed again for every swap.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from wazuka.evaluate.predictions import Scores, decide
from wazuka.evaluate.weighted_scores import AT_HALF, values
from wazuka.evaluate.weighted_scores import metric as describe

LINEAR = ("auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "brier")
"""Metrics whose difference is linear in the swaps."""
EXACT_PATIENTS = 13
"""Up to this many patients that matter, all 2^n swaps are enumerated."""
CHUNK = 512


def contributions(a: Scores, b: Scores, *, metric: str, index: int | None, n_units: int) -> np.ndarray:
    """Each patient's part g of the difference a - b, (n_units,): the difference after swaps e is `e @ g`.

    Args:
        a, b: The same images in the same order.
        metric: One of `LINEAR`, also at 0.5.
        index: Class, or None for the overall value.
        n_units: Patients that `units` count.
    """
    base = metric.removesuffix(AT_HALF)
    present = np.flatnonzero(np.bincount(a.labels, minlength=a.n_classes))
    if base == "balanced_accuracy" or (base == "accuracy"):
        chosen: list[int] = list(present) if base == "balanced_accuracy" else [0]
        base = "sensitivity" if base == "balanced_accuracy" else base
    elif index is not None:
        chosen = [index]
    elif a.positive is not None:
        chosen = [a.positive]
    else:
        chosen = list(range(a.n_classes)) if base == "brier" else list(present)
    rows = np.mean([_row_contributions(a, b, base, k, metric.endswith(AT_HALF)) for k in chosen], axis=0)
    return np.bincount(a.units, weights=rows, minlength=n_units)


def _row_contributions(a: Scores, b: Scores, base: str, k: int, at_half: bool) -> np.ndarray:
    """Each image's part of the difference for class k against the rest, (n,)."""
    is_class = a.labels == k
    if base == "auroc":
        return _auroc_contributions(rankdata(a.probs[:, k]), rankdata(b.probs[:, k]), is_class)
    if base == "brier":
        return ((a.probs[:, k] - is_class) ** 2 - (b.probs[:, k] - is_class) ** 2) / len(a)
    called_a, called_b = (
        decide(one.probs, positive=one.positive, threshold=0.5) if at_half else one.predicted for one in (a, b)
    )
    if base == "accuracy":
        return ((called_a == a.labels).astype(float) - (called_b == a.labels)) / len(a)
    if base == "sensitivity":
        return is_class * ((called_a == k).astype(float) - (called_b == k)) / is_class.sum()
    assert base == "specificity", base
    return ~is_class * ((called_a != k).astype(float) - (called_b != k)) / (~is_class).sum()


def _auroc_contributions(a: np.ndarray, b: np.ndarray, is_class: np.ndarray) -> np.ndarray:
    """The g of this file's head, (n,)."""
    out = np.empty(len(a))
    for own, other, sign in ((is_class, ~is_class, 1.0), (~is_class, is_class, -1.0)):
        rivals = (np.sort(a[other]), np.sort(b[other]))
        # sign -1: an image outside the class wins by ranking low; the kernel's complement only changes the sign.
        out[own] = sign * sum(_placed(a[own], rival) - _placed(b[own], rival) for rival in rivals) / 2
    return out / (is_class.sum() * (~is_class).sum())


def _placed(score: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """How many sorted rivals a score beats, ties as one half."""
    return (np.searchsorted(rivals, score, "left") + np.searchsorted(rivals, score, "right")) / 2


def p_values(shares: np.ndarray, *, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Two-sided p values of linear differences.

    Args:
        shares: (patients, comparisons): a patient's part of each difference.
        permutations: Random swaps; the p value is (1 + as extreme) / (1 + permutations). Where at most
            `EXACT_PATIENTS` patients have a part, all swaps are enumerated instead.
        rng: Source of randomness.

    Returns:
        (comparisons,), in (0, 1]; 1 where no patient's predictions differ.
    """
    observed = np.abs(shares.sum(axis=0))
    limit = _limit(observed, np.abs(shares).sum(axis=0))
    few = (shares != 0).sum(axis=0) <= EXACT_PATIENTS
    out = np.empty(shares.shape[1])
    for column in np.flatnonzero(few):
        parts = shares[shares[:, column] != 0, column]
        every = 1 - 2 * ((np.arange(2 ** len(parts))[:, None] >> np.arange(len(parts))) & 1)
        out[column] = (np.abs(every @ parts) >= limit[column]).mean()
    rest = np.flatnonzero(~few)
    if len(rest):
        extreme = np.zeros(len(rest), dtype=np.int64)
        for start in range(0, permutations, CHUNK):
            signs = 1.0 - 2.0 * _swaps(len(shares), CHUNK, rng)[:, : permutations - start]
            extreme += (np.abs(signs.T @ shares[:, rest]) >= limit[rest]).sum(axis=0)
        out[rest] = (1 + extreme) / (1 + permutations)
    return out


def _limit(observed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The observed difference, less what rounding may take from a swap that is equal to it."""
    return observed - 1e-12 * scale


def _swaps(n_patients: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Fair coins, (patients, n) uint8 0 or 1; n is a multiple of 8."""
    bits = np.frombuffer(rng.bytes(n_patients * n // 8), dtype=np.uint8)
    return np.unpackbits(bits).reshape(n_patients, n)


def general_p_value(
    pairs: list[tuple[Scores, Scores]],
    combine: Callable[[list[np.ndarray]], np.ndarray],
    *,
    metric: str,
    index: int | None,
    n_units: int,
    permutations: int,
    rng: np.random.Generator,
) -> float:
    """Two-sided p value of any metric's difference, by scoring every swapped sample.

    Args:
        pairs: Per test part, the two strategies' scores of the same images.
        combine: Turns the parts' differences, each (swaps,), into the difference over all of them, (swaps,).
        metric: A metric's name.
        index: Class, or None for the overall value.
        n_units: Patients that `units` count.
        permutations: Random swaps, or the limit under which all are enumerated.
        rng: Source of randomness.
    """
    involved = np.unique(np.concatenate([a.units for a, _ in pairs]))
    if len(involved) <= EXACT_PATIENTS:
        every = (np.arange(2 ** len(involved)) >> np.arange(len(involved))[:, None]) & 1
        swaps = np.zeros((n_units, every.shape[1]), dtype=np.uint8)
        swaps[involved] = every
    else:
        swaps = _swaps(n_units, 8 * -(-permutations // 8), rng)[:, :permutations]
        swaps = np.concatenate([np.zeros((n_units, 1), dtype=np.uint8), swaps], axis=1)
    on_ranks = describe(metric).on_ranks
    parts = []
    for a, b in pairs:
        both = _stack(a, b, n_units, on_ranks)
        first, second = np.concatenate([1 - swaps, swaps]), np.concatenate([swaps, 1 - swaps])
        parts.append(values(both, first, [(metric, index)])[0] - values(both, second, [(metric, index)])[0])
    difference = np.abs(combine(parts))
    # Column 0 is the sample as observed: it counts once, which is the +1 of a random test and right when enumerating.
    return float((difference >= difference[0] - 1e-12).mean())


def _stack(a: Scores, b: Scores, n_units: int, on_ranks: bool) -> Scores:
    """Both strategies' rows in one sample: unit p is patient p as scored by a, unit n_units + p as scored by b."""
    probs = [one.probs for one in (a, b)]
    if on_ranks:
        probs = [rankdata(one, axis=0) / len(a) for one in probs]
    return Scores(
        ids=np.concatenate([a.ids, b.ids]),
        labels=np.concatenate([a.labels, b.labels]),
        probs=np.concatenate(probs),
        predicted=np.concatenate([a.predicted, b.predicted]),
        units=np.concatenate([a.units, b.units + n_units]),
        positive=a.positive,
    )
