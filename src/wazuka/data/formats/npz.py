"""MedMNIST npz files: arrays `train_images`, `val_images`, `test_images`; frames count over these in this order."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wazuka.data.formats.base import DecodeError, FileInfo, check_size, pick

PARTS = ("train_images", "val_images", "test_images")


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the image parts from their headers.

    Raises:
        DecodeError: If the file is no npz, or its images are not uint8 (n, H, W) or (n, H, W, 3).
    """
    found: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for part in PARTS:
                if f"{part}.npy" not in archive.namelist():
                    continue
                with archive.open(f"{part}.npy") as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                _check(part, shape, dtype)
                found[part] = shape
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise DecodeError(f"not a readable npz file ({error})") from error
    if not found:
        raise DecodeError("npz without `train_images`, `val_images` or `test_images`")
    if len({shape[1:] for shape in found.values()}) > 1:
        raise DecodeError(f"parts with different image sizes {sorted({shape[1:] for shape in found.values()})}")
    return found


def _check(part: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8:
        raise DecodeError(f"`{part}` has dtype {dtype}; uint8 is expected")
    if not (len(shape) == 3 or (len(shape) == 4 and shape[-1] == 3)):
        raise DecodeError(f"`{part}` has shape {shape}; (n, height, width) or (n, height, width, 3) is expected")
    check_size(shape[1], shape[2], max(shape[0], 1))


def probe(path: Path) -> FileInfo:
    """Describe the file from the headers of its arrays."""
    found = shapes(path)
    shape = next(iter(found.values()))
    color = len(shape) == 4
    return FileInfo(
        frames=sum(one[0] for one in found.values()),
        height=shape[1],
        width=shape[2],
        channels=3 if color else 1,
        intensity="rgb8" if color else "gray8",
    )


def decode(path: Path, frames: Sequence[int | None]) -> list[np.ndarray]:
    """Decode frames to uint8 (H, W) or (H, W, 3); each part is read at most once."""
    found = shapes(path)
    starts: dict[str, int] = {}
    total = 0
    for part, shape in found.items():
        starts[part] = total
        total += shape[0]
    wanted = pick(frames, total)
    images: dict[int, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as archive:
        for part, shape in found.items():
            inside = [one for one in wanted if starts[part] <= one < starts[part] + shape[0]]
            if not inside:
                continue
            try:
                pixels = archive[part]
            except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
                raise DecodeError(f"damaged array `{part}` ({error})") from error
            images.update({one: pixels[one - starts[part]].copy() for one in inside})
    return [images[one] for one in wanted]
