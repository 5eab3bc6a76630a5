"""`wazuka predict`: a finished model on new images; `wazuka evaluate`: a finished model on another site's labels.

New images take the very same path as the training images did (decode, transform, normalize). An image whose size or
spacing does not fit the model's transform is refused with its reason and listed; it is never scored anyway.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.core.errors import ArtifactError, DataError
from wazuka.core.hashing import derive_seed
from wazuka.core.progress import say, track
from wazuka.core.records import finish, read_json, read_table, write_table, write_text
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.manifest import Dataset, load
from wazuka.data.pixels import PixelCache, build_pixels
from wazuka.data.transform import ImageTransform, TrainedOn
from wazuka.data.views import Images
from wazuka.evaluate import intervals, predictions
from wazuka.nn import predictors
from wazuka.study.context import Settings


@dataclass(frozen=True)
class Model:
    """A predictor with what it needs to know about images."""

    folder: Path
    predictor: Any
    facts: dict[str, Any]

    @property
    def transform(self) -> ImageTransform:
        """The image transform of its training."""
        return ImageTransform(**self.facts["image"])

    @property
    def trained_on(self) -> TrainedOn:
        """Range of sizes and spacings it was trained on."""
        return TrainedOn(**self.facts["trained_on"])


def open_model(path: Path) -> Model:
    """Open the model of a run (its `final/`), of one trial, or of an artifact folder.

    Raises:
        ArtifactError: If there is none; the message says what would be right.
    """
    path = Path(path)
    for folder in (path, path / "final"):
        if (folder / "predictor.json").is_file() and (folder / "record.json").is_file():
            return Model(folder, predictors.load(folder), read_json(folder / "predictor.json"))
    if (path / "plan.json").is_file():
        raise ArtifactError(
            f"Run {path} has no finished model yet (final/ is absent); finish it with the same `wazuka` command."
        )
    raise ArtifactError(f"{path} holds no model; give a run folder, a folder under its trials/, or its final/.")


def predict(
    model: Model, source: Path, *, out: Path, settings: Settings, explain: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict every image under `source` and write `predictions.parquet`, `predictions.csv` and `refused.csv`.

    Args:
        model: From `open_model`.
        source: An image, a folder of images or volumes, or a dataset folder. A model trained on patches cuts the same
            patches and adds their means per image (`predictions_parent.csv`).
        out: Folder for the tables (and `explanations/`); must be new or empty.
        settings: Cache, device and threads.
        explain: Whether to draw, per image, how much the probability of the predicted class falls when a part of the
            image is covered.

    Returns:
        The predictions and the refused images (`id, reason`).

    Raises:
        DataError: If there is no image, or none can be used.
    """
    _check_out(out, Path(source), model.folder)
    dataset = _as_dataset(model, Path(source), out / "dataset", settings)
    rows, refusals = fitting_rows(model, dataset)
    if rows.empty:
        raise DataError(
            f"None of the {len(refusals)} images of {source} fits the model; the first: {refusals['reason'].iloc[0]}."
        )
    cache = build_pixels(
        dataset, model.transform, cache=Path(settings.cache), workers=settings.workers, on_misfit="record"
    )
    rows, refusals = _without_misfits(cache, rows, refusals)
    images = cache.images(rows.index.to_numpy(np.int64))
    predictor = predictors.settled(model.predictor, images, device=settings.device)
    if predictor is not model.predictor:
        say(
            "This model takes its BatchNorm statistics from the images that it predicts: give images of one domain at a time."
        )
    table = _table(
        model, rows.assign(label=None, test_domain="all"), predictor.predict_images(images, device=settings.device)
    )
    write_table(out / "predictions.parquet", table)
    write_text(out / "predictions.csv", table.to_csv(index=False))
    write_text(out / "refused.csv", refusals.to_csv(index=False))
    if table["parent"].notna().any():
        write_text(out / "predictions_parent.csv", _means(table, "parent").to_csv(index=False))
    if explain:
        _explain(predictor, images, table, out / "explanations", settings)
    record = {"schema": 1, "step": "predict", "images": len(table), "refused": len(refusals)}
    record |= {"transductive": predictor is not model.predictor}
    finish(out, record | {"model": model.facts["provenance"]})
    return table, refusals


