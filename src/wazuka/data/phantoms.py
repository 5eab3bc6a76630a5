"""A simulated clinic: histology-like patches with labels, patients, scanners and the faults that real folders have.

Nothing in it comes from a patient. `wazuka demo` imports it through the ordinary path. Each patch shows nuclei over
eosin-like stroma. Class `regular` has mostly nuclei with a smooth outline and fine, even chromatin; class `irregular` mostly
nuclei with a lobed outline and clumped chromatin. Area, mean and deviation of the chromatin are the same for both kinds of
nuclei, so mean color does not tell the classes apart: texture and shape do.

Light passes two stains (Beer-Lambert: optical density = hematoxylin x its color + eosin x its color); a scanner has its own
stain colors, white point, gamma and noise; a patient has its own stain strengths, tint, nuclear size, density, chromatin
grain and share of irregular patches, which is why a split that tears patients apart flatters every model.
"""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from wazuka.core.errors import DataError

CLASSES = ("regular", "irregular")
CELL = 19
"""Side of the grid cell that holds at most one nucleus, in pixels."""
WINDOW = 27
"""Side of the square a nucleus is drawn in, in pixels."""
OUTSIDE = 8
"""How far beyond the edge of a patch a nucleus may have its center, in pixels."""
AT_ONCE = 256
"""Patches drawn together; bounds the memory."""
README = """SIMULATED DATA

These images were made by a computer program (`wazuka demo`). They show no tissue and belong to no patient.

images/     patches that look like stained tissue (PNG, RGB); a few files are damaged or stand there twice, on purpose
labels.csv  image, label (regular or irregular nuclei), patient, scanner
"""


@dataclass(frozen=True)
class Scanner:
    """How one scanner shows hematoxylin and eosin."""

    name: str
    hematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    white: tuple[float, float, float]
    gamma: float
    noise: float


SCANNERS = (
    Scanner("Alpha 200", (0.62, 0.70, 0.30), (0.10, 0.82, 0.34), (244, 240, 243), 1.00, 2.0),
    Scanner("Beta XT", (0.70, 0.62, 0.22), (0.16, 0.74, 0.50), (238, 232, 224), 0.90, 3.0),
    Scanner("Gamma S", (0.52, 0.74, 0.40), (0.06, 0.90, 0.22), (240, 244, 250), 1.10, 2.5),
)
"""Three color casts: neutral, warm, cool."""


@dataclass(frozen=True)
class Clinic:
    """What `make_clinic` made; the faults are listed so that a test can look for them.

    Attributes:
        folder: Holds `images/`, `labels.csv`, `README.txt`.
        table: `labels.csv`.
        images: Number of files, damaged and repeated ones included.
        corrupt: Damaged files.
        exact_duplicates: (original, copy) with the same pixels.
        near_duplicates: (original, copy) with slightly other brightness and noise.
    """

    folder: Path
    table: Path
    images: int
    corrupt: tuple[str, ...]
    exact_duplicates: tuple[tuple[str, str], ...]
    near_duplicates: tuple[tuple[str, str], ...]


@dataclass
class _Cases:
    """Every patch's patient, label and look; one entry per patch."""

    patient: np.ndarray
    scanner: np.ndarray
    label: np.ndarray
    irregular_share: np.ndarray  # of the patch's nuclei
    stains: np.ndarray  # (n, 2, 3) optical density of hematoxylin, eosin
    size: np.ndarray
    density: np.ndarray
    grain: np.ndarray


