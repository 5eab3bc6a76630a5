"""What stands beside an image: a BIDS-like JSON of the same name, or the `dataset.json` of an nnU-Net or Decathlon folder.

Only keys of an allow-list are read, so names and dates in a sidecar never reach a manifest.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from wazuka.data.formats.tags import age_group, clean, flag, laterality, sex

MAX_BYTES = 10 * 2**20
"""A larger JSON is no sidecar."""

_MODALITIES = {
    "CT": "CT", "COMPUTED TOMOGRAPHY": "CT", "MR": "MR", "MRI": "MR", "MAGNETIC RESONANCE": "MR", "US": "US", "ULTRASOUND": "US",
    "T1": "MR", "T1W": "MR", "T1C": "MR", "T1CE": "MR", "T1GD": "MR", "T2": "MR", "T2W": "MR", "FLAIR": "MR", "DWI": "MR", "ADC": "MR", "PD": "MR",
    "PET": "PT", "PT": "PT", "X-RAY": "DX", "XR": "DX", "DX": "DX", "CR": "CR", "MG": "MG",
}  # fmt: skip

_KEYS = {
    "PatientSex": ("sex", sex), "Sex": ("sex", sex), "sex": ("sex", sex),
    "PatientAge": ("age_group", age_group), "Age": ("age_group", age_group), "age": ("age_group", age_group),
    "ViewPosition": ("view", clean), "Manufacturer": ("maker", clean),
    "ManufacturerModelName": ("scanner", clean), "ManufacturersModelName": ("scanner", clean),
    "BodyPartExamined": ("body_part", clean), "BodyPart": ("body_part", clean),
    "Laterality": ("laterality", laterality), "ImageLaterality": ("laterality", laterality),
    "ContrastBolusAgent": ("contrast", flag), "ContrastBolusIngredient": ("contrast", flag),
    "MagneticFieldStrength": ("field_strength_t", clean), "SliceThickness": ("slice_thickness_mm", clean),
    "ConvolutionKernel": ("kernel", clean),
}  # fmt: skip
"""Key of a sidecar -> attribute and what cleans its value."""


def stem(path: Path) -> str:
    """File name without its suffix, `.nii.gz` counting as one.

    >>> stem(Path("a/case_1.nii.gz")), stem(Path("b.c.png"))
    ('case_1', 'b.c')
    """
    name = Path(path).name
    if name.lower().endswith((".nii.gz", ".ome.tif", ".ome.tiff")):
        name = name.rsplit(".", 1)[0]
    return name.rsplit(".", 1)[0] if "." in name.lstrip(".") else name


def attributes(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Read the allow-listed attributes of a file's own sidecar: values and their sources; empty without one."""
    content = _own(path)
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for key, (name, cleaner) in _KEYS.items():
        if key not in content or name in values:
            continue
        value = content[key]
        value = cleaner(str(value[0] if isinstance(value, list) and value else value))
        if value is not None:
            values[name], sources[name] = value, f"sidecar {key}"
    return values, sources


def declared_modality(path: Path) -> str | None:
    """The modality that the file's sidecar, or the `dataset.json` one folder up, gives; None where neither speaks."""
    own = _own(path).get("Modality")
    if own is not None:
        return _MODALITIES.get(str(own).strip().upper())
    above = _read(Path(path).parent.parent / "dataset.json")
    channels = above.get("channel_names", above.get("modality"))
    first = channels.get("0") if isinstance(channels, dict) else channels
    return _MODALITIES.get(str(first).strip().upper()) if isinstance(first, str) else None


def _own(path: Path) -> dict[str, Any]:
    return _read(Path(path).parent / f"{stem(path)}.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        state = path.stat()
    except OSError:
        return {}
    if state.st_size > MAX_BYTES:
        return {}
    return _parsed(str(path), state.st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(path: str, changed: int) -> dict[str, Any]:
    del changed  # part of the cache's key only
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # a JSON file that only happens to share the name
    return content if isinstance(content, dict) else {}
