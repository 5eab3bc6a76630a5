"""Reading training batches: the pixel cache against torchvision's ImageFolder + DataLoader (2 workers).

    python benchmarks/batches.py --json                                   # generated phantoms
    python benchmarks/batches.py --images FOLDER_OF_PNG --crop 64 --json  # your own

Same work on both sides: the same images, in a new random order every epoch, arriving in the training process as
uint8 tensors (batch, 3, size, size) after the same transform (central crop, Pillow's antialiased bilinear resize); labels
come along. That both sides give the same pixels is checked first. Each side delivers the memory layout that comes naturally
to it and that training takes: ours channels last, torchvision's channels first. `ratio` is that; `ratio_channels_first` is
the ratio when ours is also copied to channels first. Both are warm: the files are in the page
cache, the DataLoader keeps its two workers between epochs (`persistent_workers`), so that starting them is not counted,
and the first epoch of each side is thrown away. Sides alternate epoch by epoch, so that other load on the machine
hits both; the ratio is that of the medians. Making the pixel cache is paid once, and its seconds are printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision import datasets, transforms

from wazuka.core import threads
from wazuka.core.hashing import hash_pixels
from wazuka.data import manifest
from wazuka.data.phantoms import make_clinic
from wazuka.data.pixels import build_pixels, iterate
from wazuka.data.transform import ImageTransform
from wazuka.data.views import Images

WORKERS = 2


def collect(images: Path | None, work: Path, limit: int) -> list[Path]:
    """The images to read: those given, else phantoms."""
    if images is None:
        images = make_clinic(work / "clinic", patients=100, patches=10, corrupt=0).folder / "images"
    found = sorted(images.rglob("*.png"))[:limit]
    if len(found) < 2:
        raise SystemExit(f"{images} holds {len(found)} PNG files; give a folder with at least two.")
    return found


def make_dataset(files: list[Path], work: Path) -> manifest.Dataset:
    """A dataset over the class folders that ImageFolder reads: two classes, images in turn, by links."""
    rows = []
    for number, file in enumerate(files):
        label = "ab"[number % 2]
        link = work / "folders" / label / f"{number:06d}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        name = f"{label}/{link.name}"
        rows.append({"id": name, "path": name, "label": label, "patient": name, "status": "ok"})
        rows[-1] |= {"height": pixels.shape[0], "width": pixels.shape[1], "sha256": hash_pixels(pixels)}
    card = manifest.DatasetCard(
        name="batches", task="classification", classes=("a", "b"), root=str(work / "folders"), allow_outside_root=True
    )
    return manifest.save(work / "dataset", card, pd.DataFrame(rows))


def from_cache(
    images: Images, labels: torch.Tensor, batch: int, *, rng: np.random.Generator, channels_first: bool = False
) -> Iterator[torch.Tensor]:
    """One epoch from the pixel cache."""
    order = rng.permutation(len(images))
    for start, pixels in zip(range(0, len(order), batch), iterate(images, order, batch=batch), strict=True):
        labels[order[start : start + batch]]
        moved = pixels.transpose(0, 3, 1, 2)
        yield torch.from_numpy(np.ascontiguousarray(moved) if channels_first else moved)


def from_folder(loader: torch.utils.data.DataLoader[object]) -> Iterator[torch.Tensor]:
    """One epoch from ImageFolder."""
    for pixels, _ in loader:
        yield pixels


def seconds_of(epoch: Iterator[torch.Tensor], count: int, *, layout: torch.memory_format) -> float:
    """Time to receive one epoch."""
    began = time.perf_counter()
    seen = 0
    for pixels in epoch:
        assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3 and pixels.is_contiguous(memory_format=layout)
        seen += len(pixels)
    assert seen == count
    return time.perf_counter() - began


def peer_transform(crop: int | None, size: int) -> transforms.Compose:
    """The same transform in torchvision's words; its CenterCrop and Resize call Pillow, as ours do."""
    steps: list[object] = [] if crop is None else [transforms.CenterCrop(crop)]
    return transforms.Compose([*steps, transforms.Resize((size, size)), transforms.PILToTensor()])


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, object]:
    """Build both sides, check that they give the same pixels, time them in turn."""
    files = collect(arguments.images, work, arguments.limit)
    dataset = make_dataset(files, work)
    transform = ImageTransform(crop=arguments.crop, size=arguments.size)
    began = time.perf_counter()
    cache = build_pixels(dataset, transform, cache=work / "cache", workers=1)
    build_seconds = time.perf_counter() - began
    images = cache.images(np.arange(cache.n))
    labels = torch.from_numpy((dataset.usable["label"] == "b").to_numpy(np.int64))

    folder = datasets.ImageFolder(str(work / "folders"), transform=peer_transform(arguments.crop, arguments.size))
    for position in (0, cache.n // 2, cache.n - 1):  # ImageFolder and the manifest both sort by class and name
        same = torch.equal(
            folder[position][0], torch.from_numpy(images.batch(np.array([position]))[0]).permute(2, 0, 1)
        )
        assert same, f"the two sides differ in image {position}"
    loader = torch.utils.data.DataLoader(
        folder, batch_size=arguments.batch, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )
    rng = np.random.default_rng(0)
    first, last = torch.contiguous_format, torch.channels_last
    ours: list[float] = []
    ours_first: list[float] = []
    peer: list[float] = []
    for _ in range(arguments.epochs + 1):
        epoch = from_cache(images, labels, arguments.batch, rng=rng)
        ours.append(seconds_of(epoch, cache.n, layout=last))
        epoch = from_cache(images, labels, arguments.batch, rng=rng, channels_first=True)
        ours_first.append(seconds_of(epoch, cache.n, layout=first))
        peer.append(seconds_of(from_folder(loader), cache.n, layout=first))
    ours_median, first_median, peer_median = (statistics.median(one[1:]) for one in (ours, ours_first, peer))
    return {
        "ratio": round(peer_median / ours_median, 2),
        "ratio_channels_first": round(peer_median / first_median, 2),
        "peer": "torchvision ImageFolder + DataLoader, 2 workers",
        "images": cache.n,
        "native": [int(dataset.usable["height"].iloc[0]), int(dataset.usable["width"].iloc[0])],
        "size": arguments.size,
        "crop": arguments.crop,
        "batch": arguments.batch,
        "epochs": arguments.epochs,
        "images_per_second": {"ours": round(cache.n / ours_median), "peer": round(cache.n / peer_median)},
        "seconds": {"ours": [round(one, 4) for one in ours], "peer": [round(one, 4) for one in peer]},
        "build_seconds": round(build_seconds, 2),
        "cores": threads.allowed(),
        "load": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    """Read the arguments, measure in a temporary folder, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of PNG files; default: generated phantoms")
    parser.add_argument("--limit", type=int, default=1000, help="at most so many images")
    parser.add_argument("--crop", type=int, help="central crop in pixels; without it images must be square")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        result = measure(arguments, Path(work))
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
