"""Synthetic images for `final/`: a generator trained on all labels, its images filtered as in trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka import adapt
from wazuka.core.records import read_json, write_json
from wazuka.data.pixels import PixelCache
from wazuka.nn import features, generators
from wazuka.nn.encoders import Encoder
from wazuka.nn.rows import ArrayImages
from wazuka.study.data import StudyData
from wazuka.study.rows import GeneratorRows, half
from wazuka.study.strategies import Strategy
from wazuka.study.synthetic import images as synthetic_images
from wazuka.study.synthetic.steps import make_filtered, memorization_facts, reference, train_generator
from wazuka.training.roles import Runtime, SyntheticRows


def final_images(
    data: StudyData,
    strategy: Strategy,
    rows: pd.DataFrame,
    is_val: np.ndarray,
    *,
    pixels: PixelCache,
    encoders: tuple[Encoder, Encoder],
    seed: int,
    runtime: Runtime,
    cache: Path,
) -> tuple[SyntheticRows, dict[str, Any]]:
    """Train the strategy's generator on all labels and make its training images.

    Args:
        rows, is_val: All labeled rows of the main dataset, and which of them are set aside for choices.
        pixels: The main dataset's pixel cache.
        encoders: Of the strategy before and after its pretraining; the second one's features are trained on.
        seed: Of all randomness.
        runtime: With the folder of the generator, which is kept when this is interrupted.
        cache: The cache folder.

    Returns:
        The images, and notes for the record.
    """
    chosen, folder = strategy.synthesis, runtime.folder
    assert chosen is not None
    folder.mkdir(parents=True, exist_ok=True)
    seen, held, own = rows, is_val, rows
    if chosen.split_budget:
        seen, held, _ = half(data, rows, is_val, budget="100%", of_generator=True)
        own, _, _ = half(data, rows, is_val, budget="100%", of_generator=False)
    found = GeneratorRows(rows=seen, is_val=held)
    if not (folder / "notes.json").is_file():
        made = train_generator(
            data, strategy, found, pixels=pixels, encoder=encoders[0], name=folder.name, seed=seed, runtime=runtime
        )
        made.generator.save(folder)
        write_json(folder / "notes.json", {"collapsed": made.collapsed, "notes": made.notes})  # last
    generator, notes = generators.load(folder), read_json(folder / "notes.json")
    counts = np.bincount(data.label_codes(own), minlength=len(data.classes))
    weight = synthetic_images.weight(counts, ratio=chosen.ratio, classes=chosen.classes)
    counts = synthetic_images.wanted(counts, ratio=chosen.ratio, classes=chosen.classes)
    everything = data.table[data.table["source"] == 0].reset_index(drop=True)
    path = features.cached_features(pixels, encoders[0], cache=cache, device=runtime.device)
    against = reference(
        found,
        everything,
        pixels=pixels,
        features=np.load(path, mmap_mode="r", allow_pickle=False),
        encoder=encoders[0],
        window=strategy.image.window,
        device=runtime.device,
    )
    private = chosen.dp is not None
    kept = make_filtered(generator, counts, against, testing=False, device=runtime.device, private=private)
    synthetic_images.save_images(
        folder, kept.pixels, kept.rows.assign(part="train", label=[data.classes[one] for one in kept.rows["class"]])
    )
    view = synthetic_images.open_images(folder, key=folder.name, like=pixels)
    matrix = None

    if adapt.METHODS[strategy.adapt.name].input == "features":
        matrix = features.compute_features(
            ArrayImages(kept.pixels),
            encoders[1],
            intensity=pixels.intensity,
            window=strategy.image.window,
            device=runtime.device,
        )
    synthetic = SyntheticRows(
        images=view.images(np.arange(len(kept.pixels))),
        labels=kept.rows["class"].to_numpy(np.int64),
        features=matrix,
        train_on=chosen.train_on,
        weight=weight,
    )
    return synthetic, notes | {"memorization": memorization_facts([kept]), "images": len(kept.pixels)}
