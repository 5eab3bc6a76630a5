"""Predictors: what an adapter gives back and `wazuka predict` uses. Safetensors and JSON, rebuilt exactly.

A saved predictor is a folder with `predictor.json` (kind, classes, encoder, then what `describe` adds: positive class,
threshold, image transform, intensity, provenance, licenses) and its tensors. A `linear-head` needs its encoder: a copy
in `encoder/`, or a relative path to a folder of the same run.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.special import expit, softmax

from wazuka.core.errors import ArtifactError, ConfigError, DataError, nearest
from wazuka.core.hashing import to_plain
from wazuka.core.records import read_json, write_json
from wazuka.nn.encoders import Encoder, from_spec, load_encoder, save_encoder
from wazuka.nn.features import Forward, input_batches, load_forward, network_forward, run_batches
from wazuka.nn.network import Classifier
from wazuka.nn.rows import ImageRows
from wazuka.nn.weights import read_state, write_state

SCHEMA = 1
FILE = "predictor.json"
TENSORS = "predictor.safetensors"
ENCODER_COPY = "encoder"

KINDS: dict[str, str] = {
    "linear-head": "wazuka.nn.predictors:LinearHead",
    "network": "wazuka.nn.predictors:Network",
    "neighbors": "wazuka.nn.neighbors:Neighbors",
    "prototypes": "wazuka.nn.neighbors:Prototypes",
    "lora": "wazuka.nn.lora:LoraNetwork",
}
"""Kind -> its class, which has `from_folder(folder, facts)`. A new kind of predictor adds one line here."""
STRUCTURE = frozenset(
    {
        "schema",
        "kind",
        "classes",
        "encoder",
        "trained_params",
        "lora",
        "test_batchnorm",
        "k",
        "temperature",
        "smoothing",
    }
)
"""Keys of `predictor.json` that only `save` writes."""


@runtime_checkable
class Predictor(Protocol):
    """Anything that turns cached pixels into class probabilities."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the columns."""

    @property
    def trained_params(self) -> int:
        """Values that its training could change."""

    def predict_images(self, images: ImageRows, *, device: str = "cpu") -> np.ndarray:
        """Return (n, classes) float64 probabilities; rows sum to 1."""

    def save(self, folder: Path, *, encoder_folder: Path | None = None) -> None:
        """Write the predictor; `encoder_folder` (relative to `folder`) spares a copy of the encoder."""


