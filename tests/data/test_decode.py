"""Images of one file each, MedMNIST arrays, and what is refused; oracles: files written by Pillow and numpy."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wazuka.data import decode
from wazuka.data.decode import DecodeError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (7, 5), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (7, 5), dtype=np.uint16)


def only(path: Path) -> np.ndarray:
    """The only image of a file, after checking that the header promised its shape."""
    info = decode.probe(path)
    (image,) = decode.decode(path, [None])
    assert info.frames is None
    assert (info.height, info.width) == image.shape[:2]
    assert info.channels == (3 if image.ndim == 3 else 1)
    return image


@pytest.mark.parametrize(
    ("suffix", "pixels", "intensity"),
    [
        ("png", GRAY, "gray8"),
        ("png", COLOR, "rgb8"),
        ("png", DEEP, "gray16"),
        ("bmp", COLOR, "rgb8"),
        ("bmp", GRAY, "gray8"),
        ("pgm", GRAY, "gray8"),
        ("gif", GRAY, "gray8"),
    ],
)
def test_lossless_files_come_back_as_written(tmp_path: Path, suffix: str, pixels: np.ndarray, intensity: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(pixels).save(path)
    image = only(path)
    np.testing.assert_array_equal(image, pixels)
    assert image.dtype == pixels.dtype
    assert decode.probe(path).intensity == intensity


def test_a_jpeg_is_what_pillow_makes_of_it(tmp_path: Path) -> None:
    path = tmp_path / "image.JPG"
    Image.fromarray(COLOR).save(path, format="JPEG")
    np.testing.assert_array_equal(only(path), np.array(Image.open(path)))


def test_a_bilevel_image_becomes_0_and_255(tmp_path: Path) -> None:
    Image.fromarray(GRAY > 127).save(tmp_path / "image.png")
    np.testing.assert_array_equal(only(tmp_path / "image.png"), np.where(GRAY > 127, 255, 0))


def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path: Path) -> None:
    turned = Image.new("RGB", (4, 6))
    exif = turned.getexif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    pixels = np.zeros((6, 4, 3), dtype=np.uint8)
    pixels[0] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png", exif=exif)
    image = only(tmp_path / "image.png")
    np.testing.assert_array_equal(image, np.rot90(pixels, -1))


def test_opaque_alpha_is_dropped_and_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    opaque = np.dstack([COLOR, np.full((7, 5), 255, np.uint8)])
    Image.fromarray(opaque, "RGBA").save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(only(tmp_path / "opaque.png"), COLOR)
    clear = opaque.copy()
    clear[0, :, 3] = 0
    clear[1, :, 3] = 128
    Image.fromarray(clear, "RGBA").save(tmp_path / "clear.png")
    image = only(tmp_path / "clear.png")
    assert (image[0] == 255).all()
    np.testing.assert_allclose(image[1], COLOR[1] * (128 / 255) + 255 * (127 / 255), atol=0.5)
    np.testing.assert_array_equal(image[2:], COLOR[2:])
    Image.fromarray(np.dstack([GRAY, np.full((7, 5), 255, np.uint8)]), "LA").save(tmp_path / "gray.png")
    np.testing.assert_array_equal(only(tmp_path / "gray.png"), GRAY)


def test_a_palette_is_colors_as_an_image_and_indices_as_a_mask(tmp_path: Path) -> None:
    indices = RNG.integers(0, 3, (7, 5), dtype=np.uint8)
    colors = np.array([[0, 0, 0], [200, 10, 10], [10, 200, 10]], dtype=np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(colors.ravel().tolist())
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(only(tmp_path / "mask.png"), colors[indices])
    (mask,) = decode.decode_masks(tmp_path / "mask.png", [None])
    np.testing.assert_array_equal(mask, indices)


def test_cmyk_is_converted_as_pillow_does(tmp_path: Path) -> None:
    Image.fromarray(COLOR).convert("CMYK").save(tmp_path / "image.jpg")
    np.testing.assert_array_equal(
        only(tmp_path / "image.jpg"), np.array(Image.open(tmp_path / "image.jpg").convert("RGB"))
    )


def test_masks_keep_their_values_whatever_the_mode(tmp_path: Path) -> None:
    labels = RNG.integers(0, 3, (7, 5), dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "l.png")
    Image.fromarray(labels.astype(np.uint16) * 300).save(tmp_path / "deep.png")
    Image.fromarray(labels > 0).save(tmp_path / "bits.png")
    Image.fromarray(np.dstack([labels] * 3)).save(tmp_path / "gray.png")
    assert (decode.decode_masks(tmp_path / "l.png", [None])[0] == labels).all()
    assert (decode.decode_masks(tmp_path / "deep.png", [None])[0] == labels.astype(int) * 300).all()
    assert (decode.decode_masks(tmp_path / "bits.png", [None])[0] == (labels > 0)).all()
    assert (decode.decode_masks(tmp_path / "gray.png", [None])[0] == labels).all()


def test_a_color_mask_is_refused(tmp_path: Path) -> None:
    Image.fromarray(COLOR).save(tmp_path / "mask.png")
    with pytest.raises(DecodeError, match="color mask; label numbers in one channel are expected"):
        decode.decode_masks(tmp_path / "mask.png", [None])


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_every_truncation_is_an_error_or_the_same_image(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(np.repeat(np.repeat(COLOR, 8, 0), 8, 1)).save(whole)
    content, expected = whole.read_bytes(), only(whole)
    for share in (0.02, 0.3, 0.6, 0.95):
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(content[: int(len(content) * share)])
        try:
            found = decode.decode(cut, [None])[0]
        except DecodeError as error:
            assert str(error)
        else:
            np.testing.assert_array_equal(found, expected)
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match=r"truncated or damaged|damaged"):
        decode.decode(cut, [None])


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "image.png", "empty file of 0 bytes"),
        (b"not an image at all", "image.png", "not a PNG, JPEG"),
        (b"not an image at all", "image.tif", "not a readable TIFF file"),
        (b"not an image at all", "image.nii", "not a readable NIfTI file"),
        (b"not an image at all", "image.nii.gz", "not a readable NIfTI file"),
        (b"not an image at all", "image.dcm", "no DICM mark: not a DICOM file"),
        (b"not an image at all", "image.npz", "not a readable npz file"),
        (b"not an image at all", "notes.docx", "unknown format `.docx`"),
    ],
)  # fmt: skip
def test_what_is_no_image_says_why(tmp_path: Path, content: bytes, name: str, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DecodeError, match=reason):
        decode.probe(tmp_path / name)
    with pytest.raises(DecodeError, match=reason):
        decode.decode(tmp_path / name, [None])


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="file does not exist"):
        decode.probe(tmp_path / "absent.png")
    with pytest.raises(DecodeError, match="is a folder"):
        decode.decode(tmp_path, [None])


def png(width: int, height: int, *, bits: int = 8, color: int = 0, rows: bytes = b"") -> bytes:
    """A PNG file written by hand: what Pillow would not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
    with pytest.raises(DecodeError, match="more pixels than the limit of 178,956,970"):
        decode.probe(tmp_path / "bomb.png")