def make_clinic(
    folder: Path,
    *,
    seed: int = 0,
    patients: int = 60,
    patches: int = 10,
    side: int = 96,
    corrupt: int = 4,
    duplicates: int = 2,
) -> Clinic:
    """Write a simulated clinic; the same arguments give the same bytes.

    Args:
        folder: Must be absent or empty; appears whole or not at all.
        seed: Of all randomness.
        patients: At least 6; the scanners take them in turn.
        patches: Patches per patient.
        side: Side of a patch in pixels, at least 48.
        corrupt: Files cut off in the middle.
        duplicates: Exact and near copies, so many of each kind within a patient and across two patients.

    Raises:
        DataError: If the folder is not empty, or there are too few patients or patches for what is asked.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty; give a folder that does not exist.")
    if patients < 6 or patches < 2 or side < 48:
        raise DataError(
            f"A clinic of {patients} patients with {patches} patches of {side} pixels is too small; it needs 6, 2 and 48."
        )
    if corrupt + 4 * duplicates > patients * patches // 4:
        raise DataError(
            f"{corrupt} corrupt and {4 * duplicates} copied files are too many for {patients * patches} patches; "
            "at most a quarter may be."
        )
    rng = np.random.default_rng(seed)
    cases = _draw_cases(rng, patients=patients, patches=patches)
    images = np.concatenate(
        [
            _draw_patches(rng, cases, np.arange(start, min(start + AT_ONCE, len(cases.label))), side=side)
            for start in range(0, len(cases.label), AT_ONCE)
        ]
    )
    return _write(folder, rng, images, cases, corrupt=corrupt, duplicates=duplicates)


def _draw_cases(rng: np.random.Generator, *, patients: int, patches: int) -> _Cases:
    """Draw patients, then their patches."""
    scanner = np.arange(patients) % len(SCANNERS)
    share = np.clip(rng.beta(0.5, 0.75, patients), 0.03, 0.97)
    strength = np.exp(rng.normal(0, 0.08, (patients, 2)))
    tint = rng.normal(0, 0.03, (patients, 2, 3))
    colors = np.array([[one.hematoxylin, one.eosin] for one in SCANNERS])[scanner]
    stains = np.clip(colors + tint, 0.02, None) * strength[:, :, None]
    size = np.exp(rng.normal(0, 0.07, patients))
    density = np.exp(rng.normal(0, 0.10, patients))
    grain = np.exp(rng.normal(0, 0.10, patients))

    patient = np.repeat(np.arange(patients), patches)
    label = (rng.random(len(patient)) < share[patient]).astype(np.int64)
    irregular = np.where(label == 1, rng.uniform(0.55, 1.0, len(label)), rng.uniform(0.0, 0.25, len(label)))
    return _Cases(
        patient=patient,
        scanner=scanner[patient],
        label=label,
        irregular_share=irregular,
        stains=stains[patient] * np.exp(rng.normal(0, 0.03, (len(patient), 2, 1))),
        size=size[patient],
        density=density[patient],
        grain=grain[patient],
    )


def _draw_patches(rng: np.random.Generator, cases: _Cases, which: np.ndarray, *, side: int) -> np.ndarray:
    """Draw some patches: (n, side, side, 3) uint8."""
    n = len(which)
    hematoxylin, eosin = _draw_stroma(rng, n, side=side)
    _add_nuclei(rng, cases, which, hematoxylin, eosin)
    stains = cases.stains[which].astype(np.float32)
    density = hematoxylin[..., None] * stains[:, None, None, 0] + eosin[..., None] * stains[:, None, None, 1]
    scanner = cases.scanner[which]
    white = np.array([one.white for one in SCANNERS], np.float32)[scanner][:, None, None]
    gamma = np.array([one.gamma for one in SCANNERS], np.float32)[scanner][:, None, None, None]
    noise = np.array([one.noise for one in SCANNERS], np.float32)[scanner][:, None, None, None]
    light = white * np.exp(-density * gamma)
    light += rng.standard_normal(light.shape, dtype=np.float32) * noise
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def _draw_stroma(rng: np.random.Generator, n: int, *, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Hematoxylin and eosin of the tissue between nuclei: fibers in one direction, patchiness, a few clear gaps."""
    fibers = _field(rng, n, side, (0.8, 4.5))
    patchy = _field(rng, n, side, (9.0, 9.0))
    gaps = 1 / (1 + np.exp(6 * (_field(rng, n, side, (4.0, 6.0)) - 1.7)))  # 1 in tissue, 0 in a gap
    eosin = np.clip(0.47 + 0.08 * fibers + 0.09 * patchy, 0.05, None) * (0.12 + 0.88 * gaps)
    hematoxylin = np.clip(0.11 + 0.03 * patchy, 0.0, None) * gaps
    return hematoxylin, eosin


def _field(rng: np.random.Generator, n: int, side: int, sigma: tuple[float, float]) -> np.ndarray:
    """Gaussian random fields of mean 0 and deviation 1, smooth over `sigma` across and along a random direction each.

    Filtered in the frequency domain, where a turned anisotropic Gaussian is still a product: (n, side, side) float32.
    """
    turn = rng.uniform(0, np.pi, n)[:, None, None]
    down, right = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    across, along = down * np.cos(turn) - right * np.sin(turn), down * np.sin(turn) + right * np.cos(turn)
    response = np.exp(-2 * np.pi**2 * ((sigma[0] * across) ** 2 + (sigma[1] * along) ** 2))
    white = rng.standard_normal((n, side, side), dtype=np.float32)
    field = np.fft.irfft2(np.fft.rfft2(white) * response, s=(side, side)).astype(np.float32)
    field -= field.mean(axis=(1, 2), keepdims=True)
    return field / field.std(axis=(1, 2), keepdims=True)


