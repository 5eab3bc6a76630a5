"""The probe on synthetic rows: against scikit-learn and scipy, by closed forms; and what is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from tests.adapt.synthetic_tasks import WAYS, add, fit
from tests.adapt.test_linear_probe import task_of
from tests.toy_images import as_images, noise
from wazuka.adapt import linear_probe
from wazuka.core.errors import DataError, NotEnoughData
from wazuka.core.hashing import to_plain
from wazuka.data.views import JoinedImages
from wazuka.nn.predictors import LinearHead
from wazuka.training.grouped_cv import make_folds
from wazuka.training.logistic import Problem, solve
from wazuka.training.roles import AdaptTask, SyntheticRows, TrainOn


def with_features(
    task: AdaptTask, folder: Path, train_on: TrainOn, *, m: int = 50, weight: float = 2.0, seed: int = 1
) -> AdaptTask:
    """Synthetic features near the real ones of their class, moved and scaled; the last class is as frequent as two."""
    assert task.features is not None
    rng, classes = np.random.default_rng(seed), len(task.classes)
    labels = np.minimum(np.arange(m) % (classes + 1), classes - 1)
    like = [rng.choice(np.flatnonzero(task.labeled.labels == one)) for one in labels]
    moved = 1.3 * task.features[like] + rng.normal(size=(m, task.features.shape[1])) + 0.4
    images = as_images(noise(m, size=2), folder / f"made-{m}-{seed}")
    rows = SyntheticRows(
        images=images,
        labels=labels.astype(np.int64),
        features=moved.astype(np.float32),
        train_on=train_on,
        weight=weight,
    )
    return add(task, rows)


def corrected(probs: np.ndarray, have: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Bayes' rule: probabilities under other class shares."""
    scores = np.log(probs) + np.log(want) - np.log(have)
    return np.exp(scores - logsumexp(scores, axis=-1, keepdims=True))


def reference(
    task: AdaptTask, penalty: float, train_on: TrainOn, *, real: np.ndarray, new: np.ndarray, balanced: bool = False
) -> np.ndarray:
    """Probabilities of scikit-learn with sample weights for rows `real` of the task and all synthetic rows."""
    made = task.synthetic
    assert made is not None and task.features is not None and made.features is not None
    scaler = StandardScaler().fit(task.features[real].astype(np.float64))
    x = scaler.transform(np.concatenate([task.features[real], made.features]).astype(np.float64))
    y = np.concatenate([task.labeled.labels[real], made.labels])
    each = len(real) / len(made.labels)
    of_real, of_made = (1.0, made.weight * each) if train_on == "real+synthetic" else (0.0, each)
    weights = np.repeat([of_real, of_made], [len(real), len(made.labels)])
    totals = np.bincount(y, weights=weights)
    if balanced:
        weights = weights * (totals.sum() / (len(totals) * totals))[y]
        totals = np.ones(len(totals))
    keep = weights > 0
    model = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    probs = model.fit(x[keep], y[keep], sample_weight=weights[keep]).predict_proba(scaler.transform(new))
    return corrected(probs, totals / totals.sum(), np.bincount(task.labeled.labels[real]) / len(real))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("train_on", ["real+synthetic", "synthetic"])
def test_the_probe_is_scikit_learns_with_sample_weights(
    tmp_path: Path, train_on: TrainOn, classes: int, balanced: bool
) -> None:
    task = with_features(task_of(tmp_path, 40, classes=classes, seed=classes), tmp_path, train_on)
    how = {"class_weights": "balanced"} if balanced else {}
    (fitted,) = fit("linear-probe", [task], tmp_path, penalty=0.05, **how)
    assert isinstance(fitted.predictor, LinearHead) and task.features is not None
    new = task.features.astype(np.float64)
    want = reference(task, 0.05, train_on, real=np.arange(40), new=new, balanced=balanced)
    np.testing.assert_allclose(fitted.predictor.predict_features(task.features), want, atol=1e-6)
    assert fitted.notes["train_on"] == train_on and fitted.notes["synthetic_rows"] == 50
    assert fitted.notes["certificate"]["converged"]
    json.dumps(to_plain(fitted.notes), allow_nan=False)


