"""ONNX export: the graph from pixels gives the predictor's probabilities, and what cannot be a graph is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional

from tests.nn.test_onnx_encoder import write_graph
from tests.nn.test_predictors import make_head, make_network
from tests.toy_images import TINY, noise, tiny_encoder
from wazuka.cli.app import run
from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.core.records import finish
from wazuka.nn import backbones, features, lora, predictors
from wazuka.nn.export import check_images, export, resizing_matrix
from wazuka.nn.lora import LoraNetwork, LoraSpec
from wazuka.nn.neighbors import Neighbors, Prototypes, to_unit
from wazuka.nn.network import Classifier
from wazuka.nn.predictors import LinearHead, Network, Predictor
from wazuka.nn.rows import ArrayImages

RNG = np.random.default_rng(5)
VIT = "test_vit"


def make_lora(name: str, **changes: Any) -> LoraNetwork:
    """Adapters and a head with random values on a tiny network."""
    encoder = tiny_encoder(name, seed=1)
    network = Classifier(encoder.build(), encoder.feature_dim, 3)
    spec = LoraSpec(rank=2, alpha=4.0, layers=lora.choose_layers(network.backbone, None, last=None, name=name))
    torch.manual_seed(0)
    lora.inject(network.backbone, spec)
    names = lora.adapter_state(network.backbone)
    state = {key: torch.randn_like(one) * 0.2 for key, one in names.items()}
    state |= {"head.weight": torch.randn(3, encoder.feature_dim) / 20, "head.bias": torch.randn(3) / 10}
    values: dict[str, Any] = {"classes": ("a", "b", "c"), "trained_params": 1}
    return LoraNetwork(encoder=encoder, spec=spec, state=state, **(values | changes))


def make_neighbors() -> Neighbors:
    """Nine neighbors of 40, some of them twice in the support: equal similarities must be told apart in the same way."""
    support = np.repeat(to_unit(RNG.normal(size=(20, 96))), 2, axis=0).astype(np.float32)
    shares = RNG.dirichlet(np.ones(3), 40)
    settings: dict[str, Any] = {"k": 9, "temperature": 0.1, "smoothing": 0.5}
    return Neighbors(encoder=tiny_encoder(seed=1), classes=("a", "b", "c"), support=support, shares=shares, **settings)


def make_prototypes() -> Prototypes:
    return Prototypes(
        encoder=tiny_encoder(seed=1),
        classes=("a", "b", "c"),
        mean=RNG.normal(size=96) / 10,
        prototypes=RNG.normal(size=(3, 96)) / 5,
        prior=np.array([0.2, 0.5, 0.3]),
        temperature=0.2,
    )


def make_strong(**changes: Any) -> LinearHead:
    """A head on features standardized as in use, which tells even the weak ones of a drawn network apart."""
    head = make_head(bias=np.zeros(3), **changes)
    images = ArrayImages(pixels_for(head, 16, size=32))
    found = features.compute_features(images, head.encoder, intensity=head.intensity, window=head.window)
    return dataclasses.replace(head, mean=found.mean(axis=0), scale=found.std(axis=0) + 1e-3)


def make_two_classes() -> LinearHead:
    return make_head(1, classes=("a", "b"), bias=np.array([0.3]))


def varied(n: int, *, size: int, channels: int = 3) -> np.ndarray:
    """Noise of other colors and contrasts in each image, uint8."""
    rng = np.random.default_rng(3)
    color, contrast = rng.uniform(0, 190, (n, 1, 1, channels)), rng.uniform(0.05, 0.25, (n, 1, 1, 1))
    return (color + contrast * noise(n, size=size, channels=channels)).astype(np.uint8)


def pixels_for(predictor: Any, n: int, *, size: int) -> np.ndarray:
    """Varied images as the cache has them for a predictor's intensity."""
    images = varied(n, size=size, channels=3 if predictor.intensity == "rgb8" else 1)
    return (images.astype(np.int16) - 128) * 10 if predictor.intensity == "hounsfield" else images


