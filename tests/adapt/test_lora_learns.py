"""LoRA learns the phantom task from fifty labels better than a probe on the same randomly initialized backbone."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.toy_images import as_images, make_task, tiny_encoder
from wazuka.adapt import linear_probe, lora
from wazuka.data.phantoms import make_clinic
from wazuka.nn import architectures
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import compute_features
from wazuka.nn.weights import hash_state
from wazuka.training.roles import Runtime

LABELS, SEEDS = 50, 5


def small_vit(seed: int) -> Encoder:
    """A narrow vision transformer of 6 blocks for 48 pixels in patches of 12, with fresh weights."""
    args = {"img_size": 48, "patch_size": 12}
    hashed = hash_state(architectures.build_seeded("test_vit", args, seed=seed).state_dict())
    return dataclasses.replace(tiny_encoder("test_vit"), args=args, input_size=48, weights_hash=hashed, seed=seed)


@cache
def phantoms(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 48, 48, 3) and labels of a simulated clinic without faults."""
    clinic = make_clinic(folder / "clinic", patients=40, patches=8, side=48, corrupt=0, duplicates=0, seed=5)
    lines = [line.split(",") for line in clinic.table.read_text().splitlines()[1:]]
    images = np.stack([np.asarray(Image.open(folder / "clinic" / line[0])) for line in lines])
    return images, np.array([line[1] == "irregular" for line in lines]).astype(np.int64)


@pytest.mark.parametrize(("backbone", "steps", "lr"), [("resnet", 60, 1e-2), ("vit", 120, 4e-3)])
def test_fifty_labels_teach_adapters_more_than_a_probe(backbone: str, steps: int, lr: float, tmp_path: Path) -> None:
    images, labels = phantoms(tmp_path)
    gains = []
    for seed in range(SEEDS):
        encoder = small_vit(seed) if backbone == "vit" else tiny_encoder(seed=seed)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(labels))
        rows, test = order[:LABELS], order[LABELS:]
        view, others = as_images(images, tmp_path, rows=rows), as_images(images, tmp_path, rows=test)
        features = compute_features(view, encoder, intensity="rgb8")
        task = make_task(view, labels[rows], encoder, seed=seed, features=features, inner_split=False)
        runtime = Runtime(device="cpu", threads=1, folder=tmp_path)
        (probe,) = linear_probe.METHOD([task], config=linear_probe.Config(), runtime=runtime)
        config = lora.Config(steps=steps, batch=16, lr=lr, dropout=0.0)
        (adapted,) = lora.METHOD([task], config=config, runtime=runtime)
        scores = [roc_auc_score(labels[test], one.predictor.predict_images(others)[:, 1]) for one in (adapted, probe)]
        gains.append(scores)
    mean = np.mean(gains, axis=0)
    assert mean[0] > mean[1] + 0.05, np.round(gains, 3).tolist()