def test_votes_of_real_rows_and_labels_of_synthetic_ones_are_learned_together(tmp_path: Path) -> None:
    votes = np.random.default_rng(0).dirichlet([2, 1], size=40)
    task = with_features(task_of(tmp_path, 40, soft_labels=votes, inner_split=False), tmp_path, "real+synthetic")
    (fitted,) = fit("linear-probe", [task], tmp_path)
    made = task.synthetic
    assert made is not None and made.features is not None and task.features is not None
    scaler = StandardScaler().fit(task.features.astype(np.float64))
    x = [scaler.transform(one.astype(np.float64)) for one in (task.features, made.features)]
    weights = np.concatenate([votes.ravel(), np.full(50, 2 * 40 / 50)])
    y = np.concatenate([np.tile([0, 1], 40), made.labels])
    model = LogisticRegression(C=0.01, solver="newton-cholesky", tol=1e-12)
    probs = model.fit(np.concatenate([np.repeat(x[0], 2, axis=0), x[1]]), y, sample_weight=weights).predict_proba(x[0])
    want = corrected(probs, np.bincount(y, weights=weights) / weights.sum(), votes.mean(0))
    assert isinstance(fitted.predictor, LinearHead)
    np.testing.assert_allclose(fitted.predictor.predict_features(task.features), want, atol=1e-6)
    assert fitted.notes["penalty_chosen_by"] == "fixed default" and fitted.threshold == 0.5


@pytest.mark.parametrize("classes", [2, 3])
def test_the_real_rows_once_more_as_synthetic_ones_are_a_doubled_penalty(tmp_path: Path, classes: int) -> None:
    task = task_of(tmp_path, 36, classes=classes)
    labeled = task.labeled
    twins = SyntheticRows(
        images=labeled.images, labels=labeled.labels, features=task.features, train_on="real+synthetic", weight=1.0
    )
    (twice,) = fit("linear-probe", [add(task, twins)], tmp_path, penalty=0.05)
    (doubled,) = fit("linear-probe", [task], tmp_path, penalty=0.1)
    probs = [one.predictor.predict_features(task.features) for one in (twice, doubled)]  # type: ignore[attr-defined]
    np.testing.assert_allclose(probs[0], probs[1], atol=1e-6)


def test_the_penalty_of_mixed_rows_is_that_of_a_cross_validation_of_the_real_ones_written_out(tmp_path: Path) -> None:
    grid = (0.001, 0.01, 0.1, 1.0)
    task = with_features(task_of(tmp_path, 60, patients=30, seed=4), tmp_path, "real+synthetic", weight=0.5)
    (fitted,) = fit("linear-probe", [task], tmp_path, penalties=list(grid))
    assert task.features is not None
    labels, probs = task.labeled.labels, np.zeros((4, 60, 2))
    for fold in make_folds(labels, task.labeled.patients, folds=5, seed=task.seed):
        new = task.features[fold.held_out].astype(np.float64)
        for place, penalty in enumerate(grid):
            probs[place, fold.held_out] = reference(task, penalty, "real+synthetic", real=fold.train, new=new)
    losses = -np.log(probs[:, np.arange(60), labels]).mean(1)
    np.testing.assert_allclose(
        [loss for _, loss in fitted.curves["out-of-fold log-loss by penalty"]], losses, rtol=1e-5
    )
    assert fitted.notes["penalty"] == grid[int(np.argmin(losses))]
    assert fitted.notes["penalty_chosen_by"] == "cross-validation" and fitted.notes["folds"]["used"] == 5