def probabilities(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": images.transpose(0, 3, 1, 2).astype(np.float32)})[0]


KINDS = {
    "linear head": (make_strong, 32),
    "head of one logit": (make_two_classes, 32),
    "network": (make_network, 32),
    "lora on a resnet": (lambda: make_lora(TINY), 32),
    "lora on a transformer, images resized in the graph": (lambda: make_lora(VIT), 96),
    "prototypes": (make_prototypes, 32),
    "neighbors": (make_neighbors, 32),
    "gray images": (lambda: make_strong(intensity="gray8"), 32),
    "CT in a window": (lambda: make_strong(intensity="hounsfield", window="lung"), 32),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_gives_the_predictors_probabilities_at_every_batch_size(kind: str, tmp_path: Path) -> None:
    make, size = KINDS[kind]
    predictor: Any = make()
    done = export(predictor, tmp_path / "model.onnx", size=size, facts={"threshold": 0.4})
    onnx.checker.check_model(str(done.path))
    images = pixels_for(predictor, 7, size=size)
    expected = predictor.predict_images(ArrayImages(images))
    assert np.ptp(expected[:, 0]) > 1e-3, "the images must tell a right graph from a constant one"
    for count in (7, 2):
        np.testing.assert_allclose(probabilities(done.path, images[:count]), expected[:count], atol=1e-4)
    assert done.difference <= 1e-4 and done.megabytes == done.path.stat().st_size / 1e6


def test_a_frozen_graph_and_its_head_become_one(tmp_path: Path) -> None:
    transform = {"mean": [0.2, 0.3, 0.4], "std": [0.5, 0.6, 0.7]}
    metadata = {name: json.dumps(one) for name, one in transform.items()}
    encoder = backbones.resolve(str(write_graph(tmp_path / "mix.onnx", metadata=metadata)))
    head = LinearHead(
        encoder=encoder,
        classes=("a", "b"),
        mean=np.zeros(4),
        scale=np.ones(4),
        weight=RNG.normal(size=(4, 2)),
        bias=np.zeros(2),
    )
    path = export(head, tmp_path / "model.onnx", size=24, facts={}).path
    images = varied(3, size=24)
    np.testing.assert_allclose(probabilities(path, images), head.predict_images(ArrayImages(images)), atol=1e-4)
    fixed = backbones.resolve(str(write_graph(tmp_path / "one.onnx", shape=[1, 3, 16, 16])))
    with pytest.raises(ConfigError, match=r"takes exactly 1 images at a time; export the encoder with a free batch"):
        export(dataclasses.replace(head, encoder=fixed), tmp_path / "other.onnx", size=16, facts={})


def test_what_a_user_must_know_is_in_the_file_and_the_graph_takes_pixels_as_they_are(tmp_path: Path) -> None:
    facts = {
        "positive": "b",
        "threshold": 0.25,
        "image": {"crop": 64, "size": 32},
        "licenses": {"backbone": "CC-BY-NC-4.0", "commercial_use": "no"},
        "provenance": {"dataset": "clinic", "strategy": "probe"},
    }
    path = export(make_head(), tmp_path / "model.onnx", size=32, facts=facts).path
    found = {one.key: json.loads(one.value) for one in onnx.load(path).metadata_props}
    assert found["classes"] == ["a", "b", "c"] and found["pixels"] == "0..255" and found["intensity"] == "rgb8"
    assert {name: found[name] for name in facts} == facts
    assert str(tmp_path) not in json.dumps(found)
    again = backbones.resolve(str(path))  # our own keys: taken as an encoder it is given the same pixels
    assert (again.mean, again.std, again.scale, again.input_size) == ((0, 0, 0), (1, 1, 1), 1, 32)


def test_resizing_in_the_graph_is_the_filter_of_the_predictor() -> None:
    images = torch.from_numpy(RNG.uniform(0, 1, (2, 3, 40, 40)))
    for target in (16, 64):
        matrix = torch.from_numpy(resizing_matrix(40, target))
        expected = functional.interpolate(images, (target, target), mode="bilinear", antialias=True)
        torch.testing.assert_close(matrix @ images @ matrix.T, expected)


def test_the_checked_images_differ_and_have_the_type_of_the_cache() -> None:
    rgb, ct = check_images(32, intensity="rgb8"), check_images(32, intensity="hounsfield")
    assert (rgb.shape, rgb.dtype, ct.shape, ct.dtype) == ((5, 32, 32, 3), np.uint8, (5, 32, 32, 1), np.int16)
    assert ct.min() < -500 and ct.max() > 500 and np.ptp(rgb.mean(axis=(1, 2)), axis=0).min() > 5


def test_a_predictor_that_looks_at_the_images_together_is_refused(tmp_path: Path) -> None:
    for model in (make_network(test_batchnorm=True), make_lora(TINY, test_batchnorm=True)):
        with pytest.raises(ConfigError, match=r"`test-batchnorm`\), which a fixed graph cannot; use `wazuka predict`"):
            export(model, tmp_path / "model.onnx", size=32, facts={})
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Network.predict_images
    monkeypatch.setattr(Network, "predict_images", lambda *args, **kwargs: right(*args, **kwargs) + 2e-4)
    with pytest.raises(
        ArtifactError, match=r"differs from the model by 0\.0002 \(at most 0\.0001 is right\) and was not"
    ):
        export(make_network(), tmp_path / "model.onnx", size=32, facts={})
    assert not list(tmp_path.iterdir())


def test_weights_beyond_one_file_are_refused_before_any_work(tmp_path: Path) -> None:
    head = make_head()
    large = dataclasses.replace(head, encoder=dataclasses.replace(head.encoder, parameters=1_134_774_272))
    with pytest.raises(ConfigError, match=r"has 4\.5 GB of weights, an ONNX file holds 2 GB at most; use"):
        export(large, tmp_path / "model.onnx", size=32, facts={})


def test_a_name_that_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model has no ending `\.onnx`; give a file such as .*model\.onnx"):
        export(make_head(), tmp_path / "model", size=32, facts={})


def save(predictor: Predictor, folder: Path) -> Path:
    predictor.save(folder)
    predictors.describe(folder, {"image": {"size": 32}, "provenance": {"dataset": "clinic"}})
    finish(folder, {"schema": 1})
    return folder


def test_the_command_writes_a_saved_model_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(make_neighbors(), tmp_path / "model")
    arguments = ["export", str(model), "--out", str(tmp_path / "model.onnx")]
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert "probabilities equal to" in captured.out and "treat it like patient data" in captured.err
    assert run(arguments) == 2
    assert "exists already; choose another --out, or replace it with --overwrite." in capsys.readouterr().err
    before = (tmp_path / "model.onnx").stat().st_mtime_ns
    assert run([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "model.onnx").stat().st_mtime_ns > before
    assert run(["export", str(tmp_path), "--out", str(tmp_path / "no.onnx")]) == 2
    assert "holds no model" in capsys.readouterr().err
