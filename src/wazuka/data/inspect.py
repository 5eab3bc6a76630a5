"""What the import measures in every image: the columns of `inspection.parquet`, from which `wazuka check` judges.

- `phash`: the 64-bit perceptual hash: grey, resized to 32 x 32 (box filter), two-dimensional DCT-II, the 8 x 8 lowest
  frequencies, bit = coefficient above the median of the 64; row-major, first bit highest (Zauner 2010, "Implementation
  and benchmarking of perceptual image hash functions").
- `thumbnail`: grey, resized to 16 x 16 (box filter), scaled so that its minimum is 0 and its maximum 255.
- `text_score`: share of the pixels that lie in text-like components, see `text_score`.

Grey is the mean of the channels, scaled so that the image's smallest finite value is 0 and its largest 255; values that
are not finite count as the smallest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wazuka.core.hashing import hash_pixels
from wazuka.data import patches
from wazuka.data.formats.base import FileInfo

COLUMNS: dict[str, str] = {
    "id": "string",
    "minimum": "float64",
    "maximum": "float64",
    "mean": "float64",
    "std": "float64",
    "nan_count": "int64",
    "inf_count": "int64",
    "constant": "bool",
    "phash": "string",
    "thumbnail": "object",
    "text_score": "float64",
    "mask_values": "object",
    "mask_height": "Int64",
    "mask_width": "Int64",
    "mask_spacing_mm": "object",
    "mask_error": "string",
    "identifying_tags": "object",
    "file_bytes": "int64",
    "decode_error": "string",
}
"""Columns of `inspection.parquet` and their dtypes."""

NEAR_WHITE = 242
"""Grey value (of 255) that some pixel of a letter reaches."""
LETTER_GREY = 150
"""Grey value from which a pixel may belong to a letter (its smoothed edge)."""
LETTER_HEIGHT = (5, 48)
"""Height of a letter in pixels."""
LETTER_SHAPE = (0.1, 2.0)
"""Width of a letter as a share of its height."""
LETTER_FILL = (0.15, 0.95)
"""Share of a letter's bounding box that it fills."""
LETTER_CONTRAST = 100
"""Grey levels that a letter's mean stands above the mean of the rest of its bounding box, widened by 2 pixels."""
LETTERS_IN_ROW = 4
"""Letters that make a row of text."""
MOST_CANDIDATES = 2000
"""An image with more near-white specks of a letter's size is texture, not text: score 0."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One file to open and measure."""

    number: int
    path: str
    """Absolute."""
    mask: str | None
    frames: tuple[int, ...] | None
    """Frames asked for; None: all that the file has."""
    root: str
    patch: tuple[int, int] | None = None
    """(patch, stride)."""


