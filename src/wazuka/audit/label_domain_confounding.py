"""WZ111: labels that the domain gives away (`wazuka check`).

Association by Cramér's V ("Mathematical Methods of Statistics", 1946) between label and domain over images; by chance
as often as patients exchanged between domains give the same V or more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from wazuka.audit.tables import CheckResult, Rule, Tables, some

CODE = "WZ111"
NAME = "label confounded with domain"
THRESHOLDS: Mapping[str, float] = {"warning_v": 0.3, "issue_v": 0.8, "p": 0.01}
RULE = (
    "warning: Cramér's V of label and domain of {warning_v:g} or more; issue: {issue_v:g} or more, or a class in one domain"
    " only; each with p of at most {p:g} when patients are exchanged between domains"
)
PERMUTATIONS = 999
MOST_PATIENTS = 20_000
"""With more patients the permutations use a random part of them: the p-value of a V of 0.3 is the same, the time not."""


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Measure the association of label and domain; ids: classes that live in one domain only."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    rows = tables.usable[["label", "domain", "patient"]].dropna()
    if len(rows) == 0:
        return rule.not_applicable("no image has both a label and a domain")
    label, classes = pd.factorize(rows["label"], sort=True)
    domain, domains = pd.factorize(rows["domain"], sort=True)
    if len(domains) < 2 or len(classes) < 2:
        return rule.not_applicable(
            f"labeled images have {len(classes)} classes and {len(domains)} domains; it takes two of each"
        )
    # what is exchanged: all images of one patient in one domain
    unit = pd.factorize(pd.factorize(rows["patient"])[0].astype(np.int64) * len(domains) + domain)[0]
    counts = np.zeros((unit.max() + 1, len(classes)))
    np.add.at(counts, (unit, label), 1)
    home = np.zeros(len(counts), dtype=np.int64)
    home[unit] = domain
    table = _table(counts, home, len(domains))
    v = cramers_v(table)
    p, p_single = _permute(counts, home, len(domains))
    single = ((table > 0).sum(axis=0) == 1) & (p_single <= thresholds["p"])
    alone = [str(name) for name, one in zip(classes, single, strict=True) if one]
    found = f"Cramér's V is {v:.2f} (p = {p:.3f}) over {len(classes)} classes and {len(domains)} domains"
    if alone:
        return rule.result("issue", f"{some(alone)} in one domain only; {found}", ids=alone)
    certain = p <= thresholds["p"]
    if certain and v >= thresholds["issue_v"]:
        return rule.result("issue", f"the domain all but tells the label: {found}", ids=classes)
    if certain and v >= thresholds["warning_v"]:
        return rule.result("warning", f"the domain tells something about the label: {found}", ids=classes)
    return rule.passed(found)


def cramers_v(table: np.ndarray) -> float:
    """Cramér's V of a contingency table, 0 (independent) to 1 (one tells the other).

    >>> round(cramers_v(np.array([[30, 10], [10, 30]])), 3)
    0.5
    """
    table = np.asarray(table, dtype=float)
    total = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total
    chi2 = ((table - expected) ** 2 / np.where(expected > 0, expected, 1)).sum()
    return float(np.sqrt(chi2 / total / (min(table.shape) - 1)))


def _table(counts: np.ndarray, home: np.ndarray, n_domains: int) -> np.ndarray:
    """Images per domain and class, float (domains, classes)."""
    return np.stack([np.bincount(home, weights=counts[:, c], minlength=n_domains) for c in range(counts.shape[1])], 1)


def _permute(counts: np.ndarray, home: np.ndarray, n_domains: int) -> tuple[float, np.ndarray]:
    """p-values by exchanging patients between domains: of V, and of each class being in one domain only."""
    rng = np.random.default_rng(0)
    if len(counts) > MOST_PATIENTS:
        part = np.sort(rng.choice(len(counts), MOST_PATIENTS, replace=False))
        counts, home = counts[part], home[part]
        present = counts.sum(axis=0) > 0
        domains = np.unique(home)
        if present.sum() < 2 or len(domains) < 2:
            return 1.0, np.ones(counts.shape[1])
    observed = _table(counts, home, n_domains)
    v = _v_of_present(observed)
    as_much = 1
    alone = np.ones(counts.shape[1])
    for _ in range(PERMUTATIONS):
        table = _table(counts, rng.permutation(home), n_domains)
        as_much += _v_of_present(table) >= v - 1e-12
        alone += (table > 0).sum(axis=0) <= 1
    return as_much / (PERMUTATIONS + 1), alone / (PERMUTATIONS + 1)


def _v_of_present(table: np.ndarray) -> float:
    return cramers_v(table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0])
