"""The pixel cache: same pixels as rendering one by one, one builder at a time, nothing half-made, nothing outside."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wazuka.core.errors import ArtifactError, ConfigError, DataError, OutOfSpace
from wazuka.core.hashing import hash_file, hash_pixels
from wazuka.core.records import is_finished, read_json, read_table
from wazuka.data import decode, decoding, manifest, pixels
from wazuka.data.intensity import to_stored, volume_scale
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import NO_MASK, build_pixels, find_misfits, iterate, open_pixels, render, to_picture
from wazuka.data.transform import ImageTransform

SMALL = ImageTransform(size=16)


def make_dataset(folder: Path, rows: list[dict[str, Any]], **card: Any) -> Dataset:
    """A dataset over files in `folder`; heights, widths and hashes are taken from the decoded files."""
    for row in rows:
        image = decode.decode(folder / row["path"], [row.get("frame")])[0]
        if "patch_px" in row:
            side = row["patch_px"]
            image = image[row["patch_y"] : row["patch_y"] + side, row["patch_x"] : row["patch_x"] + side]
        row.setdefault("status", "ok")
        row |= {"height": image.shape[0], "width": image.shape[1], "sha256": hash_pixels(image)}
        row.setdefault("patient", row["id"])
        row.setdefault("spacing_mm", None)
    extra = sorted({name for row in rows for name in row} - set(manifest.COLUMNS))
    settings = {
        "name": "made",
        "task": "unlabeled",
        "root": str(folder),
        "attributes": dict.fromkeys(extra, "computed"),
    }
    made = manifest.DatasetCard(**(settings | card))
    where = folder.with_name(f"{folder.name}-dataset-{len(list(folder.parent.iterdir()))}")
    return manifest.save(where, made, pd.DataFrame(rows))


def rgb_files(folder: Path, count: int = 6) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        shape = (20 + number % 5, 24, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append({"id": f"case-{number:04d}", "path": f"{number}.png"})
    return rows


@pytest.fixture
def rgb(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "source", rgb_files(tmp_path / "source"))


def test_rows_are_those_of_the_usable_manifest_and_equal_rendering_one_by_one(tmp_path: Path) -> None:
    rows = rgb_files(tmp_path / "source")
    rows[2] |= {"status": "quarantined", "reason": "blank"}
    dataset = make_dataset(tmp_path / "source", list(reversed(rows)))
    for transform in (SMALL, ImageTransform(crop=12, size=24), ImageTransform(size=16, stain="reinhard")):
        cache = build_pixels(dataset, transform, cache=tmp_path / "cache")
        native = [decode.decode(dataset.path_of(path), [None])[0] for path in dataset.usable["path"]]
        expected = render(native, [None] * 5, transform, "rgb8")
        assert cache.n == 5 and cache.shape == (transform.size, transform.size, 3) and cache.dtype == "uint8"
        assert np.array_equal(cache.images(np.arange(5)).batch(np.arange(5)), expected)
        assert np.array_equal(cache.images(np.array([4, 1])).batch(np.array([1, 0, 1])), expected[[1, 4, 1]])
        assert cache.masks_path is None and not cache.has_mask.any()


def test_a_finished_cache_is_opened_and_not_made_again(rgb: Dataset, tmp_path: Path) -> None:
    first = build_pixels(rgb, SMALL, cache=tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert build_pixels(rgb, SMALL, cache=tmp_path / "cache") == first == open_pixels(first.folder)
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def test_the_key_follows_dataset_transform_spacing_and_volume(tmp_path: Path) -> None:
    rows = rgb_files(tmp_path / "source")
    base = make_dataset(tmp_path / "source", [dict(row) for row in rows])
    spaced = make_dataset(tmp_path / "source", [row | {"spacing_mm": [0.5, 0.5, None]} for row in rows])
    grouped = make_dataset(tmp_path / "source", [row | {"volume": "v"} for row in rows])
    fewer = make_dataset(tmp_path / "source", rows[:-1])
    keys = [pixels.pixels_key(one, SMALL) for one in (base, spaced, grouped, fewer)]
    keys += [pixels.pixels_key(base, one) for one in (ImageTransform(size=17), ImageTransform(size=16, crop=9))]
    assert len(set(keys)) == 6
    assert pixels.pixels_key(base, ImageTransform(size=16)) == keys[0]


def test_several_processes_give_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_dataset(tmp_path / "source", rgb_files(tmp_path / "source", 30))
    monkeypatch.setattr(decoding, "JOB_ROWS", 4)
    one = build_pixels(dataset, SMALL, cache=tmp_path / "one", workers=1)
    monkeypatch.setattr(decoding, "WORTH_PROCESSES", 0.0)
    two = build_pixels(dataset, SMALL, cache=tmp_path / "two", workers=2)
    assert hash_file(one.images_path) == hash_file(two.images_path)
    assert one.key == two.key


def test_gray_files_in_a_color_set_get_three_equal_channels_and_color_in_a_gray_set_its_luma() -> None:
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(to_stored(gray, "rgb8"), np.stack([gray] * 3, axis=2))
    color = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(color).convert("L")).astype(int)
    assert np.abs(to_stored(color, "ultrasound")[:, :, 0].astype(int) - expected).max() <= 1
    with pytest.raises(DataError, match="has uint16 values, but the dataset's intensity gray8 means 8 bits"):
        to_stored(gray.astype(np.uint16), "gray8")


def nifti(path: Path, volume: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([0.5, 0.5, 2.0, 1.0])), path)


def test_mr_is_scaled_per_volume_and_the_scale_is_recorded(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for name, factor in (("a", 1.0), ("b", 7.0)):
        nifti(source / f"{name}.nii.gz", (rng.gamma(2.0, 100.0 * factor, (18, 20, 4))).astype(np.float32))
        rows += [
            {"id": f"{name}#{k}", "path": f"{name}.nii.gz", "frame": k, "volume": name, "spacing_mm": [0.5, 0.5, 2.0]}
            for k in range(4)
        ]
    dataset = make_dataset(source, rows, intensity="mr")
    cache = build_pixels(dataset, ImageTransform(size=20), cache=tmp_path / "cache")
    scales = read_table(cache.folder / "scales.parquet").set_index("volume")
    assert list(scales.index) == ["a", "b"]
    for number, name in enumerate("ab"):
        slices = decode.decode(source / f"{name}.nii.gz", list(range(4)))
        low, high = np.percentile(np.stack(slices).astype(np.float64), [0.5, 99.5])
        assert scales.loc[name].tolist() == pytest.approx([low, high])
        transform = ImageTransform(size=20)
        expected = render(slices, [None] * 4, transform, "mr", scales=[volume_scale(slices)] * 4)
        found = cache.images(np.arange(4) + 4 * number).batch(np.arange(4))
        assert np.array_equal(found, expected)
        assert found.dtype == np.uint8 and found.min() == 0 and found.max() == 255
    # A factor between scanners is gone: both volumes have the same distribution of gray values.
    halves = cache.images(np.arange(8)).batch(np.arange(8)).reshape(2, -1).mean(axis=1)
    assert halves[0] == pytest.approx(halves[1], rel=0.1)


def test_a_volume_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    nifti(source / "a.nii.gz", np.random.default_rng(0).normal(size=(12, 12, 5)).astype(np.float32))
    rows = [{"id": f"a#{k}", "path": "a.nii.gz", "frame": k, "volume": "a"} for k in range(5)]
    dataset = make_dataset(source, rows, intensity="mr")
    calls = []
    original = decode.decode
    monkeypatch.setattr(decode, "decode", lambda path, frames: calls.append(path) or original(path, frames))
    build_pixels(dataset, SMALL, cache=tmp_path / "cache")
    assert len(calls) == 1


def test_sixteen_bit_images_without_a_volume_are_scaled_one_by_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(0)
    for name, top in (("dim", 900), ("bright", 60000)):
        Image.fromarray(rng.integers(0, top, (16, 16), dtype=np.uint16)).save(source / f"{name}.png")
    rows = [{"id": name, "path": f"{name}.png"} for name in ("dim", "bright")]
    cache = build_pixels(make_dataset(source, rows, intensity="gray16"), SMALL, cache=tmp_path / "cache")
    found = cache.images(np.arange(2)).batch(np.arange(2))
    assert (found.max(axis=(1, 2, 3)) == 255).all() and (found.min(axis=(1, 2, 3)) == 0).all()
    assert len(read_table(cache.folder / "scales.parquet")) == 2


def test_hounsfield_units_are_kept_and_shown_through_the_window(tmp_path: Path) -> None:
    values = np.array([[-1000, -160, 40], [240, 1500, 0], [0, 0, 0]], np.float32)
    stored = to_stored(values, "hounsfield")
    assert stored.dtype == np.int16 and np.array_equal(stored[:, :, 0], values)
    with pytest.raises(DataError, match="values from 0 to 99999, which no Hounsfield unit has"):
        to_stored(np.array([[0.0, 99999.0]]), "hounsfield")
    cache = pixels.PixelCache(
        folder=tmp_path,
        images_path=tmp_path,
        masks_path=None,
        n=1,
        shape=(3, 3, 1),
        dtype="int16",
        intensity="hounsfield",
        transform=ImageTransform(window="soft-tissue"),
        key="k",
    )
    shown = to_picture(stored, cache)
    assert shown.shape == (3, 3, 3) and shown.dtype == np.uint8
    assert shown[0, :, 0].tolist() == [0, 0, 128] and shown[1, :2, 0].tolist() == [255, 255]


def test_a_constant_volume_becomes_black_and_a_nearly_empty_one_keeps_its_spot() -> None:
    assert (to_stored(np.full((4, 4), 7.0, np.float32), "mr") == 0).all()
    spot = np.zeros((100, 100), np.float32)
    spot[5, 5] = 3.0
    assert to_stored(spot, "mr")[5, 5, 0] == 255


def test_images_that_do_not_fit_are_counted_and_refused_or_recorded(tmp_path: Path) -> None:
    source = tmp_path / "source"
    rows = rgb_files(source)
    Image.fromarray(np.zeros((8, 30, 3), np.uint8)).save(source / "thin.png")
    dataset = make_dataset(source, [*rows, {"id": "thin", "path": "thin.png"}])
    transform = ImageTransform(crop=12, size=16)
    assert find_misfits(dataset.usable, transform)["id"].tolist() == ["thin"]
    message = "1 image does not fit the image transform: thin is 8 x 30 pixels, smaller than the crop of 12"
    with pytest.raises(DataError, match=message):
        build_pixels(dataset, transform, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    cache = build_pixels(dataset, transform, cache=tmp_path / "cache", on_misfit="record")
    assert read_json(cache.folder / "record.json")["misfits"] == {"image": 1, "mask": 0}
    assert cache.misfits[["row", "id", "what"]].to_numpy().tolist() == [[6, "thin", "image"]]
    assert len(cache.images(np.arange(6))) == 6
    with pytest.raises(DataError, match=message):
        cache.images(np.arange(7))
    with pytest.raises(DataError, match="6 images do not fit"):
        build_pixels(
            make_dataset(source, rgb_files(source)), ImageTransform(spacing_mm=1.0, size=16), cache=tmp_path / "c"
        )


def test_nan_in_mr_is_a_misfit_found_while_decoding(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    volume = np.random.default_rng(0).normal(size=(12, 12, 2)).astype(np.float32)
    nifti(source / "good.nii.gz", volume)
    volume[3, 3, 1] = np.nan
    nifti(source / "bad.nii.gz", volume)
    rows = [
        {"id": f"{name}#{k}", "path": f"{name}.nii.gz", "frame": k, "volume": name}
        for name in ("bad", "good")
        for k in range(2)
    ]
    dataset = make_dataset(source, rows, intensity="mr")
    with pytest.raises(DataError, match="2 images do not fit the image transform: bad#0 has 1 values that are NaN"):
        build_pixels(dataset, ImageTransform(size=12), cache=tmp_path / "cache")
    cache = build_pixels(dataset, ImageTransform(size=12), cache=tmp_path / "cache", on_misfit="record")
    assert cache.images(np.array([2, 3])).batch(np.arange(2)).max() == 255


def test_masks_are_mapped_aligned_and_marked_where_there_is_none(tmp_path: Path) -> None:
    source = tmp_path / "source"
    rows = rgb_files(source, 4)
    labels = np.zeros((20, 24), np.uint8)
    labels[4:12, 6:18] = 255
    Image.fromarray(labels).save(source / "m0.png")
    odd = labels.copy()
    odd[0, 0] = 9
    Image.fromarray(np.pad(odd, ((0, 1), (0, 0)))).save(source / "m1.png")  # image 1 is 21 pixels high
    Image.fromarray(labels).save(source / "m2.png")  # image 2 is 22 pixels high
    for number in range(3):
        rows[number]["mask"] = f"m{number}.png"
    dataset = make_dataset(
        source, rows, task="segmentation", structures={1: "cell"}, mask_values={255: 1}, intensity="rgb8"
    )
    cache = build_pixels(dataset, ImageTransform(size=48), cache=tmp_path / "cache")
    assert cache.has_mask.tolist() == [True, False, False, False]
    mask = cache.masks(np.array([0])).batch(np.array([0]))[0]
    assert mask.dtype == np.uint8 and mask.shape == (48, 48)
    assert np.array_equal(cache.transform.unapply_mask(mask, 20, 24), labels // 255)
    everything = np.load(cache.masks_path)
    assert (everything[1:] == NO_MASK).all()
    assert cache.misfits["reason"].tolist() == [
        "has the value 9, which is not among 0, 1, 255",
        "is 20 x 24 pixels, its image 22 x 24",
    ]
    with pytest.raises(DataError, match=r"2 of 3 images have no usable mask .*the mask has the value 9"):
        cache.masks(np.array([0, 1, 3]))
    cache.images(np.arange(4))


def test_patches_are_cut_from_their_image_and_mask(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(image).save(source / "big.png")
    Image.fromarray(image[:, :, 0] // 128).save(source / "mask.png")
    rows = [
        {"id": f"big@{y}-{x}", "path": "big.png", "mask": "mask.png", "patch_y": y, "patch_x": x, "patch_px": 32}
        for y in (0, 32)
        for x in (0, 48)
    ]
    dataset = make_dataset(source, rows, structures={1: "bright"})
    cache = build_pixels(dataset, ImageTransform(size=32), cache=tmp_path / "cache")
    found = cache.images(np.arange(4)).batch(np.arange(4))
    assert np.array_equal(found[3], image[32:64, 48:80])
    assert np.array_equal(cache.masks(np.arange(4)).batch(np.arange(4)), found[..., 0] // 128)


def test_a_file_that_changed_since_the_import_is_named(rgb: Dataset, tmp_path: Path) -> None:
    path = rgb.path_of("3.png")
    image = np.array(Image.open(path))
    Image.fromarray(image).save(path, compress_level=1)  # other bytes, same pixels: no change
    build_pixels(rgb, SMALL, cache=tmp_path / "cache")
    image[0, 0, 0] ^= 1
    Image.fromarray(image).save(path)
    with pytest.raises(DataError, match=r"source/3\.png changed since it was imported; import the data again"):
        build_pixels(rgb, SMALL, cache=tmp_path / "other")
    path.unlink()
    with pytest.raises(DataError, match=r"3\.png could be read when it was imported, but no longer \(file does not"):
        build_pixels(rgb, SMALL, cache=tmp_path / "other")
    assert not any(is_finished(one) for one in (tmp_path / "other" / "pixels").iterdir())


def test_a_disk_without_room_is_an_error_before_anything_is_written(
    rgb: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    with pytest.raises(OutOfSpace, match=r"pixel cache needs \d+ MiB, but .* has 1 MiB free; free some room"):
        build_pixels(rgb, ImageTransform(size=512), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_disk_that_fills_up_while_the_room_is_reserved_is_an_error_too(
    rgb: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutOfSpace, match=r"No space left to write .*images\.npy"):
        build_pixels(rgb, SMALL, cache=tmp_path / "cache")


def test_the_cache_does_not_follow_links_out(rgb: Dataset, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "images.npy").write_text("precious")
    key = pixels.pixels_key(rgb, SMALL)
    for link in (tmp_path / "a" / "pixels" / key, tmp_path / "b" / "pixels", tmp_path / "c" / "pixels" / f"{key}.lock"):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outside if link.suffix != ".lock" else outside / "images.npy")
        with pytest.raises(ArtifactError, match="is a link, and a cache must not write outside its folder"):
            build_pixels(rgb, SMALL, cache=tmp_path / link.relative_to(tmp_path).parts[0])
    inner = tmp_path / "d" / "pixels" / key
    inner.mkdir(parents=True)
    (inner / "images.npy").symlink_to(outside / "images.npy")
    build_pixels(rgb, SMALL, cache=tmp_path / "d")
    assert (outside / "images.npy").read_text() == "precious" and len(list(outside.iterdir())) == 1
    assert not (inner / "images.npy").is_symlink()


def test_nothing_but_the_cache_is_written(rgb: Dataset, tmp_path: Path) -> None:
    def contents() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "cache" not in path.parts}

    before = contents()
    build_pixels(rgb, SMALL, cache=tmp_path / "cache")
    assert contents() == before
    folder = tmp_path / "cache" / "pixels"
    assert {path.name for path in folder.glob("*/*")} == {"images.npy", "misfits.parquet", "record.json"}


def test_settings_that_make_no_sense_and_empty_or_damaged_folders_are_errors(rgb: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`window: lung` needs CT"):
        build_pixels(rgb, ImageTransform(window="lung"), cache=tmp_path / "cache")
    empty = make_dataset(
        tmp_path / "source",
        [{"id": "a", "path": "0.png", "status": "quarantined", "reason": "blank"}],
    )
    with pytest.raises(DataError, match="has no usable image"):
        build_pixels(empty, SMALL, cache=tmp_path / "cache")
    cache = build_pixels(rgb, SMALL, cache=tmp_path / "cache")
    with cache.images_path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ArtifactError, match="is damaged; remove this folder and run the command again"):
        build_pixels(rgb, SMALL, cache=tmp_path / "cache")


def test_batches_come_in_the_order_asked_for(rgb: Dataset, tmp_path: Path) -> None:
    images = build_pixels(rgb, SMALL, cache=tmp_path / "cache").images(np.arange(6))
    order = np.array([5, 0, 3, 1, 2])
    found = list(iterate(images, order, batch=2))
    assert [len(one) for one in found] == [2, 2, 1]
    assert np.array_equal(np.concatenate(found), images.batch(order))


SLOW = """
import sys, time
from pathlib import Path
from wazuka.data import decode, decoding, manifest
from wazuka.data.pixels import build_pixels
from wazuka.data.transform import ImageTransform
original = decode.decode
def slow(path, frames):
    with Path(sys.argv[4]).open("a") as file:
        file.write(path.name + "\\n")
    time.sleep(0.05)
    return original(path, frames)
