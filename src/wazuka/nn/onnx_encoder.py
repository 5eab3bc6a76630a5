"""Frozen encoders given as ONNX graphs: checked before they run, then run by onnxruntime.

A graph takes images N x 3 x H x W and gives one vector an image (N x D). Its transform is in its `metadata_props` or in
a `FILE.onnx.json` beside it (`size, mean, std, scale`: input = (pixel * scale - mean) / std, pixels in 0..255); if in
neither, inputs are RGB scaled to [-1, 1] at the graph's own size, and the encoder's note says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wazuka.core import threads
from wazuka.core.config import build
from wazuka.core.errors import ArtifactError
from wazuka.core.records import read_json
from wazuka.nn.cards import HALF, Triple

if TYPE_CHECKING:
    import onnx
    import onnxruntime

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that onnxruntime itself brings; all others need foreign code."""
FLOATS = (1, 10, 11, 16)
"""ONNX's numbers of float32, float16, float64 and bfloat16: tensors of these types count as parameters."""
TRANSFORM_KEYS = ("size", "mean", "std", "scale")
DEFAULT_SIZE = 224
"""Where neither the graph nor its transform names one."""


@dataclass(frozen=True, kw_only=True)
class OnnxTransform:
    """The keys of a `FILE.onnx.json`, or of the same names in `metadata_props`."""

    mean: Triple
    std: Triple
    size: int | None = None
    """Pixels a side; needed only where the graph leaves it open."""
    scale: float = 1 / 255
    """Factor on pixels in 0..255, applied first."""

    def __post_init__(self) -> None:
        if min(self.std) <= 0 or self.scale <= 0 or (self.size is not None and self.size < 1):
            raise ValueError(f"`std`, `scale` and `size` must be above 0, not {self.std}, {self.scale}, {self.size}")


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """What was found in a graph.

    Attributes:
        batch: Images a run, where the graph fixes it; else None.
        fixed_size: Whether only `size` pixels a side work.
        parameters: Stored floating-point values.
        note: What was assumed; "" if nothing.
    """

    input_name: str
    output_name: str
    batch: int | None
    size: int
    fixed_size: bool
    feature_dim: int
    parameters: int
    mean: Triple
    std: Triple
    scale: float
    note: str