def _check_out(out: Path, *untouched: Path) -> None:
    """Refuse a folder with something in it, and one inside what is never written to: images, dataset, model."""
    if out.is_file():
        raise DataError(f"{out} is a file; give a folder as --out.")
    for one in untouched:
        if one.is_dir() and out.resolve().is_relative_to(one.resolve()):
            raise DataError(f"--out {out} lies inside {one}, which is never written to; choose a folder outside of it.")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; choose another --out.")


def _as_dataset(model: Model, source: Path, folder: Path, settings: Settings) -> Dataset:
    """New files take the path of every import: checked, measured, quarantined with a reason, cut as in training."""
    if (source / "dataset.yaml").is_file():
        return load(source)
    patches = model.facts.get("patches") or {}
    options = ImportOptions(kind="images", max_corrupt=100, patch=patches.get("patch"), stride=patches.get("stride"))
    return import_dataset(source, folder, options=options, workers=settings.workers)


def fitting_rows(model: Model, dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Usable rows that fit the model (index: row of the pixel cache), and `id, reason` of all others."""
    manifest = dataset.manifest
    bad = manifest.loc[manifest["status"] == "quarantined", ["id", "reason"]]
    rows = dataset.usable
    color, needs_color = dataset.card.intensity, model.facts["intensity"]
    if color != needs_color:
        why = f"has {color} pixels, but the model was trained on {needs_color}"
        reasons: list[str | None] = [why] * len(rows)
    else:
        side = rows["patch_px"] if "patch_px" in rows else pd.Series(pd.NA, index=rows.index)
        reasons = [
            model.transform.misfit(
                int(height if pd.isna(patch) else patch),
                int(width if pd.isna(patch) else patch),
                None if spacing is None else tuple(spacing),
                trained_on=model.trained_on,
            )
            for height, width, spacing, patch in zip(
                rows["height"], rows["width"], rows["spacing_mm"], side, strict=True
            )
        ]
    refused = np.array([one is not None for one in reasons], bool)
    misfits = pd.DataFrame({"id": rows.loc[refused, "id"], "reason": [one for one in reasons if one is not None]})
    refusals = pd.concat([bad, misfits], ignore_index=True)
    return rows[~refused], refusals


def _without_misfits(
    cache: PixelCache, rows: pd.DataFrame, refusals: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Refuse also what only the pixels showed, such as an image with NaN.

    Raises:
        DataError: If nothing is left.
    """
    bad = cache.misfits[(cache.misfits["what"] == "image") & cache.misfits["row"].isin(rows.index)]
    refusals = pd.concat([refusals, bad[["id", "reason"]]], ignore_index=True)
    rows = rows[~rows.index.isin(bad["row"])]
    if rows.empty:
        raise DataError(f"None of the {len(refusals)} images fits the model; the first: {refusals['reason'].iloc[0]}.")
    return rows, refusals


def _means(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean probabilities per image (or patient) of several rows."""
    names = [name for name in table.columns if name.startswith(predictions.PREFIX)]
    return table.groupby(column, sort=True)[names].mean().assign(rows=table.groupby(column).size()).reset_index()


def _table(model: Model, rows: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    frame = rows[["id", "patient", "domain", "test_domain", "label"]].assign(parent=rows.get("parent"))
    return predictions.make_predictions(
        frame.reset_index(drop=True),
        probabilities,
        classes=tuple(model.predictor.classes),
        positive=model.facts["positive"],
        threshold=model.facts["threshold"],
    )


def _explain(
    predictor: predictors.Predictor, images: Images, table: pd.DataFrame, folder: Path, settings: Settings
) -> None:
    from wazuka.nn.explain import explanation_picture

    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(track(table["id"], "Explaining", len(table))):
        picture = explanation_picture(predictor, images.take(np.array([number])), device=settings.device)
        picture.save(folder / (name.replace("/", "__").replace("#", "_") + ".png"))


def evaluate_model(model: Model, dataset: Dataset, *, out: Path, settings: Settings) -> pd.DataFrame:
    """Score a finished model on a labeled dataset that it has not seen, with patient-bootstrap intervals.

    Writes `predictions.parquet`, `results.parquet`, `summary.md` and `record.json`.

    Raises:
        DataError: If the model has seen images or patients of the dataset, or their classes do not fit.
    """
    _check_out(out, dataset.folder, Path(dataset.card.root), model.folder)
    check_unseen(model, dataset)
    rows = dataset.usable
    classes = tuple(model.predictor.classes)
    unknown = sorted(set(rows["label"].dropna()) - set(classes))
    if unknown:
        raise DataError(
            f"Dataset {dataset.folder} has the label `{unknown[0]}`, the model knows {', '.join(classes)}; map it."
        )
    rows = rows[rows["label"].notna()]
    if rows.empty:
        raise DataError(f"Dataset {dataset.folder} has no labels; use `wazuka predict` for images without labels.")
    fit, refusals = fitting_rows(model, dataset)
    if fit.empty:
        raise DataError(f"No image of {dataset.folder} fits the model; the first: {refusals['reason'].iloc[0]}.")
    rows = rows[rows.index.isin(fit.index)]
    cache = build_pixels(
        dataset, model.transform, cache=Path(settings.cache), workers=settings.workers, on_misfit="record"
    )
    rows, refusals = _without_misfits(cache, rows, refusals)
    images = cache.images(rows.index.to_numpy(np.int64))
    probabilities = np.empty((len(rows), len(classes)))
    domains = rows["domain"].astype("string").fillna("").reset_index(drop=True)
    for found in domains.groupby(domains).indices.values():
        places = np.asarray(found, np.int64)
        one = images.take(places)  # each domain on its own, for models with `test-batchnorm`
        probabilities[places] = model.predictor.predict_images(one, device=settings.device)
    table = _table(model, rows.assign(test_domain="all"), probabilities)
    scores = intervals.result_rows(
        table,
        strategy=model.facts["provenance"]["strategy"],
        budget="final",
        labels=0,
        repeat=0,
        train_domain="all",
        split_hash=dataset.card.fingerprint,
        trial="",
        local_labels=0,
        classes=classes,
        positive=model.facts["positive"],
        threshold=model.facts["threshold"],
        seed=derive_seed(0, "evaluate", dataset.card.fingerprint),
    )
    write_table(out / "predictions.parquet", table)
    write_table(out / "results.parquet", scores)
    write_text(out / "summary.md", _summary(model, dataset, scores, refusals))
    record = {"schema": 1, "step": "evaluate", "images": len(table), "refused": len(refusals)}
    record |= {"transductive": bool(getattr(model.predictor, "test_batchnorm", False))}
    finish(out, record | {"model": model.facts["provenance"], "dataset": dataset.card.fingerprint})
    return scores


def check_unseen(model: Model, dataset: Dataset) -> None:
    """Refuse a dataset of which the model has seen an image or a patient (patients only where their ids compare)."""
    file = model.folder / "seen.parquet"
    if not file.is_file():
        raise ArtifactError(
            f"Model {model.folder} does not say what it was trained on (seen.parquet is absent); train it again."
        )
    seen = read_table(file)
    rows = dataset.usable
    images = int(rows["sha256"].isin(set(seen["image_sha256"])).sum())
    if images:
        raise DataError(
            f"{images} images of {dataset.folder} were used to train this model; evaluate it on images it has not seen."
        )
    record = read_json(model.folder / "record.json")
    salt = dataset.card.imported.get("salt")
    if record.get("fingerprint") != dataset.card.fingerprint and (salt is None or record.get("salt") != salt):
        say("Patients cannot be compared with the model's (another salt or dataset): only images were.")
        return
    hashes = {hashlib.sha256(str(one).encode()).hexdigest() for one in rows["patient"].dropna().unique()}
    patients = len(hashes & set(seen["patient_hash"]))
    if patients:
        raise DataError(
            f"{patients} patients of {dataset.folder} were used to train this model; evaluate it on others."
        )


def _summary(model: Model, dataset: Dataset, scores: pd.DataFrame, refusals: pd.DataFrame) -> str:
    """A page to read: overall scores with intervals."""
    lines = [f"# {model.facts['provenance']['strategy']} on {dataset.card.name}", ""]
    if dataset.card.simulated or model.facts.get("simulated"):
        lines += ["**Simulated data.** No figure on this page says anything about patients.", ""]
    overall = scores[(scores["class"] == "") & (scores["test_domain"] == "all")]
    lines += ["| metric | value | 95 % interval | patients | images |", "|---|---|---|---|---|"]
    for row in overall.to_dict("records"):
        value = "undefined" if pd.isna(row["value"]) else f"{row['value']:.3f}"
        bounds = "" if pd.isna(row["low"]) else f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(f"| {row['metric']} | {value} | {bounds} | {row['n_patients']} | {row['n_images']} |")
    if len(refusals):
        first = refusals.iloc[0]
        lines += ["", f"{len(refusals)} images were refused, the first, {first['id']}: {first['reason']}."]
    return "\n".join(lines) + "\n"
