"""Fréchet distances: ours against the usual route through scipy.linalg.sqrtm, both from features to the number, float64.

    python benchmarks/frechet.py --json [--threads 1] [--repeats 5] [--sizes 500x2048,5000x2048]

Both get the same float32 features, threads and process. The peer is what the usual tools do: means, np.cov, and the trace
of scipy's sqrtm of the product of the covariances (its real part). Each side is warmed up at 64 x 32; at every size the
two take turns and the medians count. `max_gap` is the largest difference relative to the distance with more rows than
features, and relative to the sum of both traces otherwise, where the peer's singular product costs it digits.

Features are simulated as an encoder gives them: rectified mixtures of factors of falling scale. `by_library` are the
same gaps against torch-fidelity, where it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", default="500x2048,5000x2048", help="rows x features")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from wazuka.core import threads

    threads.limit(given.threads)
    sizes = [(int(rows), int(dim)) for rows, dim in (one.split("x") for one in given.sizes.split(","))]
    found = [compare(*size, repeats=given.repeats, seed=given.seed, say=not given.json) for size in sizes]
    result = {"sizes": found, "max_gap": max(one["max_gap"] for one in found), "threads": given.threads}
    print(json.dumps({**result, "versions": versions()}, indent=None if given.json else 2))


def compare(rows: int, dim: int, *, repeats: int, seed: int, say: bool) -> dict:
    """Time both at one size; see the module's text."""
    import numpy as np

    from wazuka.core import threads
    from wazuka.evaluate.frechet import frechet

    threads.limit(threads.allowed())  # NumPy's libraries are loaded now
    rng = np.random.default_rng(seed)
    for side in (by_sqrtm, frechet):
        side(*simulate(rng, 64, 32))
    x, y = simulate(rng, rows, dim)
    ours: list[tuple[float, float]] = []
    peers: list[tuple[float, float]] = []
    for turn in range(repeats):
        ours.append(timed(frechet, x, y)[0])
        spent, expected = timed(by_sqrtm, x, y)
        peers.append(spent)
        if say:
            print(f"{rows} x {dim}, {turn + 1}/{repeats}: ours {ours[-1][0]:.3f} s, sqrtm {peers[-1][0]:.2f} s")
    found = frechet(x, y)
    scale = found.distance if rows > dim else found.traces
    library = by_torch_fidelity(x, y)
    wall = [statistics.median(one[0] for one in side) for side in (ours, peers)]
    cpu = [statistics.median(one[1] for one in side) for side in (ours, peers)]
    return {
        "rows": rows,
        "features": dim,
        "ratio": round(wall[1] / wall[0], 1),
        "ratio_cpu": round(cpu[1] / cpu[0], 1),
        "seconds_ours": round(wall[0], 4),
        "seconds_sqrtm": round(wall[1], 3),
        "cpu_seconds_ours": round(cpu[0], 4),
        "cpu_seconds_sqrtm": round(cpu[1], 3),
        "max_gap": abs(found.distance - expected) / scale,
        "by_library": None if library is None else abs(found.distance - library) / scale,
        "distance": found.distance,
        "traces": found.traces,
        "repeats": repeats,
    }


def simulate(rng, rows: int, dim: int) -> tuple:
    """Draw two feature sets, (rows, dim) float32, of slightly different distributions."""
    import numpy as np

    mixing = rng.normal(size=(dim, dim)) * np.arange(1, dim + 1) ** -0.5
    return tuple(
        np.maximum(0.1 * rng.normal(size=(rows, dim)) @ mixing.T + 0.1 * (1 + side), 0).astype(np.float32)
        for side in range(2)
    )


def moments(x) -> tuple:
    import numpy as np

    x = x.astype(np.float64)
    return x.mean(axis=0), np.cov(x, rowvar=False)


def by_sqrtm(x, y) -> float:
    """The usual formula with a matrix square root."""
    import numpy as np
    from scipy import linalg

    (mean, first), (other, second) = moments(x), moments(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a singular product is what few rows give
        root = linalg.sqrtm(first @ second)
    return float(np.square(mean - other).sum() + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


def by_torch_fidelity(x, y) -> float | None:
    try:
        from torch_fidelity import metric_fid
    except ImportError:
        return None
    pair = [dict(zip(("mu", "sigma"), moments(one), strict=True)) for one in (x, y)]
    return float(metric_fid.fid_statistics_to_metric(*pair, verbose=False)[metric_fid.KEY_METRIC_FID])


def timed(function, *given) -> tuple:
    """Wall and processor seconds of a call, and its result; the second is the fairer on a busy machine."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*given)
    return (time.perf_counter() - wall, time.process_time() - cpu), result


def versions() -> dict:
    import numpy
    import scipy

    return {"numpy": numpy.__version__, "scipy": scipy.__version__}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
