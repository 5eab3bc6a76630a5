"""Decoding for the pixel cache in parallel processes: jobs that open each file once and write their rows in place.

The result does not depend on the number of processes: each row is written by exactly one job, from its own file (or, for
16-bit and MR volumes, from all slices of its volume, which are one job because they share their scale).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wazuka.core import threads
from wazuka.core.errors import DataError
from wazuka.core.hashing import hash_pixels
from wazuka.core.progress import track
from wazuka.data.intensity import SCALED, Scale, to_stored, volume_scale
from wazuka.data.manifest import Dataset
from wazuka.data.patches import cut
from wazuka.data.transform import ImageTransform, Spacing

JOB_ROWS = 64
"""Rows of small files that one job takes together, so that handing out jobs costs little."""
JOB_BYTES = 256 * 2**20
"""Native pixels (as 4 bytes a value) that a job may hold; a volume that is scaled as a whole may need more."""
WORTH_PROCESSES = 6.0
"""Estimated seconds of decoding from which several processes pay: starting them costs each about two."""
SECONDS_PER_ROW, SECONDS_PER_BYTE = 2e-3, 5e-9
"""Rough costs for that estimate, bytes counted as in `JOB_BYTES`."""
PATCH = ("patch_y", "patch_x", "patch_px")


@dataclass(frozen=True)
class Row:
    """One row of the cache."""

    number: int
    name: str
    """Path in the manifest, for messages."""
    path: Path
    frame: int | None
    mask: Path | None
    sha256: str | None
    spacing_mm: Spacing
    group: str
    """Rows of one group are scaled together; a row id where each image is scaled by itself."""
    patch: dict[str, int] | None


@dataclass(frozen=True)
class Job:
    """Rows that one process decodes and writes."""

    rows: tuple[Row, ...]
    folder: Path
    transform: ImageTransform
    intensity: str
    mask_values: dict[int, int]
    structures: tuple[int, ...]
    size: int
    """Native pixels in bytes, as 4 bytes a value."""


@dataclass
class Outcome:
    """What jobs report."""

    misfits: list[tuple[int, str, str]] = field(default_factory=list)
    """(row, "image" or "mask", reason)"""
    scales: list[tuple[str, float, float]] = field(default_factory=list)
    """(group, value that became 0, value that became 255)"""
    unchanged: list[int] = field(default_factory=list)
    """Rows whose stains could not be normalized."""
    failure: str | None = None
    """Why the build must stop."""

    def add(self, other: Outcome) -> None:
        """Add another job's report."""
        self.misfits += other.misfits
        self.scales += other.scales
        self.unchanged += other.unchanged


