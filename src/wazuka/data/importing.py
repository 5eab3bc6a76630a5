"""`wazuka import SOURCE --out DATASET`: list the source, check every file, write the dataset folder.

The importers list what is there; here volumes become slices, files are opened and measured in parallel, patients get
pseudonyms, what cannot be used is quarantined with its reason, and the folder appears whole or not at all. The source is
only read.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from wazuka.core.errors import ConfigError, DataError, nearest, unknown_name
from wazuka.core.progress import say, track
from wazuka.core.records import out_of_space
from wazuka.data import annotated, assemble, inspect, manifest, patches, placed
from wazuka.data.checking import check_all
from wazuka.data.importers import importer, recognize
from wazuka.data.importers.listing import SLIDE_SUFFIXES, ImportOptions, Listing, find_files
from wazuka.data.pseudonyms import read_salt
from wazuka.data.spacing import settle_spacing

__all__ = ["ImportOptions", "import_dataset"]

REASONS_SHOWN = 3
NEAREST_OFFERED = 20
"""Missing files for which the nearest name is looked up."""


def import_dataset(
    source: Path, out: Path, *, options: ImportOptions | None = None, workers: int | None = None
) -> manifest.Dataset:
    """Import a folder, table or file of images.

    Args:
        source: What to import; never written to.
        out: The dataset folder to make; absent or empty, outside of `source`.
        options: What the user said.
        workers: Processes that check files; None: as many as there are cores and work for; 1: none but this one.

    Raises:
        DataError: If the source, its table, its labels or too many of its images are wrong.
        ConfigError: If an option is wrong.
        OutOfSpace: If the disk is full.
    """
    options = options or ImportOptions()
    source, out = _check_places(Path(source), Path(out))
    sizes = patches.check_sizes(options.patch, options.stride)
    if not 0 <= options.max_corrupt <= 100:
        raise ConfigError(f"--max-corrupt {options.max_corrupt:g} is wrong; give a percentage from 0 to 100.")
    if options.salt_file is not None:
        read_salt(options.salt_file)  # a wrong file is an error now, also where no patient turns out to need it
    kind, recognized = _kind(source, options)
    annotated.check_options(kind, options)
    listing = importer(kind).read(source, options)
    root = source if source.is_dir() else source.parent
    listed = listing.table(root)
    if listed.empty:
        raise DataError(f"{source} holds no image; give a folder, table or file with images.")
    _refuse_slides(listed)
    notes = list(listing.notes)
    classes, positive = _settle_classes(listed, listing, options=options, notes=notes)
    if listed["patch_px"].notna().any():
        jobs, groups = placed.lay_out(listed, root)
        answers = track(check_all(jobs, workers=workers, check=placed.check), "checking files", len(jobs))
        gathered = placed.gather(answers, listed, groups)
    else:
        jobs, groups = assemble.lay_out(listed, root, patch=sizes)
        answers = track(check_all(jobs, workers=workers), "checking files", len(jobs))
        gathered = assemble.gather(answers, listed, groups)
    _offer_nearest(gathered, listed, root)
    assemble.quarantine_listed(listed, gathered)
    intensity = assemble.settle_intensity(gathered)
    _check_corrupt(gathered, listed, max_corrupt=options.max_corrupt)
    table, inspection, facts = _assemble(listed, listing, gathered, options=options)
    given = options.mask_classes or listing.structures
    structures, mask_values = assemble.settle_structures(gathered.rows, given, notes=gathered.notes)
    has_masks = bool(listed["mask"].notna().any())
    card = manifest.DatasetCard(
        name=options.name or listing.name or source.name.split(".")[0] or "dataset",
        task="classification" if classes else "segmentation" if has_masks else "unlabeled",
        classes=classes,
        positive=positive,
        structures=structures,
        mask_values=mask_values,
        modality=listing.modality or _modality(gathered),
        intensity=intensity,  # type: ignore[arg-type]
        root=os.fspath(root),
        license=options.license or listing.license,
        source=os.fspath(source),
        patient_source=facts["patient_source"],
        attributes=facts["attributes"],
        simulated=options.simulated,
        imported={
            "kind": kind,
            "recognized": recognized,
            "options": _given(options),
            "counts": _counts(table, listing, gathered=gathered, listed=listed),
            "orphan_masks": list(listing.orphan_masks),
            "notes": notes + gathered.notes,
            "version": version("wazuka"),
            **facts["imported"],
        },
    )
    with _staged(out) as folder:
        saved = manifest.save(folder, card, table, inspection)
    return dataclasses.replace(saved, folder=out)


def _check_places(source: Path, out: Path) -> tuple[Path, Path]:
    """Resolve both and refuse what would write into the source or over something."""
    source, out = source.expanduser(), out.expanduser()
    if not source.exists():
        folder = source.parent
        close = nearest(source.name, [one.name for one in folder.iterdir()]) if folder.is_dir() else None
        hint = f" Did you mean {folder / close}?" if close else ""
        raise DataError(f"SOURCE {source} does not exist; give a folder, table or file of images.{hint}")
    source, out = source.resolve(), out.resolve()
    if (source / "dataset.yaml").is_file():
        raise DataError(f"SOURCE {source} is a dataset already; use it as it is, or give the images it was made from.")
    if source.is_dir() and not any(source.iterdir()):
        raise DataError(f"SOURCE {source} is an empty folder; give one that holds images.")
    if out == source or (source.is_dir() and out.is_relative_to(source)):
        raise DataError(
            f"--out {out} lies inside the source {source}, which is never written to; choose a folder outside of it."
        )
    if (out / "dataset.yaml").exists():
        raise DataError(f"{out} already holds a dataset; choose another --out.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"--out {out} exists and is not an empty folder; choose another --out.")
    place = next(one for one in out.parents if one.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "may not be written to" if place.is_dir() else "is a file"
        raise DataError(f"--out {out} cannot be made ({place} {why}); choose a folder that may be written to.")
    return source, out


def _kind(source: Path, options: ImportOptions) -> tuple[str, str]:
    """The kind to import and what it was recognized by; said to the user."""
    if options.table is not None:
        if options.kind not in ("auto", "table"):
            raise ConfigError(f"--table makes the kind `table`, but --kind is `{options.kind}`; leave one of them out.")
        kind, what = "table", f"the table {Path(options.table).name} (--table)"
    else:
        columns = [f"--{name}" for name in ("image", "label", "mask", "patient", "domain") if getattr(options, name)]
        if options.kind == "auto":
            kind, what = recognize(source)
            say(f"Recognized {what} (kind {kind}).")
        else:
            kind, what = options.kind, f"--kind {options.kind}"
            importer(kind)  # an unknown kind is an error before anything else is looked at
        if columns and kind != "table":
            raise ConfigError(
                f"{', '.join(columns)} names a column, but this source has the kind `{kind}`; give its table with --table."
            )
    return kind, what


def _refuse_slides(listed: pd.DataFrame) -> None:
    slides = listed["path"][listed["path"].str.lower().str.endswith(SLIDE_SUFFIXES)]
    if len(slides) and find_spec("openslide") is None:
        raise DataError(
            f"{len(slides)} whole-slide images ({slides.iloc[0]}) need openslide; install the extra: pip install 'wazuka[wsi]', or export regions as TIFF."
        )


def _settle_classes(
    listed: pd.DataFrame, listing: Listing, *, options: ImportOptions, notes: list[str]
) -> tuple[tuple[str, ...], str | None]:
    """Class names in their order, and the positive one of two.

    Raises:
        DataError: If there is one class only, or `--positive` is not one of two classes.
    """
    counts = listed["label"].value_counts()
    present = sorted(counts.index)
    if len(present) == 1:
        where = f"`{options.label}`" if options.label else "of the labels"
        raise DataError(
            f"The label column {where} holds one class only (`{present[0]}`, {int(counts.iloc[0])} images); give a column with two classes or more."
        )
    classes = tuple(listing.classes) if listing.classes and set(present) <= set(listing.classes) else tuple(present)
    if options.positive is not None and options.positive not in classes:
        raise DataError(str(unknown_name("class", options.positive, classes, where="--positive")))
    if len(classes) != 2:
        if options.positive is not None:
            raise DataError(
                f"--positive {options.positive} needs two classes, but there are {len(classes)}; leave it out: scores of several classes are averaged."
            )
        return classes, None
    if options.positive is not None:
        return classes, options.positive
    if listing.positive in classes:
        return classes, listing.positive
    rarer = min(classes, key=lambda name: (counts[name], -classes.index(name)))
    note = f"positive class: {rarer} (the rarer one, {int(counts[rarer]):,} of {int(counts.sum()):,}; --positive changes it)"
    notes.append(note)
    return classes, rarer


def _offer_nearest(gathered: assemble.Gathered, listed: pd.DataFrame, root: Path) -> None:
    """Add the nearest existing file to the first reasons of files that are not there."""
    rows = gathered.rows
    missing = rows.index[rows["decode_error"] == "file does not exist"][:NEAREST_OFFERED]
    if not len(missing):
        return
    known = [one.relative_to(root).as_posix() for one in find_files(root, ("",))[:10_000]]
    paths = listed["path"].tolist()
    for index in missing:
        close = nearest(paths[int(rows["item"].to_numpy()[index])], known)
        if close:
            rows.loc[index, ["reason", "decode_error"]] = f"file does not exist (did you mean {close}?)"


def _check_corrupt(gathered: assemble.Gathered, listed: pd.DataFrame, *, max_corrupt: float) -> None:
    """Stop if more of the images are unusable than allowed, or all of them.

    Raises:
        DataError: With the count and the first reasons.
    """
    count, total = int(gathered.corrupt.sum()), len(listed)
    share = 100 * count / total
    if share <= max_corrupt and count < total:
        return
    rows = gathered.rows[gathered.corrupt[gathered.rows["item"]] & gathered.rows["reason"].notna()].drop_duplicates(
        "item"
    )
    first = rows.head(REASONS_SHOWN)
    named = "; ".join(
        f"{listed['path'].iloc[item]}: {reason}" for item, reason in zip(first["item"], first["reason"], strict=True)
    )
    more = f"; and {count - len(first)} more" if count > len(first) else ""
    limit = f"more than the {max_corrupt:g} % of --max-corrupt" if share > max_corrupt else "all of them"
    raise DataError(
        f"{count} of {total} images cannot be used ({share:.1f} %, {limit}): {named}{more}; mend or remove them, or raise --max-corrupt."
    )


def _assemble(
    listed: pd.DataFrame, listing: Listing, gathered: assemble.Gathered, *, options: ImportOptions
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Manifest, inspection and what the card says about them."""
    rows = gathered.rows
    images = assemble.make_ids(listed, rows)
    ids = assemble.patch_ids(images, rows)
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise DataError(
            f"Id `{repeated.iloc[0]}` would stand for {int((ids == repeated.iloc[0]).sum())} rows; rename the files or give a table with an `id` column."
        )
    volume = assemble.name_volumes(listed, rows, gathered.infos)
    patient, patient_source, salt_name = assemble.settle_patients(
        listed, gathered, volume=volume, ids=images, salt_file=options.salt_file, listed_source=listing.patient_source
    )
    extra, sources = assemble.attribute_columns(listed, gathered, listing.attribute_sources)
    if volume.notna().any():
        extra["volume"] = volume
        extra["slice"] = assemble.place_in_volume(listed, rows, volume=volume, infos=gathered.infos)
        sources |= {"volume": "file", "slice": listing.attribute_sources.get("slice", "frame in the file")}
    if rows["patch_px"].notna().any():
        extra["parent"] = images.where(rows["patch_px"].notna())
        for name in ("patch_y", "patch_x", "patch_px"):
            extra[name] = rows[name]
        sources |= dict.fromkeys(patches.COLUMNS, "computed")
    fixed = listed[["path", "label", "mask", "domain", "prompt"]].iloc[rows["item"]].reset_index(drop=True)
    if fixed["domain"].isna().all() and "scanner" in extra and len(extra["scanner"].dropna().unique()) > 1:
        fixed["domain"] = extra["scanner"]
        gathered.notes.append(f"domain is the scanner ({sources['scanner']})")
    table = fixed.assign(
        id=ids,
        patient=patient,
        status=pd.Series("ok", index=rows.index).where(rows["reason"].isna(), "quarantined"),
        spacing_mm=settle_spacing(listed, rows, gathered.notes),
        **{name: rows[name] for name in ("frame", "reason", "height", "width", "sha256")},
    )
    inspection = rows[[name for name in inspect.COLUMNS if name != "id"]].assign(id=ids)[list(inspect.COLUMNS)]
    imported: dict[str, Any] = {"votes": dict(listing.votes)} if listing.votes else {}
    if salt_name:
        imported["salt"] = salt_name
    facts = {"patient_source": patient_source, "attributes": sources, "imported": imported}
    return pd.concat([table, extra], axis=1), inspection, facts


