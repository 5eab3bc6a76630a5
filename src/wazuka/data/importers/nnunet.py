"""The nnU-Net raw layout and the Medical Segmentation Decathlon: `dataset.json`, `imagesTr`, `labelsTr`, `imagesTs`.

`wazuka import FOLDER --kind nnunet`. Labels are read in both forms, `{"0": "background"}` (version 1, Decathlon) and
`{"background": 0}` (version 2). Image files may carry the channel suffix `_0000`. Cases of `imagesTs` become unlabeled rows
(labeled ones if `labelsTs` is there); the attribute `part` (train, test) keeps the origin. One channel per case is read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from wazuka.core.errors import DataError
from wazuka.data.formats.sidecar import declared_modality
from wazuka.data.importers.listing import ImportOptions, Item, Listing, find_files
from wazuka.data.importers.nifti import listed

KIND = "nnunet"
PARTS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))


def recognize(source: Path) -> str | None:
    """Recognize a folder with `dataset.json` and `imagesTr`."""
    if not (source / "dataset.json").is_file() or not (source / "imagesTr").is_dir():
        return None
    description = _description(source)
    counts = [
        f"{len(list(_files(source / folder, description)))} in {folder}"
        for folder, _, _ in PARTS
        if (source / folder).is_dir()
    ]
    return f"an nnU-Net dataset, images: {', '.join(counts)}"


def read(source: Path, options: ImportOptions) -> Listing:
    """List the cases of both parts.

    Raises:
        DataError: If `dataset.json` is damaged, there are several channels, or a label is a region.
    """
    del options
    if not (source / "dataset.json").is_file() or not (source / "imagesTr").is_dir():
        raise DataError(
            f"{source} has no dataset.json with an imagesTr folder; give the folder of one nnU-Net dataset."
        )
    description = _description(source)
    channels = description.get("channel_names", description.get("modality", {"0": "image"}))
    names = [str(one) for one in (channels.values() if isinstance(channels, dict) else [channels])]
    if len(names) != 1:
        raise DataError(
            f"{source}/dataset.json has {len(names)} channels ({', '.join(names)}); one channel per case can be read, so make a dataset with the one to use."
        )
    items: list[Item] = []
    notes: list[str] = []
    orphans: list[Path] = []
    for folder, label_folder, part in PARTS:
        found = _files(source / folder, description)
        labels = {_case(one, description): one for one in _files(source / label_folder, description)}
        cases: dict[str, Path] = {}
        for one in found:
            case = _case(one, description)
            if case in cases:
                raise DataError(
                    f"{source}/{folder} has the case {case} twice ({cases[case].name}, {one.name}); keep one channel per case."
                )
            cases[case] = one
        items += [
            Item(path=one, mask=labels.get(case), patient=case, volume=case, attributes={"part": part})
            for case, one in cases.items()
        ]
        left = [one for case, one in labels.items() if case not in cases]
        alone = [one for case, one in cases.items() if case not in labels]
        if alone and part == "train":
            notes.append(f"{len(alone)} training cases without a label, kept as unlabeled: {listed(alone, source)}")
        elif alone:
            notes.append(f"{len(alone)} test cases without a label, kept as unlabeled")
        orphans += left
    if not items:
        raise DataError(
            f"{source}/imagesTr holds no file ending in `{_ending(description)}`; check `file_ending` in dataset.json."
        )
    return Listing(
        items=items,
        attribute_sources={"part": "nnU-Net folder"},
        orphan_masks=[one.relative_to(source).as_posix() for one in orphans],
        notes=notes,
        patient_source="volume",
        task="segmentation" if any(one.mask for one in items) else None,
        license=next((str(description[key]) for key in ("licence", "license") if description.get(key)), None),
        modality=declared_modality(Path(items[0].path)),
        name=str(description["name"]) if description.get("name") else None,
        structures=structures(description.get("labels", {}), where=f"{source}/dataset.json"),
    )


def structures(labels: Any, *, where: str) -> dict[int, str]:
    """Turn the `labels` of a dataset.json, in either form, into value -> structure without the background.

    >>> structures({"0": "background", "1": "Anterior"}, where="x"), structures({"background": 0, "liver": 1}, where="x")
    ({1: 'Anterior'}, {1: 'liver'})

    Raises:
        DataError: If a label is a region (a list of values) or has no number.
    """
    if not isinstance(labels, dict):
        raise DataError(
            f"{where} has labels `{labels}`; a mapping such as {{'background': 0, 'liver': 1}} is expected."
        )
    found: dict[int, str] = {}
    for key, value in labels.items():
        if isinstance(value, list):
            raise DataError(
                f"{where} has the label `{key}` as a region of {value}; labels with one value each can be read."
            )
        number, name = (key, value) if str(key).lstrip("-").isdigit() else (value, key)
        if not str(number).lstrip("-").isdigit():
            raise DataError(f"{where} has the label `{key}: {value}` without a number; write 'liver': 1.")
        if int(number) != 0 and str(name).lower() != "ignore":
            found[int(number)] = str(name)
    return dict(sorted(found.items()))


def _description(source: Path) -> dict[str, Any]:
    path = source / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); mend it or import with --kind nifti.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; a mapping with `labels` is expected.")
    return content


def _ending(description: dict[str, Any]) -> str:
    return str(description.get("file_ending", ".nii.gz"))


def _files(folder: Path, description: dict[str, Any]) -> list[Path]:
    return (
        [one for one in find_files(folder, (_ending(description).lower(),)) if one.parent == folder]
        if folder.is_dir()
        else []
    )


def _case(path: Path, description: dict[str, Any]) -> str:
    """Case name: without ending and, for images, without the channel suffix."""
    name = path.name[: -len(_ending(description))]
    return re.sub(r"_\d{4}$", "", name) if path.parent.name.startswith("images") else name
