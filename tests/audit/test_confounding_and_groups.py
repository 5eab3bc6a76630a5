"""Label and domain: Cramér's V against SciPy, chance against exact counting; groups: partitions with their evidence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import contingency

from wazuka.audit import label_domain_confounding as confounding
from wazuka.audit.groups import infer_groups
from wazuka.audit.tables import Tables


def clinic(classes: list[str], domains: list[str], *, images: int = 3) -> Tables:
    """One patient per entry with `images` images each."""
    rows = [
        {"id": f"i{p:04d}-{k}", "patient": f"p{p}", "label": c, "domain": d, "status": "ok", "sha256": None}
        for p, (c, d) in enumerate(zip(classes, domains, strict=True))
        for k in range(images)
    ]
    return Tables({"patient_source": "table"}, pd.DataFrame(rows))


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int64, st.tuples(st.integers(2, 5), st.integers(2, 5)), elements=st.integers(1, 50)))
def test_cramers_v_agrees_with_scipy(table: np.ndarray):
    expected = contingency.association(table, method="cramer", correction=False)
    assert confounding.cramers_v(table) == pytest.approx(expected, abs=1e-9)


def test_labels_spread_evenly_over_domains_pass():
    result = confounding.check(clinic(["a", "b"] * 20, ["x", "x", "y", "y"] * 10))
    assert result.outcome == "passed"
    assert "Cramér's V is 0.00" in result.reason


def test_a_class_that_lives_in_one_domain_only_is_an_issue():
    result = confounding.check(clinic(["a"] * 20 + ["b"] * 20, ["x", "y"] * 10 + ["x"] * 20))
    assert (result.outcome, result.ids) == ("issue", ["b"])
    assert "`b` in one domain only" in result.reason


def test_a_domain_that_tells_something_is_a_warning_and_one_that_tells_almost_all_an_issue():
    some = confounding.check(clinic(["a"] * 40 + ["b"] * 40, (["x"] * 28 + ["y"] * 12) + (["x"] * 12 + ["y"] * 28)))
    assert (some.outcome, some.ids) == ("warning", ["a", "b"])
    assert "Cramér's V is 0.40" in some.reason
    most = confounding.check(clinic(["a"] * 40 + ["b"] * 40, (["x"] * 38 + ["y"] * 2) + (["x"] * 2 + ["y"] * 38)))
    assert most.outcome == "issue"
    assert "Cramér's V is 0.90" in most.reason


def test_few_patients_with_many_images_prove_nothing():
    # four patients: a perfect association comes by chance in 2 of 6 arrangements, however many images there are
    result = confounding.check(clinic(["a", "a", "b", "b"], ["x", "x", "y", "y"], images=500))
    assert result.outcome == "passed"
    assert "Cramér's V is 1.00" in result.reason


def test_the_chance_of_an_association_is_that_of_exact_counting():
    # 6 patients, 3 per class and domain: V = 1 in 2 of C(6, 3) = 20 arrangements
    counts = np.repeat(np.eye(2), 3, axis=0)
    p, alone = confounding._permute(counts, np.array([0, 0, 0, 1, 1, 1]), 2)
    assert p == pytest.approx(0.1, abs=0.03)
    assert alone == pytest.approx([0.1, 0.1], abs=0.03)


def test_many_patients_are_judged_from_a_part_of_them():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 30_000)
    domain = np.where(rng.random(30_000) < 0.7, label, 1 - label)
    result = confounding.check(clinic([f"c{i}" for i in label], [f"d{i}" for i in domain], images=1))
    assert result.outcome == "warning"
    assert "(p = 0.001)" in result.reason


@pytest.mark.parametrize(
    ("classes", "domains", "text"),
    [
        (["a", "b"], [None, None], "no image has both a label and a domain"),
        (["a", "b"], ["x", "x"], "2 classes and 1 domains; it takes two of each"),
        (["a", "a"], ["x", "y"], "1 classes and 2 domains; it takes two of each"),
    ],
)
def test_without_two_domains_or_classes_it_is_not_applicable(classes, domains, text):
    result = confounding.check(clinic(classes, domains))
    assert result.outcome == "not applicable"
    assert text in result.reason


def rows_of(**columns: list[str | None]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    table = pd.DataFrame({"id": [f"i{i}" for i in range(n)], "status": "ok"})
    return table.assign(**({"patient": table["id"], "sha256": None} | columns))  # type: ignore[arg-type]


def test_groups_join_what_shares_a_patient_a_guess_a_volume_a_parent_or_pixels():
    table = rows_of(
        patient=["a", "a", "c", "d", "e", "f", "g"],
        patient_guess=[None, "n1", "n1", None, None, None, None],
        volume=[None, None, None, "v", "v", None, None],
        sha256=["s0", "s1", "s2", "s3", "s4", "s4", "s6"],
    )
    found = infer_groups(Tables({"patient_source": "table"}, table))
    assert found.group.tolist() == ["i0", "i0", "i0", "i3", "i3", "i3", "i6"]
    assert found.group.index.tolist() == table["id"].tolist()
    assert {one["source"]: (one["images"], one["groups"]) for one in found.evidence} == {
        "patient": (2, 1),
        "file name pattern": (2, 1),
        "volume": (2, 1),
        "exact copies": (2, 1),
    }


def test_without_any_evidence_each_image_is_its_own_group():
    found = infer_groups(Tables({"patient_source": "image"}, rows_of(label=["x"] * 4)))
    assert found.group.tolist() == ["i0", "i1", "i2", "i3"]
    assert found.evidence == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([None, "u", "v", "w"])), min_size=1, max_size=15),
    st.randoms(use_true_random=False),
)
def test_groups_are_the_finest_partition_that_keeps_every_link(rows: list[tuple[int, str | None]], random):
    table = rows_of(patient=[f"p{p}" for p, _ in rows], parent=[v for _, v in rows])
    found = infer_groups(Tables({"patient_source": "table"}, table)).group
    label = list(range(len(rows)))  # literal: merge until nothing changes
    changed = True
    while changed:
        changed = False
        for a in range(len(rows)):
            for b in range(a):
                linked = rows[a][0] == rows[b][0] or (rows[a][1] is not None and rows[a][1] == rows[b][1])
                if linked and label[a] != label[b]:
                    label = [label[b] if one == label[a] else one for one in label]
                    changed = True
    same = pd.factorize(found)[0]
    assert (same[:, None] == same).tolist() == (np.array(label)[:, None] == np.array(label)).tolist()
