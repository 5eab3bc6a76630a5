"""What leaving out memorized images changes: the same figures on all images made and on those kept.

For every set of synthetic images of a study (in the generator's audit) and for a dataset of `wazuka synthesize` (in
`wazuka audit`). An image that was left out is made again from its seed. Figures before and after are of equal numbers of
images of each class, against the same real images, with the same draws: a difference comes from which images there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.audit.synthetic import memorized
from wazuka.core.hashing import derive_seed
from wazuka.core.records import read_table
from wazuka.evaluate.fidelity import fidelity
from wazuka.nn.generators import Generator
from wazuka.study.synthetic import images as synthetic_images

MOST_ROWS = 2000
"""Images a side at most, as in `evaluate.fidelity`."""
PARTS = ("train", "test")
SIDES = ("made", "kept")
"""Before and after the filter: columns of an `ImageSet`'s table."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """One set of synthetic images: those made first, and those kept (some of the first, and others in place of the rest).

    Attributes:
        part: What they are for: `train`, `test`, or `all` (of a dataset).
        table: Row per image that was made first or is kept: `label, made, kept, flag` (the last three bool; `flag`: the
            filter took it for a copy).
        pixels: (n, height, width, channels), row i of `table`; None where `made` and `kept` agree.
        steps: Ids of the steps that keep this very set; empty outside of a study.
    """

    part: str
    table: pd.DataFrame
    pixels: np.ndarray | None
    steps: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the filter left any image out."""
        return not bool((self.table["made"] == self.table["kept"]).all())

    @property
    def classes(self) -> list[str]:
        """Names of the classes that it has."""
        return sorted(self.table["label"].unique())


@dataclass(frozen=True, kw_only=True)
class Real:
    """The real images of an audit, row i of every array the same one.

    Attributes:
        features: (n, dim), of the encoder whose features of synthetic images are compared.
        small: (n, 32, 32, channels).
        labels, patients: Class ("" where missing) and patient, (n,) object.
        training: Which the generator was trained on, bool (n,).
        unseen: Which figures are measured against, bool (n,).
    """

    features: np.ndarray
    small: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    training: np.ndarray
    unseen: np.ndarray


def made_and_kept(counts: np.ndarray, kept: pd.DataFrame, classes: Sequence[str], *, testing: bool) -> pd.DataFrame:
    """Table of every image of a set, from its seeds: those made first in their order, then those that replaced some.

    Args:
        counts: Images of each class that were made first, int64 (classes,).
        kept: Row per image kept: `class` (code), `seed`, `flag`.
        classes: Their names.
        testing: Whether they come from the seeds that are kept for testing.

    Returns:
        `class, label, seed, made, kept, flag`, one row per image. One that was made first and is not kept was flagged.
    """
    codes = np.repeat(np.arange(len(counts)), counts)
    seeds = [
        synthetic_images.seeds_of(code, 0, int(count), classes=len(counts), testing=testing)
        for code, count in enumerate(counts)
    ]
    first = np.concatenate(seeds)
    spares = kept[~kept["seed"].isin(first)]
    table = pd.DataFrame(
        {
            "class": np.concatenate([codes, spares["class"].to_numpy(np.int64)]),
            "seed": np.concatenate([first, spares["seed"].to_numpy(np.int64)]),
        }
    )
    flags = kept.set_index("seed")["flag"].astype(bool)
    return table.assign(
        label=[classes[code] for code in table["class"]],
        made=np.arange(len(table)) < len(first),
        kept=table["seed"].isin(flags.index),
        flag=flags.reindex(table["seed"], fill_value=True).to_numpy(bool),
    )


