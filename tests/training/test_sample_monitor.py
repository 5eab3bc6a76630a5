"""Figures of a generator under way: against loops, and that they see what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_images import as_images, noise, tiny_encoder
from wazuka.nn.features import compute_features
from wazuka.nn.rows import ArrayImages
from wazuka.training.sample_monitor import SampleMonitor, feature_distance, mean_difference


def test_the_feature_distance_equals_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.normal(0.5, 1, size=(9, 5))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 5 + 1) ** 3)

    def inner(a: np.ndarray) -> float:
        n = len(a)
        return sum(kernel(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    expected = inner(x) + inner(y) - 2 * sum(kernel(a, b) for a in x for b in y) / 63
    assert feature_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-10)


def test_the_feature_distance_is_zero_on_average_for_equal_distributions_of_any_size() -> None:
    rng = np.random.default_rng(1)
    values = [
        feature_distance(torch.from_numpy(rng.normal(size=(n, 4))), torch.from_numpy(rng.normal(size=(12, 4))))
        for n in (5, 40)
        for _ in range(200)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_the_mean_difference_is_over_all_pairs() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])
    assert mean_difference(points) == pytest.approx((5 + 8 + 5) / 3)


class Fake:
    """Gives images by a rule and remembers what was asked of it."""

    classes = ("a", "b")
    shape = (32, 32, 3)
    intensity = "rgb8"

    def __init__(self, images: dict[int, np.ndarray]) -> None:
        self.images, self.asked = images, np.array([], np.int64)

    def sample(
        self, labels: np.ndarray, seeds: np.ndarray, *, truncation: float = 1.0, device: str = "cpu"
    ) -> np.ndarray:
        self.asked = labels
        return np.stack(
            [self.images[label][seed % len(self.images[label])] for label, seed in zip(labels, seeds, strict=True)]
        )

    def save(self, folder: Path) -> None:
        raise AssertionError


def monitor(images: np.ndarray, labels: np.ndarray, is_val: np.ndarray, folder: Path) -> SampleMonitor:
    return SampleMonitor(
        as_images(images, folder),
        labels,
        is_val,
        encoder=tiny_encoder(),
        intensity="rgb8",
        window=None,
        device="cpu",
        seed=0,
    )


def test_a_generator_of_held_out_images_is_near_and_one_of_others_far(tmp_path: Path) -> None:
    images, labels = noise(80), np.arange(80) % 4 // 3  # a quarter are of class 1
    images[labels == 1] //= 2
    is_val = np.arange(80) >= 40
    watch = monitor(images, labels, is_val, tmp_path)
    good = Fake({label: noise(300, seed=5) // (1 + label) for label in (0, 1)})
    swapped = Fake({label: noise(300, seed=5) // 3 for label in (0, 1)})
    near, far = watch.measure(good), watch.measure(swapped)
    assert near.distance is not None and far.distance is not None
    assert abs(near.distance) < far.distance / 20
    assert np.bincount(good.asked).tolist() == [128 + 16, 128 + 16]  # for the distance and for the diversity
    assert near.diversity == pytest.approx(1.0, abs=0.2)


def test_a_generator_that_mixes_up_the_classes_is_far(tmp_path: Path) -> None:
    images, labels = noise(80), np.arange(80) % 2
    images[labels == 1] //= 2
    watch = monitor(images, labels, np.arange(80) >= 40, tmp_path)
    right, wrong = (
        watch.measure(Fake({label: noise(300, seed=5) // (1 + (label ^ swap)) for label in (0, 1)})).distance
        for swap in (0, 1)
    )
    assert right is not None and wrong is not None and abs(right) < wrong / 20


def test_a_class_with_one_held_out_image_is_left_out_of_the_distance(tmp_path: Path) -> None:
    labels = np.arange(40) % 2
    watch = monitor(noise(40), labels, (np.arange(40) % 4 == 0) | (np.arange(40) == 1), tmp_path)
    asked = Fake({0: noise(100, seed=3), 1: noise(100, seed=4)})
    assert watch.measure(asked).distance is not None
    assert np.bincount(asked.asked).tolist() == [256 + 16, 16]


def test_diversity_is_that_of_the_least_diverse_class(tmp_path: Path) -> None:
    images, labels = noise(40), np.arange(40) % 2
    watch = monitor(images, labels, np.zeros(40, bool), tmp_path)
    quality = watch.measure(Fake({0: noise(100, seed=3), 1: noise(1, seed=4)}))
    assert quality.distance is None and quality.diversity == 0.0
    held = watch.measure(Fake({0: noise(100, seed=3), 1: noise(100, seed=4)}))
    features = torch.from_numpy(compute_features(ArrayImages(images[labels == 1]), tiny_encoder(), intensity="rgb8"))
    assert watch.real_difference[1] == pytest.approx(mean_difference(features), rel=0.05)
    assert held.diversity == pytest.approx(1.0, abs=0.2)


def test_one_image_of_each_class_gives_no_figures(tmp_path: Path) -> None:
    quality = monitor(noise(2), np.arange(2), np.zeros(2, bool), tmp_path).measure(Fake({0: noise(1), 1: noise(1)}))
    assert quality.figures() == {}
