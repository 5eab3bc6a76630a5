"""Predictors: probabilities by hand, and the same bytes after saving, moving and loading."""

from __future__ import annotations

import importlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy_images import TINY, noise, tiny_encoder
from wazuka.core.errors import ArtifactError, DataError
from wazuka.nn import backbones, explain, features, predictors
from wazuka.nn.measure import measure, saved_bytes
from wazuka.nn.network import Classifier
from wazuka.nn.predictors import LinearHead, Network
from wazuka.nn.rows import ArrayImages, ImageRows


def make_head(columns: int = 3, *, classes: tuple[str, ...] = ("a", "b", "c"), **changes: Any) -> LinearHead:
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "mean": rng.normal(size=96),
        "scale": rng.uniform(0.5, 2, 96),
        "weight": rng.normal(size=(96, columns)) / 10,
        "bias": rng.normal(size=columns),
    }
    return LinearHead(encoder=tiny_encoder(seed=1), classes=classes, **(values | changes))


def make_network(**changes: Any) -> Network:
    torch.manual_seed(0)
    encoder = tiny_encoder(seed=1)
    network = Classifier(encoder.build(), 96, 3)
    with torch.no_grad():
        for one in network.parameters():
            one.add_(torch.randn_like(one) * 0.05)
    return Network(encoder=encoder, classes=("a", "b", "c"), state=network.state_dict(), trained_params=7, **changes)


def test_a_softmax_head_is_the_textbook_formula() -> None:
    head, x = make_head(), np.random.default_rng(1).normal(size=(5, 96)).astype(np.float32)
    logits = ((x - head.mean) / head.scale) @ head.weight + head.bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = head.predict_features(x)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_one_column_is_the_logit_of_the_second_class_and_equals_a_softmax_of_two() -> None:
    x = np.random.default_rng(1).normal(size=(5, 96))
    one = make_head(1, classes=("a", "b"))
    two = make_head(
        2,
        classes=("a", "b"),
        weight=np.hstack([np.zeros((96, 1)), one.weight]),
        bias=np.array([0, one.bias[0]]),
        mean=one.mean,
        scale=one.scale,
    )
    np.testing.assert_allclose(one.predict_features(x), two.predict_features(x), rtol=1e-10)
    logit = ((x - one.mean) / one.scale) @ one.weight[:, 0] + one.bias[0]
    np.testing.assert_allclose(one.predict_features(x)[:, 1], 1 / (1 + np.exp(-logit)), rtol=1e-10)


def test_extreme_logits_give_probabilities_and_no_overflow() -> None:
    for logits in (np.array([[800.0], [-800.0]]), np.array([[800.0, -800.0], [-800.0, 800.0]])):
        found = predictors.to_probabilities(logits)
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found.sum(axis=1), 1)


def test_features_of_another_encoder_are_refused() -> None:
    with pytest.raises(DataError, match=r"Features have shape \(2, 95\); give \(images, 96\)"):
        make_head().predict_features(np.zeros((2, 95)))


@pytest.mark.parametrize("make", [make_head, make_network])
def test_a_predictor_loads_with_the_same_bytes_of_predictions(make: Any, tmp_path: Path) -> None:
    predictor, images = make(), ArrayImages(noise(7))
    before = predictor.predict_images(images)
    np.testing.assert_allclose(before.sum(axis=1), 1)
    assert before.shape == (7, 3) and np.ptp(before[:, 0]) > 0
    predictor.save(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "predictor.json").read_text()
    (tmp_path / "model").rename(tmp_path / "moved")
    loaded = predictors.load(tmp_path / "moved")
    assert loaded.predict_images(images).tobytes() == before.tobytes()
    assert (loaded.classes, loaded.trained_params) == (predictor.classes, predictor.trained_params)
    assert isinstance(loaded, predictors.Predictor)
    copied = pickle.loads(pickle.dumps(predictor))
    assert copied.predict_images(images).tobytes() == before.tobytes()


def test_a_head_equals_its_own_prediction_from_features() -> None:
    head, images = make_head(), ArrayImages(noise(5))
    found = features.compute_features(images, head.encoder, intensity="rgb8")
    assert head.predict_images(images).tobytes() == head.predict_features(found).tobytes()


def test_a_head_may_share_an_encoder_folder_and_be_told_where_it_went(tmp_path: Path) -> None:
    head, images = make_head(), ArrayImages(noise(3))
    backbones.save_encoder(head.encoder, tmp_path / "run" / "encoder")
    head.save(tmp_path / "run" / "trials" / "1", encoder_folder=Path("../../encoder"))
    head.save(tmp_path / "run" / "trials" / "2", encoder_folder=tmp_path / "run" / "encoder")
    (tmp_path / "run").rename(tmp_path / "moved")
    expected = head.predict_images(images)
    for number in "12":
        folder = tmp_path / "moved" / "trials" / number
        assert not (folder / "encoder").exists()
        assert np.array_equal(predictors.load(folder).predict_images(images), expected)
    deeper = tmp_path / "moved" / "deep" / "er" / "1"
    deeper.parent.mkdir(parents=True)
    (tmp_path / "moved" / "trials" / "1").rename(deeper)
    with pytest.raises(ArtifactError, match=r"holds no encoder\.json"):
        predictors.load(deeper)
    predictors.describe(deeper, {"encoder_folder": "../../../encoder"})
    assert np.array_equal(predictors.load(deeper).predict_images(images), expected)


