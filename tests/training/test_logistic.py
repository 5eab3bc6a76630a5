"""The exact solver against scikit-learn, closed forms, its own certificate recomputed in NumPy, and invariances."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from wazuka.core.errors import DataError
from wazuka.training.logistic import Problem, Solution, solve


def draw(n: int, dim: int, classes: int, *, seed: int = 0, gap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of unequal scale, at least two rows of each class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=n, p=np.arange(classes, 0, -1) / (classes * (classes + 1) / 2))
    labels[: 2 * classes] = np.repeat(np.arange(classes), 2)
    rank = max(2, dim // 3)
    factors = rng.normal(size=(n, rank)) + gap * rng.normal(size=(classes, rank))[labels]
    features = factors @ rng.normal(size=(rank, dim)) + 0.3 * rng.normal(size=(n, dim))
    return (features * 10 ** rng.uniform(-2, 2, dim) + rng.normal(size=dim)).astype(np.float32), labels


def reference(
    features: np.ndarray, labels: np.ndarray, penalty: float, *, weights: np.ndarray | None = None, **more: Any
) -> tuple[LogisticRegression, np.ndarray]:
    """scikit-learn's Newton solver, far below our tolerance, and its standardized features."""
    x = StandardScaler().fit_transform(features.astype(np.float64))
    model = LogisticRegression(C=penalty, solver="newton-cholesky", tol=1e-12, max_iter=1000, **more)
    return model.fit(x, labels, sample_weight=weights), x


def targets_of(problem: Problem) -> np.ndarray:
    """Weighted class shares of all rows, written out."""
    shares = problem.soft_labels if problem.labels is None else np.eye(problem.n_classes)[problem.labels]
    assert shares is not None
    rows = 1.0 if problem.weights is None else problem.weights[:, None]
    return shares * rows * (1.0 if problem.class_weights is None else problem.class_weights)


