"""One trial: fit (or read from the batched solve), predict the test rows, score them, keep what the report shows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka import adapt
from wazuka.core.hashing import derive_seed
from wazuka.core.records import read_table, write_table
from wazuka.data.pixels import to_picture
from wazuka.data.views import Images
from wazuka.evaluate import intervals, predictions
from wazuka.nn import predictors
from wazuka.nn.measure import measure, peak_of_process
from wazuka.study.context import Context, Settings, encoder_seen, features_of, pixels_of
from wazuka.study.fitted import load_fitted, point_to_encoder, save_fitted
from wazuka.study.plan import Step, step_folder
from wazuka.study.rows import join_seen, rows_hash, seen_table
from wazuka.study.synthetic.trials import generator_folder, synthesis_facts, synthetic_predictions
from wazuka.study.tasks import adapt_task, rows_of_task
from wazuka.training.roles import Runtime

WORST = 8
"""Worst errors whose pictures are kept with a trial."""
THUMBNAIL = 128
"""Side in pixels of a kept picture."""


def run_trial(context: Context, step: Step, settings: Settings, folder: Path) -> dict[str, Any]:
    """Run one trial into its folder and return its record's own entries."""
    args, data = step.args, context.data
    strategy = context.study.strategy(args["strategy"])
    rows = rows_of_task(context, args)
    method = adapt.METHODS[strategy.adapt.name]
    if args["artifact"] is None:
        task = adapt_task(context, args, settings)
        runtime = Runtime(device=settings.device, threads=settings.threads, folder=folder)
        (fitted,) = method([task], config=strategy.adapt.config, runtime=runtime)
        save_fitted(context, fitted, folder, strategy=strategy, encoder=args["encoder"])
    else:
        solved = step_folder(context.run, context.plan.steps[args["artifact"]])
        assert solved is not None
        shutil.copytree(solved / "tasks" / str(args["index"]), folder, dirs_exist_ok=True)
        point_to_encoder(context, folder, args["encoder"])
    predictor = predictors.load(folder)
    kept = load_fitted(folder)
    probabilities = predict_rows(context, predictor, rows.test, args, settings)
    table = predictions.make_predictions(
        rows.test[["id", "patient", "domain", "test_domain", "label"]].assign(parent=rows.test.get("parent")),
        probabilities,
        classes=data.classes,
        positive=None if data.positive is None else data.classes[data.positive],
        threshold=kept["threshold"],
    )
    made, missing = synthetic_predictions(context, predictor, args, settings, threshold=kept["threshold"])
    both = table if made is None else pd.concat([table, made], ignore_index=True)
    write_table(folder / "predictions.parquet", both)
    seen = [seen_table(rows.labeled, labeled=True)]
    if method.semi_supervised:
        seen.append(seen_table(rows.unlabeled, labeled=False))
    maker = generator_folder(context, args["synthetic"])
    if maker is not None:
        seen.append(read_table(maker / "seen.parquet"))
    write_table(folder / "seen.parquet", join_seen(*seen, *encoder_seen(context, args["encoder"])))
    write_table(folder / "results.parquet", score(context, step, both, kept["threshold"], agreement(rows.test)))
    worst = keep_worst(context, rows.test, table, probabilities, args, settings, folder)
    speed: dict[str, Any] = {}
    gates = context.study.gates
    if (gates.max_ms is not None or gates.max_memory_gb is not None) and args["repeat"] == 0:
        before = peak_of_process()  # measuring counts it anew
        images = _some_images(context, rows.test, args, settings)
        found = measure(predictor, images, device=settings.device, with_size=False)
        speed = {"latency_ms": found.latency_ms, "memory_mb": found.memory_mb, "peak_memory_mb": before}
    return {
        **speed,
        "strategy": strategy.name,
        "budget": args["budget"],
        "labels": args["labels"],
        "repeat": args["repeat"],
        "train_domain": args["train_domain"],
        "local_labels": args["local_labels"],
        "target_domain": args["target_domain"],
        "target_split_hash": args["target_split_hash"],
        **synthesis_facts(context, strategy, args, missing),
        "transductive": "test-batchnorm" in strategy.remedies,
        "config": strategy,
        "rows_hash": rows_hash(rows.labeled),
        "unlabeled_rows_hash": rows_hash(rows.unlabeled, labeled=False) if method.semi_supervised else None,
        "split_hash": args["split_hash"],
        "seed": args["seed"],
        "threshold": kept["threshold"],
        "notes": kept["notes"],
        "curves": kept["curves"],
        "inner_split": rows.inner_split,
        "worst": worst,
        "domains_tested": sorted(rows.test["domain"].dropna().unique().tolist()),
    }


