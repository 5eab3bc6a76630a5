"""What a finished predictor costs in use: time per image, size on disk, memory. For the report."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wazuka.nn.predictors import Predictor, settled
from wazuka.nn.rows import ArrayImages, ImageRows

WARM_UP = 3
REPEATS = 20


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Costs of a predictor on this machine.

    Attributes:
        latency_ms: `median` and `p95` over single images, from cached pixels to probabilities.
        size_mb: The saved predictor with its encoder, in MB (10^6 bytes).
        memory_mb: Peak memory while predicting: of the GPU, or of the whole process on a CPU; MiB.
        trained_params: Values that training could change.
    """

    latency_ms: dict[str, float]
    size_mb: float | None
    memory_mb: float
    trained_params: int


def measure(
    predictor: Predictor,
    images: ImageRows,
    *,
    device: str = "cpu",
    repeats: int = REPEATS,
    with_size: bool = True,
) -> Measurement:
    """Measure a predictor, one image at a time.

    Args:
        images: At least one image; they are used in turn.
        device: Where it predicts.
        repeats: Timed predictions, after `WARM_UP` untimed ones.
        with_size: Whether the predictor is saved once more, to a temporary folder, for its size on disk.
    """
    used = settled(predictor, images, device=device)
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _forget_peak()
    milliseconds = []
    for number in range(WARM_UP + repeats):
        one = ArrayImages(images.batch(np.array([number % len(images)])))
        began = time.perf_counter()
        used.predict_images(one, device=device)
        milliseconds.append(1000 * (time.perf_counter() - began))
    timed = np.array(milliseconds[WARM_UP:])
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if gpu else peak_of_process()
    return Measurement(
        latency_ms={"median": float(np.median(timed)), "p95": float(np.percentile(timed, 95))},
        size_mb=saved_bytes(predictor) / 1e6 if with_size else None,
        memory_mb=memory,
        trained_params=predictor.trained_params,
    )


def saved_bytes(predictor: Predictor) -> int:
    """Bytes of the predictor on disk, encoder included."""
    with tempfile.TemporaryDirectory(prefix="wazuka-") as folder:
        predictor.save(Path(folder))
        return sum(one.stat().st_size for one in Path(folder).rglob("*") if one.is_file())


def _forget_peak() -> None:
    """Let Linux count the process's peak memory anew: a process that has trained would answer with that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_of_process() -> float:
    """MiB; since `_forget_peak` on Linux, since the start of the process elsewhere."""
    status = Path("/proc/self/status")
    if status.is_file():
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii", errors="replace"))
        if peak is not None:
            return int(peak[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
