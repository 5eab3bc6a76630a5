"""Linear probe: L2-regularized logistic regression on the frozen features of a backbone, solved exactly.

Study file: `adapt: linear-probe`, or `adapt: {method: linear-probe, penalty: 0.01}`. Features are standardized on the
rows of the budget (training and validation rows alike). All trials of a strategy are solved together by
`training/logistic.py`, whose objective is scikit-learn's (C times the sum of log-losses plus half the squared weights).

Penalty and threshold are chosen inside the budget where it allows (5 patients per class): patient-grouped, class-aware
cross-validation, the penalty with the lowest mean out-of-fold log-loss (ties: the stronger), then the threshold with the
highest balanced accuracy on the pooled out-of-fold probabilities. Elsewhere the fixed default and 0.5.

Synthetic rows (`train_on`): `real+synthetic` adds them to every regression with a total weight of `ratio` times that of
the real rows there; `synthetic` fits them alone, with the weight of all real rows, and judges penalties on the real rows;
`synthetic-then-real` fits real rows with  0.5 |W - W_s|^2  as penalty, W_s the solution on synthetic rows. Folds are of
real rows, standardization is theirs, and so are the class shares that probabilities follow.

The default grid: with weights of prior variance C, a logit of D standardized features has the prior standard deviation
sqrt(C D). Half-decades from 3.2e-5 to 1 take it, for D of 256 to 2,048, from about 0.1 (nearly the class shares) to 16 and
more (nearly a separation); the default 0.01 stands for 1.6 to 4.5, the range of logits between even and near-certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from wazuka.nn.predictors import LinearHead
from wazuka.training.feature_rows import check_features, class_shares
from wazuka.training.grouped_cv import Fold, make_folds
from wazuka.training.logistic import TOLERANCE, Problem, Solution, solve
from wazuka.training.mixing import Pooled, synthetic_rows
from wazuka.training.mixing import notes as mixing_notes
from wazuka.training.roles import Adapter, AdaptTask, Fitted, Runtime, TrainOn
from wazuka.training.thresholds import DEFAULT, choose_threshold

DEFAULT_PENALTY = 0.01
CV_TOLERANCE = 1e-10
"""Relative gap of the solutions in cross-validation: log-losses to about six digits."""
SAME_LOSS = 1e-6
"""Relative difference below which two mean log-losses are a tie."""
TASKS_AT_ONCE = 16
"""Trials whose folds are held in memory together; changes no result."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of `linear-probe`."""

    penalty: float | None = None
    """C, the weight of the data against the penalty (larger: weaker). Default: chosen among `penalties` where the budget
    allows cross-validation, else 0.01."""
    penalties: tuple[float, ...] = (3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1, 3.2e-1, 1.0)
    """Values of C that cross-validation chooses from."""
    folds: int = 5
    """Folds of the cross-validation (fewer where there are fewer patients)."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: each class weighs the same in the loss; the intercept is corrected afterwards, so that probabilities still
    follow the classes' shares."""
    precision: Literal["float64", "float32"] = "float64"
    """Digits of the solution (see `tolerance`); the certificate is float64 in either case."""
    tolerance: float | None = None
    """Largest certified gap to the optimum, relative to the objective. Default: 1e-13 (float64), 1e-6 (float32)."""

    def __post_init__(self) -> None:
        given = self.penalties if self.penalty is None else (*self.penalties, self.penalty)
        if not self.penalties or any(not 0 < one < float("inf") for one in given):
            raise ValueError(f"`penalties` {list(given)} must be finite numbers above 0, at least one.")
        if self.folds < 2:
            raise ValueError(f"`folds` is {self.folds}; give 2 or more.")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ValueError(f"`tolerance` is {self.tolerance}; give a number between 0 and 1, as 1e-10.")


@dataclass(frozen=True)
class _Choice:
    """What was settled inside one budget, and how."""

    penalty: float
    threshold: float
    notes: dict[str, Any]
    losses: list[tuple[float, float]]


