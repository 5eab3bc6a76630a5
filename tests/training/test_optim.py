"""Schedules against torch's own and closed forms; parameter groups."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from wazuka.training.optim import lr_factor, make_optimizer, parameter_groups, set_lr
from wazuka.training.thresholds import choose_threshold


@pytest.mark.parametrize("steps", [10, 37, 200])
def test_one_cycle_is_torchs_one_cycle(steps: int) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.3)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        found = 0.3 * lr_factor(step, steps=steps, schedule="one-cycle", warmup=0.1)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step
        optimizer.step()
        if step + 1 < steps:
            reference.step()


def test_cosine_rises_in_a_line_and_falls_as_half_a_cosine() -> None:
    found = [lr_factor(step, steps=100, schedule="cosine", warmup=0.1) for step in range(100)]
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10:] == pytest.approx([(1 + math.cos(math.pi * step / 90)) / 2 for step in range(90)])
    constant = [lr_factor(step, steps=100, schedule="constant", warmup=0.0) for step in range(100)]
    assert constant == [1.0] * 100


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_trainings_have_a_learning_rate(schedule: str, steps: int) -> None:
    found = [lr_factor(step, steps=steps, schedule=schedule, warmup=0.1) for step in range(steps)]  # type: ignore[arg-type]
    assert all(0 < one <= 1 for one in found)


def test_vectors_are_not_decayed_and_frozen_parameters_are_left_out() -> None:
    body, head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Linear(4, 2)
    frozen = nn.Linear(2, 2).requires_grad_(False)
    groups = parameter_groups([(body, 1.0), (head, 10.0), (frozen, 1.0)], lr=0.01, weight_decay=0.1)
    found = [(len(one["params"]), one["peak_lr"], one["weight_decay"]) for one in groups]
    assert found == [(1, 0.01, 0.1), (3, 0.01, 0.0), (1, 0.1, 0.1), (1, 0.1, 0.0)]
    for name, kind in (("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        optimizer = make_optimizer(groups, name)  # type: ignore[arg-type]
        assert isinstance(optimizer, kind)
        set_lr(optimizer, 0.5)
        assert [one["lr"] for one in optimizer.param_groups] == [0.005, 0.005, 0.05, 0.05]


def test_the_threshold_has_the_best_balanced_accuracy_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = rng.random(20) < 0.3
        labels[:2] = [True, False]
        probs = np.round(np.clip(rng.normal(0.3 + 0.2 * labels, 0.2), 0, 1), 2)

        def score(threshold: float, labels: np.ndarray = labels, probs: np.ndarray = probs) -> float:
            predicted = probs >= threshold
            return float(predicted[labels].mean() + (~predicted[~labels]).mean())

        chosen = choose_threshold(labels, probs)
        assert score(chosen) == pytest.approx(max(score(one) for one in np.linspace(0, 1.01, 2000)))


def test_the_threshold_is_a_half_where_nothing_can_be_chosen() -> None:
    assert choose_threshold(np.array([True, True]), np.array([0.9, 0.1])) == 0.5
    assert choose_threshold(np.array([True, False]), np.array([0.9, 0.1])) == 0.5, "ties go to the nearest to 0.5"
    assert choose_threshold(np.array([True, False]), np.array([0.3, 0.1])) == pytest.approx(0.2)
