"""Whole images that a table names, cut into patches (`--table`, `--patch`, `--stride`): what each patch inherits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.import_sources import picture, write_png
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import build_pixels
from wazuka.data.transform import ImageTransform

TABLE = """image,label,patient,scanner,id,mpp,grade
slides/1.tif,idc-positive,P1,A,first,0.5,2
slides/2.png,idc-negative,P1,A,second,0.5,
slides/3.png,idc-negative,P2,B,third,0.25,1
"""
WHOLE = {"first": picture(1, side=70), "second": picture(2, side=60), "third": picture(3, side=60)}


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three images of two patients in patches of 24 pixels; the upper 24 rows of the first one are glass."""
    folder = tmp_path_factory.mktemp("cut")
    source = folder / "source"
    WHOLE["first"][:24] = 245
    (source / "slides").mkdir(parents=True)
    tifffile.imwrite(source / "slides" / "1.tif", WHOLE["first"], photometric="rgb")
    write_png(source / "slides" / "2.png", WHOLE["second"])
    write_png(source / "slides" / "3.png", WHOLE["third"][:, :24])
    (source / "labels.csv").write_text(TABLE)
    options = ImportOptions(patch=24, stride=20, max_corrupt=0)
    return import_dataset(source, folder / "out", options=options, workers=1)


def test_each_patch_has_the_label_patient_domain_and_attributes_of_its_image(cut: Dataset) -> None:
    rows = cut.usable
    assert set(rows["parent"]) == {"first", "second", "third"}
    for parent, label, patient, domain, grade, spacing in (
        ("first", "idc-positive", "P1", "A", "2", 0.0005),
        ("second", "idc-negative", "P1", "A", "-", 0.0005),
        ("third", "idc-negative", "P2", "B", "1", 0.00025),
    ):
        own = rows[rows["parent"] == parent]
        assert set(own["label"]) == {label} and set(own["patient"]) == {patient} and set(own["domain"]) == {domain}
        assert set(own["grade"].fillna("-")) == {grade}
        assert {tuple(one[:2]) for one in own["spacing_mm"]} == {(spacing, spacing)}
    assert cut.card.patient_source == "table"


def test_patches_stand_at_every_stride_and_at_the_far_edge_and_blank_ones_are_counted(cut: Dataset) -> None:
    places = {
        parent: sorted(zip(own["patch_y"], own["patch_x"], strict=True)) for parent, own in cut.usable.groupby("parent")
    }
    assert places["first"] == [(y, x) for y in (20, 40, 46) for x in (0, 20, 40, 46)]  # without four of glass above
    assert places["second"] == [(y, x) for y in (0, 20, 36) for x in (0, 20, 36)]
    assert places["third"] == [(y, 0) for y in (0, 20, 36)]
    assert cut.card.imported["counts"]["blank_patches"] == 4
    assert cut.usable["id"].iloc[0] == "first@00020-00000"


def test_what_a_study_reads_are_the_pixels_at_the_patchs_place(cut: Dataset, tmp_path: Path) -> None:
    rows = cut.usable
    pixels = build_pixels(cut, ImageTransform(size=24), cache=tmp_path, workers=1)
    read = pixels.images(np.arange(len(rows))).batch(np.arange(len(rows)))
    for found, parent, y, x in zip(read, rows["parent"], rows["patch_y"], rows["patch_x"], strict=True):
        assert np.array_equal(found, WHOLE[parent][y : y + 24, x : x + 24])