@dataclass(frozen=True, eq=False)
class _Ready:
    """A task with the synthetic rows it trains on.

    Attributes:
        task: The task.
        pooled: Real and synthetic rows; None where only real ones are trained on.
        start: Solution on the synthetic rows that real rows then correct (`synthetic-then-real`).
        offsets: Logits of the pooled rows under `start`, (n + m, K).
        notes: On `start`, for the record.
    """

    task: AdaptTask
    pooled: Pooled | None = None
    start: Solution | None = None
    offsets: np.ndarray | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def train_on(self) -> TrainOn:
        return "real" if self.pooled is None or self.task.synthetic is None else self.task.synthetic.train_on

    def predict(self, solution: Solution, rows: np.ndarray) -> np.ndarray:
        """Probabilities of some real rows, (penalties, rows, classes)."""
        assert self.task.features is not None
        offsets = None if self.offsets is None else self.offsets[rows]
        return solution.predict(self.task.features[rows], offsets=offsets)


def fit(tasks: Sequence[AdaptTask], *, config: Config, runtime: Runtime) -> list[Fitted]:
    """Fit the probes of all tasks; no task influences another's result.

    Raises:
        NotEnoughData: If a class has no row in a budget.
        DataError: If features are missing or not finite (the row is named).
    """
    mixed = False
    for task in tasks:
        check_features(task)
        mixed |= synthetic_rows(task, features=True) is not None
    size = TASKS_AT_ONCE if mixed else max(1, len(tasks))  # pooled features are copies: a few at a time
    parts = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    return [one for part in parts for one in _fit_some(part, config, runtime)]


def _fit_some(tasks: Sequence[AdaptTask], config: Config, runtime: Runtime) -> list[Fitted]:
    """Choose and fit, all tasks together."""
    readies = _ready(tasks, config, runtime)
    choices: list[_Choice] = []
    for start in range(0, len(tasks), TASKS_AT_ONCE):
        choices += _choose(readies[start : start + TASKS_AT_ONCE], config, runtime)
    problems = [
        _problem(one, config, penalties=(choice.penalty,)) for one, choice in zip(readies, choices, strict=True)
    ]
    solutions = solve(
        problems, (), precision=config.precision, tolerance=config.tolerance, device=_device(runtime.device)
    )
    fitted = []
    for one, choice, solution in zip(readies, choices, solutions, strict=True):
        task = one.task
        notes = _notes(task, config, solution) | choice.notes | one.notes | mixing_notes(task)
        if not solution.converged[0]:
            runtime.say(f"{task.name}: the probe stopped at a relative gap of {solution.gap[0]:.1e}, see the record")
        curves = {"out-of-fold log-loss by penalty": choice.losses} if choice.losses else {}
        head = _to_head(task, solution, one.start)
        notes["trained_params"] = head.trained_params
        fitted.append(Fitted(predictor=head, threshold=choice.threshold, notes=notes, curves=curves))
    return fitted


def _device(device: str) -> str:
    return device if device.startswith("cuda") else "cpu"


def _ready(tasks: Sequence[AdaptTask], config: Config, runtime: Runtime) -> list[_Ready]:
    """Pool synthetic rows with the real ones, and solve for them where they come first."""
    readies = []
    for task in tasks:
        synthetic, pooled = synthetic_rows(task, features=True), None
        if synthetic is not None:
            assert task.features is not None and synthetic.features is not None
            both = np.concatenate([task.features, synthetic.features.astype(task.features.dtype, copy=False)])
            pooled = Pooled.of(synthetic, both, class_shares(task))
        readies.append(_Ready(task, pooled))
    places = [place for place, one in enumerate(readies) if one.train_on == "synthetic-then-real"]
    alone = [_Ready(_on_synthetic(readies[place].task), readies[place].pooled) for place in places]
    choices = _choose(alone, config, runtime) if places else []
    problems = [_problem(one, config, penalties=(choice.penalty,)) for one, choice in zip(alone, choices, strict=True)]
    solutions = solve(
        problems, (), precision=config.precision, tolerance=config.tolerance, device=_device(runtime.device)
    )
    for place, choice, solution in zip(places, choices, solutions, strict=True):
        pooled = readies[place].pooled
        assert pooled is not None
        notes = {"synthetic_penalty": choice.penalty, "synthetic_penalty_chosen_by": choice.notes["penalty_chosen_by"]}
        notes["synthetic_relative_gap_at_most"] = float(solution.gap[0])
        offsets = solution.slopes(pooled.features)[0].T
        readies[place] = replace(readies[place], start=solution, offsets=offsets, notes=notes)
    return readies


