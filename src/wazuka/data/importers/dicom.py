"""DICOM files in a folder tree: series by SeriesInstanceUID, slices in order of position, masks beside them.

`wazuka import FOLDER --kind dicom`. Files may have any suffix or none. A series of several slices is a volume; its slices
carry `volume` (an invented name, never a UID) and `slice` (their number along the slice normal, ascending). Masks are images in
a folder named Ground, masks, labels ... beside or above the series, or files named like a slice; they are paired by name or,
where names differ, by instance number (`pair_masks`) - before the slices are sorted by position, which often runs the other way.
RTSTRUCT, SEG, reports and DICOMDIR are counted and not read.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wazuka.core.errors import DataError
from wazuka.core.progress import track
from wazuka.data.decode import format_of
from wazuka.data.formats import dicom as reader
from wazuka.data.formats.base import DecodeError, FileInfo
from wazuka.data.importers.listing import (
    MASK_FOLDERS,
    ImportOptions,
    Item,
    Listing,
    find_files,
    image_stem,
    without_suffix,
)

KIND = "dicom"

GROUND_FOLDERS = (*MASK_FOLDERS, "ground", "gt", "seg", "segs")
SOURCES = {
    "slice": "DICOM position along the slice normal",
    "slice_spacing_mm": "DICOM positions of neighboring slices",
}
GAP = 1.5
"""A step between neighboring slices counts as a gap above this many times the median step."""
SAME_PLACE_MM = 0.01
STACK_MODALITIES = ("CT", "MR", "PT", "NM")
"""Modalities whose single-frame files are slices of a volume; elsewhere (CR, DX, MG, US) files of a series are separate images."""
PHASES = (
    "AcquisitionNumber",
    "EchoNumbers",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "TriggerTime",
    "ImageType",
)
"""Tags that may tell apart slices of one series at one position (phases, echoes), tried in this order."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One DICOM file of an image and what sorts it."""

    path: Path
    info: FileInfo
    normal: tuple[float, ...]
    phase: dict[str, str]
    scout: bool


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Files that belong together: the slices of a volume in order of position, or one separate image."""

    name: str
    slices: list[Slice]
    is_volume: bool


def recognize(source: Path) -> str | None:
    """Recognize a DICOM file, or a folder with at least one outside of mask folders."""
    files = [one for one in find_files(source, ("",)) if format_of(one) == "dicom" and not _in_mask_folder(one, source)]
    return f"{len(files)} DICOM file{'s' if len(files) != 1 else ''}" if files else None


def read(source: Path, options: ImportOptions) -> Listing:
    """List the images of a DICOM tree with their masks, patients (to be pseudonymized) and volumes.

    Raises:
        DataError: If there is no DICOM image.
    """
    del options
    root = source if source.is_dir() else source.parent
    files = find_files(source, ("",))
    kinds = {one: format_of(one) for one in files}
    headers = [one for one in files if kinds[one] == "dicom" and not _in_mask_folder(one, source)]
    notes: list[str] = []
    slices, broken = _read_headers(headers, notes)
    if not slices:
        raise DataError(
            f"{source} holds no DICOM image ({'; '.join(notes) or 'no DICOM file'}); give the folder of a series."
        )
    stacks = _stacks(slices, notes)
    masks = [one for one in files if kinds[one] in ("raster", "tiff", "dicom") and _is_mask(one, source)]
    paired, orphans = _assign_masks(stacks, masks, notes=notes)
    other = [one for one in files if one not in set(headers) and one not in set(masks)]
    if other:
        endings = Counter(one.suffix.lower() or "no suffix" for one in other)
        notes.append(
            f"{len(other)} other files not read ({', '.join(f'{count} {end}' for end, count in endings.most_common(4))})"
        )
    items = [item for stack in stacks for item in _items(stack, paired)]
    items += [Item(path=one) for one in broken]
    without_id = sum(one.info.patient_id == one.info.study_id for one in slices)
    if without_id:
        notes.append(f"{without_id} files have an empty PatientID; their study stands in for the patient")
    return Listing(
        items=items,
        attribute_sources=SOURCES,
        orphan_masks=[one.relative_to(root).as_posix() for one in orphans],
        notes=notes,
        patient_source="study" if without_id == len(slices) else "dicom",
        task="segmentation" if paired else None,
        modality=_only({one.info.modality for one in slices}),
    )


def _only(values: set[str | None]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _in_mask_folder(path: Path, source: Path) -> bool:
    if not source.is_dir():
        return False
    return any(part.lower() in GROUND_FOLDERS for part in path.relative_to(source).parts[:-1])


def _is_mask(path: Path, source: Path) -> bool:
    """In a mask folder, or named like a mask; a preview picture beside a slice is neither."""
    return _in_mask_folder(path, source) or (
        format_of(path) in ("raster", "tiff") and image_stem(without_suffix(path.name)) is not None
    )


def _read_headers(paths: list[Path], notes: list[str]) -> tuple[list[Slice], list[Path]]:
    """Headers of the images; files that cannot be read stay in the listing, so that the import quarantines them."""
    slices: list[Slice] = []
    broken: list[Path] = []
    skipped: Counter[str] = Counter()
    for path in track(paths, "reading DICOM headers"):
        try:
            header = reader.read_header(path)
            reason = reader.not_an_image(header)
            if reason:
                skipped[reason] += 1
                continue
            across = reader.normal(header)
            slices.append(
                Slice(
                    path=path,
                    info=reader.describe(header),
                    normal=() if across is None else tuple(np.round(across, 2) + 0.0),
                    phase={name: str(header.get(name, "")) for name in PHASES},
                    scout="LOCALIZER" in [str(one).upper() for one in header.get("ImageType", None) or []],
                )
            )
        except DecodeError:
            broken.append(path)
        except (
            Exception
        ):  # a damaged header breaks pydicom in many ways; the import opens the file again and keeps the reason
            broken.append(path)
    notes += [f"{count} files left out: {reason}" for reason, count in sorted(skipped.items())]
    return slices, broken


def _stacks(slices: list[Slice], notes: list[str]) -> list[Stack]:
    """Group files into volumes and separate images; names count the series in order of their first path."""
    scouts = [one for one in slices if one.scout]
    if scouts and len(scouts) < len(slices):
        notes.append(f"{len(scouts)} localizer images left out")
        slices = [one for one in slices if not one.scout]
    series: dict[str, list[Slice]] = defaultdict(list)
    for one in slices:
        series[one.info.series_id or f"folder {one.path.parent}"].append(one)
    ordered = sorted(series.values(), key=lambda members: min(one.path for one in members))
    digits = max(3, len(str(len(ordered))))
    stacks = []
    for number, members in enumerate(ordered, start=1):
        name = f"series-{number:0{digits}d}"
        many = [one for one in members if one.info.frames is not None]
        flat = [one for one in members if one.info.frames is None]
        parts = _parts(name, flat, notes)
        for position, part in enumerate(parts):
            label = name if len(parts) == 1 and not many else f"{name}-{chr(97 + position % 26)}{position // 26 or ''}"
            stacks += _make_stack(label, part, notes)
        for position, one in enumerate(sorted(many, key=lambda one: one.path)):
            label = name if len(many) == 1 and not flat else f"{name}-m{position + 1}"
            stacks.append(Stack(name=label, slices=[one], is_volume=True))
    return stacks


def _parts(name: str, members: list[Slice], notes: list[str]) -> list[list[Slice]]:
    """Split one series by orientation and size, then by phase where positions repeat; each split is noted."""
    groups: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for one in members:
        groups[(one.normal, one.info.height, one.info.width)].append(one)
    if len(groups) > 1 and len(members) > len(groups):
        notes.append(f"{name}: {len(groups)} orientations or image sizes in one series, kept as separate volumes")
    parts: list[list[Slice]] = []
    for key in sorted(groups, key=lambda key: min(one.path for one in groups[key])):
        parts += _phases(name, groups[key], notes)
    return parts


def _phases(name: str, members: list[Slice], notes: list[str]) -> list[list[Slice]]:
    repeated = _repeats(members)
    if not repeated:
        return [members]
    for tag in PHASES:
        split: dict[str, list[Slice]] = defaultdict(list)
        for one in members:
            split[one.phase[tag]].append(one)
        if len(split) > 1 and not any(_repeats(part) for part in split.values()):
            notes.append(f"{name}: positions repeat; split by {tag} into {len(split)} volumes")
            return [split[value] for value in sorted(split, key=lambda value: min(one.path for one in split[value]))]
    notes.append(f"{name}: {repeated} slices share their position with another one; kept in order of instance number")
    return [members]


def _repeats(members: list[Slice]) -> int:
    """Number of slices whose position another slice already has."""
    positions = sorted(one.info.position_mm for one in members if one.info.position_mm is not None)
    return int((np.diff(positions) < SAME_PLACE_MM).sum()) if len(positions) > 1 else 0


def _make_stack(name: str, members: list[Slice], notes: list[str]) -> list[Stack]:
    modality = members[0].info.modality
    placed = all(one.info.position_mm is not None for one in members)
    if modality not in STACK_MODALITIES:
        return [Stack(name=name, slices=[one], is_volume=False) for one in sorted(members, key=lambda one: one.path)]
    if not placed:
        notes.append(f"{name}: slices without a position, in order of instance number")
    members = sorted(members, key=lambda one: _order(one, placed=placed))
    if placed and len(members) > 2:
        steps = np.diff([one.info.position_mm or 0.0 for one in members])
        steps = steps[steps >= SAME_PLACE_MM]
        typical = float(np.median(steps)) if len(steps) else 0.0
        gaps = int((steps > GAP * typical).sum())
        if gaps:
            notes.append(
                f"{name}: {gaps} gaps, up to {float(steps.max()):g} mm where {typical:g} mm is usual; slices are missing"
            )
    return [Stack(name=name, slices=members, is_volume=True)]


def _order(one: Slice, *, placed: bool) -> tuple[float, float, str]:
    number = one.info.instance_number
    return (
        (one.info.position_mm or 0.0) if placed else 0.0,
        float("inf") if number is None else float(number),
        str(one.path),
    )


def slice_spacing(stack: Stack) -> float | None:
    """Median distance of neighboring slices in mm, from their positions; else what the header says."""
    positions = [one.info.position_mm for one in stack.slices if one.info.position_mm is not None]
    if len(positions) == len(stack.slices) > 1:
        steps = np.diff(positions)
        steps = steps[steps >= SAME_PLACE_MM]
        if len(steps):
            return round(float(np.median(steps)), 6)
    spacing = stack.slices[0].info.spacing_mm
    return spacing[2] if spacing else None


def _items(stack: Stack, paired: dict[Path, Path]) -> Iterable[Item]:
    between = slice_spacing(stack) if stack.is_volume else None
    for number, one in enumerate(stack.slices):
        attributes = {}
        if stack.is_volume and one.info.frames is None:
            attributes["slice"] = f"{number:04d}"
            if between is not None:
                attributes["slice_spacing_mm"] = f"{between:g}"
        yield Item(
            path=one.path,
            mask=paired.get(one.path),
            patient=one.info.patient_id,
            patient_raw=True,
            attributes=attributes,
            volume=stack.name if stack.is_volume else None,
        )


def _assign_masks(stacks: list[Stack], masks: list[Path], *, notes: list[str]) -> tuple[dict[Path, Path], list[Path]]:
    """Give every mask folder to the series nearest to it; return slice -> mask and the masks left over."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for one in masks:
        folders[one.parent].append(one)
    paired: dict[Path, Path] = {}
    orphans: list[Path] = []
    for folder, members in sorted(folders.items()):
        found: dict[Path, Path] = {}
        near = _nearest(stacks, folder, len(members))
        if near is None:
            notes.append(
                f"{len(members)} masks in {folder.name}/ could belong to several series; put each series beside its masks"
            )
        for stack in near or []:
            pairs, how = pair_masks(stack.slices, members)
            if pairs:
                notes.append(
                    f"{stack.name}: {len(pairs)} of {len(stack.slices)} slices have a mask in {folder.name}/, paired by {how}"
                )
            elif how:
                notes.append(f"{stack.name}: masks in {folder.name}/ not used: {how}")
            found |= pairs
        paired |= found
        orphans += sorted(set(members) - set(found.values()))
    return paired, orphans


