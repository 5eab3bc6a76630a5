"""Shares of the full-data score: ratios against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.evaluate.conftest import table
from wazuka.core.errors import ConfigError, DataError
from wazuka.evaluate.label_scaling import chance_level, label_scaling
from wazuka.evaluate.panel import Panel, Trial

CLASSES = {"classes": ("no", "yes"), "positive": "yes"}


def exact(auroc: float, *, patients: int = 20):
    """Predictions with exactly this AUROC: each patient has a "no" and a "yes", some of which score below every "no"."""
    labels = np.repeat([0, 1], patients)
    wrong = round((1 - auroc) * patients)
    scores = np.concatenate([np.zeros(patients), np.where(np.arange(patients) < wrong, -1.0, 1.0)])
    return table(scores, labels, np.tile(np.arange(patients), 2))


def exact_study(aurocs: dict[str, dict[int, float]], *, draws: int = 300) -> Panel:
    trials = [
        Trial(strategy=name, budget=str(labels), labels=labels, repeat=repeat, predictions=exact(value))
        for name, values in aurocs.items()
        for labels, value in values.items()
        for repeat in range(2)
    ]
    return Panel(trials, **CLASSES, draws=draws)


def test_ratios_are_those_of_the_scores_and_of_the_parts_above_chance():
    panel = exact_study({"a": {10: 0.7, 100: 0.9}, "base": {10: 0.6, 100: 0.8}})
    own = label_scaling(panel, "a", metric="auroc")
    assert (own.reference, own.reference_budget, own.reference_labels, own.chance) == ("a", "100", 100, 0.5)
    assert [one.ratio.estimate for one in own.points] == pytest.approx([7 / 9, 1.0])
    assert [one.above_chance.estimate for one in own.points] == pytest.approx([0.5, 1.0])
    assert [one.share for one in own.points] == pytest.approx([0.1, 1.0])
    assert (own.points[1].ratio.low, own.points[1].ratio.high) == (1.0, 1.0)  # itself, draw by draw
    other = label_scaling(panel, "a", metric="auroc", reference="base")
    assert [one.ratio.estimate for one in other.points] == pytest.approx([7 / 8, 9 / 8])


def test_the_interval_is_that_of_the_ratio_under_shared_draws(make_study):
    trials = make_study(
        np.random.default_rng(0), strategies={"a": (0.8, 1.6)}, budgets=(10, 100), repeats=2, patients=25
    )
    panel = Panel(trials, **CLASSES, draws=100, seed=3)
    drawn = {}
    for trial in trials:
        rows = trial.predictions
        units = panel.patients.get_indexer(rows["patient"].astype(str))
        each = [
            roc_auc_score(rows["label"] == "yes", rows["p_yes"], sample_weight=panel.weights[units, draw])
            for draw in range(panel.weights.shape[1])
        ]
        drawn[trial.budget, trial.repeat] = np.array(each)
    sides = [panel.over_draws(np.stack([drawn[budget, 0], drawn[budget, 1]]), (0, 1)) for budget in ("10", "100")]
    expected = np.quantile(sides[0][1] / sides[1][1], [0.025, 0.975])
    found = label_scaling(panel, "a", metric="auroc").points[0].ratio
    assert found.estimate == pytest.approx(sides[0][0] / sides[1][0])
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    apart = np.quantile(sides[0][1][::-1] / sides[1][1], [0.025, 0.975])  # draws that do not belong together
    assert found.high - found.low < apart[1] - apart[0]


def test_the_label_count_is_read_off_the_curve_in_log_labels():
    panel = exact_study({"a": {10: 0.8, 1000: 1.0}})
    reached = {one.level: one for one in label_scaling(panel, "a", metric="auroc", levels=(0.8, 0.9)).reached}
    assert reached[0.9].needed.estimate == 100  # halfway up is halfway in log labels
    assert reached[0.9].needed.low <= 100 <= reached[0.9].needed.high
    assert reached[0.8].needed.already and reached[0.8].needed.estimate == 10
    assert reached[0.9].budget == "1000" and reached[0.9].share == 1.0


def test_a_level_is_shown_only_where_the_lower_bound_reaches_it():
    panel = exact_study({"a": {10: 0.75, 50: 0.95, 100: 0.95}, "base": {100: 1.0}})
    scaling = label_scaling(panel, "a", metric="auroc", reference="base", levels=(0.5, 0.9, 0.99))
    lower = [one.ratio.low for one in scaling.points]
    assert lower[0] > 0.5 and lower[1] < 0.9 < scaling.points[1].ratio.estimate
    found = {one.level: one for one in scaling.reached}
    assert (found[0.5].budget, found[0.5].labels, found[0.5].share) == ("10", 10, 0.1)
    assert found[0.9].budget is None and found[0.9].needed.estimate is not None
    assert found[0.99].needed.estimate is None and found[0.99].needed.more_than == 100


def test_a_full_data_score_near_chance_has_no_ratio_above_chance():
    scaling = label_scaling(exact_study({"a": {10: 0.5, 100: 0.55}}), "a", metric="auroc")
    assert all(one.above_chance is None for one in scaling.points)
    assert scaling.points[0].ratio.estimate == pytest.approx(0.5 / 0.55)


def test_chance_is_known_only_where_it_is_a_constant():
    assert [chance_level(name, 4) for name in ("auroc", "balanced_accuracy", "kappa", "f1")] == [0.5, 0.25, 0.0, None]
    panel = exact_study({"a": {10: 0.7, 100: 0.9}})
    assert label_scaling(panel, "a", metric="accuracy").points[0].above_chance is None


def test_errors_and_unknown_strategies_are_refused():
    panel = exact_study({"a": {10: 0.7, 100: 0.9}})
    with pytest.raises(DataError, match="brier is better when lower; label scaling needs a metric"):
        label_scaling(panel, "a", metric="brier")
    with pytest.raises(ConfigError, match="Unknown strategy `b`"):
        label_scaling(panel, "b", metric="auroc")
