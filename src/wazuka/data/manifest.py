"""The dataset folder: `dataset.yaml` (what it is) and `manifest.parquet` (one row per image or slice).

Source files stay where they are; the manifest points to them. Nothing here opens an image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from wazuka.core.config import build, read_yaml
from wazuka.core.errors import DataError
from wazuka.core.hashing import hash_strings, make_key
from wazuka.core.records import read_table, write_table, write_text

SCHEMA = 1
Task = Literal["classification", "segmentation", "unlabeled"]
Intensity = Literal["rgb8", "gray8", "gray16", "hounsfield", "mr", "ultrasound"]

COLUMNS: dict[str, str] = {
    "id": "string",  # unique, stable under row order
    "path": "string",  # relative to the card's root
    "frame": "Int64",  # slice or frame in the file; <NA> where the file is one image
    "label": "string",
    "mask": "string",  # relative to the card's root; same `frame` as the image where the mask file has frames
    "patient": "string",
    "domain": "string",  # site, scanner or other source of shift; <NA> where unknown
    "prompt": "string",
    "status": "string",  # ok | quarantined
    "reason": "string",  # why quarantined; <NA> otherwise
    "height": "Int64",
    "width": "Int64",
    "spacing_mm": "object",  # list [row, column, slice] of float, or None
    "sha256": "string",  # of the decoded pixels (core.hashing.hash_pixels)
}
"""The fixed columns and their pandas dtypes; attribute columns follow, each with its source in the card."""


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What `dataset.yaml` says."""

    name: str
    task: Task
    classes: tuple[str, ...] = ()
    """Class names in the order of the probability columns; sorted by name unless the source has an order."""
    positive: str | None = None
    """The class that sensitivity is about (two classes only)."""
    structures: dict[int, str] = field(default_factory=dict)
    """Mask value -> structure; 0 is background and not listed."""
    mask_values: dict[int, int] = field(default_factory=dict)
    """Value in the mask file -> value of `structures`, where these differ ({255: 1})."""
    modality: str | None = None
    intensity: Intensity = "rgb8"
    root: str
    """Absolute folder that the manifest's paths start from."""
    license: str | None = None
    source: str = ""
    fingerprint: str = ""
    """Hash of the manifest and of what decides how it is read; made by `save`."""
    schema: int = SCHEMA
    patient_source: str = "image"
    """Where `patient` comes from: table, dicom, file name, study, volume, image (each image its own patient)."""
    attributes: dict[str, str] = field(default_factory=dict)
    """Attribute column -> source: table, DICOM tag, sidecar, file name, computed."""
    simulated: bool = False
    """Simulated data: every page made from it says so."""
    allow_outside_root: bool = False
    """Whether paths may leave `root`; only by the user's own word."""
    imported: dict[str, Any] = field(default_factory=dict)
    """What the import did: kind, options, counts (images, quarantined, orphans with their names), notes, version."""


@dataclass(frozen=True)
class Dataset:
    """A loaded dataset folder."""

    folder: Path
    card: DatasetCard
    manifest: pd.DataFrame
    """All rows, sorted by `id`; dtypes as in `COLUMNS`."""

    @property
    def usable(self) -> pd.DataFrame:
        """Rows that are not quarantined, sorted by id, index 0..n-1: the row numbers of every pixel and feature cache."""
        return self.manifest[self.manifest["status"] == "ok"].reset_index(drop=True)

    @property
    def inspection(self) -> pd.DataFrame:
        """What the import measured in each file (`inspection.parquet`), one row per manifest row, same order."""
        table = read_table(self.folder / "inspection.parquet")
        if "id" not in table or not self.manifest["id"].isin(table["id"]).all():
            raise DataError(
                f"{self.folder}/inspection.parquet lacks rows of manifest.parquet, so they are not of one import;"
                " import the data again."
            )
        return table

    def path_of(self, relative: str) -> Path:
        """Absolute path of a manifest path.

        Raises:
            DataError: If it leaves the root and the card does not allow that.
        """
        root = Path(self.card.root)
        path = (root / relative).resolve()
        if not self.card.allow_outside_root and not path.is_relative_to(root.resolve()):
            raise DataError(
                f"Path {relative} leaves the dataset's root {root}; set `allow_outside_root: true` in dataset.yaml if you mean it."
            )
        return path


def load(folder: Path) -> Dataset:
    """Load a dataset folder.

    Raises:
        DataError: If the folder is no dataset or its parts do not fit together.
        ConfigError: If `dataset.yaml` has an unknown key.
    """
    folder = Path(folder)
    if not (folder / "dataset.yaml").is_file():
        raise DataError(f"{folder} has no dataset.yaml; give a folder made by `wazuka import`.")
    values = read_yaml(folder / "dataset.yaml")
    if values.get("schema") != SCHEMA:
        raise DataError(
            f"{folder}/dataset.yaml has schema {values.get('schema')}, not {SCHEMA}; import the data again."
        )
    card = build(DatasetCard, values, where="dataset.yaml")
    manifest = read_table(folder / "manifest.parquet")
    missing = [name for name in COLUMNS if name not in manifest.columns]
    if missing:
        raise DataError(f"{folder}/manifest.parquet lacks the columns {', '.join(missing)}; import the data again.")
    unknown = [name for name in manifest.columns if name not in COLUMNS and name not in card.attributes]
    if unknown:
        raise DataError(f"{folder}/manifest.parquet has columns that dataset.yaml does not list: {', '.join(unknown)}.")
    manifest = conform(manifest)
    _check_card(card, manifest, folder)
    return Dataset(folder, card, manifest)


