"""Stain normalization of H&E images: Macenko (2009) and Reinhard (2001), study key `image: {stain: macenko}`.

Macenko et al. (2009), "A method for normalizing histology slides for quantitative analysis", ISBI: the two stains span
a plane in optical density; their directions are the robust extremes of the angle in that plane; concentrations are
least squares, scaled so that their 99th percentile is that of a reference, and shown in the reference's stains.
Reinhard et al. (2001), "Color transfer between images", IEEE CG&A 21(5): mean and standard deviation of the image in
the decorrelated space l-alpha-beta are moved to those of a reference.

An image that cannot carry an estimate (almost no tissue, or one stain only) is left as it is, and the reason comes back
with it: the pixel cache counts these.
"""

from __future__ import annotations

import numpy as np

INCIDENT_LIGHT = 240.0
"""Transmitted light of a scanner's white (Io); customary for 8-bit slides, paper silent."""
BETA = 0.15
"""Optical density below which a pixel is background (paper, section 2)."""
ALPHA = 1.0
"""Percentile taken as the robust extreme of the angle (paper, section 2)."""
REFERENCE_STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
"""Optical density (R, G, B) of hematoxylin and of eosin in the customary reference slide of Macenko's method."""
REFERENCE_MAXIMA = np.array([1.9705, 1.0308])
"""99th percentiles of hematoxylin and eosin in that slide."""
REFERENCE_MEAN = np.array([8.75, -0.11, 0.045])
REFERENCE_STD = np.array([0.50, 0.09, 0.020])
"""Mean and standard deviation of a typical H&E field in l-alpha-beta (natural logarithms of 0..255; our choice)."""
MIN_TISSUE = 0.01
"""Smallest share of tissue pixels that carries an estimate, and at least `MIN_PIXELS` of them."""
MIN_PIXELS = 64
MIN_ANGLE = 0.05
"""Smallest angle (radians) between the two stains; below, the image holds one stain only."""
MAX_SAMPLE = 250_000
"""Pixels used for the estimate: every k-th one of a larger image."""

# Reinhard's equations 3, 4 and 6: RGB -> LMS cone space -> l-alpha-beta.
_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])


def normalize(image: np.ndarray, method: str) -> tuple[np.ndarray, str | None]:
    """Normalize the stains of one image.

    Args:
        image: (height, width, 3) uint8 RGB.
        method: "macenko" or "reinhard".

    Returns:
        The normalized image, and None; or the image unchanged, and why.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise TypeError(f"image is {image.dtype} {image.shape}, not uint8 (height, width, 3)")
    return {"macenko": macenko, "reinhard": reinhard}[method](image)


def macenko(image: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Macenko's normalization; see `normalize`."""
    density = to_density(image.reshape(-1, 3))
    sample = density[:: max(1, len(density) // MAX_SAMPLE)]
    stains = estimate_stains(sample)
    if isinstance(stains, str):
        return image, stains
    maxima = np.percentile(_concentrations(sample, stains), 99, axis=0)
    if maxima.min() <= 0:
        return image, "one of the two stains is absent"
    normalized = (_concentrations(density, stains) * (REFERENCE_MAXIMA / maxima)) @ REFERENCE_STAINS
    return _to_image(INCIDENT_LIGHT * np.exp(-normalized), image.shape), None


def estimate_stains(density: np.ndarray) -> np.ndarray | str:
    """Estimate hematoxylin and eosin from optical densities (n, 3): (2, 3) of unit rows, or why that is impossible."""
    tissue = density[(density > BETA).all(axis=1)]
    if len(tissue) < max(MIN_PIXELS, MIN_TISSUE * len(density)):
        return f"{len(tissue)} of {len(density)} pixels are tissue, too few to estimate stains"
    plane = np.linalg.eigh(np.cov(tissue, rowvar=False))[1][:, [2, 1]]  # the two directions of most variance
    plane *= np.where(plane.sum(axis=0) < 0, -1.0, 1.0)
    projected = tissue @ plane
    angle = np.arctan2(projected[:, 1], projected[:, 0])
    low, high = np.percentile(angle, [ALPHA, 100 - ALPHA])
    if high - low < MIN_ANGLE:
        return "it holds one stain only"
    extremes = np.array([plane @ [np.cos(one), np.sin(one)] for one in (low, high)])
    # Hematoxylin absorbs red, eosin hardly does.
    share_of_red = extremes[:, 0] / np.linalg.norm(extremes, axis=1)
    return extremes[np.argsort(-share_of_red)]


def to_density(pixels: np.ndarray) -> np.ndarray:
    """Optical density of uint8 RGB; +1 keeps black finite."""
    return -np.log((pixels.astype(np.float64) + 1.0) / INCIDENT_LIGHT)


def _concentrations(density: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """Least-squares concentrations (n, 2) of densities (n, 3) in stains (2, 3)."""
    return density @ np.linalg.pinv(stains)


def reinhard(image: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Reinhard's normalization; see `normalize`. Mean and deviation are of the tissue, the shift moves every pixel."""
    pixels = image.reshape(-1, 3)
    lab = to_lab(pixels)
    step = max(1, len(pixels) // MAX_SAMPLE)
    tissue = lab[::step][(to_density(pixels[::step]) > BETA).any(axis=1)]
    if len(tissue) < max(MIN_PIXELS, MIN_TISSUE * len(lab[::step])):
        return image, f"{len(tissue)} of {len(lab[::step])} pixels are tissue, too few to estimate colors"
    mean, std = tissue.mean(axis=0), tissue.std(axis=0)
    if std.min() < 1e-6:
        return image, "its color is constant"
    moved = (lab - mean) / std * REFERENCE_STD + REFERENCE_MEAN
    return _to_image(from_lab(moved), image.shape), None


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """RGB 0..255 (n, 3) -> l-alpha-beta with natural logarithms; black counts as 1."""
    return np.log(np.maximum(pixels.astype(np.float64), 1.0) @ _TO_LMS.T) @ _TO_LAB.T


def from_lab(lab: np.ndarray) -> np.ndarray:
    """Inverse of `to_lab`, not clipped."""
    return np.exp(lab @ np.linalg.inv(_TO_LAB).T) @ np.linalg.inv(_TO_LMS).T


def _to_image(pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(shape)
