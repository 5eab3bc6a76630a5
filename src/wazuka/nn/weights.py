"""Weight files, read and written safely: safetensors, or `torch.load(weights_only=True)`; never a pickled object.

Files that we write carry an `EncoderHeader` in their metadata: builder, arguments and transform, so that the file alone
is enough to rebuild the encoder.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from wazuka.core.config import build
from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.core.hashing import canonical_json
from wazuka.core.records import writing
from wazuka.nn.cards import Triple

SCHEMA = 1
METADATA_KEY = "wazuka"
UNCOUNTED = "num_batches_tracked"
"""BatchNorm's counter of training steps: it changes no output, and many files lack it."""

State = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class EncoderHeader:
    """What a weights file of ours says about itself."""

    name: str
    arch: str
    args: dict[str, Any] = field(default_factory=dict)
    feature_dim: int
    input_size: int
    fixed_size: bool
    mean: Triple
    std: Triple
    scale: float
    license: str
    commercial_use: str
    source: str
    note: str = ""
    pretrained: bool = True
    schema: int = SCHEMA


def read_header(path: Path) -> EncoderHeader | None:
    """Read the header of a safetensors file; None if the file is not ours.

    Raises:
        ArtifactError: If the file is missing, is no safetensors file, or its header is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; give the path of a safetensors file.")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(path, error) from error
    if text is None:
        return None
    try:
        values = json.loads(text)
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return build(EncoderHeader, values, where=str(path))
    except (ValueError, AttributeError, ConfigError) as error:
        raise ArtifactError(f"{path} has a damaged header ({error}); make the file again.") from error


def read_state(path: Path) -> State:
    """Read all tensors of a safetensors file.

    Raises:
        ArtifactError: If it is missing or no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; give the path of a safetensors file.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(path, error) from error


def read_checkpoint(path: Path) -> State:
    """Read the state dict in a `.pt`, `.pth` or `.bin` file with `weights_only=True`: no code in the file can run.

    A state dict under the key `state_dict` or `model` is found; a common prefix `module.` is removed.

    Raises:
        ArtifactError: If it is missing, holds pickled objects, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; give the path of a weights file.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the error below says it better
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(
            f"{path} holds pickled objects, which can run code when opened; save its `model.state_dict()` as safetensors."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a readable weights file ({str(error).splitlines()[0]}); give safetensors."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(one, torch.Tensor) for one in content.values()):
        raise ArtifactError(f"{path} holds no state dict; save `model.state_dict()` as safetensors.")
    state = {str(key): value for key, value in content.items()}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def write_state(path: Path, state: Mapping[str, torch.Tensor], *, header: EncoderHeader | None = None) -> None:
    """Write tensors as a safetensors file, atomically."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    data = save(tensors, metadata=None if header is None else {METADATA_KEY: canonical_json(header)})
    with writing(path) as file:
        file.write(data)


def fit_state(
    network: nn.Module, state: State, *, path: Path, head_keys: tuple[str, ...], prefixes: tuple[str, ...] = ()
) -> tuple[State, str]:
    """Hold a file's tensors against a network's and return those that belong to it, as float32 where they are floats.

    Args:
        network: On any device, also "meta".
        state: The tensors of the file.
        path: For the message.
        head_keys: Modules of the classifier, whose tensors are left out.
        prefixes: One of these may stand before the names of the network's tensors; it is taken away.

    Returns:
        The network's tensors, and a note on what the file holds beyond them ("" if nothing).

    Raises:
        ArtifactError: Naming the first tensor that is missing, has another shape, or is unexpected.
    """
    name = Path(path).name
    own = network.state_dict()
    state = _without_prefix(state, own, prefixes)
    for key, tensor in own.items():
        shape = tuple(tensor.shape)
        if key not in state:
            if key.endswith(UNCOUNTED):
                continue
            raise ArtifactError(
                f"{name} does not fit: tensor `{key}` of shape {shape} is missing; give weights of this network."
            )
        if tuple(state[key].shape) != shape:
            raise ArtifactError(
                f"{name} does not fit: tensor `{key}` has shape {tuple(state[key].shape)}, the network needs {shape}."
            )
    heads = [key for key in state if key not in own and key.startswith(tuple(f"{one}." for one in head_keys))]
    extra = [key for key in state if key not in own and key not in heads and not key.endswith(UNCOUNTED)]
    if extra:
        raise ArtifactError(
            f"{name} does not fit: tensor `{extra[0]}` of shape {tuple(state[extra[0]].shape)} is not part of the network."
        )
    note = f"the classifier in {name} ({', '.join(heads)}) is not used" if heads else ""
    return {key: _as_float(state[key]) for key in own if key in state}, note


def load_fitted(network: nn.Module, state: State) -> None:
    """Load the result of `fit_state`; counters that the file lacks keep their zero."""
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith(UNCOUNTED) for key in missing), (missing, unexpected)


def hash_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of a state dict's names, types, shapes and values; the order of its keys and BatchNorm's counters do not matter."""
    digest = hashlib.sha256()
    for key in sorted(state):
        if key.endswith(UNCOUNTED):
            continue
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _without_prefix(state: State, own: State, prefixes: tuple[str, ...]) -> State:
    """Take a prefix away from the tensors that have it, if none has the network's own name."""
    found = next((one for one in prefixes if any(key.startswith(one) for key in state)), None)
    if found is None or not own.keys().isdisjoint(state):
        return state
    return {key.removeprefix(found): value for key, value in state.items()}


def _as_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _not_safetensors(path: Path, error: Exception) -> ArtifactError:
    reason = str(error).strip().splitlines()[0]
    return ArtifactError(
        f"{path} is not a safetensors file ({reason}); convert it with `wazuka backbones add NAME FILE`."
    )