def test_synthetic_rows_alone_are_judged_on_all_real_rows(tmp_path: Path) -> None:
    grid = (0.0001, 0.01, 1.0)
    task = with_features(task_of(tmp_path, 60, seed=4), tmp_path, "synthetic")
    (fitted,) = fit("linear-probe", [task], tmp_path, penalties=list(grid))
    assert task.features is not None
    every, labels = np.arange(60), task.labeled.labels
    new = task.features.astype(np.float64)
    probs = np.stack([reference(task, one, "synthetic", real=every, new=new) for one in grid])
    losses = -np.log(probs[:, every, labels]).mean(1)
    best = int(np.argmin(losses))
    np.testing.assert_allclose(
        [loss for _, loss in fitted.curves["out-of-fold log-loss by penalty"]], losses, rtol=1e-5
    )
    assert fitted.notes["penalty"] == grid[best] and "folds" not in fitted.notes
    assert fitted.notes["penalty_chosen_by"] == "log-loss on the real rows"
    assert fitted.notes["threshold"] == "highest balanced accuracy on the real rows"
    scores = [balanced_accuracy_score(labels, probs[best, :, 1] >= one) for one in probs[best, :, 1]]
    got = balanced_accuracy_score(labels, probs[best, :, 1] >= fitted.threshold)
    assert got == pytest.approx(max(scores))


@pytest.mark.parametrize("classes", [2, 3])
def test_real_rows_after_synthetic_ones_have_their_solution_as_prior(tmp_path: Path, classes: int) -> None:
    """Against scipy on  C * sum of log-losses + 0.5 |W - W_s|^2, W_s by scikit-learn on the synthetic rows."""
    task = with_features(task_of(tmp_path, 40, classes=classes, seed=3), tmp_path, "synthetic-then-real", m=70)
    (fitted,) = fit("linear-probe", [task], tmp_path, penalty=0.02)
    made, features, labels = task.synthetic, task.features, task.labeled.labels
    assert made is not None and made.features is not None and features is not None
    scaler = StandardScaler().fit(features.astype(np.float64))
    x, x_made = (scaler.transform(one.astype(np.float64)) for one in (features, made.features))
    model = LogisticRegression(C=0.02, solver="newton-cholesky", tol=1e-12)
    prior = model.fit(x_made, made.labels, sample_weight=np.full(70, 40 / 70)).coef_
    if classes == 2:
        prior = np.concatenate([np.zeros_like(prior), prior])
    targets, shape = np.eye(classes)[labels], (classes, x.shape[1] + 1)
    fixed = np.arange(classes) < (classes == 2)  # of two classes, the first has the logit 0

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(shape)
        logits = x @ w[:, :-1].T + w[:, -1]
        residual = 0.02 * (softmax(logits, axis=1) - targets)
        slope = np.hstack([residual.T @ x + w[:, :-1] - prior, residual.sum(0)[:, None]])
        slope[fixed] = 0
        loss = (logsumexp(logits, axis=1) - (targets * logits).sum(1)).sum()
        return 0.02 * loss + 0.5 * ((w[:, :-1] - prior) ** 2).sum(), slope.ravel()

    start = np.hstack([prior, np.zeros((classes, 1))]).ravel()
    found = minimize(value, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-12, "ftol": 0, "maxiter": 20_000})
    w = found.x.reshape(shape)
    assert isinstance(fitted.predictor, LinearHead)
    probs = fitted.predictor.predict_features(features)
    np.testing.assert_allclose(probs, softmax(x @ w[:, :-1].T + w[:, -1], axis=1), atol=1e-6)
    assert fitted.notes["synthetic_penalty"] == fitted.notes["penalty"] == 0.02


