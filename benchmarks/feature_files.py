"""Features from files against the same model on images that are in memory already, in the same run.

    python benchmarks/feature_files.py --json [--device cpu] [--images 256] [--models resnet18,vit_small_patch16_224]

From files: PNG and JPEG files of 224 pixels are decoded into a new pixel cache by parallel processes, then the frozen
network (random weights) computes the features of every row and writes them, all as a study does it
(`data.pixels.build_pixels`, `nn.features.cached_features`). In memory: the same network on the same pixels in one array,
through the same batches. The processes that decode are started anew in every turn, and charged; loading the network is
charged to both. Sides alternate; `ratio` is the median of time in memory over time from files, so 1 means that decoding
costs nothing. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from image_files import make_dataset
from wazuka.core import threads
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import build_pixels
from wazuka.data.transform import ImageTransform
from wazuka.nn import backbones, features
from wazuka.nn.encoders import Encoder
from wazuka.nn.rows import ArrayImages


def compare(
    dataset: Dataset, encoder: Encoder, work: Path, *, size: int, device: str, workers: int, turns: int
) -> dict[str, Any]:
    """Time both sides in turn; the first turn of each is thrown away."""
    transform = ImageTransform(size=size)
    warm = build_pixels(dataset, transform, cache=work / "warm", workers=workers)
    array = ArrayImages(warm.images(np.arange(warm.n)).batch(np.arange(warm.n)))
    memory, files, decoding = [], [], []
    for turn in range(turns + 1):
        began = time.perf_counter()
        expected = features.compute_features(array, encoder, intensity="rgb8", device=device)
        memory.append(time.perf_counter() - began)
        cache = work / f"turn-{turn}-{encoder.name}"
        began = time.perf_counter()
        pixels = build_pixels(dataset, transform, cache=cache, workers=workers)
        decoding.append(time.perf_counter() - began)
        path = features.cached_features(pixels, encoder, cache=cache, device=device)
        files.append(time.perf_counter() - began)
        assert np.array_equal(np.load(path), expected), "the two sides give other features"
    ratios = [one / other for one, other in zip(memory[1:], files[1:], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "images_per_second": {
            "memory": round(warm.n / statistics.median(memory[1:]), 1),
            "files": round(warm.n / statistics.median(files[1:]), 1),
            "decoding_alone": round(warm.n / statistics.median(decoding[1:]), 1),
        },
        "ratios": [round(one, 3) for one in ratios],
    }


def main() -> None:
    """Read the arguments, measure in a temporary folder, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,vit_small_patch16_224")
    parser.add_argument("--kinds", default="png,jpg")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that decode")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the network")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    threads.limit(arguments.threads)
    shown = {name: getattr(arguments, name) for name in ("images", "size", "device", "workers", "threads")}
    result: dict[str, Any] = shown | {"results": {}}
    for kind in arguments.kinds.split(","):
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            dataset = make_dataset(work, images=arguments.images, size=arguments.size, kind=kind)
            for name in arguments.models.split(","):
                encoder = backbones.resolve(name, weights="none")
                how = {name: getattr(arguments, name) for name in ("size", "device", "workers", "turns")}
                result["results"][f"{name} {kind}"] = compare(dataset, encoder, work, **how)
    result["ratio"] = min(one["ratio"] for one in result["results"].values())
    result["load"] = round(os.getloadavg()[0], 2)
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
