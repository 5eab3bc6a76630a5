"""Frozen encoders as ONNX: what is read from a graph, what is refused before it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.toy_images import noise
from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.nn import backbones, features
from wazuka.nn.rows import ArrayImages

Shape = list[Any]


def write_graph(
    path: Path,
    *,
    shape: Shape | None = None,
    pooled: bool = True,
    domain: str = "",
    dtype: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
    change: Callable[[onnx.ModelProto], None] = lambda model: None,
) -> Path:
    """A graph that averages each channel and mixes the three means into four features."""
    mix = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "mix")
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    nodes = [helper.make_node("ReduceMean", ["image", "axes"], ["means"], keepdims=0)]
    nodes.append(helper.make_node("MatMul", ["means", "mix"], ["features"], domain=domain))
    output = "features" if pooled else "image"
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", dtype, shape or ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [mix, axes],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    if metadata:
        helper.set_model_props(model, metadata)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def expected(images: np.ndarray, *, mean: float, std: float, scale: float) -> np.ndarray:
    means = ((images.astype(np.float64) * scale - mean) / std).mean(axis=(1, 2))
    return means @ np.arange(12).reshape(3, 4)


def test_without_a_transform_inputs_are_scaled_to_minus_one_to_one_and_the_note_says_so(tmp_path: Path) -> None:
    encoder = backbones.resolve(str(write_graph(tmp_path / "g.onnx")))
    assert (encoder.kind, encoder.feature_dim, encoder.input_size, encoder.fixed_size) == ("onnx", 4, 16, True)
    assert encoder.note == "no transform given with the graph: RGB scaled to [-1, 1]"
    assert encoder.parameters == 12
    images = noise(5, size=16)
    found = features.compute_features(ArrayImages(images), encoder, intensity="rgb8")
    np.testing.assert_allclose(found, expected(images, mean=0.5, std=0.5, scale=1 / 255), atol=1e-4)


@pytest.mark.parametrize("where", ["file", "metadata"])
def test_the_transform_comes_from_the_file_beside_or_from_the_metadata(tmp_path: Path, where: str) -> None:
    values = {"size": 16, "mean": [0.25, 0.25, 0.25], "std": [2, 2, 2], "scale": 0.01}
    metadata = {key: json.dumps(value) for key, value in values.items()} | {"author": "someone"}
    path = write_graph(
        tmp_path / "g.onnx", shape=["n", 3, "h", "w"], metadata=metadata if where == "metadata" else None
    )
    if where == "file":
        (tmp_path / "g.onnx.json").write_text(json.dumps(values))
    encoder = backbones.resolve(str(path))
    assert encoder.note == "" and not encoder.fixed_size and encoder.input_size == 16
    images = noise(3, size=16)
    found = features.compute_features(ArrayImages(images), encoder, intensity="rgb8")
    np.testing.assert_allclose(found, expected(images, mean=0.25, std=2, scale=0.01), atol=1e-4)


def test_a_graph_of_fixed_batch_size_takes_any_number_of_images(tmp_path: Path) -> None:
    encoder = backbones.resolve(str(write_graph(tmp_path / "g.onnx", shape=[2, 3, 16, 16])))
    images = noise(5, size=16)
    found = features.compute_features(ArrayImages(images), encoder, intensity="rgb8")
    np.testing.assert_allclose(found, expected(images, mean=0.5, std=0.5, scale=1 / 255), atol=1e-4)


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("text", TensorProto.INT64, [1]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"change": external}, r"g\.onnx keeps tensor `mix` in another file; export it as one file\."),
        ({"domain": "custom.ops"}, r"needs the operator `custom\.ops\.MatMul`, which is not part of ONNX"),
        (
            {"shape": ["n", 16, 16, 3]},
            r"images of shape \? x 16 x 16 x 3 \(channels last\); export it with N x 3 x H x W",
        ),
        ({"shape": ["n", 1, 16, 16]}, r"images of shape \? x 1 x 16 x 16; export it with N x 3 x H x W"),
        ({"shape": ["n", 3, 16]}, r"takes an input of shape \? x 3 x 16; export it with N x 3 x H x W"),
        ({"shape": ["n", 3, 16, 20]}, r"images of 16 x 20 pixels; export it for square images"),
        ({"dtype": TensorProto.UINT8}, r"takes UINT8 images; export it with float32 input"),
        ({"pooled": False}, r"gives `image` \(2, 3, 16, 16\) for 2 images; export it with one output \(N, D\), pooled"),
        ({"change": two_inputs}, r"has 2 inputs \(`image`, `text`\); give a graph with one"),
        ({"metadata": {"mean": "[0, 0, 0]"}}, r"Key `metadata_props of .*std` is missing"),
        ({"metadata": {"mean": "[0, 0, 0]", "std": "[1, 1, 0]"}}, r"`std`, `scale` and `size` must be above 0"),
        ({"metadata": {"mean": "zero"}}, r"metadata_props of .* are not JSON values"),
    ],
)
def test_a_graph_that_cannot_serve_is_refused_with_its_reason(
    tmp_path: Path, how: dict[str, Any], message: str
) -> None:
    path = write_graph(tmp_path / "g.onnx", **how)
    with pytest.raises((ArtifactError, ConfigError), match=message):
        backbones.resolve(str(path))


def test_a_transform_that_contradicts_the_graph_or_has_unknown_keys_is_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "g.onnx")
    beside = tmp_path / "g.onnx.json"
    beside.write_text(json.dumps({"size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    with pytest.raises(ArtifactError, match=r"takes images of 16 pixels, its transform says `size` 224"):
        backbones.resolve(str(path))
    beside.write_text(json.dumps({"means": [0, 0, 0], "std": [1, 1, 1]}))
    with pytest.raises(ConfigError, match=r"Unknown key `means` .*Did you mean `mean`"):
        backbones.resolve(str(path))


def test_missing_and_foreign_graphs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.onnx does not exist"):
        backbones.resolve(str(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("no graph here at all")
    with pytest.raises(ArtifactError, match=r"text\.onnx (is not an ONNX file|holds an empty graph)"):
        backbones.resolve(str(tmp_path / "text.onnx"))


def test_a_graph_stays_frozen(tmp_path: Path) -> None:
    encoder = backbones.resolve(str(write_graph(tmp_path / "g.onnx")))
    with pytest.raises(ConfigError, match="Backbone `g` is an ONNX graph and stays frozen"):
        encoder.build()


def test_a_saved_graph_keeps_its_transform(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "g.onnx", shape=["n", 3, "h", "w"])
    (tmp_path / "g.onnx.json").write_text(json.dumps({"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1}))
    encoder = backbones.resolve(str(path))
    saved = backbones.save_encoder(encoder, tmp_path / "artifact")
    again = backbones.resolve(str(tmp_path / "artifact" / "encoder.onnx"))
    assert saved.key() == encoder.key() == again.key() == backbones.load_encoder(tmp_path / "artifact").key()


def test_a_graph_can_be_added_under_a_new_name(tmp_path: Path) -> None:
    added = backbones.add("our-encoder", write_graph(tmp_path / "g.onnx"))
    assert added.path is not None
    try:
        found = backbones.resolve("our-encoder")
        assert (found.name, found.kind, found.key()) == ("our-encoder", "onnx", added.key())
        assert found.note == added.note, "an assumed transform is still called assumed"
    finally:
        added.path.unlink()
        added.path.with_name("our-encoder.onnx.json").unlink(missing_ok=True)