def test_both_penalties_are_chosen_where_real_rows_come_second(tmp_path: Path) -> None:
    task = with_features(task_of(tmp_path, 60, seed=4), tmp_path, "synthetic-then-real")
    assert task.synthetic is not None
    (fitted,) = fit("linear-probe", [task], tmp_path)
    (alone,) = fit("linear-probe", [add(task, dataclasses.replace(task.synthetic, train_on="synthetic"))], tmp_path)
    assert fitted.notes["synthetic_penalty"] == alone.notes["penalty"]
    assert fitted.notes["synthetic_penalty_chosen_by"] == "log-loss on the real rows"
    assert fitted.notes["penalty_chosen_by"] == "cross-validation" and fitted.notes["folds"]["used"] == 5
    (weak,) = fit("linear-probe", [task], tmp_path, penalty=1e-12)  # nothing but the intercept is learned
    assert isinstance(weak.predictor, LinearHead)
    (flat,) = fit("linear-probe", [add(task, None)], tmp_path, penalty=1e-12)
    np.testing.assert_allclose(weak.predictor.weight, flat.predictor.weight, atol=1e-9)  # type: ignore[attr-defined]


def test_folds_of_real_rows_that_come_second_are_judged_with_the_synthetic_solution(tmp_path: Path) -> None:
    grid = (0.001, 0.03, 1.0)
    task = with_features(task_of(tmp_path, 60, classes=3, patients=30, seed=4), tmp_path, "synthetic-then-real")
    (fitted,) = fit("linear-probe", [task], tmp_path, penalties=list(grid))
    made, features, labels = task.synthetic, task.features, task.labeled.labels
    assert made is not None and made.features is not None and features is not None
    scaler = StandardScaler().fit(features.astype(np.float64))
    model = LogisticRegression(C=fitted.notes["synthetic_penalty"], solver="newton-cholesky", tol=1e-12)
    model.fit(scaler.transform(made.features.astype(np.float64)), made.labels, sample_weight=np.full(50, 60 / 50))
    offsets = scaler.transform(features.astype(np.float64)) @ model.coef_.T
    probs = np.zeros((len(grid), 60, 3))
    for fold in make_folds(labels, task.labeled.patients, folds=5, seed=task.seed):
        problem = Problem(features=features, labels=labels, n_classes=3, rows=fold.train, offsets=offsets)
        (one,) = solve([problem], grid)
        x = (features[fold.held_out].astype(np.float64) - one.mean) / one.scale
        logits = np.einsum("nd,pkd->pnk", x, one.coef) + one.intercept[:, None] + offsets[fold.held_out]
        probs[:, fold.held_out] = softmax(logits, axis=2)
    losses = -np.log(probs[:, np.arange(60), labels]).mean(1)
    np.testing.assert_allclose(
        [loss for _, loss in fitted.curves["out-of-fold log-loss by penalty"]], losses, rtol=1e-5
    )
    assert fitted.notes["penalty"] == grid[int(np.argmin(losses))]