def _nearest(stacks: list[Stack], folder: Path, count: int) -> list[Stack] | None:
    """The stacks that a mask folder serves: those under its parent with the fewest steps; None if that is not clear.

    Several series may share one folder of masks where they show the same positions (in- and out-of-phase MR).
    """
    for base in (folder, *folder.parents):
        under = [one for one in stacks if one.slices[0].path.is_relative_to(base)]
        if not under:
            continue
        separate = [one for one in under if not one.is_volume]
        if separate:
            return [Stack(name="images", slices=[one.slices[0] for one in separate], is_volume=False)]
        fitting = [one for one in under if len(one.slices) == count] or under
        places = {tuple(round(one.info.position_mm or 0.0, 2) for one in stack.slices) for stack in fitting}
        return fitting if len(fitting) == 1 or len(places) == 1 else None
    return []


def pair_masks(slices: list[Slice], masks: list[Path]) -> tuple[dict[Path, Path], str]:
    """Pair the slices of one series with mask files.

    1. By name, if any mask is named like a slice (`0012.png`, `0012_mask.png` for `0012.dcm`).
    2. With as many masks as slices: the masks in order of the last number in their names with the slices in order of
       instance number.
    3. With fewer: the last number is the instance number, or one less if the masks count from 0.

    Returns:
        Slice path -> mask path, and how they were paired; an empty pairing comes with the reason.
    """
    by_name = {without_suffix(one.path.name): one.path for one in slices}
    named = {}
    for mask in masks:
        own = without_suffix(mask.name)
        partner = by_name.get(own) or by_name.get(image_stem(own) or "")
        if partner is not None:
            named[partner] = mask
    if named:
        return named, "name"
    numbers = {mask: _last_number(mask) for mask in masks}
    instances = [one.info.instance_number for one in slices]
    if None in numbers.values() or len(set(numbers.values())) < len(masks):
        return {}, "their names have no distinct numbers"
    if None in instances or len(set(instances)) < len(slices):
        return {}, "the slices have no distinct instance numbers"
    in_order = sorted(slices, key=lambda one: one.info.instance_number or 0)
    ordered = sorted(masks, key=lambda mask: numbers[mask] or 0)
    if len(masks) == len(slices):
        return {one.path: mask for one, mask in zip(in_order, ordered, strict=True)}, "instance number"
    offset = 1 if 0 in numbers.values() and 0 not in instances else 0
    by_instance = {one.info.instance_number: one.path for one in slices}
    pairs = {by_instance[key]: mask for mask in ordered if (key := (numbers[mask] or 0) + offset) in by_instance}
    return pairs, "instance number" if pairs else "their numbers are no instance numbers"


def _last_number(path: Path) -> int | None:
    found = re.findall(r"\d+", without_suffix(path.name))
    return int(found[-1]) if found else None
