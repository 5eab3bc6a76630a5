"""The last digits of `training/logistic.py`: Newton steps in float64 whose linear systems are solved in float32.

From a float32 solution the remaining step solves  H step = -gradient,  with the gradient in float64. The system needs
only a few digits, so preconditioned conjugate gradients run in float32, twice as fast; each outer round multiplies the
gradient by what the inner ones reached, and costs two products in float64. This is iterative refinement (Wilkinson 1963)
with an inexact Newton method inside (Dembo, Eisenstat, Steihaug 1982, "Inexact Newton methods", SIAM J. Numer. Anal. 19).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wazuka.training.logistic_path import Batch, Preconditioner, intercept_shift, objective, padding, probabilities

FORCING = (1e-4, 0.1)
"""Range of the relative residual at which an inner solve stops: below it float32 has no more digits to give."""
INNER_ITERATIONS = 600
"""Most inner iterations of one round."""
BLOCK_BYTES = 2**21
"""Rows that serve both products of a Hessian at a time on a CPU: a share of the cache."""
LEAST_GAIN = 0.25
"""A round must bring the gap bound to this share of its last value, else the problem is handed back."""


def refine(
    fine: Batch, coarse: Batch, coef: Tensor, *, tolerance: float, rounds: int, max_iterations: int
) -> tuple[Tensor, Tensor, bool]:
    """Refine float64 weights until the gap bound is `tolerance` times the objective, or progress stops.

    Args:
        fine: The problems in float64.
        coarse: The same in float32.
        coef: Start in float64, (B, K, r), near the optimum.
        tolerance: Largest relative gap.
        rounds: Most Newton steps.
        max_iterations: Most inner iterations of one of them.

    Returns:
        Weights (B, K, r), the best seen for each problem; inner iterations (B,), int64; whether all reached the
        tolerance, with the optimal intercept.
    """
    best, spent = coef.clone(), torch.zeros(len(coef), dtype=torch.int64, device=coef.device)
    lowest = torch.full_like(fine.penalty, torch.inf)
    where = torch.arange(len(coef), device=coef.device)
    passed = torch.zeros(len(coef), dtype=torch.bool, device=coef.device)
    for _ in range(rounds + 1):
        logits = fine.all_logits(coef)
        shift = intercept_shift(logits, fine.weights, fine.targets)
        coef = torch.cat([coef[:, :, :1] + shift, coef[:, :, 1:]], dim=2)
        logits = logits + shift
        probs = probabilities(logits)
        gradient = fine.gradient(coef, probs)
        bound = 0.5 * gradient[:, :, 1:].square().sum((1, 2))
        goal = tolerance * objective(fine, coef, logits)
        gained = bound < LEAST_GAIN * lowest[where]
        better = where[bound < lowest[where]]
        best[better] = coef[bound < lowest[where]]
        lowest[better] = bound[bound < lowest[where]]
        passed[where] = bound <= goal
        keep = torch.nonzero((bound > goal) & gained)[:, 0]
        if len(keep) == 0:
            break
        if len(keep) < len(where):
            fine, coarse, where = fine.take(keep), coarse.take(keep), where[keep]
            coef, probs, gradient, bound, goal = (one[keep] for one in (coef, probs, gradient, bound, goal))
        forcing = (0.5 * (goal / bound).sqrt()).clamp(*FORCING)
        step, iterations = _newton_step(
            coarse, probs.float(), gradient, forcing.float(), min(INNER_ITERATIONS, max_iterations)
        )
        coef = coef + step
        spent[where] += iterations
    return best, spent, bool(passed.all())


def _newton_step(batch: Batch, probs: Tensor, gradient: Tensor, forcing: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Solve  H step = -gradient  by preconditioned conjugate gradients in float32, to the relative residual `forcing`."""
    size = gradient.square().sum((1, 2)).sqrt()[:, None, None]
    residual = (-gradient / size).float()  # of norm 1: nothing under- or overflows
    precondition, hessian = Preconditioner(batch, probs), _Hessian(batch, probs)
    step, steepest = torch.zeros_like(residual), precondition(residual)
    direction, product = steepest, (residual * steepest).sum((1, 2))
    iterations = torch.zeros(len(size), dtype=torch.int64, device=size.device)
    running = torch.ones_like(forcing, dtype=torch.bool)
    for _ in range(most):
        curved = hessian(direction)
        curvature = (direction * curved).sum((1, 2))
        running = running & (curvature > 0)
        length = torch.where(running, product / curvature, 0)[:, None, None]
        step, residual = step + length * direction, residual - length * curved
        iterations += running
        running = running & (residual.square().sum((1, 2)) > forcing.square())
        if not bool(running.any()):
            break
        steepest = precondition(residual)
        renewed = (residual * steepest).sum((1, 2))
        direction = steepest + (renewed / product)[:, None, None] * direction
        product = renewed
    return step.double() * size, iterations


class _Hessian:
    """The objective's Hessian at given probabilities: a map (B, K, r) -> (B, K, r).

    Each block of rows serves both products while it is in the cache: on a CPU their traffic is what the time goes to.
    """

    def __init__(self, batch: Batch, probs: Tensor) -> None:
        lines, n = probs.shape[1:]
        self.ridge, self.lines, self.pad = batch.ridge, lines, padding(lines)
        full = torch.nn.functional.pad(probs, (0, 0, 0, self.pad))
        scaled = full * (batch.weights * batch.penalty[:, None])[:, None]
        width = n if probs.is_cuda else max(64, BLOCK_BYTES // (4 * batch.rows.shape[2]))
        cuts = [slice(start, start + width) for start in range(0, n, width)]
        self.blocks = [
            (batch.rows[:, cut], full[:, :, cut].contiguous(), scaled[:, :, cut].contiguous()) for cut in cuts
        ]

    def __call__(self, direction: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(direction, (0, 0, 0, self.pad))
        total = None
        for rows, probs, scaled in self.blocks:
            logits = torch.bmm(padded, rows.transpose(1, 2))
            if self.lines == 1:
                moved = scaled * (1 - probs) * logits
            else:
                moved = logits.sub_((probs * logits).sum(1, keepdim=True)).mul_(scaled)
            total = torch.bmm(moved, rows) if total is None else total.baddbmm_(moved, rows)
        assert total is not None
        return total[:, : self.lines] + self.ridge * direction
