"""Leakage certificate: which images belong together, and how much a naive split would have flattered the score.

The same exact probe on the same features is trained and tested twice, once on splits that ignore the groups (patients,
or groups inferred where no patient column is given) and once on splits that keep each group on one side. The inflation
is the mean difference, with the interval of the corrected resampled t test (Nadeau and Bengio 2003, Machine Learning
52, Eq. 9): repeated splits of one set overlap, so their spread alone would be too sure.

    wazuka check DATASET
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import roc_auc_score

from wazuka import audit
from wazuka.audit.groups import infer_groups
from wazuka.core.hashing import derive_seed
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import build_pixels
from wazuka.data.transform import ImageTransform
from wazuka.nn import backbones, features
from wazuka.training.logistic import Problem, solve

ROUNDS = 20
"""Pairs of splits."""
TEST_SHARE = 0.25
PENALTY = 0.1
"""The probe's C, the same on both sides: a fixed value, since the difference is what counts."""
MOST_IMAGES = 5000
"""More images than this are sampled by group, which bounds the time to about a minute."""
BACKBONE, SIZE = "resnet18", 64
"""Randomly initialized and small: needs no weights, and sees texture well enough to show a leak."""


def certify(
    dataset: Dataset, tables: audit.Tables, *, cache: Path, threads: int, matrix: np.ndarray | None = None
) -> dict[str, Any] | None:
    """Infer the groups and measure the inflation.

    Args:
        dataset: Labeled, at least in part.
        tables: Its tables.
        cache: Cache folder.
        threads: Decoding processes.
        matrix: Features of all usable rows, (n, dim); None computes those of a small randomly initialized network.

    Returns:
        Plain values: `groups` (evidence, count, images), `naive`, `grouped` (mean AUROC), `inflation` (estimate, low,
        high), `rounds`, `skipped` (rounds without both classes on both sides), `verdict`; None for unlabeled data.
    """
    usable = dataset.usable
    labeled = usable["label"].notna().to_numpy()
    if usable.loc[labeled, "label"].nunique() < 2:
        return None
    inferred = infer_groups(tables)
    group = inferred.group.reindex(usable["id"]).to_numpy()
    rows = _sample(np.flatnonzero(labeled), group, seed=derive_seed(0, "leakage sample", dataset.card.fingerprint))
    found: dict[str, Any] = {"evidence": _told(inferred.evidence), "groups": len(set(group[rows])), "images": len(rows)}
    if found["groups"] == len(rows):
        reason = "every image is its own group: no patient column, and no shared origin was found"
        return found | {"inflation": None, "verdict": f"not applicable: {reason}"}
    if matrix is None:
        pixels = build_pixels(dataset, ImageTransform(size=SIZE), cache=cache, workers=threads, on_misfit="record")
        bad = pixels.misfits.loc[pixels.misfits["what"] == "image", "row"]
        rows = rows[~np.isin(rows, bad)]
        encoder = backbones.resolve(BACKBONE, weights="none", seed=0)
        matrix = np.load(features.cached_features(pixels, encoder, cache=cache, device="cpu"), mmap_mode="r")
    inputs = np.asarray(matrix[rows], np.float64)
    labels, classes = pd.factorize(usable["label"].to_numpy()[rows], sort=True)
    return found | _measure(inputs, labels, len(classes), group[rows])


def _told(evidence: list[dict[str, str | int]]) -> str:
    """What joined images, in words."""
    parts = [f"{one['source']}: {one['groups']} groups with {one['images']} images" for one in evidence]
    return "; ".join(parts) or "nothing joins any two images"


def _sample(rows: np.ndarray, group: np.ndarray, *, seed: int) -> np.ndarray:
    """Keep whole groups, in random order, until there are enough images."""
    if len(rows) <= MOST_IMAGES:
        return rows
    codes = pd.factorize(group[rows])[0]
    rank = np.random.default_rng(seed).permutation(codes.max() + 1)[codes]
    order = np.argsort(rank, kind="stable")
    return np.sort(rows[order[:MOST_IMAGES]])


def _measure(inputs: np.ndarray, labels: np.ndarray, classes: int, group: np.ndarray) -> dict[str, Any]:
    rng = np.random.default_rng(derive_seed(0, "leakage rounds"))
    codes = pd.factorize(group)[0]
    pairs: list[tuple[float, float]] = []
    shares: list[float] = []
    skipped = 0
    for _ in range(ROUNDS):
        grouped = _grouped_test(codes, labels, rng)
        naive = np.zeros(len(labels), bool)
        naive[rng.permutation(len(labels))[: int(grouped.sum())]] = True
        usable = all(len(np.unique(labels[part])) == classes for test in (grouped, naive) for part in (test, ~test))
        if not usable:
            skipped += 1
            continue
        pairs.append((_score(inputs, labels, classes, naive), _score(inputs, labels, classes, grouped)))
        shares.append(grouped.sum() / (~grouped).sum())
    if len(pairs) < 3:
        return {"inflation": None, "skipped": skipped, "verdict": "not applicable: too few groups to split in two"}
    scores = np.array(pairs)  # (rounds, [naive, grouped])
    difference = scores[:, 0] - scores[:, 1]
    error = float(np.sqrt(difference.var(ddof=1) * (1 / len(pairs) + np.mean(shares))))
    half = float(stats.t.ppf(0.975, len(pairs) - 1)) * error
    estimate = float(difference.mean())
    inflated = estimate - half > 0
    return {
        "naive": round(float(scores[:, 0].mean()), 4),
        "grouped": round(float(scores[:, 1].mean()), 4),
        "inflation": {
            "estimate": round(estimate, 4),
            "low": round(estimate - half, 4),
            "high": round(estimate + half, 4),
        },
        "rounds": len(pairs),
        "skipped": skipped,
        "verdict": "a naive split flatters the score" if inflated else "no inflation shown at this size",
    }


def _grouped_test(codes: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whole groups in random order until a quarter of the images is reached."""
    order = rng.permutation(codes.max() + 1)
    sizes = np.bincount(codes)
    taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes[order]), TEST_SHARE * len(labels))))]
    return np.isin(codes, taken)


def _score(inputs: np.ndarray, labels: np.ndarray, classes: int, test: np.ndarray) -> float:
    """AUROC (macro one-versus-rest) of the probe trained on the rest."""
    problem = Problem(features=inputs[~test], labels=labels[~test], n_classes=classes)
    (solution,) = solve([problem], [PENALTY])
    probabilities = solution.predict(inputs[test])[0]
    if classes == 2:
        return float(roc_auc_score(labels[test] == 1, probabilities[:, 1]))
    return float(np.mean([roc_auc_score(labels[test] == one, probabilities[:, one]) for one in range(classes)]))
