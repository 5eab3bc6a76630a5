"""Precision, recall, density and coverage in blocks: time and peak memory.

    python benchmarks/manifold.py --json [--threads 1] [--rows 10000] [--features 512] [--block-bytes 67108864]

`peak_gb` is the process's peak memory in 10^9 bytes, Python and the features with it; `peak_above_features_gb` is what the
computation added to that. `expected_gb` is the formula: per side rows x features x 4 bytes for the centered copy (the
caller's float32 features not counted), some 100 bytes a row, one block, and 64 MB of exact differences. With `--check` the decisions are compared
with a float64 computation from differences, row by row (slow: rows² x features).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--block-bytes", type=int, default=2**26)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from wazuka.core import threads

    threads.limit(given.threads)
    print(json.dumps(measure(given), indent=None if given.json else 2))


def measure(given: argparse.Namespace) -> dict:
    """Run once; see the module's text."""
    import numpy as np

    from wazuka.core import threads
    from wazuka.evaluate.manifold import manifold

    threads.limit(threads.allowed())  # NumPy's libraries are loaded now
    rng = np.random.default_rng(given.seed)
    mixing = (rng.normal(size=(64, given.features)) * (np.arange(1, 65) ** -0.7)[:, None]).astype(np.float32)
    real, synthetic = (simulate(rng, given.rows, mixing, spread) for spread in (1.0, 0.9))
    before = peak()
    wall, cpu = time.perf_counter(), time.process_time()
    found = manifold(real, synthetic, block_bytes=given.block_bytes)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {
        "rows": given.rows,
        "features": given.features,
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_gb": round(peak() / 1e9, 3),
        "peak_above_features_gb": round((peak() - before) / 1e9, 3),
        "expected_gb": round((given.block_bytes + 2**26 + 2 * given.rows * (4 * given.features + 100)) / 1e9, 3),
        "precision": found.precision,
        "recall": found.recall,
        "density": found.density,
        "coverage": found.coverage,
        "block_bytes": given.block_bytes,
        "threads": given.threads,
    }
    if given.check:
        result["differences"] = differences(found, real, synthetic)
    return result


def simulate(rng, rows: int, mixing, spread: float):
    """Draw rectified mixtures of 64 factors plus noise, (rows, features) float32, some thousand rows at a time."""
    import numpy as np

    features = np.empty((rows, mixing.shape[1]), dtype=np.float32)
    for start in range(0, rows, 4096):
        some = features[start : start + 4096]
        factors = spread * rng.normal(size=(len(some), len(mixing))).astype(np.float32)
        noise = 0.2 * rng.normal(size=some.shape).astype(np.float32)
        np.maximum(factors @ mixing + noise + np.float32(0.5), 0, out=some)
    return features


def differences(found, real, synthetic) -> int:
    """Rows on which a plain float64 computation decides otherwise."""
    import numpy as np

    def squares(rows, one):
        return np.square(rows.astype(np.float64) - one).sum(axis=1)

    def radii(rows):
        return np.array([np.partition(squares(rows, one), found.k)[found.k] for one in rows])

    of_real, of_synthetic = radii(real), radii(synthetic)
    balls, covered, reached = [], np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for one, radius in zip(synthetic, of_synthetic, strict=True):
        gaps = squares(real, one)
        balls.append((gaps <= of_real).sum())
        covered |= gaps <= of_real
        reached |= gaps <= radius
    pairs = ((found.balls, np.array(balls)), (found.covered, covered), (found.reached, reached))
    return int(sum((one != other).sum() for one, other in pairs))


def peak() -> int:
    """Peak resident memory of this process in bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
