"""`wazuka audit --real A --synthetic B`: two datasets become the two sides of an audit.

Which of A's images the generator was trained on, B's `generator/trained.parquet` says; without one all count as seen. Both
sides take one image transform: that of the generator where B names it, else both are resized to B's images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.core.hashing import derive_seed
from wazuka.core.progress import say
from wazuka.core.records import finish, read_json, read_table, write_text
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import build_pixels
from wazuka.data.transform import ImageTransform
from wazuka.nn import backbones, generators
from wazuka.nn.encoders import Encoder
from wazuka.study.context import Settings
from wazuka.study.synthetic import filtering
from wazuka.study.synthetic.audit import MOST_ATTRIBUTE_VALUES, audit_sides
from wazuka.study.synthetic.audit_sides import Inception, Sides
from wazuka.study.synthetic.make_dataset import GENERATOR, MADE, TRAINED

LARGEST_SIDE = 256
"""Pixels a side to which images are resized at most, where the generator does not say more."""


@dataclass(frozen=True)
class Audited:
    """An audit's checks in the form of `audit --json`, and its record."""

    checks: list[dict[str, Any]]
    record: dict[str, Any]

    @property
    def has_issue(self) -> bool:
        """Whether any check has the outcome `issue`."""
        return any(one["outcome"] == "issue" for one in self.checks)


def audit_datasets(
    real: Dataset, synthetic: Dataset, *, out: Path, backbone: str, settings: Settings, seed: int = 0
) -> Audited:
    """Audit the images of one dataset against those of another; writes checks, pictures and `summary.md` into `out`.

    Raises:
        DataError: If the two do not fit each other, or `out` is not empty.
    """
    out = Path(out)
    if out.is_file():
        raise DataError(f"{out} is a file; give a folder as --out.")
    for one in (real, synthetic):
        for place in (one.folder, Path(one.card.root)):
            if place.is_dir() and out.resolve().is_relative_to(place.resolve()):
                raise DataError(f"--out {out} lies inside {place}, which is never written to; choose another folder.")
    unfinished = {"checks.json", "memorized.parquet", "grid.png", "pairs.png", "where.png", "summary.md"}
    if out.is_dir() and not {one.name for one in out.iterdir()} <= unfinished:
        raise DataError(f"{out} is not empty; choose another --out.")
    if real.card.intensity != synthetic.card.intensity:
        raise DataError(
            f"{real.folder} has {real.card.intensity} pixels, {synthetic.folder} has {synthetic.card.intensity}; both must be"
            " of one kind."
        )
    encoder = _encoder(backbone)
    rows, made = real.usable, synthetic.usable
    training, how = _training(real, synthetic)
    shape, note = _transforms(real, synthetic)
    caches = [
        build_pixels(one, transform, cache=Path(settings.cache), workers=settings.workers)
        for one, transform in ((real, shape[0]), (synthetic, shape[1]))
    ]
    attributes = tuple(
        one for one in real.card.attributes if one in rows and 2 <= rows[one].nunique() <= MOST_ATTRIBUTE_VALUES
    )
    extra: dict[str, Any] = {name: rows[name].astype("string").to_numpy() for name in attributes}
    seeds = made["seed"].astype("string") if "seed" in made else pd.Series(pd.NA, index=made.index, dtype="string")
    sides = Sides(
        real=rows[["id", "patient", "label", "domain"]]
        .assign(patient=rows["patient"].fillna(rows["id"]), **extra)
        .reset_index(drop=True),
        synthetic=made[["id", "label"]].assign(seed=seeds).reset_index(drop=True),
        training=training,
        real_pixels=caches[0].images(np.arange(len(rows))).batch(np.arange(len(rows))),
        synthetic_pixels=caches[1].images(np.arange(len(made))).batch(np.arange(len(made))),
        cache=caches[0],
        encoder=encoder,
        attributes=attributes,
    )
    for line in (how, note):
        say(line)
    sets = _made(synthetic, sides.synthetic_pixels, settings)
    record, checks = audit_sides(sides, folder=out, settings=settings, seed=derive_seed(seed, "audit"), sets=sets)
    record |= {"schema": 1, "step": "audit", "real": real.card.fingerprint, "synthetic": synthetic.card.fingerprint}
    record |= {"compared_with": how, "transform": note}
    write_text(out / "summary.md", _summary(real, synthetic, checks, record))
    finish(out, record)
    return Audited(checks, record)


