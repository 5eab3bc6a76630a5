"""Fine-tuning: learns, resumes, stops early on what it may see, and corrects what it weighted."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from tests.toy_images import as_images, make_task, noise, tiny_encoder, toy_classes
from wazuka.adapt import finetune
from wazuka.core.config import build
from wazuka.core.errors import ConfigError
from wazuka.nn.features import compute_features
from wazuka.nn.network import Classifier
from wazuka.nn.predictors import LinearHead, Network
from wazuka.nn.rows import ArrayImages
from wazuka.nn.weights import hash_state
from wazuka.training import batches
from wazuka.training.loop import LoopSettings
from wazuka.training.roles import AdaptTask, Fitted, Runtime


def fit(task: AdaptTask, folder: Path, **config: Any) -> Fitted:
    """Fit one task with settings written as in a study file."""
    folder.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(device="cpu", threads=1, folder=folder)
    (fitted,) = finetune.METHOD([task], config=build(finetune.Config, config, where="adapt"), runtime=runtime)
    return fitted


def toy_task(folder: Path, n: int = 32, **changes: Any) -> AdaptTask:
    images, labels = toy_classes(n)
    return make_task(as_images(images, folder), labels, changes.pop("encoder", tiny_encoder()), **changes)


def constant_task(folder: Path, labels: np.ndarray, **changes: Any) -> AdaptTask:
    """Images that are all the same: the best prediction is the share of each class."""
    images = np.full((len(labels), 16, 16, 3), 128, np.uint8)
    return make_task(as_images(images, folder), labels, tiny_encoder(), inner_split=False, **changes)


@pytest.mark.parametrize("part", ["all", "head"])
def test_classes_that_can_be_told_apart_are_learned(tmp_path: Path, part: str) -> None:
    fitted = fit(toy_task(tmp_path), tmp_path, train=part, steps=60, batch=16)
    curve = fitted.curves["train_loss"]
    assert curve[-1][1] < 0.5 * curve[0][1] and curve[-1][1] < 0.3
    images, labels = toy_classes(60, seed=77)
    probs = fitted.predictor.predict_images(ArrayImages(images))
    assert roc_auc_score(labels, probs[:, 1]) > 0.95
    assert ((probs[:, 1] >= fitted.threshold) == labels).mean() > 0.9


def test_an_interrupted_fit_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = toy_task(tmp_path)
    how = {"steps": 12, "batch": 8, "augment": "strong", "ema": 0.9, "sampling": "balanced"}
    whole = fit(task, tmp_path / "a", **how)
    real, calls = batches.augment, 0

    def killed(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(finetune, "LoopSettings", functools.partial(LoopSettings, checkpoint_seconds=0.0))
    monkeypatch.setattr(batches, "augment", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(task, tmp_path / "b", **how)
    calls = 100
    resumed = fit(task, tmp_path / "b", **how)
    assert calls == 105, "seven steps were kept, five were left to do"
    assert isinstance(whole.predictor, Network) and isinstance(resumed.predictor, Network)
    assert hash_state(resumed.predictor.state) == hash_state(whole.predictor.state)
    assert (resumed.notes, resumed.curves, resumed.threshold) == (whole.notes, whole.curves, whole.threshold)


def test_a_head_leaves_the_backbone_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Classifier] = []

    class Spied(Classifier):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(finetune, "Classifier", Spied)
    task = toy_task(tmp_path)
    fitted = fit(task, tmp_path, train="head", steps=10, batch=8, class_weights="balanced")
    (network,) = made
    assert hash_state(network.backbone.inner.state_dict()) == task.encoder.weights_hash
    head = fitted.predictor
    assert isinstance(head, LinearHead) and head.encoder == task.encoder
    assert fitted.notes["trained_params"] == 2 * 96 + 2 and np.abs(head.weight).max() > 0
    images = task.labeled.images
    with torch.no_grad():
        from wazuka.nn.normalize import to_input

        pixels = torch.from_numpy(images.batch(np.arange(len(images))))
        expected = network.eval()(to_input(pixels, task.encoder, intensity="rgb8")).softmax(dim=1)
    np.testing.assert_allclose(head.predict_images(images), expected.numpy(), atol=1e-5)
    found = head.predict_features(compute_features(images, task.encoder, intensity="rgb8"))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_early_stopping_gives_back_the_network_of_the_best_step(tmp_path: Path) -> None:
    task = toy_task(tmp_path, n=24)
    flipped = task.labeled.labels.copy()
    flipped[task.labeled.is_val] = 1 - flipped[task.labeled.is_val]  # learning makes validation worse
    task = make_task(task.labeled.images, flipped, task.encoder)
    fitted = fit(task, tmp_path, steps=80, batch=18, patience=2, augment="none", warmup=0.0)
    notes, curve = fitted.notes, dict(fitted.curves["val_loss"])
    assert notes["stopped_early"] and notes["steps"] < 80
    assert notes["best_val_loss"] == min(curve.values()) == curve[notes["best_step"]] < curve[notes["steps"]]
    rows = np.flatnonzero(task.labeled.is_val)
    probs = fitted.predictor.predict_images(task.labeled.images.take(rows))
    assert log_loss(task.labeled.labels[rows], probs) == pytest.approx(notes["best_val_loss"], rel=1e-3)


def test_without_an_inner_split_all_rows_train_for_a_fixed_number_of_steps(tmp_path: Path) -> None:
    fitted = fit(toy_task(tmp_path, n=16, inner_split=False), tmp_path, epochs=3, batch=8)
    assert (fitted.notes["steps"], fitted.notes["train_rows"], fitted.notes["val_rows"]) == (6, 16, 0)
    assert fitted.notes["early_stopping"] == "none: the budget allows no inner split; fixed steps"
    assert fitted.threshold == 0.5 and fitted.notes["threshold"] == "0.5: the budget allows no inner split"
    assert "val_loss" not in fitted.curves


def test_the_threshold_is_chosen_on_the_validation_rows(tmp_path: Path) -> None:
    task = toy_task(tmp_path)
    fitted = fit(task, tmp_path, steps=40, batch=16, sampling="balanced")
    rows = np.flatnonzero(task.labeled.is_val)
    probs = fitted.predictor.predict_images(task.labeled.images.take(rows))[:, 1]
    labels = task.labeled.labels[rows]
    assert fitted.notes["threshold"] == "highest balanced accuracy on the validation rows"
    assert ((probs >= fitted.threshold) == labels).all()


def test_several_classes_are_learned_without_a_threshold(tmp_path: Path) -> None:
    labels = np.arange(24) % 3
    images = noise(24) // 2
    for one in range(3):
        images[labels == one, :, :, one] += 60
    task = make_task(as_images(images, tmp_path), labels, tiny_encoder(), is_val=np.arange(24) % 4 == 0)
    fitted = fit(task, tmp_path, steps=40, batch=16, augment="none")
    probs = fitted.predictor.predict_images(task.labeled.images)
    assert probs.shape == (24, 3) and (probs.argmax(axis=1) == labels).mean() > 0.9
    assert fitted.threshold == 0.5 and fitted.notes["threshold"] == "none: not a two-class task"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"class_weights": "balanced"},
        {"sampling": "balanced"},
        {"sampling": "balanced", "class_weights": "balanced"},
    ],
)
def test_probabilities_follow_the_shares_of_the_classes_also_where_these_were_weighted(
    tmp_path: Path, how: dict[str, str]
) -> None:
    task = constant_task(tmp_path, np.arange(16) % 4 // 3)
    fitted = fit(task, tmp_path, train="head", steps=50, batch=16, lr=0.3, augment="none", **how)
    assert fitted.notes["bias_corrected"] == bool(how)
    np.testing.assert_allclose(fitted.predictor.predict_images(task.labeled.images)[0], [0.75, 0.25], atol=0.01)


def test_votes_of_annotators_are_learned_as_they_are(tmp_path: Path) -> None:
    votes = np.tile([1 / 3, 2 / 3], (16, 1))
    task = constant_task(tmp_path, np.arange(16) % 2, soft_labels=votes)
    fitted = fit(task, tmp_path, train="head", steps=50, batch=16, lr=0.3, augment="none")
    np.testing.assert_allclose(fitted.predictor.predict_images(task.labeled.images), votes, atol=0.01)


def test_smoothed_labels_keep_predictions_from_certainty(tmp_path: Path) -> None:
    task = constant_task(tmp_path, np.r_[np.zeros(16, int)], soft_labels=np.tile([1.0, 0.0], (16, 1)))
    task = make_task(
        task.labeled.images,
        np.r_[np.zeros(15, int), 1],
        task.encoder,
        inner_split=False,
        soft_labels=task.labeled.soft_labels,
    )
    how = {"train": "head", "steps": 150, "batch": 16, "lr": 0.3, "augment": "none", "label_smoothing": 0.2}
    fitted = fit(task, tmp_path, **how)
    np.testing.assert_allclose(fitted.predictor.predict_images(task.labeled.images)[0], [0.9, 0.1], atol=0.01)


def test_hounsfield_units_and_one_channel_are_trained_on(tmp_path: Path) -> None:
    labels = np.arange(16) % 2
    units = np.random.default_rng(0).integers(-100, 100, (16, 32, 32, 1)).astype(np.int16)
    units[labels == 1] += 80
    task = make_task(as_images(units, tmp_path), labels, tiny_encoder(), inner_split=False)
    fitted = fit(task, tmp_path, steps=30, batch=16)
    assert isinstance(fitted.predictor, Network) and fitted.predictor.intensity == "hounsfield"
    probs = fitted.predictor.predict_images(task.labeled.images)
    assert roc_auc_score(labels, probs[:, 1]) > 0.95


def test_defaults_follow_the_budget_and_the_backbone(tmp_path: Path) -> None:
    settings = functools.partial(finetune._settings, validated=True)
    small = settings(finetune.Config(), 20, from_scratch=False)
    large = settings(finetune.Config(), 100_000, from_scratch=True)
    assert (small.steps, small.lr, small.evaluate_every) == (100, 1e-4, 5)
    assert (large.steps, large.lr, large.evaluate_every) == (2000, 1e-3, 3125)
    assert settings(finetune.Config(train="head", epochs=4), 64, from_scratch=True).lr == 3e-3
    assert settings(finetune.Config(epochs=4, lr=0.5), 65, from_scratch=True).steps == 12
    assert finetune._settings(finetune.Config(), 20, from_scratch=True, validated=False).patience is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"step": 3}, r"Unknown key `step` in adapt\. Did you mean `steps`\?"),
        ({"steps": 3, "epochs": 2}, r"adapt: `steps: 3` and `epochs: 2` are both given; give one of them\."),
        ({"lr": 0.0}, r"adapt: `lr` is 0\.0; give a number above 0\."),
        ({"label_smoothing": 1.5}, r"adapt: `label_smoothing` is 1\.5; give a number from 0 to below 1\."),
        ({"weight_decay": -1.0}, r"adapt: `weight_decay` is -1\.0; give a number from 0 on\."),
        ({"augment": "lots"}, r"Value 'lots' of `adapt\.augment` is wrong"),
        ({"batch": "32"}, r"Value '32' of `adapt\.batch` is wrong"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(finetune.Config, config, where="adapt")
