"""Microns per pixel: from a table or from TIFF tags into the manifest, and two scanners on one scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from tests.import_sources import write_png
from wazuka.core.errors import DataError
from wazuka.data.importers import table
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import build_pixels
from wazuka.data.spacing import settle_spacing
from wazuka.data.transform import ImageTransform


def tissue(mpp: float, *, microns: float = 32.0) -> np.ndarray:
    """The same field of 32 x 32 microns at any resolution: round nuclei on a pink ground."""
    side = round(microns / mpp)
    y, x = (np.mgrid[:side, :side] + 0.5) * mpp
    nuclei = sum(np.clip(2.5 - np.hypot(y - a, x - b), 0, 1) for a, b in ((10, 9), (16, 18), (23, 12)))
    ground, ink = np.array([230.0, 170.0, 200.0]), np.array([90.0, 60.0, 140.0])
    return np.rint(ground + np.minimum(nuclei, 1)[..., None] * (ink - ground)).astype(np.uint8)


def two_scanners(folder: Path, *, last: str = "0.5") -> Dataset:
    """A fine and a coarse scanner, 128 and 64 pixels a side; PNG files, which state no size."""
    lines = ["image,label,scanner,mpp"]
    for number, mpp in enumerate((0.25, 0.5, 0.25, 0.5)):
        write_png(folder / "source" / f"{number}.png", np.roll(tissue(mpp), number // 2, axis=2))
        written = last if number == 3 else str(mpp)
        lines.append(f"{number}.png,{'xy'[number // 2]},{'fine' if mpp == 0.25 else 'coarse'},{written}")
    (folder / "source" / "table.csv").write_text("\n".join(lines) + "\n")
    return import_dataset(folder / "source", folder / "dataset", workers=1)


def test_two_scanners_are_brought_to_one_scale_before_the_crop(tmp_path: Path) -> None:
    dataset = two_scanners(tmp_path)
    rows = dataset.manifest.set_index("id")
    assert [list(one) for one in rows["spacing_mm"]] == [[0.00025, 0.00025, None], [0.0005, 0.0005, None]] * 2
    assert dataset.card.attributes["mpp"] == "table"
    notes = dataset.card.imported["notes"]
    assert "column mpp (microns per pixel) gives the pixel spacing of 4 of 4 images" in notes

    def fields(transform: ImageTransform) -> np.ndarray:
        cache = build_pixels(dataset, transform, cache=tmp_path / "cache")
        return np.load(cache.folder / "images.npy").astype(float)

    fine, coarse = fields(ImageTransform(crop=32, size=32, spacing_mm=0.0005))[:2]
    assert np.abs(fine - coarse).max() < 20, "16 x 16 microns on both"
    unequal = fields(ImageTransform(crop=32, size=32))[:2]
    assert np.abs(unequal[0] - unequal[1]).max() > 100, "8 x 8 microns on one, 16 x 16 on the other"


def test_an_image_without_a_known_spacing_is_an_error_that_counts_and_names_it(tmp_path: Path) -> None:
    dataset = two_scanners(tmp_path, last="")
    assert dataset.manifest["spacing_mm"].isna().tolist() == [False, False, False, True]
    with pytest.raises(
        DataError,
        match=r"^1 image does not fit the image transform: 3 has no pixel spacing, but .* resamples to 0\.0005 mm",
    ):
        build_pixels(dataset, ImageTransform(size=32, spacing_mm=0.0005), cache=tmp_path / "cache")


def test_tiff_tags_give_the_spacing_and_the_table_holds_over_them_with_a_note(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, mpp in enumerate((0.25, 0.5, 0.5)):
        per_centimeter = 10_000 / mpp
        resolution = (per_centimeter, per_centimeter)
        tifffile.imwrite(
            source / f"{number}.tif", np.roll(tissue(mpp), number, axis=2), resolution=resolution, resolutionunit=3
        )
    (source / "table.csv").write_text("image,mpp\n0.tif,\n1.tif,0.5\n2.tif,0.4\n")
    dataset = import_dataset(source, tmp_path / "dataset", workers=1)
    spacing = [list(one)[:2] for one in dataset.manifest["spacing_mm"]]
    assert np.allclose(spacing, [[0.00025] * 2, [0.0005] * 2, [0.0004] * 2])
    assert (
        "the pixel spacing in the file of 1 images differs from the column mpp, which is used"
        in dataset.card.imported["notes"]
    )


@pytest.mark.parametrize("value", ["0.00025", "0", "-0.5", "fine", "20000", "inf"])
def test_microns_that_cannot_be_are_refused_with_their_row(tmp_path: Path, value: str) -> None:
    write_png(tmp_path / "a.png", tissue(0.5))
    (tmp_path / "table.csv").write_text(f"image,mpp\na.png,0.5\nb.png,{value}\n")
    with pytest.raises(
        DataError, match=rf"Column `mpp` of table\.csv holds `{value}` in row 3; give microns per pixel from 0\.01 to"
    ):
        table.read(tmp_path, ImportOptions())


def test_every_source_of_a_spacing_has_its_place() -> None:
    rows = pd.DataFrame(
        {"item": [0, 1, 1, 2, 3], "spacing_mm": [None, [1.0, 2.0, 5.0], [1.0, 2.0, 5.0], None, [3, 3, None]]}
    )
    plain = pd.DataFrame({"path": list("abcd")})
    notes: list[str] = []
    assert settle_spacing(plain, rows, notes).tolist() == rows["spacing_mm"].tolist()
    microns = plain.assign(mpp=pd.array(["500", "1000", None, "3000"], dtype="string"))
    assert settle_spacing(microns, rows, notes).tolist() == [
        [0.5, 0.5, None],
        [1.0, 1.0, 5.0],
        [1.0, 1.0, 5.0],
        None,
        [3.0, 3.0, None],
    ]
    assert notes == ["the pixel spacing in the file of 2 images differs from the column mpp, which is used"]
    slices = microns.assign(slice_spacing_mm=pd.array(["7", "4", "4", None], dtype="string"))
    assert settle_spacing(slices, rows, [])[1] == [1.0, 1.0, 4.0]
    alone = plain.assign(slice_spacing_mm=pd.array([None, "4", None, None], dtype="string"))
    assert settle_spacing(alone, rows, []).tolist() == [None, [1.0, 2.0, 4.0], [1.0, 2.0, 4.0], None, [3, 3, None]]
