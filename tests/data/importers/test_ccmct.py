"""CCMCT and other SlideRunner databases: both published schemas, agreed classes, slides, and what is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from wazuka.core.errors import DataError
from wazuka.data import annotated
from wazuka.data.annotated import class_of
from wazuka.data.importers import ccmct, recognize
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.pixels import build_pixels
from wazuka.data.transform import ImageTransform

UID = "`uid` INTEGER PRIMARY KEY AUTOINCREMENT UNIQUE"
OLD = f"""
CREATE TABLE `Annotations_label` ({UID}, `person` INTEGER, `class` INTEGER, `annoId` INTEGER);
CREATE TABLE `Annotations_coordinates` ({UID}, `coordinateX` INTEGER, `coordinateY` INTEGER, `slide` INTEGER,
    `annoId` INTEGER, `orderIdx` INTEGER);
CREATE TABLE `Annotations` ({UID}, `slide` INTEGER, `type` INTEGER, `agreedClass` INTEGER);
CREATE TABLE `Classes` ({UID}, `name` TEXT);
CREATE TABLE `Persons` ({UID}, `name` TEXT);
CREATE TABLE `Slides` ({UID}, `filename` TEXT, `width` INTEGER, `height` INTEGER, `directory` TEXT);
CREATE TABLE `Log` (`uid` INTEGER PRIMARY KEY AUTOINCREMENT, `dateTime` FLOAT, `labelId` INTEGER);
"""
"""Tables of the databases published with CCMCT."""
NEW = (
    OLD.replace(
        "`slide` INTEGER, `type` INTEGER, `agreedClass` INTEGER)",
        "`slide` INTEGER, `guid` TEXT, `lastModified` REAL DEFAULT 0, `deleted` INTEGER DEFAULT 0, `type` INTEGER,"
        " `agreedClass` INTEGER, `description` TEXT, `clickable` INTEGER DEFAULT 1)",
    )
    + """
CREATE TRIGGER updateAnnotation_UPDATE AFTER UPDATE ON Annotations
    BEGIN UPDATE Annotations SET lastModified=pycurrent_time() where uid==new.uid; END;
"""
)
"""Tables of newer databases (published with MIDOG): with `deleted`, and triggers on functions of SlideRunner."""
CLASSES = {1: "Granulocytes", 2: "mitotic figure", 3: "Tumorcells", 4: "ambiguous", 7: "Mitosislike"}
Cell = tuple[int, int, list[tuple[float, float]], int]
"""Slide, agreed class, points (x, y), deleted."""
CELLS: list[Cell] = [
    (1, 2, [(50, 40)], 0),
    (1, 7, [(80, 60)], 0),
    (2, 2, [(30, 20), (50, 60)], 0),  # a circle: center 40, 40
    (2, 7, [(70.5, 30)], 0),
    (2, 1, [(10, 10)], 0),
    (2, 3, [(10, 12)], 0),
    (2, 3, [(10, 14)], 0),
    (1, 0, [(10, 16)], 0),
    (1, 2, [(10, 18)], 1),
    (1, 2, [], 0),
]


def _database(path: Path, *, schema: str = NEW, cells: list[Cell] | None = None, names: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(schema)
        for uid, name in CLASSES.items():
            database.execute("INSERT INTO Classes (uid, name) VALUES (?, ?)", (uid, name))
        for name in names or ("a1.svs", "b2.svs", "c3.svs"):
            database.execute("INSERT INTO Slides (filename, directory) VALUES (?, 'D:\\slides')", (name,))
        for slide, agreed, points, deleted in CELLS if cells is None else cells:
            database.execute("INSERT INTO Annotations (slide, type, agreedClass) VALUES (?, 1, ?)", (slide, agreed))
            (uid,) = database.execute("SELECT MAX(uid) FROM Annotations").fetchone()
            if "`deleted`" in schema and deleted:
                database.execute("DROP TRIGGER IF EXISTS updateAnnotation_UPDATE")
                database.execute("UPDATE Annotations SET deleted = 1 WHERE uid = ?", (uid,))
            for order, (x, y) in enumerate(points, start=1):
                database.execute(
                    "INSERT INTO Annotations_coordinates (coordinateX, coordinateY, slide, annoId, orderIdx)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (x, y, slide, uid, order),
                )
        database.commit()
    return path


def _picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def _source(folder: Path, *, suffix: str = ".tiff", name: str = "MITOS_WSI_CCMCT_ODAEL", **database: Any) -> Path:
    """CCMCT's folders `databases` and `WSI`; slide a1 has 0.25 microns per pixel, b2 has 0.5."""
    _database(folder / "databases" / f"{name}.sqlite", **database)
    (folder / "WSI").mkdir(exist_ok=True)
    for seed, (stem, per_cm) in enumerate((("a1", 40_000), ("b2", 20_000), ("c3", 40_000))):
        path = folder / "WSI" / f"{stem}{suffix}"
        tifffile.imwrite(path, _picture(seed), photometric="rgb", resolution=(per_cm, per_cm), resolutionunit=3)
    return folder


