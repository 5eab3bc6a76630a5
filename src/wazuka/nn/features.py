"""Features of a frozen encoder: computed in batches, once per dataset and encoder, then read memory-mapped.

The order of the images and the size of the batches are fixed, so the same images give the same features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from wazuka.core import records
from wazuka.core.errors import ArtifactError, DataError
from wazuka.core.hashing import make_key
from wazuka.core.progress import say, track
from wazuka.nn.encoders import Encoder
from wazuka.nn.normalize import to_input
from wazuka.nn.rows import ArrayImages, ImageRows

CODE_VERSION = 1
"""Raised by hand when the same pixels give other features; part of every key."""
BATCH = 64

Forward = Callable[[torch.Tensor], torch.Tensor]


class _Transform(Protocol):
    @property
    def window(self) -> str | None: ...


class Pixels(Protocol):
    """What `cached_features` needs of a pixel cache (`wazuka.data.pixels.PixelCache`)."""

    @property
    def n(self) -> int: ...
    @property
    def key(self) -> str: ...
    @property
    def intensity(self) -> str: ...
    @property
    def transform(self) -> _Transform: ...
    @property
    def misfits(self) -> Any: ...
    def images(self, rows: np.ndarray) -> ImageRows: ...


def precision_of(device: str) -> str:
    """Name the arithmetic of frozen features on a device: "bf16" where a GPU has it, else "fp32"."""
    return "bf16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"


def load_forward(encoder: Encoder, *, device: str = "cpu") -> Forward:
    """Load an encoder for use: a function from normalized (B, 3, H, W) on `device` to features (B, dim) float32 there."""
    if encoder.kind == "onnx":
        graph = encoder.open_graph(device=device)
        if device.startswith("cuda") and not graph.provider.startswith("CUDA"):
            say(f"{encoder.name} runs on the CPU: this onnxruntime was built without CUDA.")

        def run_graph(batch: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(graph(batch.cpu().numpy())).float()

        return run_graph
    network = encoder.build().to(device).to(memory_format=torch.channels_last)
    return network_forward(network, device=device)


def network_forward(network: torch.nn.Module, *, device: str) -> Forward:
    """Wrap a network (on `device`, evaluation mode) for inference in the device's arithmetic, float32 out."""
    half = precision_of(device) == "bf16"

    def run_network(batch: torch.Tensor) -> torch.Tensor:
        arithmetic = torch.autocast("cuda", dtype=torch.bfloat16) if half else nullcontext()
        with torch.inference_mode(), arithmetic:
            return network(batch).float()

    return run_network


def iterate_batches(images: ImageRows, *, batch: int) -> Iterator[np.ndarray]:
    """Yield all images in order, (at most `batch`, height, width, channels), reading one batch ahead."""
    starts = range(0, len(images), batch)

    def read(start: int) -> np.ndarray:
        return images.batch(np.arange(start, min(start + batch, len(images))))

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, 0) if starts else None
        for start in starts:
            assert ahead is not None
            now = ahead.result()
            if start + batch < len(images):
                ahead = reader.submit(read, start + batch)
            yield now


def input_batches(
    images: ImageRows, encoder: Encoder, *, intensity: str, window: str | None, device: str, batch: int = BATCH
) -> Iterator[torch.Tensor]:
    """Yield the normalized inputs of all images in order, (at most `batch`, 3, H, W) float32 on the device."""
    for pixels in iterate_batches(images, batch=batch):
        tensor = torch.from_numpy(pixels).to(device, non_blocking=True)
        yield to_input(tensor, encoder, intensity=intensity, window=window)


def run_batches(
    forward: Forward,
    images: ImageRows,
    encoder: Encoder,
    *,
    intensity: str,
    window: str | None = None,
    device: str = "cpu",
    batch: int = BATCH,
) -> Iterator[np.ndarray]:
    """Yield the outputs of `forward` for all images in order, float32 (at most `batch`, dim).

    Raises:
        DataError: If an output is not finite; the message names the image's position.
    """
    done = 0
    for inputs in input_batches(images, encoder, intensity=intensity, window=window, device=device, batch=batch):
        with torch.inference_mode():
            values = forward(inputs).cpu().numpy()
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise DataError(
                f"Backbone `{encoder.name}` gives values that are not finite for image {done + int(bad.argmax())} "
                f"({int(bad.sum())} in its batch of {len(bad)}); check its weights and this image."
            )
        done += len(values)
        yield values