def _on_synthetic(task: AdaptTask) -> AdaptTask:
    assert task.synthetic is not None
    return replace(task, synthetic=replace(task.synthetic, train_on="synthetic"))


def _problem(ready: _Ready, config: Config, *, penalties: tuple[float, ...], rows: np.ndarray | None = None) -> Problem:
    """The regression on some real rows of a task, or all, and what it adds; balanced class weights are of these rows."""
    task = ready.task
    assert task.features is not None
    if ready.pooled is not None:
        return ready.pooled.problem(
            np.arange(len(task.labeled)) if rows is None else rows,
            on="real" if ready.train_on == "synthetic-then-real" else ready.train_on,
            penalties=penalties,
            balanced=config.class_weights == "balanced",
            offsets=ready.offsets,
        )
    class_weights = None
    if config.class_weights == "balanced":
        shares = class_shares(task) if rows is None else class_shares(task)[rows]
        class_weights = len(shares) / (len(task.classes) * shares.sum(0))
    soft = task.labeled.soft_labels is not None
    return Problem(
        features=task.features,
        labels=None if soft else task.labeled.labels,
        soft_labels=class_shares(task) if soft else None,
        n_classes=len(task.classes),
        rows=rows,
        class_weights=class_weights,
        penalties=penalties,
    )


def _choose(readies: Sequence[_Ready], config: Config, runtime: Runtime) -> list[_Choice]:
    """Settle penalty and threshold of each task; the folds of all tasks are solved together."""
    folds = [_folds(one, config) for one in readies]
    grid = config.penalties if config.penalty is None else (config.penalty,)
    usable = [[fold for fold in some if _can_fit(one.task, fold)] for one, some in zip(readies, folds, strict=True)]
    problems = [
        _problem(one, config, penalties=tuple(sorted(grid)), rows=fold.train)
        for one, some in zip(readies, usable, strict=True)
        for fold in some
    ]
    solutions = iter(
        solve(problems, (), precision=config.precision, tolerance=_cv_tolerance(config), device=_device(runtime.device))
    )
    return [
        _choose_one(one, config, made, [(fold, next(solutions)) for fold in some])
        for one, made, some in zip(readies, folds, usable, strict=True)
    ]


def _folds(ready: _Ready, config: Config) -> list[Fold]:
    """Folds of the real rows. Where only synthetic rows are trained on, all real rows are held out from one fit."""
    task = ready.task
    if not task.inner_split:
        return []
    if ready.train_on == "synthetic":
        every = np.arange(len(task.labeled))
        return [Fold(every, every, (), ())]  # `train` gives the units of the features only
    return make_folds(task.labeled.labels, task.labeled.patients, folds=config.folds, seed=task.seed)


def _cv_tolerance(config: Config) -> float:
    return max(CV_TOLERANCE, TOLERANCE[config.precision] if config.tolerance is None else config.tolerance)


def _can_fit(task: AdaptTask, fold: Fold) -> bool:
    """Whether every class has a row, or a share of a vote, among the fold's training rows."""
    return len(fold.train) > 0 and bool((class_shares(task)[fold.train].sum(0) > 0).all())


