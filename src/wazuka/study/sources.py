"""From what a user points at to a dataset: a dataset folder as it is, anything else imported into the run folder."""

from __future__ import annotations

from pathlib import Path

from wazuka.core.errors import ArtifactError
from wazuka.core.progress import say
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.manifest import Dataset, load


def as_dataset(source: Path, run: Path) -> Path:
    """Return the dataset folder of a source, importing it into `RUN/dataset/` where it is not one yet.

    Raises:
        ArtifactError: If `RUN/dataset/` was imported from another source.
    """
    if (source / "dataset.yaml").is_file():
        return source
    folder = run / "dataset"
    if (folder / "dataset.yaml").is_file():
        root = Path(load(folder).card.source)
        if root != source.resolve():
            raise ArtifactError(
                f"{folder} was imported from {root}, not from {source.resolve()}; choose another --out."
            )
        return folder
    dataset = import_dataset(source, folder, options=ImportOptions())
    for line in summary_lines(dataset):
        say(line)
    return folder


def summary_lines(dataset: Dataset) -> list[str]:
    """What an import found, in a few lines."""
    card, manifest = dataset.card, dataset.manifest
    usable = dataset.usable
    lines = [f"Recognized: {card.imported.get('recognized', card.imported.get('kind', 'as asked'))}."]
    volumes = (
        f" in {usable['volume'].nunique()} volumes" if "volume" in usable and usable["volume"].notna().any() else ""
    )
    lines.append(
        f"{len(usable)} images{volumes}, {int(usable['label'].notna().sum())} with a label,"
        f" {int(usable['mask'].notna().sum())} with a mask, {usable['patient'].nunique()} patients (from: {card.patient_source})."
    )
    if card.classes:
        counts = usable["label"].value_counts()
        each = ", ".join(f"{name} {int(counts.get(name, 0))}" for name in card.classes)
        positive = f"; positive: {card.positive}" if card.positive else ""
        lines.append(f"Classes: {each}{positive}.")
    domains = usable["domain"].dropna()
    if len(domains):
        lines.append(
            "Domains: " + ", ".join(f"{name} {n}" for name, n in domains.value_counts().sort_index().items()) + "."
        )
    quarantined = manifest[manifest["status"] == "quarantined"]
    if len(quarantined):
        first = quarantined.iloc[0]
        lines.append(f"{len(quarantined)} images quarantined, the first: {first['id']}: {first['reason']}.")
    orphans = card.imported.get("orphan_masks", [])
    if orphans:
        lines.append(f"{len(orphans)} masks without an image: {', '.join(map(str, orphans[:5]))}.")
    lines += [str(note) for note in card.imported.get("notes", [])]
    return lines
