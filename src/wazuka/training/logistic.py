"""Exact L2-regularized logistic regression, many problems at once: what `adapt/linear_probe.py` fits.

Objective, as scikit-learn's `LogisticRegression`, for each problem and penalty C:

    F(W, b) = C * sum_i s_i * loss(y_i, W x_i + b) + 0.5 * |W|^2,      the intercept b unpenalized,

with the softmax loss over all K classes, or, for two classes, one logit for the second. x is standardized on the rows of
the problem (zero-variance features keep scale 1) or on others that are named. With soft labels a row counts as weighted
copies, one per class. Offsets o_i are logits that are not fitted: loss(y_i, W x_i + b + o_i). With o_i = V x_i the sum
V + W minimizes  C * sum_i s_i * loss + 0.5 * |V + W - V|^2: a Gaussian prior around V instead of around zero.

How: the rows go to their principal axes once per problem (through a QR decomposition in the row space where there are
fewer rows than features), all penalties share this decomposition as preconditioner (`training/logistic_path.py`), and the
path runs from strong to weak penalties with warm starts. Descent is in float32; Newton steps with float64 gradients
(`training/logistic_refine.py`) add the digits that are missing.

Certificate: with b at its optimum for W, F is 1-strongly convex in W, so  F - F* <= 0.5 |dF/dW|^2  (the duality gap of
the dual point that the residuals make). It is computed on the standardized features in float64 for the coefficients that
are handed back, after the last correction of b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wazuka.core.errors import DataError
from wazuka.training.logistic_axes import Standardized, moments, prior, to_axes
from wazuka.training.logistic_path import LEAST_LOSS, Batch, descend, intercept_shift, log_partition, probabilities
from wazuka.training.logistic_refine import refine

Precision = Literal["float64", "float32"]
TOLERANCE = {"float64": 1e-13, "float32": 1e-6}
"""Default bound on the relative gap, per precision."""
COARSE = 1e-4
"""Relative gap to which the descent goes before it is refined."""
ROUNDS = 6
"""Most restarts of a descent until its start passes with the optimal intercept."""
CACHE_BYTES = 4 * 2**20
"""Rows of one batch on a CPU, in float32: more would save little overhead and lose the cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """One logistic regression; several may share one array of features.

    Attributes:
        features: (N, dim), any float type.
        labels: Class index per row, (N,); or None with `soft_labels`.
        n_classes: K, at least 2.
        soft_labels: Share of each class per row, (N, K), rows summing to 1; replaces `labels`.
        rows: Which rows take part, int64; None: all.
        weights: Weight per row, (N,), not negative; None: 1. Standardization does not use them.
        class_weights: Weight per class, (K,), times the row's; None: 1.
        offsets: Logits per row that are not fitted, (N, K), for two classes (N, 1), of the second; None: 0.
        standardize_on: Rows that mean and scale are taken from, int64; None: those that take part.
        prior: Class shares that predictions should follow, (K,), above 0; None: the unweighted ones of the rows.
        penalties: This problem's own C values instead of the common ones.
    """

    features: np.ndarray
    labels: np.ndarray | None = None
    n_classes: int
    soft_labels: np.ndarray | None = None
    rows: np.ndarray | None = None
    weights: np.ndarray | None = None
    class_weights: np.ndarray | None = None
    offsets: np.ndarray | None = None
    standardize_on: np.ndarray | None = None
    prior: np.ndarray | None = None
    penalties: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """The optimum of one problem at each of its P penalties, with its certificate.

    Attributes:
        penalties: C, (P,), in the order asked for.
        coef: Weights of the standardized features, (P, K, dim); K is 1 for two classes (the second class's logit).
        intercept: (P, K), the optimum's own; sums to zero over three or more classes.
        prior_shift: (K,), log of the share of each class in the weighted over that in the unweighted rows, or in the
            problem's `prior` (for two classes: of the second over the first). `intercept - prior_shift` undoes the
            weights' change of the prior.
        mean, scale: Standardization, (dim,) each: x = (features - mean) / scale.
        objective: F, (P,).
        gradient_norm: Norm of the whole gradient over that at zero weights, (P,).
        gap: Upper bound on F - F*, relative to F, (P,); with offsets to at least the F of a mean loss of `LEAST_LOSS`.
        iterations: (P,), int64; each costs two products with the rows.
        converged: Whether `gap` is within the tolerance, bool (P,).
    """

    penalties: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    prior_shift: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    objective: np.ndarray
    gradient_norm: np.ndarray
    gap: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray

    def slopes(self, features: np.ndarray) -> np.ndarray:
        """What the features add to the logits, without intercepts: float64 (P, K, n), for raw features (n, dim)."""
        x = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        flat = self.coef.reshape(-1, self.coef.shape[2]).astype(np.float64)
        return (x @ flat.T).T.reshape(*self.coef.shape[:2], len(x))

    def predict(self, features: np.ndarray, *, offsets: np.ndarray | None = None) -> np.ndarray:
        """Class probabilities under the problem's prior, float64 (P, n, classes), for raw features (n, dim).

        Args:
            features: (n, dim).
            offsets: Of these rows, (n, K), where the problem has some.
        """
        logits = self.slopes(features) + (self.intercept - self.prior_shift)[:, :, None]
        if offsets is not None:
            logits = logits + np.asarray(offsets, dtype=np.float64).T
        if logits.shape[1] == 1:
            second = probabilities(torch.from_numpy(logits)).numpy()
            first = probabilities(torch.from_numpy(-logits)).numpy()
            return np.concatenate([first, second], axis=1).transpose(0, 2, 1)
        return probabilities(torch.from_numpy(logits)).numpy().transpose(0, 2, 1)


