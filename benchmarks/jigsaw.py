"""Speed of jigsaw puzzles of a batch against a loop over samples and tiles.

    python benchmarks/jigsaw.py --json [--device cuda] [--batch 256] [--size 224] [--grid 16] [--threads 1]

Both cut the same random images by the same permutations into the same pixels (checked). They take turns and the medians
count, so that other work on the machine slows both alike. `cpu_seconds` is processor time: with one thread on a busy
machine it is what an idle one would take; on a GPU it says nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any


def by_loop(images: Any, grid: int, permutations: Any) -> Any:
    """Tile by tile."""
    result = images.clone()
    side = images.shape[-1] // grid
    orders = permutations.tolist()
    for number, order in enumerate(orders):
        for tile, source in enumerate(order):
            y, x = tile // grid * side, tile % grid * side
            from_y, from_x = source // grid * side, source % grid * side
            result[number, :, y : y + side, x : x + side] = images[
                number, :, from_y : from_y + side, from_x : from_x + side
            ]
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--grid", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    from wazuka.core import threads

    threads.limit(given.threads)
    import statistics

    import torch

    from wazuka.training.jigsaw import draw_permutations, shuffle

    torch.set_num_threads(given.threads)
    generator = torch.Generator(given.device).manual_seed(0)
    contiguous = torch.rand(given.batch, 3, given.size, given.size, generator=generator, device=given.device)
    permutations = draw_permutations(given.batch, given.grid, generator)

    def timed(function: Callable[..., Any], images: Any) -> tuple[tuple[float, float], Any]:
        ready(given.device)
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(images, given.grid, permutations)
        ready(given.device)
        return (time.perf_counter() - wall, time.process_time() - cpu), result

    found = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        images = contiguous.contiguous(memory_format=layout)
        rounds = []
        for number in range(given.repeats + 1):
            (ours, ours_result), (loop, loop_result) = timed(shuffle, images), timed(by_loop, images)
            assert torch.equal(ours_result, loop_result)
            del ours_result, loop_result
            rounds += [(*ours, *loop)] if number else []  # the first round warms up
        wall, cpu, loop_wall, loop_cpu = (statistics.median(one) for one in zip(*rounds, strict=True))
        found[name] = {
            "seconds": round(wall, 5),
            "loop_seconds": round(loop_wall, 4),
            "ratio": round(loop_wall / wall, 1),
            "cpu_seconds": round(cpu, 5),
            "loop_cpu_seconds": round(loop_cpu, 4),
            "cpu_ratio": round(loop_cpu / cpu, 1),
        }
    about = {"batch": given.batch, "size": given.size, "grid": given.grid, "device": given.device}
    print(json.dumps({**found, **about, "threads": given.threads}, indent=None if given.json else 2))


def ready(device: str) -> None:
    """Wait until the device has done all."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
