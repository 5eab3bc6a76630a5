"""Patches around annotated cells in large images (`wazuka import --kind midog` and `ccmct`, `--patch-um MICRONS`).

An importer gives the images with their points and labels; here they become a listing with one row per annotation. No
pixels are written (see `data/patches.py`); `data/placed.py` checks the files.

- The cell's pixel is the one that holds the annotation's center, `floor(y), floor(x)`; it is pixel `side // 2` of its
  patch along both axes. A patch that overhangs the image is mirrored at its border, so the cell stays in the center.
- The side is `--patch PX`, or `--patch-um MICRONS` divided by the image's microns per pixel (the mean of rows and
  columns), rounded; default 64 pixels.
- Microns per pixel come from the annotations, else from the image file if it says 0.05 to 10 (what a program wrote that
  knows no physical size is outside), else from the published resolution of the scanner.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from wazuka.core.errors import ConfigError, DataError
from wazuka.data import decode
from wazuka.data.formats.base import FileInfo
from wazuka.data.importers.listing import (
    IMAGE_SUFFIXES,
    SLIDE_SUFFIXES,
    ImportOptions,
    Listing,
    find_files,
    relative_paths,
    without_suffix,
)
from wazuka.data.placed import plausible
from wazuka.data.spacing import MPP

KINDS = ("midog", "ccmct")
"""Kinds of sources whose annotations place the patches."""
MITOSIS, NEGATIVE = "mitotic figure", "hard negative"
CLASSES = (NEGATIVE, MITOSIS)
"""The task's two classes, named alike for all sources, so that a model of one can be tested on another."""
DEFAULT_PATCH = 64
"""Side in pixels; the published boxes are 50 x 50, and 64 pixels leave some of the surroundings."""
LARGEST_PATCH = 8192
NAMED = 10
"""Images that a note names."""


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """One image and its annotations, as the source gives them."""

    name: str
    """File name or relative path as written in the annotations."""
    centers: np.ndarray
    """(n, 2) y and x in pixels of the full resolution."""
    labels: tuple[str, ...]
    """(n,) of `CLASSES`."""
    numbers: tuple[str, ...]
    """(n,) ids of the annotations in the source."""
    domain: str | None = None
    attributes: dict[str, str | None] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    """Height and width of the image that the coordinates are meant for."""
    microns: float | None = None
    """Microns per pixel as the annotations say."""
    published_microns: float | None = None
    """Microns per pixel of the scanner, used where neither the annotations nor the file say it."""


def class_of(name: str) -> str | None:
    """The class that a source's own class name means; None where it is neither.

    >>> class_of("Mitotic figures"), class_of("non-mitotic figure"), class_of("tumor cell")
    ('mitotic figure', 'hard negative', None)
    """
    key = re.sub(r"[^a-z]", "", name.lower())
    if key.startswith(("hardnegative", "impost")):
        return NEGATIVE
    if "mito" in key and re.search(r"^no[nt]|like|look|impost|negative|nonmito|notmito", key):
        return NEGATIVE
    return MITOSIS if re.fullmatch(r"mitos[ie]s?|mitosen|mitotic(figure|cell)s?|mf", key) else None


def check_options(kind: str, options: ImportOptions) -> None:
    """Refuse options on patches that do not fit the kind or each other.

    Raises:
        ConfigError: If `--patch-um` is given without annotations, with `--patch` or out of range, or `--stride` with them.
    """
    microns = options.patch_um
    if kind not in KINDS:
        if microns is not None:
            raise ConfigError(
                f"--patch-um {microns:g} needs annotations (kinds {', '.join(KINDS)}), but the kind is `{kind}`; use --patch PX."
            )
        return
    if options.stride is not None:
        raise ConfigError(f"--stride {options.stride} has no use: in the kind `{kind}` annotations place the patches.")
    if microns is None:
        return
    if options.patch is not None:
        raise ConfigError(f"--patch {options.patch} and --patch-um {microns:g} both size the patches; give one.")
    if not (math.isfinite(microns) and microns > 0):
        raise ConfigError(f"--patch-um {microns:g} is wrong; give a positive number of microns.")


