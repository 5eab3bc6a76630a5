"""MIDOG 2021, MIDOG 2022 and MIDOG++: TIFF images of 2 mm2 and one JSON of annotations (Aubreville et al. 2023, Medical Image
Analysis 84:102699, and Scientific Data 10:484): `wazuka import SOURCE --kind midog --patch-um 16 --out DATASET`.

The JSON looks like COCO (`info, licenses, images, categories, annotations`), but a `bbox` is x1, y1, x2, y2: 50 x 50 pixels
around the cell, that may overhang the image. Each image is one case. MIDOG++ gives each image's `tumor_type`; scanners, and
the tumor types of MIDOG 2022, are published by ranges of file numbers (`EDITIONS`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from wazuka.core.errors import DataError
from wazuka.data.annotated import CLASSES, MITOSIS, Annotated, Locator, class_of, listing
from wazuka.data.importers.listing import ImportOptions, Listing

KIND = "midog"
MOST_JSON = 50
"""A folder with more JSON files holds sidecars of images, not annotations of all."""
XR, S360, CS2, GT450, HISTECH = "Hamamatsu XR", "Hamamatsu S360", "Aperio CS2", "Leica GT450", "3DHistech"
MICRONS = {XR: 0.23, S360: 0.23, CS2: 0.25, GT450: 0.26, HISTECH: 0.25}
"""Published microns per pixel. The regions of 2 mm2 agree with them: sqrt(2 mm2 / pixels) has the medians 0.226, 0.229, 0.252,
0.263 and 0.248 over the images of each scanner in the published JSON."""
_BREAST = (
    (1, 50, "human breast cancer", XR),
    (51, 100, "human breast cancer", S360),
    (101, 150, "human breast cancer", CS2),
)
EDITIONS: dict[str, tuple[tuple[int, int, str, str], ...]] = {
    "MIDOG 2021": (*_BREAST, (151, 200, "human breast cancer", GT450)),
    "MIDOG 2022": (
        *_BREAST,
        (151, 194, "canine lung cancer", HISTECH),
        (195, 249, "canine lymphoma", HISTECH),
        (250, 299, "canine cutaneous mast cell tumor", CS2),
        (300, 354, "human neuroendocrine tumor", XR),
        (355, 405, "human melanoma", XR),
    ),
    "MIDOG++": (
        *_BREAST,
        (151, 200, "human breast cancer", GT450),
        (201, 244, "canine lung cancer", HISTECH),
        (245, 299, "canine lymphoma", HISTECH),
        (300, 349, "canine cutaneous mast cell tumor", CS2),
        (350, 404, "human neuroendocrine tumor", XR),
        (405, 504, "canine soft tissue sarcoma", HISTECH),
        (505, 553, "human melanoma", XR),
    ),
}
"""Edition -> first and last file number, tumor type, scanner."""


def recognize(source: Path) -> str | None:
    """A JSON with images, boxes and a category of mitotic figures, given itself or in a folder."""
    found = _annotation_files(source)
    if not found:
        return None
    if len(found) > 1:
        return f"{len(found)} files of MIDOG annotations ({found[0][0].name}, {found[1][0].name})"
    path, content = found[0]
    return f"MIDOG annotations {path.name} of {len(content['images']):,} images ({len(content['annotations']):,} cells)"


def _annotation_files(source: Path) -> list[tuple[Path, dict[str, Any]]]:
    if source.is_file():
        paths = [source] if source.suffix.lower() == ".json" else []
    else:
        paths = sorted(one for pattern in ("*.json", "*/*.json") for one in source.glob(pattern) if one.is_file())
    found = []
    for path in paths if len(paths) <= MOST_JSON else []:
        try:
            content = _load(path)
        except DataError:
            continue
        names = [one.get("name") for one in content["categories"] if isinstance(one, dict)]
        if any(isinstance(name, str) and class_of(name) == MITOSIS for name in names):
            found.append((path, content))
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path} is no readable JSON ({reason}); download the annotations again.") from error
    for name in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{path} has no list `{name}`; MIDOG annotations hold images, categories and annotations.")
    return dict(content)


def read(source: Path, options: ImportOptions) -> Listing:
    """List one row per annotated cell.

    Raises:
        DataError: If there is not one file of annotations, or an entry of it is wrong.
    """
    path, content = _only(source)
    root = source if source.is_dir() else source.parent
    notes: list[str] = []
    classes = _categories(content, path)
    images = _images(content, path)
    cells: dict[Any, list[tuple[float, float, str, str]]] = {key: [] for key in images}
    others: Counter[str] = Counter()
    for number, one in enumerate(content["annotations"]):
        key, name, center = _annotation(one, number, images=images, classes=classes, path=path)
        label = class_of(name)
        if label is None:
            others[name] += 1
        else:
            cells[key].append((*center, label, str(one.get("id", number))))
    if others:
        counted = ", ".join(f"{name} {count}" for name, count in sorted(others.items()))
        notes.append(f"{sum(others.values())} annotations of other classes are left out: {counted}")
    edition = _edition(content, path)
    notes.append(
        f"tumor types and scanners by file number as published for {edition}"
        if edition
        else "no known edition of MIDOG: tumor types and scanners only where the JSON says them"
    )
    annotated = [_annotated(images[key], cells[key], edition=edition, path=path) for key in images]
    return listing(
        _with_domain(annotated, notes=notes),
        Locator(root, path.parent, where=path.name),
        options=options,
        notes=notes,
        license=_license(content),
    )


def _only(source: Path) -> tuple[Path, dict[str, Any]]:
    if source.is_file():
        return source, _load(source)
    found = _annotation_files(source)
    if len(found) != 1:
        names = ", ".join(path.name for path, _ in found[:5]) or "none"
        raise DataError(
            f"{source} holds {len(found)} files of MIDOG annotations ({names}), not one; leave one in it, beside or above its images."
        )
    return found[0]


def _categories(content: dict[str, Any], path: Path) -> dict[Any, str]:
    """Category id -> name."""
    classes: dict[Any, str] = {}
    for one in content["categories"]:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or not _is_id(one.get("id")):
            raise DataError(f"{path} has the category {str(one)[:80]}; a category has an id and a name.")
        classes[one["id"]] = one["name"]
    if not {class_of(name) for name in classes.values()} >= set(CLASSES):
        raise DataError(
            f"{path} has the categories {', '.join(classes.values()) or 'none'}; a mitotic figure and a hard negative are needed."
        )
    return classes


def _images(content: dict[str, Any], path: Path) -> dict[Any, dict[str, Any]]:
    """Image id -> entry."""
    images: dict[Any, dict[str, Any]] = {}
    for one in content["images"]:
        if not isinstance(one, dict) or not isinstance(one.get("file_name"), str) or not _is_id(one.get("id")):
            raise DataError(f"{path} has the image {str(one)[:80]}; an image has an id and a file_name.")
        if one["id"] in images:
            raise DataError(f"{path} has the image id {one['id']} twice; ids must differ.")
        images[one["id"]] = one
    return images


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _annotation(
    one: Any, number: int, *, images: dict[Any, Any], classes: dict[Any, str], path: Path
) -> tuple[Any, str, tuple[float, float]]:
    """Image id, category name and center (y, x) of one annotation."""
    if not isinstance(one, dict) or not _is_id(one.get("image_id")) or not _is_id(one.get("category_id")):
        raise DataError(f"{path} has the annotation {str(one)[:80]}; it needs an image_id, a category_id and a bbox.")
    what = f"Annotation {one.get('id', number)} of {path}"
    if one["image_id"] not in images:
        raise DataError(f"{what} is of image {one['image_id']}, which is not among its images; download it again.")
    if one["category_id"] not in classes:
        raise DataError(f"{what} has the category {one['category_id']}; known are {', '.join(map(str, classes))}.")
    box = one.get("bbox")
    if (
        not isinstance(box, list)
        or len(box) != 4
        or not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in box)
        or box[2] <= box[0]
        or box[3] <= box[1]
    ):
        raise DataError(
            f"{what} has the bbox {str(box)[:60]}; it is x1, y1, x2, y2 in pixels with x1 < x2 and y1 < y2, not COCO's x, y, width, height."
        )
    return one["image_id"], classes[one["category_id"]], ((box[1] + box[3]) / 2, (box[0] + box[2]) / 2)


def _edition(content: dict[str, Any], path: Path) -> str | None:
    """The edition that the JSON's description, else its name, tells."""
    info = content.get("info")
    described = str(info.get("description", "")) if isinstance(info, dict) else ""
    for text in (described, path.stem):
        if re.search(r"MIDOG\s*(\+\+|pp)", text, re.IGNORECASE):
            return "MIDOG++"
        year = re.search(r"202[12]", text)
        if year and re.search(r"MIDOG", text, re.IGNORECASE):
            return f"MIDOG {year.group()}"
    return None