def _some_images(context: Context, rows: pd.DataFrame, args: dict[str, Any], settings: Settings) -> Images:
    """Up to 32 test images, for timing."""
    first = rows[rows["source"] == rows["source"].iloc[0]].head(32)
    cache = pixels_of(context, args["pixels"][int(first["source"].iloc[0])], settings)
    return cache.images(first["row"].to_numpy(np.int64))


def predict_rows(
    context: Context, predictor: Any, rows: pd.DataFrame, args: dict[str, Any], settings: Settings
) -> np.ndarray:
    """Class probabilities (n, classes) of test rows, which may lie in the main or the test dataset.

    Each domain is predicted on its own: a predictor with `test-batchnorm` looks at all images of one call together.
    """
    result = np.full((len(rows), len(context.data.classes)), np.nan)
    domains = rows["domain"].astype("string").fillna("")
    for key, places in rows.groupby([rows["source"], domains], sort=True).indices.items():
        source = int(key[0])  # type: ignore[index]
        here = np.zeros(len(rows), bool)
        here[places] = True
        numbers = rows.loc[here, "row"].to_numpy(np.int64)
        if args["features"]:
            result[here] = predictor.predict_features(
                np.asarray(features_of(context, args["features"][source], settings)[numbers])
            )
        else:
            cache = pixels_of(context, args["pixels"][source], settings)
            result[here] = predictor.predict_images(cache.images(numbers), device=settings.device)
    assert np.isfinite(result).all(), "a predictor gave probabilities that are no numbers"
    return result


def score(
    context: Context, step: Step, table: pd.DataFrame, threshold: float, agreed: dict[str, float] | None
) -> pd.DataFrame:
    """The trial's rows of `results.parquet`."""
    args, data = step.args, context.data
    return intervals.result_rows(
        table,
        strategy=args["strategy"],
        budget=args["budget"],
        labels=args["labels"],
        repeat=args["repeat"],
        train_domain=args["train_domain"],
        split_hash=args["split_hash"],
        trial=step.key,
        local_labels=args["local_labels"],
        classes=data.classes,
        positive=None if data.positive is None else data.classes[data.positive],
        threshold=threshold,
        agreement=agreed,
        seed=derive_seed(context.study.seed, "bootstrap", args["repeat"], args["train_domain"]),
    )


def agreement(rows: pd.DataFrame) -> dict[str, float] | None:
    """Image id -> share of the annotators who gave its label, where every test image was voted on."""
    if "agreement" not in rows or rows["agreement"].isna().any():
        return None
    return dict(zip(rows["id"], rows["agreement"], strict=True))


def keep_worst(
    context: Context,
    rows: pd.DataFrame,
    table: pd.DataFrame,
    probabilities: np.ndarray,
    args: dict[str, Any],
    settings: Settings,
    folder: Path,
) -> list[dict[str, Any]]:
    """Keep small pictures of the most confident errors: a report can then be rebuilt without the images."""
    from PIL import Image

    labels = context.data.label_codes(rows)
    chosen = table["predicted"].map({name: code for code, name in enumerate(context.data.classes)}).to_numpy()
    sure = probabilities[np.arange(len(rows)), chosen]
    wrong = np.flatnonzero(chosen != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    kept = []
    for number, position in enumerate(wrong):
        row = rows.iloc[int(position)]
        cache = pixels_of(context, args["pixels"][int(row["source"])], settings)
        picture = Image.fromarray(to_picture(cache.images(np.array([row["row"]])).batch(np.array([0]))[0], cache))
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        file = folder / "thumbnails" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        picture.save(file)
        kept.append(
            {
                "id": row["id"],
                "label": row["label"],
                "predicted": context.data.classes[int(chosen[position])],
                "probability": round(float(sure[position]), 4),
                "file": f"thumbnails/{file.name}",
            }
        )
    return kept