def _encoder(backbone: str) -> Encoder | Inception:
    """Any registered backbone, or `inception`, `inception=FILE`."""
    name, _, file = backbone.partition("=")
    if name == "inception":
        return Inception(Path(file).expanduser() if file else None)
    return backbones.resolve(backbone, weights="pretrained", seed=0)


def _training(real: Dataset, synthetic: Dataset) -> tuple[np.ndarray, str]:
    """Which real rows the generator was trained on, bool (n,), and a sentence on how that is known."""
    file = synthetic.folder / GENERATOR / TRAINED
    rows = real.usable
    if not file.is_file():
        why = f"{synthetic.folder} does not say what its generator was trained on: all {len(rows)} real images count as seen."
        return np.ones(len(rows), bool), why
    seen = read_table(file)
    images = rows["sha256"].isin(set(seen["image_sha256"])).to_numpy(bool, copy=True)
    record = read_json(synthetic.folder / GENERATOR / "record.json")
    salt = real.card.imported.get("salt")
    same = record.get("fingerprint") == real.card.fingerprint or (salt is not None and salt == record.get("salt"))
    if same:
        hashes = [hashlib.sha256(str(one).encode()).hexdigest() for one in rows["patient"]]
        images |= pd.Series(hashes).isin(set(seen["patient_hash"]) - {""}).to_numpy(bool)
    if not images.any():
        raise DataError(
            f"The generator of {synthetic.folder} was trained on no image of {real.folder}; give the dataset that it was made"
            " from as --real, so that copies can be found."
        )
    held = int((~images).sum())
    return (
        images,
        f"The generator was trained on {int(images.sum())} of the {len(rows)} real images; {held} are held out.",
    )


def _made(synthetic: Dataset, pixels: np.ndarray, settings: Settings) -> list[filtering.ImageSet]:
    """The images of a dataset of `wazuka synthesize` with those that its filter left out; none of any other dataset.

    Args:
        synthetic: The dataset.
        pixels: Of its usable images, (n, height, width, channels).
        settings: With the device on which the others are made again.
    """
    file = synthetic.folder / GENERATOR / MADE
    if not file.is_file():
        return []
    table, rows = read_table(file), synthetic.usable
    places = pd.Series(np.arange(len(rows)), index=rows["seed"].astype("int64"))
    table = table[~table["kept"] | table["seed"].isin(places.index)].reset_index(drop=True)  # some may be gone since
    one = filtering.ImageSet(part="all", table=table, pixels=None)
    if not one.changed:
        return [one]
    at = places.loc[table.loc[table["kept"], "seed"]].to_numpy()
    generator = generators.load(synthetic.folder / GENERATOR)
    truncation = float(table["truncation"].iloc[0])
    made = filtering.with_pixels(table, pixels, at, generator, device=settings.device, truncation=truncation)
    return [filtering.ImageSet(part="all", table=table, pixels=made)]


def _transforms(real: Dataset, synthetic: Dataset) -> tuple[tuple[ImageTransform, ImageTransform], str]:
    """Image transforms of both sides that give images of one size, and a sentence on them."""
    file = synthetic.folder / GENERATOR / "record.json"
    if file.is_file():
        image = ImageTransform(**read_json(file)["image"])
        crop = "the whole image" if image.crop is None else f"the central {image.crop} pixels"
        return (
            image,
            ImageTransform(size=image.size),
        ), f"Real images as the generator saw them: {crop} at {image.size}."
    sides = synthetic.usable[["height", "width"]].to_numpy(np.int64)
    size = int(min(sides.min(), LARGEST_SIDE))
    both = ImageTransform(size=size)
    return (both, both), f"Both sides are resized to {size} pixels."


