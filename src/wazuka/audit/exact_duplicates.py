"""WZ107: images with exactly the same pixels (`wazuka check`)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from wazuka.audit.tables import CheckResult, Rule, Tables

CODE = "WZ107"
NAME = "exact duplicates"
THRESHOLDS: Mapping[str, float] = {"images": 0}
RULE = "issue: more than {images:g} images with the pixels of another patient's image; warning: of the same patient's"


def check(tables: Tables, thresholds: Mapping[str, float] = THRESHOLDS) -> CheckResult:
    """Group images by the hash of their decoded pixels; images of one value are left to WZ102."""
    rule = Rule(CODE, NAME, RULE.format(**thresholds))
    usable = tables.usable
    group = duplicate_groups(tables)
    if group is None:
        return rule.not_applicable("the manifest has no pixel hashes (column `sha256`)")
    copied = group >= 0
    if not copied.any():
        return rule.passed(f"no two of {len(usable)} images have the same pixels")
    patients = pd.Series(pd.factorize(usable["patient"])[0][copied]).groupby(group[copied])
    across = np.zeros(len(group), dtype=bool)
    across[copied] = (patients.transform("min") != patients.transform("max")).to_numpy()
    n = int(across.sum())
    if n > thresholds["images"]:
        return rule.result(
            "issue",
            f"{n} images have the same pixels as one of {tables.another_patient}, {copied.sum() - n} only as one of the same patient",
            ids=usable["id"][across],
        )
    return rule.result(
        "warning",
        f"{copied.sum()} images have the same pixels as another image of the same patient",
        ids=usable["id"][copied],
    )


def duplicate_groups(tables: Tables) -> np.ndarray | None:
    """Group number of each usable row whose pixels occur again, -1 for all others; None without hashes."""
    sha256 = tables.usable["sha256"]
    if not sha256.notna().any():
        return None
    codes = pd.factorize(sha256)[0]
    constant = tables.measured("constant")
    if constant is not None:
        codes = np.where(constant.to_numpy(dtype=bool), -1, codes)
    sizes = np.bincount(codes[codes >= 0], minlength=codes.max() + 1 if len(codes) else 0)
    return np.where((codes >= 0) & (sizes[codes] > 1), codes, -1)
