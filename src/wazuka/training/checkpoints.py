"""Checkpoints of a training run: one file, replaced atomically, read with `weights_only=True`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from wazuka.core.errors import ArtifactError
from wazuka.core.records import writing

CHECKPOINT = "checkpoint.pt"
LAST_GOOD = "checkpoint_last_good.pt"
"""Weights before values stopped being finite."""


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; a kill at any moment leaves the old file or the new one.

    Raises:
        OutOfSpace: If the disk is full; the old file is kept.
    """
    with writing(path) as file:
        torch.save(content, file)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU; None if there is none.

    Raises:
        ArtifactError: If the file is damaged or holds more than tensors and plain values.
    """
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(
            f"{path} is no readable checkpoint ({reason}); remove it to train from the start."
        ) from error