@dataclass(kw_only=True)
class Checked:
    """What a job found: the file, and one dict per manifest row (inspection columns, `frame`, `height`, ...)."""

    number: int
    info: FileInfo | None = None
    error: str | None = None
    """Why the file cannot be used at all."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    blank_patches: int = 0


def check_file(job: Job) -> Checked:
    """Open one file, decode its frames and masks, and measure each. Never raises: a reason is part of the answer."""
    from wazuka.data import decode

    path = Path(job.path)
    answer = Checked(number=job.number)
    try:
        if not path.exists():
            answer.error = "file does not exist"
        elif not path.resolve().is_relative_to(job.root):
            answer.error = "a link that leaves the source folder"
        else:
            answer.info = decode.probe(path)
            frames = _frames(job, answer.info)
            images = decode.decode(path, frames)
            _measure_all(job, answer, frames, images)
    except (decode.DecodeError, OSError) as error:
        answer.error = str(error)
    except Exception as error:  # a hostile file may break any reader in any way; it must not stop the import
        answer.error = f"{type(error).__name__}: {error}"
    if answer.error is not None:
        answer.rows = [unreadable(answer.error, _size(path))]
    return answer


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _frames(job: Job, info: FileInfo) -> list[int | None]:
    if job.frames is not None:
        return list(job.frames)
    return [None] if info.frames is None else list(range(info.frames))


def unreadable(reason: str, file_bytes: int) -> dict[str, Any]:
    """The row of an image that could not be measured."""
    return _empty(file_bytes) | {"decode_error": reason, "reason": reason}


def _empty(file_bytes: int) -> dict[str, Any]:
    return {
        "minimum": np.nan,
        "maximum": np.nan,
        "mean": np.nan,
        "std": np.nan,
        "nan_count": 0,
        "inf_count": 0,
        "constant": False,
        "phash": None,
        "thumbnail": None,
        "text_score": np.nan,
        "mask_values": None,
        "mask_height": None,
        "mask_width": None,
        "mask_spacing_mm": None,
        "mask_error": None,
        "identifying_tags": [],
        "file_bytes": file_bytes,
        "decode_error": None,
        "reason": None,
        "frame": None,
        "height": None,
        "width": None,
        "spacing_mm": None,
        "sha256": None,
    }


def _measure_all(job: Job, answer: Checked, frames: list[int | None], images: list[np.ndarray]) -> None:
    """Fill `answer.rows`: one per frame, or one per patch of each frame."""
    info = answer.info
    assert info is not None
    masks, described = _read_masks(job, frames)
    common = _empty(_size(Path(job.path))) | {
        "identifying_tags": list(info.identifying_tags),
        "spacing_mm": None if info.spacing_mm is None else list(info.spacing_mm),
    }
    common |= {name: described[name] for name in ("mask_error", "mask_spacing_mm")}
    if described["mask_error"] is not None:
        common["reason"] = f"mask: {described['mask_error']}"
    for frame, image, mask in zip(frames, images, masks, strict=True):
        row = common | {"frame": frame}
        if mask is not None:
            row |= {"mask_height": mask.shape[0], "mask_width": mask.shape[1]}
            if mask.shape != image.shape[:2]:
                row["reason"] = f"mask is {_shape(mask)} but the image {_shape(image)}"
                row["mask_values"] = _values(mask)
                answer.rows.append(row | measure(image))
                continue
        if job.patch is None:
            row["mask_values"] = None if mask is None else _values(mask)
            answer.rows.append(row | measure(image))
        else:
            _measure_patches(job.patch, answer, row, image=image, mask=mask)


def _measure_patches(
    sizes: tuple[int, int], answer: Checked, row: dict[str, Any], *, image: np.ndarray, mask: np.ndarray | None
) -> None:
    """One row per patch that is not blank; an image without any stays as one row with the reason."""
    patch, stride = sizes
    places = patches.kept(image, mask, patch=patch, stride=stride)
    answer.blank_patches += sum(not keep for _, _, keep in places)
    if not any(keep for _, _, keep in places):
        row["reason"] = (
            f"all {len(places)} patches are blank"
            if places
            else f"{_shape(image)}, smaller than a patch of {patch} x {patch}"
        )
        row["mask_values"] = None if mask is None else _values(mask)
        answer.rows.append(row | measure(image) | {"blank": bool(places)})
        return
    for y, x, keep in places:
        if not keep:
            continue
        place = {"patch_y": y, "patch_x": x, "patch_px": patch}
        part = None if mask is None else patches.cut(mask, place)
        values = {} if part is None else {"mask_values": _values(part), "mask_height": patch, "mask_width": patch}
        answer.rows.append(row | place | values | measure(patches.cut(image, place)))


def _read_masks(job: Job, frames: list[int | None]) -> tuple[list[np.ndarray | None], dict[str, Any]]:
    """Masks of the frames (None each without a mask file), the mask file's spacing, and why it cannot be used."""
    from wazuka.data import decode

    nothing: list[np.ndarray | None] = [None] * len(frames)
    described: dict[str, Any] = {"mask_error": None, "mask_spacing_mm": None}
    if job.mask is None:
        return nothing, described
    path = Path(job.mask)
    try:
        if not path.exists():
            raise decode.DecodeError(f"file {path.name} does not exist")
        if not path.resolve().is_relative_to(job.root):
            raise decode.DecodeError(f"{path.name} is a link that leaves the source folder")
        info = decode.probe(path)
        described["mask_spacing_mm"] = None if info.spacing_mm is None else list(info.spacing_mm)
        if job.frames is None and (info.frames or 1) != len(frames):
            raise decode.DecodeError(f"{path.name} has {info.frames or 1} slices but the image {len(frames)}")
        wanted: list[int | None] = frames if info.frames is not None else [None] * len(frames)
        if info.frames is not None and frames == [None]:
            wanted = [0]
        return list(decode.decode_masks(path, wanted)), described
    except (decode.DecodeError, OSError) as error:
        described["mask_error"] = str(error)
    except Exception as error:  # as in `check_file`
        described["mask_error"] = f"{type(error).__name__}: {error}"
    return nothing, described


def _shape(array: np.ndarray) -> str:
    return f"{array.shape[0]} x {array.shape[1]} pixels"


def _values(mask: np.ndarray) -> list[int]:
    if mask.dtype == np.uint8:
        return np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()
    return [int(one) for one in np.unique(mask)]


def measure(image: np.ndarray) -> dict[str, Any]:
    """Measure one decoded image (height, width[, channels]): the columns of `COLUMNS` that are about pixels."""
    values = image.reshape(-1)
    row: dict[str, Any] = {"height": image.shape[0], "width": image.shape[1], "sha256": hash_pixels(image)}
    if np.issubdtype(image.dtype, np.floating):
        row |= {"nan_count": int(np.isnan(values).sum()), "inf_count": int(np.isinf(values).sum())}
        values = values[np.isfinite(values)]
    if len(values) == 0:
        values = np.zeros(1)
    low, high = float(values.min()), float(values.max())
    row |= {"minimum": low, "maximum": high, "constant": low == high}
    row |= {"mean": float(values.mean(dtype=np.float64)), "std": float(values.std(dtype=np.float64))}
    grey = to_grey(image, low, high)
    row |= {"phash": phash(grey), "thumbnail": thumbnail(grey).tobytes(), "text_score": text_score(grey)}
    return row