@runtime_checkable
class FeaturePredictor(Predictor, Protocol):
    """A predictor on frozen features, which a study has computed already: what adapters with `input="features"` return."""

    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Return (n, classes) float64 probabilities of features (n, dim); the same as from the images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearHead:
    """A frozen encoder and a linear classifier on its standardized features.

    Attributes:
        encoder: The backbone.
        classes: Class names.
        mean: (D,) subtracted from the features.
        scale: (D,) divides them.
        weight: (D, K) for a softmax over K classes; (D, 1) with two classes: one logit for `classes[1]`.
        bias: (K,) or (1,).
        intensity: Of the images, as in the dataset's card.
        window: Window of Hounsfield units, for CT.
    """

    encoder: Encoder
    classes: tuple[str, ...]
    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    intensity: str = "rgb8"
    window: str | None = None
    _forwards: dict[str, Forward] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        columns = self.weight.shape[1]
        assert columns == len(self.classes) or (columns == 1 and len(self.classes) == 2), self.weight.shape
        assert self.weight.shape[0] == len(self.mean) == len(self.scale) == self.encoder.feature_dim, self.weight.shape
        assert self.bias.shape == (columns,), self.bias.shape

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_forwards": {}}

    @property
    def trained_params(self) -> int:
        """Values of weight and bias."""
        return int(self.weight.size + self.bias.size)

    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """Map features (n, D) to probabilities (n, classes) float64.

        Raises:
            DataError: If the features have another dimension than the encoder's.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise DataError(f"Features have shape {features.shape}; give (images, {len(self.mean)}).")
        logits = ((features.astype(np.float64) - self.mean) / self.scale) @ self.weight.astype(np.float64) + self.bias
        return to_probabilities(logits)

    def predict_images(self, images: ImageRows, *, device: str = "cpu") -> np.ndarray:
        """Map cached pixels to probabilities (n, classes) float64."""
        if device not in self._forwards:
            self._forwards[device] = load_forward(self.encoder, device=device)
        parts = _outputs(self._forwards[device], images, self, device)
        return self.predict_features(np.concatenate([np.empty((0, len(self.mean)), np.float32), *parts]))

    def save(self, folder: Path, *, encoder_folder: Path | None = None) -> None:
        """Write the predictor into `folder`.

        Args:
            folder: Made if absent.
            encoder_folder: A folder made by `save_encoder`, relative to `folder`; None copies the encoder, so that
                `folder` can be moved and mailed.
        """
        folder = Path(folder)
        encoder, where = written_encoder(self.encoder, folder, encoder_folder)
        tensors = {
            name: torch.from_numpy(np.array(getattr(self, name))) for name in ("mean", "scale", "weight", "bias")
        }
        write_state(folder / TENSORS, tensors)
        write_facts(self, folder, "linear-head", encoder, {"encoder_folder": where})

    @classmethod
    def from_folder(cls, folder: Path, facts: Mapping[str, Any]) -> LinearHead:
        """Read what `save` wrote; `facts` is the content of `predictor.json`."""
        encoder = load_its_encoder(folder, facts)
        tensors: dict[str, Any] = {name: value.numpy() for name, value in read_state(folder / TENSORS).items()}
        return cls(encoder=encoder, **common_facts(facts), **tensors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network trained end to end: backbone and linear head with softmax.

    Attributes:
        encoder: The backbone it started from; its architecture and input are the network's.
        classes: Class names.
        state: State dict of `network.Classifier`, on the CPU.
        intensity: Of the images, as in the dataset's card.
        window: Window of Hounsfield units, for CT.
        trained_params: Values that its training could change.
        test_batchnorm: Whether BatchNorm takes its statistics from the images to be predicted, all those of one call
            together (one domain): such predictions are transductive.
    """

    encoder: Encoder
    classes: tuple[str, ...]
    state: Mapping[str, torch.Tensor]
    trained_params: int
    test_batchnorm: bool = False
    intensity: str = "rgb8"
    window: str | None = None
    _forwards: dict[str, Forward] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_forwards": {}}

    def build(self) -> Classifier:
        """Build the trained network, in evaluation mode, on the CPU.

        Raises:
            ArtifactError: If the saved tensors do not fit the network.
        """
        network = Classifier(self.encoder.build_empty(), self.encoder.feature_dim, len(self.classes))
        try:
            network.load_state_dict(dict(self.state))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ArtifactError(f"The saved network of `{self.encoder.name}` does not fit ({reason}).") from error
        return network.eval()

    def predict_images(self, images: ImageRows, *, device: str = "cpu") -> np.ndarray:
        """Map cached pixels to probabilities (n, classes) float64."""
        if self.test_batchnorm and len(images):
            return self.settled(images, device=device).predict_images(images, device=device)
        if device not in self._forwards:
            network = self.build().to(device).to(memory_format=torch.channels_last)
            self._forwards[device] = network_forward(network, device=device)
        parts = _outputs(self._forwards[device], images, self, device)
        logits = np.concatenate([np.empty((0, len(self.classes)), np.float32), *parts])
        return to_probabilities(logits.astype(np.float64))

    def settled(self, images: ImageRows, *, device: str = "cpu") -> Network:
        """With `test_batchnorm`: the network with its BatchNorm statistics taken from these images, for good; else itself.

        Raises:
            DataError: If the images are too few for statistics.
        """
        if not self.test_batchnorm:
            return self
        from wazuka.nn.batchnorm import with_statistics_of

        inputs = input_batches(images, self.encoder, intensity=self.intensity, window=self.window, device=device)
        network = with_statistics_of(self.build().to(device), inputs, name=self.encoder.name)
        state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
        return Network(
            encoder=self.encoder,
            classes=self.classes,
            state=state,
            trained_params=self.trained_params,
            intensity=self.intensity,
            window=self.window,
        )

    def save(self, folder: Path, *, encoder_folder: Path | None = None) -> None:
        """Write the predictor; a network holds its own weights, so `encoder_folder` is not needed."""
        del encoder_folder
        write_state(Path(folder) / TENSORS, self.state)
        write_facts(self, Path(folder), "network", self.encoder, {"test_batchnorm": self.test_batchnorm})

    @classmethod
    def from_folder(cls, folder: Path, facts: Mapping[str, Any]) -> Network:
        """Read what `save` wrote; `facts` is the content of `predictor.json`."""
        encoder = from_spec(facts["encoder"], where=str(folder / FILE))
        state = read_state(folder / TENSORS)
        return cls(encoder=encoder, state=state, **cls.common(facts))

    @staticmethod
    def common(facts: Mapping[str, Any]) -> dict[str, Any]:
        """What all kinds of trained networks read from `predictor.json`."""
        rest = {"trained_params": facts["trained_params"], "test_batchnorm": facts.get("test_batchnorm", False)}
        return common_facts(facts) | rest


