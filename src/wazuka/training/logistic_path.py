"""The descent behind `training/logistic.py`: preconditioned nonlinear conjugate gradients on a batch of problems.

The rows come in principal axes (Z = standardized features times the eigenvectors of their Gram matrix), so that one
eigendecomposition serves every penalty: the Hessian  I + C Z^T D Z  is approximated by the Kronecker product of the
diagonal Gram matrix and the mean class covariance  diag(p) - p p^T  (exact at zero weights), inverted in O(K r).
Directions are Polak-Ribière-plus; the line search is a safeguarded Newton iteration on logits that are already there,
so an iteration costs two products with Z, whatever the search does. A next (weaker) penalty starts from the solution of
the last one, moved along the difference of the last two and then along itself by the same line search.

Problems of a batch never exchange numbers: steps, restarts and stops are decided per problem.

References:
    Polak, Ribière (1969). Note sur la convergence de méthodes de directions conjuguées. RIRO 3(R1).
    Böhning (1992). Multinomial logistic regression algorithm. Ann. Inst. Statist. Math. 44(1).
    Friedman, Hastie, Tibshirani (2010). Regularization paths for generalized linear models. J. Stat. Softw. 33(1).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

SEARCH_EVALUATIONS = 12
"""Most evaluations of one line search."""
SEARCH_SLOPE = 0.1
"""A step is accepted where the slope along the direction has fallen to this share of its start."""
REFRESH = 10
"""Iterations after which the class part of the preconditioner is made anew."""
LEAST_SPREAD = 1e-7
"""Smallest variance of a class probability that the intercept's preconditioner believes: float32 knows no smaller."""
LEAST_LOSS = 1e-6
"""Mean loss that a gap is at least measured against where there are offsets: these alone may fit all rows, and a share of
nothing cannot be reached."""
INTERCEPT_STEPS = 6
"""Most Newton steps for the intercepts alone."""
PATIENCE = {torch.float32: 40, torch.float64: 400}
"""Iterations without a halved gap bound after which a precision has given what it can."""


@dataclass(frozen=True)
class Batch:
    """B problems of one shape, in principal axes; column 0 of `rows` is the constant of the intercept.

    Attributes:
        rows: (B, n, r), rows in principal axes; padded rows have weight 0, padded columns are 0.
        targets: (B, K, n), weight of a row times its share of each class (one line for two classes: the second's).
        weights: (B, n), weight of each row.
        spectrum: (B, r), eigenvalues of the weighted Gram matrix of `rows`.
        ridge: (r,), 1, and 0 for the intercept.
        penalty: (B,), C: the weight of the data against the ridge.
        offsets: (B, K, n), what is added to the logits of each row and not fitted; None: nothing.
    """

    rows: Tensor
    targets: Tensor
    weights: Tensor
    spectrum: Tensor
    ridge: Tensor
    penalty: Tensor
    offsets: Tensor | None = None

    def to(self, dtype: torch.dtype) -> Batch:
        """Return the same batch in another precision."""
        return replace(self, **{name: value.to(dtype) for name, value in self._tensors().items()})

    def take(self, keep: Tensor) -> Batch:
        """Return some of the problems."""
        return replace(self, **{name: value[keep] for name, value in self._tensors().items() if name != "ridge"})

    def _tensors(self) -> dict[str, Tensor]:
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def logits(self, coef: Tensor) -> Tensor:
        """Logits that weights add to the offsets: (B, K, r) -> (B, K, n)."""
        lines = coef.shape[1]
        padded = torch.nn.functional.pad(coef, (0, 0, 0, padding(lines)))
        return torch.bmm(padded, self.rows.transpose(1, 2))[:, :lines]

    def all_logits(self, coef: Tensor) -> Tensor:
        """Logits at some weights, offsets included: (B, K, r) -> (B, K, n)."""
        return self.logits(coef) if self.offsets is None else self.logits(coef) + self.offsets

    def gradient(self, coef: Tensor, probs: Tensor) -> Tensor:
        """Gradient of the objective, (B, K, r)."""
        residual = (probs * self.weights[:, None]).sub_(self.targets).mul_(self.penalty[:, None, None])
        return self.project(residual) + self.ridge * coef

    def project(self, values: Tensor) -> Tensor:
        """Values per row times the rows: (B, K, n) -> (B, K, r)."""
        lines = values.shape[1]
        padded = torch.nn.functional.pad(values, (0, 0, 0, padding(lines)))
        return torch.bmm(padded, self.rows)[:, :lines]


