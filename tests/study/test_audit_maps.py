"""From the two sides of an audit to the picture of where they differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.audit.synthetic_cases import clinic, small
from tests.toy_images import tiny_encoder
from wazuka.audit.synthetic import Inputs, activation_maps, two_sample
from wazuka.study.synthetic import audit_maps
from wazuka.study.synthetic.audit_sides import Inception, Sides

SETTINGS: Any = SimpleNamespace(device="cpu")


def make_sides(**changes: Any) -> Sides:
    """Images of part 0 of the clinic as real ones, of part 1 with a mark in the lower left corner as synthetic ones."""
    images, table = clinic()
    real, own = (table["part"] == 0).to_numpy(), (table["part"] == 1).to_numpy()
    marked = images[own].copy()
    marked[:, 54:62, 2:10] = (0, 255, 0)
    cache: Any = SimpleNamespace(intensity="rgb8", transform=SimpleNamespace(window=None))
    sides = Sides(
        real=table.loc[real, ["id", "patient", "label", "domain"]].reset_index(drop=True),
        synthetic=pd.DataFrame({"id": [f"s{i}" for i in range(own.sum())], "label": "regular", "seed": 0}),
        training=np.ones(int(real.sum()), bool),
        real_pixels=images[real],
        synthetic_pixels=marked,
        cache=cache,
        encoder=tiny_encoder(),
    )
    return replace(sides, **changes)


def make_inputs(sides: Sides) -> Inputs:
    return Inputs(
        real=sides.real,
        synthetic=sides.synthetic,
        training=sides.training,
        real_pixels=small(sides.real_pixels),
        synthetic_pixels=small(sides.synthetic_pixels),
        feature_maps=audit_maps.maps_of(sides, SETTINGS),
    )


def test_a_mark_in_a_corner_shows_there_in_a_networks_maps_and_in_the_picture(tmp_path: Path) -> None:
    sides = make_sides()
    inputs = make_inputs(sides)
    assert "from the strongest ninth, lower left" in two_sample.check(inputs).reason
    found = activation_maps.drawable(inputs)
    assert found is not None
    assert np.unravel_index(found.difference.argmax(), (8, 8)) in [(6, 0), (6, 1), (7, 0), (7, 1)]
    assert audit_maps.draw_maps(found, sides, folder=tmp_path) == {"where": "where.png"}
    picture = np.asarray(Image.open(tmp_path / "where.png"), np.float64)
    tile = audit_maps.SIDE + audit_maps.GAP
    assert picture.shape[1] == 8 * tile + audit_maps.GAP
    left = audit_maps.GAP + 2 * tile
    last = picture[-tile : -audit_maps.GAP, left : left + audit_maps.SIDE]
    red = last[:, :, 0] - last[:, :, 2]
    row, column = np.unravel_index(red.argmax(), red.shape)
    assert row > 2 * audit_maps.SIDE // 3 and column < audit_maps.SIDE // 3
    # the first image is the synthetic one of the highest held-out score, and its mark is there
    n = len(found.sides.real_rows)
    first = sides.synthetic_pixels[found.sides.synthetic_rows[int(found.scores[n:].argmax())]]
    shown = picture[audit_maps.GAP : tile, audit_maps.GAP : tile]
    expected = np.asarray(Image.fromarray(first).resize((audit_maps.SIDE,) * 2, Image.Resampling.BICUBIC), np.float64)
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize(("value", "color"), [(1.0, audit_maps.SYNTHETIC), (-1.0, audit_maps.REAL)])
def test_red_speaks_for_synthetic_and_blue_for_real(value: float, color: tuple[int, int, int]) -> None:
    gray = np.full((audit_maps.SIDE, audit_maps.SIDE), 100.0)
    drawn = np.asarray(audit_maps._overlay(gray, np.full((8, 8), value), 1.0))
    expected = np.rint(100 + audit_maps.STRENGTH * (np.array(color) - 100.0))
    np.testing.assert_array_equal(drawn, np.broadcast_to(expected, drawn.shape))
    untouched = np.asarray(audit_maps._overlay(gray, np.zeros((8, 8)), 1.0))
    np.testing.assert_array_equal(untouched, 100)


def test_an_encoder_without_spatial_features_has_no_map_and_the_check_says_so() -> None:
    onnx = replace(tiny_encoder(), kind="onnx", name="x.onnx")
    inputs = make_inputs(make_sides(encoder=onnx))
    assert two_sample.check(inputs).reason.endswith(
        "where: no map: x.onnx is an ONNX graph, which gives pooled features only"
    )
    assert activation_maps.drawable(inputs) is None
    assert callable(audit_maps.maps_of(make_sides(encoder=Inception(None)), SETTINGS))
