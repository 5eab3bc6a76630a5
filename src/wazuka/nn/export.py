"""A finished predictor as one ONNX graph, from pixels to probabilities: `wazuka export RUN --out model.onnx`.

The graph takes float32 pixels (N, channels, size, size) with the values of the cache, after the study's image transform:
0..255, or Hounsfield units. Window, normalization, resizing to an encoder's fixed size and three channels are in the graph,
so its user only has to decode, crop and resize. Before the file is written the graph is run by onnxruntime at two batch
sizes, and refused where its probabilities differ from the predictor's by more than `TOLERANCE`.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wazuka import __version__
from wazuka.core import threads
from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.core.hashing import to_plain
from wazuka.core.records import writing
from wazuka.core.windows import DEFAULT_WINDOW, WINDOWS
from wazuka.nn.encoders import Encoder
from wazuka.nn.neighbors import DIGITS, Neighbors, Prototypes
from wazuka.nn.normalize import input_gain
from wazuka.nn.onnx_encoder import inspect_graph
from wazuka.nn.predictors import LinearHead, Network, Predictor
from wazuka.nn.rows import ArrayImages

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-4
"""Largest difference of a probability between graph and predictor."""
OPSET = 17
"""Of networks exported here; a user's own graph keeps its own."""
OLDEST_OPSET = 11
"""The operators added here mean the same from this version on."""
LARGEST_FILE = 2**31 - 2**24
"""An ONNX file is one protocol buffer, at most 2 GiB; some room is left for the graph itself."""
PIXELS, PROBABILITIES = "pixels", "probabilities"
CHECKED = 5
"""Images of the check; they are run at once, and the first one alone."""
TINY = {np.dtype(np.float32): 1e-30, np.dtype(np.float64): 1e-300}
"""Keeps the length of a feature vector of zeros from dividing by zero."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        difference: Largest difference of a probability between graph and predictor on the checked images.
        megabytes: Size of the file (10^6 bytes).
    """

    path: Path
    difference: float
    megabytes: float


def export(
    predictor: Predictor, path: Path, *, size: int, facts: Mapping[str, Any], overwrite: bool = False
) -> Exported:
    """Write a predictor as an ONNX graph with a free batch size.

    Args:
        predictor: A linear head, network, LoRA network, prototypes or neighbors; not one with `test-batchnorm`.
        path: `NAME.onnx`.
        size: Side of the images in pixels, as the study's transform makes them.
        facts: Content of `predictor.json`: classes, positive class, threshold, transform, licenses and provenance go into
            the graph's `metadata_props`, as JSON.
        overwrite: Whether a file that exists is replaced.

    Raises:
        ArtifactError: If the file exists, or the graph does not give the predictor's probabilities.
        ConfigError: If this predictor cannot be a graph.
    """
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ConfigError(f"--out {path} has no ending `.onnx`; give a file such as {path.with_suffix('.onnx')}.")
    if path.exists() and (path.is_dir() or not overwrite):
        raise ArtifactError(f"{path} exists already; choose another --out, or replace it with --overwrite.")
    _refuse(predictor)
    encoder: Encoder = predictor.encoder  # type: ignore[attr-defined]
    images = check_images(size, intensity=predictor.intensity)  # type: ignore[attr-defined]
    expected = predictor.predict_images(ArrayImages(images))
    body = _body(predictor, encoder.input_size if encoder.fixed_size else size)
    # Probabilities of float32 suffice for nearly all; votes of neighbors are counted in float64, as in the predictor.
    for dtype in (np.float64,) if isinstance(predictor, Neighbors) else (np.float32, np.float64):
        model = _assemble(predictor, body, images.shape[1:], np.dtype(dtype))
        _describe(model, predictor, size=size, facts=facts)
        content = model.SerializeToString()
        difference = _difference(content, images, expected, name=encoder.name)
        if difference <= TOLERANCE:
            break
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"The exported graph of `{encoder.name}` differs from the model by {difference:.2g} (at most {TOLERANCE:g} is"
            " right) and was not written; use `wazuka predict`, or train another backbone."
        )
    with writing(path) as file:
        file.write(content)
    return Exported(path=path, difference=difference, megabytes=len(content) / 1e6)


