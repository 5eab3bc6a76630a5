"""Names made from content: the key of a step is the hash of all that went into it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

KEY_LENGTH = 20
"""Hexadecimal digits of a key: 80 bits, no collision in any run folder that fits on a disk."""


def to_plain(value: Any) -> Any:
    """Turn dataclasses, tuples, paths and NumPy scalars into what JSON can hold; refuse everything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(to_plain(one) for one in value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written to a record")


def canonical_json(value: Any) -> str:
    """Serialize `value` so that equal content gives equal text (sorted keys, no spaces, NaN refused)."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def make_key(*parts: Any) -> str:
    """Hash any number of plain values, dataclasses or mappings into a key of `KEY_LENGTH` hexadecimal digits."""
    return hashlib.sha256(canonical_json(list(parts)).encode()).hexdigest()[:KEY_LENGTH]


def hash_strings(values: Iterable[str]) -> str:
    """SHA-256 (hexadecimal) of a sequence of strings; order matters, boundaries are unambiguous."""
    digest = hashlib.sha256()
    for value in values:
        data = value.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_pixels(array: np.ndarray) -> str:
    """SHA-256 of decoded pixels: shape, dtype and values, so that a re-encoded copy has the same hash."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def derive_seed(seed: int, *parts: Any) -> int:
    """Derive an independent 63-bit seed for one use of randomness from the study's seed and the use's name."""
    text = canonical_json([seed, *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
