"""Stain normalization against images made from known stains and against its own definition."""

from __future__ import annotations

import numpy as np
import pytest

from wazuka.data import stain
from wazuka.data.transform import ImageTransform

TRUE_STAINS = np.array([[0.64, 0.70, 0.32], [0.10, 0.95, 0.30]])


def slide(stains: np.ndarray, *, seed: int = 0, side: int = 96) -> np.ndarray:
    """Beer-Lambert: pixels that hold mixtures of both stains, some nearly pure."""
    rng = np.random.default_rng(seed)
    share = rng.beta(0.35, 0.35, side * side)
    amount = rng.uniform(0.5, 1.4, side * side)
    density = amount[:, None] * (
        share[:, None] * stains[0] * 1.4 / np.linalg.norm(stains[0]) + (1 - share[:, None]) * stains[1]
    )
    density = np.maximum(density, 0.16)
    return np.clip(np.rint(stain.INCIDENT_LIGHT * np.exp(-density) - 1), 0, 255).astype(np.uint8).reshape(side, side, 3)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))


def test_macenko_finds_the_stains_that_made_the_image_hematoxylin_first() -> None:
    found = stain.estimate_stains(stain.to_density(slide(TRUE_STAINS).reshape(-1, 3)))
    assert isinstance(found, np.ndarray)
    assert angle(found[0], TRUE_STAINS[0]) < 4
    assert angle(found[1], TRUE_STAINS[1]) < 4


def test_macenko_brings_two_stainings_of_the_same_tissue_together() -> None:
    other = np.array([[0.50, 0.78, 0.38], [0.20, 0.80, 0.56]])
    before = [slide(TRUE_STAINS).astype(float), slide(other).astype(float)]
    after = [stain.macenko(slide(one))[0].astype(float) for one in (TRUE_STAINS, other)]
    assert np.abs(after[0] - after[1]).mean() < 0.35 * np.abs(before[0] - before[1]).mean()


def test_reinhard_gives_every_image_the_mean_and_deviation_of_the_reference() -> None:
    image = slide(TRUE_STAINS, seed=3)
    result, note = stain.reinhard(image)
    assert note is None
    lab = stain.to_lab(result.reshape(-1, 3))
    assert np.allclose(lab.mean(axis=0), stain.REFERENCE_MEAN, atol=[0.05, 0.02, 0.01])
    assert np.allclose(lab.std(axis=0), stain.REFERENCE_STD, rtol=0.15)


def test_l_alpha_beta_and_back_is_the_identity() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (500, 3))
    assert np.allclose(stain.from_lab(stain.to_lab(pixels)), pixels)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
@pytest.mark.parametrize("value", [255, 0, 120])
def test_an_image_without_an_estimate_stays_as_it_is_with_a_reason(method: str, value: int) -> None:
    image = np.full((32, 32, 3), value, np.uint8)
    result, note = stain.normalize(image, method)
    assert np.array_equal(result, image)
    assert note
    unchanged, told = ImageTransform(size=32, stain=method).apply_noting(image)
    assert np.array_equal(unchanged, image) and told == note


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_stains_are_estimated_on_the_whole_image_before_the_crop(method: str) -> None:
    image = slide(TRUE_STAINS, seed=5)
    whole = stain.normalize(image, method)[0]
    assert np.array_equal(ImageTransform(crop=32, size=32, stain=method).apply(image), whole[32:64, 32:64])
