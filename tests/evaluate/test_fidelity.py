"""Fidelity of synthetic features: equal numbers, the floor, honest and planted generators, coverage of the interval."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from wazuka.core.errors import ConfigError, DataError
from wazuka.evaluate.fidelity import DISTANCES, METRICS, _halve, fidelity, spatial_rows
from wazuka.evaluate.frechet import frechet_distance
from wazuka.evaluate.kernel_distance import kernel_distance
from wazuka.evaluate.manifold import manifold


def clinic(
    rng: np.random.Generator, *, patients: int, images: int = 8, dim: int = 6, between: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Features with an effect of the patient, and the patients."""
    patient = np.repeat(np.arange(patients), images)
    rows = rng.normal(size=(patients, dim))[patient] * between + rng.normal(size=(len(patient), dim))
    return rows.astype(np.float32), patient


def test_values_are_those_of_the_metrics_on_equal_numbers_of_rows():
    rng = np.random.default_rng(0)
    real, patients = clinic(rng, patients=10)
    synthetic = rng.normal(size=(80, 6)).astype(np.float32) + 1
    found = fidelity(real, synthetic, real_patients=patients, seed=0)
    around = manifold(real, synthetic)
    assert set(found.scores) == set(METRICS)
    assert found.rows == 80
    assert found.half_rows == 40
    assert found.n_patients == 10
    assert found.scores["frechet"].value == frechet_distance(real, synthetic)
    assert found.scores["kernel"].value == kernel_distance(real, synthetic)
    for name in ("precision", "recall", "density", "coverage"):
        assert found.scores[name].value == getattr(around, name)
    for one in found.scores.values():
        assert one.low <= one.value <= one.high
        assert one.floor_low <= one.floor <= one.floor_high
        assert one.excess == one.matched - one.floor


def test_the_larger_side_is_subsampled_and_a_limit_is_kept():
    rng = np.random.default_rng(1)
    real, patients = clinic(rng, patients=12)
    few = fidelity(real, real[:30] + 1, real_patients=patients, seed=0, metrics=["frechet"])
    many = fidelity(real[:30], real, real_patients=patients[:30], seed=0, metrics=["frechet"])
    limited = fidelity(real, real, real_patients=patients, seed=0, metrics=["frechet"], max_rows=30)
    for one in (few, many, limited):
        assert one.rows == 30
        assert 0 < one.half_rows <= 15


def test_half_samples_are_disjoint_in_patients_and_equally_large():
    patients = np.repeat(np.arange(9), np.arange(1, 10))
    parts = _halve(patients, draws=100, seed=3)
    assert parts.first.shape == parts.second.shape == parts.drawn.shape == (100, parts.half)
    for one, other, drawn in zip(parts.first, parts.second, parts.drawn, strict=True):
        assert not set(patients[one]) & set(patients[other])
        assert len(set(one)) == len(set(other)) == len(set(drawn)) == parts.half
    assert parts.half > 15  # of 45


def test_new_patients_of_the_same_clinic_are_at_the_floor_and_a_planted_fault_is_not():
    rng = np.random.default_rng(2)
    real, patients = clinic(rng, patients=60)
    fresh, _ = clinic(rng, patients=60)
    honest = fidelity(real, fresh, real_patients=patients, seed=0)
    shifted = fidelity(real, fresh + 0.5, real_patients=patients, seed=0)
    collapsed = fidelity(real, np.repeat(fresh[:3], 160, axis=0), real_patients=patients, seed=0)
    for name, one in honest.scores.items():
        margin = one.floor_high - one.floor_low
        assert abs(one.excess) < margin, name
    for name in DISTANCES:
        assert shifted.scores[name].low > shifted.scores[name].floor_high
        assert collapsed.scores[name].low > collapsed.scores[name].floor_high
    assert collapsed.scores["recall"].high < collapsed.scores["recall"].floor_low
    assert collapsed.scores["coverage"].high < collapsed.scores["coverage"].floor_low


def test_the_floor_is_above_one_of_shuffled_rows_because_it_keeps_patients_apart():
    rng = np.random.default_rng(3)
    real, patients = clinic(rng, patients=20, between=1.5)
    by_patient = fidelity(real, real, real_patients=patients, seed=0, metrics=["frechet", "kernel"])
    by_row = fidelity(real, real, real_patients=np.arange(len(real)), seed=0, metrics=["frechet", "kernel"])
    for name in DISTANCES:
        assert by_patient.scores[name].floor > 2 * by_row.scores[name].floor


