"""A million images as tables: load, check, split and plan a study, without one image file.

    python benchmarks/million_rows.py --json

Prints the seconds (and CPU seconds, which other work on the machine does not change) and the peak memory (MiB of the process so far) of each step. The tables are made first and their
making is not counted: a hundred thousand patients, seven classes, five scanners, hashes and thumbnails of smooth random
images among which one in a hundred is a near copy of another patient's, and ten thousand equal ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from wazuka import audit
from wazuka.audit.groups import infer_groups
from wazuka.core.records import write_table
from wazuka.data import manifest
from wazuka.study.config import resolve_study
from wazuka.study.data import load_study_data, make_splits
from wazuka.study.planner import make_plan

BUDGETS = ("20", "100", "1000", "10%", "100%")
BACKBONE = "resnet18"
CHUNK = 50_000


def strings(prefix: str, numbers: np.ndarray, width: int) -> pd.api.extensions.ExtensionArray:
    """`prefix` + zero-padded numbers."""
    return pd.array(np.char.add(prefix, np.char.zfill(numbers.astype(str), width)), dtype="string")


def make_images(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, uint64 (n,), and thumbnails, uint8 (n, 256), of smooth random images (32 x 32, spectrum ~ 1/f)."""
    from scipy.fft import idctn

    frequency = np.add.outer(np.arange(32), np.arange(32)) + 1.0
    typical = rng.standard_normal((32, 32)) / frequency  # what images of one kind share
    powers = np.uint64(1) << np.arange(63, -1, -1, dtype=np.uint64)
    hashes, thumbnails = np.empty(n, dtype=np.uint64), np.empty((n, 256), dtype=np.uint8)
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        spectrum = (typical + rng.standard_normal((stop - start, 32, 32), dtype=np.float32) / frequency).astype("f4")
        again = rng.random(stop - start) < 0.01
        spectrum[1:][again[1:]] = spectrum[:-1][again[1:]] * 1.01
        spectrum[: (stop - start) // 100] = typical
        low = spectrum[:, :8, :8].reshape(-1, 64)
        hashes[start:stop] = ((low > np.median(low, axis=1, keepdims=True)) * powers).sum(axis=1, dtype=np.uint64)
        small = idctn(spectrum, axes=(1, 2), norm="ortho").reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4)).reshape(-1, 256)
        small -= small.min(axis=1, keepdims=True)
        thumbnails[start:stop] = np.rint(small * (255 / small.max(axis=1, keepdims=True)))
    return hashes, thumbnails


def make_dataset(folder: Path, n: int) -> None:
    """Write the dataset folder."""
    rng = np.random.default_rng(0)
    patient = rng.integers(0, n // 10, n)
    label = np.where(rng.random(n) < 0.2, rng.choice(7, n, p=np.arange(1, 8) / 28), patient % 7)
    names = strings("images/", np.arange(n), 7)
    table = pd.DataFrame(
        {
            "id": names,
            "path": names + ".png",
            "label": strings("class", label, 1),
            "patient": strings("patient", patient, 6),
            "domain": strings("scanner", patient % 5, 1),
            "status": pd.array(["ok"] * n, dtype="string"),
            "height": np.full(n, 128),
            "width": np.full(n, 128),
            "sha256": strings("", rng.permutation(n), 64),
        }
    )
    table.loc[rng.random(n) < 0.1, "label"] = pd.NA
    hashes, thumbnails = make_images(n, rng)
    inspection = pd.DataFrame(
        {
            "id": names,
            "std": rng.random(n) * 50 + 2,
            "nan_count": 0,
            "inf_count": 0,
            "constant": False,
            "phash": pd.array([f"{one:016x}" for one in hashes.tolist()], dtype="string"),
            "thumbnail": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(256), n, [None, pa.py_buffer(np.ascontiguousarray(thumbnails))]
            ).to_pylist(),
            "text_score": 0.0,
            "mask_values": None,
            "mask_height": pd.array([pd.NA] * n, dtype="Int64"),
            "mask_width": pd.array([pd.NA] * n, dtype="Int64"),
            "mask_spacing_mm": None,
            "mask_error": pd.array([pd.NA] * n, dtype="string"),
            "identifying_tags": [[]] * n,
            "file_bytes": 1000,
            "decode_error": pd.array([pd.NA] * n, dtype="string"),
        }
    )
    card = manifest.DatasetCard(
        name="million",
        task="classification",
        classes=tuple(f"class{i}" for i in range(7)),
        root=str(folder),
        patient_source="table",
        imported={"orphan_masks": []},
        simulated=True,
    )
    saved = manifest.save(folder, card, table)
    write_table(saved.folder / "inspection.parquet", inspection)


def measure(folder: Path) -> dict[str, object]:
    """Run the steps and time them."""
    steps: list[dict[str, float | str]] = []
    last, cpu = time.perf_counter(), time.process_time()

    def done(name: str) -> None:
        nonlocal last, cpu
        now, cpu_now = time.perf_counter(), time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        spent = {"seconds": round(now - last, 2), "cpu_seconds": round(cpu_now - cpu, 2), "peak_mb": round(peak)}
        steps.append({"step": name} | spent)
        last, cpu = now, cpu_now

    done("imports")
    dataset = manifest.load(folder)
    done("load manifest")
    tables = audit.Tables({"patient_source": "table", "imported": {}}, dataset.manifest, dataset.inspection)
    done("load inspection")
    results = []
    for check in audit.CHECKS:
        results.append(check.check(tables))
        done(f"{check.CODE} {check.NAME}")
    groups = infer_groups(tables)
    done("infer groups")
    outcomes = {one.code: one.outcome for one in results}
    near = next(one for one in results if one.code == "WZ108")
    del tables, groups
    del dataset
    study = resolve_study(
        {
            "dataset": str(folder),
            "budgets": list(BUDGETS),
            "repeats": 5,
            "strategies": {
                "probe": {"backbone": BACKBONE, "weights": "none", "adapt": "linear-probe"},
                "net": {"backbone": BACKBONE, "weights": "none", "adapt": "finetune"},
            },
        },
        folder=folder,
        where="benchmark",
    )
    data = load_study_data(study)
    done("load the study's rows")
    rows = make_splits(study, data)
    done("5 splits")
    plan = make_plan(study, data, rows)
    done(f"plan of {len(plan.trials)} trials")
    total, total_cpu = (sum(float(one[name]) for one in steps) for name in ("seconds", "cpu_seconds"))
    return {
        "rows": len(data.table),
        "seconds": round(total, 1),
        "cpu_seconds": round(total_cpu, 1),
        "peak_mb": steps[-1]["peak_mb"],
        "steps": steps,
        "near_duplicates": near.reason,
        "outcomes": outcomes,
    }


def main() -> None:
    """Make the tables in a process of their own (so that its memory is not counted), then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make_dataset(arguments.make, arguments.rows)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "dataset"
        subprocess.run([sys.executable, __file__, "--rows", str(arguments.rows), "--make", str(folder)], check=True)
        found = measure(folder)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for step in found["steps"]:  # type: ignore[attr-defined]
        print(f"{step['step']:45} {step['seconds']:7.2f} s {step['cpu_seconds']:7.2f} s CPU {step['peak_mb']:7} MiB")
    print(
        f"{found['rows']} rows: {found['seconds']} s ({found['cpu_seconds']} s CPU), {found['peak_mb']} MiB; {found['near_duplicates']}"
    )


if __name__ == "__main__":
    main()
