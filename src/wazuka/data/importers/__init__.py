"""One source format per file; `wazuka import --kind auto` asks each whether it recognizes the source."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from wazuka.core.errors import DataError, unknown_name

if TYPE_CHECKING:
    from wazuka.data.importers.listing import ImportOptions, Listing

KINDS = {
    "table": "wazuka.data.importers.table",
    "medmnist": "wazuka.data.importers.medmnist",
    "midog": "wazuka.data.importers.midog",
    "ccmct": "wazuka.data.importers.ccmct",
    "breast-histopathology": "wazuka.data.importers.breast_histopathology",
    "isic-2018": "wazuka.data.importers.isic_2018",
    "isic-2017": "wazuka.data.importers.isic_2017",
    "aptos-2019": "wazuka.data.importers.aptos_2019",
    "nnunet": "wazuka.data.importers.nnunet",
    "nifti": "wazuka.data.importers.nifti",
    "dicom": "wazuka.data.importers.dicom",
    "image-mask": "wazuka.data.importers.image_mask",
    "folder": "wazuka.data.importers.folder",
    "images": "wazuka.data.importers.images",
}
"""Kind -> module, imported when it is asked."""

OUTRANKS = {
    "midog": ("ccmct", "table", "nnunet", "nifti", "dicom", "image-mask", "folder"),
    "ccmct": ("table", "nnunet", "nifti", "dicom", "image-mask", "folder"),
    "breast-histopathology": ("folder",),
    "isic-2018": ("table", "image-mask", "folder"),
    "isic-2017": ("table", "image-mask", "folder"),
    "aptos-2019": ("table", "image-mask", "folder"),
    "table": ("nnunet", "nifti", "dicom", "image-mask", "folder"),
    "nnunet": ("nifti", "image-mask", "folder"),
    "nifti": ("image-mask",),
    "dicom": ("image-mask", "folder"),
    "image-mask": ("folder",),
}
"""Where two kinds recognize one source, the more telling one: annotations of cells over their plain
images; a table names what a folder only holds; the PNG masks
beside a DICOM series are no images of their own; `images/` and `masks/` are no classes, nor are patients."""


class Importer(Protocol):
    """What each module of this package offers."""

    KIND: str

    def recognize(self, source: Path) -> str | None:
        """One clause on what was found ("a MedMNIST npz with 3 parts"); None if the source is not of this kind."""

    def read(self, source: Path, options: ImportOptions) -> Listing:
        """List the source."""


def importer(kind: str) -> Importer:
    """Import the module of one kind.

    Raises:
        ConfigError: If the kind is unknown; the nearest is offered.
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, ["auto", *KINDS], where="--kind")
    return cast(Importer, importlib.import_module(KINDS[kind]))


def recognize(source: Path) -> tuple[str, str]:
    """Ask every importer; return the kind and what it recognized.

    Raises:
        DataError: If none recognizes the source or several do.
    """
    found: dict[str, str] = {}
    for kind in KINDS:
        sentence = importer(kind).recognize(source)
        if sentence:
            found[kind] = sentence
    clear = [kind for kind in found if not any(kind in OUTRANKS.get(other, ()) for other in found)]
    known = ", ".join(KINDS)
    if not clear:
        raise DataError(f"{source} is of no known kind ({_contents(source)}); give --kind, one of {known}.")
    if len(clear) > 1:
        listed = "; ".join(f"{kind}: {found[kind]}" for kind in clear)
        raise DataError(f"{source} could be of several kinds ({listed}); choose one with --kind.")
    return clear[0], found[clear[0]]


def _contents(source: Path) -> str:
    """The commonest file endings, for the error."""
    from collections import Counter

    if source.is_file():
        return f"a {source.suffix or 'file without suffix'} file"
    counts: Counter[str] = Counter()
    for path in source.rglob("*"):
        if path.is_file():
            counts[path.suffix.lower() or "no suffix"] += 1
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(4)) or "no file in it"
