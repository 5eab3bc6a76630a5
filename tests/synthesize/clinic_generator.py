"""The recorded generator of the simulated clinic: how it was made, and how it is judged.

    python -m tests.synthesize.clinic_generator WEIGHTS.safetensors

makes `tests/artifacts/clinic_generator` again, in seven minutes of one core: MSG-GAN at 32 pixels on 1,200 patches of 120
simulated patients. WEIGHTS are those of MobileNet v1 x 0.25, whose frozen features the probe uses.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.toy_images import as_images
from wazuka.data.phantoms import CLASSES, make_clinic
from wazuka.data.transform import ImageTransform
from wazuka.nn import backbones
from wazuka.nn.encoders import Encoder
from wazuka.nn.features import compute_features
from wazuka.nn.generators import Generator
from wazuka.nn.rows import ArrayImages
from wazuka.synthesize.msg_gan import Config, fit
from wazuka.training.roles import Runtime, SynthesisTask

RECORDED = Path(__file__).parents[1] / "artifacts" / "clinic_generator"
TRANSFORM = ImageTransform(crop=40, size=128)
"""The central 40 pixels, as large as the frozen network wants to see them; the generator's own images have 32."""
CONFIG = Config(size=32, latent=32, steps=5000, mismatch=2.0, augment="none", flips="all", precision="bf16")


def load_clinic(folder: Path, *, seed: int, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches of a simulated clinic: images (n, 128, 128, 3), labels (n,), patients (n,)."""
    clinic = make_clinic(folder, seed=seed, patients=patients, patches=10, side=64, corrupt=0, duplicates=0)
    table = pd.read_csv(clinic.table)
    images = [TRANSFORM.apply(np.asarray(Image.open(folder / name))) for name in table["image"]]
    labels = table["label"].map(CLASSES.index).to_numpy(np.int64)
    return np.stack(images), labels, pd.factorize(table["patient"])[0].astype(np.int64)


def probe_scores(
    encoder: Encoder, generator: Generator, real: np.ndarray, labels: np.ndarray, patients: np.ndarray
) -> tuple[float, float]:
    """AUROC of a probe trained on three quarters of the real patients: on the others, and on 400 images of the generator."""
    classes = np.arange(400) % 2
    made = generator.sample(classes, np.arange(400) + 1000)
    features = compute_features(ArrayImages(np.concatenate([real, made])), encoder, intensity="rgb8")
    held_out = np.concatenate([patients % 4 == 0, np.ones(len(made), bool)])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    probe.fit(features[~held_out], labels[patients % 4 != 0])
    scores = probe.decision_function(features[held_out])
    count = len(scores) - len(made)
    truth = labels[patients % 4 == 0]
    return float(roc_auc_score(truth, scores[:count])), float(roc_auc_score(classes, scores[count:]))


def main(weights: str) -> None:
    """Train, judge, save."""
    encoder = backbones.resolve(f"mobilenetv1-025={weights}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images, labels, patients = load_clinic(folder / "clinic", seed=5, patients=120)
        task = SynthesisTask(
            name="clinic",
            images=as_images(images, folder / "pixels"),
            labels=labels,
            patients=patients,
            is_val=np.zeros(len(labels), bool),
            masks=None,
            classes=CLASSES,
            encoder=encoder,
            seed=0,
        )
        result = fit(task, config=CONFIG, runtime=Runtime(device="cpu", threads=1, folder=folder, say=print))
        print({name: [round(value, 2) for _, value in curve] for name, curve in result.curves.items()})
        result.generator.save(RECORDED)
        images, labels, patients = load_clinic(folder / "others", seed=6, patients=120)
        print("AUROC on real, on made images:", *probe_scores(encoder, result.generator, images, labels, patients))


if __name__ == "__main__":
    main(sys.argv[1])
