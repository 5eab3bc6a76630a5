"""NIfTI volumes with or without label volumes: `images/` and `labels/`, or one folder with `_seg` partners.

`wazuka import FOLDER --kind nifti`. Partners have the same file name, or the image's name with `_seg`, `_label` ... behind it; a mask
named after a case (`case1_seg`) serves every image of the case (`case1_t1`, `case1_flair`) that has its size. Volumes
without a mask stay as unlabeled rows, masks without a volume are reported (`Listing.orphan_masks`). A volume is its
own patient unless a table says otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from wazuka.core.errors import DataError
from wazuka.data.formats.sidecar import declared_modality
from wazuka.data.importers.listing import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    VOLUME_SUFFIXES,
    ImportOptions,
    Item,
    Listing,
    find_files,
    image_stem,
    without_suffix,
)

KIND = "nifti"

IMAGES = (*IMAGE_FOLDERS, "imagestr", "imagests", "volumes", "scans")
MASKS = (*MASK_FOLDERS, "labelstr", "labelsts", "seg", "segs")
SHOWN = 5
"""Names listed in a note before `and n more`."""


def recognize(source: Path) -> str | None:
    """Recognize a NIfTI file, or a folder with at least one that is no mask."""
    images, masks = _sorted_out(source, find_files(source, VOLUME_SUFFIXES))
    if not images:
        return None
    labels = f" and {len(masks)} label volumes" if masks else ""
    return f"{len(images)} NIfTI volume{'s' if len(images) != 1 else ''}{labels}"


def read(source: Path, options: ImportOptions) -> Listing:
    """List the volumes with their masks.

    Raises:
        DataError: If there is no volume.
    """
    del options
    root = source if source.is_dir() else source.parent
    images, masks = _sorted_out(source, find_files(source, VOLUME_SUFFIXES))
    if not images:
        raise DataError(
            f"{source} holds no NIfTI volume (.nii or .nii.gz) that is no mask; give the folder of the images."
        )
    pairs, cases = pair(images, masks)
    used = set(pairs.values())
    orphans = [one for one in masks if one not in used]
    alone = [one for one in images if one not in pairs]
    notes = []
    if masks and alone:
        notes.append(f"{_count(len(alone), 'volume')} without a mask, kept as unlabeled: {listed(alone, root)}")
    items = [
        Item(
            path=one,
            mask=pairs.get(one),
            patient=cases.get(one, without_suffix(one.relative_to(root))),
            volume=without_suffix(one.relative_to(root)),
        )
        for one in images
    ]
    names = [Path(str(item.volume)).name for item in items]
    if len(set(names)) == len(names):  # the short name is enough where no folder is needed to tell volumes apart
        items = [_renamed(item, name, case=cases.get(Path(item.path))) for item, name in zip(items, names, strict=True)]
    modalities = {declared_modality(one) for one in images}
    return Listing(
        items=items,
        orphan_masks=[one.relative_to(root).as_posix() for one in orphans],
        notes=notes,
        patient_source="volume",
        task="segmentation" if pairs else None,
        modality=next(iter(modalities)) if len(modalities) == 1 else None,
    )


def _renamed(item: Item, name: str, *, case: str | None) -> Item:
    return Item(path=item.path, mask=item.mask, patient=case or name, volume=name)


def listed(paths: list[Path], root: Path) -> str:
    """Name the first files of a list, and how many more there are."""
    names = [one.relative_to(root).as_posix() for one in paths]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _sorted_out(source: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Tell images from masks: by folder name where there is one, else by a mask ending."""
    images: list[Path] = []
    masks: list[Path] = []
    for one in files:
        folders = [part.lower() for part in one.relative_to(source).parts[:-1]] if source.is_dir() else []
        role = next((part for part in reversed(folders) if part in IMAGES or part in MASKS), None)
        is_mask = role in MASKS if role else source.is_dir() and image_stem(without_suffix(one.name)) is not None
        (masks if is_mask else images).append(one)
    return images, masks


def pair(images: list[Path], masks: list[Path]) -> tuple[dict[Path, Path], dict[Path, str]]:
    """Pair images and masks.

    Returns:
        Image -> mask, and image -> case for images that share the name of a mask's case.
    """
    places: dict[tuple[Path, str], Path] = {(_base(one), without_suffix(one.name)): one for one in images}
    pairs: dict[Path, Path] = {}
    cases: dict[Path, str] = {}
    waiting: dict[tuple[Path, str], Path] = {}
    for mask in masks:
        own = without_suffix(mask.name)
        partner = places.get((_base(mask), own)) or places.get((_base(mask), image_stem(own) or ""))
        if partner is not None and partner not in pairs:
            pairs[partner] = mask
        elif partner is None:
            waiting[(_base(mask), image_stem(own) or own)] = mask
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for one in images:
        by_folder[_base(one)].append(one)
    for (base, case), mask in sorted(waiting.items()):
        mates = [
            one
            for one in by_folder[base]
            if one not in pairs and without_suffix(one.name).startswith((f"{case}_", f"{case}-"))
        ]
        fitting = [one for one in mates if _size(one) == _size(mask)] if mates else []
        pairs |= dict.fromkeys(fitting, mask)
        if fitting:  # what shares the case's name is one patient, whether the mask fits it or not
            cases |= dict.fromkeys(mates, case)
    return pairs, cases


def _base(path: Path) -> Path:
    """Folder with `images`, `labels` ... taken out, so that partners in sibling folders have the same one.

    >>> _base(Path("a/images/x.nii")) == _base(Path("a/labels/x.nii"))
    True
    """
    twin = {"imagestr": "train", "labelstr": "train", "imagests": "test", "labelsts": "test"}
    parts = [
        twin.get(one.lower(), one) for one in path.parent.parts if one.lower() not in IMAGES or one.lower() in twin
    ]
    return Path(*[one for one in parts if one.lower() not in MASKS]) if parts else Path()


def _size(path: Path) -> tuple[int, ...] | None:
    """Size from the header; None where it cannot be read (the import then says why)."""
    from wazuka.data.formats.base import DecodeError
    from wazuka.data.formats.nifti import Volume

    try:
        return tuple(Volume(path).shape)
    except DecodeError:
        return None
