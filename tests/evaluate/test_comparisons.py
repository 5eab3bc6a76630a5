"""Paired comparisons with the baseline."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as sk

from wazuka.core.errors import ConfigError
from wazuka.core.hashing import canonical_json
from wazuka.evaluate.comparisons import compare, holm, paired_difference
from wazuka.evaluate.panel import Key, Panel

CLASSES = {"classes": ("no", "yes"), "positive": "yes"}


@pytest.fixture(scope="module")
def trials(make_study):
    return make_study(
        np.random.default_rng(2),
        strategies={"base": (0.5, 1.0, 1.5), "good": (1.6, 2.2, 2.6), "same": (0.5, 1.0, 1.5), "bad": (0.0, 0.2, 0.4)},
        budgets=(20, 50, 100),
        repeats=3,
        patients=40,
    )


@pytest.fixture(scope="module")
def panel(trials):
    return Panel(trials, **CLASSES, draws=400)


@pytest.fixture(scope="module")
def found(panel):
    return {
        (one.strategy, one.budget, one.against_budget): one for one in compare(panel, metric="auroc", baseline="base")
    }


def test_each_strategy_meets_the_baseline_at_its_budget_and_each_larger_one(found):
    expected = {
        (s, a, b)
        for s in ("good", "same", "bad")
        for a in ("20", "50", "100")
        for b in ("20", "50", "100")
        if int(b) >= int(a)
    }
    assert set(found) == expected


def test_the_difference_is_the_mean_over_repeats_of_scores_on_the_same_images(trials, found):
    def auroc(strategy, budget):
        tables = [one.predictions for one in trials if (one.strategy, one.budget) == (strategy, budget)]
        return np.mean([sk.roc_auc_score(one["label"] == "yes", one["p_yes"]) for one in tables])

    for (strategy, budget, against), one in found.items():
        assert one.difference.estimate == pytest.approx(auroc(strategy, budget) - auroc("base", against), abs=1e-12)


def test_a_better_strategy_is_found_and_an_equal_one_is_not(found):
    good, same = found["good", "50", "50"].difference, found["same", "50", "50"].difference
    assert good.adjusted_low > 0
    assert good.p_holm < 0.01
    assert same.low < 0 < same.high
    assert same.p_holm > 0.05
    assert found["good", "20", "100"].difference.low > -0.1  # the baseline's 100 labels buy no more than 20 do here


def test_intervals_share_their_draws_with_the_baseline(panel, found):
    both = panel.over_repeats([Key("good", "50"), Key("base", "50")], metric="auroc")
    _, drawn = panel.over_draws(both.values[0] - both.values[1], both.repeats)
    one = found["good", "50", "50"].difference
    assert (one.low, one.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    apart = (
        panel.over_draws(both.values[0], both.repeats)[1].std() ** 2
        + panel.over_draws(both.values[1], both.repeats)[1].std() ** 2
    )
    assert drawn.var() < 0.8 * apart  # what the two have in common cancels


def test_the_adjusted_interval_has_the_level_of_its_rank(panel, found):
    family = [found[name, "50", "50"] for name in ("good", "same", "bad")]
    family.sort(key=lambda one: (one.difference.p, -abs(one.difference.estimate)))
    p = np.array([one.difference.p for one in family])
    assert [one.difference.p_holm for one in family] == pytest.approx(holm(p).tolist())
    for one, alpha in zip(family, (0.05 / 3, 0.05 / 2, 0.05), strict=True):
        both = panel.over_repeats([Key(one.strategy, "50"), Key("base", "50")], metric="auroc")
        _, drawn = panel.over_draws(both.values[0] - both.values[1], both.repeats)
        bounds = (one.difference.adjusted_low, one.difference.adjusted_high)
        assert bounds == pytest.approx(tuple(np.quantile(drawn, [alpha / 2, 1 - alpha / 2])))


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.013, 0.014, 0.9])) == pytest.approx([0.04, 0.04, 0.04, 0.9])
    assert holm(np.array([0.4, 0.5])).tolist() == [0.8, 0.8]


def test_a_metric_that_is_not_linear_in_the_swaps_is_compared_too(panel):
    linear = {
        one.strategy: one.difference
        for one in compare(panel, metric="auroc", baseline="base")
        if one.budget == one.against_budget == "20"
    }
    slow = {
        one.strategy: one.difference
        for one in compare(panel, metric="average_precision", baseline="base", permutations=2500)
        if one.budget == one.against_budget == "20"
    }
    assert slow["good"].p < 0.05
    assert linear["good"].p < 0.05
    assert slow["same"].p > 0.05


def test_a_failed_repeat_leaves_the_common_ones(trials):
    fewer = [one for one in trials if not (one.strategy == "good" and one.repeat == 0)]
    few = {
        (one.strategy, one.budget, one.against_budget): one
        for one in compare(Panel(fewer, **CLASSES, draws=120), metric="auroc", baseline="base")
    }
    assert few["good", "50", "50"].difference.repeats == 2
    assert few["bad", "50", "50"].difference.repeats == 3


def test_no_repeat_in_common_leaves_no_difference(trials):
    apart = [one for one in trials if (one.repeat == 0) == (one.strategy == "good")]
    few = {
        one.strategy: one
        for one in compare(Panel(apart, **CLASSES, draws=120), metric="auroc", baseline="base")
        if one.budget == "20"
    }
    assert few["good"].difference is None
    assert few["bad"].difference is not None


def test_the_same_seed_gives_the_same_numbers_in_any_order(trials):
    first, second = (
        compare(Panel(one, **CLASSES, draws=120, seed=3), metric="auroc", baseline="base", permutations=500)
        for one in (trials, trials[::-1])
    )
    assert first == second
    assert json.loads(canonical_json(first))[0]["difference"]["repeats"] == 3
    assert dataclasses.asdict(first[0])["strategy"] == "bad"


def test_an_unknown_baseline_offers_the_nearest(panel):
    with pytest.raises(ConfigError, match=r"Unknown baseline `bas`\. Did you mean `base`\?"):
        compare(panel, metric="auroc", baseline="bas")


def test_a_paired_difference_is_the_mean_difference_of_the_parts_chosen(make_study):
    trials = make_study(np.random.default_rng(0), strategies={"a": (0.5,), "b": (2.0,)}, repeats=3, domains=2)
    panel = Panel(trials, classes=("no", "yes"), positive="yes", draws=200)
    first, second = Key("b", "50"), Key("a", "50")
    for choose in (None, lambda cell: cell.part == "d1"):
        found = paired_difference(panel, first, second, metric="auroc", cells=choose)
        cells = [cell for cell in panel.scores[first] if cell.part == ("all" if choose is None else "d1")]
        each = [
            panel.values(first, cell, metric="auroc")[0] - panel.values(second, cell, metric="auroc")[0]
            for cell in cells
        ]
        assert found.estimate == pytest.approx(np.mean(each))
        assert found.low < found.estimate < found.high and found.repeats == 3
        turned = paired_difference(panel, second, first, metric="auroc", cells=choose)
        assert (turned.estimate, turned.low, turned.high) == pytest.approx((-found.estimate, -found.high, -found.low))
    assert paired_difference(panel, first, second, metric="auroc", cells=lambda cell: False) is None