def settled(predictor: Predictor, images: ImageRows, *, device: str = "cpu") -> Predictor:
    """A predictor for the images of one domain: one with `test-batchnorm` takes its statistics from them."""
    return predictor.settled(images, device=device) if isinstance(predictor, Network) else predictor


def to_probabilities(logits: np.ndarray) -> np.ndarray:
    """Turn logits (n, K), or (n, 1) for the second of two classes, into probabilities (n, classes)."""
    if logits.shape[1] == 1:
        return np.concatenate([expit(-logits), expit(logits)], axis=1)
    return np.asarray(softmax(logits, axis=1))


def load(folder: Path) -> Predictor:
    """Load a saved predictor of any kind.

    Raises:
        ArtifactError: If the folder holds none, its kind is unknown or a part is missing.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise ArtifactError(f"{folder} holds no {FILE}; give a folder that a finished Wazuka command wrote.")
    facts = read_json(folder / FILE)
    kind = facts.get("kind") if isinstance(facts, dict) else None
    if kind not in KINDS:
        close = nearest(str(kind), KINDS)
        hint = f"did you mean `{close}`?" if close else f"known: {', '.join(KINDS)}."
        raise ArtifactError(f"{folder / FILE} has the kind `{kind}`; {hint}")
    module, _, name = KINDS[kind].partition(":")
    try:
        return getattr(importlib.import_module(module), name).from_folder(folder, facts)
    except (KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(f"{folder / FILE} is damaged ({error}); make the folder again.") from error


def describe(folder: Path, facts: Mapping[str, Any]) -> None:
    """Add facts to a saved predictor: image transform, intensity, positive class, threshold, provenance, licenses.

    `intensity` and `image.window` decide how its input is made from then on. `encoder_folder` may be set too, where a
    folder was moved within its run.
    """
    fixed = sorted(STRUCTURE & set(facts))
    assert not fixed, f"{fixed} are written by `save`"
    path = Path(folder) / FILE
    write_json(path, read_json(path) | dict(to_plain(dict(facts))))


def _outputs(forward: Forward, images: ImageRows, predictor: LinearHead | Network, device: str) -> list[np.ndarray]:
    how = {"intensity": predictor.intensity, "window": predictor.window, "device": device}
    return list(run_batches(forward, images, predictor.encoder, **how))  # type: ignore[arg-type]


def written_encoder(encoder: Encoder, folder: Path, encoder_folder: Path | None) -> tuple[Encoder, str]:
    """See to it that a predictor in `folder` finds its encoder.

    Args:
        encoder_folder: A folder made by `save_encoder`, relative to `folder`; None copies the encoder into `folder`.

    Returns:
        The encoder, and the path that `predictor.json` keeps as `encoder_folder`.
    """
    if encoder_folder is None:
        return save_encoder(encoder, folder / ENCODER_COPY), ENCODER_COPY
    if Path(encoder_folder).is_absolute():
        encoder_folder = Path(os.path.relpath(encoder_folder, folder.resolve()))
    return encoder, Path(encoder_folder).as_posix()


def load_its_encoder(folder: Path, facts: Mapping[str, Any]) -> Encoder:
    """Load the encoder that a predictor was trained on.

    Raises:
        ArtifactError: If it has other weights now.
    """
    encoder = load_encoder(folder / facts["encoder_folder"])
    if encoder.weights_hash != facts["encoder"]["weights_hash"]:
        raise ArtifactError(
            f"{folder} was trained on other weights than those in {folder / facts['encoder_folder']}; restore these."
        )
    return encoder


def write_facts(predictor: Predictor, folder: Path, kind: str, encoder: Encoder, more: dict[str, Any]) -> None:
    """Write `predictor.json`, last."""
    spec = encoder.spec() | {"path": None}
    facts = {
        "schema": SCHEMA,
        "kind": kind,
        "classes": predictor.classes,
        "positive": None,
        "threshold": 0.5,
        "encoder": spec,
        "intensity": predictor.intensity,  # type: ignore[attr-defined]
        "image": {"window": predictor.window},  # type: ignore[attr-defined]
        "licenses": {"backbone": encoder.license, "commercial_use": encoder.commercial_use},
        "trained_params": predictor.trained_params,
    }
    write_json(folder / FILE, facts | more)


def common_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "classes": tuple(facts["classes"]),
        "intensity": facts["intensity"],
        "window": (facts.get("image") or {}).get("window"),
    }
