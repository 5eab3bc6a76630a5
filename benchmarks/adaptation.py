"""Speed and memory of the ways to adapt a backbone: probe, LoRA in the last blocks, LoRA, full fine-tuning.

    python benchmarks/adaptation.py --json [--device cuda] [--backbones resnet50,vit-small,vit-base,vit-large]

Random weights, images of 224 pixels from files. Every pair of backbone and method runs in a process of its own, so that its
peak memory is its own: on a GPU the most that torch had allocated, on a CPU the peak resident size of the process less that
before the first image. A step is the method's own (`wazuka.adapt`): batch, light augmentation, forward, backward, clipping,
AdamW; seconds per step are those of a longer training less those of a shorter one, divided by the steps between, so that
loading and standardization do not count. `cpu_seconds_per_step` is the processor time likewise: with one thread on a
machine that is busy with other work, it is what an idle one would take. `features_per_second` is the probe's: files
decoded into a new pixel cache, then frozen features of all, end to end. `estimate_gb` is what `wazuka run` foresees
(`wazuka.nn.memory`), without the program itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "probe": ("linear-probe", {}),
    "lora-last-2": ("lora", {"blocks": 2}),
    "lora": ("lora", {}),
    "finetune": ("finetune", {}),
}


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure one backbone and one method in this process."""
    import numpy as np
    import torch

    from image_files import make_dataset
    from wazuka import adapt
    from wazuka.data.pixels import build_pixels
    from wazuka.data.transform import ImageTransform
    from wazuka.data.views import LabeledImages
    from wazuka.nn import backbones, features
    from wazuka.nn.memory import Training, training_bytes
    from wazuka.study.estimate import training_of
    from wazuka.training.roles import AdaptTask, Runtime

    device, count = arguments.device, arguments.images
    dataset = make_dataset(work, images=count, size=arguments.size, kind="png")
    encoder = backbones.resolve(arguments.backbone, weights="none")
    kind, settings = METHODS[arguments.method]
    transform = ImageTransform(size=arguments.size)
    began = time.perf_counter()
    pixels = build_pixels(dataset, transform, cache=work / "cache", workers=arguments.workers)
    decoded = time.perf_counter() - began
    if kind == "lora":
        import peft  # noqa: F401  # its own size is none of the training's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result: dict[str, Any] = {}
    if kind == "linear-probe":
        began, cpu = time.perf_counter(), time.process_time()
        features.cached_features(pixels, encoder, cache=work / "cache", device=device)
        seconds = time.perf_counter() - began
        result["features_per_second"] = round(count / (decoded + seconds), 2)
        result["cpu_seconds_per_image"] = round((time.process_time() - cpu) / count, 4)
        training = Training(trained="nothing", half=features.precision_of(device) == "bf16")
    else:
        method = adapt.METHODS[kind]
        labels = np.arange(count, dtype=np.int64) % 2
        rows = LabeledImages(
            images=pixels.images(np.arange(count)),
            labels=labels,
            patients=np.arange(count),
            domains=np.zeros(count, np.int64),
            is_val=np.zeros(count, bool),
        )
        task = AdaptTask(
            name="b", labeled=rows, classes=("a", "b"), positive=1, encoder=encoder, inner_split=False, seed=0
        )
        config = method.config(batch=arguments.batch, augment="light", **settings)
        walls, cpus = [], []
        for turn, steps in enumerate((1, arguments.steps, 3 * arguments.steps)):  # the first one only warms up
            runtime = Runtime(device=device, threads=arguments.threads, folder=work / f"turn-{turn}")
            runtime.folder.mkdir()
            began, cpu = time.perf_counter(), time.process_time()
            method([task], config=dataclasses.replace(config, steps=steps), runtime=runtime)
            walls.append(time.perf_counter() - began)
            cpus.append(time.process_time() - cpu)
        for name, values in (("seconds_per_step", walls), ("cpu_seconds_per_step", cpus)):
            result[name] = round((values[2] - values[1]) / (2 * arguments.steps), 4)
        training = training_of(kind, config, device=device, labels=count)
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated(device) / 2**30
    else:
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 2**30
    result["peak_gb"] = round(peak, 2)
    result["estimate_gb"] = round(training_bytes(encoder, training, size=arguments.size).total / 2**30, 2)
    return result


def main() -> None:
    """Run every pair in a process of its own and print."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default="resnet50,vit-small", help="names of cards, separated by commas")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--steps", type=int, default=10, help="of the shorter training; the longer has three times as many"
    )
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--workers", type=int, default=cores, help="processes that decode")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--backbone", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.backbone:  # a process of its own
        from wazuka.core import threads

        threads.limit(arguments.threads)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(arguments, Path(folder))))
        return
    shared = [one for one in sys.argv[1:] if one != "--json"]
    found = {}
    for backbone in arguments.backbones.split(","):
        for method in arguments.methods.split(","):
            command = [sys.executable, __file__, *shared, "--backbone", backbone, "--method", method]
            done = subprocess.run(command, capture_output=True, text=True)
            lines = done.stdout.splitlines()
            failed = {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
            found[f"{backbone} {method}"] = json.loads(lines[-1]) if done.returncode == 0 else failed
            if not arguments.json:
                print(f"{backbone} {method}: {found[f'{backbone} {method}']}", flush=True)
    if arguments.json:
        names = ("device", "images", "size", "batch", "steps", "threads")
        print(json.dumps({name: getattr(arguments, name) for name in names} | {"results": found}))


if __name__ == "__main__":
    main()
