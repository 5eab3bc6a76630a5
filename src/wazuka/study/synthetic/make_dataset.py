"""`wazuka synthesize`: train a generator on a whole labeled dataset and write a dataset of its images.

`OUT/` is a dataset folder: `dataset.yaml`, `manifest.parquet` (each row with `generator`, `seed` and `truncation`: any
image can be made again from its row), the images under `images/`, the generator with `seen.parquet` under `generator/`.
Memorized images are left out (`generator/made.parquet` has their rows too, so that `wazuka audit` can say what that
changed); where the check finds an issue, or the training collapsed, no images are written at all.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from wazuka import synthesize
from wazuka.core.errors import ConfigError, DataError, NotEnoughData, unknown_name
from wazuka.core.hashing import derive_seed, hash_strings, make_key
from wazuka.core.progress import say
from wazuka.core.records import clear_unfinished, finish, is_finished, read_json, write_json, write_table, write_text
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import PixelCache, build_pixels, pixels_key, to_picture
from wazuka.nn import features, generators
from wazuka.nn.encoders import Encoder
from wazuka.study import data as study_data
from wazuka.study.config import Study, resolve_study
from wazuka.study.context import Settings
from wazuka.study.inner_split import inner_split
from wazuka.study.out_folder import KEY_FILE, check_out
from wazuka.study.rows import GeneratorRows, rows_hash, seen_table
from wazuka.study.synthetic import filtering
from wazuka.study.synthetic.steps import Filtered, make_filtered, memorization_facts, reference, train_generator
from wazuka.training.roles import Runtime

PRESET = "standard"
SIZE = 64
"""Pixels a side where `--size` is not given."""
GENERATOR, IMAGES = "generator", "images"
TRAINED = "trained.parquet"
"""Of the rows in `seen.parquet` those that were trained on; the others were set aside for monitors."""
MADE = "made.parquet"
"""Every image that was made first or is kept: `label, seed, truncation`, and whether it was `made`, `kept`, a copy (`flag`)."""
COPIES_IN_MEMORY, FEATURE_BYTES = 12, 16_384
"""Bytes that an image takes while it is made and compared: of each value, and of its features."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user of `wazuka synthesize` may say.

    Attributes:
        method: Name of a synthesizer.
        count: Images to write, of all classes together; None: as many as there are labeled images.
        preset: Settings of the method.
        crop, size: Image transform: central crop, then size.
        backbone: Frozen network whose features monitors and the memorization check compare.
        truncation: Radius of the latent vectors, in (0, 1].
        seed: Of all randomness.
    """

    method: str
    count: int | None = None
    preset: str = PRESET
    crop: int | None = None
    size: int = SIZE
    backbone: str = "resnet18"
    truncation: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What was written: images, those left out as memorized, and why nothing was written (None where it was)."""

    images: int
    left_out: int
    blocked: str | None
    notes: tuple[str, ...] = ()
    """What a user should know besides."""


