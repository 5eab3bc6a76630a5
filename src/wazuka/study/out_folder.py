"""Whether a command may write into the folder that the user named: an empty one, or its own unfinished work."""

from __future__ import annotations

from pathlib import Path

from wazuka.core.errors import DataError
from wazuka.core.records import is_finished, read_json
from wazuka.data.manifest import Dataset

KEY_FILE = "checkpoint.key"
"""Says whose checkpoints lie in an unfinished folder; by its name it is kept when that is cleared."""


def check_out(out: Path, folder: Path, key: str, dataset: Dataset) -> None:
    """Refuse a folder with something else in it, or one inside what is never written to.

    Args:
        out: What the user named.
        folder: Where the step keeps its record and checkpoints, `out` or a folder in it.
        key: Of the step.
        dataset: What it reads.

    Raises:
        DataError: If `out` is a file, lies inside the dataset or its images, or holds anything but this step's work.
    """
    if out.is_file():
        raise DataError(f"{out} is a file; give a folder as --out.")
    for one in (dataset.folder, Path(dataset.card.root)):
        if one.is_dir() and out.resolve().is_relative_to(one.resolve()):
            raise DataError(f"--out {out} lies inside {one}, which is never written to; choose a folder outside of it.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    theirs = None
    if is_finished(folder):
        theirs = read_json(folder / "record.json").get("key")
    elif (folder / KEY_FILE).is_file():
        theirs = (folder / KEY_FILE).read_text(encoding="utf-8")
    if theirs != key:
        raise DataError(f"{out} is not empty; choose another --out.")