def _modality(gathered: assemble.Gathered) -> str | None:
    """The modality that all files with one agree on."""
    found = {info.modality for info in gathered.infos if info is not None and info.modality}
    if len(found) > 1:
        gathered.notes.append(f"several modalities: {', '.join(sorted(found))}")
    return found.pop() if len(found) == 1 else None


def _given(options: ImportOptions) -> dict[str, Any]:
    """The options that differ from their defaults; of a salt file only that there was one."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(ImportOptions):
        value = getattr(options, field.name)
        if value not in (None, {}) and value != field.default:
            given[field.name] = os.fspath(value) if isinstance(value, Path) else value
    if "salt_file" in given:
        given["salt_file"] = "given"
    return given


def _counts(
    table: pd.DataFrame, listing: Listing, *, gathered: assemble.Gathered, listed: pd.DataFrame
) -> dict[str, int]:
    counts = {
        "images": len(table),
        "files": int(listed["path"].nunique()),
        "quarantined": int((table["status"] == "quarantined").sum()),
        "unlabeled": int(table["label"].isna().sum()),
        "without_mask": int(table["mask"].isna().sum()),
        "patients": int(table["patient"].nunique()),
        "orphan_masks": len(listing.orphan_masks),
    }
    if table.get("patch_px") is not None:
        counts["blank_patches"] = gathered.blank_patches
    return counts


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it at the end, or is removed.

    Raises:
        DataError: If nothing may be written there.
        OutOfSpace: If the disk is full.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise out_of_space(out) from error
        raise DataError(
            f"--out {out} cannot be made ({error.strerror}); choose a folder that may be written to."
        ) from error
    try:
        umask = os.umask(0)  # mkdtemp makes folders for the owner only; keep the user's own permissions instead
        os.umask(umask)
        folder.chmod(0o777 & ~umask)
        yield folder
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
