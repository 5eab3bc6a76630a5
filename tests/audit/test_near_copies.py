"""Near copies: the search against brute force, degenerate hashes, thresholds on real and simulated images."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wazuka.audit import near_duplicates
from wazuka.audit.copies import correlation, find_copies, parse_hashes, parse_thumbnails
from wazuka.audit.groups import infer_groups
from wazuka.audit.tables import Tables
from wazuka.data import inspect


def smooth_image(rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """A blurred random image with a little grain."""
    image = ndimage.gaussian_filter(rng.standard_normal((size, size)), 4)
    image = (image - image.min()) / np.ptp(image) * 220 + rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def tables_of(images: list[np.ndarray], patients: list[str], **card: str) -> Tables:
    found = pd.DataFrame([inspect.measure(one) for one in images])
    ids = [f"i{at:04d}" for at in range(len(images))]
    manifest = pd.DataFrame({"id": ids, "patient": patients, "sha256": found["sha256"], "status": "ok"})
    return Tables({"patient_source": "table"} | card, manifest, found.assign(id=ids))


def brute_force(hashes: np.ndarray, thumbnails: np.ndarray, *, radius: int, least: float) -> set[tuple[int, int]]:
    """All pairs, one by one."""
    pairs = set()
    for a in range(len(hashes)):
        for b in range(a + 1, len(hashes)):
            bits = bin(int(hashes[a]) ^ int(hashes[b])).count("1")
            if bits <= radius and np.corrcoef(thumbnails[a], thumbnails[b])[0, 1] >= least:
                pairs.add((a, b))
    return pairs


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(2, 40))
def test_the_search_by_bits_and_correlation_finds_exactly_the_pairs_that_brute_force_finds(
    seed: int, radius: int, n: int
):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**63, n, dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (n, 256), dtype=np.uint8)
    for at in range(1, n):  # most are made from another by flipping some bits, about as many as the radius
        source = rng.integers(0, at)
        if rng.random() < 0.8:
            flips = np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, rng.integers(1, radius + 3)).astype(np.uint64))
            hashes[at] = hashes[source] ^ flips
            thumbnails[at] = np.clip(thumbnails[source] + rng.normal(0, rng.choice([1, 40]), 256), 0, 255)
    keep = np.sort(np.unique(hashes, return_index=True)[1])
    hashes, thumbnails = hashes[keep], thumbnails[keep]
    found = find_copies(hashes, thumbnails, radius=radius, least_correlation=0.98, least_residual=-1)
    assert {(min(a, b), max(a, b)) for a, b in found.pairs.tolist()} == brute_force(
        hashes, thumbnails, radius=radius, least=0.98
    )
    assert found.cut == 0


def test_images_of_one_hash_are_grouped_by_their_look():
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (3, 256), dtype=np.uint8)
    which = np.array([0, 1, 0, 2, 1, 0])
    found = find_copies(
        np.full(6, 7, dtype=np.uint64), looks[which], radius=4, least_correlation=0.98, least_residual=0.85
    )
    groups = [set(np.flatnonzero(found.same == one)) for one in np.unique(found.same)]
    assert sorted(map(sorted, groups)) == [[0, 2, 5], [1, 4], [3]]
    assert len(np.unique(found.cluster)) == 3


def test_many_equal_images_take_no_quadratic_time():
    n = 50_000  # all pairs would be 1.25 billion
    rng = np.random.default_rng(0)
    look = rng.integers(0, 256, 256, dtype=np.uint8)
    began = time.perf_counter()
    found = find_copies(
        np.full(n, 3, dtype=np.uint64), np.tile(look, (n, 1)), radius=4, least_correlation=0.98, least_residual=0.85
    )
    assert time.perf_counter() - began < 20
    assert (found.cluster == 0).all()
    assert len(found.pairs) == n - 1
    assert found.cut == 0


def test_comparisons_that_a_limit_leaves_out_are_counted():
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (70, 256), dtype=np.uint8)  # one hash, seventy looks
    found = find_copies(np.full(70, 3, dtype=np.uint64), looks, radius=4, least_correlation=0.98, least_residual=0.85)
    # 64 looks have a leader; then each of 15 pairs of blocks is one run of 70 leaders, of which 37 do not see its end
    assert found.cut == (70 - 64) + 15 * (70 - 33)
    # hashes that share all but a few bits of two blocks make runs longer than the window
    crowded = np.unique(rng.integers(0, 2**40, 600, dtype=np.uint64) & np.uint64(0x0F0F0F))
    looks = rng.integers(0, 256, (len(crowded), 256), dtype=np.uint8)
    assert find_copies(crowded, looks, radius=4, least_correlation=0.98, least_residual=0.85).cut > 0


def test_hashes_and_thumbnails_are_read_as_written():
    assert parse_hashes(np.array(["00000000000000ff", "8000000000000000"])).tolist() == [255, 2**63]
    blobs = np.array([bytes(range(256)), bytes(256)], dtype=object)
    assert parse_thumbnails(blobs).tolist() == [list(range(256)), [0] * 256]


def test_the_correlation_is_pearsons_and_zero_for_a_constant():
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (3, 256), dtype=np.uint8)
    looks[2] = 9
    found = correlation(looks, np.array([0, 0]), np.array([1, 2]))
    assert found[0] == pytest.approx(np.corrcoef(looks[0], looks[1])[0, 1], abs=1e-5)
    assert found[1] == 0


@pytest.fixture(scope="module")
def originals() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [smooth_image(rng) for _ in range(60)]


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: np.clip(image * 0.8 + 20, 0, 255).astype(np.uint8),
        lambda image: np.clip(image + np.random.default_rng(2).normal(0, 6, image.shape), 0, 255).astype(np.uint8),
        lambda image: ndimage.zoom(image, 2, order=1),
        lambda image: ndimage.gaussian_filter(image, 0.7),
    ],
    ids=["brightness", "noise", "twice the size", "blur"],
)
def test_a_changed_copy_of_another_patients_image_is_an_issue(originals: list[np.ndarray], copy):
    tables = tables_of([*originals, copy(originals[7])], [f"p{i}" for i in range(61)])
    result = near_duplicates.check(tables)
    assert (result.outcome, result.ids) == ("issue", ["i0007", "i0060"])
    assert near_duplicates.check(tables_of(originals, [f"p{i}" for i in range(60)])).outcome == "passed"


def test_copies_of_the_same_patient_and_exact_ones_are_no_issue(originals: list[np.ndarray]):
    brighter = np.clip(originals[7] * 0.8 + 20, 0, 255).astype(np.uint8)
    images = [*originals, brighter, originals[3]]
    result = near_duplicates.check(tables_of(images, [*(f"p{i}" for i in range(60)), "p7", "other"]))
    assert (result.outcome, result.count) == ("passed", 0)
    assert "4 others have near copies of the same patient or exact ones" in result.reason


def test_blank_images_are_left_to_the_check_for_them():
    blank = np.zeros((32, 32), dtype=np.uint8)
    rng = np.random.default_rng(0)
    tables = tables_of([blank, blank + 1, smooth_image(rng), smooth_image(rng)], ["a", "b", "c", "d"])
    assert near_duplicates.check(tables).outcome == "passed"


def ellipse(rng: np.random.Generator) -> np.ndarray:
    """Something bright and round on dark ground, as heads and eyes are: alike in outline, different inside."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    (a, b), (left, up) = rng.uniform(0.55, 0.85, 2), rng.normal(0, 0.05, 2)
    inside = ((x - left) / a) ** 2 + ((y - up) / b) ** 2 < 1
    texture = ndimage.gaussian_filter(rng.standard_normal((64, 64)), 5) * 360
    return np.clip(ndimage.gaussian_filter((160 + texture) * inside, 1) + rng.normal(0, 4, (64, 64)), 0, 255).astype(
        np.uint8
    )


