"""Randomness of training, step by step: what step t draws depends on (seed, t) alone.

So nothing has to be saved to resume exactly, and a step can be drawn again on its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wazuka.core.hashing import derive_seed


def step_generator(seed: int, use: str, step: int, *, device: str = "cpu") -> torch.Generator:
    """Return a generator for one use of randomness ("augment", say) in one step, on `device`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, use, step))


@contextmanager
def own_randomness(device: str) -> Iterator[None]:
    """Keep torch's global generators (dropout draws from them) as they were outside."""
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        yield


def seed_layers(seed: int, step: int) -> None:
    """Seed what the layers of a network draw in one step (dropout, stochastic depth); only inside `own_randomness`."""
    torch.manual_seed(derive_seed(seed, "layers", step))


@contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Use deterministic algorithms, restoring the settings afterwards.

    On a CPU all are; on a GPU those that exist: an operation without one still runs.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    gpu = device.startswith("cuda")
    cudnn = torch.backends.cudnn
    cudnn_before = cudnn.deterministic, cudnn.benchmark
    with warnings.catch_warnings():
        if gpu:
            warnings.filterwarnings("ignore", message=".*deterministic.*", category=UserWarning)
        try:
            torch.use_deterministic_algorithms(True, warn_only=gpu)
            cudnn.deterministic, cudnn.benchmark = True, False
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = cudnn_before
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
