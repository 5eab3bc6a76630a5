"""Encoders: a plain description of a backbone with definite weights, that can be built, saved and rebuilt.

`wazuka.nn.backbones` makes them from what a user writes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wazuka.core.config import build as build_config
from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.core.hashing import hash_file, make_key, to_plain
from wazuka.core.records import read_json, read_table, write_json, write_table, writing
from wazuka.nn.cards import Triple

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wazuka.nn.onnx_encoder import OnnxRunner
    from wazuka.nn.weights import EncoderHeader

ENCODER_FILE = "encoder.json"
SEEN = "seen.parquet"
SEEN_SUFFIX = ".seen.parquet"
RECORD_SUFFIX = ".record.json"
Weights = Literal["pretrained", "none", "file"]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A backbone with definite weights. Input of the network = (pixel * scale - mean) / std, pixels in 0..255.

    Attributes:
        name: As the user wrote it, for tables.
        kind: "torch" can be trained; "onnx" stays frozen.
        arch: timm model name, our own builder's name, or "onnx".
        args: The builder's arguments.
        weights: "pretrained" (from the hub), "none" (drawn from `seed`) or "file".
        path: The weights file, for `weights="file"`.
        weights_hash: SHA-256 of the weights; equal weights from anywhere have the same.
        feature_dim: Length of a feature vector.
        input_size: Pixels a side in pretraining.
        parameters: Values that training may change.
        fixed_size: Whether only `input_size` works; images of another size are then resized on the device.
        pretrained: Whether the weights were learned; False for freshly drawn ones, also after they were saved.
        seed: What the weights were drawn from, for `weights="none"`.
        note: What a reader should know: an assumed transform, an unused classifier.
    """

    name: str
    kind: Literal["torch", "onnx"]
    arch: str
    args: dict[str, Any] = field(default_factory=dict)
    weights: Weights
    path: Path | None = None
    weights_hash: str
    feature_dim: int
    input_size: int
    fixed_size: bool = True
    mean: Triple
    std: Triple
    scale: float = 1 / 255
    parameters: int = 0
    pretrained: bool = True
    seed: int = 0
    license: str = "unknown"
    commercial_use: str = "unknown"
    source: str = ""
    note: str = ""

    def build(self) -> nn.Module:
        """Build the network: normalized float (B, 3, H, W) -> features (B, dim), in evaluation mode, on the CPU.

        Raises:
            ConfigError: If the encoder is an ONNX graph, which has nothing to train.
            ArtifactError: If the weights are gone or no longer those that were resolved.
        """
        if self.kind == "onnx":
            raise ConfigError(
                f"Backbone `{self.name}` is an ONNX graph and stays frozen; choose a timm model or safetensors to train it."
            )
        from wazuka.nn import architectures, hub, weights

        if self.weights == "file":
            assert self.path is not None
            network = self.build_empty()
            state, _ = architectures.fit_weights(self.arch, network, weights.read_state(self.path), path=self.path)
            weights.load_fitted(network, state)
        elif self.weights == "none":
            network = architectures.build_seeded(self.arch, self.args, seed=self.seed)
        else:
            network = hub.build_pretrained(self.name, self.arch, self.args)
        if weights.hash_state(network.state_dict()) != self.weights_hash:
            raise ArtifactError(
                f"The weights of backbone `{self.name}` ({self.path or self.weights}) have changed since they were chosen; "
                "start the study again."
            )
        return network

    def provenance(self) -> Path | None:
        """The table of what the weights' training has seen, beside their file; None where nothing is known."""
        return None if self.path is None else provenance_beside(self.path)

    def build_empty(self) -> nn.Module:
        """Build the network with arbitrary weights, to be replaced by a saved state; needs no weights file."""
        from wazuka.nn import architectures

        return architectures.build_seeded(self.arch, self.args, seed=0)

    def open_graph(self, *, device: str = "cpu") -> OnnxRunner:
        """Open an ONNX encoder: normalized float32 array (B, 3, H, W) -> features (B, dim)."""
        from wazuka.nn import onnx_encoder

        assert self.kind == "onnx" and self.path is not None
        graph = onnx_encoder.inspect_graph(self.path)
        if hash_file(self.path) != self.weights_hash:
            raise ArtifactError(f"{self.path} has changed since it was chosen; start the study again.")
        return onnx_encoder.OnnxRunner(self.path, graph, device=device)

    def __str__(self) -> str:
        """One line for people."""
        where = f", {self.path}" if self.path else ""
        return f"{self.name} ({self.kind}, {self.feature_dim} features, {self.parameters:,} parameters{where})"

    def spec(self) -> dict[str, Any]:
        """Return the description as plain values for JSON; `from_spec` reads it."""
        return dict(to_plain(self))

    def key(self) -> str:
        """Hash of all that decides the features of given pixels."""
        transform = (self.input_size, self.fixed_size, self.mean, self.std, self.scale)
        return make_key(self.kind, self.arch, self.args, self.weights_hash, self.feature_dim, transform)


