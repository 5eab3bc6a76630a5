"""Files that are whole or absent: written to `NAME.part`, flushed, then renamed; `record.json` comes last.

A step's folder without `record.json` is unfinished and is made again; a finished one is never touched.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from wazuka.core.errors import ArtifactError, OutOfSpace
from wazuka.core.hashing import to_plain

if TYPE_CHECKING:
    import pandas as pd

RECORD = "record.json"


@contextmanager
def writing(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open `path` for writing so that it appears whole or not at all, even if the process is killed.

    Raises:
        OutOfSpace: If the disk is full; the partial file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        umask = os.umask(0)  # mkstemp makes files only the owner can read; keep the user's own permissions instead
        os.umask(umask)
        os.fchmod(handle, 0o666 & ~umask)
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise out_of_space(path) from error
        if error.filename is None:
            error.filename = str(path)  # a failed write names no file by itself
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def out_of_space(path: Path) -> OutOfSpace:
    """Build the error for a full disk, naming the folder and what is free there."""
    folder = next(one for one in [Path(path), *Path(path).parents] if one.exists())
    free = shutil.disk_usage(folder).free / 2**20
    return OutOfSpace(
        f"No space left to write {path} ({free:.0f} MiB free); free some room or choose another --out or --cache folder."
    )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with writing(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write plain values, dataclasses or mappings as indented JSON, atomically; NaN is refused."""
    write_text(path, json.dumps(to_plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON mapping; a damaged file is an ArtifactError that names it."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; give a folder that a finished Wazuka command wrote.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}); remove the folder and run the command again."
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{path} holds {type(value).__name__}, not a mapping; remove the folder and run the command again."
        )
    return value


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, atomically and without the index."""
    with writing(path) as file:
        table.to_parquet(file, index=False, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet table; a missing or damaged file is an ArtifactError that names it."""
    import pandas as pd

    try:
        return pd.read_parquet(path, columns=columns)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; give a folder that a finished Wazuka command wrote.") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not a readable Parquet table ({error}); make it again.") from error


def is_finished(folder: Path) -> bool:
    """Tell whether a step's folder is finished: it has a `record.json`."""
    return (Path(folder) / RECORD).is_file()


def finish(folder: Path, record: dict[str, Any]) -> None:
    """Mark a step's folder as finished by writing its record, last."""
    write_json(Path(folder) / RECORD, record)


def clear_unfinished(folder: Path, *, keep: tuple[str, ...] = ("checkpoint",)) -> None:
    """Empty an unfinished step's folder, keeping files whose name starts with one of `keep` (to go on from).

    Raises:
        ArtifactError: If the folder is finished: that is never undone.
    """
    folder = Path(folder)
    if is_finished(folder):
        raise ArtifactError(f"{folder} is finished; it is not made again unless you remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.name.startswith(keep):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