def padding(lines: int) -> int:
    """Lines of zeros that bring a product to a multiple of four lines: matrix kernels are up to twice faster there."""
    return 0 if lines < 3 else -lines % 4


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities (B, K, n); with one line of logits, those of the second of two classes."""
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)


def log_partition(logits: Tensor) -> Tensor:
    """Logarithm of the sum over classes of exp(logit), (B, n); with one line, the first class has the logit 0."""
    return torch.nn.functional.softplus(logits[:, 0]) if logits.shape[1] == 1 else torch.logsumexp(logits, dim=1)


def objective(batch: Batch, coef: Tensor, logits: Tensor) -> Tensor:
    """C * (weighted sum of log-losses) + 0.5 * |W|^2, (B,); with offsets at least that of `LEAST_LOSS`."""
    partition = log_partition(logits)
    loss = (batch.weights * partition).sum(1) - (batch.targets * logits).sum((1, 2))
    value = batch.penalty * loss + 0.5 * (batch.ridge * coef * coef).sum((1, 2))
    return value if batch.offsets is None else torch.maximum(value, LEAST_LOSS * batch.penalty * batch.weights.sum(1))


def class_covariance(probs: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over the rows of  diag(p) - p p^T, (B, K, K); without cancellation where p is close to 0 or 1."""
    weighted = probs * weights[:, None]
    if probs.shape[1] == 1:
        return (weighted * (1 - probs)).sum(2, keepdim=True)
    covariance = -torch.bmm(weighted, probs.transpose(1, 2))  # a graph Laplacian: the diagonal follows from the rest
    covariance.diagonal(dim1=1, dim2=2).zero_()
    return covariance - torch.diag_embed(covariance.sum(2))


def intercept_shift(logits: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """Newton steps to the best intercepts for given logits: what to add to each line, (B, K, 1), summing to zero."""
    lines, total = targets.shape[1], targets.sum(2)
    tried = shift = torch.zeros_like(total)
    lowest = None
    for _ in range(INTERCEPT_STEPS):
        probs = probabilities(logits + tried[:, :, None])
        residual = (probs * weights[:, None]).sum(2) - total  # (B, K)
        norm = residual.norm(dim=1)
        better = norm >= 0 if lowest is None else norm < 0.5 * lowest
        if not bool(better.any()):
            break
        shift = torch.where(better[:, None], tried, shift)
        lowest = norm if lowest is None else torch.minimum(norm, lowest)
        curve = class_covariance(probs, weights).double()
        if lines > 1:  # adding a constant to all lines changes nothing: make that direction definite
            curve = curve + curve.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] / lines
        curve.diagonal(dim1=1, dim2=2).add_(torch.finfo(torch.float32).tiny)
        tried = shift - torch.linalg.solve_ex(curve, residual.double()[:, :, None])[0][:, :, 0].to(shift)
    return (shift - shift.mean(1, keepdim=True) if lines > 1 else shift)[:, :, None]


class Preconditioner:
    """Inverse of  C * spectrum x mean class covariance + ridge,  a Kronecker-factored Hessian."""

    def __init__(self, batch: Batch, probs: Tensor) -> None:
        classes = probs.shape[1]
        covariance = class_covariance(probs, batch.weights) / batch.weights.sum(1)[:, None, None]
        values, vectors = torch.linalg.eigh(covariance.double())
        values = values.clamp_min(torch.finfo(torch.float32).tiny)
        denominator = batch.penalty[:, None, None] * values[:, :, None] * batch.spectrum[:, None] + batch.ridge
        # The intercept has no ridge: where all probabilities are close to 0 or 1 its steps are held to about 1.
        flat = LEAST_SPREAD * batch.penalty * batch.spectrum[:, 0]
        denominator[:, :, 0] = torch.maximum(denominator[:, :, 0], flat[:, None])
        if classes > 1:  # a constant added to all intercepts changes nothing: no move there
            denominator[:, 0, 0] = torch.inf
        self.inverse = (1 / denominator).to(probs.dtype)
        self.vectors = vectors.to(probs.dtype)

    def take(self, keep: Tensor) -> Preconditioner:
        """Return that of some of the problems."""
        some = object.__new__(Preconditioner)
        some.inverse, some.vectors = self.inverse[keep], self.vectors[keep]
        return some

    def __call__(self, gradient: Tensor) -> Tensor:
        """(B, K, r) -> (B, K, r)."""
        if gradient.shape[1] == 1:
            return gradient * self.inverse
        return torch.bmm(self.vectors, torch.bmm(self.vectors.transpose(1, 2), gradient).mul_(self.inverse))