def _refuse(predictor: Predictor) -> None:
    if getattr(predictor, "test_batchnorm", False):
        raise ConfigError(
            "This model takes its BatchNorm statistics from the images that it predicts (`test-batchnorm`), which a fixed"
            " graph cannot; use `wazuka predict`, or train it without that remedy."
        )
    if not isinstance(predictor, LinearHead | Network | Prototypes | Neighbors):
        raise ConfigError(f"A {type(predictor).__name__} cannot be exported to ONNX; use `wazuka predict`.")
    encoder = predictor.encoder
    if encoder.kind == "torch" and 4 * encoder.parameters > LARGEST_FILE:
        raise ConfigError(
            f"`{encoder.name}` has {4 * encoder.parameters / 1e9:.1f} GB of weights, an ONNX file holds 2 GB at most; use"
            " `wazuka predict`, or a smaller backbone."
        )


def check_images(size: int, *, intensity: str) -> np.ndarray:
    """Draw images for the check: smooth fields of several contrasts, as tissue has them, and one of noise, as a pixel cache
    has them: (`CHECKED`, size, size, channels) uint8, or int16 Hounsfield units."""
    rng = np.random.default_rng(0)
    channels = 3 if intensity == "rgb8" else 1
    coarse = torch.from_numpy(rng.uniform(0, 1, (CHECKED, channels, 6, 6)))
    smooth = functional.interpolate(coarse, (size, size), mode="bicubic").permute(0, 2, 3, 1).numpy()
    contrast = np.linspace(0.2, 1, CHECKED).reshape(-1, 1, 1, 1)
    unit = 0.5 + contrast * (smooth - 0.5) + 0.05 * rng.normal(size=smooth.shape)
    unit[-1] = rng.uniform(0, 1, unit[-1].shape)
    if intensity == "hounsfield":
        return np.clip(unit * 2000 - 1000, -1024, 3071).astype(np.int16)
    return np.clip(unit * 255, 0, 255).astype(np.uint8)


def _body(predictor: Predictor, size: int) -> onnx.ModelProto:
    """The network between normalized images and feature vectors (or logits), its names behind `encoder/`."""
    from onnx import compose

    encoder: Encoder = predictor.encoder  # type: ignore[attr-defined]
    if isinstance(predictor, Network):
        model = network_graph(predictor.build(), size, name=encoder.name)
    elif encoder.kind == "torch":
        model = network_graph(encoder.build(), size, name=encoder.name)
    else:
        model = _given_graph(encoder)
    return compose.add_prefix(model, "encoder/")


def network_graph(network: nn.Module, size: int, *, name: str) -> onnx.ModelProto:
    """Trace a network (B, 3, size, size) -> (B, D) into a graph with a free batch size.

    Raises:
        ConfigError: If an operation of the network has no counterpart in ONNX.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="wazuka-") as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's remarks on fixed shapes; the check shows whether they matter
        file = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(
                network.eval(),
                (torch.zeros(2, 3, size, size),),
                file,
                input_names=["images"],
                output_names=["vectors"],
                dynamic_axes={"images": {0: "n"}, "vectors": {0: "n"}},
                opset_version=OPSET,
                dynamo=False,  # the exporter that needs no package beside torch
            )
        except Exception as error:  # torch's errors have no common class below Exception
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ConfigError(
                f"`{name}` cannot be exported to ONNX ({reason}); use `wazuka predict`, or another backbone."
            ) from error
        return onnx.load(file)


def _given_graph(encoder: Encoder) -> onnx.ModelProto:
    """A user's frozen graph, reduced to its one input and the output that is used."""
    import onnx

    assert encoder.path is not None
    encoder.open_graph()  # refuses a file that has changed
    found = inspect_graph(encoder.path)
    if found.batch is not None:
        raise ConfigError(
            f"{encoder.path} takes exactly {found.batch} images at a time; export the encoder with a free batch size."
        )
    model = onnx.load(encoder.path, load_external_data=False)
    version = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
    if version < OLDEST_OPSET:
        raise ConfigError(
            f"{encoder.path} is written in opset {version}; export the encoder in opset {OLDEST_OPSET} or later."
        )
    model.ir_version = max(model.ir_version, 4)  # before, stored tensors had to be inputs, too
    for values, name in ((model.graph.output, found.output_name), (model.graph.input, found.input_name)):
        for position in reversed(range(len(values))):
            if values[position].name != name:
                del values[position]
    del model.metadata_props[:]
    return model