class Locator:
    """Finds images by what the annotations call them."""

    def __init__(self, root: Path, beside: Path, *, where: str) -> None:
        """Index the image files under `root`.

        Args:
            root: The source folder.
            beside: The annotations' own folder; its files come first.
            where: The annotations' file name, for errors.
        """
        self.root, self.where = root, where
        self.beside = "" if beside == root else f"{beside.relative_to(root).as_posix()}/"
        paths = [one.relative_to(root).as_posix() for one in find_files(root, (*IMAGE_SUFFIXES, *SLIDE_SUFFIXES))]
        self.known = set(paths)
        self.by_name: dict[str, list[str]] = {}
        for path in paths:
            name = path.rsplit("/", 1)[-1]
            for key in {name, without_suffix(name)}:
                self.by_name.setdefault(key, []).append(path)

    def find(self, name: str) -> str | None:
        """Path relative to the root, by name, else by name without suffix; None if there is no such image.

        Raises:
            DataError: If the name leaves the root, or several images have it.
        """
        written = str(relative_paths(pd.Series([name]), self.root).iloc[0])
        for path in (self.beside + written, written):
            if path in self.known:
                return path
        last = written.rsplit("/", 1)[-1]
        found = self.by_name.get(last, self.by_name.get(without_suffix(last), []))
        if len(found) > 1:
            raise DataError(
                f"{self.where} names {name}, but {len(found)} images are called so ({found[0]}, {found[1]}); leave one of them in SOURCE."
            )
        return found[0] if found else None


def listing(
    images: Sequence[Annotated],
    locator: Locator,
    *,
    options: ImportOptions,
    notes: list[str],
    license: str | None = None,
) -> Listing:
    """List one row per annotation.

    An image that is missing or unreadable becomes one row, which the check quarantines. Images without annotations give no
    row; they are counted and named, like annotations outside of their image or with contradictory labels.

    Raises:
        DataError: If no image has annotations, an image has another size than its annotations say, its microns per pixel
            are unknown where they are needed, or more images are missing than `--max-corrupt` allows.
        ConfigError: If a patch would have fewer than 8 pixels, or more than 8192.
    """
    annotated = [one for one in images if len(one.labels)]
    empty = [one.name for one in images if not len(one.labels)]
    if not annotated:
        raise DataError(
            f"{locator.where} has no annotation of a {MITOSIS} or a {NEGATIVE}; give the file that holds them."
        )
    if empty:
        notes.append(f"{len(empty)} images have no annotation and give no patch: {_named(empty)}")
    parts: list[pd.DataFrame] = []
    unusable: dict[str, str] = {}
    sources: Counter[str] = Counter()
    for one in annotated:
        path = locator.find(one.name)
        info = "file does not exist" if path is None else _described(locator.root / path)
        if path is None or isinstance(info, str):
            unusable[one.name] = str(info)
            parts.append(_whole(one, path or str(relative_paths(pd.Series([one.name]), locator.root).iloc[0])))
            continue
        if one.size is not None and one.size != (info.height, info.width):
            raise DataError(
                f"{path} has {info.height} x {info.width} pixels, but {locator.where} says {one.size[0]} x {one.size[1]}; the coordinates fit only the original image."
            )
        microns, source = _microns(one, info)
        sources[source] += 1
        parts.append(_rows(one, path, side=_side(one, microns, options=options), microns=microns, info=info))
    _refuse_missing(unusable, annotated, locator=locator, options=options, notes=notes)
    rows = pd.concat([part.astype("object") for part in parts], ignore_index=True)
    notes += [f"microns per pixel of {n} images are from {what}" for what, n in sorted(sources.items()) if what]
    if sources[""]:
        notes.append(f"microns per pixel of {sources['']} images are unknown")
    outside = rows["outside"].astype(bool)
    if outside.any():
        notes.append(f"{int(outside.sum())} annotations lie outside of their image and are left out")
    rows = _without_repeats(rows[~outside].drop(columns="outside"), notes=notes)
    counts = rows["label"].value_counts()
    if counts.get(MITOSIS, 0) > counts.get(NEGATIVE, 0) and options.positive is None:
        notes.append(f"the {MITOSIS} is the more frequent class here; --positive '{MITOSIS}' makes it the positive one")
    return Listing(
        rows=rows,
        classes=CLASSES,
        notes=notes,
        patient_source="file name",
        attribute_sources=dict.fromkeys(("annotation", *annotated[0].attributes), "annotations")
        | {MPP: "; ".join(sorted(filter(None, sources)))},
        license=license,
    )


