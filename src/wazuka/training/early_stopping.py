"""Early stopping that keeps a copy of the best state, never a reference to the state in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

State = dict[str, torch.Tensor]


def copy_state(state: Mapping[str, torch.Tensor]) -> State:
    """Copy a state dict, tensor by tensor."""
    return {name: value.detach().clone() for name, value in state.items()}


class EarlyStopping:
    """Watch a value that should fall and keep the state where it was lowest.

    Args:
        patience: Evaluations without a new lowest value after which to stop; None never stops.
    """

    def __init__(self, patience: int | None) -> None:
        assert patience is None or patience >= 1, patience
        self.patience = patience
        self.best_value = float("inf")
        self.best_step = 0
        self.waited = 0
        self.best_state: State = {}

    def update(self, step: int, value: float, state: Mapping[str, torch.Tensor]) -> bool:
        """Take the value after `step` steps; return whether to stop. An equal value is no improvement."""
        if value < self.best_value:
            self.best_value, self.best_step, self.waited = value, step, 0
            self.best_state = copy_state(state)
            return False
        self.waited += 1
        return self.patience is not None and self.waited >= self.patience

    def to_plain(self) -> dict[str, Any]:
        """Its state for a checkpoint."""
        names = ("best_value", "best_step", "waited", "best_state")
        return {name: getattr(self, name) for name in names}

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's `to_plain()`."""
        self.best_value, self.best_step = plain["best_value"], plain["best_step"]
        self.waited, self.best_state = plain["waited"], dict(plain["best_state"])