def solve(
    problems: Sequence[Problem],
    penalties: Sequence[float],
    *,
    precision: Precision = "float64",
    tolerance: float | None = None,
    device: str = "cpu",
    max_iterations: int = 20_000,
    memory_mb: int = 1024,
) -> list[Solution]:
    """Solve every problem at every penalty to the optimum.

    Problems are independent: those of one shape (rows rounded up to a grid, so that a problem's shape never depends on
    the others) run in one batch, within `memory_mb`.

    Args:
        problems: The problems.
        penalties: C values (larger: weaker penalty), for the problems without their own.
        precision: Digits of the solution, as `TOLERANCE`. Iterations run in float32; "float64" adds Newton steps that
            refine them. Standardization, the gradient that decides and the certificate are float64 in either case.
        tolerance: Largest relative gap; None: `TOLERANCE` of the precision.
        device: "cpu" or "cuda".
        max_iterations: Most iterations per penalty; a solution that needs more says so in `converged`.
        memory_mb: Memory that one batch may take (a single problem that needs more runs alone).

    Returns:
        One solution per problem, in order.

    Raises:
        DataError: If shapes do not fit, a class has no weight, a penalty is not positive, or a feature is not finite
            (the row is named).
    """
    target = TOLERANCE[precision] if tolerance is None else tolerance
    shared = tuple(float(one) for one in penalties)
    solved: dict[int, Solution] = {}
    for members in _plan(problems, shared, device=device, memory_mb=memory_mb):
        some = [problems[one] for one in members]
        grids = [one.penalties or shared for one in some]
        found = _solve_batch(some, grids, target, device=device, max_iterations=max_iterations)
        solved.update(zip(members, found, strict=True))
    return [solved[index] for index in range(len(problems))]