def _described(path: Path) -> FileInfo | str:
    """What the file says, or why it cannot be used.

    Raises:
        DataError: If it is a whole slide and openslide is not installed.
    """
    if decode.format_of(path) == "slide" and find_spec("openslide") is None:
        raise DataError(
            f"Whole-slide images ({path.name}) need openslide; install the extra: pip install 'wazuka[wsi]', or replace them by TIFF images of full resolution and the same name."
        )
    try:
        return decode.probe(path, patches=True)
    except (decode.DecodeError, OSError) as error:
        return str(error)


def _microns(one: Annotated, info: FileInfo) -> tuple[float | None, str]:
    """Microns per pixel, and where they come from."""
    spacing = plausible(info.spacing_mm)
    if one.microns is not None:
        return one.microns, "the annotations"
    if spacing is not None:
        return 1000 * (spacing[0] + spacing[1]) / 2, "the image file"
    if one.published_microns is not None:
        return one.published_microns, "the scanner's published resolution"
    return None, ""


def _side(one: Annotated, microns: float | None, *, options: ImportOptions) -> int:
    """Side of the image's patches in pixels."""
    if options.patch_um is None:
        return options.patch or DEFAULT_PATCH
    if microns is None:
        raise DataError(
            f"--patch-um {options.patch_um:g} needs the microns per pixel of {one.name}, which neither its file nor its annotations say; give the side in pixels with --patch."
        )
    side = round(options.patch_um / microns)
    if not 8 <= side <= LARGEST_PATCH:
        raise ConfigError(
            f"--patch-um {options.patch_um:g} makes patches of {side} pixels in {one.name} ({microns:g} microns per pixel); a patch has 8 to {LARGEST_PATCH} pixels."
        )
    return side


def _rows(one: Annotated, path: str, *, side: int, microns: float | None, info: FileInfo) -> pd.DataFrame:
    pixel = np.floor(one.centers).astype(np.int64)  # (n, 2)
    inside = ((pixel >= 0) & (pixel < [info.height, info.width])).all(axis=1)
    return pd.DataFrame(
        {
            "path": path,
            "label": list(one.labels),
            "patient": _case(one),
            "domain": one.domain,
            "patch_y": pixel[:, 0] - side // 2,
            "patch_x": pixel[:, 1] - side // 2,
            "patch_px": side,
            MPP: None if microns is None else f"{microns:.6g}",
            "annotation": list(one.numbers),
            **one.attributes,
            "outside": ~inside,
        }
    )


def _whole(one: Annotated, path: str) -> pd.DataFrame:
    """The one row of an image that cannot be used."""
    known = {"path": path, "patient": _case(one), "domain": one.domain, **one.attributes, "outside": False}
    return pd.DataFrame([known])


def _case(one: Annotated) -> str:
    """Each image is one case: its file name without suffix."""
    return one.name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _refuse_missing(
    unusable: dict[str, str],
    annotated: Sequence[Annotated],
    *,
    locator: Locator,
    options: ImportOptions,
    notes: list[str],
) -> None:
    if not unusable:
        return
    count, total = len(unusable), len(annotated)
    share = 100 * count / total
    named = _named([f"{name}: {reason}" for name, reason in unusable.items()])
    if share > options.max_corrupt or count == total:
        raise DataError(
            f"{count} of the {total} annotated images of {locator.where} cannot be used in {locator.root} ({named}); add them or raise --max-corrupt."
        )
    lost = sum(len(one.labels) for one in annotated if one.name in unusable)
    notes.append(f"{count} images cannot be used ({named}), with {lost} annotations")


def _without_repeats(rows: pd.DataFrame, *, notes: list[str]) -> pd.DataFrame:
    """Leave one of several annotations of one pixel; none where their labels differ."""
    placed = rows["patch_px"].notna()
    place = ["path", "patch_y", "patch_x"]
    labels = rows[placed].groupby(place)["label"].transform("nunique")
    unclear = labels.index[labels > 1]
    if len(unclear):
        notes.append(f"{len(unclear)} annotations contradict another one of the same place and are left out")
    rows = rows.drop(index=unclear)
    again = rows["patch_px"].notna() & rows.duplicated(place)
    if again.any():
        notes.append(f"{int(again.sum())} annotations repeat another one of the same place and are left out")
    return rows[~again].reset_index(drop=True)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
