"""Optimizers, parameter groups and learning-rate schedules as plain functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

OptimizerName = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "one-cycle", "constant"]

MOMENTUM = 0.9
ONE_CYCLE_START = 1 / 25
"""First learning rate of one-cycle relative to the highest (Smith and Topin 2017, arXiv:1708.07120; fastai's factor)."""
ONE_CYCLE_RISE = 0.3
"""Share of the steps in which it rises."""
ONE_CYCLE_END = 1e-4 / 25
"""Last learning rate relative to the highest, as in torch's `OneCycleLR`."""


def lr_factor(step: int, *, steps: int, schedule: Schedule, warmup: float) -> float:
    """Factor on the learning rate in step 0..steps-1.

    Args:
        schedule: "cosine" (linear warm-up, then half a cosine to 0), "one-cycle" (cosine up, cosine down; has its own
            rise in place of the warm-up) or "constant" (after the warm-up).
        warmup: Share of the steps with a linear rise.

    >>> [round(lr_factor(step, steps=4, schedule="cosine", warmup=0.0), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    if schedule == "one-cycle":
        peak = max(1.0, ONE_CYCLE_RISE * steps - 1)
        if step <= peak:
            return _cosine(ONE_CYCLE_START, 1.0, step / peak)
        return _cosine(1.0, ONE_CYCLE_END, (step - peak) / max(1.0, steps - 1 - peak))
    rise = math.ceil(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    if schedule == "constant":
        return 1.0
    return _cosine(1.0, 0.0, (step - rise) / max(1, steps - rise))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def parameter_groups(
    parts: Sequence[tuple[nn.Module, float]], *, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Group trainable parameters for an optimizer: (module, factor on the learning rate) pairs.

    Vectors (biases, normalization) are not decayed. Each group keeps its highest learning rate under `peak_lr`.
    """
    groups = []
    for module, factor in parts:
        trainable = [one for one in module.parameters() if one.requires_grad]
        for decay, chosen in (
            (weight_decay, [one for one in trainable if one.ndim > 1]),
            (0.0, [one for one in trainable if one.ndim <= 1]),
        ):
            if chosen:
                rate = lr * factor
                groups.append({"params": chosen, "lr": rate, "peak_lr": rate, "weight_decay": decay})
    return groups


def make_optimizer(groups: list[dict[str, Any]], name: OptimizerName) -> torch.optim.Optimizer:
    """Build AdamW, or SGD with Nesterov momentum."""
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=groups[0]["lr"])
    return torch.optim.SGD(groups, lr=groups[0]["lr"], momentum=MOMENTUM, nesterov=True)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` of its highest."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
