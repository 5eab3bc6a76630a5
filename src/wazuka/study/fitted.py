"""A fitted predictor in its folder: saved with all that `predict` needs, and read back."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from wazuka.core.records import read_json, write_json
from wazuka.data.manifest import load
from wazuka.data.transform import ImageTransform, TrainedOn
from wazuka.nn import predictors
from wazuka.study.context import Context
from wazuka.study.data import StudyData
from wazuka.study.plan import step_folder
from wazuka.study.strategies import Strategy
from wazuka.training.roles import Fitted


def save_fitted(context: Context, fitted: Fitted, folder: Path, *, strategy: Strategy, encoder: str) -> None:
    """Save one fitted predictor with all that `predict` needs, the backbone by reference into the run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder_folder = step_folder(context.run, context.plan.steps[encoder])
    assert encoder_folder is not None
    fitted.predictor.save(folder, encoder_folder=Path(os.path.relpath(encoder_folder, folder)))
    extra = predictor_facts(context.data, strategy) | {"threshold": fitted.threshold}
    predictors.describe(folder, extra)
    write_json(folder / "fitted.json", {"threshold": fitted.threshold, "notes": fitted.notes, "curves": fitted.curves})


def point_to_encoder(context: Context, folder: Path, encoder: str) -> None:
    """Mend a predictor's relative path to its encoder after its folder was copied within the run."""
    if "encoder_folder" in read_json(folder / predictors.FILE):
        target = step_folder(context.run, context.plan.steps[encoder])
        assert target is not None
        predictors.describe(folder, {"encoder_folder": Path(os.path.relpath(target, folder)).as_posix()})


def predictor_facts(data: StudyData, strategy: Strategy) -> dict[str, Any]:
    """What a predictor must know besides its weights: how images become its input, classes, provenance."""
    card = data.main.card
    options = card.imported.get("options", {})
    patches = {name: options[name] for name in ("patch", "stride") if name in options}
    return {
        "positive": None if data.positive is None else data.classes[data.positive],
        "image": strategy.image,
        "intensity": card.intensity,
        "trained_on": _trained_on(str(data.main.folder), card.fingerprint, strategy.image),
        "patches": patches or None,
        "provenance": {"dataset": card.name, "fingerprint": card.fingerprint, "strategy": strategy.name},
        "simulated": card.simulated,
    }


@lru_cache(maxsize=16)
def _trained_on(folder: str, fingerprint: str, image: ImageTransform) -> TrainedOn:
    """Sizes and spacings of a dataset's images (patches: of the patches), once per process."""
    del fingerprint  # part of the key: a dataset folder made anew is another one
    rows = load(Path(folder)).usable
    if "patch_px" in rows:
        side = rows["patch_px"].astype("Int64")
        rows = rows.assign(height=side.fillna(rows["height"]), width=side.fillna(rows["width"]))
    return image.trained_on(rows)


def load_fitted(folder: Path) -> dict[str, Any]:
    """Read what `save_fitted` kept besides the predictor."""
    return json.loads((folder / "fitted.json").read_text(encoding="utf-8"))
