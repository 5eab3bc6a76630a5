"""WZ108: images that are nearly the same, across patients (`wazuka check`).

The thresholds come from pairs of images of different patients in sets of four kinds; docs/checks.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from wazuka.audit.copies import Copies, correlation, find_copies, parse_hashes, parse_thumbnails
from wazuka.audit.tables import NOT_MEASURED, CheckResult, Rule, Tables

CODE = "WZ108"
NAME = "near duplicates"
THRESHOLDS: Mapping[str, float] = {
    "bits": 4,
    "correlation": 0.98,
    "residual": 0.85,
    "chance_share": 0.001,
    "chance_patients": 5,
}
RULE = (
    "issue: 1 image or more with a copy of another patient: at most {bits:g} of 64 hash bits apart, a correlation of the"
    " 16 x 16 thumbnails of {correlation:g} or more, and of {residual:g} or more without what all images have in common;"
    " not applicable where random pairs of different patients meet the first two in more than {chance_share:.1%}, and so"
    " that an image looks like more than {chance_patients:g} patients"
)
RANDOM_PAIRS = 200_000


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Search the whole dataset for near copies; exact ones are WZ107's, blank images WZ102's."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    columns = hashed_rows(tables)
    if columns is None:
        return rule.not_applicable(NOT_MEASURED.format("phash"))
    rows, hashes, thumbnails = columns
    patient = pd.factorize(tables.usable["patient"])[0][rows]
    n_patients = len(np.unique(patient))
    if n_patients < 2:
        return rule.not_applicable("there are not two patients with images to compare")
    chance, pairs = _chance(hashes, thumbnails, patient, thresholds)
    if chance > thresholds["chance_share"] and chance * n_patients > thresholds["chance_patients"]:
        return rule.not_applicable(
            f"{chance:.2%} of {pairs} random pairs of different patients are that close: these images look too much alike to tell copies"
        )
    found = search(tables, thresholds)
    exact = pd.factorize(tables.usable["sha256"])[0][rows]
    across = _across(found.pairs, found.same, patient, exact)
    within = np.zeros(len(rows), dtype=bool)
    within[found.pairs.ravel()] = True
    limits = f"; the search was cut short {found.cut} times where hashes crowd" if found.cut else ""
    also = int(np.sum(within & ~across))
    inside = f"; {also} others have near copies of the same patient or exact ones" if also else ""
    if not across.any():
        return rule.passed(f"no near copies across patients among {len(rows)} images{inside}{limits}")
    return rule.result(
        "issue",
        f"{across.sum()} of {len(rows)} images are nearly the same as one of {tables.another_patient}{inside}{limits}",
        ids=tables.usable["id"].to_numpy()[rows[across]],
    )


def search(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> Copies:
    """Find the near copies among `hashed_rows`, once per dataset and thresholds."""
    key = (CODE, *(thresholds[name] for name in ("bits", "correlation", "residual")))
    if key not in tables.found:
        columns = hashed_rows(tables)
        assert columns is not None, "asked for where hashes were measured"
        tables.found[key] = find_copies(
            columns[1],
            columns[2],
            radius=int(thresholds["bits"]),
            least_correlation=thresholds["correlation"],
            least_residual=thresholds["residual"],
        )
    return tables.found[key]


def hashed_rows(tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Usable rows with content, their hashes and thumbnails; None where the import measured none."""
    texts, blobs, constant = tables.measured("phash"), tables.measured("thumbnail"), tables.measured("constant")
    if texts is None or blobs is None or constant is None:
        return None
    known = texts.notna().to_numpy(dtype=bool) & blobs.notna().to_numpy(dtype=bool) & ~constant.to_numpy(dtype=bool)
    rows = np.flatnonzero(known)
    hashes = parse_hashes(texts.to_numpy(dtype=object)[rows])
    return rows, hashes, parse_thumbnails(blobs.to_numpy(dtype=object)[rows])


def _chance(
    hashes: np.ndarray, thumbnails: np.ndarray, patient: np.ndarray, thresholds: Mapping[str, float]
) -> tuple[float, int]:
    """Share of random pairs of different patients within the bits and the correlation, and how many pairs were drawn."""
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, len(hashes), (2, RANDOM_PAIRS))
    other = patient[left] != patient[right]
    left, right = left[other], right[other]
    close = np.bitwise_count(hashes[left] ^ hashes[right]) <= int(thresholds["bits"])
    alike = correlation(thumbnails, left[close], right[close]) >= thresholds["correlation"]
    return float(alike.sum() / max(len(left), 1)), len(left)


def _across(pairs: np.ndarray, same: np.ndarray, patient: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Images with a near (not exact) copy of another patient."""
    flagged = np.zeros(len(patient), dtype=bool)
    left, right = pairs[:, 0], pairs[:, 1]
    foreign = (patient[left] != patient[right]) & ((exact[left] != exact[right]) | (exact[left] < 0))
    flagged[left[foreign]] = flagged[right[foreign]] = True
    # images of one hash and look are all copies of each other, though only their leader is in a pair
    mixed = pd.DataFrame({"same": same, "patient": patient, "exact": exact}).groupby("same").nunique()
    groups = mixed.index[(mixed["patient"] > 1) & (mixed["exact"] > 1)]
    return flagged | np.isin(same, groups)
