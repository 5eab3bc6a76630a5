"""Nearest neighbors against brute force; planted copies are found and honest images are not, blurred ones neither."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tests.audit.synthetic_cases import (
    features,
    held_out_images,
    make_inputs,
    small,
    to_bytes,
    training_images,
)
from wazuka.audit.synthetic import Inputs, memorized
from wazuka.audit.synthetic.membership import attack
from wazuka.audit.synthetic.membership import check as check_membership
from wazuka.audit.synthetic.memorization import THRESHOLDS, Memorized, check, judge
from wazuka.audit.synthetic.neighbors import FLIPS, nearest


def judged(images: np.ndarray, labels: np.ndarray) -> Memorized:
    """Search among the phantom clinic's training images."""
    inputs = make_inputs(images, labels)
    return memorized(
        {"pixels": inputs.synthetic_pixels, "features": inputs.synthetic_features},
        {"pixels": inputs.real_pixels, "features": inputs.real_features},
        training=inputs.training,
        patients=inputs.patients,
    )


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, sigma in pixels."""
    return to_bytes(ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0)))


@settings(max_examples=25, deadline=None)
@given(
    queries=st.integers(1, 9),
    references=st.integers(1, 12),
    k=st.integers(1, 5),
    groups=st.integers(1, 4),
    block_bytes=st.sampled_from([1, 500, 10**6]),
    seed=st.integers(0, 10**6),
)
def test_neighbors_equal_a_brute_force_search_over_all_flips_and_allowed_references(
    queries: int, references: int, k: int, groups: int, block_bytes: int, seed: int
):
    rng = np.random.default_rng(seed)
    asked, base = rng.normal(50, 9, (queries, 6, 4, 2)), rng.normal(50, 9, (references, 6, 4, 2))
    own, theirs = rng.integers(0, groups, queries), rng.integers(0, groups, references)
    found = nearest(asked, base, k, query_groups=own, reference_groups=theirs, block_bytes=block_bytes)
    for i in range(queries):
        ways = [np.flip(asked[i], axis) for axis in FLIPS]
        gaps = np.array([[np.linalg.norm(way - one) for one in base] for way in ways])
        gaps[:, theirs == own[i]] = np.inf
        expected = np.sort(gaps.min(axis=0))[:k]
        expected = np.pad(expected, (0, k - len(expected)), constant_values=np.inf)
        np.testing.assert_allclose(found.distances[i], expected, rtol=1e-5)
        there = np.isfinite(expected)
        assert (found.rows[i] >= 0).tolist() == there.tolist()
        np.testing.assert_allclose(gaps.min(axis=0)[found.rows[i][there]], expected[there], rtol=1e-5)
        if there[0]:
            assert gaps[found.flips[i], found.rows[i, 0]] == pytest.approx(expected[0], rel=1e-5)


def test_the_distance_of_a_flipped_copy_is_zero_whatever_the_offset():
    base = np.random.default_rng(0).normal(1e4, 1, (50, 32, 32, 1)).astype(np.float32)
    found = nearest(base[:, ::-1, ::-1], base, 1)
    assert found.distances.max() == 0
    assert found.rows[:, 0].tolist() == list(range(50))
    assert set(found.flips.tolist()) == {3}


@pytest.mark.parametrize("axis", [(1,), (2,), (1, 2), ()])
def test_a_generator_that_returns_flipped_noisy_training_images_fails(axis: tuple[int, ...]):
    images, labels = training_images(120)
    noisy = to_bytes(np.flip(images, axis) + np.random.default_rng(1).normal(0, 6, images.shape))
    inputs = make_inputs(noisy, labels)
    result = check(inputs)
    assert (result.outcome, result.count) == ("issue", 120)
    assert result.ids == inputs.synthetic["id"].tolist()


def test_the_nearest_training_image_of_a_copy_is_its_original():
    images, labels = training_images(60)
    found = judged(images, labels)
    inputs = make_inputs(images, labels)
    assert inputs.real_pixels is not None
    originals = inputs.real_pixels[found.table["pixels_row"].to_numpy()]
    np.testing.assert_array_equal(originals, small(images))
    assert found.table["pixels_flip"].unique().tolist() == [0]
    assert inputs.training[found.table["features_row"].to_numpy()].all()


def test_copies_mixed_into_honest_images_are_an_issue_and_are_named():
    copies, labels = training_images(20)
    honest, honest_labels = held_out_images(130)
    result = check(make_inputs(np.concatenate([copies, honest]), np.concatenate([labels, honest_labels])))
    assert result.outcome == "issue"
    assert {f"s{i:03d}" for i in range(20)} <= set(result.ids)
    assert len(result.ids) <= 25


@pytest.mark.parametrize("blur", [0.0, 1.0, 2.0])
def test_honest_images_pass_even_when_blurred(blur: float):
    images, labels = held_out_images()
    result = check(make_inputs(blurred(images, blur), labels))
    assert result.outcome == "passed"
    assert result.count is not None and result.count <= 0.05 * len(images)


def test_the_distance_alone_would_flag_half_of_honest_images_that_lost_their_detail():
    images, labels = held_out_images()
    images = blurred(images, 4)  # wider than a chromatin clump, half a nucleus
    found = judged(images, labels)
    near = found.table["pixels_distance"] < found.limits["pixels"].distance
    assert near.mean() > 0.5
    assert found.table["pixels_flag"].mean() < near.mean() / 5
    assert check(make_inputs(images, labels)).outcome != "issue"


def test_limits_are_one_percent_quantiles_of_the_held_out_images():
    inputs = make_inputs()
    assert inputs.real_features is not None
    found = judged(*held_out_images())
    train, held = inputs.real_features[inputs.training], inputs.real_features[~inputs.training]
    gaps = np.sort(np.linalg.norm(held[:, None].astype(float) - train[None], axis=2), axis=1)
    ratios = gaps[:, 0] / gaps[:, 1:10].mean(axis=1)
    rank = int(np.ceil(0.01 * len(held))) - 1  # the third smallest of 210
    assert found.limits["features"].distance == pytest.approx(np.sort(gaps[:, 0])[rank], rel=1e-5)
    assert found.limits["features"].ratio == pytest.approx(np.sort(ratios)[rank], rel=1e-5)
    assert found.limits["features"].null == len(held) == 210


def textures(n: int, seed: int) -> np.ndarray:
    """(n, 32, 32, 1) smooth random fields, gray levels."""
    white = np.random.default_rng(seed).normal(size=(n, 32, 32, 1))
    return (128 + 300 * ndimage.gaussian_filter(white, (0, 3, 3, 0))).astype(np.float32)


def search_alone(training: np.ndarray, made: np.ndarray, patients: np.ndarray | None = None) -> Memorized:
    """Search with all real images trained on, in pixels only."""
    own = np.arange(len(training)) if patients is None else patients
    return memorized({"pixels": made}, {"pixels": training}, training=np.ones(len(training), dtype=bool), patients=own)


@pytest.mark.parametrize("n", [12, 20, 40])
def test_few_training_images_catch_a_copying_generator_and_spare_honest_ones(n: int):
    training = textures(n, seed=n)
    copies = np.tile(training[:, ::-1], (5, 1, 1, 1))
    honest = textures(100, seed=99)
    outcomes = []
    for made in (copies, honest):
        found = search_alone(training, made)
        outcomes.append(judge(found.flagged, len(made), found)[0])
    assert outcomes == ["issue", "passed"]


def test_the_bar_for_few_real_images_is_what_honest_images_reach_by_chance():
    # 2,000 draws: the share of all values below the lowest of n exceeds `chance` in about 1 of 20 of them
    found = search_alone(textures(20, seed=1), textures(30, seed=2))
    lowest = np.random.default_rng(0).random((2000, 20)).min(axis=1)  # uniform: the share below is the value itself
    assert np.mean(lowest > found.chance) == pytest.approx(0.05, abs=0.02)
    assert search_alone(textures(150, seed=1), textures(5, seed=2)).chance == 0


def test_a_real_image_is_never_compared_with_its_own_patient():
    training = textures(30, seed=1)
    twins = np.concatenate([training, training + 1])  # every patient has two nearly equal images
    alone = search_alone(twins, training, patients=np.arange(60))
    paired = search_alone(twins, training, patients=np.tile(np.arange(30), 2))
    assert alone.unusable["pixels"].startswith("of planted copies only")
    assert paired.limits["pixels"].power == 1


def test_where_real_images_are_copies_of_each_other_nothing_passes():
    inputs = make_inputs()
    assert inputs.real_pixels is not None
    pixels = inputs.real_pixels.copy()
    held, trained = np.flatnonzero(~inputs.training), np.flatnonzero(inputs.training)
    pixels[held[:30]] = pixels[trained[:30]]  # a seventh of the held-out images are copies
    result = check(replace(inputs, real_pixels=pixels, found={}))
    assert result.outcome == "not applicable"
    assert "of planted copies only 0% would be flagged" in result.reason
    assert "by features, " in result.reason


def test_two_real_copies_do_not_set_the_limits_and_are_named():
    inputs = make_inputs()
    assert inputs.real_pixels is not None
    pixels = inputs.real_pixels.copy()
    held, trained = np.flatnonzero(~inputs.training), np.flatnonzero(inputs.training)
    pixels[held[:2]] = pixels[trained[:2]]
    result = check(replace(inputs, real_pixels=pixels, found={}))
    assert result.outcome == "passed"
    assert "2 real copies of each other left out in pixels" in result.reason
    copies, labels = training_images(60)
    assert check(replace(make_inputs(copies, labels), real_pixels=pixels, found={})).outcome == "issue"


def test_features_alone_do_not_pass_but_may_accuse():
    copies, labels = training_images(60)
    without = {"real_pixels": None, "synthetic_pixels": None}
    assert check(make_inputs(copies, labels, **without)).outcome == "issue"
    result = check(make_inputs(**without))
    assert (result.outcome, result.count) == ("not applicable", None)
    assert result.reason.startswith("there are no small pixels; by features, ")


@pytest.mark.parametrize(
    ("trained", "text"),
    [(8, "there are 8 training images; it takes 11"), (10, "there are 10 training images")],
)
def test_too_few_training_images_are_not_judged(trained: int, text: str):
    inputs = make_inputs()
    few = np.zeros(len(inputs.real), dtype=bool)
    few[:trained] = True
    result = check(replace(inputs, training=few, found={}))
    assert result.outcome == "not applicable"
    assert text in result.reason


def test_one_patient_gives_no_null():
    found = search_alone(textures(40, seed=0), textures(9, seed=1), patients=np.zeros(40, dtype=np.int64))
    assert found.unusable == {"pixels": "0 real images have 10 training images of other patients; it takes 10"}
    assert judge(0, 9, found)[0] == "not applicable"
    assert list(found.table) == ["flag"] and not found.table["flag"].any()


def test_thresholds_of_the_flag_follow_the_quantile():
    inputs = make_inputs()
    strict, loose = (check(replace(inputs, found={}), {**THRESHOLDS, "quantile": one}) for one in (0.01, 0.2))
    assert strict.count is not None and loose.count is not None
    assert strict.count <= 0.02 * 180 < loose.count


def leaking(pull: float) -> Inputs:
    """Synthetic features between a training image's own and those of an honest one."""
    copies, labels = training_images(180)
    honest, _ = held_out_images(180)
    made = pull * features(copies) + (1 - pull) * features(honest)
    return make_inputs(copies, labels, synthetic_features=made, real_pixels=None, synthetic_pixels=None)


def test_a_generator_that_copies_gives_its_training_images_away():
    result = check_membership(leaking(1.0))
    assert (result.outcome, result.count) == ("issue", int(leaking(1.0).training.sum()))
    assert attack(leaking(1.0))[0].auroc > 0.9


def test_honest_images_give_nothing_away_and_a_faint_pull_shows_before_it_is_copying():
    honest, faint = attack(leaking(0.0))[0], attack(leaking(0.6))[0]
    assert honest.low < 0.5
    assert check_membership(leaking(0.0)).outcome == "passed"
    assert faint.auroc > honest.auroc + 0.05


def test_membership_needs_held_out_patients():
    inputs = make_inputs()
    result = check_membership(replace(inputs, training=np.ones_like(inputs.training), found={}))
    assert result.outcome == "not applicable"
    assert result.reason == "there are 0 held-out images of 0 patients; it takes 20 of 5"
