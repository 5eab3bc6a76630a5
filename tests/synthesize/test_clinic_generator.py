"""A generator that was trained on the simulated clinic makes images whose classes a probe of real ones recognizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.synthesize.clinic_generator import RECORDED, load_clinic, probe_scores
from wazuka.nn import backbones, generators


def test_a_probe_of_other_real_patients_recognizes_the_classes_of_made_images(
    tmp_path: Path, shared_data: Path
) -> None:
    encoder = backbones.resolve(f"mobilenetv1-025={shared_data / 'weights' / 'mobilenetv1_025.safetensors'}")
    generator = generators.load(RECORDED)
    images, labels, patients = load_clinic(tmp_path / "clinic", seed=6, patients=120)
    real, made = probe_scores(encoder, generator, images, labels, patients)
    assert real > 0.85  # the probe knows its task
    assert made >= 0.9


def test_the_made_images_of_a_class_differ() -> None:
    images = generators.load(RECORDED).sample(np.zeros(32, np.int64), np.arange(32)).astype(float)
    assert images.std(0).mean() > 20  # gray levels
