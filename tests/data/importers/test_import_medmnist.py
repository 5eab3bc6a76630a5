"""MedMNIST npz: frames over all parts, class names, and the sets that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wazuka.core.errors import DataError
from wazuka.data.importers import medmnist
from wazuka.data.importers.listing import ImportOptions


def _write(
    path: Path, *, shape: tuple[int, ...] = (6, 6), labels: int = 1, counts: tuple[int, ...] = (4, 2, 3)
) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in zip(medmnist.PARTS, counts, strict=False):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count)[:, None] % 2 + np.zeros((1, labels))).astype(np.uint8)
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3)])
def test_frames_count_over_the_parts_and_the_part_is_kept(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = _write(tmp_path / "some.npz", shape=shape)
    listing = medmnist.read(path, ImportOptions())
    rows = listing.table(tmp_path)
    assert rows["frame"].tolist() == list(range(9))
    assert rows["split"].tolist() == ["train"] * 4 + ["val"] * 2 + ["test"] * 3
    assert rows["label"].tolist() == ["0", "1", "0", "1", "0", "1", "0", "1", "0"]
    assert listing.classes == ("0", "1")
    assert medmnist.recognize(tmp_path) == "a MedMNIST npz some.npz with 3 parts (train 4, val 2, test 3)"


def test_known_sets_have_names_for_their_classes(tmp_path: Path) -> None:
    listing = medmnist.read(_write(tmp_path / "pneumoniamnist_64.npz"), ImportOptions())
    assert listing.classes == ("normal", "pneumonia")
    assert listing.table(tmp_path)["label"].tolist()[:2] == ["normal", "pneumonia"]


def test_volumes_and_several_labels_per_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"organ3d.npz holds 3D volumes \(train_images is 4 x 6 x 6 x 6\); only the 2D sets"
    ):
        medmnist.read(_write(tmp_path / "organ3d.npz", shape=(6, 6, 6)), ImportOptions())
    with pytest.raises(DataError, match=r"chest\.npz has 14 labels per image; one label per image is needed"):
        medmnist.read(_write(tmp_path / "chest.npz", labels=14), ImportOptions())


def test_another_npz_is_not_recognized_and_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    assert medmnist.recognize(tmp_path) is None
    with pytest.raises(DataError, match="has no array train_images, val_images or test_images"):
        medmnist.read(tmp_path, ImportOptions())
    (tmp_path / "x.npz").write_bytes(b"no zip")
    assert medmnist.recognize(tmp_path) is None
    (tmp_path / "y.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match="is not one npz file nor a folder with exactly one"):
        medmnist.read(tmp_path, ImportOptions())