def make_dataset(dataset: Dataset, out: Path, *, wishes: Wishes, settings: Settings) -> Outcome:
    """Train a generator on all labeled images of a dataset and write its images as a dataset.

    An interrupted training goes on where it stopped.

    Raises:
        ConfigError, DataError, NotEnoughData: If a wish or the data do not fit.
    """
    out = Path(out)
    method = synthesize.METHODS[wishes.method]
    if wishes.preset not in method.presets:
        raise unknown_name("preset", wishes.preset, sorted(method.presets), where=f"wazuka synthesize {method.name}")
    if dataset.card.intensity == "hounsfield":
        raise DataError(
            f"{dataset.folder} has Hounsfield units, and `wazuka synthesize` writes 8-bit images; use a generator within a"
            " study (`synthesize:`) instead."
        )
    if not 0 < wishes.truncation <= 1:
        raise ConfigError(f"--truncation {wishes.truncation:g} is wrong; give a number above 0 and at most 1.")
    study = _study(dataset, wishes)
    data = study_data.load_study_data(study)
    strategy = study.strategies[0]
    rows = data.table[data.table["label"].notna()].reset_index(drop=True)
    counts = _counts(data, rows, wishes.count)
    encoder = _encoder(wishes)
    strategy.image.check(dataset.card.intensity)
    patients = hash_strings(rows["patient"].astype("string").fillna("").tolist())
    key = make_key(
        "make", strategy, method.code_version, encoder.weights_hash, rows_hash(rows), patients,
        pixels_key(data.main, strategy.image), wishes.seed,
    )  # fmt: skip
    folder = out / GENERATOR
    check_out(out, folder, key, dataset)
    if (out / "dataset.yaml").exists():
        raise DataError(f"{out} is not empty; choose another --out.")
    _check_memory(counts, (wishes.size, wishes.size, 3))
    pixels = build_pixels(data.main, strategy.image, cache=Path(settings.cache), workers=settings.workers)
    is_val, _ = inner_split(data, rows, derive_seed(wishes.seed, "make"))
    found = GeneratorRows(rows=rows, is_val=is_val)
    if not is_finished(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / KEY_FILE, key)  # kept when interrupted: says whose checkpoints lie here
        clear_unfinished(folder)
        _say_time(method, strategy, len(rows) - int(is_val.sum()), pixels, settings)
        runtime = Runtime(device=settings.device, threads=settings.threads, folder=folder, say=say)
        made = train_generator(
            data, strategy, found, pixels=pixels, encoder=encoder, name=key, seed=wishes.seed, runtime=runtime
        )
        made.generator.save(folder)
        write_table(folder / "seen.parquet", seen_table(rows, labeled=method.needs != "none"))
        write_table(folder / TRAINED, seen_table(rows[~is_val], labeled=method.needs != "none"))
        assert strategy.synthesis is not None
        record: dict[str, Any] = {"schema": 1, "step": "synthesize", "key": key, "collapsed": made.collapsed}
        record |= {"config": strategy.synthesis.method, "image": strategy.image, "seed": wishes.seed}
        record |= {"notes": made.notes, "curves": made.curves, "pictures": made.pictures, "classes": data.classes}
        record |= {"dataset": dataset.card.name, "fingerprint": dataset.card.fingerprint}
        record |= {"salt": dataset.card.imported.get("salt"), "labeled": len(rows)}
        finish(folder, record)
        (folder / KEY_FILE).unlink()
    matrix = np.load(
        features.cached_features(pixels, encoder, cache=Path(settings.cache), device=settings.device), mmap_mode="r"
    )
    against = reference(
        found, data.table, pixels=pixels, features=matrix, encoder=encoder, window=None, device=settings.device
    )
    generator = generators.load(folder)
    kept = make_filtered(
        generator, counts, against, testing=False, device=settings.device, truncation=wishes.truncation
    )
    facts = memorization_facts([kept])
    blocked = _blocked(read_json(folder / "record.json")["collapsed"], facts)
    if blocked is None:
        _write(kept, pixels, data.classes, out=out, dataset=dataset, wishes=wishes, key=key, workers=settings.workers)
    made_and_kept = filtering.made_and_kept(counts, kept.rows, data.classes, testing=False)
    write_table(folder / MADE, made_and_kept.assign(truncation=wishes.truncation))
    write_json(folder / "memorization.json", facts)
    written = 0 if blocked else len(kept.pixels)
    notes = []
    if facts["outcome"] == "not applicable":
        why = "; ".join(f"{name}: {one}" for name, one in facts["not_used"].items())
        notes.append(f"Copies of training images were not looked for ({why}).")
    if not blocked and written < int(counts.sum()):
        notes.append(f"{int(counts.sum()) - written} images fewer than asked for: no more were left beside the copies.")
    return Outcome(written, int(facts["flagged"]), blocked, tuple(notes))


def _study(dataset: Dataset, wishes: Wishes) -> Study:
    """The study that this is a part of: one strategy on the whole dataset."""
    image = {"size": wishes.size} | ({} if wishes.crop is None else {"crop": wishes.crop})
    settings = dict(synthesize.METHODS[wishes.method].presets[wishes.preset])
    entry = {"backbone": wishes.backbone, "synthesize": {"method": wishes.method} | settings, "image": image}
    values = {"dataset": str(dataset.folder), "strategies": {"synthesize": entry}, "min_class_patients": 2}
    return resolve_study(values, folder=Path.cwd(), where=f"wazuka synthesize {wishes.method}")


