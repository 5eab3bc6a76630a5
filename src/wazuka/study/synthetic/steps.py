"""The steps of a study that make synthetic images: train a generator, make and filter its images, audit them.

What each may see is cut in `study/rows.py`: a generator sees the rows of one budget (or its part of their patients), and
trains on those that are not set aside for its monitors. Its images are compared with these same rows; other training
images, without their labels, are the null of the memorization check. Test images are seen by nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from wazuka import synthesize
from wazuka.audit.synthetic import Memorized, memorized
from wazuka.audit.synthetic import memorization as check
from wazuka.core.records import read_json, write_table
from wazuka.data.pixels import PixelCache
from wazuka.nn import generators
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import compute_features
from wazuka.nn.generators import Generator
from wazuka.nn.rows import ArrayImages
from wazuka.study.context import Context, Settings, encoder_of, features_of, pixels_of
from wazuka.study.data import StudyData
from wazuka.study.plan import Step, step_folder
from wazuka.study.rows import GeneratorRows, generator_rows, join_seen, pretraining_rows, rows_hash, seen_table
from wazuka.study.strategies import Strategy
from wazuka.study.synthetic import images
from wazuka.training.roles import Generated, Privacy, Runtime, SynthesisTask


def rows_of(context: Context, step: Step) -> GeneratorRows:
    """The rows that a synthesize step may see."""
    args = step.args
    chosen = context.study.strategy(args["strategy"]).synthesis
    assert chosen is not None
    return generator_rows(
        context.data,
        context.splits[args["repeat"], args["train_domain"]],
        budget=args["budget"],
        train_domain=args["train_domain"],
        split_budget=chosen.split_budget,
        needs=synthesize.METHODS[chosen.method.name].needs,
    )


def do_synthesize(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    """Train one generator on the rows of one budget."""
    folder = step_folder(context.run, step)
    assert folder is not None
    strategy = context.study.strategy(step.args["strategy"])
    found = rows_of(context, step)
    result = train_generator(
        context.data,
        strategy,
        found,
        pixels=pixels_of(context, step.args["pixels"], settings),
        encoder=encoder_of(context, step.args["encoder"]),
        name=step.key,
        seed=step.args["seed"],
        runtime=Runtime(device=settings.device, threads=settings.threads, folder=folder),
    )
    result.generator.save(folder)
    assert strategy.synthesis is not None
    method, dp = strategy.synthesis.method, strategy.synthesis.dp
    labeled = synthesize.METHODS[method.name].needs != "none"
    write_table(folder / "seen.parquet", join_seen(seen_table(found.rows, labeled=labeled)))
    return {
        "config": {"method": method.name, "config": method.config, "dp": dp},
        "images": int((~found.is_val).sum()),
        "set_aside": int(found.is_val.sum()),
        "rows_hash": rows_hash(found.rows, labeled=labeled),
        "seed": step.args["seed"],
        "collapsed": result.collapsed,
        "notes": result.notes,
        "curves": result.curves,
        "pictures": result.pictures,
    }


def train_generator(
    data: StudyData,
    strategy: Strategy,
    found: GeneratorRows,
    *,
    pixels: PixelCache,
    encoder: Encoder,
    name: str,
    seed: int,
    runtime: Runtime,
) -> Generated:
    """Hand a strategy's synthesizer its rows, with labels only where it needs them, and train it."""
    chosen = strategy.synthesis
    assert chosen is not None
    method = synthesize.METHODS[chosen.method.name]
    task = SynthesisTask(
        name=name,
        images=pixels.images(found.rows["row"].to_numpy(np.int64)),
        labels=None if method.needs == "none" else data.label_codes(found.rows),
        patients=pd.factorize(found.rows["patient"], sort=True)[0].astype(np.int64),
        is_val=found.is_val,
        masks=None,
        classes=data.classes,
        encoder=encoder,
        seed=seed,
        intensity=pixels.intensity,
        window=strategy.image.window,
        privacy=None if chosen.dp is None else Privacy(epsilon=chosen.dp.epsilon, delta=chosen.dp.delta),
    )
    return method.fit(task, config=chosen.method.config, runtime=runtime)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Real images that synthetic ones are compared with for memorization.

    Attributes:
        rows: Rows of the study's table: those that the generator was trained on, then others, whose labels are not read.
        trained: How many of the first were trained on.
        pixels, features, encoder: The main dataset's pixel cache, its features (all usable rows), and of what network.
        window: Of Hounsfield units.
        device: Where features are computed.
    """

    rows: pd.DataFrame
    trained: int
    pixels: PixelCache
    features: np.ndarray
    encoder: Encoder
    window: str | None
    device: str

    @cached_property
    def real(self) -> dict[str, np.ndarray]:
        """Small pixels and features of the rows."""
        numbers = self.rows["row"].to_numpy(np.int64)
        everything = self.pixels.images(numbers).batch(np.arange(len(numbers)))
        return {"pixels": images.small(everything), "features": np.asarray(self.features[numbers])}

    def judge(self, pixels: np.ndarray) -> Memorized:
        """Compare synthetic images with those that their generator was trained on."""
        own = compute_features(
            ArrayImages(pixels), self.encoder, intensity=self.pixels.intensity, window=self.window, device=self.device
        )
        return memorized(
            {"pixels": images.small(pixels), "features": own},
            self.real,
            training=np.arange(len(self.rows)) < self.trained,
            patients=pd.factorize(self.rows["patient"])[0].astype(np.int64),
        )


def reference(seen: GeneratorRows, every: pd.DataFrame, **inputs: Any) -> Reference:
    """Make the reference of a generator: its training rows, then the images of other patients among `every`."""
    trained = seen.rows[~seen.is_val]
    others = every[~every["patient"].isin(set(trained["patient"]))]
    return Reference(rows=pd.concat([trained, others], ignore_index=True), trained=len(trained), **inputs)


@dataclass(frozen=True)
class Filtered:
    """Images of one part (training or testing) without memorized ones.

    Attributes:
        pixels: (n, height, width, channels).
        rows: Row per image: `class, seed` and what the search for copies found.
        first: What it found among all images made first, before any was replaced.
        usable: Whether enough images were left; else the unfiltered ones are here.
        private: Whether none was left out because the generator is differentially private.
    """

    pixels: np.ndarray
    rows: pd.DataFrame
    first: Memorized
    usable: bool
    private: bool = False


def make_filtered(
    generator: Generator,
    counts: np.ndarray,
    against: Reference,
    *,
    testing: bool,
    device: str,
    truncation: float = 1.0,
    private: bool = False,
) -> Filtered:
    """Make images of each class; memorized ones are replaced by spares from the next seeds, as far as these go.

    With `private` (a generator trained under differential privacy) all are kept: to leave some out by their likeness to
    real images would tell of these outside the budget. What was found then stands in the record only.
    """
    made = images.make_images(generator, counts, testing=testing, device=device, truncation=truncation)
    first = against.judge(made.pixels)
    pixels, labels, seeds, marks = made.pixels, made.labels, made.seeds, first.table
    if private:
        kept = pd.concat([pd.DataFrame({"class": labels, "seed": seeds}), marks.reset_index(drop=True)], axis=1)
        return Filtered(pixels, kept, first, usable=True, private=True)
    flagged = np.bincount(labels[marks["flag"].to_numpy(bool)], minlength=len(counts))
    spares = np.minimum(np.ceil(counts * images.SPARES), 2 * flagged).astype(np.int64)
    if spares.any():
        more = images.make_images(
            generator, spares, start=counts, testing=testing, device=device, truncation=truncation
        )
        pixels = np.concatenate([pixels, more.pixels])
        labels, seeds = np.concatenate([labels, more.labels]), np.concatenate([seeds, more.seeds])
        marks = pd.concat([marks, against.judge(more.pixels).table], ignore_index=True)
    places, usable = images.choose(labels, marks["flag"].to_numpy(bool), counts)
    rows = pd.DataFrame({"class": labels[places], "seed": seeds[places]})
    rows = pd.concat([rows, marks.iloc[places].reset_index(drop=True)], axis=1)
    return Filtered(pixels[places], rows, first, usable)


def do_synthetic(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    """Make the images of one generator, for training and for testing, without those that it memorized."""
    folder = step_folder(context.run, step)
    assert folder is not None
    args, data = step.args, context.data
    source = context.plan.steps[args["generator"]]
    source_folder = step_folder(context.run, source)
    assert source_folder is not None
    generator = generators.load(source_folder)
    chosen = context.study.strategy(args["strategy"]).synthesis
    assert chosen is not None
    group = context.splits[args["repeat"], args["train_domain"]]
    against = reference(
        rows_of(context, source),
        pretraining_rows(data, group, train_domain=args["train_domain"]),
        pixels=pixels_of(context, args["pixels"], settings),
        features=features_of(context, args["features"], settings),
        encoder=encoder_of(context, args["encoder"]),
        window=context.study.strategy(args["strategy"]).image.window,
        device=settings.device,
    )
    parts = {
        name: make_filtered(
            generator,
            np.array(args[name], np.int64),
            against,
            testing=name == "test",
            device=settings.device,
            private=chosen.dp is not None,
        )
        for name in ("train", "test")
    }
    tables = [
        one.rows.assign(part=name, label=[data.classes[code] for code in one.rows["class"]])
        for name, one in parts.items()
    ]
    images.save_images(
        folder, np.concatenate([one.pixels for one in parts.values()]), pd.concat(tables, ignore_index=True)
    )
    return {
        "generator": source.key,
        "images": {name: len(one.pixels) for name, one in parts.items()},
        "collapsed": read_json(source_folder / "record.json")["collapsed"],
        "memorization": memorization_facts(list(parts.values())),
    }


def memorization_facts(parts: list[Filtered]) -> dict[str, Any]:
    """What the record says: the outcome on all images made first (before any was replaced), by the rule of WZ201."""
    found = parts[0].first
    flags = np.concatenate([one.first.table["flag"].to_numpy(bool) for one in parts])
    usable, private = all(one.usable for one in parts), any(one.private for one in parts)
    values: dict[str, Any] = {
        "flagged": int(flags.sum()),
        "images": len(flags),
        "filtered": usable and not private,
        "limits_from": found.source,
        "not_used": dict(found.unusable),
    }
    if private:
        values["not_filtered_because"] = (
            "differential privacy: a choice by likeness to real images is outside the budget"
        )
    if not len(flags):
        return values | {"outcome": "not applicable"}
    outcome, low = check.judge(int(flags.sum()), len(flags), found)
    return values | {"outcome": outcome if usable else "issue", "share": float(flags.mean()), "low": low}
