"""What a finished predictor costs in use: time per image, size on disk, memory. For the report."""

from __future__ import annotations

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
        memory_mb: Peak memory: of the GPU while predicting, or of the whole process on a CPU; MiB.
        trained_params: Values that training could change.
    """

    latency_ms: dict[str, float]
    size_mb: float
    memory_mb: float
    trained_params: int


def measure(predictor: Predictor, images: ImageRows, *, device: str = "cpu", repeats: int = REPEATS) -> Measurement:
    """Measure a predictor, one image at a time.

    Args:
        images: At least one image; they are used in turn.
        device: Where it predicts.
        repeats: Timed predictions, after `WARM_UP` untimed ones.
    """
    used = settled(predictor, images, device=device)
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    milliseconds = []
    for number in range(WARM_UP + repeats):
        one = ArrayImages(images.batch(np.array([number % len(images)])))
        began = time.perf_counter()
        used.predict_images(one, device=device)
        milliseconds.append(1000 * (time.perf_counter() - began))
    timed = np.array(milliseconds[WARM_UP:])
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if gpu else _peak_of_process()
    return Measurement(
        latency_ms={"median": float(np.median(timed)), "p95": float(np.percentile(timed, 95))},
        size_mb=saved_bytes(predictor) / 1e6,
        memory_mb=memory,
        trained_params=predictor.trained_params,
    )


def saved_bytes(predictor: Predictor) -> int:
    """Bytes of the predictor on disk, encoder included."""
    with tempfile.TemporaryDirectory(prefix="wazuka-") as folder:
        predictor.save(Path(folder))
        return sum(one.stat().st_size for one in Path(folder).rglob("*") if one.is_file())


def _peak_of_process() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