def test_mixed_tasks_together_are_as_tasks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [
        with_features(task_of(tmp_path, 30 + seed, seed=seed, inner_split=seed != 1), tmp_path, way, m=40, seed=seed)
        for seed, way in enumerate(WAYS)
    ]
    tasks.append(task_of(tmp_path, 30, seed=9))
    monkeypatch.setattr(linear_probe, "TASKS_AT_ONCE", 3)
    for task, fitted in zip(tasks, fit("linear-probe", tasks, tmp_path), strict=True):
        (alone,) = fit("linear-probe", [task], tmp_path)
        assert alone.notes["penalty"] == fitted.notes["penalty"]
        probs = [one.predictor.predict_features(task.features) for one in (fitted, alone)]  # type: ignore[attr-defined]
        np.testing.assert_allclose(probs[0], probs[1], atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_synthetic_rows_like_real_ones_help_and_with_shuffled_labels_hurt(way: TrainOn, tmp_path: Path) -> None:
    """The synthetic rows are 140 further rows of the real ones' distribution: as good as a generator can be."""
    whole = task_of(tmp_path, 480, seed=8)
    assert whole.features is not None
    features, labels, labeled = whole.features, whole.labeled.labels, whole.labeled
    first = {one: getattr(labeled, one)[:20] for one in ("labels", "patients", "domains", "is_val")}
    few = dataclasses.replace(
        whole,
        features=features[:20],
        labeled=dataclasses.replace(labeled, images=labeled.images.take(np.arange(20)), **first),
    )
    more = np.arange(20, 160)
    good = SyntheticRows(
        images=labeled.images.take(more), labels=labels[more], features=features[more], train_on=way, weight=7.0
    )
    bad = dataclasses.replace(good, labels=np.random.default_rng(0).permutation(good.labels))
    scores = []
    for rows in (good, None, bad):
        (fitted,) = fit("linear-probe", [add(few, rows)], tmp_path, penalty=0.01)
        probs = fitted.predictor.predict_features(features[160:])  # type: ignore[attr-defined]
        scores.append(roc_auc_score(labels[160:], probs[:, 1]))
    assert scores[0] > scores[1] + 0.02 and scores[1] > scores[2] + 0.02, scores


# What fits together, and what is refused.


def test_synthetic_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    task = with_features(task_of(tmp_path, 30), tmp_path, "synthetic")
    made = task.synthetic
    assert made is not None and made.features is not None
    spoiled = made.features.copy()
    spoiled[[3, 8], 1] = np.nan
    none = {"images": made.images.take(np.arange(0)), "labels": made.labels[:0], "features": made.features[:0]}
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"labels": made.labels[:9]}, DataError, "toy has 50 synthetic images but 9 labels; give one each"),
        ({"labels": made.labels + 1}, DataError, r"Label 2 of a synthetic image is outside 0\.\.1"),
        ({"weight": 0.0}, DataError, r"`weight` of the synthetic rows is 0\.0; give a finite number above 0"),
        ({"features": None}, DataError, r"Synthetic features of toy have shape None; give \(50, 24\)"),
        ({"features": made.features[:, :5]}, DataError, r"have shape \(50, 5\); give \(50, 24\)"),
        ({"features": spoiled}, DataError, r"Features of synthetic row 3 of toy hold NaN or Inf \(2 such rows\)"),
        ({"labels": 0 * made.labels}, NotEnoughData, "toy has 0 synthetic images of class `b`; `train_on: synthetic`"),
        (none, NotEnoughData, "toy has 0 synthetic images; `train_on: synthetic` needs some"),
    ]
    for changes, kind, text in wrong:
        with pytest.raises(kind, match=text):
            fit("linear-probe", [add(task, dataclasses.replace(made, **changes))], tmp_path)
    topped_up = dataclasses.replace(made, labels=np.ones_like(made.labels), train_on="real+synthetic")
    (fitted,) = fit("linear-probe", [add(task, topped_up)], tmp_path)
    assert fitted.notes["synthetic_rows_per_class"] == [0, 50]


def test_joined_images_are_the_rows_of_both_views_and_no_others(tmp_path: Path) -> None:
    first, second = noise(9, size=4, seed=1), noise(7, size=4, seed=2)
    views = as_images(first, tmp_path / "a", rows=np.array([8, 1, 4])), as_images(second, tmp_path / "b")
    joined = JoinedImages(views[0], views[1].take(np.array([6, 0])))
    want = np.concatenate([first[[8, 1, 4]], second[[6, 0]]])
    assert len(joined) == 5 and joined.shape == (4, 4, 3) and joined.dtype == np.uint8
    for positions in (np.arange(5), np.array([4, 0, 4, 2]), np.array([1]), np.array([3]), np.array([], np.int64)):
        np.testing.assert_array_equal(joined.batch(positions), want[positions])
    again = pickle.loads(pickle.dumps(joined))
    np.testing.assert_array_equal(again.batch(np.array([3, 0])), want[[3, 0]])
    assert len(pickle.dumps(joined)) < 2000, "the pixels do not travel"
    with pytest.raises(IndexError):
        joined.batch(np.array([5]))
    for other in (noise(2, size=5), noise(2, size=4).astype(np.int16)):
        with pytest.raises(DataError, match=r"give \(4, 4, 3\) uint8, as there are in"):
            JoinedImages(views[0], as_images(other, tmp_path / f"c{other.itemsize}"))