def test_intervals_are_as_wide_as_the_scatter_over_new_samples():
    """Patients, rows and their effects are drawn anew: the half-sample spread estimates the standard deviation."""
    rng = np.random.default_rng(4)
    shift = np.array([0.6, 0, 0], dtype=np.float32)

    def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        real, patients = clinic(rng, patients=30, images=4, dim=3)
        return real, patients, rng.normal(size=(120, 3)).astype(np.float32) + shift

    scatter = np.std([frechet_distance(real, synthetic) for real, _, synthetic in (sample() for _ in range(600))])
    widths = []
    for trial in range(12):
        real, patients, synthetic = sample()
        one = fidelity(real, synthetic, real_patients=patients, seed=trial, metrics=["frechet"]).scores["frechet"]
        widths.append(one.high - one.low)
    assert np.mean(widths) / (2 * 1.96) == pytest.approx(scatter, rel=0.25)


def test_the_same_seed_gives_the_same_numbers_and_patients_may_have_any_names():
    rng = np.random.default_rng(5)
    real, patients = clinic(rng, patients=8)
    synthetic = real[::-1] + 0.1
    first = fidelity(real, synthetic, real_patients=patients, seed=1, metrics=["kernel"])
    named = fidelity(real, synthetic, real_patients=[f"p{one}" for one in patients], seed=1, metrics=["kernel"])
    other = fidelity(real, synthetic, real_patients=patients, seed=2, metrics=["kernel"])
    assert dataclasses.asdict(first) == dataclasses.asdict(named)
    assert first.scores["kernel"].value == other.scores["kernel"].value  # all rows are used
    assert first.scores["kernel"].floor != other.scores["kernel"].floor


@pytest.mark.parametrize(
    ("patients", "images", "synthetic", "reason"),
    [
        (3, 20, 60, "3 real patients; 4 are the least"),
        (8, 5, 9, "9 rows on a side; 10 are the least"),
        (8, 1, 60, "8 rows on a side; 10 are the least"),
    ],
)
def test_too_little_data_is_not_measured_and_says_why(patients, images, synthetic, reason):
    rng = np.random.default_rng(6)
    real, names = clinic(rng, patients=patients, images=images)
    found = fidelity(real, rng.normal(size=(synthetic, 6)), real_patients=names, seed=0)
    assert found.scores == {}
    assert found.missing == dict.fromkeys(METRICS, reason)
    assert found.half_rows == 0


def test_neighbors_that_half_samples_lack_leave_only_the_distances():
    rng = np.random.default_rng(7)
    real, names = clinic(rng, patients=10, images=1)
    found = fidelity(real, rng.normal(size=(10, 6)), real_patients=names, seed=0)
    assert set(found.scores) == set(DISTANCES)
    assert found.missing["recall"] == "5 rows in a half sample; 6 are the least for k = 5"
    giant = np.where(np.arange(100) < 97, 0, np.arange(100))
    alone = fidelity(rng.normal(size=(100, 3)), rng.normal(size=(100, 3)), real_patients=giant, seed=0)
    assert "disjoint halves have only" in alone.missing["frechet"]


def test_wrong_settings_and_patients_are_refused():
    x = np.random.default_rng(0).normal(size=(40, 3))
    patients = np.arange(40)
    with pytest.raises(ConfigError, match="Unknown metric `frechett`"):
        fidelity(x, x, real_patients=patients, seed=0, metrics=["frechett"])
    with pytest.raises(ConfigError, match="draws=99"):
        fidelity(x, x, real_patients=patients, seed=0, draws=99)
    with pytest.raises(DataError, match="39 entries, 0 of them missing, for 40 rows"):
        fidelity(x, x, real_patients=patients[:39], seed=0)
    with pytest.raises(DataError, match="40 entries, 1 of them missing"):
        fidelity(x, x, real_patients=[None, *patients[1:]], seed=0)


def test_spatial_rows_see_where_things_are_and_pooled_ones_do_not():
    rng = np.random.default_rng(8)
    maps = rng.normal(size=(200, 9, 3, 4))
    rows = spatial_rows(maps)
    assert rows.shape == (200, 7 * 3 * 4)
    np.testing.assert_array_equal(rows[5].reshape(7, 3, 4), maps[5, :7])
    left, right = maps.copy(), maps.copy()
    left[:, :, :, 0] += 3
    right[:, :, :, -1] += 3
    assert frechet_distance(left.mean(axis=(2, 3)), right.mean(axis=(2, 3))) < 0.1
    assert frechet_distance(spatial_rows(left), spatial_rows(right)) > 50
    with pytest.raises(DataError, match=r"shape \(200, 9\)"):
        spatial_rows(maps[:, :, 0, 0])