def _plan(problems: Sequence[Problem], shared: tuple[float, ...], *, device: str, memory_mb: int) -> list[list[int]]:
    """Group the problems by padded shape into batches that fit the memory, in order."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, problem in enumerate(problems):
        grid = problem.penalties or shared
        _check(problem, grid)
        n, dim = _count(problem), problem.features.shape[1]
        shape = (_round_up(n), dim, problem.n_classes, len(grid), problem.offsets is not None)
        shapes.setdefault(shape, []).append(index)
    batches = []
    for (n, dim, classes, steps, _), members in shapes.items():
        bytes_each = 8 * (n * (3.5 * dim + 8 * classes) + 3 * min(n, dim) * dim + 4 * steps * classes * dim)
        size = memory_mb * 2**20 / bytes_each
        if device == "cpu":
            size = min(size, CACHE_BYTES / (4 * n * min(n, dim)))
        size = max(1, int(size))
        batches += [members[start : start + size] for start in range(0, len(members), size)]
    return batches


def _count(problem: Problem) -> int:
    return len(problem.features) if problem.rows is None else len(problem.rows)


def _round_up(rows: int) -> int:
    """Round a number of rows up by at most an eighth, so that folds of nearly equal size share a batch."""
    step = max(8, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


def _check(problem: Problem, grid: tuple[float, ...]) -> None:
    """Refuse a problem whose parts do not fit each other."""
    rows, classes = len(problem.features), problem.n_classes
    if classes < 2:
        raise DataError(f"`n_classes` is {classes}; a classifier needs 2 or more.")
    if (problem.labels is None) == (problem.soft_labels is None):
        raise DataError("A problem needs either `labels` or `soft_labels`; give exactly one of them.")
    sizes = {"labels": problem.labels, "soft_labels": problem.soft_labels, "weights": problem.weights}
    sizes["offsets"] = problem.offsets
    for name, value in sizes.items():
        if value is not None and len(value) != rows:
            raise DataError(f"`{name}` has {len(value)} rows but `features` has {rows}; give one per row.")
    if _count(problem) == 0:
        raise DataError("A problem has 0 rows; give at least one row per class.")
    lines = 1 if classes == 2 else classes
    if problem.offsets is not None and problem.offsets.shape != (rows, lines):
        raise DataError(f"`offsets` have shape {problem.offsets.shape}; give ({rows}, {lines}).")
    if problem.prior is not None and (problem.prior.shape != (classes,) or not (problem.prior > 0).all()):
        raise DataError(f"`prior` is {problem.prior.tolist()}; give {classes} shares above 0.")
    if not grid or any(not 0 < one < np.inf for one in grid):
        raise DataError(f"`penalties` is {list(grid)}; give one or more finite numbers above 0.")


def _targets(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted class shares of the problem's rows (n, K) and the unweighted ones."""
    rows = slice(None) if problem.rows is None else problem.rows
    if problem.soft_labels is not None:
        shares = np.asarray(problem.soft_labels, dtype=np.float64)[rows]
        if shares.shape[1] != problem.n_classes or shares.min() < 0 or np.abs(shares.sum(1) - 1).max() > 1e-6:
            raise DataError(f"`soft_labels` must be {problem.n_classes} shares per row that are >= 0 and sum to 1.")
    else:
        labels = np.asarray(problem.labels)[rows]
        if labels.min() < 0 or labels.max() >= problem.n_classes:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise DataError(f"Label {wrong} is outside 0..{problem.n_classes - 1}; give class indices.")
        shares = np.eye(problem.n_classes)[labels]
    weighted = shares
    if problem.weights is not None:
        weights = np.asarray(problem.weights, dtype=np.float64)[rows]
        if not (np.isfinite(weights).all() and weights.min() >= 0):
            raise DataError(f"`weights` reach {weights.min()}; give finite numbers of 0 or more.")
        weighted = weighted * weights[:, None]
    if problem.class_weights is not None:
        weighted = weighted * np.asarray(problem.class_weights, dtype=np.float64)
    empty = np.flatnonzero(weighted.sum(0) <= 0)
    if len(empty):
        raise DataError(f"Class {empty[0]} has no row with weight; leave the class out or give it rows.")
    return weighted, shares


def _standardize(problem: Problem, device: str) -> Standardized:
    """Take the problem's rows, their moments and their weighted targets."""
    raw = problem.features if problem.rows is None else problem.features[problem.rows]
    apart = problem.standardize_on is not None
    taken = problem.features[problem.standardize_on] if apart else raw
    mean, scale = moments(taken, device)
    finite = bool(torch.isfinite(mean).all() and torch.isfinite(scale).all())
    if not finite or (apart and not np.isfinite(raw).all()):
        values, numbers = (taken, problem.standardize_on) if apart and not finite else (raw, problem.rows)
        bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        row = bad if numbers is None else int(numbers[bad])
        raise DataError(f"Row {row} of the features holds NaN or Inf; mend or remove the image that it comes from.")
    weighted, shares = _targets(problem)
    wanted = shares.sum(0) / shares.sum() if problem.prior is None else problem.prior / problem.prior.sum()
    change = np.log(weighted.sum(0) / weighted.sum()) - np.log(wanted)
    two = problem.n_classes == 2
    picked = weighted[:, 1:] if two else weighted
    return Standardized(
        raw=raw,
        mean=mean,
        scale=scale,
        targets=torch.from_numpy(np.ascontiguousarray(picked.T)).to(device),
        weights=torch.from_numpy(weighted.sum(1)).to(device),
        prior_shift=change[1:] - change[:1] if two else change - change.mean(),
        offsets=_offsets(problem, device),
    )


def _offsets(problem: Problem, device: str) -> Tensor | None:
    """Offsets of the problem's rows, (K, n)."""
    if problem.offsets is None:
        return None
    chosen = problem.offsets if problem.rows is None else problem.offsets[problem.rows]
    if not np.isfinite(chosen).all():
        raise DataError("`offsets` hold NaN or Inf; give finite logits.")
    return torch.from_numpy(np.array(chosen.T, dtype=np.float64, order="C")).to(device)