def from_spec(values: Mapping[str, Any], *, path: Path | None = None, where: str = "encoder") -> Encoder:
    """Build an `Encoder` from `spec()`; `path` replaces where its weights lie.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has the wrong type.
    """
    given = path or values.get("path")
    plain = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items() if key != "path"}
    return dataclasses.replace(build_config(Encoder, plain, where=where), path=Path(given) if given else None)


def save_encoder(encoder: Encoder, folder: Path, *, state: Mapping[str, torch.Tensor] | None = None) -> Encoder:
    """Write a self-contained copy of an encoder into `folder`: `encoder.json` and its weights.

    Args:
        state: New weights of the same network (a pretrainer's result); the encoder's own if None.

    Returns:
        The encoder as `load_encoder(folder)` gives it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if encoder.kind == "onnx":
        assert encoder.path is not None
        target = folder / "encoder.onnx"
        copy_graph(encoder.path, target)
        saved = dataclasses.replace(encoder, path=target.resolve())
    else:
        from wazuka.nn.weights import hash_state, write_state

        target = folder / "encoder.safetensors"
        tensors = dict(encoder.build().state_dict() if state is None else state)
        saved = dataclasses.replace(
            encoder,
            weights="file",
            path=target.resolve(),
            weights_hash=hash_state(tensors),
            seed=0,
            pretrained=encoder.pretrained or state is not None,
        )
        write_state(target, tensors, header=header_of(saved))
    write_json(folder / ENCODER_FILE, {"schema": 1, "file": target.name, "encoder": saved.spec() | {"path": None}})
    return saved


def load_encoder(folder: Path) -> Encoder:
    """Load what `save_encoder` wrote; the weights are checked when the encoder is built.

    Raises:
        ArtifactError: If the folder holds no encoder, or its parts are missing.
    """
    folder = Path(folder)
    if not (folder / ENCODER_FILE).is_file():
        raise ArtifactError(
            f"{folder} holds no {ENCODER_FILE}; give a pretrained one (RUN/artifacts/pretrain/KEY), or a backbone's name."
        )
    values = read_json(folder / ENCODER_FILE)
    if not isinstance(values, dict) or not {"file", "encoder"} <= set(values):
        raise ArtifactError(f"{folder / ENCODER_FILE} lacks `file` or `encoder`; make the folder again.")
    path = folder / Path(values["file"]).name
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; make the folder {folder} again.")
    return from_spec(values["encoder"], path=path.resolve(), where=str(folder / ENCODER_FILE))


def header_of(encoder: Encoder) -> EncoderHeader:
    """Describe an encoder for the metadata of its weights file."""
    from wazuka.nn.weights import EncoderHeader

    names = {one.name for one in dataclasses.fields(EncoderHeader)} - {"schema"}
    return EncoderHeader(**{name: getattr(encoder, name) for name in names})


def copy_graph(source: Path, target: Path) -> None:
    """Copy an ONNX file, atomically, after the transform beside it (where it has one)."""
    for suffix in (".json", ""):
        one = source.with_name(source.name + suffix)
        if one.is_file():
            with one.open("rb") as reading, writing(target.with_name(target.name + suffix)) as file:
                shutil.copyfileobj(reading, file)


def provenance_beside(weights: Path) -> Path | None:
    """Find what says what a weights file has seen.

    That is `NAME.seen.parquet` for a file NAME that was added, else the `seen.parquet` of the file's artifact folder.
    The facts that make its patients comparable (fingerprint, salt) are in `record_beside` it.
    """
    for name in (f"{weights.stem}{SEEN_SUFFIX}", SEEN):
        if (weights.parent / name).is_file():
            return weights.parent / name
    return None


def record_beside(seen: Path) -> Path:
    """The record that belongs to a table of `provenance_beside`; it may be absent."""
    stem = seen.name.removesuffix(SEEN_SUFFIX)
    return seen.with_name("record.json" if seen.name == SEEN else f"{stem}{RECORD_SUFFIX}")


def carry_provenance(source: Path, target: Path) -> None:
    """Copy what a weights file has seen beside a copy of it at `target`, under that one's name.

    Rows that are there already stay: the weights are the same, so both tables are true.
    """
    seen = provenance_beside(source)
    if seen is None:
        return
    import pandas as pd

    goal = target.with_name(f"{target.stem}{SEEN_SUFFIX}")
    tables = [read_table(one) for one in (goal, seen) if one.is_file()]
    record = record_beside(seen)
    if record.is_file():
        facts = read_json(record)
        write_json(record_beside(goal), {name: facts.get(name) for name in ("fingerprint", "salt")})
    write_table(goal, pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True))