def _add_nuclei(
    rng: np.random.Generator, cases: _Cases, which: np.ndarray, hematoxylin: np.ndarray, eosin: np.ndarray
) -> None:
    """Draw nuclei into the stain maps (n, side, side), in place."""
    side = hematoxylin.shape[1]
    patch, y, x = _place_nuclei(rng, cases.density[which], side=side)
    irregular = rng.random(len(patch)) < cases.irregular_share[which][patch]
    shape, chromatin = _draw_nuclei(
        rng, y % 1, x % 1, irregular, size=cases.size[which][patch], grain=cases.grain[which][patch]
    )
    amount = (1.05 * np.exp(rng.normal(0, 0.12, len(patch)))).astype(np.float32)[:, None, None]
    nuclear = shape * amount * np.clip(1 + 0.40 * chromatin, 0.1, None)

    half = WINDOW // 2
    edge = half + OUTSIDE
    padded = [np.pad(one, ((0, 0), (edge, edge), (edge, edge))) for one in (hematoxylin, eosin)]
    top, left = np.floor(y).astype(int) + OUTSIDE, np.floor(x).astype(int) + OUTSIDE
    span = np.arange(WINDOW)
    turn = np.arange(len(patch)) - np.searchsorted(patch, patch)  # `patch` is sorted
    for number in range(int(turn.max()) + 1):  # the k-th nucleus of every patch at once: no two write to one place
        chosen = np.flatnonzero(turn == number)
        place = (
            patch[chosen][:, None, None],
            (top[chosen][:, None] + span)[:, :, None],
            (left[chosen][:, None] + span)[:, None, :],
        )
        padded[0][place] = padded[0][place] * (1 - shape[chosen]) + nuclear[chosen]
        padded[1][place] *= 1 - 0.55 * shape[chosen]
    inner = slice(edge, edge + side)
    hematoxylin[...] = padded[0][:, inner, inner]
    eosin[...] = padded[1][:, inner, inner]