def _annotated(
    image: dict[str, Any], cells: list[tuple[float, float, str, str]], *, edition: str | None, path: Path
) -> Annotated:
    stem = Path(image["file_name"]).stem
    number = int(stem) if re.fullmatch(r"[0-9]{1,6}", stem) else 0
    tumor = scanner = None
    for first, last, its_tumor, its_scanner in EDITIONS.get(edition or "", ()):
        if first <= number <= last:
            tumor, scanner = its_tumor, its_scanner
    given = next((image[name] for name in ("tumor_type", "tumortype") if isinstance(image.get(name), str)), None)
    scanner = image["scanner"] if isinstance(image.get("scanner"), str) else scanner
    return Annotated(
        name=image["file_name"],
        centers=np.array([cell[:2] for cell in cells], np.float64).reshape(-1, 2),
        labels=tuple(cell[2] for cell in cells),
        numbers=tuple(cell[3] for cell in cells),
        attributes={"tumor_type": given or tumor, "scanner": scanner},
        size=_size(image, path),
        microns=_given_microns(image, path),
        published_microns=MICRONS.get(scanner or ""),
    )


def _size(image: dict[str, Any], path: Path) -> tuple[int, int] | None:
    size = (image.get("height"), image.get("width"))
    if size == (None, None):
        return None
    if not all(isinstance(one, int) and one > 0 for one in size):
        raise DataError(f"{path} says that {image['file_name']} is {size[0]} x {size[1]} pixels; give whole numbers.")
    return (int(size[0] or 0), int(size[1] or 0))


def _given_microns(image: dict[str, Any], path: Path) -> float | None:
    """`mpp` or `microns_per_pixel` of an image, which the published files do not have, but users may add."""
    value = image.get("mpp", image.get("microns_per_pixel"))
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise DataError(f"{path} gives {image['file_name']} {value} microns per pixel; give a positive number.")
    return float(value)


def _with_domain(images: list[Annotated], *, notes: list[str]) -> list[Annotated]:
    """The domain is the tumor type where annotated images have several, else the scanner."""
    import dataclasses

    for name, said in (("tumor_type", "tumor type"), ("scanner", "scanner")):
        found = {one.attributes[name] for one in images if one.labels} - {None}
        if len(found) > 1:
            notes.append(f"domain is the {said} ({len(found)})")
            return [dataclasses.replace(one, domain=one.attributes[name]) for one in images]
    return images


def _license(content: dict[str, Any]) -> str | None:
    licenses = content.get("licenses")
    first = licenses[0] if isinstance(licenses, list) and licenses else None
    return str(first["name"]) if isinstance(first, dict) and first.get("name") else None
