"""Gaps between domains and between subgroups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from wazuka.core.errors import ConfigError, DataError
from wazuka.evaluate.domains import domain_summary, minimum_detectable, subgroup_gaps
from wazuka.evaluate.panel import Key, Panel, Trial

CLASSES = {"classes": ("no", "yes"), "positive": "yes"}
KEY = Key("a", "10")


def each_to_each(make_table, *, loss):
    """Three domains; a model loses `loss` of its class effect on domains that it was not trained on."""
    rng = np.random.default_rng(0)
    trials = []
    for repeat in range(2):
        tests = {}
        for number, name in enumerate("xyz"):
            labels = rng.integers(0, 2, 60)
            tests[name] = (labels, np.arange(60) // 2 + 100 * number, np.arange(60) + 100 * number)
        for train in "xyz":
            parts = []
            for name, (labels, patients, ids) in tests.items():
                effect = 2.0 - (loss if name != train else 0.0) - (0.8 if name == "z" else 0.0)
                score = labels * effect + rng.normal(size=60)
                parts.append(
                    make_table(score, labels, patients, ids=ids, test_domain=name, domains=np.array([name] * 60))
                )
            table = pd.concat(parts)
            trials.append(
                Trial(strategy="a", budget="10", labels=10, repeat=repeat, train_domain=train, predictions=table)
            )
    return Panel(trials, **CLASSES, draws=300)


def test_in_and_out_of_domain_are_told_apart(make_table):
    panel = each_to_each(make_table, loss=1.0)
    found = domain_summary(panel, KEY, metric="auroc")

    def mean(choose):
        return np.mean([panel.values(KEY, cell, metric="auroc")[0] for cell in panel.scores[KEY] if choose(cell)])

    inside, outside = (
        mean(lambda cell: cell.part == cell.train_domain),
        mean(lambda cell: cell.part != cell.train_domain),
    )
    assert found.in_domain.estimate == pytest.approx(inside)
    assert found.out_of_domain.estimate == pytest.approx(outside)
    assert found.gap.estimate == pytest.approx(inside - outside)
    assert found.gap.low > 0
    assert found.gap.n_patients == 90
    assert found.hardest == "z"
    assert found.hardest_gap.estimate > 0
    assert set(found.scores) == {"x", "y", "z"}
    assert found.scores["z"].estimate == pytest.approx(mean(lambda cell: cell.part == "z" and cell.train_domain != "z"))


def test_a_gap_is_a_loss_for_errors_too(make_table):
    found = domain_summary(each_to_each(make_table, loss=1.5), KEY, metric="brier")
    assert found.gap.estimate > 0
    assert found.hardest_gap.estimate > 0
    assert found.gap.estimate == pytest.approx(found.out_of_domain.estimate - found.in_domain.estimate)


def test_a_pooled_study_has_domains_but_no_out_of_domain(make_study):
    trials = make_study(np.random.default_rng(0), strategies={"a": (1.5,)}, budgets=(10,), domains=3)
    found = domain_summary(Panel(trials, **CLASSES, draws=150), KEY, metric="auroc")
    assert set(found.scores) == {"d0", "d1", "d2"}
    assert (found.in_domain, found.out_of_domain, found.gap) == (None, None, None)
    others = [one.estimate for name, one in found.scores.items() if name != found.hardest]
    assert found.hardest_gap.estimate == pytest.approx(np.mean(others) - found.scores[found.hardest].estimate)


def test_one_domain_has_no_gap(make_study):
    trials = make_study(np.random.default_rng(0), strategies={"a": (1.5,)}, budgets=(10,))
    found = domain_summary(Panel(trials, **CLASSES, draws=120), KEY, metric="auroc")
    assert (found.scores, found.hardest, found.hardest_gap) == ({}, None, None)


@pytest.fixture(scope="module")
def grouped(make_table):
    """A pooled study whose model works worse for the patients of group f, and its attributes."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(90), 3)
    labels = rng.integers(0, 2, 270)
    sex = np.where(np.arange(90) % 2, "f", "m")[patients]
    trials = []
    for repeat in range(3):
        score = labels * np.where(sex == "f", 0.3, 2.5) + rng.normal(size=270)
        trials.append(
            Trial(strategy="a", budget="10", labels=10, repeat=repeat, predictions=make_table(score, labels, patients))
        )
    attributes = pd.DataFrame(
        {
            "id": [f"i{k:05d}" for k in range(270)],
            "sex": sex,
            "view": np.where(patients < 3, "rare", np.where(patients < 40, "ap", np.where(patients < 80, "pa", None))),
            "serial": [f"n{k}" for k in range(270)],
            "same": "one",
        }
    )
    return Panel(trials, **CLASSES, draws=400), attributes


