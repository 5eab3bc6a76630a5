"""The probe's choices against a literal cross-validation with scikit-learn, and its record."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from tests.toy_images import as_images, make_task, noise
from wazuka.adapt import linear_probe
from wazuka.adapt.linear_probe import METHOD, Config
from wazuka.core.config import build
from wazuka.core.errors import ConfigError, DataError, NotEnoughData
from wazuka.core.hashing import to_plain
from wazuka.nn.encoders import Encoder
from wazuka.nn.predictors import LinearHead
from wazuka.training.grouped_cv import make_folds
from wazuka.training.roles import AdaptTask, Fitted, Runtime

DIM = 24
ENCODER = Encoder(
    name="given",
    kind="onnx",
    arch="onnx",
    weights="file",
    weights_hash="0",
    feature_dim=DIM,
    input_size=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pixels")


def task_of(folder: Path, n: int, *, classes: int = 2, seed: int = 0, patients: int = 0, **changes: Any) -> AdaptTask:
    """Classes that overlap, in correlated features; several images a patient where asked for."""
    rng = np.random.default_rng(seed)
    labels = np.where(np.arange(n) < 2 * classes, np.arange(n) % classes, rng.choice(classes, n))
    features = rng.normal(size=(n, 8)) @ rng.normal(size=(8, DIM)) + 0.5 * rng.normal(size=(n, DIM))
    features = (features + 0.8 * rng.normal(size=(classes, DIM))[labels]).astype(np.float32)
    images = as_images(noise(n, size=2), folder / f"{n}-{classes}-{seed}")
    task = make_task(images, labels, ENCODER, seed=seed, features=features, **changes)
    if patients:
        code = rng.integers(0, patients, n).astype(np.int64)
        task = dataclasses.replace(task, labeled=dataclasses.replace(task.labeled, patients=code))
    return task


def run(tasks: list[AdaptTask], **settings: Any) -> list[Fitted]:
    config = build(Config, settings, where="adapt")
    return METHOD(tasks, config=config, runtime=Runtime(device="cpu", threads=1, folder=Path()))


def fit_reference(x: np.ndarray, labels: np.ndarray, penalty: float) -> tuple[StandardScaler, LogisticRegression]:
    scaler = StandardScaler().fit(x.astype(np.float64))
    model = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-12)
    return scaler, model.fit(scaler.transform(x.astype(np.float64)), labels)


@pytest.mark.parametrize("classes", [2, 3])
def test_penalty_and_threshold_are_those_of_a_cross_validation_written_out(folder: Path, classes: int) -> None:
    grid = (0.001, 0.01, 0.1, 1.0)
    task = task_of(folder, 70, classes=classes, patients=30, seed=classes)
    (fitted,) = run([task], penalties=list(grid))
    x, labels = task.features, task.labeled.labels
    assert x is not None
    probs = np.zeros((len(grid), len(labels), classes))
    for fold in make_folds(labels, task.labeled.patients, folds=5, seed=task.seed):
        for place, penalty in enumerate(grid):
            scaler, model = fit_reference(x[fold.train], labels[fold.train], penalty)
            probs[place, fold.held_out] = model.predict_proba(scaler.transform(x[fold.held_out].astype(np.float64)))
    losses = -np.log(probs[:, np.arange(len(labels)), labels]).mean(1)
    np.testing.assert_allclose(fitted.curves["out-of-fold log-loss by penalty"], np.stack([grid, losses], 1), rtol=1e-5)
    best = int(np.argmin(losses))
    assert fitted.notes["penalty"] == grid[best]
    assert fitted.notes["penalty_chosen_by"] == "cross-validation"
    assert fitted.notes["folds"]["used"] == fitted.notes["folds"]["made"] == 5
    scaler, model = fit_reference(x, labels, grid[best])
    assert isinstance(fitted.predictor, LinearHead)
    want = model.predict_proba(scaler.transform(x.astype(np.float64)))
    np.testing.assert_allclose(fitted.predictor.predict_features(x), want, atol=1e-6)
    if classes == 2:
        scores = {one: balanced_accuracy_score(labels, probs[best, :, 1] >= one) for one in probs[best, :, 1]}
        got = balanced_accuracy_score(labels, probs[best, :, 1] >= fitted.threshold)
        assert got == pytest.approx(max(scores.values()))
    else:
        assert fitted.threshold == 0.5


def test_a_budget_without_an_inner_split_takes_the_fixed_default_and_says_so(folder: Path) -> None:
    task = task_of(folder, 12, inner_split=False)
    (fitted,) = run([task])
    assert fitted.notes["penalty"] == 0.01 and fitted.notes["penalty_chosen_by"] == "fixed default"
    assert fitted.threshold == 0.5 and fitted.notes["threshold"] == "0.5: the budget allows no inner split"
    assert fitted.curves == {} and "folds" not in fitted.notes
    scaler, model = fit_reference(task.features, task.labeled.labels, 0.01)  # type: ignore[arg-type]
    assert isinstance(fitted.predictor, LinearHead) and task.features is not None
    found = fitted.predictor.predict_features(task.features)
    np.testing.assert_allclose(found, model.predict_proba(scaler.transform(task.features.astype(float))), atol=1e-6)


def test_a_given_penalty_is_kept_and_only_the_threshold_is_chosen(folder: Path) -> None:
    (fitted,) = run([task_of(folder, 40)], penalty=0.2)
    assert fitted.notes["penalty"] == 0.2 and fitted.notes["penalty_chosen_by"] == "setting"
    assert fitted.notes["threshold"].startswith("highest balanced accuracy")
    assert [one for one, _ in fitted.curves["out-of-fold log-loss by penalty"]] == [0.2]


def test_equal_losses_go_to_the_stronger_penalty(folder: Path) -> None:
    task = task_of(folder, 40)
    flat = dataclasses.replace(task, features=np.full((40, DIM), 2.5, np.float32))  # nothing to learn from
    (fitted,) = run([flat], penalties=[1.0, 0.003, 0.1])
    assert fitted.notes["penalty"] == 0.003 and fitted.notes["penalty_at_edge_of_grid"]


def test_a_fold_whose_training_rows_lack_a_class_is_left_out_and_counted(folder: Path) -> None:
    task = task_of(folder, 40, classes=3)
    labels = np.repeat([0, 1, 2], [20, 17, 3])
    patients = np.where(labels == 2, 99, np.arange(40))  # all of class 2 is one patient
    labeled = dataclasses.replace(task.labeled, labels=labels, patients=patients)
    (fitted,) = run([dataclasses.replace(task, labeled=labeled)])
    folds = fitted.notes["folds"]
    assert folds["made"] == 5 and folds["used"] == 4
    assert folds["left_out_for_a_class_missing_in_training"] == 1
    assert folds["with_a_class_missing_among_held_out"] == 4
    assert 3 <= folds["rows_without_prediction"] < 40
    one_patient = dataclasses.replace(labeled, patients=np.zeros(40, np.int64))
    (fitted,) = run([dataclasses.replace(task, labeled=one_patient)])
    assert fitted.notes["penalty_chosen_by"] == "fixed default" and fitted.notes["folds"]["used"] == 0


def test_votes_are_learned_as_shares(folder: Path) -> None:
    votes = np.random.default_rng(0).dirichlet([2, 1], size=40)
    task = task_of(folder, 40, soft_labels=votes, inner_split=False)
    (fitted,) = run([task])
    assert task.features is not None and isinstance(fitted.predictor, LinearHead)
    x = StandardScaler().fit_transform(task.features.astype(np.float64))
    model = LogisticRegression(C=0.01, solver="newton-cholesky", tol=1e-12)
    model.fit(np.repeat(x, 2, axis=0), np.tile([0, 1], 40), sample_weight=votes.ravel())
    np.testing.assert_allclose(fitted.predictor.predict_features(task.features), model.predict_proba(x), atol=1e-6)
    assert fitted.notes["soft_labels"]


@pytest.mark.parametrize("classes", [2, 3])
def test_balanced_class_weights_are_taken_out_of_the_intercept(folder: Path, classes: int) -> None:
    task = task_of(folder, 60, classes=classes, seed=5)
    (fitted,) = run([task], class_weights="balanced", penalty=0.1)
    x, labels = task.features, task.labeled.labels
    assert x is not None and isinstance(fitted.predictor, LinearHead)
    standard = StandardScaler().fit_transform(x.astype(np.float64))
    model = LogisticRegression(C=0.1, class_weight="balanced", solver="newton-cholesky", tol=1e-12)
    scores = np.log(model.fit(standard, labels).predict_proba(standard)) + np.log(np.bincount(labels))
    want = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))  # Bayes' rule with the true shares
    np.testing.assert_allclose(fitted.predictor.predict_features(x), want, atol=1e-6)
    assert fitted.notes["intercept_corrected"]


@pytest.mark.parametrize(("precision", "most"), [("float64", 1e-6), ("float32", 1e-3)])
def test_tasks_together_are_as_tasks_alone(
    folder: Path, precision: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task_of(folder, 30 + seed % 3, seed=seed, inner_split=seed != 2) for seed in range(5)]
    monkeypatch.setattr(linear_probe, "TASKS_AT_ONCE", 2)
    for task, fitted in zip(tasks, run(tasks, precision=precision), strict=True):
        (alone,) = run([task], precision=precision)
        assert alone.notes["penalty"] == fitted.notes["penalty"]
        assert alone.threshold == pytest.approx(fitted.threshold, abs=most)
        probs = [one.predictor.predict_features(task.features) for one in (fitted, alone)]  # type: ignore[attr-defined]
        np.testing.assert_allclose(probs[0], probs[1], atol=most)


def test_the_record_holds_the_certificate_in_plain_values(folder: Path) -> None:
    (fitted,) = run([task_of(folder, 30)], tolerance=1e-9)
    certificate = fitted.notes["certificate"]
    assert certificate["converged"] and certificate["precision"] == "float64"
    assert 0 <= certificate["relative_gap_at_most"] <= 1e-9 and certificate["relative_gradient_norm"] < 1e-3
    assert fitted.notes["iterations"] > 0 and fitted.notes["trained_params"] == DIM + 1
    json.dumps(to_plain(fitted.notes), allow_nan=False)


def test_validation_rows_are_training_rows(folder: Path) -> None:
    none, some = (run([task_of(folder, 30, is_val=np.arange(30) < k)])[0] for k in (0, 9))
    assert none.notes == some.notes and none.threshold == some.threshold


def test_a_feature_that_is_not_finite_names_its_row(folder: Path) -> None:
    task = task_of(folder, 20)
    assert task.features is not None
    task.features[[4, 11], 2] = np.nan
    with pytest.raises(DataError, match=r"Features of row 4 of toy hold NaN or Inf \(2 such rows\); check that image"):
        run([task])


def test_missing_features_and_missing_classes_are_refused(folder: Path) -> None:
    task = task_of(folder, 20)
    with pytest.raises(DataError, match=r"Features of toy have shape None; give \(20, dim\)"):
        run([dataclasses.replace(task, features=None)])
    with pytest.raises(NotEnoughData, match="has 0 images of class `c`; this method needs one or more of each class"):
        run([dataclasses.replace(task, classes=("a", "b", "c"))])


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"penalty": 0.0}, "must be finite numbers above 0"),
        ({"penalties": []}, "at least one"),
        ({"folds": 1}, "`folds` is 1; give 2 or more"),
        ({"tolerance": 1.5}, "`tolerance` is 1.5; give a number between 0 and 1"),
        ({"class_weights": "some"}, "class_weights"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(Config, settings, where="adapt")
