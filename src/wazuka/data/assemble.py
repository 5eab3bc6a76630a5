"""From what an importer listed and what the check of each file found to the manifest's rows, whole columns at a time.

Used by `importing.import_dataset` only. `lay_out` makes the jobs, `gather` the rows, `settle_*` the facts of the card.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.core.errors import DataError
from wazuka.data import attributes, inspect, pseudonyms
from wazuka.data.formats.base import FileInfo
from wazuka.data.importers.listing import ROW_COLUMNS, SUFFIX_PATTERN
from wazuka.data.inspect import Checked, Job

FRAMES_PER_JOB = 4096
"""Frames of one file (a MedMNIST npz) that one job reads; each job opens the file anew."""
ROWS_PER_PART = 20_000
"""Answers are kept as small tables: a dict per row would need several times the memory."""
LARGEST_MASK_VALUE = 255
"""The cache of masks is uint8."""

_RESULT = {
    "item": "int64",
    "frame": "Int64",
    "height": "Int64",
    "width": "Int64",
    "spacing_mm": "object",
    "sha256": "string",
    "reason": "string",
    "blank": "bool",
    "patch_y": "Int64",
    "patch_x": "Int64",
    "patch_px": "Int64",
    **{name: dtype for name, dtype in inspect.COLUMNS.items() if name != "id"},
}


@dataclass(kw_only=True)
class Gathered:
    """What all checks found together."""

    rows: pd.DataFrame
    """One row per future manifest row, columns `_RESULT`; `item` is the row of the listing's table."""
    infos: list[FileInfo | None]
    """Per row of the listing's table: what its file says."""
    blank_patches: int
    corrupt: np.ndarray
    """Per row of the listing's table: whether anything of it is unusable, bool."""
    notes: list[str] = field(default_factory=list)


def lay_out(listed: pd.DataFrame, root: Path, *, patch: tuple[int, int] | None) -> tuple[list[Job], list[np.ndarray]]:
    """Make one job per file (frames of one file go together) and say which rows of the listing each serves."""
    base = os.fspath(root)
    whole = listed["frame"].isna().to_numpy()
    groups: list[np.ndarray] = [np.array([one]) for one in np.flatnonzero(whole)]
    rest = np.flatnonzero(~whole)
    if len(rest):
        keys = listed.iloc[rest][["path", "mask"]].astype("string").fillna("")
        codes = pd.factorize(keys["path"].str.cat(keys["mask"], sep="\x1f"))[0]
        order = np.argsort(codes, kind="stable")
        for block in np.split(rest[order], np.flatnonzero(np.diff(codes[order])) + 1):
            groups += [block[start : start + FRAMES_PER_JOB] for start in range(0, len(block), FRAMES_PER_JOB)]
    path, mask, frame = (_objects(listed[name]) for name in ("path", "mask", "frame"))
    jobs = [
        Job(
            number=number,
            path=f"{base}/{path[rows[0]]}",
            mask=None if mask[rows[0]] is None else f"{base}/{mask[rows[0]]}",
            frames=None if frame[rows[0]] is None else tuple(int(one) for one in frame[rows]),
            root=base,
            patch=patch,
        )
        for number, rows in enumerate(groups)
    ]
    return jobs, groups


def gather(answers: Iterable[Checked], listed: pd.DataFrame, groups: list[np.ndarray]) -> Gathered:
    """Collect the answers into one table, in the listing's order whatever order they came in."""
    parts: list[pd.DataFrame] = []
    pending: list[dict[str, Any]] = []
    infos: list[FileInfo | None] = [None] * len(listed)
    blank = 0
    frames = _objects(listed["frame"])
    for answer in answers:
        served = groups[answer.number]
        blank += answer.blank_patches
        for item in served:
            infos[item] = answer.info
        if answer.error is not None:
            pending += [answer.rows[0] | {"item": item, "frame": frames[item]} for item in served]
        elif len(served) == 1:
            pending += [row | {"item": served[0]} for row in answer.rows]
        else:
            owner = {frames[item]: item for item in served}
            pending += [row | {"item": owner[row["frame"]]} for row in answer.rows]
        if len(pending) >= ROWS_PER_PART:
            parts.append(_typed(pending))
            pending = []
    parts.append(_typed(pending))
    rows = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    rows = rows.sort_values(["item", "frame", "patch_y", "patch_x"], kind="stable", ignore_index=True)
    corrupt = np.zeros(len(listed), dtype=bool)
    corrupt[rows["item"][(rows["reason"].notna() & ~rows["blank"])]] = True
    return Gathered(rows=rows, infos=infos, blank_patches=blank, corrupt=corrupt)


