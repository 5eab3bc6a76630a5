"""Maps of where real and synthetic images can be told apart: exact by construction, held out, and at the right place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.audit.synthetic_cases import clinic, make_inputs, real_arrays
from wazuka.audit.synthetic import Inputs, activation_maps, two_sample, two_sample_fit
from wazuka.audit.synthetic.activation_maps import ActivationMaps

GRID = 8
CORNER = (slice(2, 7), slice(57, 62))


def block_features(images: np.ndarray) -> np.ndarray:
    """Mean, deviation, and how much greener than red, in 8 x 8 blocks: (n, 7, 8, 8) float32, not linear in the pixels."""
    n, side = len(images), images.shape[1] // GRID
    blocks = images.reshape(n, GRID, side, GRID, side, 3).astype(np.float32)
    green = np.maximum(blocks[..., 1:2] - blocks[..., 0:1], 0).mean(axis=(2, 4))
    return np.concatenate([blocks.mean(axis=(2, 4)), blocks.std(axis=(2, 4)), green], axis=3).transpose(0, 3, 1, 2)


def with_maps(images: np.ndarray | None = None, batch: int = 50, **changes: object) -> Inputs:
    """Inputs whose spatial features are those of blocks; `images` in the place of the synthetic ones."""
    labels = None if images is None else clinic()[1]["label"].to_numpy()[-len(images) :]
    own = clinic()[0][(clinic()[1]["part"] == 2).to_numpy()] if images is None else images

    def feature_maps(real_rows: np.ndarray, synthetic_rows: np.ndarray) -> Iterator[np.ndarray]:
        for pixels, rows in ((real_arrays()[0], real_rows), (own, synthetic_rows)):
            for start in range(0, len(rows), batch):
                yield block_features(pixels[rows[start : start + batch]])

    return make_inputs(images, labels, feature_maps=feature_maps, **changes)


def marked() -> np.ndarray:
    """The honest images of part 2 with a small green square in the upper right corner."""
    images = clinic()[0][(clinic()[1]["part"] == 2).to_numpy()].copy()
    images[:, CORNER[0], CORNER[1]] = (0, 200, 0)
    return images


@pytest.fixture(scope="module")
def planted() -> ActivationMaps:
    found = activation_maps.search(with_maps(marked()))
    assert isinstance(found, ActivationMaps)
    return found


def test_the_mean_of_a_map_is_the_decision_value_of_the_regression_that_held_the_image_out(
    planted: ActivationMaps,
) -> None:
    sides = planted.sides
    images = np.concatenate([real_arrays()[0][sides.real_rows], marked()[sides.synthetic_rows]])
    values = block_features(images).mean(axis=(2, 3), dtype=np.float64)
    expected = np.zeros(len(values))
    for one in np.unique(sides.fold):
        test = sides.fold == one
        assert not set(sides.groups[test]) & set(sides.groups[~test])
        scaler = StandardScaler().fit(values[~test])
        model = LogisticRegression(C=two_sample_fit.PENALTY, max_iter=2000, tol=1e-3)
        model.fit(scaler.transform(values[~test]), sides.is_synthetic[~test])
        expected[test] = model.decision_function(scaler.transform(values[test]))
    np.testing.assert_allclose(planted.scores, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(planted.maps.mean(axis=(1, 2), dtype=np.float64), expected, rtol=0, atol=1e-5)
    assert planted.maps.dtype == np.float32
    gap = expected[sides.is_synthetic].mean() - expected[~sides.is_synthetic].mean()
    assert planted.difference.mean() == pytest.approx(gap, abs=1e-5)


def test_a_mark_in_a_corner_is_where_the_maps_peak(planted: ActivationMaps) -> None:
    assert planted.auroc.low > 0.9
    assert np.unravel_index(planted.difference.argmax(), (GRID, GRID)) == (0, GRID - 1)
    name, best = planted.strongest
    assert name == "upper right" and best.share > 0.8
    assert best.even == 9 / 64 and planted.ring.even == 28 / 64
    assert planted.ring_low < planted.ring.share < planted.ring_high
    assert planted.ring_low > planted.ring.even


def test_shares_of_the_parts_add_up(planted: ActivationMaps) -> None:
    difference = planted.difference
    inner = difference[1:-1, 1:-1].sum() / difference.sum()
    assert planted.ring.share + inner == pytest.approx(1)


@pytest.mark.parametrize(("shape", "inside"), [((3, 3), 1), ((8, 8), 36), ((14, 16), 10 * 12), ((24, 24), 18 * 18)])
def test_the_ring_is_an_eighth_wide(shape: tuple[int, int], inside: int) -> None:
    assert int((~activation_maps.border_ring(*shape)).sum()) == inside


def test_batches_and_a_second_pass_change_nothing_and_the_check_says_what_was_found(
    planted: ActivationMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation_maps, "KEEP_BYTES", 0)
    inputs = with_maps(marked(), batch=7)
    result = two_sample.check(inputs)
    assert result.reason.endswith(f"; where: {planted}")
    assert "from the strongest ninth, upper right (even spread: 14%)" in result.reason
    again = activation_maps.drawable(inputs)
    assert again is not None
    np.testing.assert_allclose(again.maps, planted.maps, rtol=0, atol=1e-5)


def test_honest_images_have_no_place_where_they_differ() -> None:
    inputs = with_maps()
    assert two_sample.check(inputs).reason.endswith("on features of 8 x 8 positions, too low to say")
    assert activation_maps.drawable(inputs) is None


def test_features_that_are_the_same_everywhere_have_no_place_and_raise_no_warning() -> None:
    inputs = make_inputs(feature_maps=lambda *rows: iter([np.ones((2 * len(rows[0]), 2, 4, 4), np.float32)]))
    assert two_sample.check(inputs).reason.endswith("too low to say")
    assert activation_maps.drawable(inputs) is None


def test_without_spatial_features_the_check_says_why_there_is_no_map() -> None:
    assert two_sample.check(make_inputs()).reason.endswith("; where: no map: no spatial features were given")
    inputs = make_inputs(feature_maps="x.onnx is an ONNX graph, which gives pooled features only")
    reason = two_sample.check(inputs).reason
    assert reason.endswith("; where: no map: x.onnx is an ONNX graph, which gives pooled features only")
    assert activation_maps.drawable(inputs) is None


def test_maps_of_two_positions_a_side_show_nothing() -> None:
    inputs = make_inputs(feature_maps=lambda *rows: iter([np.zeros((1, 5, 2, 2), np.float32)]))
    assert activation_maps.search(inputs) == "no map: the spatial features have 2 x 2 positions, fewer than 3 a side"
