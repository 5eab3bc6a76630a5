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
from wazuka.data import decode, pixels
from wazuka.data.manifest import Dataset, load
from wazuka.data.transform import ImageTransform, TrainedOn
from wazuka.data.views import Images
from wazuka.evaluate import intervals, predictions
from wazuka.nn import predictors
from wazuka.study.steps import Settings

BATCH = 256
"""Images decoded and predicted at a time: bounds the memory for any number of files."""


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
        return TrainedOn.from_json(self.facts["trained_on"])


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


@dataclass(frozen=True)
class _New:
    """One new image: where it is and, if it cannot be used, why."""

    id: str
    path: Path
    frame: int | None
    reason: str | None = None


def predict(
    model: Model, source: Path, *, out: Path, settings: Settings, explain: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict every image under `source` and write `predictions.parquet`, `predictions.csv` and `refused.csv`.

    Args:
        model: From `open_model`.
        source: An image, a folder of images or volumes, or a dataset folder.
        out: Folder for the tables (and `explanations/`); must be new or empty.
        settings: Device and threads.
        explain: Whether to write a heat map beside each image: how much the probability of the predicted class falls
            when a part is covered.

    Returns:
        The predictions and the refused images.

    Raises:
        DataError: If there is no image, or none can be used.
    """
    _check_out(out)
    found = _images_in(Path(source))
    if not found:
        raise DataError(
            f"{source} holds no image that Wazuka can read; give an image, a folder of images or a dataset."
        )
    tables, refused = [], []
    for start in track(range(0, len(found), BATCH), "Predicting"):
        table, bad = _predict_batch(model, found[start : start + BATCH], out, settings, explain)
        tables.append(table)
        refused += bad
    refusals = pd.DataFrame([{"id": one.id, "reason": one.reason} for one in refused], columns=["id", "reason"])
    table = (
        pd.concat([one for one in tables if len(one)], ignore_index=True) if any(map(len, tables)) else pd.DataFrame()
    )
    if table.empty:
        raise DataError(f"None of the {len(found)} images under {source} can be used; the first: {refused[0].reason}.")
    write_table(out / "predictions.parquet", table)
    write_text(out / "predictions.csv", table.to_csv(index=False))
    write_text(out / "refused.csv", refusals.to_csv(index=False))
    finish(
        out,
        {
            "schema": 1,
            "step": "predict",
            "model": model.facts["provenance"],
            "images": len(table),
            "refused": len(refusals),
        },
    )
    return table, refusals


def _check_out(out: Path) -> None:
    if out.is_file():
        raise DataError(f"{out} is a file; give a folder as --out.")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)


def _images_in(source: Path) -> list[_New]:
    """All images under a path, volumes by slice; unreadable ones with their reason."""
    if (source / "dataset.yaml").is_file():
        dataset = load(source)
        rows = dataset.usable
        return [
            _New(str(name), dataset.path_of(path), None if pd.isna(frame) else int(frame))
            for name, path, frame in zip(rows["id"], rows["path"], rows["frame"], strict=True)
        ]
    if not source.exists():
        raise DataError(f"{source} does not exist; give an image, a folder of images or a dataset.")
    files = [source] if source.is_file() else sorted(one for one in source.rglob("*") if one.is_file())
    found: list[_New] = []
    for file in files:
        if file.name.startswith(".") or (source.is_dir() and not decode.is_image_name(file)):
            continue
        name = file.relative_to(source).as_posix() if source.is_dir() else file.name
        try:
            info = decode.probe(file)
        except decode.DecodeError as error:
            found.append(_New(name, file, None, str(error)))
            continue
        frames = [None] if info.frames is None else range(info.frames)
        found += [_New(name if one is None else f"{name}#{one:04d}", file, one) for one in frames]
    return found


def _predict_batch(
    model: Model, batch: list[_New], out: Path, settings: Settings, explain: bool
) -> tuple[pd.DataFrame, list[_New]]:
    """Decode, transform and predict some images; those that do not fit come back with their reason."""
    images: list[np.ndarray] = []
    spacings: list[Any] = []
    good: list[_New] = []
    refused = [one for one in batch if one.reason is not None]
    for one in batch:
        if one.reason is not None:
            continue
        try:
            info = decode.probe(one.path)
            (image,) = decode.decode(one.path, [one.frame])
        except (decode.DecodeError, OSError) as error:
            refused.append(_New(one.id, one.path, one.frame, str(error)))
            continue
        spacing = info.spacing_mm
        why = _kind_misfit(image, model.facts["intensity"]) or model.transform.misfit(
            image.shape[0], image.shape[1], spacing, trained_on=model.trained_on
        )
        if why:
            refused.append(_New(one.id, one.path, one.frame, why))
            continue
        images.append(image)
        spacings.append(spacing)
        good.append(one)
    if not good:
        return pd.DataFrame(), refused
    array = pixels.render(images, spacings, model.transform, intensity=model.facts["intensity"])
    with _as_images(array) as view:
        probabilities = model.predictor.predict_images(view, device=settings.device)
        if explain:
            _explain(model, view, good, out / "explanations", settings)
    names = [one.id for one in good]
    frame = pd.DataFrame(
        {"id": names, "patient": names, "domain": None, "test_domain": None, "label": None, "parent": None}
    )
    return _table(model, frame, probabilities), refused


def _kind_misfit(image: np.ndarray, intensity: str) -> str | None:
    """Pixels of another kind than the model's give no meaningful score."""
    kinds = {
        "rgb8": ("uint8", 3),
        "gray8": ("uint8", None),
        "ultrasound": ("uint8", None),
        "hounsfield": ("int16", None),
    }
    dtype, channels = kinds.get(intensity, (None, None))
    if dtype is not None and image.dtype != dtype:
        return f"pixels are {image.dtype}, the model needs {intensity} ({dtype})"
    if channels == 3 and image.ndim != 3:
        return "the image is gray, the model needs color"
    return None


class _as_images:  # noqa: N801  (a context manager read as a word)
    """Give an in-memory batch the form of a pixel cache, in a temporary file that is gone afterwards."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __enter__(self) -> Images:
        import tempfile

        self.folder = tempfile.TemporaryDirectory(prefix="wazuka-")
        path = Path(self.folder.name) / "images.npy"
        np.save(path, self.array)
        return Images(path, np.arange(len(self.array)))

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()


def _table(model: Model, frame: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    return predictions.make(
        frame,
        probabilities,
        classes=tuple(model.predictor.classes),
        positive=model.facts["positive"],
        threshold=model.facts["threshold"],
    )


def _explain(model: Model, view: Images, rows: list[_New], folder: Path, settings: Settings) -> None:
    from wazuka.nn.explain import explanation_picture

    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(rows):
        picture = explanation_picture(model.predictor, view.take(np.array([number])), device=settings.device)
        picture.save(folder / (one.id.replace("/", "__").replace("#", "_") + ".png"))


def evaluate_model(model: Model, dataset: Dataset, *, out: Path, settings: Settings) -> pd.DataFrame:
    """Score a finished model on a labeled dataset that it has not seen, with patient-bootstrap intervals.

    Writes `predictions.parquet`, `results.parquet`, `summary.md` and `record.json`.

    Raises:
        DataError: If the model has seen images or patients of the dataset, or their classes do not fit.
    """
    _check_out(out)
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
    misfits = [
        model.transform.misfit(int(h), int(w), None if s is None else tuple(s), trained_on=model.trained_on)
        for h, w, s in zip(rows["height"], rows["width"], rows["spacing_mm"], strict=True)
    ]
    refused = np.array([one is not None for one in misfits])
    if refused.all():
        raise DataError(f"No image of {dataset.folder} fits the model; the first: {misfits[0]}.")
    rows = rows[~refused]
    cache = pixels.build_pixels(dataset, model.transform, cache=Path(settings.cache), workers=settings.workers)
    probabilities = model.predictor.predict_images(cache.images(rows.index.to_numpy(np.int64)), device=settings.device)
    frame = rows[["id", "patient", "domain", "label"]].assign(test_domain="all", parent=rows.get("parent"))
    table = _table(model, frame.reset_index(drop=True), probabilities)
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
    write_text(
        out / "summary.md", _summary(model, dataset, scores, int(refused.sum()), [one for one in misfits if one])
    )
    record = {"schema": 1, "step": "evaluate", "images": len(table), "refused": int(refused.sum())}
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
    salt = dataset.card.imported.get("salt_id")
    if record.get("fingerprint") != dataset.card.fingerprint and (salt is None or record.get("salt_id") != salt):
        say("Patients cannot be compared with the model's (another salt or dataset): only images were.")
        return
    hashes = {hashlib.sha256(str(one).encode()).hexdigest() for one in rows["patient"].dropna().unique()}
    patients = len(hashes & set(seen["patient_hash"]))
    if patients:
        raise DataError(
            f"{patients} patients of {dataset.folder} were used to train this model; evaluate it on others."
        )


def _summary(model: Model, dataset: Dataset, scores: pd.DataFrame, refused: int, reasons: list[str]) -> str:
    """A page to read: overall scores with intervals."""
    lines = [f"# {model.facts['provenance']['strategy']} on {dataset.card.name}", ""]
    if dataset.card.simulated or model.facts.get("simulated"):
        lines += ["**Simulated data.** No figure on this page says anything about patients.", ""]
    overall = scores[(scores["class"] == "") & (scores["test_domain"] == "all")]
    lines += ["| metric | value | 95 % interval | patients | images |", "|---|---|---|---|---|"]
    for row in overall.itertuples():
        value = "undefined" if pd.isna(row.value) else f"{row.value:.3f}"
        bounds = "" if pd.isna(row.low) else f"{row.low:.3f} to {row.high:.3f}"
        lines.append(f"| {row.metric} | {value} | {bounds} | {row.n_patients} | {row.n_images} |")
    if refused:
        lines += ["", f"{refused} images were refused, the first because: {reasons[0]}."]
    return "\n".join(lines) + "\n"