def _choose_one(ready: _Ready, config: Config, folds: list[Fold], solved: list[tuple[Fold, Solution]]) -> _Choice:
    """Choose from the out-of-fold probabilities of one task."""
    task, apart = ready.task, ready.train_on == "synthetic"
    default = DEFAULT_PENALTY if config.penalty is None else config.penalty
    notes: dict[str, Any] = {
        "penalty": default,
        "penalty_chosen_by": "fixed default" if config.penalty is None else "setting",
        "threshold": "none: not a two-class task",
    }
    two = task.positive is not None and len(task.classes) == 2
    if not solved:
        why = "the budget allows no inner split" if not folds else "no fold has every class among its training rows"
        notes["threshold"] = f"0.5: {why}" if two else notes["threshold"]
        return _Choice(default, DEFAULT, notes | ({"folds": _fold_notes(folds, solved)} if folds else {}), [])
    rows = np.concatenate([fold.held_out for fold, _ in solved])
    parts = [ready.predict(solution, fold.held_out) for fold, solution in solved]
    probs = np.concatenate(parts, axis=1)  # (penalties, rows, classes)
    grid = solved[0][1].penalties
    likely = np.log(np.maximum(probs, np.finfo(np.float64).tiny))
    losses = -(likely * class_shares(task)[rows]).sum(2).mean(1)
    place = int(np.flatnonzero(losses <= losses.min() * (1 + SAME_LOSS))[0])  # the strongest of equals
    notes |= {"penalty": float(grid[place])} | ({} if apart else {"folds": _fold_notes(folds, solved)})
    if config.penalty is None:
        notes["penalty_chosen_by"] = "log-loss on the real rows" if apart else "cross-validation"
        notes["penalty_at_edge_of_grid"] = place in (0, len(grid) - 1)
        notes["iterations_in_folds"] = int(sum(solution.iterations.sum() for _, solution in solved))
    threshold = DEFAULT
    if two:
        assert task.positive is not None
        threshold = choose_threshold(task.labeled.labels[rows] == task.positive, probs[place, :, task.positive])
        on = "real rows" if apart else "pooled out-of-fold probabilities"
        notes["threshold"] = f"highest balanced accuracy on the {on}"
    curve = [(float(penalty), float(loss)) for penalty, loss in zip(grid, losses, strict=True)]
    return _Choice(float(grid[place]), threshold, notes, curve)


def _fold_notes(folds: list[Fold], solved: list[tuple[Fold, Solution]]) -> dict[str, int]:
    """Count folds and what was missing in them."""
    return {
        "made": len(folds),
        "used": len(solved),
        "left_out_for_a_class_missing_in_training": len(folds) - len(solved),
        "with_a_class_missing_among_held_out": sum(bool(fold.lacks_in_held_out) for fold, _ in solved),
        "rows_without_prediction": sum(len(one.held_out) for one in folds)
        - sum(len(fold.held_out) for fold, _ in solved),
        "not_converged": int(sum((~solution.converged).sum() for _, solution in solved)),
    }


def _notes(task: AdaptTask, config: Config, solution: Solution) -> dict[str, Any]:
    """What the record should say about the solution."""
    return {
        "rows": len(task.labeled),
        "iterations": int(solution.iterations[0]),
        "certificate": {
            "relative_gradient_norm": float(solution.gradient_norm[0]),
            "relative_gap_at_most": float(solution.gap[0]),
            "converged": bool(solution.converged[0]),
            "precision": config.precision,
        },
        "soft_labels": task.labeled.soft_labels is not None,
        "intercept_corrected": config.class_weights == "balanced",
    }


def _to_head(task: AdaptTask, solution: Solution, start: Solution | None) -> LinearHead:
    """Turn the solution at its one penalty, and what it started from, into a predictor of raw features."""
    coef = solution.coef[0]
    if start is not None:
        assert np.array_equal(start.mean, solution.mean) and np.array_equal(start.scale, solution.scale)
        coef = coef + start.coef[0]
    return LinearHead(
        encoder=task.encoder,
        classes=task.classes,
        mean=solution.mean,
        scale=solution.scale,
        weight=np.ascontiguousarray(coef.T),
        bias=solution.intercept[0] - solution.prior_shift,
        intensity=task.intensity,
        window=task.window,
    )


METHOD = Adapter(
    name="linear-probe",
    config=Config,
    summary="logistic regression on the frozen backbone's features, solved to the optimum",
    code_version=1,
    input="features",
    fit=fit,
    batched=True,
    synthetic=True,
    cites=(
        "Alain & Bengio (2017). Understanding intermediate layers using linear classifier probes. ICLR workshop. "
        "arXiv:1610.01644.",
        "Böhning (1992). Multinomial logistic regression algorithm. Annals of the Institute of Statistical Mathematics "
        "44(1). doi:10.1007/BF00048682.",
    ),
)
