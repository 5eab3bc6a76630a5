"""`final/`: the adopted strategy, else the baseline, refitted once on every label; what `wazuka predict RUN` uses.

Made after all trials, so training it on the former test patients touches no score.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka import adapt, pretrain, synthesize
from wazuka.core.hashing import derive_seed, make_key
from wazuka.core.records import clear_unfinished, finish, is_finished, read_json, write_json, write_table
from wazuka.data.pixels import PixelCache, build_pixels, pixels_key
from wazuka.nn import features, predictors
from wazuka.nn.encoders import ENCODER_FILE, Encoder, load_encoder, save_encoder
from wazuka.nn.measure import measure
from wazuka.study import steps
from wazuka.study.context import Context, Settings, encoder_of, encoder_seen, open_run
from wazuka.study.data import StudyData
from wazuka.study.fitted import predictor_facts
from wazuka.study.inner_split import inner_split as split_all
from wazuka.study.rows import half, join_seen, rows_hash, seen_table
from wazuka.study.strategies import Strategy
from wazuka.study.synthetic.final import final_images
from wazuka.study.tasks import TaskInputs, make_task
from wazuka.training.roles import PretrainTask, Runtime


def make_final(run: Path, *, strategy: str, reason: str, settings: Settings) -> dict[str, Any]:
    """Refit one strategy on all labels of the main dataset (training and former test patients).

    Args:
        run: A run folder whose trials are done.
        strategy: Its name.
        reason: Why this one, in a sentence; stands in the record.
        settings: Cache, device, threads.

    Returns:
        The record of `final/`; an existing one for the same inputs is kept.
    """
    context = open_run(run)
    chosen = context.study.strategy(strategy)
    method = adapt.METHODS[chosen.adapt.name]
    data = context.data
    rows = data.table[(data.table["source"] == 0) & data.table["label"].notna()].reset_index(drop=True)
    trial = next(one for one in context.plan.trials if one.args["strategy"] == strategy)
    backbone = _backbone_step(context, trial.args["encoder"])
    encoder = encoder_of(context, backbone)
    seed = derive_seed(context.study.seed, "final")
    key = make_key(
        "final", chosen, method.code_version, encoder.weights_hash, rows_hash(rows), seed, reason, data.fingerprint,
        None if chosen.pretrain is None else pretrain.METHODS[chosen.pretrain.name].code_version,
        None if chosen.synthesis is None else synthesize.METHODS[chosen.synthesis.method.name].code_version,
        pixels_key(data.main, chosen.image), features.CODE_VERSION,
    )  # fmt: skip
    folder = run / "final"
    if is_finished(folder):
        if read_json(folder / "record.json")["key"] == key:
            return read_json(folder / "record.json")
        (folder / "record.json").unlink()  # the verdict has changed since: this one is made again
    began = time.monotonic()
    clear_unfinished(folder)
    runtime = Runtime(device=settings.device, threads=settings.threads, folder=folder)
    cache = build_pixels(data.main, chosen.image, cache=Path(settings.cache), workers=settings.workers)
    pretraining = folder / f"checkpoint-pretrain-{key}"  # by its name kept when this is interrupted
    everything = data.table[data.table["source"] == 0].reset_index(drop=True)
    seen, pretrain_notes = [seen_table(rows, labeled=True), *encoder_seen(context, backbone)], None
    if chosen.pretrain is not None:
        encoder, pretrain_notes = _pretrain(
            data, chosen, encoder, cache, everything, seed, dataclasses.replace(runtime, folder=pretraining)
        )
        seen.append(seen_table(everything, labeled=False))
    is_val, inner_split = split_all(context.data, rows, seed)
    synthetic, synthesis_notes = None, None
    if chosen.synthesis is not None and chosen.synthesis.train_on != "real":
        making = dataclasses.replace(runtime, folder=folder / f"checkpoint-synthesize-{key}")
        synthetic, synthesis_notes = final_images(
            data, chosen, rows, is_val, pixels=cache, encoders=(encoder_of(context, backbone), encoder), seed=seed,
            runtime=making, cache=Path(settings.cache),
        )  # fmt: skip
    labels, hashed = len(rows), rows_hash(rows)
    if chosen.synthesis is not None and chosen.synthesis.split_budget:
        rows, is_val, inner_split = half(data, rows, is_val, budget="100%", of_generator=False)
    held = rows.loc[is_val, "patient"]
    others = everything[everything["label"].isna()] if method.semi_supervised else everything.head(0)
    others = others[~others["patient"].isin(held)]  # as in trials: never of patients that early stopping looks at
    matrix = None
    if method.input == "features":
        path = features.cached_features(cache, encoder, cache=Path(settings.cache), device=settings.device)
        matrix = np.load(path, mmap_mode="r")
    task = make_task(
        data,
        chosen,
        TaskInputs(pixels=cache, encoder=encoder, features=matrix),
        name=key,
        labeled=rows,
        is_val=is_val,
        inner_split=inner_split,
        unlabeled=others if method.semi_supervised else None,
        seed=seed,
        synthetic=synthetic,
    )
    adapting = folder / f"checkpoint-adapt-{key}"  # of this key: another strategy's half-done training is none of ours
    adapting.mkdir(exist_ok=True)
    runtime = dataclasses.replace(runtime, folder=adapting)
    (fitted,) = method([task], config=chosen.adapt.config, runtime=runtime)
    fitted.predictor.save(folder, encoder_folder=None)  # self-contained: the folder can be moved and mailed
    predictors.describe(folder, predictor_facts(data, chosen) | {"threshold": fitted.threshold})
    write_table(folder / "seen.parquet", join_seen(*seen, seen_table(others, labeled=False)))
    for leftover in folder.glob("checkpoint*"):  # the encoder is in the predictor's folder now
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    speed = measure(
        predictors.load(folder), task.labeled.images.take(np.arange(min(32, len(rows)))), device=settings.device
    )
    record = {
        "schema": 1,
        "step": "final",
        "key": key,
        "strategy": strategy,
        "reason": reason,
        "labels": labels,
        "config": chosen,
        "inner_split": inner_split,
        "transductive": "test-batchnorm" in chosen.remedies,
        "notes": fitted.notes,
        "pretrain_notes": pretrain_notes,
        "synthesis_notes": synthesis_notes,
        "threshold": fitted.threshold,
        "rows_hash": hashed,
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


def _backbone_step(context: Context, step_id: str) -> str:
    """Id of the step that holds the strategy's backbone before any pretraining, as its trials had it."""
    return str(context.plan.steps[step_id].args.get("encoder", step_id))


def _pretrain(
    data: StudyData,
    strategy: Strategy,
    encoder: Encoder,
    cache: PixelCache,
    rows: pd.DataFrame,
    seed: int,
    runtime: Runtime,
) -> tuple[Encoder, dict[str, Any]]:
    """Pretrain on all images of the main dataset, without labels; a finished encoder of the same key is taken."""
    assert strategy.pretrain is not None
    folder = runtime.folder
    if not (folder / ENCODER_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        task = PretrainTask(
            name=folder.name,
            images=cache.images(rows["row"].to_numpy(np.int64)),
            encoder=encoder,
            seed=seed,
            intensity=data.main.card.intensity,
            window=strategy.image.window,
        )
        result = pretrain.METHODS[strategy.pretrain.name].fit(task, config=strategy.pretrain.config, runtime=runtime)
        write_json(folder / "notes.json", result.notes)
        save_encoder(result.encoder, folder, state=result.state)  # `encoder.json` comes last
    return load_encoder(folder), read_json(folder / "notes.json")