def plan_jobs(dataset: Dataset, rows: pd.DataFrame, transform: ImageTransform, *, folder: Path) -> list[Job]:
    """Cut the usable rows of a dataset into jobs: a file, or a volume that is scaled as a whole, is not torn apart."""
    card = dataset.card
    together: dict[tuple[str, ...], list[tuple[Row, int]]] = {}
    with_patches = all(name in rows.columns for name in PATCH)
    for number, record in enumerate(rows.to_dict("records")):
        row = _row(dataset, record, number=number, with_patches=with_patches)
        scaled = card.intensity in SCALED and record.get("volume") is not None and not pd.isna(record["volume"])
        values = 1 if pd.isna(record["height"]) or pd.isna(record["width"]) else record["height"] * record["width"]
        channels = 3 if card.intensity == "rgb8" else 1
        key: tuple[str, ...] = ("volume", row.group) if scaled else ("file", row.name)
        together.setdefault(key, []).append((row, 4 * channels * int(values)))
    settings: dict[str, Any] = {
        "folder": folder,
        "transform": transform,
        "intensity": card.intensity,
        "mask_values": card.mask_values,
        "structures": tuple(card.structures),
    }
    jobs: list[Job] = []
    gathered: list[Row] = []
    held = 0
    for key, members in together.items():
        size = sum(one for _, one in members)
        if gathered and (len(gathered) + len(members) > JOB_ROWS or held + size > JOB_BYTES):
            jobs.append(Job(rows=tuple(gathered), size=held, **settings))
            gathered, held = [], 0
        if size > JOB_BYTES and key[0] == "file" and members[0][0].patch is None:
            per_job = max(1, JOB_BYTES // max(one for _, one in members))
            for start in range(0, len(members), per_job):
                part = members[start : start + per_job]
                jobs.append(Job(rows=tuple(one for one, _ in part), size=sum(one for _, one in part), **settings))
            continue
        gathered += [one for one, _ in members]
        held += size
    if gathered:
        jobs.append(Job(rows=tuple(gathered), size=held, **settings))
    return jobs


def _row(dataset: Dataset, record: dict[Any, Any], *, number: int, with_patches: bool) -> Row:
    def given(name: str) -> Any:
        value = record.get(name)
        return None if value is None or pd.isna(value) else value

    frame, mask, volume = given("frame"), given("mask"), given("volume")
    patch = {name: int(record[name]) for name in PATCH} if with_patches and given("patch_px") is not None else None
    single = f"{record['path']}#{frame}" if frame is not None else str(record["path"])
    return Row(
        number=number,
        name=str(record["path"]),
        path=dataset.path_of(record["path"]),
        frame=None if frame is None else int(frame),
        mask=None if mask is None else dataset.path_of(mask),
        sha256=given("sha256"),
        spacing_mm=record["spacing_mm"],
        group=str(volume) if volume is not None else single,
        patch=patch,
    )


def decode_all(jobs: Sequence[Job], *, workers: int | None) -> Iterator[Outcome]:
    """Run the jobs, in this process or in several, and yield their reports as they come.

    Raises:
        DataError: At the first file that changed or cannot be read, or if a process dies.
    """
    workers = min(workers or threads.allowed(), len(jobs))
    estimate = sum(len(job.rows) * SECONDS_PER_ROW + job.size * SECONDS_PER_BYTE for job in jobs)
    # A Dask worker is a daemon and may not have children; it decodes by itself.
    if workers < 2 or estimate < WORTH_PROCESSES or multiprocessing.current_process().daemon:
        for job in track(jobs, "Decoding images"):
            yield _or_raise(run(job))
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        waiting = [pool.submit(run, job) for job in jobs]
        for one in track(as_completed(waiting), "Decoding images", total=len(jobs)):
            yield _or_raise(one.result())
    except BrokenProcessPool as error:
        raise DataError(
            f"A decoding process died, most likely for want of memory; use fewer than {workers} workers (or, from a "
            'script of your own, start it under `if __name__ == "__main__":`).'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _or_raise(outcome: Outcome) -> Outcome:
    if outcome.failure is not None:
        raise DataError(outcome.failure)
    return outcome


def _start_worker() -> None:
    """Hold a worker to one thread, and end it with its parent: one that was killed leaves nobody writing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers in order
    threads.limit(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run(job: Job) -> Outcome:
    """Decode, verify, scale, transform and write the rows of one job."""
    outcome = Outcome()
    images = np.load(job.folder / "images.npy", mmap_mode="r+", allow_pickle=False)
    try:
        for group in _groups(job):
            native = _decode(group)
            _write_images(job, group, native, images, outcome)
            _write_masks(job, [one for one in group if one.mask is not None], native, outcome)
    except _Stop as error:
        outcome.failure = str(error)
    images.flush()
    return outcome


class _Stop(Exception):
    """The build must stop; the text is the message for the user."""


def _groups(job: Job) -> Iterator[list[Row]]:
    """Rows to hold in memory at the same time: a volume that is scaled as a whole, else a file."""
    found: dict[str, list[Row]] = {}
    for row in job.rows:
        found.setdefault(row.group if job.intensity in SCALED else row.name, []).append(row)
    yield from found.values()


def _decode(rows: Sequence[Row]) -> dict[tuple[Path, int | None], np.ndarray]:
    """Native images by (path, frame), each file opened once, each row's pixels compared with those of the import."""
    from wazuka.data import decode

    files: dict[Path, dict[int | None, None]] = {}
    for row in rows:
        files.setdefault(row.path, {})[row.frame] = None
    native: dict[tuple[Path, int | None], np.ndarray] = {}
    for path, frames in files.items():
        try:
            decoded = decode.decode(path, list(frames))
        except (decode.DecodeError, OSError) as error:
            raise _Stop(
                f"{path} could be read when it was imported, but no longer ({error}); restore it or import again."
            ) from error
        native.update(zip([(path, frame) for frame in frames], decoded, strict=True))
    for row in rows:
        if row.sha256 is not None and hash_pixels(_cut(native[row.path, row.frame], row)) != row.sha256:
            where = f" (frame {row.frame})" if row.frame is not None else ""
            raise _Stop(f"{row.path}{where} changed since it was imported; import the data again.")
    return native


def _write_images(
    job: Job,
    rows: Sequence[Row],
    native: dict[tuple[Path, int | None], np.ndarray],
    images: np.ndarray,
    outcome: Outcome,
) -> None:
    scale: Scale | None = None
    if job.intensity in SCALED:
        try:
            scale = volume_scale(list(native.values()))
        except DataError as error:
            outcome.misfits += [(row.number, "image", _reason(error)) for row in rows]
            return
        outcome.scales.append((rows[0].group, *scale))
    for row in rows:
        try:
            stored = to_stored(_cut(native[row.path, row.frame], row), job.intensity, scale=scale)
            images[row.number], note = job.transform.apply_noting(stored, row.spacing_mm)
        except DataError as error:
            outcome.misfits.append((row.number, "image", _reason(error)))
            continue
        if note is not None:
            outcome.unchanged.append(row.number)


def _write_masks(
    job: Job, rows: Sequence[Row], native: dict[tuple[Path, int | None], np.ndarray], outcome: Outcome
) -> None:
    if not rows:
        return
    from wazuka.data import decode

    masks = np.load(job.folder / "masks.npy", mmap_mode="r+", allow_pickle=False)
    failed = {number for number, what, _ in outcome.misfits if what == "image"}
    files: dict[Path, list[Row]] = {}
    for row in rows:
        if row.mask is not None and row.number not in failed:
            files.setdefault(row.mask, []).append(row)
    for path, members in files.items():
        try:
            framed = any(row.frame is not None for row in members) and decode.probe(path).frames is not None
            frames = list(dict.fromkeys(row.frame if framed else None for row in members))
            decoded = dict(zip(frames, decode.decode_masks(path, frames), strict=True))
        except (decode.DecodeError, OSError) as error:
            outcome.misfits += [(row.number, "mask", f"cannot be read ({error})") for row in members]
            continue
        for row in members:
            mask, image = decoded[row.frame if framed else None], native[row.path, row.frame]
            if mask.shape != image.shape[:2]:
                reason = f"is {_by(mask.shape)} pixels, its image {_by(image.shape)}"
                outcome.misfits.append((row.number, "mask", reason))
                continue
            values, unknown = map_values(_cut(mask, row), job.mask_values, job.structures)
            if unknown:
                known = ", ".join(map(str, sorted({0, *job.structures, *job.mask_values})))
                reason = f"has the value {unknown[0]}, which is not among {known}"
                outcome.misfits.append((row.number, "mask", reason))
                continue
            masks[row.number] = job.transform.apply_mask(values, row.spacing_mm)
    masks.flush()


def map_values(
    mask: np.ndarray, mask_values: dict[int, int], structures: Sequence[int]
) -> tuple[np.ndarray, list[int]]:
    """Turn the values of a mask file into those of `structures`.

    Args:
        mask: Integer label map as in the file.
        mask_values: Value in the file -> value of a structure, where they differ.
        structures: Values of the structures; 0 is background.

    Returns:
        The uint8 label map, and the values that have no meaning (the map is of no use then).
    """
    values, inverse = np.unique(mask, return_inverse=True)
    known = {0, *structures}
    target = [mask_values.get(int(one), int(one)) for one in values]
    unknown = [int(one) for one, its in zip(values, target, strict=True) if its not in known]
    if unknown:
        return np.zeros(mask.shape, np.uint8), unknown
    return np.array(target, np.uint8)[inverse.reshape(mask.shape)], []


def _cut(image: np.ndarray, row: Row) -> np.ndarray:
    return image if row.patch is None else cut(image, row.patch)


def _by(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _reason(error: DataError) -> str:
    """The reason of "The image REASON.", as the other reasons are written."""
    return str(error).removeprefix("The image ").removesuffix(".")