class _Nodes:
    """Operators added one after the other."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any, dtype: Any) -> str:
        from onnx import numpy_helper

        name = f"{self.prefix}constant-{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(values, dtype)), name))
        return name

    def add(self, kind: str, *inputs: str, result: str | None = None, **attributes: Any) -> str:
        return self.add_all(kind, *inputs, results=[result or f"{self.prefix}{len(self.nodes)}"], **attributes)[0]

    def add_all(self, kind: str, *inputs: str, results: Sequence[str], **attributes: Any) -> list[str]:
        from onnx import helper

        name = f"{self.prefix}{kind}-{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), list(results), name=name, **attributes))
        return list(results)


def _assemble(
    predictor: Predictor, body: onnx.ModelProto, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> onnx.ModelProto:
    """Put normalization before the body and the head after it."""
    import onnx
    from onnx import TensorProto, helper

    height, width, channels = shape
    first, last = _Nodes("input/"), _Nodes("head/")
    _normalize(first, predictor, shape, result=body.graph.input[0].name)
    logits = _head(last, predictor, body.graph.output[0].name, dtype)
    last.add("Cast", logits, result=PROBABILITIES, to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [*first.nodes, *body.graph.node, *last.nodes],
        "wazuka",
        [helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["n", channels, height, width])],
        [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["n", len(predictor.classes)])],
        initializer=[*first.constants, *body.graph.initializer, *last.constants],
        sparse_initializer=list(body.graph.sparse_initializer),
    )
    model = onnx.ModelProto()
    model.CopyFrom(body)
    model.graph.CopyFrom(graph)
    model.producer_name, model.producer_version = "wazuka", __version__
    return model


def _normalize(nodes: _Nodes, predictor: Predictor, shape: tuple[int, ...], *, result: str) -> None:
    """Pixels of the cache to the body's input: as `nn.normalize`."""
    encoder: Encoder = predictor.encoder  # type: ignore[attr-defined]
    height, _, channels = shape
    single = np.float32
    if predictor.intensity == "hounsfield":  # type: ignore[attr-defined]
        center, width = WINDOWS[predictor.window or DEFAULT_WINDOW]  # type: ignore[attr-defined]
        shifted = nodes.add("Sub", PIXELS, nodes.constant(center - width / 2, single))
        scaled = nodes.add("Div", shifted, nodes.constant(width, single))
        value = nodes.add("Min", nodes.add("Max", scaled, nodes.constant(0, single)), nodes.constant(1, single))
    else:
        value = nodes.add("Div", PIXELS, nodes.constant(255, single))
    if encoder.fixed_size and height != encoder.input_size:
        matrix = resizing_matrix(height, encoder.input_size)
        rows = nodes.add("MatMul", nodes.constant(matrix, single), value)
        value = nodes.add("MatMul", rows, nodes.constant(matrix.T, single))
    if channels == 1:
        value = nodes.add("Concat", value, value, value, axis=1)
    gain, offset = (np.reshape(one, (1, 3, 1, 1)) for one in input_gain(encoder))
    scaled = nodes.add("Mul", value, nodes.constant(gain, single))
    nodes.add("Add", scaled, nodes.constant(offset, single), result=result)


def resizing_matrix(source: int, target: int) -> np.ndarray:
    """The antialiased bilinear filter of `nn.normalize` from `source` to `target` pixels, as a matrix (target, source)."""
    unit = torch.eye(source, dtype=torch.float64)[None, None]  # column j is an image line with its pixel j alone lit
    resized = functional.interpolate(unit, (target, source), mode="bilinear", align_corners=False, antialias=True)
    return resized[0, 0].numpy()