def _check_card(card: DatasetCard, manifest: pd.DataFrame, folder: Path) -> None:
    """Refuse a card that was changed by hand so that it no longer fits its manifest."""
    where = f"{folder}/dataset.yaml"
    strange = sorted(set(manifest["label"].dropna().unique()) - set(card.classes))
    if strange:
        raise DataError(
            f"{where}: `classes` ({', '.join(card.classes) or 'none'}) lacks the label `{strange[0]}` of the manifest; add it."
        )
    if card.positive is not None and card.positive not in card.classes:
        raise DataError(f"{where}: `positive` is `{card.positive}`; give one of the classes {', '.join(card.classes)}.")
    if not Path(card.root).is_absolute():
        raise DataError(f"{where}: `root` is `{card.root}`; give an absolute folder.")
    for name in ("notes", "orphan_masks"):
        if not isinstance(card.imported.get(name, []), list):
            raise DataError(f"{where}: `imported.{name}` is {card.imported[name]!r}; give a list.")


def conform(manifest: pd.DataFrame) -> pd.DataFrame:
    """Give a manifest the dtypes of `COLUMNS`, sort it by id and check what must hold for every manifest.

    Raises:
        DataError: If ids repeat or are missing, or a status is unknown.
    """
    manifest = manifest.copy()
    for name, dtype in COLUMNS.items():
        if name not in manifest:
            manifest[name] = pd.Series([None] * len(manifest), dtype="object")
        if dtype != "object":
            try:
                manifest[name] = manifest[name].astype(dtype)  # type: ignore[call-overload]
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"Column `{name}` of the manifest is not of type {dtype} ({error}); import the data again."
                ) from error
    extra = [name for name in manifest.columns if name not in COLUMNS]
    manifest = manifest[[*COLUMNS, *extra]]
    if manifest["id"].isna().any():
        raise DataError(f"{int(manifest['id'].isna().sum())} manifest rows have no id; every row needs one.")
    repeated = manifest["id"][manifest["id"].duplicated()]
    if len(repeated):
        raise DataError(
            f"Id `{repeated.iloc[0]}` stands in {int((manifest['id'] == repeated.iloc[0]).sum())} manifest rows; ids must be unique."
        )
    bad = manifest["status"][~manifest["status"].isin(["ok", "quarantined"])]
    if len(bad):
        raise DataError(f"Status `{bad.iloc[0]}` is unknown; use `ok` or `quarantined`.")
    return manifest.sort_values("id", kind="stable").reset_index(drop=True)


def fingerprint(card: DatasetCard, manifest: pd.DataFrame) -> str:
    """Hash what decides every number made from this dataset: pixels, labels, masks, patients, domains, classes."""
    columns = ["id", "frame", "label", "mask", "patient", "domain", "prompt", "status", "sha256"]
    text = manifest[columns].astype("string").fillna("\x00")
    rows = text["id"].str.cat(text[columns[1:]], sep="\x1f")
    settings = [card.task, card.classes, card.positive, card.structures, card.mask_values, card.intensity]
    return make_key(settings, hash_strings(rows.tolist()))


def save(folder: Path, card: DatasetCard, manifest: pd.DataFrame, inspection: pd.DataFrame | None = None) -> Dataset:
    """Write a dataset folder; `dataset.yaml` comes last, so a folder that has it is whole.

    Args:
        folder: Made if absent; must not hold a dataset already.
        card: Its `fingerprint` is filled in here.
        manifest: Any column order; `conform` is applied.
        inspection: Measurements, one row per manifest row with the column `id`.

    Raises:
        DataError: If the folder holds a dataset or the manifest is wrong.
    """
    folder = Path(folder)
    if (folder / "dataset.yaml").exists():
        raise DataError(f"{folder} already holds a dataset; choose another --out.")
    manifest = conform(manifest)
    card = dataclasses.replace(card, fingerprint=fingerprint(card, manifest))
    if inspection is not None:
        ordered = inspection.set_index("id").loc[manifest["id"].tolist()].reset_index()
        write_table(folder / "inspection.parquet", ordered)
    write_table(folder / "manifest.parquet", manifest)
    plain = {name: _listed(value) for name, value in dataclasses.asdict(card).items()}
    write_text(folder / "dataset.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100))
    return Dataset(folder, card, manifest)


def _listed(value: Any) -> Any:
    """YAML's safe form has lists, no tuples."""
    if isinstance(value, tuple | list):
        return [_listed(one) for one in value]
    if isinstance(value, dict):
        return {key: _listed(one) for key, one in value.items()}
    return value
