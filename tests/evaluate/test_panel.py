"""All trials of a study over one list of patients: parts, sharing, errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from wazuka.core.errors import ConfigError, DataError
from wazuka.evaluate.panel import Cell, Key, Panel, Trial

CLASSES = {"classes": ("no", "yes"), "positive": "yes"}


@pytest.fixture(scope="module")
def trials(make_study):
    return make_study(
        np.random.default_rng(0),
        strategies={"a": (0.5, 1.0), "b": (1.0, 1.5)},
        budgets=(20, 50),
        domains=3,
        redraw=True,
        share=0.5,
    )


def test_a_pooled_test_has_one_part_per_domain_besides_all(trials):
    panel = Panel(trials, **CLASSES, draws=10)
    cells = panel.scores[Key("a", "20")]
    assert {cell.part for cell in cells} == {"all", "d0", "d1", "d2"}
    assert {cell.part for cell in panel.headline} == {"all"}
    for repeat in range(3):
        parts = [len(cells[Cell(repeat, "all", f"d{k}")]) for k in range(3)]
        assert sum(parts) == len(cells[Cell(repeat, "all", "all")])


def test_neither_the_order_of_trials_nor_of_rows_matters(trials):
    rng = np.random.default_rng(1)
    shuffled = [
        dataclasses.replace(
            trials[k], predictions=trials[k].predictions.sample(frac=1, random_state=int(rng.integers(99)))
        )
        for k in rng.permutation(len(trials))
    ]
    first, second = (Panel(one, **CLASSES, draws=50, seed=4) for one in (trials, shuffled))
    assert np.array_equal(first.weights, second.weights)
    assert first.keys == second.keys
    keys = [Key("a", "20"), Key("b", "50")]
    one, two = (panel.over_repeats(keys, metric="auroc") for panel in (first, second))
    assert np.array_equal(one.values, two.values)
    other = Panel(trials, **CLASSES, draws=50, seed=5)
    assert not np.array_equal(first.weights, other.weights)


def test_a_patient_drawn_counts_in_every_repeat_that_tested_them(trials):
    panel = Panel(trials, **CLASSES, draws=5)
    found = panel.over_repeats([Key("a", "20")], metric="accuracy")
    for row, repeat in enumerate(found.repeats):
        table = next(t for t in trials if (t.strategy, t.budget, t.repeat) == ("a", "20", repeat)).predictions
        for draw in range(6):
            weight = panel.weights[panel.patients.get_indexer(table["patient"]), draw]
            expected = np.average(table["label"] == table["predicted"], weights=weight)
            assert found.values[0][row, draw] == pytest.approx(expected)


def test_strategies_are_compared_over_the_repeats_that_both_have(trials):
    fewer = [one for one in trials if not (one.strategy == "b" and one.repeat == 1)]
    panel = Panel(fewer, **CLASSES, draws=5)
    assert panel.over_repeats([Key("a", "20"), Key("b", "20")], metric="auroc").repeats == (0, 2)
    assert panel.over_repeats([Key("a", "20")], metric="auroc").repeats == (0, 1, 2)


def test_leave_one_out_averages_the_left_out_domains_within_a_repeat(make_table):
    rng = np.random.default_rng(0)
    trials = []
    for repeat in range(2):
        for domain in ("x", "y"):
            labels = rng.integers(0, 2, 30)
            part = make_table(
                labels + rng.normal(size=30), labels, np.arange(30), test_domain=domain, domains=np.array([domain] * 30)
            )
            trials.append(
                Trial(
                    strategy="a", budget="10", labels=10, repeat=repeat, train_domain=f"not:{domain}", predictions=part
                )
            )
    panel = Panel(trials, **CLASSES, draws=5)
    found = panel.over_repeats([Key("a", "10")], metric="accuracy")
    assert len(found.cells) == 4
    for repeat in range(2):
        hits = [np.mean(t.predictions["label"] == t.predictions["predicted"]) for t in trials if t.repeat == repeat]
        assert found.values[0][repeat, 0] == pytest.approx(np.mean(hits))


def test_a_part_of_one_class_is_left_out_and_counted(make_table):
    labels = np.array([0, 1, 0, 1])
    trials = [
        Trial(
            strategy="a",
            budget="10",
            labels=10,
            repeat=repeat,
            predictions=make_table(np.arange(4.0), of, np.arange(4)),
        )
        for repeat, of in ((0, labels), (1, np.ones(4, int)))
    ]
    found = Panel(trials, **CLASSES, draws=5).over_repeats([Key("a", "10")], metric="auroc")
    assert found.repeats == (0,)
    assert found.undefined == 1


def test_synthetic_test_images_do_not_enter_the_panel(make_table):
    labels = np.array([0, 1, 0, 1, 0, 1])
    where = np.array(["all"] * 4 + ["synthetic"] * 2)
    table = make_table(np.arange(6.0), labels, np.arange(6), test_domain=where)
    panel = Panel([Trial(strategy="a", budget="10", labels=10, repeat=0, predictions=table)], **CLASSES, draws=5)
    assert list(panel.patients) == ["p0", "p1", "p2", "p3"]
    assert {cell.part for cell in panel.scores[Key("a", "10")]} == {"all"}


def test_trials_on_different_test_images_are_refused(trials):
    wrong = [dataclasses.replace(trials[0], predictions=trials[0].predictions.iloc[1:]), *trials[1:]]
    with pytest.raises(DataError, match="have different test images, labels or patients in repeat 0"):
        Panel(wrong, **CLASSES)


def test_a_trial_given_twice_is_refused(trials):
    with pytest.raises(DataError, match="Two trials of `a` at budget 20 have repeat 0"):
        Panel([*trials, trials[0]], **CLASSES)


def test_no_trials_are_refused():
    with pytest.raises(DataError, match="There are no finished trials"):
        Panel([], **CLASSES)


def test_unknown_strategies_budgets_and_classes_offer_the_nearest(trials):
    panel = Panel(trials, **CLASSES, draws=2)
    with pytest.raises(ConfigError, match="Unknown strategy `c`"):
        panel.require(Key("c", "20"))
    with pytest.raises(ConfigError, match=r"Unknown budget `51` in `a`\. Did you mean `50`\?"):
        panel.require(Key("a", "51"))
    with pytest.raises(ConfigError, match=r"Unknown class `ye`\. Did you mean `yes`\?"):
        panel.class_index("ye")


def test_a_draw_that_leaves_out_an_undefined_repeat_is_defined(trials):
    panel = Panel(trials, classes=("no", "yes"), positive="yes", draws=200, seed=1)
    repeats = (0, 1, 2)
    values = np.ones((3, 201))
    values[2, 1:] = np.nan
    _, drawn = panel.over_draws(values, repeats)
    shares = panel._repeats[repeats]
    assert np.array_equal(np.isnan(drawn), shares[:, 2] > 0)
    assert np.allclose(drawn[shares[:, 2] == 0], 1)