def _solve_batch(
    problems: list[Problem], grids: list[tuple[float, ...]], tolerance: float, *, device: str, max_iterations: int
) -> list[Solution]:
    """Solve problems of one padded shape and certify what is handed back."""
    standard = [_standardize(problem, device) for problem in problems]
    axes = to_axes(standard, _round_up(_count(problems[0])))
    path = torch.tensor([sorted(grid) for grid in grids], dtype=torch.float64, device=device)  # (B, P)
    found, iterations = _follow(axes.batch, path, goal=0.5 * tolerance, max_iterations=max_iterations)
    rank = axes.basis.shape[2]
    solutions = []
    for index, (one, grid) in enumerate(zip(standard, grids, strict=True)):
        asked = np.argsort(np.argsort(grid, kind="stable"), kind="stable")  # place of each penalty on the path
        order = torch.from_numpy(asked).to(device)
        coef = found[index, order, :, 1 : rank + 1] @ axes.basis[index].T  # (P, K, dim)
        if coef.shape[1] > 1:  # a vector added to all classes only costs: its optimum is zero
            coef = coef - coef.mean(1, keepdim=True)
        intercept = found[index, order, :, 0] - coef @ axes.center[index]
        if coef.shape[1] > 1:
            intercept = intercept - intercept.mean(1, keepdim=True)
        counts = iterations[index, order].cpu().numpy()
        solutions.append(_certify(one, path[index, order], coef, intercept, counts, tolerance))
    return solutions


def _follow(batch: Batch, path: Tensor, *, goal: float, max_iterations: int) -> tuple[Tensor, Tensor]:
    """Follow each problem's penalties (B, P), rising: solutions (B, P, K, r) and iterations (B, P)."""
    fine, coarse = batch, batch.to(torch.float32)
    last, before = prior(fine), None
    found, spent = [], []
    for step in range(path.shape[1]):
        fine, coarse = _at(fine, path[:, step]), _at(coarse, path[:, step])
        moves = () if step == 0 else (last.float(),) if before is None else ((last - before).float(), last.float())
        before = last if step else None
        start, iterations = descend(
            coarse, last.float(), tolerance=max(COARSE, goal), max_iterations=max_iterations, directions=moves
        )
        last, more, passed = refine(
            fine, coarse, start.double(), tolerance=goal, rounds=ROUNDS, max_iterations=max_iterations
        )
        iterations = iterations + more
        for _ in range(0 if passed else ROUNDS):  # seldom: where the start was too far for Newton's steps
            last, more = descend(fine, last, tolerance=goal, max_iterations=max_iterations)
            iterations = iterations + more
            if not bool(more.any()):  # the start passed at once: its bound is certain
                break
        found.append(last)
        spent.append(iterations)
    return torch.stack(found, dim=1), torch.stack(spent, dim=1)


def _at(batch: Batch, penalty: Tensor) -> Batch:
    return replace(batch, penalty=penalty.to(batch.rows.dtype))


def _certify(
    one: Standardized, path: Tensor, coef: Tensor, intercept: Tensor, iterations: np.ndarray, tolerance: float
) -> Solution:
    """Correct the intercepts for the weights handed back and bound the gap, all in float64 on the features themselves."""
    steps, lines, dim = coef.shape
    flat = coef.reshape(-1, dim)
    logits = torch.cat([flat @ one.rows(block).T for block in one.blocks()], dim=1).reshape(steps, lines, -1)
    weights, targets = one.weights, one.targets
    logits += intercept[:, :, None]
    if one.offsets is not None:
        logits += one.offsets
    shift = intercept_shift(logits, weights.expand(steps, -1), targets.expand(steps, -1, -1))
    intercept, logits = intercept + shift[:, :, 0], logits + shift
    residual = probabilities(logits) * weights - targets  # (P, K, n)
    share = (targets.sum(1) / weights.sum())[:, None]
    if one.offsets is not None:  # at zero weights, with the best intercepts
        alone = one.offsets + intercept_shift(one.offsets[None], weights[None], targets[None])[0]
        share = probabilities(alone[None])[0]
    stacked = torch.cat([residual.reshape(-1, len(weights)), share * weights - targets])
    products = sum(stacked[:, block] @ one.rows(block) for block in one.blocks())
    assert isinstance(products, Tensor)
    gradient = path[:, None, None] * products[:-lines].reshape(coef.shape) + coef
    start = path * products[-lines:].norm()
    loss = (log_partition(logits) * weights).sum(1) - (logits * targets).sum((1, 2))
    value = path * loss + 0.5 * coef.square().sum((1, 2))
    squared = gradient.square().sum((1, 2))
    gap = 0.5 * squared / (value if one.offsets is None else value.maximum(LEAST_LOSS * path * weights.sum()))
    whole = (squared + (path[:, None] * residual.sum(2)).square().sum(1)).sqrt()
    return Solution(
        penalties=path.cpu().numpy(),
        coef=coef.cpu().numpy(),
        intercept=intercept.cpu().numpy(),
        prior_shift=one.prior_shift,
        mean=one.mean.cpu().numpy(),
        scale=one.scale.cpu().numpy(),
        objective=value.cpu().numpy(),
        gradient_norm=(whole / torch.where(start > 0, start, 1.0)).cpu().numpy(),
        gap=gap.cpu().numpy(),
        iterations=iterations,
        converged=(gap <= tolerance).cpu().numpy(),
    )
