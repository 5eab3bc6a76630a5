"""Backbones: from what a user writes to an encoder that can be built, saved and rebuilt.

Forms: `NAME` (a card, an added name, or any timm model), `NAME=FILE.safetensors`, `FILE.onnx`, an artifact folder. An
`Encoder` is a plain description; `build()` gives the network. Commands: `wazuka backbones list | show | add`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.core.hashing import hash_file, to_plain
from wazuka.core.places import config_folder
from wazuka.nn.cards import CARDS, Card
from wazuka.nn.encoders import (
    Encoder,
    carry_provenance,
    copy_graph,
    from_spec,
    header_of,
    load_encoder,
    save_encoder,
)

if TYPE_CHECKING:
    from wazuka.nn.weights import EncoderHeader, State

__all__ = ["Encoder", "add", "added_files", "from_spec", "listing", "load_encoder", "resolve", "save_encoder", "show"]


CODE_VERSION = 1
"""Raised by hand when the same backbone gives another network; part of every key."""
CHECKPOINTS = (".pt", ".pth", ".bin")
"""State dicts that `add` converts."""


def resolve(text: str, *, weights: Literal["pretrained", "none"] = "pretrained", seed: int = 0) -> Encoder:
    """Find the backbone that a user means and check its weights, before any work starts.

    Args:
        text: `NAME`, `NAME=FILE.safetensors`, `FILE.onnx`, or an artifact folder.
        weights: "none" draws fresh weights from `seed`; only for a `NAME`.

    Raises:
        ConfigError: If the name is unknown (the nearest is offered) or `weights: none` contradicts given weights.
        ArtifactError: If the weights are missing or do not fit.
    """
    name, equals, file = text.partition("=")
    path = Path(file if equals else text).expanduser()
    given = bool(equals) or path.suffix.lower() == ".onnx" or _is_folder(text)
    if given and weights == "none":
        raise ConfigError(f"`weights: none` contradicts the weights given by `{text}`; drop one of the two.")
    if equals:
        return _from_file(name, path)
    if path.suffix.lower() == ".onnx":
        return _from_graph(path.stem, path)
    if _is_folder(text):
        return dataclasses.replace(load_encoder(path), name=path.resolve().name)
    if path.suffix.lower() in (".safetensors", *CHECKPOINTS):
        raise ConfigError(f"`{text}` names a file but no network; write NAME=FILE.safetensors.")
    added = added_files()
    if weights == "pretrained" and name in added:
        file_path = added[name]
        encoder = _from_graph(name, file_path) if file_path.suffix == ".onnx" else _from_file(name, file_path)
        return dataclasses.replace(encoder, name=name)
    return _from_name(name, weights=weights, seed=seed)


def _is_folder(text: str) -> bool:
    path = Path(text).expanduser()
    if path.suffix.lower() == ".onnx" or "=" in text:
        return False
    return os.sep in text or text.startswith(("~", ".")) or (text not in CARDS and path.is_dir())


def _from_name(name: str, *, weights: Literal["pretrained", "none"], seed: int) -> Encoder:
    """A card or any timm model: pretrained from the hub, or drawn from a seed."""
    from wazuka.nn import architectures, hub
    from wazuka.nn.weights import hash_state

    card = CARDS.get(name)
    arch, args = (card.arch, dict(card.args)) if card else (name, {})
    if not _is_name(name):
        raise architectures.unknown_backbone(name, tuple(added_files()))
    if weights == "pretrained":
        network = hub.build_pretrained(name, arch, args)
    else:
        network = architectures.build_seeded(arch, args, seed=seed)
    spec = architectures.inspect_network(arch, args, architectures.build_meta(arch, args), card=card)
    drawn = weights == "none"
    return Encoder(
        name=name,
        kind="torch",
        arch=arch,
        args=args,
        weights=weights,
        weights_hash=hash_state(network.state_dict()),
        feature_dim=spec.feature_dim,
        parameters=spec.parameters,
        input_size=spec.size,
        fixed_size=spec.fixed,
        mean=spec.mean,
        std=spec.std,
        seed=seed if drawn else 0,
        pretrained=not drawn,
        license="none (fresh weights)" if drawn else card.license if card else spec.license,
        commercial_use="yes" if drawn else card.commercial_use if card else "unknown",
        source=f"drawn from seed {seed}" if drawn else spec.source,
    )


def _is_name(name: str) -> bool:
    """Tell whether a name alone says which network is meant: a card's, or a timm model's."""
    from wazuka.nn import architectures

    if name in CARDS:
        return architectures.is_known(CARDS[name].arch)
    return name not in architectures.BUILDERS and architectures.is_known(name)


def _from_file(name: str, path: Path) -> Encoder:
    """`NAME=FILE.safetensors`: our own files say how they are built, all others are weights of the network `NAME`."""
    from wazuka.nn import weights

    if path.suffix.lower() in CHECKPOINTS:
        raise ArtifactError(
            f"{path} is no safetensors file; convert it with `wazuka backbones add {name} {path.name}`."
        )
    header = weights.read_header(path)
    return _from_state(name, path, weights.read_state(path), header=header)[0]


def _from_state(name: str, path: Path, state: State, *, header: EncoderHeader | None) -> tuple[Encoder, State]:
    """Fit tensors read from `path` to the network they say or `name` says; return the encoder and what belongs to it."""
    from wazuka.nn import architectures, weights

    card = CARDS.get(name)
    arch, args = (card.arch, dict(card.args)) if card else (name, {})
    known = _is_name(name)
    if header is None and not known:
        raise architectures.unknown_backbone(name, tuple(added_files()))
    if header is not None:
        own = header.arch in architectures.BUILDERS
        if known and (
            header.arch.partition(".")[0] != arch.partition(".")[0] or (own and dict(header.args) != dict(args))
        ):
            says = architectures.card_of(header.arch, header.args) if own else None
            right = says.name if says else header.arch
            raise ArtifactError(f"{path} holds weights of `{right}`, not of `{name}`; write {right}={path}.")
        arch, args = header.arch, dict(header.args)
    network = architectures.build_meta(arch, args)
    spec = architectures.inspect_network(arch, args, network, card=card)
    fitted, note = architectures.fit_weights(arch, network, state, path=path)
    given = f"license and source are those of the card `{name}`, the weights were given as {path.name}" if card else ""
    described = header or weights.EncoderHeader(
        name=name,
        arch=arch,
        args=args,
        feature_dim=spec.feature_dim,
        input_size=spec.size,
        fixed_size=spec.fixed,
        mean=spec.mean,
        std=spec.std,
        scale=1 / 255,
        license=card.license if card else "unknown",
        commercial_use=card.commercial_use if card else "unknown",
        source=card.source if card else path.name,
        note=given,
    )
    encoder = Encoder(
        name=name,
        kind="torch",
        arch=arch,
        args=args,
        weights="file",
        path=path.resolve(),
        weights_hash=weights.hash_state(fitted),
        feature_dim=described.feature_dim,
        parameters=spec.parameters,
        input_size=described.input_size,
        fixed_size=described.fixed_size,
        mean=described.mean,
        std=described.std,
        scale=described.scale,
        pretrained=described.pretrained,
        license=described.license,
        commercial_use=described.commercial_use,
        source=described.source,
        note="; ".join(one for one in (described.note, note) if one),
    )
    return encoder, fitted


def _from_graph(name: str, path: Path) -> Encoder:
    from wazuka.nn.onnx_encoder import inspect_graph

    graph = inspect_graph(path)
    return Encoder(
        name=name,
        kind="onnx",
        arch="onnx",
        weights="file",
        path=path.resolve(),
        weights_hash=hash_file(path),
        feature_dim=graph.feature_dim,
        parameters=graph.parameters,
        input_size=graph.size,
        fixed_size=graph.fixed_size,
        mean=graph.mean,
        std=graph.std,
        scale=graph.scale,
        source=path.name,
        note=graph.note,
    )


def added_files() -> dict[str, Path]:
    """Weights that the user added: name -> file, sorted by name."""
    folder = config_folder() / "backbones"
    found = [one for one in folder.glob("*") if one.suffix in (".safetensors", ".onnx")] if folder.is_dir() else []
    return {one.stem: one for one in sorted(found)}


def add(name: str, file: Path) -> Encoder:
    """Check that a weights file fits and keep a copy in the user's configuration folder, under `name`.

    Args:
        name: A card, a timm model, or (for ONNX and for files of ours, which say how they are built) any new name.
        file: `.safetensors`, `.onnx`, or a state dict in `.pt`, `.pth`, `.bin` (converted; pickled objects are refused).
            What its training has seen (`seen.parquet` beside it) is kept with the copy.

    Raises:
        ConfigError: If the name is unknown or no name.
        ArtifactError: If the file does not fit, or other weights were added under this name.
    """
    from wazuka.nn import weights

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"`{name}` is no name for a backbone; use letters, digits, `.`, `_` and `-`.")
    file = Path(file).expanduser()
    folder = config_folder() / "backbones"
    if file.suffix.lower() == ".onnx":
        encoder = _from_graph(name, file)
        target = _free(folder / f"{name}.onnx", encoder)
        carry_provenance(file, target)
        copy_graph(file, target)
        return dataclasses.replace(encoder, path=target.resolve())
    if file.suffix.lower() in CHECKPOINTS:
        state, header = weights.read_checkpoint(file), None
    else:
        state, header = weights.read_state(file), weights.read_header(file)
    encoder, fitted = _from_state(name, file, state, header=header)
    target = _free(folder / f"{name}.safetensors", encoder)
    carry_provenance(file, target)  # first: weights whose past is known are never there without it
    weights.write_state(target, fitted, header=header_of(encoder))
    return dataclasses.replace(encoder, path=target.resolve())


def _free(target: Path, encoder: Encoder) -> Path:
    """Refuse to replace other weights of the same name: studies may have been made with them."""
    for other in (target.with_suffix(".safetensors"), target.with_suffix(".onnx")):
        if other.exists() and (other != target or resolve(encoder.name).weights_hash != encoder.weights_hash):
            raise ArtifactError(
                f"Backbone `{encoder.name}` was added before ({other}); remove that file or take another name."
            )
    return target


def listing() -> list[dict[str, Any]]:
    """Rows for `wazuka backbones list`: the cards, then what the user added. Imports neither torch nor timm."""
    added = added_files()
    rows = [_row(card, added.get(card.name)) for card in CARDS.values()]
    for name, path in added.items():
        if name not in CARDS:
            kind = "onnx" if path.suffix == ".onnx" else "torch"
            own = {"name": name, "kind": kind, "weights": "added", "weights_here": "yes", "summary": str(path)}
            rows.append(dict.fromkeys(rows[0]) | own)
    return rows


def _row(card: Card, added: Path | None) -> dict[str, Any]:
    from wazuka.nn import hub

    return {
        "name": card.name,
        "kind": "torch",
        "weights": "added" if added else "hub" if card.downloads else "to be added",
        "weights_here": "yes" if added or (card.downloads and hub.cached_file(card.source)) else "no",
        "gated": "yes" if card.gated else "no",
        "input_size": card.input_size,
        "feature_dim": card.feature_dim,
        "parameters": card.parameters,
        "license": card.license,
        "commercial_use": card.commercial_use,
        "summary": card.summary,
    }


def show(name: str) -> dict[str, Any]:
    """All that is known about one backbone, for `wazuka backbones show`; nothing is downloaded.

    Raises:
        ConfigError: If the name is unknown; the nearest one is offered.
    """
    added = added_files()
    card = CARDS.get(name)
    if card:
        facts = dict(to_plain(card))
        targets = {"lora_targets": card.lora_targets}
        access = f"accept the license at {card.page}, then `hf auth login` or HF_TOKEN" if card.gated else "open"
        return (
            _row(card, added.get(name))
            | facts
            | targets
            | {"gated": "yes" if card.gated else "no"}
            | ({"access": access} if card.downloads else {})
        )
    if name in added:
        return resolve(name).spec()
    from wazuka.nn import architectures

    if not _is_name(name):
        raise architectures.unknown_backbone(name, tuple(added))
    spec = architectures.inspect_network(name, {}, architectures.build_meta(name, {}))
    return {"name": name, "kind": "torch", "weights": "hub", "arch": name, "commercial_use": "unknown"} | dict(
        to_plain(spec)
    )
