"""Tiny sources for the tests of the import: pictures whose every pixel the test knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, *, side: int = 16, color: bool = True) -> np.ndarray:
    """A picture that no other number gives."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (side, side, 3) if color else (side, side), dtype=np.uint8)


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_pictures(folder: Path, names: list[str], *, side: int = 16) -> list[Path]:
    return [write_png(folder / name, picture(number, side=side)) for number, name in enumerate(names)]


def class_folders(folder: Path, **counts: int) -> Path:
    """`folder/CLASS/NN.png`, as many of each class as said."""
    names = [f"{name}/{number:02d}.png" for name, count in counts.items() for number in range(count)]
    write_pictures(folder, names)
    return folder


def truncate(path: Path) -> None:
    """Damage a file as an interrupted copy does."""
    path.write_bytes(path.read_bytes()[:60])


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file, to see that nothing was touched."""
    return {
        one.relative_to(folder).as_posix(): (one.read_bytes(), one.stat().st_mtime_ns)
        for one in folder.rglob("*")
        if one.is_file()
    }