def kkt(problem: Problem, solution: Solution, place: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Objective, gradient in W and gradient in b, in plain NumPy from the definition."""
    x = (problem.features.astype(np.float64) - solution.mean) / solution.scale
    targets, penalty = targets_of(problem), solution.penalties[place]
    coef, intercept = solution.coef[place], solution.intercept[place]
    logits = x @ coef.T + intercept
    if problem.n_classes == 2:
        logits = np.hstack([np.zeros_like(logits), logits])
    loss = (targets.sum(1) * logsumexp(logits, axis=1)).sum() - (targets * logits).sum()
    residual = softmax(logits, axis=1) * targets.sum(1, keepdims=True) - targets
    if problem.n_classes == 2:
        residual = residual[:, 1:]
    value = penalty * loss + 0.5 * (coef**2).sum()
    return value, penalty * residual.T @ x + coef, penalty * residual.sum(0)


SHAPES = {
    "fewer rows than features, separable": (30, 60, 4, 1.0),
    "more rows than features": (240, 12, 5, 0.5),
    "two classes, fewer rows": (25, 50, 2, 1.0),
    "two classes, more rows, overlapping": (300, 10, 2, 0.2),
    "as many rows as features": (24, 24, 3, 0.5),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_coefficients_and_probabilities_are_those_of_scikit_learn(shape: tuple[int, int, int, float]) -> None:
    n, dim, classes, gap = shape
    features, labels = draw(n + 50, dim, classes, gap=gap)
    features, labels, new = features[:n], labels[:n], features[n:]
    penalties = (10.0, 0.001, 0.1)
    (solution,) = solve([Problem(features=features, labels=labels, n_classes=classes)], penalties)
    assert solution.converged.all() and (solution.gap <= 1e-13).all()
    found = solution.predict(new)
    for place, penalty in enumerate(penalties):
        model, _ = reference(features, labels, penalty)
        scale = np.abs(model.coef_).max()
        np.testing.assert_allclose(solution.coef[place], model.coef_, atol=2e-6 * scale)
        if classes > 2:
            np.testing.assert_allclose(solution.intercept[place].sum(), 0, atol=1e-9)
        x = StandardScaler().fit(features.astype(np.float64)).transform(new)
        np.testing.assert_allclose(found[place], model.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_row_and_class_weights_are_those_of_scikit_learn(classes: int) -> None:
    features, labels = draw(120, 20, classes)
    rng = np.random.default_rng(1)
    weights, class_weights = rng.uniform(0, 3, len(labels)), rng.uniform(0.2, 3, classes)
    problem = Problem(features=features, labels=labels, n_classes=classes, weights=weights, class_weights=class_weights)
    (solution,) = solve([problem], [0.5])
    model, _ = reference(features, labels, 0.5, weights=weights, class_weight=dict(enumerate(class_weights)))
    np.testing.assert_allclose(solution.coef[0], model.coef_, atol=1e-7)
    np.testing.assert_allclose(solution.intercept[0], model.intercept_, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
def test_soft_labels_are_weighted_copies_of_the_rows(classes: int) -> None:
    features, _ = draw(60, 10, classes)
    shares = np.random.default_rng(2).dirichlet(np.ones(classes), size=60)
    (solution,) = solve([Problem(features=features, soft_labels=shares, n_classes=classes)], [0.3])
    x = StandardScaler().fit_transform(features.astype(np.float64))
    model = LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-12)
    model.fit(np.repeat(x, classes, axis=0), np.tile(np.arange(classes), 60), sample_weight=shares.ravel())
    np.testing.assert_allclose(solution.coef[0], model.coef_, atol=1e-7)
    np.testing.assert_allclose(solution.intercept[0], model.intercept_, atol=1e-7)


def test_constant_features_keep_scale_one_and_get_no_weight() -> None:
    features, labels = draw(40, 8, 3)
    features[:, 2], features[:, 5] = 0.1, -1e6  # 0.1 is no float32: its mean is not exactly itself
    (solution,) = solve([Problem(features=features, labels=labels, n_classes=3)], [1.0])
    scaler = StandardScaler().fit(features.astype(np.float64))
    np.testing.assert_array_equal(solution.scale[[2, 5]], 1)
    np.testing.assert_allclose(solution.scale, scaler.scale_, rtol=1e-12)
    np.testing.assert_allclose(solution.coef[0][:, [2, 5]], 0, atol=1e-9)
    model, _ = reference(features, labels, 1.0)
    np.testing.assert_allclose(solution.coef[0], model.coef_, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(8, 60),
    dim=st.integers(1, 70),
    classes=st.integers(2, 4),
    seed=st.integers(0, 10_000),
    log_penalty=st.floats(-4, 2),
    kind=st.sampled_from(["plain", "weights", "soft"]),
)
def test_the_certificate_holds_when_recomputed_from_the_definition(
    n: int, dim: int, classes: int, seed: int, log_penalty: float, kind: str
) -> None:
    features, labels = draw(n, dim, classes, seed=seed)
    rng = np.random.default_rng(seed)
    soft = rng.dirichlet(np.ones(classes), size=n) if kind == "soft" else None
    problem = Problem(
        features=features,
        labels=None if kind == "soft" else labels,
        soft_labels=soft,
        n_classes=classes,
        weights=rng.uniform(0.1, 2, n) if kind == "weights" else None,
    )
    penalties = (10.0**log_penalty, 10 ** (log_penalty - 1))
    loose, tight = (solve([problem], penalties, tolerance=tolerance)[0] for tolerance in (1e-4, 1e-13))
    for place in range(2):
        best = kkt(problem, tight, place)[0]
        for solution in (loose, tight):
            value, gradient, slope = kkt(problem, solution, place)
            np.testing.assert_allclose(solution.objective[place], value, rtol=1e-10)
            assert np.abs(slope).max() <= 1e-9 * max(1, solution.penalties[place] * n), "the intercept is optimal"
            bound = 0.5 * (gradient**2).sum() / value
            np.testing.assert_allclose(solution.gap[place], bound, rtol=1e-3, atol=1e-17)
            assert (value - best) / best <= bound + 1e-12, "the bound bounds"
        assert tight.converged[place] and loose.converged[place] and loose.gap[place] <= 1e-4


@pytest.mark.parametrize(("precision", "most"), [("float64", 1e-6), ("float32", 1e-3)])
def test_a_problem_does_not_depend_on_the_others_in_the_batch(precision: Any, most: float) -> None:
    rng = np.random.default_rng(5)
    features, labels = draw(90, 40, 3)
    problems = []
    for _ in range(12):  # several of one padded shape, some of others, with paths of different length
        rows = np.concatenate([np.arange(6), 6 + rng.permutation(84)[: rng.choice([20, 22, 23, 70])]])
        own = tuple(rng.choice([0.001, 0.03, 1.0, 10.0], size=rng.integers(1, 4), replace=False))
        problems.append(Problem(features=features, labels=labels, n_classes=3, rows=rows, penalties=own))
    alone = [solve([one], (), precision=precision)[0].predict(features) for one in problems]
    for size in (2, 5, 12):
        chosen = rng.permutation(12)[:size]
        for index, solution in zip(
            chosen, solve([problems[one] for one in chosen], (), precision=precision), strict=True
        ):
            np.testing.assert_allclose(solution.predict(features), alone[index], atol=most)


def test_a_solution_from_a_path_is_that_of_its_penalty_alone() -> None:
    features, labels = draw(50, 80, 4)
    problem = Problem(features=features, labels=labels, n_classes=4)
    path = (3.0, 0.001, 0.1, 0.01, 30.0)
    (together,) = solve([problem], path)
    np.testing.assert_array_equal(together.penalties, path)
    for place, penalty in enumerate(path):
        (alone,) = solve([problem], [penalty])
        np.testing.assert_allclose(together.predict(features)[place], alone.predict(features)[0], atol=1e-6)


def test_smaller_batches_change_nothing() -> None:
    features, labels = draw(64, 100, 3)
    problems = [
        Problem(features=features, labels=labels, n_classes=3, rows=np.delete(np.arange(64), 6 + k)) for k in range(6)
    ]
    for one, other in zip(solve(problems, [0.1, 1]), solve(problems, [0.1, 1], memory_mb=0), strict=True):
        np.testing.assert_allclose(one.coef, other.coef, atol=1e-12)


def test_float32_agrees_with_float64_and_says_how_well() -> None:
    features, labels = draw(80, 100, 3)
    problem = Problem(features=features, labels=labels, n_classes=3)
    fine, coarse = (solve([problem], [0.01, 1, 10], precision=one)[0] for one in ("float64", "float32"))
    np.testing.assert_allclose(coarse.predict(features), fine.predict(features), atol=1e-3)
    assert coarse.converged.all() and (coarse.gap <= 1e-6).all()
    assert (coarse.objective >= fine.objective * (1 - 1e-12)).all()
    assert (coarse.iterations < fine.iterations).all()


@pytest.mark.parametrize("classes", [2, 5])
def test_a_crushing_penalty_or_useless_features_leave_the_class_shares(classes: int) -> None:
    features, labels = draw(70, 9, classes)
    shares = np.bincount(labels, minlength=classes) / len(labels)
    problems = [
        Problem(features=features, labels=labels, n_classes=classes, penalties=(1e-12,)),
        Problem(features=np.full((70, 9), 3.3), labels=labels, n_classes=classes, penalties=(5.0,)),
    ]
    for solution in solve(problems, ()):
        np.testing.assert_allclose(solution.predict(features)[0], np.tile(shares, (70, 1)), atol=1e-8)


def test_class_weights_do_not_change_the_shares_that_probabilities_follow() -> None:
    features, labels = draw(90, 6, 3)
    shares = np.bincount(labels) / len(labels)
    weighted = Problem(features=features, labels=labels, n_classes=3, class_weights=1 / shares, penalties=(1e-12,))
    (solution,) = solve([weighted], ())
    np.testing.assert_allclose(solution.predict(features)[0][0], shares, atol=1e-8)
    np.testing.assert_allclose(softmax(solution.intercept[0]), np.full(3, 1 / 3), atol=1e-8)
    two = np.minimum(labels, 1)
    weighted = Problem(features=features, labels=two, n_classes=2, class_weights=np.array([0.5, 7]), penalties=(1e-12,))
    (solution,) = solve([weighted], ())
    np.testing.assert_allclose(solution.predict(features)[0][0, 1], two.mean(), atol=1e-8)
    odds = 7 * two.sum() / (0.5 * (1 - two).sum())
    np.testing.assert_allclose(expit(solution.intercept[0, 0]), odds / (1 + odds), atol=1e-8)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 4))
def test_scaling_of_features_order_of_classes_and_doubling_do_not_matter(seed: int, classes: int) -> None:
    features, labels = draw(40, 15, classes, seed=seed)
    features = features.astype(np.float64)
    rng = np.random.default_rng(seed)
    swapped = rng.permutation(classes)
    scaled = features * rng.uniform(0.01, 100, 15) + rng.normal(size=15)
    twice = np.concatenate([features, features]), np.concatenate([labels, labels])
    plain, moved, renamed, doubled = solve(
        [
            Problem(features=features, labels=labels, n_classes=classes),
            Problem(features=scaled, labels=labels, n_classes=classes),
            Problem(features=features, labels=swapped[labels], n_classes=classes),
            Problem(features=twice[0], labels=twice[1], n_classes=classes, penalties=(0.1,)),
        ],
        [0.2],
    )
    want = plain.predict(features)[0]
    np.testing.assert_allclose(moved.predict(scaled)[0], want, atol=1e-6)
    np.testing.assert_allclose(renamed.predict(features)[0][:, swapped], want, atol=1e-6)
    np.testing.assert_allclose(doubled.predict(features)[0], want, atol=1e-6)


def test_rows_without_weight_do_not_pull() -> None:
    features, labels = draw(40, 60, 3)
    x = StandardScaler().fit_transform(features.astype(np.float64))
    weights = (np.arange(40) < 30).astype(np.float64)
    (solution,) = solve([Problem(features=x, labels=labels, n_classes=3, weights=weights)], [1.0])
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(x[:30], labels[:30])
    np.testing.assert_allclose(solution.coef[0], model.coef_, atol=1e-6)


def test_features_may_be_a_read_only_map_of_a_file_and_are_never_written(tmp_path: Path) -> None:
    features, labels = draw(30, 5, 2)
    np.save(tmp_path / "features.npy", features.astype(np.float64))
    before = (tmp_path / "features.npy").read_bytes()
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    own = features.astype(np.float64)
    problems = [Problem(features=one, labels=labels, n_classes=2) for one in (mapped, own)]
    one, other = solve(problems, [1.0])
    np.testing.assert_allclose(one.coef, other.coef, atol=1e-12)
    np.testing.assert_array_equal(own, features.astype(np.float64))
    assert (tmp_path / "features.npy").read_bytes() == before


def test_too_few_iterations_are_admitted() -> None:
    features, labels = draw(60, 30, 3)
    problem = Problem(features=features, labels=labels, n_classes=3)
    (solution,) = solve([problem], [10.0], max_iterations=1, precision="float32")
    assert not solution.converged[0] and solution.gap[0] > 1e-6


def test_many_rows_in_blocks_give_the_same_as_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from wazuka.training import logistic_axes

    monkeypatch.setattr(logistic_axes, "BLOCK", 37)
    features, labels = draw(150, 6, 3)
    (solution,) = solve([Problem(features=features, labels=labels, n_classes=3)], [0.1])
    np.testing.assert_allclose(solution.coef[0], reference(features, labels, 0.1)[0].coef_, atol=1e-7)


FEATURES, LABELS = draw(12, 3, 3)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "rows": ({"labels": LABELS[:5]}, r"`labels` has 5 rows but `features` has 12; give one per row"),
    "range": ({"labels": LABELS + 1}, r"Label 3 is outside 0\.\.2; give class indices"),
    "both": ({"soft_labels": np.eye(3)[LABELS]}, r"either `labels` or `soft_labels`; give exactly one"),
    "absent": ({"labels": LABELS % 2}, r"Class 2 has no row with weight; leave the class out or give it rows"),
    "negative": ({"weights": -np.ones(12)}, r"`weights` reach -1\.0; give finite numbers of 0 or more"),
    "empty": ({"rows": np.array([], np.int64)}, r"has 0 rows; give at least one row per class"),
    "one class": ({"n_classes": 1}, r"`n_classes` is 1; a classifier needs 2 or more"),
    "penalty": ({"penalties": (1.0, 0.0)}, r"`penalties` is \[1\.0, 0\.0\]; give one or more finite numbers above 0"),
    "shares": (
        {"labels": None, "soft_labels": np.ones((12, 3))},
        r"must be 3 shares per row that are >= 0 and sum to 1",
    ),
}


@pytest.mark.parametrize(("changes", "text"), WRONG.values(), ids=WRONG)
def test_a_problem_that_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    parts: dict[str, Any] = {"features": FEATURES, "labels": LABELS, "n_classes": 3} | changes
    with pytest.raises(DataError, match=text):
        solve([Problem(**parts)], [1.0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_names_its_row(value: float) -> None:
    features = FEATURES.copy()
    features[7, 1] = value
    rows = np.array([0, 1, 2, 3, 4, 5, 7])
    with pytest.raises(DataError, match="Row 7 of the features holds NaN or Inf"):
        solve([Problem(features=features, labels=LABELS, n_classes=3, rows=rows)], [1.0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("precision", "most"), [("float64", 1e-6), ("float32", 1e-3)])
def test_a_gpu_gives_the_probabilities_of_the_cpu(precision: Any, most: float) -> None:
    features, labels = draw(200, 300, 4)
    problems = [Problem(features=features, labels=labels, n_classes=4, rows=np.arange(n)) for n in (30, 31, 100, 200)]
    cpu, gpu = (solve(problems, [0.001, 0.1, 10], precision=precision, device=one) for one in ("cpu", "cuda"))
    for one, other in zip(cpu, gpu, strict=True):
        assert other.converged.all()
        np.testing.assert_allclose(other.predict(features), one.predict(features), atol=most)


def test_a_start_too_far_for_newton_steps_still_ends_at_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    from wazuka.training import logistic

    features, labels = draw(60, 80, 4, gap=2.0)
    problem = Problem(features=features, labels=labels, n_classes=4)
    (usual,) = solve([problem], [100.0])
    monkeypatch.setattr(logistic, "COARSE", 1e9)  # the descent in float32 stops where it starts
    (far,) = solve([problem], [100.0])
    assert usual.converged[0] and far.converged[0]
    np.testing.assert_allclose(far.predict(features), usual.predict(features), atol=1e-6)
    monkeypatch.setattr(logistic, "refine", lambda fine, coarse, coef, **_: (coef, 0, False))
    (descended,) = solve([problem], [100.0])
    assert descended.converged[0]
    np.testing.assert_allclose(descended.predict(features), usual.predict(features), atol=1e-6)


def with_offsets(classes: int, *, size: float, n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features, labels = draw(n, 12, classes, seed=seed, gap=0.4)
    lines = 1 if classes == 2 else classes
    return features, labels, size * np.random.default_rng(seed).normal(size=(n, lines))


def minimize_with_offsets(
    x: np.ndarray, labels: np.ndarray, weights: np.ndarray, offsets: np.ndarray, penalty: float
) -> np.ndarray:
    """Probabilities of `x` at the optimum by scipy, from the objective as it is written."""
    classes, (n, dim) = int(labels.max()) + 1, x.shape
    lines = offsets.shape[1]
    targets = np.eye(classes)[labels]

    def logits_of(flat: np.ndarray) -> np.ndarray:
        w = flat.reshape(lines, dim + 1)
        logits = x @ w[:, :dim].T + w[:, dim] + offsets
        return np.hstack([np.zeros((n, 1)), logits]) if classes == 2 else logits

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, logits = flat.reshape(lines, dim + 1), logits_of(flat)
        loss = weights @ (logsumexp(logits, axis=1) - (targets * logits).sum(1))
        residual = (weights[:, None] * (softmax(logits, axis=1) - targets))[:, -lines:]
        slope = np.hstack([penalty * residual.T @ x + w[:, :dim], penalty * residual.sum(0)[:, None]])
        return penalty * loss + 0.5 * (w[:, :dim] ** 2).sum(), slope.ravel()

    start = np.zeros(lines * (dim + 1))
    best = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 20_000, "gtol": 1e-11, "ftol": 0})
    return softmax(logits_of(best.x), axis=1)


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_offsets_give_the_optimum_of_the_objective_as_it_is_written(classes: int, size: float) -> None:
    features, labels, offsets = with_offsets(classes, size=size)
    weights = np.random.default_rng(1).uniform(0.2, 2, len(labels))
    problem = Problem(features=features, labels=labels, n_classes=classes, weights=weights, offsets=offsets)
    (solution,) = solve([problem], [0.01, 1.0])
    assert solution.converged.all() and (solution.gradient_norm < 1e-5).all()
    x = StandardScaler().fit_transform(features.astype(np.float64))
    found = solution.predict(features, offsets=offsets + solution.prior_shift)  # the optimum's own intercepts
    for place, penalty in enumerate((0.01, 1.0)):
        want = minimize_with_offsets(x, labels, weights, offsets, penalty)
        np.testing.assert_allclose(found[place], want, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_offsets_of_zero_change_no_bit(classes: int) -> None:
    features, labels, offsets = with_offsets(classes, size=0.0)
    problem = Problem(features=features, labels=labels, n_classes=classes)
    plain, zero = (solve([one], [1.0, 0.01, 10.0])[0] for one in (problem, replace(problem, offsets=offsets)))
    for name in ("coef", "intercept", "objective", "gap", "iterations", "prior_shift", "mean", "scale"):
        np.testing.assert_array_equal(getattr(zero, name), getattr(plain, name), err_msg=name)
    np.testing.assert_array_equal(zero.predict(features, offsets=offsets), plain.predict(features))
    np.testing.assert_allclose(zero.gradient_norm, plain.gradient_norm, rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_offsets_that_fit_every_row_leave_nothing_to_do(classes: int) -> None:
    features, labels, _ = with_offsets(classes, size=0.0)
    sure = 60.0 * (np.eye(classes)[labels] - 0.5)
    offsets = sure[:, 1:] if classes == 2 else sure
    (solution,) = solve([Problem(features=features, labels=labels, n_classes=classes, offsets=offsets)], [0.01, 10.0])
    assert solution.converged.all() and (solution.iterations < 5).all()
    assert np.abs(solution.coef).max() < 1e-6


def test_a_solution_as_offsets_is_the_center_of_a_prior() -> None:
    """At the optimum of  C * loss + 0.5 * |U - V|^2  the sum U is V minus C times the gradient of the loss at U."""
    features, labels = draw(60, 12, 3, gap=0.4)
    problem = Problem(features=features, labels=labels, n_classes=3)
    (first,) = solve([problem], [0.1])
    offsets = first.slopes(features)[0].T
    (second,) = solve([replace(problem, offsets=offsets)], [0.1])
    found = second.predict(features, offsets=offsets)[0]
    picked = np.arange(60), labels
    assert -np.log(found[picked]).mean() < -np.log(first.predict(features)[0][picked]).mean()
    total = first.coef[0] + second.coef[0]
    x = (features.astype(np.float64) - first.mean) / first.scale
    residual = softmax(x @ total.T + second.intercept[0], axis=1) - np.eye(3)[labels]
    np.testing.assert_allclose(second.coef[0], -0.1 * residual.T @ x, atol=1e-6)


def test_rows_are_standardized_on_the_rows_that_are_named() -> None:
    features, labels = draw(80, 10, 3)
    named = np.arange(10, 50)
    (solution,) = solve(
        [Problem(features=features, labels=labels, n_classes=3, rows=np.arange(70), standardize_on=named)], [0.3]
    )
    scaler = StandardScaler().fit(features[named].astype(np.float64))
    x = scaler.transform(features.astype(np.float64))
    np.testing.assert_allclose(solution.mean, scaler.mean_, rtol=1e-9, atol=1e-9)
    model = LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-12).fit(x[:70], labels[:70])
    np.testing.assert_allclose(solution.predict(features)[0], model.predict_proba(x), atol=1e-6)
    features[75, 1], features[65, 2] = np.nan, np.inf
    parts: dict[str, Any] = {"features": features, "labels": labels, "n_classes": 3}
    for rows, on, bad in ((np.arange(70), named, 65), (np.arange(60), np.arange(40, 80), 65), (named, [75, 76], 75)):
        with pytest.raises(DataError, match=f"Row {bad} of the features holds NaN or Inf"):
            solve([Problem(**parts, rows=rows, standardize_on=np.asarray(on))], [0.3])


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_follow_the_prior_that_is_named(classes: int) -> None:
    features, labels = draw(90, 6, classes)
    prior = np.arange(1.0, classes + 1)
    problem = Problem(features=features, labels=labels, n_classes=classes, prior=prior, penalties=(1e-12,))
    (solution,) = solve([problem], ())
    np.testing.assert_allclose(solution.predict(features)[0][0], prior / prior.sum(), atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"offsets": np.zeros((12, 1))}, r"`offsets` have shape \(12, 1\); give \(12, 3\)"),
        ({"offsets": np.zeros((5, 3))}, r"`offsets` has 5 rows but `features` has 12; give one per row"),
        ({"offsets": np.full((12, 3), np.nan)}, r"`offsets` hold NaN or Inf; give finite logits"),
        ({"prior": np.array([0.5, 0.5, 0.0])}, r"`prior` is \[0\.5, 0\.5, 0\.0\]; give 3 shares above 0"),
    ],
)
def test_offsets_and_priors_that_do_not_fit_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        solve([Problem(features=FEATURES, labels=LABELS, n_classes=3, **changes)], [1.0])