def search(
    batch: Batch, coef: Tensor, logits: Tensor, probs: Tensor, *, step: Tensor, logits_step: Tensor
) -> tuple[Tensor, Tensor]:
    """Minimize the objective along `step` for each problem: safeguarded Newton on the convex function of one number.

    The start is given by its weights, logits and probabilities, the step by its weights and logits.

    Returns:
        The step lengths (B,), negative where `step` ascends, 0 where nothing is gained, and the probabilities there.
    """
    ridged = batch.ridge * step
    ridge_slope, ridge_curve = (ridged * coef).sum((1, 2)), (ridged * step).sum((1, 2))
    target_slope = (batch.targets * logits_step).sum((1, 2))
    tiny = torch.finfo(coef.dtype).tiny
    length, low = torch.zeros_like(ridge_slope), torch.zeros_like(ridge_slope)
    high = torch.full_like(length, torch.inf)
    sign = first = settled = length
    for evaluation in range(SEARCH_EVALUATIONS):
        moved = probs * logits_step
        inner = moved.sum(1)  # (B, n)
        slope = (batch.weights * inner).sum(1) - target_slope
        slope = ridge_slope + sign * length * ridge_curve + batch.penalty * slope
        if evaluation == 0:
            sign, first, settled = 1 - 2 * (slope > 0).to(slope), slope.abs(), slope == 0
        slope = slope * sign
        settled = settled | (slope.abs() <= SEARCH_SLOPE * first)
        if bool(settled.all()):
            return sign * length, probs
        spread = (batch.weights * ((moved * logits_step).sum(1) - inner * inner)).sum(1)
        curve = ridge_curve + batch.penalty * spread.clamp_min(0)  # rounding may make a flat spread negative
        newton = (length - slope / curve.clamp_min(tiny)).clamp_max(10 * length + 10)
        high, low = torch.where(slope > 0, length, high), torch.where(slope < 0, length, low)
        middle = torch.where(torch.isinf(high), 2 * length + 1, 0.5 * (low + high))
        tried = torch.where((newton > low) & (newton < high), newton, middle)
        if evaluation == SEARCH_EVALUATIONS - 2:  # the last one takes the bracket's end on the side of descent
            tried = low
        length = torch.where(settled, length, tried)
        probs = probabilities(torch.addcmul(logits, (sign * length)[:, None, None], logits_step))
    return sign * length, probs


@dataclass
class _State:
    """Where the problems of a batch stand."""

    coef: Tensor  # (B, K, r)
    logits: Tensor  # (B, K, n)
    probs: Tensor  # (B, K, n)
    gradient: Tensor  # (B, K, r)
    direction: Tensor  # (B, K, r)
    decrease: Tensor  # (B,), gradient . preconditioned gradient of the last step
    value: Tensor  # (B,), the objective when last computed: never below the present one
    best: Tensor  # (B,), the lowest gap bound seen
    since: Tensor  # (B,), iterations since `best` halved

    def take(self, keep: Tensor) -> _State:
        return _State(*(getattr(self, one.name)[keep] for one in fields(self)))


