"""The pixel cache: every usable image decoded and transformed once, then read memory-mapped.

`CACHE/pixels/KEY/` holds `images.npy` (N, size, size, channels; uint8, int16 for Hounsfield units), `masks.npy`
(N, size, size) uint8 where the dataset has masks (255: this row has none), `scales.parquet` (the percentiles that 16-bit
and MR volumes were scaled by), `misfits.parquet` (rows left out and why) and, last, `record.json`. Row i is row i of
`dataset.usable`. KEY hashes the dataset's fingerprint, the transform and the code versions.

Decoding runs in parallel processes, one open per file. A lock lets one process build while others wait; a builder that
was killed leaves no `record.json`, and the next one starts over.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from wazuka import __version__
from wazuka.core import records
from wazuka.core.errors import ArtifactError, DataError, OutOfSpace
from wazuka.core.hashing import hash_strings, make_key
from wazuka.core.progress import say
from wazuka.core.windows import DEFAULT_WINDOW, WINDOWS
from wazuka.data import transform as transforms
from wazuka.data.decoding import Outcome, decode_all, plan_jobs
from wazuka.data.intensity import Scale, to_stored
from wazuka.data.manifest import Dataset
from wazuka.data.transform import ImageTransform, Spacing
from wazuka.data.views import Images

CODE_VERSION = 1
"""Raised by hand when the same images give another cache; part of every key."""
NO_MASK = 255
"""Value of a mask row that has no mask; no structure may have it."""
SPARE_BYTES = 64 * 2**20
"""Room that must stay free beside a new cache."""


@dataclass(frozen=True)
class PixelCache:
    """A finished pixel cache.

    Attributes:
        folder: Its folder.
        images_path: `images.npy`.
        masks_path: `masks.npy`, or None where the dataset has no masks.
        n: Rows: the usable rows of the dataset.
        shape: (height, width, channels) of one image.
        dtype: "uint8" or "int16".
        intensity: Of the dataset; with `transform.window` it decides how values become a network's input.
        transform: What was done to the images.
        key: Name of the cache, part of the keys of all that is made from it.
    """

    folder: Path
    images_path: Path
    masks_path: Path | None
    n: int
    shape: tuple[int, int, int]
    dtype: str
    intensity: str
    transform: ImageTransform
    key: str

    @cached_property
    def misfits(self) -> pd.DataFrame:
        """Rows whose image or mask could not be used: `row, id, what (image|mask), reason`."""
        return records.read_table(self.folder / "misfits.parquet")

    @cached_property
    def has_mask(self) -> np.ndarray:
        """Which rows have a mask, bool (n,)."""
        if self.masks_path is None:
            return np.zeros(self.n, bool)
        masks = np.load(self.masks_path, mmap_mode="r", allow_pickle=False)
        return np.asarray(masks[:, 0, 0] != NO_MASK)

    def images(self, rows: np.ndarray) -> Images:
        """View of some rows (int64, numbers of `dataset.usable`).

        Raises:
            DataError: If a row's image does not fit the transform; the message counts them and says why.
        """
        rows = self._checked(rows)
        bad = self.misfits[(self.misfits["what"] == "image") & self.misfits["row"].isin(rows)]
        if len(bad):
            raise _misfit_error(bad)
        return Images(self.images_path, rows)

    def masks(self, rows: np.ndarray) -> Images:
        """View of the masks of some rows; `batch` gives (n, height, width) uint8.

        Raises:
            DataError: If a row has no usable mask.
        """
        rows = self._checked(rows)
        without = rows[~self.has_mask[rows]]
        if self.masks_path is None or len(without):
            bad = self.misfits[self.misfits["row"].isin(without)]
            why = f" ({bad['id'].iloc[0]}: the mask {bad['reason'].iloc[0]})" if len(bad) else ""
            raise DataError(f"{len(without)} of {len(rows)} images have no usable mask{why}; leave them out.")
        return Images(self.masks_path, rows)

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        assert rows.size == 0 or (rows.min() >= 0 and rows.max() < self.n), "row numbers are those of dataset.usable"
        return rows


def pixels_key(dataset: Dataset, transform: ImageTransform) -> str:
    """Name of the cache of a dataset under a transform."""
    usable = dataset.usable
    parts = []
    for name in (
        "spacing_mm",
        "volume",
        "patch_y",
        "patch_x",
        "patch_px",
    ):  # what decides pixels beside the fingerprint
        if name in usable.columns:
            parts.append(hash_strings(str(_plain(one)) for one in usable[name]))
    return make_key("pixels", dataset.card.fingerprint, transform, transforms.CODE_VERSION, CODE_VERSION, parts)


def build_pixels(
    dataset: Dataset,
    transform: ImageTransform,
    *,
    cache: Path,
    workers: int | None = None,
    on_misfit: Literal["error", "record"] = "error",
) -> PixelCache:
    """Return the pixel cache of a dataset, building it if it is not there.

    Args:
        dataset: Its usable rows become the cache's rows, in their order.
        transform: What is done to every image.
        cache: The cache folder (`places.cache_folder`).
        workers: Processes that decode; default the threads this process may use. The result does not depend on it.
        on_misfit: What to do about images that the transform cannot take (smaller than the crop, without spacing, with
            NaN): "error" refuses with their count; "record" leaves their pixels 0, counts them, and `images` refuses
            only who asks for them.

    Raises:
        DataError: If a file changed since the import or cannot be read, or an image does not fit.
        ConfigError: If the transform makes no sense for this intensity.
        OutOfSpace: If the cache would not fit on the disk.
        ArtifactError: If the cache's folder is a link.
    """
    transform.check(dataset.card.intensity)
    rows = dataset.usable
    if not len(rows):
        raise DataError(f"{dataset.folder} has no usable image; import a folder with readable images.")
    if on_misfit == "error":
        refuse_misfits(rows, transform)
    folder = _own_folder(Path(cache), pixels_key(dataset, transform))
    if not records.is_finished(folder):
        with _alone(folder):
            if not records.is_finished(folder):  # another process may have finished it while this one waited
                _build(dataset, rows, transform, folder=folder, workers=workers)
    pixels = open_pixels(folder)
    bad = pixels.misfits[pixels.misfits["what"] == "image"]
    if on_misfit == "error" and len(bad):
        raise _misfit_error(bad)
    return pixels


def open_pixels(folder: Path) -> PixelCache:
    """Open a finished cache.

    Raises:
        ArtifactError: If it is not finished or its arrays are damaged.
    """
    record = records.read_json(folder / records.RECORD)
    images, masks = folder / "images.npy", folder / "masks.npy"
    shape = (record["n"], *record["shape"])
    try:
        array = np.load(images, mmap_mode="r", allow_pickle=False)
        whole = array.shape == shape and str(array.dtype) == record["dtype"]
        if record["masks"]:
            whole &= np.load(masks, mmap_mode="r", allow_pickle=False).shape == shape[:3]
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise ArtifactError(f"{folder} is damaged; remove this folder and run the command again.")
    return PixelCache(
        folder=folder,
        images_path=images,
        masks_path=masks if record["masks"] else None,
        n=record["n"],
        shape=tuple(record["shape"]),
        dtype=record["dtype"],
        intensity=record["intensity"],
        transform=ImageTransform(**record["transform"]),
        key=record["key"],
    )


def render(
    images: Sequence[np.ndarray],
    spacings: Sequence[Spacing],
    transform: ImageTransform,
    intensity: str,
    *,
    scales: Sequence[Scale | None] | None = None,
) -> np.ndarray:
    """Transform native images exactly as the cache does, for use on new files.

    Args:
        images: As `decode` gives them (after `patches.cut`, where patches are used).
        spacings: Spacing of each.
        transform: The model's transform.
        intensity: The model's intensity.
        scales: For 16-bit and MR images that are slices of a volume or patches of an image: `volume_scale` of that
            volume or image, for each image; None scales each image by itself.

    Returns:
        (n, size, size, channels), uint8 or int16.

    Raises:
        DataError: If an image does not fit (ask `transform.misfit` first) or has NaN.
    """
    transform.check(intensity)
    each: Sequence[Scale | None] = scales if scales is not None else [None] * len(images)
    return np.stack(
        [
            transform.apply(to_stored(image, intensity, scale=scale), spacing)
            for image, spacing, scale in zip(images, spacings, each, strict=True)
        ]
    )


def iterate(images: Images, order: np.ndarray, *, batch: int) -> Iterator[np.ndarray]:
    """Yield the images at positions `order` in batches (batch, height, width, channels); the last may be smaller."""
    for start in range(0, len(order), batch):
        yield images.batch(order[start : start + batch])


def to_picture(image: np.ndarray, pixels: PixelCache) -> np.ndarray:
    """Turn one cached image (height, width, channels) into 8 bits for a person: (height, width, 3) uint8."""
    if pixels.intensity == "hounsfield":
        center, width = WINDOWS[pixels.transform.window or DEFAULT_WINDOW]
        scaled = (image.astype(np.float64) - (center - width / 2)) / width * 255.0
        image = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.asarray(image)


def _build(
    dataset: Dataset, rows: pd.DataFrame, transform: ImageTransform, *, folder: Path, workers: int | None
) -> None:
    began = time.monotonic()
    intensity = dataset.card.intensity
    shape = (transform.size, transform.size, 3 if intensity == "rgb8" else 1)
    dtype = "int16" if intensity == "hounsfield" else "uint8"
    with_masks = bool(rows["mask"].notna().any())
    if with_masks:
        _check_structures(dataset)
    image_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    _require_space(folder, rows=len(rows), image_bytes=image_bytes, mask_bytes=transform.size**2 * with_masks)
    records.clear_unfinished(folder, keep=())
    _allocate(folder / "images.npy", (len(rows), *shape), dtype)
    if with_masks:
        _allocate(folder / "masks.npy", (len(rows), *shape[:2]), "uint8")
        np.load(folder / "masks.npy", mmap_mode="r+", allow_pickle=False)[:] = NO_MASK
    outcome = Outcome()
    for one in decode_all(plan_jobs(dataset, rows, transform, folder=folder), workers=workers):
        outcome.add(one)
    misfits = sorted(outcome.misfits)
    if sum(what == "image" for _, what, _ in misfits) == len(rows):
        raise DataError(f"None of the {len(rows)} images can be used; the first {misfits[0][2]}.")
    _write_tables(folder, rows, outcome)
    for name in ("images.npy", "masks.npy") if with_masks else ("images.npy",):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    record = {
        "schema": 1,
        "step": "pixels",
        "key": folder.name,
        "fingerprint": dataset.card.fingerprint,
        "transform": dataclasses.asdict(transform),
        "code_versions": {"transform": transforms.CODE_VERSION, "pixels": CODE_VERSION},
        "n": len(rows),
        "shape": shape,
        "dtype": dtype,
        "intensity": intensity,
        "masks": with_masks,
        "misfits": {what: sum(its == what for _, its, _ in misfits) for what in ("image", "mask")},
        "stains_unchanged": {"count": len(outcome.unchanged), "rows": sorted(outcome.unchanged)[:100]},
        "seconds": round(time.monotonic() - began, 3),
        "versions": {"wazuka": __version__, "numpy": np.__version__},
    }
    records.finish(folder, record)


def _write_tables(folder: Path, rows: pd.DataFrame, outcome: Outcome) -> None:
    misfits = pd.DataFrame(sorted(outcome.misfits), columns=["row", "what", "reason"])
    misfits["row"] = misfits["row"].astype("int64")
    misfits.insert(1, "id", pd.array(rows["id"].to_numpy()[misfits["row"].to_numpy()], dtype="string"))
    for name in ("what", "reason"):
        misfits[name] = misfits[name].astype("string")
    records.write_table(folder / "misfits.parquet", misfits)
    if outcome.scales:
        scales = pd.DataFrame(sorted(outcome.scales), columns=["volume", "low", "high"])
        records.write_table(folder / "scales.parquet", scales)


def refuse_misfits(rows: pd.DataFrame, transform: ImageTransform) -> None:
    """Refuse a transform that some images cannot take, before anything is decoded.

    Raises:
        DataError: With their number and the first reason.
    """
    found = find_misfits(rows, transform)
    if len(found):
        raise _misfit_error(found)


def find_misfits(rows: pd.DataFrame, transform: ImageTransform) -> pd.DataFrame:
    """Rows of a manifest that the transform cannot take, from their size and spacing: `row, id, reason`."""
    found: list[tuple[int, str, str]] = []
    if transform.crop is not None or transform.spacing_mm is not None:
        columns = (rows["id"], rows["height"], rows["width"], rows["spacing_mm"])
        for number, (name, height, width, spacing) in enumerate(zip(*columns, strict=True)):
            if pd.isna(height) or pd.isna(width):
                continue  # decoding will tell
            reason = transform.misfit(int(height), int(width), spacing)
            if reason is not None:
                found.append((number, name, reason))
    return pd.DataFrame(found, columns=["row", "id", "reason"])


def _misfit_error(bad: pd.DataFrame) -> DataError:
    first = bad.iloc[0]
    count = f"{len(bad)} images do" if len(bad) > 1 else "1 image does"
    return DataError(
        f"{count} not fit the image transform: {first['id']} {first['reason']}; change `image` "
        "(--crop, --size, spacing_mm) or take them out of the dataset."
    )


def _check_structures(dataset: Dataset) -> None:
    values = [*dataset.card.structures, *dataset.card.mask_values.values()]
    bad = [one for one in values if not 0 <= one < NO_MASK]
    if bad:
        raise DataError(
            f"Structure value {bad[0]} is out of range; `structures` may have values from 1 to {NO_MASK - 1}."
        )


def _own_folder(cache: Path, key: str) -> Path:
    """The cache's folder for a key, which may not be a link: nothing is written outside the cache."""
    folder = cache.resolve() / "pixels" / key
    for one in (folder.parent, folder, _lock_path(folder)):
        if one.is_symlink():
            raise ArtifactError(f"{one} is a link, and a cache must not write outside its folder; remove the link.")
    return folder


def _lock_path(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder; the system lets go of it when this process ends, however it ends."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_path(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Waiting for another process that builds {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _require_space(folder: Path, *, rows: int, image_bytes: int, mask_bytes: int) -> None:
    needed = rows * (image_bytes + mask_bytes)
    place = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(place).free
    if needed + SPARE_BYTES > free:
        raise OutOfSpace(
            f"The pixel cache needs {needed / 2**20:.0f} MiB, but {place} has {free / 2**20:.0f} MiB free; free some "
            "room, choose another --cache folder or a smaller --size."
        )


def _allocate(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Make an .npy file whose whole room is reserved, so that a full disk is an error now and not a crash later."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise records.out_of_space(path) from error


def _plain(value: Any) -> Any:
    """One text for None and NaN in a spacing, which Parquet does not tell apart."""
    if isinstance(value, np.ndarray | list | tuple):
        return [math.nan if one is None else float(one) for one in value]
    return None if value is None or pd.isna(value) else value
