"""Folders of two-dimensional images: one folder per class, or images without labels.

Recognized layouts: `CLASS/*.png` (deeper folders inside a class belong to it), the same under `train/`, `val/`, `test/`
(kept as attribute `split`), and images in one place (no labels). A file named `IMAGE_mask.png` (`_seg`, `_label` ...)
beside its image is the image's mask.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from wazuka.core.errors import DataError
from wazuka.data.importers.listing import (
    IMAGE_SUFFIXES,
    SLIDE_SUFFIXES,
    ImportOptions,
    Listing,
    find_files,
    image_stem,
    without_suffix,
)

KIND = "folder"
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
"""Folder names of a ready-made split."""


def recognize(source: Path) -> str | None:
    """A folder (or one file) with 2D images."""
    paths = find_files(source, (*IMAGE_SUFFIXES, *SLIDE_SUFFIXES))
    if not paths:
        return None
    if source.is_file():
        return "one image"
    rows = _layout(source, paths)
    classes = sorted(rows["label"].dropna().unique())
    images = f"{len(paths):,} image" + ("s" if len(paths) > 1 else "")
    if len(classes) < 2:
        return f"{images} without labels"
    named = ", ".join(classes[:6]) + (" ..." if len(classes) > 6 else "")
    return f"{images} in a folder per class ({named})"


def read(source: Path, options: ImportOptions) -> Listing:
    """List the images with the folder as label.

    Raises:
        DataError: If there is no image.
    """
    paths = find_files(source, (*IMAGE_SUFFIXES, *SLIDE_SUFFIXES))
    if not paths:
        raise DataError(f"{source} has no image; a folder of images holds {', '.join(IMAGE_SUFFIXES)} files.")
    root = source.parent if source.is_file() else source
    rows = _layout(root, paths)
    notes: list[str] = []
    orphans = _pair_masks_beside(rows)
    rows = rows[~rows["is_mask"]].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"{source} has {len(orphans)} masks and no image; give the folder that holds the images too.")
    labels = sorted(rows["label"].dropna().unique())
    unlabeled = int(rows["label"].isna().sum())
    if len(labels) == 1:
        notes.append(f"only one folder ({labels[0]}) holds images: they are taken as unlabeled")
        rows["label"] = pd.NA
    elif labels and unlabeled:
        notes.append(f"{unlabeled} images outside the class folders are taken as unlabeled")
    sources = {}
    if rows["split"].notna().any():
        sources["split"] = "folder name"
    else:
        rows = rows.drop(columns="split")
    return Listing(rows=rows.drop(columns="is_mask"), attribute_sources=sources, notes=notes, orphan_masks=orphans)


def _layout(root: Path, paths: list[Path]) -> pd.DataFrame:
    """Path, label and split of each image by its folders."""
    relative = [one.relative_to(root).as_posix() for one in paths]
    parts = [one.split("/") for one in relative]
    split = bool(parts) and all(len(one) > 1 and one[0].lower() in SPLITS for one in parts)
    start = 1 if split else 0
    return pd.DataFrame(
        {
            "path": pd.array(relative, dtype="string"),
            "label": pd.array([one[start] if len(one) > start + 1 else None for one in parts], dtype="string"),
            "split": pd.array([SPLITS[one[0].lower()] if split else None for one in parts], dtype="string"),
        }
    )


def _pair_masks_beside(rows: pd.DataFrame) -> list[str]:
    """Fill `mask` and `is_mask`; return masks whose image already has one or does not exist."""
    stems = {without_suffix(path): position for position, path in enumerate(rows["path"])}
    masks: list[str | None] = [None] * len(rows)
    is_mask = [False] * len(rows)
    orphans = []
    for position, path in enumerate(rows["path"]):
        stem = without_suffix(path)
        image = image_stem(stem)
        if image is None and stem.rstrip("0123456789")[-1:] == "_":  # image_mask_1: one of several masks
            image = image_stem(stem.rstrip("0123456789")[:-1])
        if image is None:
            continue
        owner = stems.get(image)
        if owner is None and not path.lower().rsplit(".", 1)[0].endswith(("_mask", "-mask")):
            continue  # `x_label.png` without `x.png` is more likely an image of that name
        is_mask[position] = True
        if owner is None or masks[owner] is not None:
            orphans.append(path)
        else:
            masks[owner] = path
    rows["mask"] = pd.array(masks, dtype="string")
    rows["is_mask"] = is_mask
    return orphans
