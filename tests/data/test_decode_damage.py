"""Damaged files of every format: the answer is an image or a DecodeError with a reason, never another error or a warning."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.dicom_files import axial, write
from wazuka.data import decode
from wazuka.data.decode import DecodeError

PIXELS = np.random.default_rng(4).integers(0, 256, (12, 10), dtype=np.uint8)


def make(path: Path) -> bytes:
    """The bytes of a whole file of the format that the name says."""
    if path.suffix == ".dcm":
        write(path, PIXELS.astype(np.uint16), tags=axial(1.0, number=1))
    elif path.suffix in (".nii", ".gz"):
        nibabel.save(nibabel.Nifti1Image(PIXELS.astype(np.int16).reshape(3, 4, 10), np.eye(4)), path)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, PIXELS, compression="zlib")
    elif path.suffix == ".npz":
        np.savez_compressed(path, train_images=PIXELS[None])
    else:
        Image.fromarray(PIXELS).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.gif", "a.tif", "a.dcm", "a.nii", "a.nii.gz", "a.npz"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damage_gives_a_reason_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damage" / name
    path.parent.mkdir(exist_ok=True)
    content = bytearray(make(path))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content)
    try:
        info = decode.probe(path)
        frames = [None] if info.frames is None else [0]
        (image,) = decode.decode(path, frames)
        assert image.ndim in (2, 3)
    except DecodeError as error:
        assert str(error)
        assert "\n" not in str(error)
