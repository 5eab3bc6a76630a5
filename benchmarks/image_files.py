"""Files of drawn images and a dataset over them, for the benchmarks that start from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from wazuka.core.hashing import hash_pixels
from wazuka.data import manifest


def make_dataset(folder: Path, *, images: int, size: int, kind: str, seed: int = 0) -> manifest.Dataset:
    """Write RGB images of smooth color with grain, two classes in turn, each its own patient.

    Args:
        folder: Gets `files/` and `dataset/`.
        kind: "png" or "jpg" (quality 90).
    """
    rng = np.random.default_rng(seed)
    root = folder / "files"
    root.mkdir(parents=True)
    rows = []
    for number in range(images):
        coarse = Image.fromarray(rng.integers(60, 230, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)
        pixels = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
        path = root / f"{number:06d}.{kind}"
        Image.fromarray(pixels).save(path, quality=90)
        if kind != "png":
            with Image.open(path) as opened:
                pixels = np.asarray(opened.convert("RGB"))
        row = {"id": path.stem, "path": path.name, "label": "ab"[number % 2], "patient": path.stem, "status": "ok"}
        rows.append(row | {"height": size, "width": size, "sha256": hash_pixels(pixels)})
    card = manifest.DatasetCard(name="drawn", task="classification", classes=("a", "b"), root=str(root))
    return manifest.save(folder / "dataset", card, pd.DataFrame(rows))