@pytest.mark.parametrize("schema", [OLD, NEW], ids=["with CCMCT", "with MIDOG"])
def test_both_schemas_give_the_cells_of_the_two_classes_and_count_all_others(tmp_path: Path, schema: str) -> None:
    source = _source(tmp_path / "ccmct", schema=schema)
    assert recognize(source) == ("ccmct", "a SlideRunner database (MITOS_WSI_CCMCT_ODAEL.sqlite)")
    listing = ccmct.read(source, ImportOptions(patch=16))
    rows = listing.table(source)
    expected = ["1", "2", "3", "4"] if schema is NEW else ["1", "2", "9", "3", "4"]  # the old one knows no deletion
    assert rows["annotation"].tolist() == expected
    rows = rows.set_index("annotation")
    assert rows.loc[list("1234"), "label"].tolist() == ["mitotic figure", "hard negative"] * 2
    assert rows.loc["3", ["patch_y", "patch_x"]].tolist() == [32, 32]  # around 40, 40
    assert set(rows["domain"]) == {"canine cutaneous mast cell tumor"}
    deleted = "deleted 1, " if schema is NEW else ""
    count = 6 if schema is NEW else 5
    assert (
        f"{count} annotations are left out: Granulocytes 1, Tumorcells 2, {deleted}without an agreed class 1, without coordinates 1"
        in listing.notes
    )
    assert "1 images have no annotation and give no patch: c3.svs" in listing.notes


def test_patches_in_microns_from_end_to_end(tmp_path: Path) -> None:
    source = _source(tmp_path / "ccmct")
    dataset = import_dataset(source, tmp_path / "ds", options=ImportOptions(patch_um=8.0), workers=1)
    rows = dataset.usable
    assert rows.groupby("patient")["patch_px"].first().to_dict() == {"a1": 32, "b2": 16}
    assert {one["patient"]: round(one["spacing_mm"][0] * 1000, 4) for _, one in rows.iterrows()} == {
        "a1": 0.25,
        "b2": 0.5,
    }
    assert rows["parent"].unique().tolist() == ["WSI/a1", "WSI/b2"]
    transform = ImageTransform(size=16, spacing_mm=0.0005)  # half of a1's pixels: 32 become 16
    cache = build_pixels(dataset, transform, cache=tmp_path / "cache")
    pixels = np.load(cache.images_path)[np.arange(len(rows))]
    number = int(rows.index[rows["annotation"] == "4"][0])
    assert np.array_equal(pixels[number], _picture(1)[22:38, 62:78])  # cell of b2 at row 30, column 70
    assert pixels.shape == (4, 16, 16, 3)


def test_slides_in_the_scanners_format_give_the_same_patches(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="needs the extra wsi")
    hashes = []
    for suffix in (".tiff", ".svs"):
        source = _source(tmp_path / f"ccmct{suffix}")
        for seed, stem in enumerate(("a1", "b2", "c3")):
            (source / "WSI" / f"{stem}.tiff").unlink()
            described = "Aperio Image Library v1.0\n120x90 [0,0 120x90] (64x64)|AppMag = 40|MPP = 0.2500"
            tifffile.imwrite(
                source / "WSI" / f"{stem}{suffix}",
                _picture(seed),
                photometric="rgb",
                tile=(64, 64),
                description=described,
                metadata=None,
            )
        dataset = import_dataset(source, tmp_path / f"ds{suffix}", options=ImportOptions(patch=16), workers=1)
        build_pixels(dataset, ImageTransform(size=16), cache=tmp_path / "cache")  # compares with the import's hashes
        hashes.append(dataset.usable["sha256"].tolist())
    assert hashes[0] == hashes[1] and len(hashes[0]) == 4


def test_the_database_is_not_written_to(tmp_path: Path) -> None:
    source = _source(tmp_path / "ccmct")
    before = {one: one.read_bytes() for one in source.rglob("*") if one.is_file()}
    for one in source.rglob("*"):
        one.chmod(0o555 if one.is_dir() else 0o444)
    try:
        ccmct.read(source, ImportOptions())
        assert {one: one.read_bytes() for one in source.rglob("*") if one.is_file()} == before
    finally:
        for one in source.rglob("*"):
            one.chmod(0o755)


def test_a_more_frequent_mitotic_figure_is_said(tmp_path: Path) -> None:
    cells: list[Cell] = [(1, 2, [(50, 40)], 0), (1, 2, [(60, 40)], 0), (2, 7, [(50, 40)], 0)]
    listing = ccmct.read(_source(tmp_path, cells=cells), ImportOptions())
    assert any(
        note.startswith("the mitotic figure is the more frequent class here; --positive") for note in listing.notes
    )