def _place_nuclei(
    rng: np.random.Generator, density: np.ndarray, *, side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centers of nuclei on a shaken lattice, turned by a random angle: patch (sorted), y, x, one entry per nucleus."""
    grid = int(np.ceil(1.5 * side / CELL)) + 1
    n, cells = len(density), grid * grid
    row, column = np.divmod(np.arange(cells), grid)
    shifts = rng.uniform(0, CELL, (n, grid))[:, row]
    v = (row - (grid - 1) / 2) * CELL + rng.uniform(-4.5, 4.5, (n, cells))
    u = (column - grid / 2) * CELL + shifts + rng.uniform(-3.5, 3.5, (n, cells))
    turn = rng.uniform(0, np.pi, n)[:, None]
    y = v * np.cos(turn) - u * np.sin(turn) + side / 2
    x = v * np.sin(turn) + u * np.cos(turn) + side / 2
    taken = rng.random((n, cells)) < np.clip(0.7 * density, 0.25, 0.95)[:, None]
    taken &= (y > -OUTSIDE) & (y < side + OUTSIDE) & (x > -OUTSIDE) & (x < side + OUTSIDE)
    patch, cell = np.nonzero(taken)
    return patch, y[patch, cell], x[patch, cell]


def _draw_nuclei(
    rng: np.random.Generator,
    dy: np.ndarray,
    dx: np.ndarray,
    irregular: np.ndarray,
    *,
    size: np.ndarray,
    grain: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw m nuclei, each in its window: soft shapes in [0, 1] and chromatin of mean 0 and deviation 1 inside, float32.

    Outline: r(angle) = 1 + sum over k of a_k cos(k angle + phase), divided by the root of 1 + sum a_k^2 / 2, which keeps
    the area that of the ellipse whatever the lobes.
    """
    m = len(irregular)
    half = WINDOW // 2
    axis = np.arange(WINDOW) - half
    y, x = axis[None, :, None] - dy[:, None, None], axis[None, None, :] - dx[:, None, None]
    turn = rng.uniform(0, np.pi, m)[:, None, None]
    ratio = rng.uniform(0.68, 0.95, m)[:, None, None]
    radius = (7.4 * size * np.exp(rng.normal(0, 0.10, m)))[:, None, None]
    along = (x * np.cos(turn) + y * np.sin(turn)) * np.sqrt(ratio)
    across = (-x * np.sin(turn) + y * np.cos(turn)) / np.sqrt(ratio)
    angle = np.arctan2(across, along)
    lobes = np.where(irregular[:, None], rng.uniform(0.06, 0.16, (m, 3)), rng.uniform(0.0, 0.025, (m, 3)))
    phase = rng.uniform(0, 2 * np.pi, (m, 3))
    outline = 1 + sum(
        lobes[:, k, None, None] * np.cos((k + 2) * angle + phase[:, k, None, None]) for k in range(lobes.shape[1])
    )
    outline /= np.sqrt(1 + 0.5 * (lobes**2).sum(axis=1))[:, None, None]
    inside = outline * radius - np.hypot(along, across)
    shape = (1 / (1 + np.exp(-inside / 0.45))).astype(np.float32)
    return shape, _chromatin(rng, shape, irregular, grain=grain)


def _chromatin(rng: np.random.Generator, shape: np.ndarray, irregular: np.ndarray, *, grain: np.ndarray) -> np.ndarray:
    """Random texture, fine and even or coarse and clumped; every nucleus has the same mean and deviation."""
    white = rng.standard_normal(shape.shape, dtype=np.float32)
    blurred = np.stack([ndimage.gaussian_filter(white, (0, one, one), mode="wrap") for one in (0.85, 1.4, 2.2)])
    blurred /= blurred.std(axis=(1, 2, 3), keepdims=True)
    # Between the three scales by the patient's grain: 0 is the finest, 2 the coarsest.
    level = np.clip(np.where(irregular, 1.9, 0.25) + 2.0 * np.log(grain), 0.0, 2.0).astype(np.float32)[:, None, None]
    texture = sum(np.clip(1 - np.abs(level - k), 0, None) * blurred[k] for k in range(3))
    weight = shape / shape.sum(axis=(1, 2), keepdims=True)
    texture = texture - (texture * weight).sum(axis=(1, 2), keepdims=True)
    return texture / np.sqrt((texture**2 * weight).sum(axis=(1, 2), keepdims=True))


def _write(
    folder: Path, rng: np.random.Generator, images: np.ndarray, cases: _Cases, *, corrupt: int, duplicates: int
) -> Clinic:
    """Write the files into a folder beside, then give it its name."""
    sources, patients, exact = _choose_copies(rng, cases, duplicates)
    count = len(images) + len(sources)
    number = rng.permutation(count) + 1  # file names tell nothing of label or patient
    names = [f"images/{one:04d}.png" for one in number]
    broken = rng.choice(np.setdiff1d(np.arange(len(images)), sources), corrupt, replace=False)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "images").mkdir(parents=True)
    lines = []
    for row in range(count):
        copy = row - len(images)
        source = row if copy < 0 else sources[copy]
        pixels = images[source]
        if copy >= 0 and not exact[copy]:
            pixels = np.clip(pixels + rng.integers(-2, 3, pixels.shape) + 3, 0, 255).astype(np.uint8)
        data = _png(pixels)
        (part / names[row]).write_bytes(data[: len(data) // 2] if row in broken else data)
        patient = cases.patient[source] if copy < 0 else patients[copy]
        name = SCANNERS[cases.scanner[source]].name
        lines.append((names[row], CLASSES[cases.label[source]], f"P{patient + 1:03d}", name))
    with (part / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "label", "patient", "scanner"), *sorted(lines)])
    (part / "README.txt").write_text(README, encoding="utf-8")
    if folder.exists():
        folder.rmdir()  # empty, as checked
    part.replace(folder)
    pairs = [(names[source], names[len(images) + copy]) for copy, source in enumerate(sources)]
    return Clinic(
        folder=folder,
        table=folder / "labels.csv",
        images=count,
        corrupt=tuple(sorted(names[one] for one in broken)),
        exact_duplicates=tuple(pair for pair, same in zip(pairs, exact, strict=True) if same),
        near_duplicates=tuple(pair for pair, same in zip(pairs, exact, strict=True) if not same),
    )


def _choose_copies(
    rng: np.random.Generator, cases: _Cases, duplicates: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches to copy, the patients the copies are filed under, and whether the copy is exact."""
    sources = rng.choice(len(cases.label), 4 * duplicates, replace=False)
    exact = np.arange(4 * duplicates) % 2 == 0
    across = np.arange(4 * duplicates) >= 2 * duplicates
    patients = cases.patient[sources].copy()
    count = int(cases.patient.max()) + 1
    step = len(SCANNERS)  # the next patient of the same scanner
    patients[across] = (patients[across] + step) % count
    wrapped = across & (patients % step != cases.scanner[sources])
    patients[wrapped] = cases.scanner[sources][wrapped]
    return sources, patients, exact


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