def _head(nodes: _Nodes, predictor: Predictor, vectors: str, dtype: np.dtype[Any]) -> str:
    """Feature vectors, or a network's logits, to probabilities (n, classes) of `dtype`: as `predict_features`."""
    from onnx import helper

    value = nodes.add("Cast", vectors, to=helper.np_dtype_to_tensor_dtype(dtype))
    if isinstance(predictor, LinearHead):
        centered = nodes.add("Sub", value, nodes.constant(predictor.mean, dtype))
        scaled = nodes.add("Div", centered, nodes.constant(predictor.scale, dtype))
        weight, bias = np.asarray(predictor.weight), np.asarray(predictor.bias)
        if weight.shape[1] == 1:  # one logit for the second class: the first class's is zero
            weight, bias = np.hstack([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
        product = nodes.add("MatMul", scaled, nodes.constant(weight, dtype))
        value = nodes.add("Add", product, nodes.constant(bias, dtype))
    elif isinstance(predictor, Prototypes):
        points = _to_unit(
            nodes, nodes.add("Sub", value, nodes.constant(predictor.mean, dtype)), predictor.encoder.feature_dim, dtype
        )
        # |z - c|^2 without |z|^2, which is the same for all classes and leaves the softmax as it is
        weight = 2 * predictor.prototypes.T / predictor.temperature
        bias = np.log(predictor.prior) - (predictor.prototypes**2).sum(1) / predictor.temperature
        product = nodes.add("MatMul", points, nodes.constant(weight, dtype))
        value = nodes.add("Add", product, nodes.constant(bias, dtype))
    elif isinstance(predictor, Neighbors):
        return _vote(nodes, predictor, _to_unit(nodes, value, predictor.encoder.feature_dim, dtype), dtype)
    return nodes.add("Softmax", value, axis=1)


def _to_unit(nodes: _Nodes, value: str, dim: int, dtype: np.dtype[Any]) -> str:
    """Scale rows (n, dim) to length 1; a row of zeros stays."""
    # A product with ones instead of a reduction, whose form depends on the opset.
    squares = nodes.add("MatMul", nodes.add("Mul", value, value), nodes.constant(np.ones((dim, 1)), dtype))
    length = nodes.add("Max", nodes.add("Sqrt", squares), nodes.constant(TINY[dtype], dtype))
    return nodes.add("Div", value, length)


def _vote(nodes: _Nodes, predictor: Neighbors, points: str, dtype: np.dtype[Any]) -> str:
    """The votes of the k nearest rows of the support: `neighbors.nearest_rows` and `neighbors.vote`."""
    k = predictor.k
    cosine = nodes.add("MatMul", points, nodes.constant(predictor.support.T, dtype))
    whole = nodes.add("Round", nodes.add("Mul", cosine, nodes.constant(DIGITS, dtype)))
    # TopK takes the lower row first among equals, as the predictor does.
    best, rows = nodes.add_all("TopK", whole, nodes.constant([k], np.int64), results=["head/best", "head/rows"], axis=1)
    highest = nodes.add("Gather", best, nodes.constant([0], np.int64), axis=1)
    exponent = nodes.add("Sub", best, highest)
    scale = nodes.constant(1 / (DIGITS * predictor.temperature), dtype)
    weights = nodes.add("Exp", nodes.add("Mul", exponent, scale))
    shares = nodes.add("Gather", nodes.constant(predictor.shares, dtype), rows, axis=0)
    flat = nodes.add("Reshape", weights, nodes.constant([0, 1, k], np.int64))
    votes = nodes.add("MatMul", flat, shares)
    votes = nodes.add("Reshape", votes, nodes.constant([0, len(predictor.classes)], np.int64))
    prior = predictor.smoothing * predictor.shares.mean(axis=0)
    total = nodes.add("MatMul", weights, nodes.constant(np.ones((k, 1)), dtype))
    total = nodes.add("Add", total, nodes.constant(predictor.smoothing, dtype))
    return nodes.add("Div", nodes.add("Add", votes, nodes.constant(prior, dtype)), total)


def _describe(model: onnx.ModelProto, predictor: Predictor, *, size: int, facts: Mapping[str, Any]) -> None:
    """Write what a user must know into `metadata_props`, each value as JSON."""
    from onnx import helper

    intensity = predictor.intensity  # type: ignore[attr-defined]
    values = {
        "classes": predictor.classes,
        "positive": facts.get("positive"),
        "threshold": facts.get("threshold", 0.5),
        "image": facts.get("image"),
        "intensity": intensity,
        "pixels": "Hounsfield units" if intensity == "hounsfield" else "0..255",
        "trained_on": facts.get("trained_on"),
        "patches": facts.get("patches"),
        "licenses": facts.get("licenses"),
        "provenance": facts.get("provenance"),
        "simulated": facts.get("simulated", False),
        "encoder": {"name": predictor.encoder.name, "weights_hash": predictor.encoder.weights_hash},  # type: ignore[attr-defined]
        "wazuka": __version__,
        # The transform of an ONNX encoder, in our own keys: the graph takes pixels as they are.
        "size": size,
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "scale": 1,
    }
    helper.set_model_props(model, {name: json.dumps(to_plain(one), ensure_ascii=False) for name, one in values.items()})


def _difference(content: bytes, images: np.ndarray, expected: np.ndarray, *, name: str) -> float:
    """Largest difference of the graph's probabilities from `expected`, of all images at once and of the first alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads.allowed()
    options.log_severity_level = 3
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        found = [session.run([PROBABILITIES], {PIXELS: pixels[:count]})[0] for count in (len(pixels), 1)]
    except Exception as error:  # onnxruntime's errors have no common class below Exception
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"The exported graph of `{name}` does not run ({reason}); use `wazuka predict`, or another backbone."
        ) from error
    return float(max(np.abs(one - expected[: len(one)]).max() for one in found))