def test_equal_outlines_are_no_copies_but_copies_among_them_are_found():
    rng = np.random.default_rng(5)
    images = [ellipse(rng) for _ in range(400)]
    images.append(np.clip(images[11] * 0.8 + rng.normal(15, 5, (64, 64)), 0, 255).astype(np.uint8))
    tables = tables_of(images, [f"p{i}" for i in range(401)])
    result = near_duplicates.check(tables)
    assert (result.outcome, result.ids) == ("issue", ["i0011", "i0400"])
    limits = {**near_duplicates.THRESHOLDS, "residual": -1.0}
    assert near_duplicates.check(tables, limits).count > 2  # outline alone takes different ones for copies


def test_images_that_all_look_alike_cannot_be_judged():
    rng = np.random.default_rng(0)
    base = smooth_image(rng).astype(float)
    images = [np.clip(base + rng.normal(0, 5, base.shape), 0, 255).astype(np.uint8) for _ in range(40)]
    result = near_duplicates.check(tables_of(images, [f"p{i}" for i in range(40)]))
    assert result.outcome == "not applicable"
    assert "look too much alike to tell copies" in result.reason


def test_one_patient_only_is_not_applicable(originals: list[np.ndarray]):
    result = near_duplicates.check(tables_of(originals, ["one"] * 60))
    assert (result.outcome, result.reason) == ("not applicable", "there are not two patients with images to compare")


@pytest.mark.shared
def test_real_images_of_different_patients_are_not_taken_for_copies(shared_data: Path):
    from PIL import Image

    labels = pd.read_csv(shared_data / "mitosis" / "labels.csv", dtype=str).iloc[:400]
    images = [np.asarray(Image.open(shared_data / "mitosis" / name).convert("RGB")) for name in labels["image"]]
    result = near_duplicates.check(tables_of(images, labels["patient"].tolist()))
    assert (result.outcome, result.count) == ("passed", 0)


@pytest.mark.shared
def test_the_known_copies_in_breastmnist_are_found_and_lie_on_both_sides_of_its_split(shared_data: Path):
    with np.load(shared_data / "breastmnist" / "breastmnist.npz") as parts:
        sizes = [len(parts[f"{one}_images"]) for one in ("train", "val", "test")]
        images = list(np.concatenate([parts[f"{one}_images"] for one in ("train", "val", "test")]))
    tables = tables_of(images, [f"i{i}" for i in range(len(images))], patient_source="image")
    result = near_duplicates.check(tables)
    assert result.outcome == "issue"
    assert result.count == 285  # eyed at the threshold: rescans of one lesion, see docs/checks.md
    group = infer_groups(tables).group.to_numpy()
    train, test = set(group[: sizes[0]]), set(group[-sizes[2] :])
    assert len(train & test) > 20