def test_a_head_is_not_used_with_other_weights_than_its_own(tmp_path: Path) -> None:
    make_head().save(tmp_path)
    backbones.save_encoder(tiny_encoder(seed=2), tmp_path / "encoder")
    with pytest.raises(ArtifactError, match="was trained on other weights"):
        predictors.load(tmp_path)


def test_described_facts_are_kept_and_decide_the_input(tmp_path: Path) -> None:
    make_network(intensity="hounsfield").save(tmp_path)
    image = {"crop": None, "size": 32, "window": "lung", "spacing_mm": None, "stain": "none"}
    facts = {"image": image, "intensity": "hounsfield", "positive": "b", "threshold": 0.4, "provenance": {"run": "x"}}
    predictors.describe(tmp_path, facts)
    stored = json.loads((tmp_path / "predictor.json").read_text())
    assert {key: stored[key] for key in facts} == facts
    loaded = predictors.load(tmp_path)
    units = ArrayImages(np.random.default_rng(0).integers(-1000, 400, (4, 32, 32, 1)).astype(np.int16))
    expected = make_network(intensity="hounsfield", window="lung").predict_images(units)
    other = make_network(intensity="hounsfield", window="bone").predict_images(units)
    assert np.array_equal(loaded.predict_images(units), expected) and not np.array_equal(expected, other)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"kind": "netwrok"}, r"predictor\.json has the kind `netwrok`; did you mean `network`\?"),
        ({"encoder": {}}, r"predictor\.json is damaged"),
    ],
)
def test_a_damaged_predictor_is_named(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    make_network().save(tmp_path)
    stored = json.loads((tmp_path / "predictor.json").read_text())
    (tmp_path / "predictor.json").write_text(json.dumps(stored | facts))
    with pytest.raises(ArtifactError, match=message):
        predictors.load(tmp_path)


def test_an_empty_folder_or_foreign_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no predictor\.json"):
        predictors.load(tmp_path)
    make_network().save(tmp_path)
    (tmp_path / "predictor.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"predictor\.safetensors does not exist"):
        predictors.load(tmp_path)
    broken = make_network()
    state = dict(broken.state)
    state.pop("head.bias")
    network = Network(encoder=broken.encoder, classes=broken.classes, state=state, trained_params=1)
    with pytest.raises(ArtifactError, match=rf"saved network of `{TINY}` does not fit .*head\.bias"):
        network.build()


def test_every_kind_is_registered_under_a_class_that_can_be_loaded() -> None:
    assert set(predictors.KINDS) == {"linear-head", "network", "lora", "neighbors", "prototypes"}
    for where in predictors.KINDS.values():
        module, _, name = where.partition(":")
        assert module.startswith("wazuka.nn.") and callable(getattr(importlib.import_module(module), name).from_folder)


class Corner:
    """A predictor that looks at the upper left quarter of an image only."""

    classes = ("dark", "bright")
    trained_params = 0

    def predict_images(self, images: ImageRows, *, device: str = "cpu") -> np.ndarray:
        pixels = images.batch(np.arange(len(images))).astype(np.float64) / 255
        height, width = images.shape[0] // 2, images.shape[1] // 2
        bright = pixels[:, :height, :width].mean(axis=(1, 2, 3))
        return np.stack([1 - bright, bright], axis=1)

    def save(self, folder: Path, *, encoder_folder: Path | None = None) -> None:
        (folder / "weights").write_bytes(b"0" * 1500)


def test_occlusion_shows_the_part_that_the_prediction_rests_on() -> None:
    image = np.zeros((28, 28, 3), np.uint8)
    image[:14, :14] = 200
    heat = explain.occlusion_map(Corner(), image, class_index=1, cover=4)
    assert heat.shape == (28, 28)
    assert (heat[:14, :14] > 0).all(), "covering the bright corner makes it darker"
    assert np.array_equal(heat[16:], np.zeros((12, 28))) and np.array_equal(heat[:, 16:], np.zeros((28, 12)))
    np.testing.assert_allclose(explain.occlusion_map(Corner(), image, class_index=0, cover=4), -heat, atol=1e-12)


def test_occlusion_by_one_cover_is_the_difference_of_two_predictions() -> None:
    image = noise(1, size=8)[0]
    heat = explain.occlusion_map(Corner(), image, class_index=1, cover=8)
    gray = np.broadcast_to(np.rint(image.mean(axis=(0, 1))).astype(np.uint8), image.shape)
    before, after = Corner().predict_images(ArrayImages(np.stack([image, gray])))[:, 1]
    np.testing.assert_allclose(heat, before - after)


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (1, np.uint8), (1, np.int16)])
def test_an_explanation_is_a_picture_of_the_images_size(channels: int, dtype: Any) -> None:
    image = noise(1, size=14, channels=channels).astype(dtype)
    picture = explain.explanation_picture(Corner(), ArrayImages(image))
    assert picture.size == (14, 14) and picture.mode == "RGB"


def test_a_measurement_holds_time_size_and_memory() -> None:
    found = measure(Corner(), ArrayImages(noise(2, size=8)), repeats=5)
    assert 0 < found.latency_ms["median"] <= found.latency_ms["p95"] < 1000
    assert found.size_mb == 0.0015 and found.memory_mb > 1 and found.trained_params == 0


def test_the_size_of_a_predictor_includes_its_encoder() -> None:
    head = make_head()
    assert saved_bytes(head) > 4 * head.encoder.parameters