class OnnxRunner:
    """Run a graph on normalized batches.

    Args:
        path: A graph that `inspect_graph` accepted.
        device: "cuda..." uses the GPU where onnxruntime was built for it; `provider` says what runs.
    """

    def __init__(self, path: Path, graph: OnnxGraph, *, device: str = "cpu") -> None:
        self.graph = graph
        self.session = _open_session(path, device=device)
        self.provider: str = self.session.get_providers()[0]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Map (B, 3, H, W) float32 to features (B, dim) float32; a graph of fixed batch size gets its last run padded."""
        fixed = self.graph.batch
        if fixed is None:
            return self._run(batch)
        parts = []
        for start in range(0, len(batch), fixed):
            part = batch[start : start + fixed]
            padding = np.zeros((fixed - len(part), *batch.shape[1:]), batch.dtype)
            parts.append(self._run(np.concatenate([part, padding]))[: len(part)])
        return np.concatenate(parts)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        feed = {self.graph.input_name: np.ascontiguousarray(batch, dtype=np.float32)}
        return np.asarray(self.session.run([self.graph.output_name], feed)[0])


def inspect_graph(path: Path) -> OnnxGraph:
    """Check a graph before anything in it runs, then read its input, output and transform.

    Raises:
        ArtifactError: If the file is missing or no ONNX graph, keeps weights in other files, needs operators of its
            own, does not take N x 3 x H x W float32, or does not give N x D.
    """
    path = Path(path)
    model = _load_model(path)
    _refuse_unsafe(model, path)
    initializers = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in initializers]
    if len(inputs) != 1:
        names = ", ".join(f"`{one.name}`" for one in inputs)
        raise ArtifactError(f"{path} has {len(inputs)} inputs ({names}); give a graph with one, the images.")
    batch, graph_size = _read_input(inputs[0], path)
    transform, note = _read_transform(model, path)
    if graph_size and transform.size and graph_size != transform.size:
        raise ArtifactError(
            f"{path} takes images of {graph_size} pixels, its transform says `size` {transform.size}; mend the transform."
        )
    size = graph_size or transform.size or DEFAULT_SIZE
    name, feature_dim = _find_output(model, path, inputs[0].name, batch=batch or 2, size=size)
    return OnnxGraph(
        input_name=inputs[0].name,
        output_name=name,
        batch=batch,
        size=size,
        fixed_size=graph_size is not None,
        feature_dim=feature_dim,
        parameters=sum(int(np.prod(one.dims)) for one in _tensors(model) if one.data_type in FLOATS),
        mean=transform.mean,
        std=transform.std,
        scale=transform.scale,
        note=note,
    )


def _load_model(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; give the path of an ONNX file.")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ArtifactError(f"{path} is not an ONNX file ({_first_line(error)}); give one.") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} holds an empty graph; give an encoder exported as ONNX.")
    return model


def _refuse_unsafe(model: onnx.ModelProto, path: Path) -> None:
    """Refuse what would make onnxruntime read other files or run foreign code."""
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL or len(tensor.external_data):
            raise ArtifactError(f"{path} keeps tensor `{tensor.name}` in another file; export it as one file.")
    own = {function.domain for function in model.functions}
    for node in _nodes(model):
        if node.domain not in DOMAINS and node.domain not in own:
            raise ArtifactError(
                f"{path} needs the operator `{node.domain}.{node.op_type}`, which is not part of ONNX; export it with standard operators."
            )


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes, also those of functions and of the graphs inside `If`, `Loop` and `Scan`."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                waiting.extend(graph.node)


def _tensors(model: onnx.ModelProto) -> Iterator[Any]:
    """All stored tensors, wherever they stand."""
    graphs = [model.graph]
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            for graph in graphs:
                yield from graph.initializer


def _read_input(value: onnx.ValueInfoProto, path: Path) -> tuple[int | None, int | None]:
    """Return (batch size or None, pixels a side or None), None where the graph leaves it open."""
    import onnx

    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ArtifactError(f"{path} takes {kind} images; export it with float32 input N x 3 x H x W.")
    dims = [one.dim_value if one.HasField("dim_value") else None for one in tensor.shape.dim]
    written = " x ".join("?" if one is None else str(one) for one in dims)
    if len(dims) != 4:
        raise ArtifactError(f"{path} takes an input of shape {written or 'unknown'}; export it with N x 3 x H x W.")
    batch, channels, height, width = dims
    if channels not in (3, None):
        hint = " (channels last)" if width == 3 else ""
        raise ArtifactError(f"{path} takes images of shape {written}{hint}; export it with N x 3 x H x W.")
    if height != width:
        raise ArtifactError(
            f"{path} takes images of {height or '?'} x {width or '?'} pixels; export it for square images."
        )
    return batch or None, height or None


def _read_transform(model: onnx.ModelProto, path: Path) -> tuple[OnnxTransform, str]:
    """Find the transform: the JSON file beside the graph, else the graph's metadata, else [-1, 1]."""
    beside = path.with_name(path.name + ".json")
    if beside.is_file():
        values, where = read_json(beside), str(beside)
        if not isinstance(values, dict):
            raise ArtifactError(f"{beside} holds no mapping; write the keys {', '.join(TRANSFORM_KEYS)}.")
    else:
        found = {one.key: one.value for one in model.metadata_props if one.key in TRANSFORM_KEYS}
        if not found:
            return OnnxTransform(mean=HALF, std=HALF), "no transform given with the graph: RGB scaled to [-1, 1]"
        where = f"metadata_props of {path}"
        try:
            values = {key: json.loads(text) for key, text in found.items()}
        except json.JSONDecodeError as error:
            raise ArtifactError(f"{where} are not JSON values ({error}); mend them.") from error
    return build(OnnxTransform, values, where=where), ""


def _find_output(model: onnx.ModelProto, path: Path, input_name: str, *, batch: int, size: int) -> tuple[str, int]:
    """Run the graph on blank images and take its one output of shape (batch, D)."""
    session = _open_session(path, device="cpu")
    names = [one.name for one in model.graph.output]
    try:
        values = session.run(names, {input_name: np.zeros((batch, 3, size, size), np.float32)})
    except Exception as error:  # onnxruntime's errors have no common class below Exception
        raise ArtifactError(
            f"{path} fails on blank images of {size} pixels ({_first_line(error)}); export it again."
        ) from error
    vectors = [
        (name, value.shape[1])
        for name, value in zip(names, values, strict=True)
        if np.ndim(value) == 2 and value.shape[0] == batch
    ]
    if len(vectors) != 1:
        shapes = ", ".join(f"`{name}` {np.shape(value)}" for name, value in zip(names, values, strict=True))
        raise ArtifactError(
            f"{path} gives {shapes} for {batch} images; export it with one output (N, D), pooled features."
        )
    return vectors[0]


def _open_session(path: Path, *, device: str) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads.allowed()
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    available = set(onnxruntime.get_available_providers())
    providers = [one for one in [*wanted, "CPUExecutionProvider"] if one in available]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common class below Exception
        raise ArtifactError(
            f"{path} cannot be opened by onnxruntime ({_first_line(error)}); export it again."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