decode.decode = slow  # in the decoding processes too: they import this file
if __name__ == "__main__":
    decoding.JOB_ROWS, decoding.WORTH_PROCESSES = 2, 0.0
    build_pixels(
        manifest.load(Path(sys.argv[1])), ImageTransform(size=16), cache=Path(sys.argv[2]), workers=int(sys.argv[3])
    )
"""


def start(dataset: Dataset, cache: Path, *, workers: int = 1) -> subprocess.Popen[str]:
    script = cache.with_name("build.py")
    script.write_text(SLOW)
    names = (script, dataset.folder, cache, workers, cache.with_name("decoded.txt"))
    command = [sys.executable, *map(str, names)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_two_processes_at_once_build_one_cache_once(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "source", rgb_files(tmp_path / "source", 20))
    cache = tmp_path / "cache"
    both = [start(dataset, cache), start(dataset, cache)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len((tmp_path / "decoded.txt").read_text().splitlines()) == 20  # each file once, by one of them
    found = build_pixels(dataset, SMALL, cache=cache)
    alone = build_pixels(dataset, SMALL, cache=tmp_path / "alone")
    assert hash_file(found.images_path) == hash_file(alone.images_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_builder_leaves_nothing_that_looks_finished_and_the_next_one_starts_over(
    tmp_path: Path, workers: int
) -> None:
    dataset = make_dataset(tmp_path / "source", rgb_files(tmp_path / "source", 80))
    cache = tmp_path / "cache"
    folder = cache / "pixels" / pixels.pixels_key(dataset, SMALL)
    process = start(dataset, cache, workers=workers)
    decoded = tmp_path / "decoded.txt"
    wait_for(lambda: decoded.exists() and len(decoded.read_text().splitlines()) >= 8)
    below = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not is_finished(folder)
    assert len(below) >= workers - 1
    wait_for(lambda: not any(Path(f"/proc/{one}").exists() for one in below))  # nobody goes on writing
    assert len(decoded.read_text().splitlines()) < 80
    found = build_pixels(dataset, SMALL, cache=cache, workers=1)
    alone = build_pixels(dataset, SMALL, cache=tmp_path / "alone", workers=1)
    assert is_finished(folder) and hash_file(found.images_path) == hash_file(alone.images_path)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(one) for one in path.read_text().split()] if path.exists() else []


@pytest.mark.shared
def test_the_mitosis_patches_equal_pillow(shared_data: Path, tmp_path: Path) -> None:
    rows = [
        {"id": path.stem, "path": path.name} for path in sorted((shared_data / "mitosis" / "images").glob("*.png"))[:40]
    ]
    dataset = make_dataset_elsewhere(shared_data / "mitosis" / "images", tmp_path, rows)
    cache = build_pixels(dataset, ImageTransform(crop=64, size=224), cache=tmp_path / "cache")
    images = cache.images(np.arange(40)).batch(np.arange(40))
    for name, image in zip(dataset.usable["path"], images, strict=True):
        with Image.open(dataset.path_of(name)) as file:
            expected = file.convert("RGB").crop((32, 32, 96, 96)).resize((224, 224), Image.Resampling.BILINEAR)
        assert np.array_equal(image, np.asarray(expected))


def make_dataset_elsewhere(source: Path, tmp_path: Path, rows: list[dict[str, Any]]) -> Dataset:
    link = tmp_path / "linked"
    link.mkdir()
    for row in rows:
        shutil.copy(source / row["path"], link / row["path"])
    return make_dataset(link, rows)