def compute_features(
    images: ImageRows,
    encoder: Encoder,
    *,
    intensity: str,
    window: str | None = None,
    device: str = "cpu",
    batch: int = BATCH,
) -> np.ndarray:
    """Compute the features of all images.

    Args:
        images: Cached pixels, n rows.
        intensity: The dataset's intensity, as in its card.
        window: Name of the window of Hounsfield units, for CT.
        device: "cpu" or "cuda"; bfloat16 arithmetic where a GPU has it.
        batch: Images at a time; part of what decides the last bits.

    Returns:
        (n, dim) float32.

    Raises:
        DataError: If a feature is not finite; the message names the row.
    """
    result = np.empty((len(images), encoder.feature_dim), np.float32)
    forward = load_forward(encoder, device=device)
    done = 0
    how = {"intensity": intensity, "window": window, "device": device, "batch": batch}
    for values in run_batches(forward, images, encoder, **how):  # type: ignore[arg-type]
        result[done : done + len(values)] = values
        done += len(values)
    return result


def cached_features(pixels: Pixels, encoder: Encoder, *, cache: Path, device: str = "cpu") -> Path:
    """Compute the features of every row of a pixel cache, once; later calls, in any process, find the file.

    Rows whose image does not fit the transform (`pixels.misfits`) are NaN: no view can ask for them.

    Returns:
        Path of `features.npy`, (N, dim) float32, to be read with `np.load(..., mmap_mode="r")`.

    Raises:
        DataError: If a feature is not finite.
        OutOfSpace: If the disk is full.
    """
    from filelock import FileLock

    window = pixels.transform.window
    arithmetic = precision_of(device)
    key = make_key("features", CODE_VERSION, pixels.key, encoder.key(), window, arithmetic, device.partition(":")[0])
    path = Path(cache).resolve() / "features" / key / "features.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                _write_features(path, pixels, encoder, device=device)
    _check_file(path, (pixels.n, encoder.feature_dim))
    return path


def _write_features(path: Path, pixels: Pixels, encoder: Encoder, *, device: str) -> None:
    """Stream all rows into an .npy file that appears when it is whole."""
    misfits = pixels.misfits
    unusable = set(misfits.loc[misfits["what"] == "image", "row"].astype(int))
    good = np.array([row for row in range(pixels.n) if row not in unusable], np.int64)
    images = pixels.images(good)
    forward = load_forward(encoder, device=device)
    parts = run_batches(
        forward, images, encoder, intensity=pixels.intensity, window=pixels.transform.window, device=device
    )
    header = {"descr": "<f4", "fortran_order": False, "shape": (pixels.n, encoder.feature_dim)}
    with records.writing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        written = done = 0
        for values in track(parts, f"Features of {encoder.name}", -(-len(good) // BATCH)):
            rows = good[done : done + len(values)]
            block = np.full((rows[-1] + 1 - written, encoder.feature_dim), np.nan, "<f4")
            block[rows - written] = values
            file.write(block.tobytes())
            written, done = int(rows[-1]) + 1, done + len(values)
        file.write(np.full((pixels.n - written, encoder.feature_dim), np.nan, "<f4").tobytes())


def _check_file(path: Path, shape: tuple[int, int]) -> None:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); remove it and run the command again.") from error
    if found != shape:
        raise ArtifactError(f"{path} has shape {found}, not {shape}; remove it and run the command again.")


def time_per_image(encoder: Encoder, *, size: int, device: str = "cpu", batch: int = 16, channels: int = 3) -> float:
    """Measure seconds per image of a frozen forward pass on this machine: the median of three batches after one to warm up.

    Args:
        size: Pixels a side, as in the pixel cache.
    """
    images = ArrayImages(np.zeros((batch, size, size, channels), np.uint8))
    forward = load_forward(encoder, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        for _ in run_batches(forward, images, encoder, intensity="rgb8", device=device, batch=batch):
            continue
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:])) / batch
