"""Generators: what a synthesizer gives back and `wazuka synthesize` uses. Safetensors and JSON, rebuilt exactly.

A saved generator is a folder with `generator.json` (kind, classes, shape, what the kind needs) and its tensors; it never
needs the technique's file, so an old generator outlives a changed technique.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wazuka.core.errors import ArtifactError, nearest
from wazuka.core.records import read_json

FILE = "generator.json"
TENSORS = "generator.safetensors"
SCHEMA = 1
KINDS: dict[str, str] = {
    "msg-gan": "wazuka.nn.msg_gan:MsgGanGenerator",
}
"""Kind -> its class, which has `from_folder(folder, facts)`. A new kind of generator adds one line here."""


@runtime_checkable
class Generator(Protocol):
    """Anything that makes images from labels and seeds."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; labels are indices into them. Empty where images are made without labels."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of its images."""

    @property
    def intensity(self) -> str:
        """Of its images, as in a dataset's card; "uint8" pixels for rgb8 and gray8, int16 for hounsfield."""

    def sample(
        self, labels: np.ndarray, seeds: np.ndarray, *, truncation: float = 1.0, device: str = "cpu"
    ) -> np.ndarray:
        """Make one image per label and seed; the pixels of an image depend on its own label and seed alone.

        Args:
            labels: Class index per image, int64 (n,).
            seeds: Seed per image, int64 (n,), from 0 on.
            truncation: Radius of the latent vectors relative to training, in (0, 1]: below 1 likelier images, less
                diverse ones.
            device: Where the network runs.

        Returns:
            (n, height, width, channels), in the stored type of its intensity. Made again in batches of another size,
            a value may differ by one gray level.
        """

    def save(self, folder: Path) -> None:
        """Write `generator.json` and its tensors."""


def load(folder: Path) -> Generator:
    """Rebuild a saved generator.

    Raises:
        ArtifactError: If the folder holds none, or one of an unknown kind or newer version.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        raise ArtifactError(f"{folder} holds no generator ({FILE} is absent); give the folder of a synthesize step.")
    facts: dict[str, Any] = read_json(file)
    if facts.get("schema") != SCHEMA:
        raise ArtifactError(f"{file} has schema {facts.get('schema')!r}, this version reads {SCHEMA}; update Wazuka.")
    kind = str(facts.get("kind"))
    if kind not in KINDS:
        close = nearest(kind, KINDS)
        hint = f"; the nearest known is `{close}`" if close else ""
        raise ArtifactError(f"{file} holds a generator of the unknown kind `{kind}`{hint}; update Wazuka.")
    module, _, name = KINDS[kind].partition(":")
    return getattr(importlib.import_module(module), name).from_folder(Path(folder), facts)
