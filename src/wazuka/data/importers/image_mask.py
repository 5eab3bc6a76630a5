"""`images/` beside `masks/` or `labels/`, 2D files: a mask belongs to the image of the same name (or `NAME_mask`).

Folders inside `images/` are kept apart: `images/a/1.png` belongs to `masks/a/1.png`. Volumes in this layout are of the
kind `nifti`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from wazuka.core.errors import DataError
from wazuka.data.importers.listing import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    MASK_FOLDERS,
    ImportOptions,
    Listing,
    find_files,
    image_stem,
    without_suffix,
)

KIND = "image-mask"


def recognize(source: Path) -> str | None:
    """Both folders are there and hold 2D images."""
    folders = _folders(source)
    if folders is None:
        return None
    images, masks = (find_files(one, IMAGE_SUFFIXES) for one in folders)
    if not images or not masks:
        return None
    return f"{len(images):,} images in {folders[0].name}/ and {len(masks):,} masks in {folders[1].name}/"


def _folders(source: Path) -> tuple[Path, Path] | None:
    if not source.is_dir():
        return None
    named = {one.name.lower(): one for one in sorted(source.iterdir()) if one.is_dir()}
    images = [named[name] for name in IMAGE_FOLDERS if name in named]
    masks = [named[name] for name in MASK_FOLDERS if name in named]
    return (images[0], masks[0]) if len(images) == 1 and len(masks) == 1 else None


def read(source: Path, options: ImportOptions) -> Listing:
    """Pair images and masks by name.

    Raises:
        DataError: If a folder is missing or empty, or no mask fits an image.
    """
    folders = _folders(source)
    if folders is None:
        raise DataError(
            f"{source} has no pair of folders; --kind image-mask needs one of {', '.join(IMAGE_FOLDERS)} and one of {', '.join(MASK_FOLDERS)}."
        )
    images, masks = (find_files(one, IMAGE_SUFFIXES) for one in folders)
    if not images:
        raise DataError(f"{folders[0]} has no image; it should hold {', '.join(IMAGE_SUFFIXES)} files.")
    by_stem: dict[str, str] = {}
    orphans = []
    stems = {without_suffix(one.relative_to(folders[0])): one.relative_to(source).as_posix() for one in images}
    if len(stems) < len(images):
        raise DataError(
            f"{folders[0]} has two images of one name but different suffix; masks cannot be paired by name."
        )
    for mask in masks:
        stem = without_suffix(mask.relative_to(folders[1]))
        path = mask.relative_to(source).as_posix()
        owner = stem if stem in stems else image_stem(stem)
        if owner in stems and owner not in by_stem:
            by_stem[owner] = path
        else:
            orphans.append(path)
    if not by_stem:
        raise DataError(
            f"No mask in {folders[1]} has the name of an image in {folders[0]} ({masks[0].name if masks else 'no masks'} and {images[0].name}, say); name them alike or give a table."
        )
    rows = pd.DataFrame(
        {
            "path": pd.array(list(stems.values()), dtype="string"),
            "mask": pd.array([by_stem.get(stem) for stem in stems], dtype="string"),
        }
    )
    return Listing(rows=rows, orphan_masks=orphans)
