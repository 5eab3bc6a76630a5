"""Stain normalization against images made from known stains and against its own definition."""

from __future__ import annotations

import math

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


def test_macenko_equals_the_papers_steps_written_out_pixel_by_pixel() -> None:
    image = slide(TRUE_STAINS, seed=8, side=48)
    density = [[-math.log((int(value) + 1) / 240) for value in pixel] for pixel in image.reshape(-1, 3)]
    tissue = np.array([pixel for pixel in density if min(pixel) > 0.15])
    # The plane of most variance from the singular vectors of the centered densities, pointing to where densities are.
    plane = [one if one.sum() > 0 else -one for one in np.linalg.svd(tissue - tissue.mean(axis=0))[2][:2]]
    angles = sorted(math.atan2(float(pixel @ plane[1]), float(pixel @ plane[0])) for pixel in tissue)
    at = [share * (len(angles) - 1) for share in (0.01, 0.99)]
    low, high = (angles[int(one)] + (one % 1) * (angles[int(one) + 1] - angles[int(one)]) for one in at)
    stains = [math.cos(one) * plane[0] + math.sin(one) * plane[1] for one in (low, high)]
    hematoxylin, eosin = sorted(stains, key=lambda one: -one[0])
    amounts = np.array([np.linalg.lstsq(np.stack([hematoxylin, eosin], axis=1), one, rcond=None)[0] for one in density])
    top = [float(np.quantile(amounts[:, one], 0.99)) for one in range(2)]
    expected = [
        [
            240 * math.exp(-(1.9705 * h / top[0] * reference_h + 1.0308 * e / top[1] * reference_e))
            for reference_h, reference_e in ((0.5626, 0.2159), (0.7201, 0.8012), (0.4062, 0.5581))
        ]
        for h, e in amounts
    ]
    result, note = stain.macenko(image)
    assert note is None
    assert np.abs(result.reshape(-1, 3) - np.clip(expected, 0, 255)).max() <= 0.51, "rounded to whole levels, no more"


def test_reinhard_equals_the_papers_steps_written_out_pixel_by_pixel() -> None:
    image = slide(TRUE_STAINS, seed=9, side=48)

    def forward(pixel: np.ndarray) -> list[float]:
        r, g, b = (max(float(one), 1.0) for one in pixel)
        cones = (
            0.3811 * r + 0.5783 * g + 0.0402 * b,
            0.1967 * r + 0.7244 * g + 0.0782 * b,
            0.0241 * r + 0.1288 * g + 0.8444 * b,
        )
        long, medium, short = (math.log(one) for one in cones)
        return [
            (long + medium + short) / math.sqrt(3),
            (long + medium - 2 * short) / math.sqrt(6),
            (long - medium) / math.sqrt(2),
        ]

    def backward(lab: np.ndarray) -> np.ndarray:
        a, b, c = lab[0] / math.sqrt(3), lab[1] / math.sqrt(6), lab[2] / math.sqrt(2)
        cones = [math.exp(one) for one in (a + b + c, a + b - c, a - 2 * b)]
        matrix = [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
        return np.linalg.solve(matrix, cones)

    pixels = image.reshape(-1, 3)
    lab = np.array([forward(pixel) for pixel in pixels])
    tissue = [any(-math.log((int(value) + 1) / 240) > 0.15 for value in pixel) for pixel in pixels]
    mean, std = lab[tissue].mean(axis=0), lab[tissue].std(axis=0)
    moved = (lab - mean) / std * [0.50, 0.09, 0.020] + [8.75, -0.11, 0.045]
    expected = np.clip([backward(one) for one in moved], 0, 255)
    result, note = stain.reinhard(image)
    assert note is None
    assert np.abs(result.reshape(-1, 3) - expected).max() <= 0.51
