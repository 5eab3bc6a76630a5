"""`final/`: the adopted strategy, else the baseline, refitted once on every label; what `wazuka predict RUN` uses.

Made after all trials, so training it on the former test patients touches no score.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka import adapt, pretrain
from wazuka.core.hashing import derive_seed, make_key
from wazuka.core.records import clear_unfinished, finish, is_finished, read_json, write_table
from wazuka.data import budgets, splits
from wazuka.nn import features, predictors
from wazuka.nn.encoders import Encoder
from wazuka.nn.measure import measure
from wazuka.study import steps
from wazuka.study.data import rows_hash, seen_table
from wazuka.training.roles import AdaptTask, Runtime


def make_final(run: Path, *, strategy: str, reason: str, settings: steps.Settings) -> dict[str, Any]:
    """Refit one strategy on all labels of the main dataset (training and former test patients).

    Args:
        run: A run folder whose trials are done.
        strategy: Its name.
        reason: Why this one, in a sentence; stands in the record.
        settings: Cache, device, threads.

    Returns:
        The record of `final/`; an existing one for the same inputs is kept.
    """
    context = steps.open_run(run)
    chosen = context.study.strategy(strategy)
    method = adapt.METHODS[chosen.adapt.name]
    data = context.data
    rows = data.table[(data.table["source"] == 0) & data.table["label"].notna()].reset_index(drop=True)
    encoder = _encoder_of(context, strategy)
    seed = derive_seed(context.study.seed, "final")
    key = make_key(
        "final", chosen, method.code_version, encoder.weights_hash, rows_hash(rows), seed, reason, data.fingerprint
    )
    folder = run / "final"
    if is_finished(folder):
        if read_json(folder / "record.json")["key"] == key:
            return read_json(folder / "record.json")
        (folder / "record.json").unlink()  # the verdict has changed since: this one is made again
    began = time.monotonic()
    clear_unfinished(folder)
    runtime = Runtime(device=settings.device, threads=settings.threads, folder=folder)
    cache = steps.build_pixels(data.main, chosen.image, cache=Path(settings.cache), workers=settings.workers)
    if chosen.pretrain is not None:
        encoder, _ = pretrain.METHODS[chosen.pretrain.name].fit(
            cache.images(np.arange(len(data.main.usable))),
            encoder=encoder,
            config=chosen.pretrain.config,
            seed=seed,
            runtime=runtime,
        )
    is_val, inner_split = _inner_split(context, rows, seed)
    numbers = rows["row"].to_numpy(np.int64)
    found = None
    if method.input == "features":
        path = features.cached_features(cache, encoder, cache=Path(settings.cache), device=settings.device)
        found = np.asarray(np.load(path, mmap_mode="r")[numbers])
    labeled = steps.labeled_images(data, rows, is_val, cache.images(numbers))
    task = AdaptTask(
        name=key,
        labeled=labeled,
        classes=data.classes,
        positive=data.positive,
        encoder=encoder,
        inner_split=inner_split,
        seed=seed,
        unlabeled=cache.images(_unlabeled(data)) if method.semi_supervised else None,
        features=found,
        intensity=data.main.card.intensity,
        window=chosen.image.window,
    )
    (fitted,) = method([task], config=chosen.adapt.config, runtime=runtime)
    fitted.predictor.save(folder, encoder_folder=None)  # self-contained: the folder can be moved and mailed
    predictors.describe(folder, steps.predictor_facts(data, chosen) | {"threshold": fitted.threshold})
    write_table(folder / "seen.parquet", seen_table(rows, labeled=True))
    speed = measure(predictors.load(folder), labeled.images.take(np.arange(min(32, len(rows)))), device=settings.device)
    record = {
        "schema": 1,
        "step": "final",
        "key": key,
        "strategy": strategy,
        "reason": reason,
        "labels": len(rows),
        "config": chosen,
        "inner_split": inner_split,
        "notes": fitted.notes,
        "threshold": fitted.threshold,
        "rows_hash": rows_hash(rows),
        "fingerprint": data.main.card.fingerprint,
        "salt": data.main.card.imported.get("salt"),
        "backbone": {"name": encoder.name, "license": encoder.license, "commercial_use": encoder.commercial_use},
        **dataclasses.asdict(speed),
        "seed": seed,
        "versions": steps.versions(),
        "device": settings.device,
        "threads": settings.threads,
        "seconds": round(time.monotonic() - began, 3),
    }
    finish(folder, record)
    return read_json(folder / "record.json")


def _encoder_of(context: steps.Context, strategy: str) -> Encoder:
    """The strategy's backbone before any pretraining, as its trials had it."""
    trial = next(one for one in context.plan.trials if one.args["strategy"] == strategy)
    first = context.plan.steps[trial.args["encoder"]]
    return steps._encoder(context, first.args.get("encoder", first.id))


def _unlabeled(data: Any) -> np.ndarray:
    table = data.table
    return table.loc[(table["source"] == 0) & table["label"].isna(), "row"].to_numpy(np.int64)


def _inner_split(context: steps.Context, rows: pd.DataFrame, seed: int) -> tuple[np.ndarray, bool]:
    """A patient-wise inner split of all labels, by the rule that budgets follow.

    All rows but the inner validation part of one ordinary draw; no row is kept as a test row.
    """
    table = splits.make_splits(
        rows.assign(is_test=False),
        test=splits.Test(kind="dataset"),
        repeats=1,
        redraw=False,
        seed=seed,
        task=context.data.task,
    )
    selection = budgets.select(table, budgets.parse("100%"), labels=rows.set_index("id")["label"].loc[table["id"]])
    held = pd.Series(np.asarray(selection.is_val, bool), index=list(selection.ids))
    return held.loc[rows["id"]].to_numpy(bool), bool(selection.inner_split)
