"""A trial beside its generator: tested on synthetic images as on real ones, and what its record says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.core.records import is_finished, read_json, read_table
from wazuka.evaluate import predictions
from wazuka.study.context import Context, Settings, features_of, pixels_of
from wazuka.study.plan import step_folder
from wazuka.study.strategies import Strategy
from wazuka.study.synthetic import images as synthetic_images


def generator_folder(context: Context, given: dict[str, Any] | None) -> Path | None:
    """Folder of the generator whose images a trial trained on; None where it trained on real ones only."""
    if given is None:
        return None
    step = context.plan.steps[given["step"]]
    return step_folder(context.run, context.plan.steps[step.args["generator"]])


def synthesis_facts(context: Context, strategy: Strategy, args: dict[str, Any], missing: str | None) -> dict[str, Any]:
    """What the record says of synthetic images: those trained on (with their memorization check) and those tested on."""
    facts: dict[str, Any] = {"synthetic_missing": missing} if missing else {}
    if args["synthetic_test"] is not None:
        facts["synthetic_test"] = args["synthetic_test"]["step"]
    chosen = strategy.synthesis
    if chosen is None:
        return facts
    facts |= {"train_on": chosen.train_on, "ratio": chosen.ratio, "classes": chosen.classes}
    facts["split_budget"] = chosen.split_budget
    if args["synthetic"] is not None:
        folder = step_folder(context.run, context.plan.steps[args["synthetic"]["step"]])
        assert folder is not None
        record = read_json(folder / "record.json")
        facts["memorization"] = record["memorization"]["outcome"]
        facts["collapsed"] = record["collapsed"]
        facts["synthetic_images"] = record["images"]["train"]
    return facts


def synthetic_predictions(
    context: Context, predictor: Any, args: dict[str, Any], settings: Settings, *, threshold: float
) -> tuple[pd.DataFrame | None, str | None]:
    """Predict the synthetic test images of a trial: (rows of `predictions.parquet`, why there are none).

    Each image stands for a patient of its own. A generator that failed costs a trial that only would be tested on its
    images nothing else.
    """
    given = args["synthetic_test"]
    if given is None:
        return None, None
    step = context.plan.steps[given["step"]]
    folder = step_folder(context.run, step)
    if folder is None or not is_finished(folder):
        return None, f"{step.name} failed"
    cache = pixels_of(context, given["step"], settings)
    found = read_table(folder / synthetic_images.ROWS, ["part", "label", "seed"])
    places = np.flatnonzero((found["part"] == "test").to_numpy(bool))
    if args["features"]:
        matrix = features_of(context, given["features"], settings)
        probabilities = predictor.predict_features(np.asarray(matrix[places]))
    else:
        probabilities = predictor.predict_images(cache.images(places), device=settings.device)
    chosen = found.iloc[places]
    names = [f"synthetic/{label}/{seed}" for label, seed in zip(chosen["label"], chosen["seed"], strict=True)]
    frame = pd.DataFrame({"id": names, "patient": names, "label": chosen["label"].to_numpy()})
    data = context.data
    table = predictions.make_predictions(
        frame.assign(domain=None, test_domain="synthetic", parent=None),
        probabilities,
        classes=data.classes,
        positive=None if data.positive is None else data.classes[data.positive],
        threshold=threshold,
    )
    return table, None
