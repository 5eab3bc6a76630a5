"""MIDOG 2021, 2022 and MIDOG++: the published JSON, patches around cells in microns, domains, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from wazuka.core.errors import ConfigError, DataError
from wazuka.data.importers import importer, midog, recognize
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.manifest import Dataset
from wazuka.data.pixels import build_pixels
from wazuka.data.transform import ImageTransform

DESCRIPTIONS = {
    "2021": "MItosis Domain Generalization Challenge (MIDOG) 2021 - Training set",
    "2022": "MIDOG 2022 - Training set",
    "++": "MIDOG++: A Comprehensive Multi-Domain Data Set for Mitotic Figures",
}
HEIGHT, WIDTH = 120, 160


def _picture(seed: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def _content(edition: str, cells: dict[int, list[tuple[float, float, int]]], **image_keys: Any) -> dict[str, Any]:
    """The JSON as published: file number -> cells as (center x, center y, category)."""
    content: dict[str, Any] = {
        "info": {
            "description": DESCRIPTIONS[edition],
            "version": "1.0",
            "year": 2020,
            "contributor": "",
            "date_created": "",
        },
        "licenses": [{"url": "", "id": 1, "name": "CC0"}],
        "images": [
            {
                "license": 1,
                "file_name": f"{number:03}.tiff",
                "id": number,
                "width": WIDTH,
                "height": HEIGHT,
                **image_keys,
            }
            for number in cells
        ],
        "categories": [{"id": 1, "name": "mitotic figure"}, {"id": 2, "name": "not mitotic figure"}],
        "annotations": [],
    }
    for number, found in cells.items():
        for x, y, category in found:
            content["annotations"].append(
                {
                    "bbox": [x - 25, y - 25, x + 25, y + 25],
                    "category_id": category,
                    "image_id": number,
                    "id": len(content["annotations"]) + 1,
                }
            )
    return content


def _write(folder: Path, content: dict[str, Any], *, name: str = "MIDOG.json", images: str = "images") -> Path:
    (folder / images).mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        tifffile.imwrite(folder / images / image["file_name"], _picture(image["id"]), photometric="rgb")
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


BREAST: dict[int, list[tuple[float, float, int]]] = {
    1: [(50, 40, 1), (80.5, 60, 2)],
    60: [(70, 70, 2), (100, 50, 1)],
    101: [(20, 110, 2), (3, 2, 1)],
    151: [],
}


def _import(source: Path, out: Path, **options: Any) -> Dataset:
    return import_dataset(source, out, options=ImportOptions(**options), workers=1)


def test_each_cell_is_a_patch_whose_center_pixel_is_the_cell(tmp_path: Path) -> None:
    source = _write(tmp_path / "midog", _content("2021", BREAST))
    assert recognize(source) == ("midog", "MIDOG annotations MIDOG.json of 4 images (6 cells)")
    dataset = _import(source, tmp_path / "ds", patch=32)
    rows = dataset.manifest.set_index("annotation")
    assert dataset.card.imported["kind"] == "midog"
    assert dataset.card.classes == ("hard negative", "mitotic figure")
    assert rows.loc[list("123456"), "label"].tolist() == [
        *("mitotic figure", "hard negative", "hard negative", "mitotic figure", "hard negative", "mitotic figure")
    ]
    assert rows.loc["1", ["patient", "parent", "domain"]].tolist() == ["001", "images/001", "Hamamatsu XR"]
    assert dataset.card.patient_source == "file name" and dataset.card.license == "CC0"
    cache = build_pixels(dataset, ImageTransform(size=32), cache=tmp_path / "cache")
    pixels = np.load(cache.images_path)[np.arange(6)]  # (6, 32, 32, 3)
    for number, row in dataset.usable.iterrows():
        one = [cell for cells in BREAST.values() for cell in cells][int(row["annotation"]) - 1]
        image = _picture(int(row["patient"]))
        assert pixels[number, 16, 16].tolist() == image[int(one[1]), int(one[0])].tolist()


def test_a_patch_over_the_edge_is_mirrored_around_its_cell(tmp_path: Path) -> None:
    source = _write(tmp_path / "midog", _content("2021", BREAST))
    dataset = _import(source, tmp_path / "ds", patch=32)
    row = dataset.usable[dataset.usable["annotation"] == "6"].iloc[0]  # center x 3, y 2: 13 columns and 14 rows outside
    assert (row["patch_y"], row["patch_x"], row["height"], row["width"]) == (-14, -13, 32, 32)
    cache = build_pixels(dataset, ImageTransform(size=32), cache=tmp_path / "cache")
    patch = np.load(cache.images_path)[np.array([row.name])][0]
    image = _picture(101)
    assert np.array_equal(patch[14:, 13:], image[:18, :19])
    assert np.array_equal(patch[:14, 13:], image[:14, :19][::-1])
    assert np.array_equal(patch[14:, :13], image[:18, :13][:, ::-1])


def test_a_size_in_microns_gives_each_scanner_its_pixels(tmp_path: Path) -> None:
    source = _write(tmp_path / "midog", _content("2021", BREAST))
    dataset = _import(source, tmp_path / "ds", patch_um=8.0)
    found = dataset.usable.groupby("scanner")["patch_px"].unique().map(list).to_dict()
    assert found == {"Hamamatsu XR": [35], "Hamamatsu S360": [35], "Aperio CS2": [32]}  # 8 / 0.23 and 8 / 0.25
    spacing = dataset.usable.set_index("annotation")["spacing_mm"]
    assert spacing["1"][:2] == pytest.approx([0.00023, 0.00023])
    assert spacing["5"][:2] == pytest.approx([0.00025, 0.00025])


def test_microns_of_the_json_hold_over_those_of_the_file_and_these_over_the_published_ones(tmp_path: Path) -> None:
    content = _content("2021", {1: [(60, 60, 1), (70, 60, 2)], 2: [(60, 60, 1)], 3: [(60, 60, 2)], 4: [(60, 60, 2)]})
    content["images"][0]["mpp"] = 0.5
    source = _write(tmp_path / "midog", content)
    for number, per_cm in ((1, 10_000), (2, 25_000), (3, 10)):  # 1 micron, 0.4 microns and 1 mm per pixel
        path = source / "images" / f"{number:03}.tiff"
        tifffile.imwrite(path, _picture(number), photometric="rgb", resolution=(per_cm, per_cm), resolutionunit=3)
    dataset = _import(source, tmp_path / "ds", patch_um=16.0)
    found = dataset.usable.groupby("patient")["patch_px"].first().to_dict()
    assert found == {"001": 32, "002": 40, "003": 70, "004": 70}
    in_plane = {one["patient"]: round(one["spacing_mm"][0] * 1000, 6) for _, one in dataset.usable.iterrows()}
    assert in_plane == {"001": 0.5, "002": 0.4, "003": 0.23, "004": 0.23}
    notes = dataset.card.imported["notes"]
    assert "microns per pixel of 2 images are from the scanner's published resolution" in notes


def test_unknown_microns_are_refused_only_where_they_are_needed(tmp_path: Path) -> None:
    content = _content("2021", BREAST)
    content["info"]["description"] = "cells of a hospital"
    source = _write(tmp_path / "cells", content, name="cells.json")
    with pytest.raises(
        DataError, match=r"--patch-um 16 needs the microns per pixel of 001.tiff, which neither its file"
    ):
        _import(source, tmp_path / "ds", patch_um=16.0)
    dataset = _import(source, tmp_path / "ds")
    assert set(dataset.usable["patch_px"]) == {64}
    assert dataset.usable["spacing_mm"].isna().all() and dataset.usable["domain"].isna().all()
    assert "microns per pixel of 3 images are unknown" in dataset.card.imported["notes"]


@pytest.mark.parametrize(
    ("edition", "number", "tumor", "scanner"),
    [
        ("2022", 50, "human breast cancer", "Hamamatsu XR"),
        ("2022", 151, "canine lung cancer", "3DHistech"),
        ("2022", 195, "canine lymphoma", "3DHistech"),
        ("2022", 299, "canine cutaneous mast cell tumor", "Aperio CS2"),
        ("2022", 354, "human neuroendocrine tumor", "Hamamatsu XR"),
        ("++", 244, "canine lung cancer", "3DHistech"),
        ("++", 300, "canine cutaneous mast cell tumor", "Aperio CS2"),
        ("++", 504, "canine soft tissue sarcoma", "3DHistech"),
        ("++", 553, "human melanoma", "Hamamatsu XR"),
    ],
)
def test_file_numbers_tell_tumor_type_and_scanner(
    tmp_path: Path, edition: str, number: int, tumor: str, scanner: str
) -> None:
    source = _write(tmp_path, _content(edition, {number: [(50, 50, 1)], 60: [(50, 50, 2)]}))
    rows = midog.read(source, ImportOptions()).table(source).set_index("patient")
    assert rows.loc[f"{number:03}", ["tumor_type", "scanner"]].tolist() == [tumor, scanner]
    assert rows.loc["060", "scanner"] == "Hamamatsu S360"
    several = tumor != "human breast cancer"
    assert rows.loc[f"{number:03}", "domain"] == (tumor if several else scanner)


def test_the_tumor_type_of_the_json_holds(tmp_path: Path) -> None:
    content = _content("++", {245: [(50, 50, 1)], 1: [(50, 50, 2)]})
    content["images"][0]["tumor_type"] = "canine lymphosarcoma"
    content["annotations"][0]["labels"] = [1, 2, 1]
    listing = midog.read(_write(tmp_path, content, name="MIDOG++.json"), ImportOptions())
    rows = listing.table(tmp_path)
    assert rows["domain"].tolist() == ["canine lymphosarcoma", "human breast cancer"]


def test_the_ranges_of_an_edition_do_not_overlap_and_leave_no_gap() -> None:
    last = {"MIDOG 2021": 200, "MIDOG 2022": 405, "MIDOG++": 553}
    assert set(midog.EDITIONS) == set(last)
    for edition, ranges in midog.EDITIONS.items():
        numbers = [one for first, end, _, _ in ranges for one in range(first, end + 1)]
        assert numbers == list(range(1, last[edition] + 1))


def test_cases_without_cells_and_cells_outside_or_twice_are_counted(tmp_path: Path) -> None:
    cells = {
        1: [(50, 40, 1), (50, 40.5, 1), (80, 60, 2), (80, 60, 1), (WIDTH + 1, 5, 2), (90, 90, 2)],
        151: [],
        152: [],
    }
    content = _content("2021", cells)
    content["categories"].append({"id": 3, "name": "granulocyte"})
    content["annotations"].append({"bbox": [1, 1, 9, 9], "category_id": 3, "image_id": 151, "id": 99})
    listing = midog.read(_write(tmp_path, content), ImportOptions())
    assert listing.table(tmp_path)["annotation"].tolist() == ["1", "6"]
    for note in (
        "2 images have no annotation and give no patch: 151.tiff, 152.tiff",
        "1 annotations lie outside of their image and are left out",
        "2 annotations contradict another one of the same place and are left out",
        "1 annotations repeat another one of the same place and are left out",
        "1 annotations of other classes are left out: granulocyte 1",
    ):
        assert note in listing.notes


def test_a_missing_image_stops_the_import_or_is_quarantined(tmp_path: Path) -> None:
    source = _write(tmp_path / "midog", _content("2021", BREAST))
    (source / "images" / "060.tiff").unlink()
    with pytest.raises(
        DataError,
        match=r"1 of the 3 annotated images of MIDOG.json cannot be used in .* \(060.tiff: file does not exist\)",
    ):
        _import(source, tmp_path / "ds", patch=32)
    dataset = _import(source, tmp_path / "ds", patch=32, max_corrupt=50.0)
    lost = dataset.manifest[dataset.manifest["status"] == "quarantined"]
    assert lost["patient"].tolist() == ["060"] and len(dataset.usable) == 4
    assert (
        "1 images cannot be used (060.tiff: file does not exist), with 2 annotations" in dataset.card.imported["notes"]
    )


def test_a_damaged_image_quarantines_each_of_its_patches(tmp_path: Path) -> None:
    source = _write(tmp_path / "midog", _content("2021", BREAST))
    path = source / "images" / "060.tiff"
    path.write_bytes(path.read_bytes()[: HEIGHT * WIDTH])  # the header is whole, the pixels are not
    dataset = _import(source, tmp_path / "ds", patch=32, max_corrupt=50.0)
    lost = dataset.manifest[dataset.manifest["status"] == "quarantined"]
    assert lost["annotation"].tolist() == ["4", "3"] and len(dataset.usable) == 4
    assert lost["reason"].str.contains("TIFF").all()


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    source = _write(tmp_path, _content("2021", BREAST))
    tifffile.imwrite(source / "images" / "001.tiff", _picture(1, (60, 80)), photometric="rgb")
    with pytest.raises(
        DataError, match=r"images/001.tiff has 60 x 80 pixels, but MIDOG.json says 120 x 160; the coordinates fit only"
    ):
        midog.read(source, ImportOptions())


@pytest.mark.parametrize("name", ["../secret.tiff", "/etc/secret.tiff", "images/../../secret.tiff", "..\\secret.tiff"])
def test_a_file_name_that_leaves_the_source_is_refused(tmp_path: Path, name: str) -> None:
    source = _write(tmp_path / "midog", _content("2021", {1: [(50, 40, 1), (60, 40, 2)]}))
    tifffile.imwrite(tmp_path / "secret.tiff", _picture(0), photometric="rgb")
    text = (source / "MIDOG.json").read_text(encoding="utf-8")
    (source / "MIDOG.json").write_text(text.replace('"001.tiff"', json.dumps(name)), encoding="utf-8")
    with pytest.raises(DataError, match="leaves the source folder"):
        midog.read(source, ImportOptions())


def test_a_pyramid_is_read_at_its_largest_level(tmp_path: Path) -> None:
    source = _write(tmp_path / "midog", _content("2021", {1: [(50, 40, 1), (80, 60, 2)]}))
    full = _picture(1)
    with tifffile.TiffWriter(source / "images" / "001.tiff") as file:
        file.write(full, photometric="rgb", tile=(64, 64), subifds=1)
        file.write(full[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=1)
    dataset = _import(source, tmp_path / "ds", patch=16)
    cache = build_pixels(dataset, ImageTransform(size=16), cache=tmp_path / "cache")
    assert np.array_equal(np.load(cache.images_path)[np.array([0])][0], full[32:48, 42:58])
    with pytest.raises(DataError, match=r"001.tiff: a pyramid of 2 levels"):
        _import(source, tmp_path / "whole", kind="images")


def test_the_json_outranks_a_table_and_plain_images_beside_it(tmp_path: Path) -> None:
    source = _write(tmp_path, _content("2021", BREAST), images=".")
    (source / "datasets_xvalidation.csv").write_text(
        "image,Tumor\n001.tiff,breast\n060.tiff,breast\n", encoding="utf-8"
    )
    assert recognize(source)[0] == "midog"
    assert importer("table").recognize(source) and importer("folder").recognize(source)


def test_a_folder_with_annotations_twice_is_refused_and_one_may_be_named(tmp_path: Path) -> None:
    source = _write(tmp_path, _content("2021", BREAST), images=".")
    (source / "other.json").write_text((source / "MIDOG.json").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(DataError, match=r"holds 2 files of MIDOG annotations \(MIDOG.json, other.json\), not one"):
        midog.read(source, ImportOptions())
    assert len(midog.read(source / "MIDOG.json", ImportOptions()).table(source)) == 6


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in _content("2021", BREAST).items() if key != name}


def _with_cell(**changes: Any) -> dict[str, Any]:
    content = _content("2021", BREAST)
    content["annotations"][0] |= changes
    return content


def _with_image(**changes: Any) -> dict[str, Any]:
    content = _content("2021", BREAST)
    content["images"][0] |= changes
    return content


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (_without("images"), "has no list `images`"),
        (_without("annotations"), "has no list `annotations`"),
        ([1, 2], "has no list `images`"),
        (_with_cell(image_id=7), "Annotation 1 of .* is of image 7, which is not among its images"),
        (_with_cell(image_id=[1]), "needs an image_id, a category_id and a bbox"),
        (_with_cell(category_id=9), "has the category 9; known are 1, 2"),
        (_with_cell(bbox=[100, 100, 50, 50]), r"has the bbox \[100, 100, 50, 50\]; it is x1, y1, x2, y2 .* not COCO's"),
        (_with_cell(bbox=[1, 2, 3]), r"has the bbox \[1, 2, 3\]"),
        (_with_cell(bbox=[1, 2, float("nan"), 9]), r"has the bbox \[1, 2, nan, 9\]"),
        (_with_image(id=60), "has the image id 60 twice"),
        (_with_image(file_name=5), "an image has an id and a file_name"),
        (_with_image(width="wide"), "says that 001.tiff is 120 x wide pixels"),
        (_with_image(mpp=-1), "gives 001.tiff -1 microns per pixel"),
        (
            _without("categories") | {"categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]},
            "has the categories dog, cat; a mitotic figure and a hard negative are needed",
        ),
    ],
)
def test_wrong_annotations_are_refused_with_their_place(tmp_path: Path, content: Any, text: str) -> None:
    _write(tmp_path, _content("2021", BREAST))
    (tmp_path / "MIDOG.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=text):
        midog.read(tmp_path / "MIDOG.json", ImportOptions())


def test_a_broken_json_is_refused_and_not_recognized(tmp_path: Path) -> None:
    (tmp_path / "MIDOG.json").write_text('{"images": [', encoding="utf-8")
    assert midog.recognize(tmp_path) is None
    with pytest.raises(DataError, match=r"MIDOG.json is no readable JSON \(Expecting value"):
        midog.read(tmp_path / "MIDOG.json", ImportOptions())
    (tmp_path / "MIDOG.json").write_text("[" * 200_000, encoding="utf-8")
    assert midog.recognize(tmp_path) is None


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"patch_um": 16.0, "patch": 32}, ConfigError, "--patch 32 and --patch-um 16 both size the patches"),
        ({"patch": 32, "stride": 16}, ConfigError, "--stride 16 has no use"),
        ({"patch_um": float("inf")}, ConfigError, "--patch-um inf is wrong; give a positive number of microns"),
        ({"patch_um": 1.0}, ConfigError, "--patch-um 1 makes patches of 4 pixels in 001.tiff"),
        ({"patch_um": 1e9}, ConfigError, "a patch has 8 to 8192 pixels"),
        ({"patch_um": 16.0, "kind": "images"}, ConfigError, r"--patch-um 16 needs annotations \(kinds midog, ccmct\)"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    source = _write(tmp_path / "midog", _content("2021", BREAST))
    with pytest.raises(error, match=text):
        _import(source, tmp_path / "ds", **options)