def test_of_several_databases_the_completed_one_is_taken(tmp_path: Path) -> None:
    source = _source(tmp_path)
    _database(source / "databases" / "MITOS_WSI_CCMCT_MEL.sqlite")
    listing = ccmct.read(source, ImportOptions())
    assert any(note.endswith("MITOS_WSI_CCMCT_ODAEL.sqlite is taken") for note in listing.notes)
    (source / "databases" / "MITOS_WSI_CCMCT_ODAEL.sqlite").rename(source / "databases" / "other.sqlite")
    with pytest.raises(
        DataError, match=r"holds 2 SlideRunner databases .* \(MITOS_WSI_CCMCT_MEL.sqlite, other.sqlite\)"
    ):
        ccmct.read(source, ImportOptions())


def test_whole_slides_without_openslide_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _source(tmp_path / "ccmct", suffix=".svs")
    monkeypatch.setattr(annotated, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"Whole-slide images \(a1.svs\) need openslide; .* pip install 'wazuka\[wsi\]'"
    ):
        import_dataset(source, tmp_path / "ds", workers=1)


def test_missing_slides_are_refused(tmp_path: Path) -> None:
    source = _source(tmp_path)
    for name in ("a1", "b2"):
        (source / "WSI" / f"{name}.tiff").unlink()
    with pytest.raises(DataError, match=r"2 of the 2 annotated images of MITOS_WSI_CCMCT_ODAEL.sqlite cannot be used"):
        ccmct.read(source, ImportOptions())


@pytest.mark.parametrize("name", ["../a1.tiff", "/tmp/a1.tiff", "WSI/../../a1.tiff"])
def test_a_slide_that_leaves_the_source_is_refused(tmp_path: Path, name: str) -> None:
    source = _source(tmp_path, names=(name, "b2.svs"))
    with pytest.raises(DataError, match="leaves the source folder"):
        ccmct.read(source, ImportOptions())


def test_a_link_that_leaves_the_source_is_quarantined(tmp_path: Path) -> None:
    source = _source(tmp_path / "ccmct")
    (source / "WSI" / "b2.tiff").rename(tmp_path / "outside.tiff")
    (source / "WSI" / "b2.tiff").symlink_to(tmp_path / "outside.tiff")
    dataset = import_dataset(source, tmp_path / "ds", options=ImportOptions(max_corrupt=60.0, patch=16), workers=1)
    lost = dataset.manifest[dataset.manifest["status"] == "quarantined"]
    assert set(lost["patient"]) == {"b2"} and set(lost["reason"]) == {"a link that leaves the source folder"}


def _broken(path: Path, statement: str) -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.executescript(statement)
        database.commit()
    return path


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (
            "DROP TABLE Annotations_coordinates",
            "has no table `Annotations_coordinates`; a SlideRunner database has Slides",
        ),
        ("ALTER TABLE Slides RENAME COLUMN filename TO file", "Table `Slides` of .* has no column `filename`"),
        (
            "UPDATE Classes SET name = 'cell ' || uid",
            "has the classes cell 1, .* mitotic figures and their look-alikes",
        ),
        ("DELETE FROM Slides WHERE uid = 1", "is of slide 1, which the table `Slides` does not have"),
        ("UPDATE Slides SET filename = NULL WHERE uid = 2", "Slide 2 of .* has no file name"),
        ("UPDATE Annotations_coordinates SET coordinateX = 'left'", r"has the coordinates \['left'"),
        ("DELETE FROM Annotations", "has no annotation of a mitotic figure or a hard negative"),
    ],
)
def test_wrong_databases_are_refused_with_their_place(tmp_path: Path, statement: str, text: str) -> None:
    path = _broken(_database(tmp_path / "x.sqlite", schema=OLD), statement)
    with pytest.raises(DataError, match=text):
        ccmct.read(path, ImportOptions())


@given(junk=st.binary(max_size=200), header=st.booleans())
def test_what_is_no_database_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, header: bool
) -> None:
    path = tmp_path_factory.mktemp("junk") / "x.sqlite"
    path.write_bytes((b"SQLite format 3\x00" if header else b"") + junk)
    assert ccmct.recognize(path) is None
    with pytest.raises(DataError, match=r"no readable SQLite database|has no table `Slides`"):
        ccmct.read(path, ImportOptions())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, "mitotic figure") for name in ("mitotic figure", "Mitotic figures", "Mitosis", "mitotic_figure")),
        *((name, "hard negative") for name in ("not mitotic figure", "non-mitotic", "Mitosislike", "mitosis-like")),
        *(
            (name, "hard negative")
            for name in ("hard negative", "Hard Negatives", "mitotic figure look-alike", "imposter")
        ),
        *((name, None) for name in ("Granulocytes", "Tumorcells", "ambiguous", "", "normal", "notochord")),
    ],
)
def test_the_names_of_classes_in_use_are_understood(name: str, expected: str | None) -> None:
    assert class_of(name) == expected
