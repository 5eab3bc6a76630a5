"""Tables: what each column becomes, and every mistake a table can have."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.import_sources import write_pictures
from wazuka.core.errors import DataError
from wazuka.data.importers import table
from wazuka.data.importers.listing import ImportOptions, Listing


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "images", ["a.png", "b.png", "c.png"])
    return tmp_path


def _read(source: Path, text: str, *, name: str = "labels.csv", options: ImportOptions | None = None) -> Listing:
    (source / name).write_text(text, encoding="utf-8")
    return table.read(source, options or ImportOptions())


def _refused(source: Path, text: str, *, options: ImportOptions | None = None) -> str:
    with pytest.raises(DataError) as error:
        _read(source, text, options=options)
    return str(error.value)


def test_columns_are_taken_by_common_names_and_the_rest_become_attributes(source: Path) -> None:
    listing = _read(
        source,
        "file,Diagnosis,patient_id,scanner,age\n"
        "images/a.png,benign,002,X,63\nimages/b.png,malignant,003,Y,\nimages/c.png,,003,Y,70\n",
    )
    rows = listing.table(source)
    assert rows["path"].tolist() == ["images/a.png", "images/b.png", "images/c.png"]
    assert rows["label"].fillna("-").tolist() == ["benign", "malignant", "-"]
    assert rows["patient"].tolist() == ["002", "003", "003"], "leading zeros are part of a patient's id"
    assert rows["domain"].tolist() == ["X", "Y", "Y"]
    assert rows["age"].fillna("-").tolist() == ["63", "-", "70"]
    assert listing.attribute_sources == {"age": "table"}
    assert listing.patient_source == "table"
    assert "column scanner is taken as the domain" in listing.notes


def test_named_columns_win_over_common_names(source: Path) -> None:
    options = ImportOptions(label="grade", domain="ward")
    listing = _read(source, "image,label,grade,ward\nimages/a.png,x,1,N\nimages/b.png,y,2,S\n", options=options)
    rows = listing.table(source)
    assert rows["label"].tolist() == ["1", "2"]
    assert rows["domain"].tolist() == ["N", "S"]
    assert rows["table_label"].tolist() == ["x", "y"], "a free column with a name of the manifest is renamed"


def test_two_columns_that_could_be_the_domain_are_both_left_and_said(source: Path) -> None:
    listing = _read(source, "image,site,hospital\nimages/a.png,1,2\n")
    assert listing.table(source)["domain"].isna().all()
    assert "columns site, hospital could each be the domain; none is used, name one with --domain" in listing.notes


def test_a_column_of_image_files_is_found_whatever_its_name(source: Path) -> None:
    listing = _read(source, "slide_scan,finding\nimages/a.png,x\nimages/b.png,y\n")
    assert listing.table(source)["path"].tolist() == ["images/a.png", "images/b.png"]


def test_file_names_and_stems_are_looked_up_where_only_one_file_fits(source: Path) -> None:
    listing = _read(source, "image,label\na.png,x\nb,y\nnothere,x\n")
    assert listing.table(source)["path"].tolist() == ["images/a.png", "images/b.png", "nothere"]
    assert "2 paths in column image are found by file name (a.png is images/a.png)" in listing.notes


def test_semicolons_tabs_parquet_and_a_byte_order_mark_are_read(source: Path) -> None:
    expected = ["images/a.png", "images/b.png"]
    listing = _read(source, "\ufeffimage;label\nimages/a.png;x\nimages/b.png;y\n")
    assert listing.table(source)["path"].tolist() == expected
    (source / "labels.csv").unlink()
    listing = _read(source, "image\tlabel\nimages/a.png\tx\nimages/b.png\ty\n", name="labels.tsv")
    assert listing.table(source)["label"].tolist() == ["x", "y"]
    (source / "labels.tsv").unlink()
    frame = pd.DataFrame({"image": expected, "label": [0, 1], "patient": [7.0, np.nan]})
    frame.to_parquet(source / "labels.parquet")
    rows = table.read(source, ImportOptions()).table(source)
    assert rows["label"].tolist() == ["0", "1"]
    assert rows["patient"].fillna("-").tolist() == ["7", "-"]


def test_missing_cells_are_missing_but_none_is_a_class(source: Path) -> None:
    rows = _read(source, "image,label\nimages/a.png,None\nimages/b.png,NA\nimages/c.png, \n").table(source)
    assert rows["label"].fillna("-").tolist() == ["None", "-", "-"]


def test_votes_are_recognized_and_kept_as_numbers(source: Path) -> None:
    listing = _read(source, "image,label,votes_x\nimages/a.png,x,3\nimages/b.png,y,1\n")
    assert listing.votes == {"x": "votes_x", "voters": 3}
    assert listing.table(source)["votes_x"].tolist() == [3, 1]


def test_a_table_lists_volumes_with_masks_and_slices_by_frame(source: Path) -> None:
    listing = _read(source, "image,mask,patient,frame\nv.nii.gz,s.nii.gz,p,2\nv.nii.gz,s.nii.gz,p,3\nw.nii.gz,,q,\n")
    rows = listing.table(source)
    assert rows["frame"].fillna(-1).tolist() == [2, 3, -1]
    assert rows["mask"].fillna("-").tolist() == ["s.nii.gz", "s.nii.gz", "-"]


def test_an_absolute_path_into_the_source_becomes_relative(source: Path) -> None:
    rows = _read(source, f"image\n{source}/images/a.png\n./images/b.png\nimages/../images/c.png\n").table(source)
    assert rows["path"].tolist() == ["images/a.png", "images/b.png", "images/c.png"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,label\n/etc/passwd,x\n", "Path /etc/passwd leaves the source folder"),
        ("image,label\n../a.png,x\n", "Path ../a.png leaves the source folder"),
        ("image,label\nimages/a.png,x\nimages/b.png,y\nimages/a.png,x\n", "Image images/a.png stands in rows 2, 4 of labels.csv"),
        ("image,id\nimages/a.png,7\nimages/b.png,7\n", "Id `7` stands in rows 2, 3 of labels.csv; ids must be unique"),
        ("image,id\nimages/a.png,7\nimages/b.png,\n", "Column `id` of labels.csv is empty in row 3"),
        ("image,label\nimages/a.png,x\n,y\n", "Column `image` of labels.csv is empty in 1 rows (first in row 3)"),
        ("image,label,Label\nimages/a.png,x,y\n", "several columns that could be the label"),
        ("image,label,label\nimages/a.png,x,y\n", "Table labels.csv has the column `label` twice; rename one"),
        ("image,frame\nimages/a.png,x\n", "Column `frame` of labels.csv holds `x` in row 2"),
        ("image,label\nimages/a.png,x,more,cells\n", "cannot be read"),
        ("image,label\n", "has no rows; it needs a header line and one row per image"),
        ("", "cannot be read"),
        ("what,ever\n1,2\n", "has no image column; name it with --image, one of what, ever"),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_is_refused_with_the_place(source: Path, text: str, expected: str) -> None:
    assert expected in _refused(source, text)


def test_a_column_that_is_not_there_is_named_with_the_nearest(source: Path) -> None:
    text = _refused(source, "image,diagnosis\nimages/a.png,x\n", options=ImportOptions(label="diagnosys"))
    assert (
        "Table labels.csv has no column `diagnosys` (--label). Did you mean `diagnosis`? Its columns: image, diagnosis."
        in text
    )


def test_a_table_that_is_not_there_is_named_with_the_nearest(source: Path) -> None:
    (source / "labels.csv").write_text("image\nimages/a.png\n")
    with pytest.raises(DataError, match=r"label.csv does not exist \(did you mean labels.csv\?\); give the path"):
        table.read(source, ImportOptions(table=source / "label.csv"))


def test_bytes_that_are_no_text_are_refused(source: Path) -> None:
    (source / "labels.csv").write_bytes(b"image,label\n\xff\xfe\x00,x\n")
    with pytest.raises(DataError, match=r"cannot be read .* give a UTF-8 CSV"):
        table.read(source, ImportOptions())


def test_a_parquet_file_that_is_none_is_refused(source: Path) -> None:
    (source / "labels.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"labels\.parquet cannot be read"):
        table.read(source, ImportOptions())


def test_two_tables_need_a_choice(source: Path) -> None:
    for name in ("one.csv", "two.csv"):
        (source / name).write_text("image\nimages/a.png\n")
    assert table.recognize(source) is None
    with pytest.raises(
        DataError, match=r"has 2 tables \(one.csv, two.csv\), not one; name the one you mean with --table"
    ):
        table.read(source, ImportOptions())


def test_only_a_table_that_names_images_is_recognized(source: Path) -> None:
    (source / "labels.csv").write_text("image,label\nimages/a.png,x\n")
    assert table.recognize(source) == "a table labels.csv of 1 rows with the columns image, label"
    (source / "labels.csv").write_text("image,label\nother.png,x\n")
    assert table.recognize(source) is None
    (source / "labels.csv").write_text("patient,age\n1,2\n")
    assert table.recognize(source) is None


def test_a_hundred_thousand_rows_are_listed_in_seconds(tmp_path: Path) -> None:
    count = 100_000
    numbers = np.arange(count).astype(str)
    frame = pd.DataFrame(
        {
            "image": np.char.add(np.char.add("v", numbers), ".nii.gz"),
            "label": np.where(np.arange(count) % 3 == 0, "a", "b"),
            "patient": np.arange(count) // 5,
            "age": 50,
        }
    )
    frame.to_parquet(tmp_path / "table.parquet")
    began = time.perf_counter()
    rows = table.read(tmp_path, ImportOptions(table=tmp_path / "table.parquet")).table(tmp_path)
    seconds = time.perf_counter() - began
    assert len(rows) == count
    assert seconds < 20, f"{seconds:.1f} s for 100,000 rows"