def descend(
    batch: Batch, coef: Tensor, *, tolerance: float, max_iterations: int, directions: tuple[Tensor, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Minimize from `coef` until the bound on the objective's gap is `tolerance` times the objective.

    Args:
        batch: The problems, in the precision to work in.
        coef: Start, (B, K, r).
        tolerance: Largest relative gap: 0.5 |gradient|^2 bounds the gap, as the ridge makes the objective strongly
            convex in the weights. The bound holds where the intercept is optimal, as it is at the start; later the
            intercept's part is estimated in the preconditioner's norm, so a start that passes at once is certain.
        max_iterations: Most iterations of one problem.
        directions: Steps (B, K, r) to search along before the first iteration.

    Returns:
        Solution (B, K, r) and iterations of each problem (B,), int64.
    """
    result, iterations = coef.clone(), torch.zeros(len(coef), dtype=torch.int64, device=coef.device)
    where = torch.arange(len(coef), device=coef.device)
    state = _begin(batch, coef, directions)
    precondition = None
    for iteration in range(max_iterations + 1):
        old = state.gradient
        state.gradient = batch.gradient(state.coef, state.probs)
        if precondition is None or iteration % REFRESH == 0:
            precondition = Preconditioner(batch, state.probs)
        steepest = precondition(state.gradient)
        done = _is_done(batch, state, steepest, tolerance) | (iteration == max_iterations)
        if bool(done.any()):
            ended = where[done]
            result[ended], iterations[ended] = state.coef[done], iteration
            if bool(done.all()):
                break
            keep = torch.nonzero(~done)[:, 0]
            batch, state, where = batch.take(keep), state.take(keep), where[keep]
            old, steepest, precondition = old[keep], steepest[keep], precondition.take(keep)
        _advance(batch, state, steepest, old if iteration else None)
    return result, iterations


def _begin(batch: Batch, coef: Tensor, directions: tuple[Tensor, ...]) -> _State:
    """Set the start: searches along the given directions, then the optimal intercept."""
    logits = batch.all_logits(coef)
    probs = probabilities(logits)
    for step in directions:
        logits_step = batch.logits(step)
        length, probs = search(batch, coef, logits, probs, step=step, logits_step=logits_step)
        length = length[:, None, None]
        coef, logits = coef + length * step, logits + length * logits_step
    shift = intercept_shift(logits, batch.weights, batch.targets)
    coef = torch.cat([coef[:, :, :1] + shift, coef[:, :, 1:]], dim=2)
    logits = logits + shift
    zero = torch.zeros_like(batch.penalty)
    return _State(
        coef=coef,
        logits=logits,
        probs=probabilities(logits),
        gradient=torch.zeros_like(coef),
        direction=torch.zeros_like(coef),
        decrease=torch.ones_like(zero),
        value=objective(batch, coef, logits),
        best=torch.full_like(zero, torch.inf),
        since=zero,
    )


def _is_done(batch: Batch, state: _State, steepest: Tensor, tolerance: float) -> Tensor:
    """Say which problems have reached the tolerance or all that their precision can give, (B,)."""
    gradient = state.gradient
    bound = 0.5 * (gradient[:, :, 1:].square().sum((1, 2)) + (gradient[:, :, 0] * steepest[:, :, 0]).sum(1))
    if bool((bound <= tolerance * state.value).any()):
        state.value = objective(batch, state.coef, state.logits)
    halved = bound < 0.5 * state.best
    state.best = torch.where(halved, bound, state.best)
    state.since = torch.where(halved, 0, state.since + 1)
    return (bound <= tolerance * state.value) | (state.since > PATIENCE[gradient.dtype])


def _advance(batch: Batch, state: _State, steepest: Tensor, old: Tensor | None) -> None:
    """Take one conjugate-gradient step in place."""
    gradient, decrease = state.gradient, (state.gradient * steepest).sum((1, 2))
    if old is None:
        state.direction = -steepest
    else:
        beta = ((gradient - old) * steepest).sum((1, 2)) / state.decrease
        direction = beta.clamp_min(0)[:, None, None] * state.direction - steepest
        ascends = (direction * gradient).sum((1, 2)) >= 0
        state.direction = torch.where(ascends[:, None, None], -steepest, direction)
    state.decrease = decrease.clamp_min(torch.finfo(decrease.dtype).tiny)
    logits_step = batch.logits(state.direction)
    start = (state.coef, state.logits, state.probs)
    length, state.probs = search(batch, *start, step=state.direction, logits_step=logits_step)
    state.coef = torch.addcmul(state.coef, length[:, None, None], state.direction)
    state.logits = torch.addcmul(state.logits, length[:, None, None], logits_step)