def test_16_bit_color_is_refused_instead_of_cut_to_8_bits(tmp_path: Path) -> None:
    rows = b"".join(b"\x00" + RNG.bytes(4 * 6) for _ in range(3))
    (tmp_path / "deep.png").write_bytes(png(4, 3, bits=16, color=2, rows=rows))
    for function in (decode.probe, decode.decode):
        with pytest.raises(DecodeError, match="16 bits per color channel"):
            function(tmp_path / "deep.png")


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(DecodeError, match="GIF with 2 frames; one image per file is expected"):
        decode.probe(tmp_path / "film.gif")


def test_a_frame_that_is_not_there_is_named(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "image.png")
    with pytest.raises(DecodeError, match="has no frame 3, only 1"):
        decode.decode(tmp_path / "image.png", [3])


def test_a_sidecar_gives_allow_listed_attributes_only(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "image.png")
    sidecar = {
        "PatientSex": "F",
        "PatientAge": "093Y",
        "PatientName": "Someone",
        "Manufacturer": "Siemens",
        "AcquisitionDate": "20200101",
    }
    (tmp_path / "image.json").write_text(json.dumps(sidecar))
    info = decode.probe(tmp_path / "image.png")
    assert info.attributes == {"sex": "F", "age_group": "90+", "maker": "Siemens"}
    assert info.attribute_sources["sex"] == "sidecar PatientSex"


def test_medmnist_frames_count_over_train_val_and_test(tmp_path: Path) -> None:
    parts = {
        name: RNG.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for name, n in (("train", 3), ("val", 2), ("test", 2))
    }
    np.savez_compressed(
        tmp_path / "set.npz", **{f"{name}_images": one for name, one in parts.items()}, train_labels=np.zeros(3)
    )
    everything = np.concatenate([parts["train"], parts["val"], parts["test"]])
    info = decode.probe(tmp_path / "set.npz")
    assert (info.frames, info.height, info.width, info.channels, info.intensity) == (7, 4, 4, 3, "rgb8")
    order = [6, 0, 3, 3]
    for index, image in zip(order, decode.decode(tmp_path / "set.npz", order), strict=True):
        np.testing.assert_array_equal(image, everything[index])
    with pytest.raises(DecodeError, match="has no frame 7, only 7"):
        decode.decode(tmp_path / "set.npz", [7])
    with pytest.raises(DecodeError, match="holds 7 frames, and none was named"):
        decode.decode(tmp_path / "set.npz", [None])


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": GRAY}, "npz without `train_images`"),
        ({"train_images": GRAY[None].astype(float)}, "dtype float64; uint8 is expected"),
        ({"train_images": np.zeros((2, 3, 4, 5), np.uint8)}, r"shape \(2, 3, 4, 5\)"),
        ({"train_images": np.array([{"a": 1}], dtype=object)}, "dtype object; uint8 is expected"),
        ({"train_images": np.zeros((1, 4, 4), np.uint8), "val_images": np.zeros((1, 5, 4), np.uint8)}, "different image sizes"),
    ],
)  # fmt: skip
def test_an_npz_of_another_kind_says_why(tmp_path: Path, arrays: dict[str, np.ndarray], reason: str) -> None:
    np.savez(tmp_path / "set.npz", allow_pickle=True, **arrays)
    with pytest.raises(DecodeError, match=reason):
        decode.probe(tmp_path / "set.npz")


def test_an_npz_array_that_ends_early_says_so(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.zeros((9, 8, 8), np.uint8))
    import zipfile

    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("train_images.npy", buffer.getvalue()[:300])
    with pytest.raises(DecodeError, match="damaged array `train_images`"):
        decode.decode(tmp_path / "set.npz", [0])


def test_formats_are_told_by_suffix_or_by_the_dicom_mark(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "README").write_bytes(b"text")
    assert decode.format_of(tmp_path / "IM0001") == "dicom"
    assert decode.format_of(tmp_path / "README") is None
    assert decode.format_of(Path("A.NII.GZ")) == "nifti"
    assert decode.is_image(tmp_path / "IM0001")
    assert not decode.is_image(tmp_path / "README")
