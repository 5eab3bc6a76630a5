"""TIFF; oracle: files written by tifffile and by Pillow's libtiff."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wazuka.data import decode
from wazuka.data.decode import DecodeError

RNG = np.random.default_rng(1)
GRAY = RNG.integers(0, 256, (9, 6), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (9, 6), dtype=np.uint16)
COLOR = RNG.integers(0, 256, (9, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("pixels", [GRAY, DEEP, COLOR], ids=["gray8", "gray16", "rgb8"])
def test_single_pages_come_back_as_written(tmp_path: Path, pixels: np.ndarray, compression: str | None) -> None:
    tifffile.imwrite(tmp_path / "image.tif", pixels, compression=compression)
    info = decode.probe(tmp_path / "image.tif")
    (image,) = decode.decode(tmp_path / "image.tif", [None])
    np.testing.assert_array_equal(image, pixels)
    assert image.dtype == pixels.dtype
    assert (info.frames, info.height, info.width, info.channels) == (None, 9, 6, 3 if pixels.ndim == 3 else 1)
    assert info.intensity == {"uint8": "gray8", "uint16": "gray16"}[str(pixels.dtype)] or pixels.ndim == 3


def test_separate_color_planes_and_big_endian_files_are_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(COLOR, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(decode.decode(tmp_path / "planes.tif", [None])[0], COLOR)
    tifffile.imwrite(tmp_path / "big.tif", DEEP, byteorder=">")
    (image,) = decode.decode(tmp_path / "big.tif", [None])
    np.testing.assert_array_equal(image, DEEP)
    assert image.dtype.isnative


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [GRAY, DEEP, COLOR], ids=["gray8", "gray16", "rgb8"])
def test_compressions_that_scanners_use_are_read(tmp_path: Path, pixels: np.ndarray, compression: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "image.tif", compression=compression)
    np.testing.assert_array_equal(decode.decode(tmp_path / "image.tif", [None])[0], pixels)


def test_jpeg_inside_tiff_is_what_pillow_makes_of_it(tmp_path: Path) -> None:
    Image.fromarray(np.repeat(np.repeat(COLOR, 8, 0), 8, 1)).save(tmp_path / "image.tif", compression="jpeg")
    np.testing.assert_array_equal(
        decode.decode(tmp_path / "image.tif", [None])[0], np.array(Image.open(tmp_path / "image.tif").convert("RGB"))
    )


def test_white_is_zero_is_inverted(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", GRAY, photometric="miniswhite")
    np.testing.assert_array_equal(decode.decode(tmp_path / "image.tif", [None])[0], 255 - GRAY)


def test_a_palette_is_colors_as_an_image_and_indices_as_a_mask(tmp_path: Path) -> None:
    colors = RNG.integers(0, 256, (3, 256), dtype=np.uint16) * 257
    labels = (GRAY % 3).astype(np.uint8)
    tifffile.imwrite(tmp_path / "mask.tif", labels, photometric="palette", colormap=colors)
    np.testing.assert_array_equal(decode.decode(tmp_path / "mask.tif", [None])[0], (colors.T >> 8)[labels])
    np.testing.assert_array_equal(decode.decode_masks(tmp_path / "mask.tif", [None])[0], labels)
    assert decode.probe(tmp_path / "mask.tif").channels == 3


def test_alpha_lies_on_white(tmp_path: Path) -> None:
    alpha = np.full((9, 6), 255, np.uint8)
    alpha[0] = 0
    tifffile.imwrite(tmp_path / "image.tif", np.dstack([COLOR, alpha]), photometric="rgb", extrasamples=["unassalpha"])
    (image,) = decode.decode(tmp_path / "image.tif", [None])
    assert (image[0] == 255).all()
    np.testing.assert_array_equal(image[1:], COLOR[1:])


def test_equal_pages_are_a_stack_and_others_are_refused(tmp_path: Path) -> None:
    stack = RNG.integers(0, 256, (5, 9, 6), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    info = decode.probe(tmp_path / "stack.tif")
    assert info.frames == 5
    for index, image in zip([4, 0], decode.decode(tmp_path / "stack.tif", [4, 0]), strict=True):
        np.testing.assert_array_equal(image, stack[index])
    with tifffile.TiffWriter(tmp_path / "odd.tif") as file:
        file.write(GRAY)
        file.write(GRAY[:4])
    with pytest.raises(DecodeError, match="2 pages of different sizes"):
        decode.probe(tmp_path / "odd.tif")


@pytest.mark.parametrize(
    ("pixels", "options", "reason"),
    [
        (GRAY.astype(np.float32), {}, "32-bit pixels of type float32"),
        (GRAY.astype(np.int16), {}, "16-bit pixels of type int16"),
        (np.dstack([DEEP] * 3), {"photometric": "rgb"}, "16 bits per color channel"),
        (np.zeros((9, 6, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "extra channels|5 channels"),
    ],
)  # fmt: skip
def test_other_pixels_are_refused_with_their_type(
    tmp_path: Path, pixels: np.ndarray, options: dict, reason: str
) -> None:
    if pixels.shape[-1] == 5:
        pixels = RNG.integers(0, 256, pixels.shape, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", pixels, **options)
    with pytest.raises(DecodeError, match=reason):
        decode.decode(tmp_path / "image.tif", [None])


def test_a_truncated_tiff_is_an_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", RNG.integers(0, 256, (64, 64), dtype=np.uint8), compression="zlib")
    content = (tmp_path / "image.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match="TIFF"):
        decode.decode(tmp_path / "cut.tif", [None])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}, (0.0005, 0.00025, None)),
        ({"resolution": (254, 508), "resolutionunit": "INCH"}, (0.05, 0.1, None)),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({}, None),
        ({"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um"}}, (0.0005, 0.00025, None)),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}}, (0.0005, 0.00025, None)),
    ],
)  # fmt: skip
def test_spacing_comes_from_physical_tags_and_not_from_print_resolutions(
    tmp_path: Path, options: dict, expected: tuple | None
) -> None:
    path = tmp_path / ("image.ome.tif" if options.get("ome") else "image.tif")
    tifffile.imwrite(path, GRAY, **options)
    spacing = decode.probe(path).spacing_mm
    if expected is None:
        assert spacing is None
    else:
        assert spacing is not None
        assert spacing[:2] == pytest.approx(expected[:2], rel=1e-6)
        assert spacing[2] is None