def _objects(values: pd.Series) -> np.ndarray:
    """A column as Python objects, None where a value is missing."""
    return np.array(values.astype("object").where(values.notna(), None), dtype=object)


def _typed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = {}
    for name, dtype in _RESULT.items():
        values = [row.get(name) for row in rows]
        if dtype == "object":
            columns[name] = pd.Series(values, dtype="object")
        elif dtype == "bool":
            columns[name] = pd.Series([bool(one) for one in values], dtype=bool)
        else:
            columns[name] = pd.Series(pd.array(values, dtype=dtype))  # type: ignore[call-overload]
    return pd.DataFrame(columns)


def quarantine_listed(listed: pd.DataFrame, gathered: Gathered) -> None:
    """Quarantine rows for which the importer gave a reason; they count as corrupt. What the check found goes first."""
    rows = gathered.rows
    given = listed["reason"].iloc[rows["item"]].reset_index(drop=True)
    rows["reason"] = rows["reason"].fillna(given)
    gathered.corrupt |= listed["reason"].notna().to_numpy(dtype=bool)


def make_ids(listed: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Id of each row: the table's own, else the path without suffix, then `#frame` and `@y-x` of a patch.

    Two files that differ only in suffix keep it.
    """
    path = listed["path"]
    stem = path.str.replace(SUFFIX_PATTERN, "", regex=True)
    files = pd.DataFrame({"path": path, "stem": stem}).drop_duplicates()
    shared = files["stem"][files["stem"].duplicated(keep=False)]
    stem = stem.where(~stem.isin(shared), path)
    ids = listed["id"].fillna(stem).iloc[rows["item"]].reset_index(drop=True)
    framed = rows["frame"].notna()
    ids = ids.where(~framed, ids + "#" + rows["frame"].astype("string").str.zfill(4))
    return ids.astype("string")


def patch_ids(ids: pd.Series, rows: pd.DataFrame) -> pd.Series:
    """Ids of patches, from those of their images."""
    corner = rows["patch_y"].astype("string").str.zfill(5) + "-" + rows["patch_x"].astype("string").str.zfill(5)
    return ids.where(rows["patch_px"].isna(), ids + "@" + corner).astype("string")


def name_volumes(listed: pd.DataFrame, rows: pd.DataFrame, infos: list[FileInfo | None]) -> pd.Series:
    """The volume of each row: as listed, else the file's path without suffix where a file was opened as frames."""
    volume = listed["volume"].iloc[rows["item"]].reset_index(drop=True)
    many = np.array([info is not None and info.frames is not None for info in infos], dtype=bool)
    path = listed["path"]
    stem = path.str.replace(SUFFIX_PATTERN, "", regex=True).where(many & ~path.str.lower().str.endswith(".npz"))
    return volume.fillna(stem.iloc[rows["item"]].reset_index(drop=True)).astype("string")


def place_in_volume(
    listed: pd.DataFrame, rows: pd.DataFrame, *, volume: pd.Series, infos: list[FileInfo | None]
) -> pd.Series:
    """Place of each slice in its volume, from 0: the frame, else as listed, else by position, instance number, path."""
    items = rows["item"].to_numpy()
    place = rows["frame"].where(volume.notna()).astype("Int64")
    if "slice" in listed:
        place = place.fillna(pd.Series(pd.to_numeric(listed["slice"]).astype("Int64").array[items]))
    position = np.array([np.nan if i is None or i.position_mm is None else i.position_mm for i in infos])
    instance = np.array([np.nan if i is None or i.instance_number is None else i.instance_number for i in infos])
    order = pd.DataFrame(
        {
            "volume": volume,
            "position": position[items],
            "instance": instance[items],
            "path": listed["path"].iloc[items].to_numpy(),
            "item": items,
        }
    )
    order = order[volume.notna() & place.isna()].drop_duplicates("item")
    order = order.sort_values(["volume", "position", "instance", "path"], kind="stable")
    rank = pd.Series(order.groupby("volume").cumcount().to_numpy(), index=order["item"].to_numpy(), dtype="Int64")
    return place.fillna(pd.Series(rank.reindex(items).array)).astype("Int64")


def file_attributes(rows: pd.DataFrame, infos: list[FileInfo | None]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Attributes that the files themselves carry (DICOM tags, sidecars), and where each comes from."""
    names = sorted({name for info in infos if info is not None and info.attributes for name in info.attributes})
    sources: dict[str, set[str]] = {name: set() for name in names}
    found = pd.DataFrame(index=rows.index)
    for name in names:
        values = [None if info is None else info.attributes.get(name) for info in infos]
        found[name] = pd.array(values, dtype="string")[rows["item"].to_numpy()]
        for info in infos:
            if info is not None and name in info.attribute_sources:
                sources[name].add(info.attribute_sources[name])
    return found, {name: "; ".join(sorted(where)) or "file" for name, where in sources.items()}


def settle_patients(
    listed: pd.DataFrame,
    gathered: Gathered,
    *,
    volume: pd.Series,
    ids: pd.Series,
    salt_file: Path | None,
    listed_source: str | None,
) -> tuple[pd.Series, str, str | None]:
    """Patient of each row by the first that knows: table, DICOM, file names, the study, the volume, the image itself.

    Args:
        listed: The listing's table.
        gathered: What the checks found; its notes get what was decided.
        volume: Volume of each row, missing where it belongs to none.
        ids: Id of each row, of its image where it is a patch.
        salt_file: See `pseudonyms.read_salt`.
        listed_source: What the importer says its patients come from.

    Returns:
        The patients, where most of them come from (the card's `patient_source`), and the salt's name where a
        pseudonym was made.
    """
    items = gathered.rows["item"].to_numpy()
    own = _objects(listed["patient"])
    kinds = np.where([one is not None for one in own], listed_source or "table", "").astype(object)
    secret = _identifiers(listed, gathered.infos, kinds)
    salt_name = None
    if secret:
        salt = pseudonyms.read_salt(salt_file)
        salt_name = pseudonyms.salt_name(salt)
        made = pseudonyms.pseudonyms(secret.values(), salt)
        for item, identifier in secret.items():
            own[item] = made[identifier]
    patient = pd.Series(pd.array(own, dtype="string")[items])
    source = pd.Series(kinds[items], dtype="object")
    weak = source.isin(["", "volume", "image", "study"])
    guess = attributes.infer_patients(listed["path"]) if weak.any() else None
    if guess is not None:
        guessed = pd.Series(guess[0].array[items])
        # a guess may join what a study or volume keeps apart, never split what it keeps together
        splits = guessed.groupby(patient.to_numpy()).transform("nunique") > 1
        filled = weak & guessed.notna() & ~splits.fillna(False)
        patient, source = patient.where(~filled, guessed), source.mask(filled, "file name")
        gathered.notes.append(f"patient of {int(filled.sum()):,} rows is read from the file name (pattern {guess[1]})")
    default = volume.fillna(ids)
    default = default.where(~default.isin(set(patient.dropna())), "file " + default)
    source = source.where(patient.notna(), np.where(volume.notna(), "volume", "image"))
    counts = source.value_counts(sort=False)
    main = str(counts.idxmax())
    for other in sorted(set(counts.index) - {main}):
        gathered.notes.append(f"patient of {int(counts[other]):,} rows comes from {other}, of most others from {main}")
    return patient.fillna(default).astype("string"), main, salt_name


def _identifiers(listed: pd.DataFrame, infos: list[FileInfo | None], kinds: np.ndarray) -> dict[int, str]:
    """Row of the listing -> identifier that must become a pseudonym; `kinds` gets where it comes from."""
    own = _objects(listed["patient"])
    raw = listed["patient_raw"].to_numpy()
    secret: dict[int, str] = {}
    for item, info in enumerate(infos):
        study = None if info is None else info.study_id
        if own[item] is not None:
            if raw[item]:
                secret[item] = own[item]
        elif info is not None and (info.patient_id or study):
            secret[item] = info.patient_id or study or ""
        if item in secret:
            kinds[item] = "study" if secret[item] == study else "dicom"
    return secret


def settle_intensity(gathered: Gathered) -> str:
    """One intensity for the dataset; images that cannot be mixed with the majority are marked as unusable.

    Gray images may be mixed with color ones (they become color), 8-bit gray with 16-bit gray (becomes 16-bit), 8-bit
    images with ultrasound (the more frequent decides).
    """
    rows = gathered.rows
    kinds = pd.Series([None if info is None else info.intensity for info in gathered.infos], dtype="string")
    kinds = kinds.iloc[rows["item"]].reset_index(drop=True)
    counts = kinds[rows["decode_error"].isna()].dropna().value_counts()
    if counts.empty:
        return "rgb8"
    found = set(counts.index)
    main = str(counts.idxmax())
    mixable = next(
        (one for one in ({"rgb8", "gray8", "ultrasound"}, {"gray8", "gray16"}) if main in one and found <= one), {main}
    )
    if mixable & found == {"rgb8", "gray8"}:
        main = "rgb8"
    elif mixable & found == {"gray8", "gray16"}:
        main = "gray16"
    if len(found) > 1:
        listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        gathered.notes.append(f"the images are mixed ({listed}); the dataset is {main}")
    odd = (kinds.notna() & ~kinds.isin(mixable)).to_numpy(dtype=bool) & rows["reason"].isna().to_numpy()
    rows.loc[odd, "reason"] = kinds[odd] + f" image among {main} images"
    gathered.corrupt[rows.loc[odd, "item"]] = True
    return main


def settle_structures(
    rows: pd.DataFrame, given: dict[int, str], *, notes: list[str]
) -> tuple[dict[int, str], dict[int, int]]:
    """Structures (value -> name) and, where the masks' own values differ, value in the file -> structure.

    A mask with a single value k above background maps k to 1; values above 255 are numbered 1, 2, ...; else values stay.

    Raises:
        DataError: If there are more structures than 255.
    """
    usable = rows.loc[rows["reason"].isna(), "mask_values"].dropna()
    found = sorted({value for values in usable for value in values} - {0})
    if len(found) > LARGEST_MASK_VALUE:
        raise DataError(
            f"The masks hold {len(found):,} different values; masks are integer labels from 0 (background) to {LARGEST_MASK_VALUE}."
        )
    if not len(usable):
        return dict(given), {}
    if not found:
        notes.append("no mask has any foreground")
    if given and len(given) == 1 and len(found) == 1 and (set(given) == {1} or set(given) == set(found)):
        return {1: next(iter(given.values()))}, _noted({found[0]: 1}, notes)
    if given:
        unnamed, unseen = sorted(set(found) - set(given)), sorted(set(given) - set(found))
        if unnamed:
            notes.append(f"mask values without a name: {', '.join(map(str, unnamed))}")
        if unseen:
            notes.append(f"structures that no mask has: {', '.join(given[value] for value in unseen)}")
        names = dict(sorted(given.items()))
    elif len(found) == 1:
        return {1: "structure_1"}, _noted({found[0]: 1}, notes)
    else:
        names = {value: f"structure_{value}" for value in found}
        if len(found) > 64:
            notes.append(
                f"the masks hold {len(found)} different values: if they were binary and saved as JPEG, save them as PNG again"
            )
    if names and (max(names) > LARGEST_MASK_VALUE or min(names) < 0):
        values = {value: number for number, value in enumerate(sorted(names), start=1)}
        return {values[value]: name for value, name in names.items()}, _noted(values, notes)
    return names, {}


def _noted(values: dict[int, int], notes: list[str]) -> dict[int, int]:
    """The mapping without what stays as it is, and a note on what does not."""
    changed = {value: number for value, number in values.items() if value != number}
    if changed:
        notes.append(
            "mask values are mapped: " + ", ".join(f"{value} to {number}" for value, number in changed.items())
        )
    return changed


def attribute_columns(
    listed: pd.DataFrame, gathered: Gathered, listed_sources: dict[str, str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Attributes of each row and their sources: what is listed, then files' tags and sidecars, names and statistics.

    What is listed stays; a later source only fills its gaps.
    """
    rows = gathered.rows
    names = [name for name in listed.columns if name not in (*ROW_COLUMNS, "slice", "slice_spacing_mm")]
    columns = {name: listed[name].iloc[rows["item"]].reset_index(drop=True) for name in names}
    sources = {name: listed_sources.get(name, "table") for name in names}
    described = pd.DataFrame({"path": listed["path"].iloc[rows["item"]].reset_index(drop=True)})
    for statistic in ("mean", "std"):
        described[statistic] = rows[statistic]
    for more, where in (file_attributes(rows, gathered.infos), attributes.infer(described)):
        for name in more.columns:
            if name not in columns:
                columns[name], sources[name] = more[name], where[name]
            elif columns[name].isna().any() and more[name].notna().any():
                columns[name] = columns[name].astype("string").fillna(more[name])
                sources[name] = f"{sources[name]}; {where[name]}"
    return pd.DataFrame(columns, index=rows.index), sources
