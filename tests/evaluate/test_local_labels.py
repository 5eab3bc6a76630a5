"""Local labels: closed forms where scores are exact, and ordinary estimates that know nothing of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.evaluate.conftest import table
from wazuka.core.errors import ConfigError
from wazuka.evaluate.comparisons import compare
from wazuka.evaluate.cross_domain import OTHERS, cross_domain
from wazuka.evaluate.domains import domain_summary
from wazuka.evaluate.intervals import estimate
from wazuka.evaluate.learning_curve import curve
from wazuka.evaluate.local_labels import local_labels
from wazuka.evaluate.panel import Key, Panel, Trial

CLASSES = {"classes": ("no", "yes"), "positive": "yes"}
DOMAINS = ("x", "y", "z")
KEY = Key("a", "100")


def part(auroc: float, domain: str, *, patients: int = 20) -> pd.DataFrame:
    """Predictions in one domain with exactly this AUROC: some "yes" score below every "no"."""
    first = 100 * DOMAINS.index(domain)
    labels = np.repeat([0, 1], patients)
    wrong = round((1 - auroc) * patients)
    scores = np.concatenate([np.zeros(patients), np.where(np.arange(patients) < wrong, -1.0, 1.0)])
    return table(
        scores,
        labels,
        np.tile(np.arange(patients), 2) + first,
        ids=np.arange(2 * patients) + 10 * first,
        test_domain=domain,
        domains=np.array([domain] * 2 * patients),
    )


def trials(adapted: dict[int, float], *, inside: float = 0.9, strategy: str = "a") -> list[Trial]:
    """An each-to-each study: `inside` in-domain, and `adapted` out of domain by the number of local labels."""
    out = []
    for repeat in range(2):
        for train in DOMAINS:
            tested = [part(inside if name == train else adapted[0], name) for name in DOMAINS]
            common = {"strategy": strategy, "budget": "100", "labels": 100, "repeat": repeat, "train_domain": train}
            out.append(Trial(**common, predictions=pd.concat(tested)))
            for number in [one for one in adapted if one]:
                for target in [name for name in DOMAINS if name != train]:
                    common["labels"] = 100 + number
                    out.append(Trial(**common, local_labels=number, predictions=part(adapted[number], target)))
    return out


def test_the_labels_that_close_the_gap_are_read_off_in_log_labels():
    panel = Panel(trials({0: 0.6, 10: 0.7, 50: 0.9}), **CLASSES, draws=300)
    found = local_labels(panel, "a", "100", metric="auroc", margin=0.1)
    assert [one.target for one in found] == ["x", "y", "z", ""]
    for one in found:
        assert one.reference == pytest.approx(0.9)
        assert [point.local_labels for point in one.points] == [0, 10, 50]
        assert [point.estimate for point in one.points] == pytest.approx([0.6, 0.7, 0.9])
        assert [point.gap for point in one.points] == pytest.approx([0.3, 0.2, 0.0])
        assert one.needed == int(np.ceil(np.sqrt(11 * 51) - 1))  # 0.8 is halfway from 0.7 to 0.9 in log(1 + n)
        assert one.low <= one.needed <= (one.high or np.inf)
        assert not one.already
    assert (found[0].n_patients, found[-1].n_patients) == (20, 60)


def test_a_gap_that_stays_open_is_more_than_the_largest_number():
    panel = Panel(trials({0: 0.5, 10: 0.55, 20: 0.6}, inside=0.95), **CLASSES, draws=300)
    one = local_labels(panel, "a", "100", metric="auroc", margin=0.01)[0]
    assert (one.needed, one.high, one.more_than, one.shown) == (None, None, 20, None)
    assert one.reached < 0.05


def test_a_gap_within_the_margin_needs_no_local_labels():
    panel = Panel(trials({0: 0.9, 10: 0.9}), **CLASSES, draws=300)
    one = local_labels(panel, "a", "100", metric="auroc", margin=0.01)[0]
    assert (one.needed, one.low, one.high, one.already, one.shown, one.reached) == (0, 0, 0, True, 0, 1.0)
    assert one.points[0].gap_low == one.points[0].gap_high == 0.0  # the same patients, draw by draw


def test_for_errors_a_gap_is_a_loss_too():
    one = local_labels(Panel(trials({0: 0.6, 50: 0.9}), **CLASSES, draws=150), "a", "100", metric="brier", margin=0.0)[
        0
    ]
    assert one.points[0].gap == pytest.approx(one.points[0].estimate - one.reference)
    assert one.points[0].gap > 0 and one.needed == 50


def test_a_study_without_local_labels_or_without_a_reference_has_none():
    everything = trials({0: 0.6, 10: 0.7})
    plain = [one for one in everything if one.local_labels == 0]
    assert local_labels(Panel(plain, **CLASSES, draws=120), "a", "100", metric="auroc", margin=0.0) == []
    sources = [one for one in everything if one.train_domain == "x"]  # no model was trained on y or z
    assert local_labels(Panel(sources, **CLASSES, draws=120), "a", "100", metric="auroc", margin=0.0) == []
    with pytest.raises(ConfigError, match="Unknown budget `50`"):
        local_labels(Panel(sources, **CLASSES, draws=120), "a", "50", metric="auroc", margin=0.0)


def test_ordinary_estimates_do_not_change_when_trials_with_local_labels_are_there():
    both = trials({0: 0.6, 10: 0.8}) + trials({0: 0.7, 10: 0.9}, strategy="b")
    with_local = Panel(both, **CLASSES, draws=150)
    without = Panel([one for one in both if one.local_labels == 0], **CLASSES, draws=150)
    for found, expected in (
        (estimate(panel, KEY, metric="auroc") for panel in (with_local, without)),
        (domain_summary(panel, KEY, metric="auroc") for panel in (with_local, without)),
        (compare(panel, metric="auroc", baseline="a") for panel in (with_local, without)),
        (curve(panel, "a", metric="auroc").measured.tolist() for panel in (with_local, without)),
        (cross_domain(panel, KEY, metric="auroc") for panel in (with_local, without)),
    ):
        assert found == expected
    assert [one.local_labels for one in compare(with_local, metric="auroc", baseline="a", local_labels=10)] == [10]


def test_the_matrix_has_every_pair_of_domains_with_its_interval():
    panel = Panel(trials({0: 0.6}), **CLASSES, draws=200)
    found = cross_domain(panel, KEY, metric="auroc")
    assert (found.trained, found.tested) == (DOMAINS, DOMAINS)
    assert len(found.cells) == 9
    for (train, test), one in found.cells.items():
        assert one.estimate == pytest.approx(0.9 if train == test else 0.6)
        assert one.low < one.estimate < one.high and one.n_patients == 20
    assert found.summary.gap.estimate == pytest.approx(0.3)


def test_leave_one_out_is_a_row_of_tests_and_a_pooled_study_has_one_too(make_study):
    left_out = [
        Trial(
            strategy="a", budget="100", labels=100, repeat=0, train_domain=f"not:{name}", predictions=part(value, name)
        )
        for name, value in zip(DOMAINS, (0.6, 0.7, 0.8), strict=True)
    ]
    found = cross_domain(Panel(left_out, **CLASSES, draws=150), KEY, metric="auroc")
    assert (found.trained, found.tested) == ((OTHERS,), DOMAINS)
    assert [found.cells[OTHERS, name].estimate for name in DOMAINS] == pytest.approx([0.6, 0.7, 0.8])
    assert found.summary.in_domain is None and found.summary.hardest == "x"
    pooled = make_study(np.random.default_rng(0), strategies={"a": (1.0,)}, budgets=(100,), domains=2)
    found = cross_domain(Panel(pooled, **CLASSES, draws=120), KEY, metric="auroc")
    assert (found.trained, found.tested) == (("all",), ("d0", "d1"))
