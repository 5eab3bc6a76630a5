"""k-NN and prototypes against scikit-learn and formulas written out, and what must not change them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from tests.toy_images import as_images, make_task, noise, tiny_encoder
from wazuka import adapt
from wazuka.core.config import build
from wazuka.core.errors import ArtifactError, ConfigError, DataError, NotEnoughData
from wazuka.core.hashing import to_plain
from wazuka.nn import neighbors, predictors
from wazuka.nn.features import compute_features
from wazuka.nn.neighbors import Neighbors, Prototypes, nearest_rows, to_unit, vote
from wazuka.nn.rows import ArrayImages
from wazuka.training.grouped_cv import make_folds
from wazuka.training.roles import AdaptTask, Fitted, Runtime

DIM = tiny_encoder().feature_dim
both = pytest.mark.parametrize("name", ["knn", "prototype"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pixels")


def task_of(folder: Path, n: int, *, classes: int = 2, seed: int = 0, patients: int = 0, **changes: Any) -> AdaptTask:
    """Classes that overlap, in positive features as those after a ReLU; several images a patient where asked for."""
    rng = np.random.default_rng(seed)
    labels = np.where(np.arange(n) < 2 * classes, np.arange(n) % classes, rng.choice(classes, n))
    features = rng.gamma(2.0, size=(n, DIM)) + 2.0 * rng.gamma(1.0, size=(classes, DIM))[labels]
    images = as_images(noise(n, size=2), folder / f"{n}-{classes}-{seed}")
    task = make_task(images, labels, tiny_encoder(), seed=seed, features=features.astype(np.float32), **changes)
    if patients:
        code = rng.integers(0, patients, n).astype(np.int64)
        task = dataclasses.replace(task, labeled=dataclasses.replace(task.labeled, patients=code))
    return task


def run(name: str, task: AdaptTask, **settings: Any) -> Fitted:
    method = adapt.METHODS[name]
    runtime = Runtime(device="cpu", threads=1, folder=Path())
    (fitted,) = method([task], config=build(method.config, settings, where="adapt"), runtime=runtime)
    return fitted


def permuted(task: AdaptTask, order: np.ndarray) -> AdaptTask:
    """The same rows in another order (or some of them several times)."""
    labeled = task.labeled
    parts = {name: getattr(labeled, name)[order] for name in ("labels", "patients", "domains", "is_val")}
    soft = None if labeled.soft_labels is None else labeled.soft_labels[order]
    labeled = dataclasses.replace(labeled, images=labeled.images.take(order), soft_labels=soft, **parts)
    assert task.features is not None
    return dataclasses.replace(task, labeled=labeled, features=task.features[order])


def others(classes: int = 2, seed: int = 0) -> np.ndarray:
    """Features of new images, (9, DIM) float32."""
    return np.random.default_rng(seed + 50).gamma(2.0, size=(9, DIM)).astype(np.float32) + classes


def cl2n(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    centered = features.astype(np.float64) - mean
    return centered / np.sqrt((centered**2).sum(1, keepdims=True))


def probs_of(fitted: Fitted, features: np.ndarray) -> np.ndarray:
    assert isinstance(fitted.predictor, predictors.FeaturePredictor)
    return fitted.predictor.predict_features(features)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_without_smoothing_knn_is_that_of_scikit_learn(folder: Path, classes: int, k: int) -> None:
    task = task_of(folder, 40, classes=classes)
    assert task.features is not None
    reference = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    want = reference.fit(task.features, task.labeled.labels).predict_proba(others())
    np.testing.assert_allclose(probs_of(run("knn", task, k=k, smoothing=0.0), others()), want, atol=1e-5)


def test_smoothing_is_one_more_vote_for_the_shares_of_the_classes(folder: Path) -> None:
    task = task_of(folder, 30, classes=3)
    assert task.features is not None
    for query, found in zip(
        others(), probs_of(run("knn", task, k=4, smoothing=2.0, temperature=0.1), others()), strict=True
    ):
        cosines = [
            float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in task.features.astype(np.float64)
        ]
        nearest = sorted(range(30), key=lambda row: -cosines[row])[:4]
        votes = 2.0 * np.bincount(task.labeled.labels, minlength=3) / 30
        for row in nearest:
            votes[task.labeled.labels[row]] += np.exp((cosines[row] - cosines[nearest[0]]) / 0.1)
        np.testing.assert_allclose(found, votes / votes.sum(), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_k_and_threshold_are_those_of_leaving_out_each_patient_in_turn(folder: Path, classes: int) -> None:
    task = task_of(folder, 60, classes=classes, patients=20, seed=classes)
    ks = [1, 4, 9, 30]
    fitted = run("knn", task, ks=ks)
    assert task.features is not None
    labels, patients = task.labeled.labels, task.labeled.patients
    probs = np.zeros((len(ks), 60, classes))
    for patient in np.unique(patients):
        rest, own = np.flatnonzero(patients != patient), np.flatnonzero(patients == patient)
        for place, k in enumerate(ks):
            predictor = Neighbors(
                encoder=task.encoder,
                classes=task.classes,
                support=to_unit(task.features[rest]).astype(np.float32),
                shares=np.eye(classes)[labels[rest]],
                k=k,
                temperature=0.07,
                smoothing=1.0,
            )
            probs[place, own] = predictor.predict_features(task.features[own])
    losses = -np.log(probs[:, np.arange(60), labels]).mean(1)
    np.testing.assert_allclose(
        fitted.curves["leave-one-patient-out log-loss by k"], np.stack([ks, losses], 1), rtol=1e-5
    )
    best = int(np.argmin(losses))
    assert fitted.notes["k"] == ks[best] and isinstance(fitted.predictor, Neighbors) and fitted.predictor.k == ks[best]
    assert fitted.notes["k_chosen_by"] == "leave-one-patient-out log-loss"
    if classes == 2:
        scores = [balanced_accuracy_score(labels, probs[best, :, 1] >= one) for one in probs[best, :, 1]]
        got = balanced_accuracy_score(labels, probs[best, :, 1] >= fitted.threshold)
        assert got == pytest.approx(max(scores))
    else:
        assert fitted.threshold == 0.5


def test_an_image_never_votes_on_another_of_its_patient(folder: Path) -> None:
    task = task_of(folder, 40, seed=3)
    labeled = dataclasses.replace(task.labeled, patients=np.arange(40) // 2, labels=np.arange(40) % 4 // 2)
    assert task.features is not None
    twins = np.repeat(np.random.default_rng(0).gamma(2.0, size=(20, DIM)), 2, axis=0).astype(np.float32)
    fitted = run("knn", dataclasses.replace(task, labeled=labeled, features=twins), ks=[1, 10])
    loss = dict(fitted.curves["leave-one-patient-out log-loss by k"])
    assert loss[1.0] > 0.6, "the only informative neighbor of an image is its twin, of the same patient"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans())
def test_blocks_find_the_neighbors_that_a_whole_sort_finds(seed: int, k: int, grouped: bool) -> None:
    rng = np.random.default_rng(seed)
    support, queries = (to_unit(rng.integers(-1, 2, (n, 3))) for n in (40, 13))  # few directions: many ties
    groups = {"query_groups": rng.integers(0, 4, 13), "support_groups": rng.integers(0, 4, 40)} if grouped else {}
    cosine = np.round(queries @ support.T, 9)
    if grouped:
        cosine[groups["query_groups"][:, None] == groups["support_groups"]] = neighbors.EXCLUDED
    want = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "QUERIES", 5)
        patch.setattr(neighbors, "SUPPORT", 7)
        blocks = list(nearest_rows(queries, support, k, **groups))
    np.testing.assert_array_equal(np.concatenate([rows for _, _, rows in blocks]), want)
    found = np.concatenate([similarities for _, similarities, _ in blocks])
    np.testing.assert_allclose(found, np.take_along_axis(cosine, want, axis=1), atol=2e-9)
    assert [block.start for block, _, _ in blocks] == [0, 5, 10]


def test_neighbors_that_are_excluded_do_not_vote() -> None:
    similarities = np.array([[0.9, 0.5, neighbors.EXCLUDED]])
    shares = np.eye(2)[[[0, 1, 1]]]
    weight = np.exp(-0.4 / 0.2)
    found = vote(similarities, shares, temperature=0.2, smoothing=0.0, prior=np.array([0.5, 0.5]))[0]
    np.testing.assert_allclose(found, [[1, 0], *[[1 / (1 + weight), weight / (1 + weight)]] * 2])


def test_k_is_never_above_the_rows(folder: Path) -> None:
    fitted = run("knn", task_of(folder, 6, inner_split=False))
    assert fitted.notes["k"] == 6 and fitted.notes["k_chosen_by"] == "fixed default"
    assert fitted.threshold == 0.5 and fitted.notes["threshold"] == "0.5: the budget allows no inner split"
    assert run("knn", task_of(folder, 30), k=500).notes["k"] == 30
    assert [one for one, _ in run("knn", task_of(folder, 30)).curves["leave-one-patient-out log-loss by k"]] == [
        1, 3, 5, 10, 20, 30,
    ]  # fmt: skip


def test_a_single_patient_leaves_nothing_to_choose_from(folder: Path) -> None:
    fitted = run("knn", task_of(folder, 20, patients=1))
    assert fitted.notes["k"] == 10 and fitted.notes["threshold"] == "0.5: all rows are of one patient"
    fitted = run("prototype", task_of(folder, 20, patients=1))
    assert fitted.notes["temperature"] == 1.0 and fitted.notes["folds"]["used"] == 0
    assert fitted.notes["threshold"] == "0.5: no fold has every class among its training rows"


@pytest.mark.parametrize("classes", [2, 4])
def test_prototypes_decide_as_the_nearest_centroid_of_scikit_learn(folder: Path, classes: int) -> None:
    task = task_of(folder, 40, classes=classes)
    assert task.features is not None
    mean = task.features.astype(np.float64).mean(0)
    reference = NearestCentroid().fit(cl2n(task.features, mean), task.labeled.labels)
    fitted = run("prototype", task, temperature=0.3)
    assert isinstance(fitted.predictor, Prototypes)
    np.testing.assert_allclose(fitted.predictor.prototypes, reference.centroids_, atol=1e-12)
    prior = np.bincount(task.labeled.labels) / len(task.labeled)
    assert ((probs_of(fitted, others()) / prior).argmax(1) == reference.predict(cl2n(others(), mean))).all()
    distances = ((cl2n(others(), mean)[:, None] - reference.centroids_) ** 2).sum(2)
    want = prior * np.exp(-distances / 0.3)
    np.testing.assert_allclose(probs_of(fitted, others()), want / want.sum(1, keepdims=True), atol=1e-10)


def test_the_temperature_is_that_of_a_cross_validation_written_out(folder: Path) -> None:
    task = task_of(folder, 60, patients=25, seed=1)
    grid = (0.02, 0.1, 0.5, 2.0)
    fitted = run("prototype", task, temperatures=list(grid))
    features, labels = task.features, task.labeled.labels
    assert features is not None
    probs = np.zeros((len(grid), 60, 2))
    for fold in make_folds(labels, task.labeled.patients, folds=5, seed=task.seed):
        mean = features[fold.train].astype(np.float64).mean(0)
        z = cl2n(features[fold.train], mean)
        centers = np.stack([z[labels[fold.train] == one].mean(0) for one in (0, 1)])
        distances = ((cl2n(features[fold.held_out], mean)[:, None] - centers) ** 2).sum(2)
        for place, temperature in enumerate(grid):
            odds = np.bincount(labels[fold.train]) * np.exp(-distances / temperature)
            probs[place, fold.held_out] = odds / odds.sum(1, keepdims=True)
    losses = -np.log(probs[:, np.arange(60), labels]).mean(1)
    np.testing.assert_allclose(
        fitted.curves["out-of-fold log-loss by temperature"], np.stack([grid, losses], 1), rtol=1e-8
    )
    best = int(np.argmin(losses))
    assert fitted.notes["temperature"] == grid[best] and fitted.notes["temperature_chosen_by"] == "cross-validation"
    scores = [balanced_accuracy_score(labels, probs[best, :, 1] >= one) for one in probs[best, :, 1]]
    assert balanced_accuracy_score(labels, probs[best, :, 1] >= fitted.threshold) == pytest.approx(max(scores))


@both
@pytest.mark.parametrize("inner_split", [True, False])
def test_the_order_of_the_rows_changes_nothing(folder: Path, name: str, inner_split: bool) -> None:
    task = task_of(folder, 40, patients=18, inner_split=inner_split)
    features = task.features
    assert features is not None
    features[5] = features[8] = features[30]  # equal similarities, of several classes
    first = run(name, task)
    second = run(name, permuted(task, np.random.default_rng(1).permutation(40)))
    np.testing.assert_allclose(probs_of(first, others()), probs_of(second, others()), atol=1e-9)
    np.testing.assert_allclose(probs_of(first, features), probs_of(second, features), atol=1e-9)
    assert second.threshold == pytest.approx(first.threshold, abs=1e-9)
    assert {key: first.notes[key] for key in ("threshold", "rows")} == {
        key: second.notes[key] for key in ("threshold", "rows")
    }


def test_every_row_twice_changes_no_prototype_and_no_vote_of_twice_as_many_neighbors(folder: Path) -> None:
    task = task_of(folder, 30, classes=3)
    twice = permuted(task, np.tile(np.arange(30), 2))
    pairs = [
        (run("prototype", task, temperature=0.2), run("prototype", twice, temperature=0.2)),
        (run("knn", task, k=5, smoothing=0.0), run("knn", twice, k=10, smoothing=0.0)),
        (run("knn", task, k=5, smoothing=1.0), run("knn", twice, k=10, smoothing=2.0)),
    ]
    for once, doubled in pairs:
        np.testing.assert_allclose(probs_of(once, others()), probs_of(doubled, others()), atol=1e-9)


def test_lengths_of_features_do_not_matter_to_knn_nor_shift_and_scale_of_all_to_prototypes(folder: Path) -> None:
    task = task_of(folder, 30)
    assert task.features is not None
    lengths = np.random.default_rng(0).uniform(0.1, 10, (30, 1)).astype(np.float32)
    scaled = dataclasses.replace(task, features=task.features * lengths)
    found = [probs_of(run("knn", one, k=5), others()) for one in (task, scaled)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    moved = dataclasses.replace(task, features=3 * task.features + 7)
    found = [probs_of(run("prototype", task), others()), probs_of(run("prototype", moved), 3 * others() + 7)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


@both
def test_votes_of_annotators_that_agree_are_labels_and_others_count_by_their_shares(folder: Path, name: str) -> None:
    task = task_of(folder, 24, inner_split=False)
    agreed = dataclasses.replace(task.labeled, soft_labels=np.eye(2)[task.labeled.labels])
    found = [probs_of(run(name, one), others()) for one in (task, dataclasses.replace(task, labeled=agreed))]
    np.testing.assert_array_equal(found[0], found[1])
    even = dataclasses.replace(task.labeled, soft_labels=np.full((24, 2), 0.5))
    fitted = run(name, dataclasses.replace(task, labeled=even))
    np.testing.assert_allclose(probs_of(fitted, others()), 0.5, atol=1e-12)
    assert fitted.notes["soft_labels"]
    votes = np.random.default_rng(0).integers(0, 4, 24) / 3
    some = dataclasses.replace(task.labeled, soft_labels=np.stack([1 - votes, votes], 1))
    third = run(name, dataclasses.replace(task, labeled=some), **({"k": 24} if name == "knn" else {}))
    copies = np.repeat(np.arange(24), 3)  # each annotator's vote as a row of its own
    split = permuted(task, copies)
    labels = (np.tile([0, 1, 2], 24) < np.repeat(np.rint(3 * votes), 3)).astype(np.int64)
    split = dataclasses.replace(split, labeled=dataclasses.replace(split.labeled, labels=labels))
    as_rows = run(name, split, **({"k": 72, "smoothing": 3.0} if name == "knn" else {}))
    np.testing.assert_allclose(probs_of(third, others()), probs_of(as_rows, others()), atol=1e-9)


@both
def test_features_and_images_are_predicted_alike_and_the_saved_predictor_says_the_same(
    name: str, tmp_path: Path
) -> None:
    images = as_images(noise(20), tmp_path)
    features = compute_features(images, tiny_encoder(), intensity="rgb8")
    fitted = run(name, make_task(images, np.arange(20) % 2, tiny_encoder(), features=features))
    new = ArrayImages(noise(6, seed=9))
    from_images = fitted.predictor.predict_images(new)
    from_features = probs_of(fitted, compute_features(new, tiny_encoder(), intensity="rgb8"))
    assert from_images.tobytes() == from_features.tobytes()
    fitted.predictor.save(tmp_path / "saved")
    loaded = predictors.load(tmp_path / "saved")
    assert isinstance(loaded, predictors.FeaturePredictor) and type(loaded) is type(fitted.predictor)
    assert loaded.predict_images(new).tobytes() == from_images.tobytes()
    assert loaded.trained_params == fitted.notes["trained_params"] == (0 if name == "knn" else 3 * DIM)
    assert loaded.predict_images(ArrayImages(noise(0))).shape == (0, 2)
    json.dumps(to_plain(fitted.notes), allow_nan=False)
    facts = json.loads((tmp_path / "saved" / "predictor.json").read_text())
    del facts["temperature"]
    (tmp_path / "saved" / "predictor.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match=r"predictor\.json is damaged \('temperature'\)"):
        predictors.load(tmp_path / "saved")


@both
def test_images_without_any_signal_get_the_shares_or_even_odds_and_no_error(folder: Path, name: str) -> None:
    task = task_of(folder, 20)
    flat = dataclasses.replace(task, features=np.zeros((20, DIM), np.float32))
    assert np.isfinite(probs_of(run(name, flat), others())).all()
    assert np.isfinite(probs_of(run(name, task), np.zeros((1, DIM), np.float32))).all()


@both
def test_what_cannot_be_fitted_is_refused_by_name(folder: Path, name: str) -> None:
    task = task_of(folder, 20)
    assert task.features is not None
    with pytest.raises(DataError, match=r"Features of toy have shape None; give \(20, dim\)"):
        run(name, dataclasses.replace(task, features=None))
    with pytest.raises(NotEnoughData, match="has 0 images of class `c`; this method needs one or more of each class"):
        run(name, dataclasses.replace(task, classes=("a", "b", "c")))
    broken = task.features.copy()
    broken[[4, 11], 2] = np.nan
    with pytest.raises(DataError, match=r"Features of row 4 of toy hold NaN or Inf \(2 such rows\)"):
        run(name, dataclasses.replace(task, features=broken))
    with pytest.raises(DataError, match=rf"Features have shape \(2, 3\); give \(images, {DIM}\)"):
        probs_of(run(name, task), np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("knn", {"k": 0}, "must be whole numbers of 1 or more"),
        ("knn", {"ks": []}, "at least one"),
        ("knn", {"temperature": 0.0}, "`temperature` is 0.0; give a number above 0"),
        ("knn", {"smoothing": -1.0}, "`smoothing` is -1.0; give a number of 0 or more"),
        ("prototype", {"temperature": -1.0}, "must be finite numbers above 0"),
        ("prototype", {"temperatures": []}, "at least one"),
        ("prototype", {"folds": 1}, "`folds` is 1; give 2 or more"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(adapt.METHODS[name].config, settings, where="adapt")


def test_prototypes_follow_the_shares_of_the_classes_where_features_say_nothing(folder: Path) -> None:
    rng = np.random.default_rng(0)
    task = task_of(folder, 200, classes=2)
    labels = (np.arange(200) % 10 == 0).astype(np.int64)
    features = rng.normal(size=(200, 8)).astype(np.float32)
    labeled = dataclasses.replace(task.labeled, labels=labels)
    encoder = dataclasses.replace(task.encoder, feature_dim=8)
    fitted = run("prototype", dataclasses.replace(task, labeled=labeled, features=features, encoder=encoder))
    found = fitted.predictor.predict_features(rng.normal(size=(2000, 8)))  # type: ignore[attr-defined]
    assert abs(found[:, 1].mean() - 0.1) < 0.02