def test_a_subgroup_that_does_worse_is_found(grouped):
    panel, attributes = grouped
    women, men = subgroup_gaps(panel, KEY, attributes, columns=["sex"], metric="auroc")
    assert (women.group, men.group) == ("f", "m")
    assert women.gap.low > 0.1
    assert women.gap.estimate == pytest.approx(-men.gap.estimate)
    assert women.gap.estimate == pytest.approx(men.score.estimate - women.score.estimate)
    assert (women.n_patients, women.n_images, women.n_unknown) == (45, 135, 0)
    assert (women.gap.adjusted_low, women.gap.adjusted_high) == (women.gap.low, women.gap.high)
    assert 0 < women.gap.minimum_detectable < women.gap.estimate


def test_groups_that_cannot_be_judged_say_why(grouped):
    panel, attributes = grouped
    found = {one.group: one for one in subgroup_gaps(panel, KEY, attributes, columns=["view"], metric="auroc")}
    assert found["rare"].reason == "3 patients; a group needs 5"
    assert found["rare"].gap is None
    assert found["ap"].reason is None
    assert found["ap"].n_unknown == 30
    assert found["ap"].gap.n_patients == 80
    assert found["ap"].gap.adjusted_low < found["ap"].gap.low  # two groups tested together
    (many,) = subgroup_gaps(panel, KEY, attributes, columns=["serial"], metric="auroc")
    assert many.reason == "270 groups among the tested images; a comparison needs 2 to 12"
    (one,) = subgroup_gaps(panel, KEY, attributes, columns=["same"], metric="auroc")
    assert one.reason.startswith("1 groups among the tested images")


def test_a_group_of_one_class_is_not_scored(make_table):
    labels = np.array([0] * 12 + [0, 1] * 6)
    table = make_table(np.arange(24.0), labels, np.arange(24))
    panel = Panel([Trial(strategy="a", budget="10", labels=10, repeat=0, predictions=table)], **CLASSES, draws=150)
    attributes = pd.DataFrame({"id": table["id"], "site": ["s1"] * 12 + ["s2"] * 12})
    found = subgroup_gaps(panel, KEY, attributes, columns=["site"], metric="auroc")
    assert [one.reason for one in found] == ["the score is undefined in the group or outside it (one class)"] * 2


def test_unknown_attributes_and_repeated_ids_are_refused(grouped):
    panel, attributes = grouped
    with pytest.raises(ConfigError, match=r"Unknown attribute `sexx`\. Did you mean `sex`\?"):
        subgroup_gaps(panel, KEY, attributes, columns=["sexx"], metric="auroc")
    with pytest.raises(DataError, match="Id `i00000` stands twice in the attributes"):
        subgroup_gaps(panel, KEY, attributes.assign(id="i00000"), columns=["sex"], metric="auroc")


def test_the_minimum_detectable_gap_is_found_with_the_power_it_names():
    for tests in (1, 4):
        gap = minimum_detectable(0.03, tests=tests, power=0.8)
        critical = norm.ppf(1 - 0.05 / (2 * tests)) * 0.03
        assert norm.sf(critical, loc=gap, scale=0.03) == pytest.approx(0.8, abs=1e-9)
    assert minimum_detectable(0.03, growth=4.0) == pytest.approx(minimum_detectable(0.03) / 2)