def with_pixels(
    table: pd.DataFrame, kept_pixels: np.ndarray, rows: np.ndarray, generator: Generator, *, device: str,
    truncation: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """Pixels of every image of a table of `made_and_kept`: kept ones as they are, the others made again.

    Args:
        table: With `class, seed, kept`.
        kept_pixels: (m, height, width, channels).
        rows: Row of `kept_pixels` of each kept image, in the order of the table, int64 (kept,).
        generator: What made them.
        device: Where it runs.
        truncation: As they were made with.
    """
    kept = table["kept"].to_numpy(bool)
    pixels = np.empty((len(table), *kept_pixels.shape[1:]), kept_pixels.dtype)
    pixels[kept] = kept_pixels[rows]
    lost = table[~kept]
    if len(lost):
        labels, seeds = lost["class"].to_numpy(np.int64), lost["seed"].to_numpy(np.int64)
        pixels[~kept] = generator.sample(labels, seeds, truncation=truncation, device=device)
    return pixels


def sets_of_pools(
    pools: Mapping[str, tuple[Path, Mapping[str, Sequence[int]]]],
    generator: Generator,
    *,
    classes: Sequence[str],
    device: str,
) -> list[ImageSet]:
    """Every distinct set of images of one generator in a study, for training first.

    Args:
        pools: Step -> (its folder with images and rows, part -> images of each class that were made first).
        generator: What made them.
        classes: Names.
        device: Where images that were left out are made again.
    """
    found: dict[tuple[str, tuple[int, ...]], ImageSet] = {}
    for part in PARTS:
        for step, (folder, counts) in pools.items():
            key = (part, tuple(counts[part]))
            if key in found:  # same generator, same seeds, same filter: the same images
                found[key] = dataclasses.replace(found[key], steps=(*found[key].steps, step))
                continue
            rows = read_table(folder / synthetic_images.ROWS)
            places = np.flatnonzero((rows["part"] == part).to_numpy(bool))
            kept = rows.iloc[places]
            table = made_and_kept(np.array(counts[part], np.int64), kept, classes, testing=part == "test")
            one = ImageSet(part=part, table=table, pixels=None, steps=(step,))
            if one.changed:
                images = np.load(folder / synthetic_images.IMAGES, mmap_mode="r", allow_pickle=False)
                at = pd.Series(places, index=kept["seed"]).loc[table.loc[table["kept"], "seed"]].to_numpy()
                one = dataclasses.replace(one, pixels=with_pixels(table, images, at, generator, device=device))
            found[key] = one
    return [one for one in found.values() if len(one.table)]


def equal_counts(shares: np.ndarray, *have: np.ndarray, most: int = MOST_ROWS) -> np.ndarray:
    """Largest numbers of each class in the given proportions that every side has, rounded down, int64 (classes,).

    Args:
        shares: Weight of each class, int64 (classes,).
        have: Per side what it has of each class.
        most: Of all classes together, at most.
    """
    if not shares.sum():
        return np.zeros_like(shares)
    limits = [(int(min(one)), int(share)) for *one, share in zip(*have, shares, strict=True) if share]
    up, down = min([*limits, (most, int(shares.sum()))], key=lambda one: one[0] / one[1])
    return np.asarray(shares * up // down)


def what_changes(one: ImageSet) -> dict[str, Any]:
    """Count one set before and after the filter.

    Returns:
        `part, steps, changed`, and for `made` and `kept` each `images, flagged, classes`.
    """
    facts: dict[str, Any] = {"part": one.part, "steps": list(one.steps), "changed": one.changed}
    for side in SIDES:
        rows = one.table[one.table[side]]
        classes = {name: int((rows["label"] == name).sum()) for name in one.classes}
        facts[side] = {"images": len(rows), "flagged": int(rows["flag"].sum()), "classes": classes}
    return facts


def measure_change(one: ImageSet, *, features: np.ndarray, small: np.ndarray, real: Real, seed: int) -> dict[str, Any]:
    """Measure one set before and after the filter, which left something out.

    Args:
        one: The set.
        features, small: Of its images, (n, dim) and (n, 32, 32, channels).
        real: What it is compared with.
        seed: Of all draws.

    Returns:
        `replaced` (images that came in place of others), `rows` and `classes` (images a side behind the figures), `fidelity`
        (`made`, `kept`: as `evaluate.fidelity.Fidelity`), and `audit_flagged` (`made`, `kept`: images as near to a training
        image as a copy by the audit's own limits, which other real images set than the filter's; null where it has none).
    """
    names, labels = one.classes, one.table["label"].to_numpy(object)
    sides = {side: one.table[side].to_numpy(bool) for side in SIDES}
    have = [np.array([int((labels[rows] == name).sum()) for name in names]) for rows in sides.values()]
    held = np.array([int((real.labels[real.unseen] == name).sum()) for name in names])
    counts = equal_counts(have[0], *have, held)
    against = _draw(real.labels, names, counts, real.unseen, seed=derive_seed(seed, "filtering", "real"))
    figures = {}
    for side, rows in sides.items():
        own = _draw(labels, names, counts, rows, seed=derive_seed(seed, "filtering", "synthetic"))
        measured = fidelity(real.features[against], features[own], real_patients=real.patients[against], seed=seed)
        figures[side] = dataclasses.asdict(measured)
    found = memorized(
        {"pixels": small, "features": features},
        {"pixels": real.small, "features": real.features},
        training=real.training,
        patients=pd.factorize(real.patients)[0].astype(np.int64),
        seed=seed,
    )
    again = found.table["flag"].to_numpy(bool)
    return {
        "replaced": int((sides["kept"] & ~sides["made"]).sum()),
        "rows": int(counts.sum()),
        "classes": dict(zip(names, counts.tolist(), strict=True)),
        "fidelity": figures,
        "audit_flagged": {side: int(again[rows].sum()) for side, rows in sides.items()} if found.limits else None,
    }


def _draw(labels: np.ndarray, names: Sequence[str], counts: np.ndarray, among: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw some rows of each class in one order of all rows, so that two draws share what both may have; ascending."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[among[order]]
    return np.sort(np.concatenate([order[labels[order] == name][:n] for name, n in zip(names, counts, strict=True)]))