def _encoder(wishes: Wishes) -> Encoder:
    from wazuka.nn import backbones

    return backbones.resolve(wishes.backbone, weights="pretrained", seed=derive_seed(wishes.seed, "backbone weights"))


def _counts(data: study_data.StudyData, rows: pd.DataFrame, count: int | None) -> np.ndarray:
    """Images to write of each class: by the classes' shares among the labels, each class at least once."""
    have = np.bincount(data.label_codes(rows), minlength=len(data.classes))
    if count is None:
        return have
    if count < len(have):
        raise ConfigError(f"--count {count} is below the {len(have)} classes of the dataset; give {len(have)} or more.")
    shares = have / have.sum() * count
    found = np.maximum(1, np.floor(shares).astype(np.int64))
    while (missing := int(count - found.sum())) != 0:  # at most as often as there are classes
        code = (
            int(np.argmax(shares - found)) if missing > 0 else int(np.argmax(np.where(found > 1, found - shares, -1)))
        )
        found[code] += 1 if missing > 0 else -1
    return found


def _check_memory(counts: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Refuse more images than fit into memory, before a generator is trained for them."""
    needed = int(counts.sum()) * (int(np.prod(shape)) * COPIES_IN_MEMORY + FEATURE_BYTES)
    free = psutil.virtual_memory().available
    if needed > free:
        most = max(1, int(free / needed * counts.sum()))
        raise ConfigError(
            f"--count {int(counts.sum())} needs about {needed / 2**30:.0f} GB of memory, {free / 2**30:.0f} GB are free; give"
            f" {most} or fewer."
        )


def _say_time(method: Any, strategy: Any, images: int, pixels: PixelCache, settings: Settings) -> None:
    if method.expected_seconds is None:
        return
    config = strategy.synthesis.method.config
    seconds = method.expected_seconds(config, images, pixels.shape, settings.device)
    say(f"Estimate: training {method.name} on {images} images, about {max(1, round(seconds / 60))} min.")


def _blocked(collapsed: str | None, facts: dict[str, Any]) -> str | None:
    """Why the images may not leave, in one sentence."""
    if collapsed is not None:
        return f"The training collapsed: {collapsed}"
    if facts["outcome"] == "issue":
        return (
            f"Memorization: {facts['flagged']} of {facts['images']} images are as near to a training image as a copy."
        )
    return None


def _write(
    kept: Filtered,
    pixels: PixelCache,
    classes: tuple[str, ...],
    *,
    out: Path,
    dataset: Dataset,
    wishes: Wishes,
    key: str,
    workers: int,
) -> None:
    """Write the images as PNG with their table, import these, and move the dataset's files beside them."""
    from PIL import Image

    images, staging = out / IMAGES, out / ".dataset"
    for leftover in (images, staging):
        shutil.rmtree(leftover, ignore_errors=True)
    lines = []
    for number, row in enumerate(kept.rows.to_dict("records")):
        label = classes[int(row["class"])]
        name = f"{int(row['class'])}_{number:06d}.png"
        images.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_picture(kept.pixels[number], pixels)).save(images / name)
        lines.append(
            {"image": name, "label": label, "generator": key, "seed": str(row["seed"]), "truncation": wishes.truncation}
        )
    write_text(images / "labels.csv", pd.DataFrame(lines).to_csv(index=False))
    options = ImportOptions(
        table=images / "labels.csv",
        image="image",
        label="label",
        positive=dataset.card.positive,
        name=f"{dataset.card.name}-{wishes.method}",
        license=dataset.card.license,
        simulated=dataset.card.simulated,
    )
    if len({one["label"] for one in lines}) < len(classes):
        raise NotEnoughData(f"The filter left no image of a class; train on more images than {len(lines)}.")
    import_dataset(images, staging, options=options, workers=workers)
    for file in sorted(staging.iterdir(), key=lambda one: one.name == "dataset.yaml"):  # `dataset.yaml` comes last
        file.replace(out / file.name)
    staging.rmdir()