def _summary(real: Dataset, synthetic: Dataset, checks: list[dict[str, Any]], record: dict[str, Any]) -> str:
    """A page to read: the checks, then the distances beside the real-versus-real floor."""
    lines = [f"# {synthetic.card.name} against {real.card.name}", ""]
    if real.card.simulated or synthetic.card.simulated:
        lines += ["**Simulated data.** No figure on this page says anything about patients.", ""]
    lines += [record["compared_with"], record["transform"], ""]
    lines += ["| check | outcome | what was found |", "|---|---|---|"]
    lines += [f"| {one['code']} {one['name']} | {one['outcome']} | {one['reason']} |" for one in checks]
    found = record["fidelity"]
    if found["scores"]:
        lines += ["", f"Features of {record['encoder']}, against {record['fidelity_against']}.", ""]
        lines += [
            "| figure | value | 95 % interval | same size as the floor | real against real |",
            "|---|---|---|---|---|",
        ]
        for name, one in found["scores"].items():
            spread = f"{one['floor']:.4g} ({one['floor_low']:.4g} to {one['floor_high']:.4g})"
            interval = f"{one['low']:.4g} to {one['high']:.4g}"
            lines.append(f"| {name} | {one['value']:.4g} | {interval} | {one['matched']:.4g} | {spread} |")
    spatial = record["spatial_fidelity"].get("scores", {}).get("frechet")
    if spatial:
        spread = f"{spatial['floor']:.4g} ({spatial['floor_low']:.4g} to {spatial['floor_high']:.4g})"
        interval = f"{spatial['low']:.4g} to {spatial['high']:.4g}"
        lines.append(
            f"| frechet, spatial | {spatial['value']:.4g} | {interval} | {spatial['matched']:.4g} | {spread} |"
        )
    lines += [f"\nNot measured: {name}: {why}" for name, why in found["missing"].items()]
    lines += [line for one in record["filtering"] for line in ("", *_filter_lines(one))]
    lines += [
        "",
        "grid.png: of each class real, then synthetic images. pairs.png: the synthetic images closest to a real one",
    ]
    lines[-1] += " (above), and that one (below)."
    if "where" in record["pictures"]:
        lines += [
            "where.png: the synthetic images with the highest held-out scores, below them where they differ (red speaks for",
            "synthetic, blue for real; against the mean of both sides at that place), the real images with the lowest scores,",
            "likewise, then the mean maps of the real and the synthetic images and their difference. Figures: WZ204.",
        ]
    return "\n".join(lines) + "\n"


def _filter_lines(one: dict[str, Any]) -> list[str]:
    """What leaving out flagged images changed, from the record's entry: a table, or one line where it changed nothing."""
    made, kept = one["made"], one["kept"]
    if not one["changed"]:
        if made["flagged"]:
            return [
                f"Filter: {made['flagged']} of {made['images']} images were flagged as copies and kept all the same."
            ]
        return [
            f"Filter: none of the {made['images']} images made was flagged as a copy of a training image, so it changed nothing."
        ]
    lines = [
        "## What filtering changed",
        "",
        f"{made['flagged']} of {made['images']} images made were flagged as copies of training images and left out,"
        f" {one['replaced']} others came in their place. Figures of {one['rows']} images of each side with the same numbers"
        " of each class, against the same real images.",
        "",
        "| figure | all images made | images kept | real against real |",
        "|---|---|---|---|",
        f"| images | {made['images']} | {kept['images']} | |",
        f"| flagged by the filter | {_share(made['flagged'], made)} | {_share(kept['flagged'], kept)} | |",
    ]
    if one["audit_flagged"] is not None:
        ours = one["audit_flagged"]
        lines.append(f"| flagged by this audit | {_share(ours['made'], made)} | {_share(ours['kept'], kept)} | |")
    lines += [f"| class {name} | {made['classes'][name]} | {kept['classes'][name]} | |" for name in made["classes"]]
    before, after = one["fidelity"]["made"], one["fidelity"]["kept"]
    for name, first in before["scores"].items():
        if name in after["scores"]:
            cells = [_value(each) for each in (first, after["scores"][name])]
            floor = f"{first['floor']:.4g} ({first['floor_low']:.4g} to {first['floor_high']:.4g})"
            lines.append(f"| {name} | {cells[0]} | {cells[1]} | {floor} |")
    return lines + [f"\nNot measured: {name}: {why}" for name, why in before["missing"].items()]


def _share(count: int, side: dict[str, Any]) -> str:
    return f"{count} ({count / max(side['images'], 1):.1%})"


def _value(score: dict[str, float]) -> str:
    """A figure with its interval, then the one at the size at which real images were set against real ones."""
    return (
        f"{score['value']:.4g} ({score['low']:.4g} to {score['high']:.4g}), at the floor's size {score['matched']:.4g}"
    )