def to_grey(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey of `image`, float32 (height, width) in [0, 255]; `low` and `high` are its finite extremes."""
    grey = image.astype(np.float32)
    if np.issubdtype(image.dtype, np.floating):
        grey = np.nan_to_num(grey, nan=low, posinf=low, neginf=low)
    if grey.ndim == 3:
        grey = grey.mean(axis=-1)
        low, high = float(grey.min()), float(grey.max())
    if high <= low:
        return np.zeros(grey.shape, np.float32)
    return (grey - np.float32(low)) * np.float32(255.0 / (high - low))


def _resize(grey: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BOX), dtype=np.float64)


def phash(grey: np.ndarray) -> str:
    """64-bit DCT hash of a grey image (height, width) as 16 hexadecimal digits."""
    from scipy.fft import dctn

    lowest = dctn(_resize(grey, 32), norm="ortho")[:8, :8].ravel()
    bits = lowest > np.median(lowest)
    return f"{int(''.join('1' if one else '0' for one in bits), 2):016x}"


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """Grey thumbnail, uint8 (16, 16), scaled to 0..255; a constant one is 0."""
    small = _resize(grey, 16)
    spread = small.max() - small.min()
    if spread <= 0:
        return np.zeros((16, 16), np.uint8)
    return np.rint((small - small.min()) * (255.0 / spread)).astype(np.uint8)


def text_score(grey: np.ndarray) -> float:
    """Share of the pixels in components that look like letters in a row, as text burned into an image does.

    A component (8-connected, of pixels at or above `LETTER_GREY`) looks like a letter if one of its pixels reaches
    `NEAR_WHITE`, its bounding box has a height
    in `LETTER_HEIGHT` and a width in `LETTER_SHAPE` times the height, is filled in `LETTER_FILL`, and if its mean stands
    `LETTER_CONTRAST` above the rest of the box widened by 2 pixels. Two letters stand together if the centers of their
    boxes differ by at most half the smaller height vertically, their heights by at most a factor 2, and the gap between
    them is at most one and a half times the larger height. Letters that are linked so, `LETTERS_IN_ROW` or more, count.

    Args:
        grey: (height, width) in [0, 255].
    """
    from scipy import ndimage
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    bright = grey >= LETTER_GREY
    if not bright.any() or bright.mean() > 0.5:
        return 0.0
    labels, _ = ndimage.label(bright, structure=np.ones((3, 3), int))
    sizes = np.bincount(labels.ravel())
    boxes = [
        (number, *rows.indices(grey.shape[0])[:2], *columns.indices(grey.shape[1])[:2])
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1)
        if _letter_shaped(rows.stop - rows.start, columns.stop - columns.start, int(sizes[number]))
    ]
    if not LETTERS_IN_ROW <= len(boxes) <= MOST_CANDIDATES:
        return 0.0
    boxes = [box for box in boxes if _stands_out(grey, labels, box)]
    if len(boxes) < LETTERS_IN_ROW:
        return 0.0
    number, top, bottom, left, right = np.array(boxes).T
    height, center = bottom - top, (top + bottom) / 2
    smaller, larger = np.minimum.outer(height, height), np.maximum.outer(height, height)
    gap = np.maximum.outer(left, left) - np.minimum.outer(right, right)
    together = (
        (np.abs(np.subtract.outer(center, center)) <= smaller / 2) & (larger <= 2 * smaller) & (gap <= 1.5 * larger)
    )
    _, row = connected_components(coo_array(together), directed=False)
    in_row = np.bincount(row)[row] >= LETTERS_IN_ROW
    return float(sizes[number[in_row]].sum() / grey.size)


def _letter_shaped(height: int, width: int, size: int) -> bool:
    return (
        LETTER_HEIGHT[0] <= height <= LETTER_HEIGHT[1]
        and LETTER_SHAPE[0] <= width / height <= LETTER_SHAPE[1]
        and LETTER_FILL[0] <= size / (height * width) <= LETTER_FILL[1]
    )


def _stands_out(grey: np.ndarray, labels: np.ndarray, box: tuple[int, ...]) -> bool:
    number, top, bottom, left, right = box
    window = (slice(max(0, top - 2), bottom + 2), slice(max(0, left - 2), right + 2))
    inside = labels[window] == number
    letter, around = grey[window][inside], grey[window][~inside]
    return bool(around.size and letter.max() >= NEAR_WHITE and letter.mean() - around.mean() >= LETTER_CONTRAST)
