"""Whole slides: regions of level 0 are read when they are sliced, white where the scanner stored nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from wazuka.data import decode, patches
from wazuka.data.formats import slide


class Reader:
    """An opened slide with openslide's interface: 50 rows, 40 columns, nothing stored in its last 10 columns."""

    def __init__(self, properties: dict[str, str] | None = None) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8)
        self.pixels[..., 3] = 255
        self.pixels[:, 30:] = 0
        self.dimensions = (40, 50)
        self.properties = properties or {}
        self.asked: list[tuple[Any, ...]] = []

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        self.asked.append((location, level, size))
        (x, y), (width, height) = location, size
        return self.pixels[y : y + height, x : x + width]


def test_a_patch_is_the_only_region_that_is_read() -> None:
    reader = Reader()
    opened = slide.Slide(Path("x.svs"), reader)
    patch = patches.cut(opened, {"patch_y": 20, "patch_x": 10, "patch_px": 16})  # type: ignore[arg-type]
    assert np.array_equal(patch, reader.pixels[20:36, 10:26, :3])
    assert reader.asked == [((10, 20), 0, (16, 16))]


def test_what_the_scanner_did_not_store_is_white_and_the_border_is_mirrored() -> None:
    opened = slide.Slide(Path("x.svs"), Reader())
    patch = patches.cut(opened, {"patch_y": 44, "patch_x": 28, "patch_px": 12})  # type: ignore[arg-type]
    inside = opened.reader.pixels[44:50, 28:30, :3]
    assert np.array_equal(patch[:6, :2], inside)
    assert np.array_equal(patch[6:, :2], inside[::-1])
    assert (patch[:, 2:] == 255).all() and patch.shape == (12, 12, 3)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}, (0.0005, 0.00025, None)),
        ({"openslide.mpp-x": "0.25"}, None),
        ({"openslide.mpp-x": "nan", "openslide.mpp-y": "0.25"}, None),
        ({"openslide.mpp-x": "-1", "openslide.mpp-y": "0.25"}, None),
        ({"openslide.mpp-x": "40x", "openslide.mpp-y": "0.25"}, None),
    ],
)
def test_spacing_is_the_scanners_microns_per_pixel(properties: dict[str, str], expected: Any) -> None:
    found = slide.Slide(Path("x.svs"), Reader(properties)).spacing_mm
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_whole_slide_is_refused_where_no_annotations_place_patches(tmp_path: Path) -> None:
    (tmp_path / "x.svs").write_bytes(b"II*\x00")
    with pytest.raises(decode.DecodeError, match="a whole-slide image, of which only patches around annotations"):
        decode.probe(tmp_path / "x.svs")


def test_a_real_slide_gives_the_pixels_of_its_largest_level(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="needs the extra wsi")
    full = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    description = "Aperio Image Library v1.0\n200x300 [0,0 200x300] (64x64)|AppMag = 40|MPP = 0.2500"
    tifffile.imwrite(tmp_path / "x.svs", full, photometric="rgb", tile=(64, 64), description=description, metadata=None)
    info = decode.probe(tmp_path / "x.svs", patches=True)
    assert (info.height, info.width, info.modality) == (300, 200, "SM")
    assert info.spacing_mm == pytest.approx((0.00025, 0.00025, None))
    (opened,) = decode.decode(tmp_path / "x.svs")
    patch = patches.cut(opened, {"patch_y": 100, "patch_x": 50, "patch_px": 32})
    assert np.array_equal(patch, full[100:132, 50:82])
