"""The import from end to end on tiny sources: what is written, what is refused, what stays untouched."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests import dicom_files
from tests.import_sources import class_folders, picture, snapshot, truncate, write_pictures, write_png
from wazuka.core.errors import ConfigError, DataError, OutOfSpace, WazukaError
from wazuka.core.hashing import hash_pixels
from wazuka.data import importing, inspect, manifest, patches
from wazuka.data.importers import KINDS, importer, recognize
from wazuka.data.importers.listing import ImportOptions, Item, Listing, parse_mask_classes
from wazuka.data.importing import import_dataset


def _volume(path: Path, values: np.ndarray, *, spacing: tuple[float, float, float] = (1, 1, 2)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([*spacing, 1.0])), path)
    return path


def _refused(source: Path, out: Path, *, options: ImportOptions | None = None) -> str:
    """The error's text; nothing may have been written."""
    before = sorted(one for one in out.parent.rglob("*") if source not in one.parents)
    with pytest.raises(WazukaError) as error:
        import_dataset(source, out, options=options, workers=1)
    assert sorted(one for one in out.parent.rglob("*") if source not in one.parents) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_class_folders_become_a_dataset_and_the_source_stays_as_it_was(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", benign=5, malignant=3)
    before = snapshot(source)
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert snapshot(source) == before
    assert sorted(one.name for one in made.folder.iterdir()) == [
        "dataset.yaml",
        "inspection.parquet",
        "manifest.parquet",
    ]
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    loaded = manifest.load(tmp_path / "out")
    card, rows = loaded.card, loaded.manifest
    assert (card.task, card.classes, card.positive) == ("classification", ("benign", "malignant"), "malignant")
    assert (card.intensity, card.patient_source, card.root) == ("rgb8", "image", str(source))
    assert card.imported["recognized"] == "8 images in a folder per class (benign, malignant)"
    assert card.imported["counts"]["images"] == 8
    assert "positive class: malignant (the rarer one, 3 of 8; --positive changes it)" in card.imported["notes"]
    first = rows.iloc[0]
    assert (first["id"], first["path"], first["label"]) == ("benign/00", "benign/00.png", "benign")
    assert first["patient"] == "benign/00"
    assert (first["height"], first["width"]) == (16, 16)
    assert first["sha256"] == hash_pixels(picture(0))
    assert loaded.inspection["id"].tolist() == rows["id"].tolist()
    assert loaded.inspection.columns.tolist() == list(inspect.COLUMNS)
    assert made.card.fingerprint == card.fingerprint


def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", a=6, b=6)
    for workers in (1, 2):
        import_dataset(source, tmp_path / f"out{workers}", workers=workers)
    for name in ("manifest.parquet", "inspection.parquet", "dataset.yaml"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()


def test_a_corrupt_file_is_quarantined_with_its_reason_and_counted(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", a=15, b=15)
    truncate(source / "a" / "03.png")
    made = import_dataset(source, tmp_path / "out", workers=1)
    bad = made.manifest[made.manifest["status"] == "quarantined"]
    assert bad["id"].tolist() == ["a/03"]
    assert bad["reason"].iloc[0] == made.inspection.set_index("id").loc["a/03", "decode_error"]
    assert made.card.imported["counts"]["quarantined"] == 1
    assert len(made.usable) == 29


def test_too_many_corrupt_files_stop_the_import_with_the_first_reasons(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", a=10, b=10)
    for number in range(4):
        truncate(source / "a" / f"0{number}.png")
    text = _refused(source, tmp_path / "out")
    assert "4 of 20 images cannot be used (20.0 %, more than the 5 % of --max-corrupt): a/00.png: " in text
    assert text.endswith("; and 1 more; mend or remove them, or raise --max-corrupt.")
    made = import_dataset(source, tmp_path / "out", options=ImportOptions(max_corrupt=20, simulated=True), workers=1)
    assert made.card.imported["options"] == {"max_corrupt": 20, "simulated": True}
    assert made.card.simulated


def test_missing_files_of_a_table_are_named_with_the_nearest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_pictures(source / "images", ["one.png", "two.png"])
    (source / "labels.csv").write_text("image,label\nimages/one.png,a\nimages/twoo.png,b\n")
    text = _refused(source, tmp_path / "out")
    assert "images/twoo.png: file does not exist (did you mean images/two.png?)" in text


def test_a_table_of_patients_domains_and_votes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_pictures(source / "images", ["1.png", "2.png", "3.png"])
    (source / "labels.csv").write_text(
        "image,label,patient,scanner,votes_a,maker\n"
        "images/1.png,a,002,X,3,m\nimages/2.png,b,002,X,0,\nimages/3.png,b,003,Y,1,n\n"
    )
    made = import_dataset(source, tmp_path / "out", workers=1)
    rows = made.manifest
    assert rows["patient"].tolist() == ["002", "002", "003"]
    assert rows["domain"].tolist() == ["X", "X", "Y"]
    assert rows["votes_a"].tolist() == [3, 0, 1]
    assert made.card.patient_source == "table"
    assert made.card.attributes["maker"] == "table"
    assert made.card.imported["votes"] == {"a": "votes_a", "voters": 3}
    assert made.card.imported["kind"] == "table"


def test_a_table_elsewhere_is_read_relative_to_the_source(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", x=2, y=2)
    (tmp_path / "mine.csv").write_text("image,label,age\nx/00.png,p,1\ny/01.png,q,2\n")
    made = import_dataset(source, tmp_path / "out", options=ImportOptions(table=tmp_path / "mine.csv"), workers=1)
    assert made.manifest["label"].tolist() == ["p", "q"]
    assert made.manifest["age"].tolist() == ["1", "2"]


def test_masks_beside_images_become_a_segmentation_set_with_orphans_counted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_pictures(source / "images", [f"{number}.png" for number in range(4)])
    for name in ("0", "1", "2", "lost"):
        mask = np.zeros((16, 16), np.uint8)
        mask[2:5, 2:5] = 255
        write_png(source / "masks" / f"{name}.png", mask)
    made = import_dataset(source, tmp_path / "out", options=ImportOptions(mask_classes={1: "nucleus"}), workers=1)
    assert made.card.task == "segmentation"
    assert (made.card.structures, made.card.mask_values) == ({1: "nucleus"}, {255: 1})
    assert made.card.imported["orphan_masks"] == ["masks/lost.png"]
    assert made.card.imported["counts"]["orphan_masks"] == 1
    assert made.card.imported["counts"]["without_mask"] == 1
    assert made.manifest["mask"].fillna("-").tolist() == ["masks/0.png", "masks/1.png", "masks/2.png", "-"]
    assert made.inspection["mask_values"].iloc[0].tolist() == [0, 255]


def test_volumes_become_slices_that_know_their_case_and_spacing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    values = np.random.default_rng(0).integers(0, 500, (6, 5, 3)).astype(np.float32)
    labels = (values > 250).astype(np.uint8)
    for name in ("case_a", "case_b"):
        _volume(source / "images" / f"{name}.nii.gz", values)
    _volume(source / "labels" / "case_a.nii.gz", labels)
    _volume(source / "labels" / "lost.nii.gz", labels)
    made = import_dataset(source, tmp_path / "out", workers=1)
    rows = made.manifest
    assert rows["id"].tolist() == [f"images/case_{name}#000{frame}" for name in "ab" for frame in range(3)]
    assert rows["frame"].tolist() == rows["slice"].tolist() == [0, 1, 2, 0, 1, 2]
    assert rows["volume"].tolist() == rows["patient"].tolist() == ["case_a"] * 3 + ["case_b"] * 3
    assert made.card.patient_source == "volume"
    assert list(rows["spacing_mm"].iloc[0]) == [1, 1, 2]
    assert rows["mask"].notna().tolist() == [True] * 3 + [False] * 3
    assert made.card.imported["orphan_masks"] == ["labels/lost.nii.gz"]
    assert made.card.task == "segmentation"


def test_a_table_may_list_volumes_with_masks_and_patients(tmp_path: Path) -> None:
    source = tmp_path / "source"
    values = np.random.default_rng(0).integers(-900, 500, (6, 5, 3)).astype(np.int16)
    _volume(source / "one.nii.gz", values)
    _volume(source / "one_organs.nii.gz", (values > 0).astype(np.uint8) * 4)
    _volume(source / "two.nii.gz", values[:, :, :2])
    (source / "table.csv").write_text("image,mask,patient\none.nii.gz,one_organs.nii.gz,p1\ntwo.nii.gz,,p1\n")
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert len(made.manifest) == 5
    assert set(made.manifest["patient"]) == {"p1"}
    assert (made.card.structures, made.card.mask_values) == ({1: "structure_1"}, {4: 1})


def test_a_mask_volume_with_other_slices_than_its_image_is_quarantined(tmp_path: Path) -> None:
    source = tmp_path / "source"
    values = np.random.default_rng(0).integers(0, 500, (6, 5, 3)).astype(np.float32)
    _volume(source / "images" / "a.nii.gz", values)
    _volume(source / "labels" / "a.nii.gz", (values[:, :, :2] > 9).astype(np.uint8))
    text = _refused(source, tmp_path / "out")
    assert "images/a.nii.gz: mask: a.nii.gz has 2 slices but the image 3" in text


def _dicom_source(folder: Path, *, patient: str | None) -> Path:
    rng = np.random.default_rng(0)
    for number in range(3):
        dicom_files.write(
            folder / f"{number}.dcm",
            rng.integers(0, 900, (8, 8)).astype(np.int16),
            tags={
                "PatientID": patient,
                "PatientName": "DOE^JOHN",
                "InstanceNumber": number + 1,
                "ImagePositionPatient": [0, 0, -2.0 * number],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
                "PixelSpacing": [0.5, 0.5],
                "RescaleSlope": 1,
                "RescaleIntercept": -1000,
            },
        )
    return folder


def test_dicom_patients_become_pseudonyms_and_no_identifier_is_written(tmp_path: Path) -> None:
    source = _dicom_source(tmp_path / "source", patient="SECRET-77")
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert made.card.patient_source == "dicom"
    assert made.manifest["patient"].str.fullmatch("p-[0-9a-f]{16}").all()
    assert made.manifest["patient"].nunique() == 1
    assert len(made.card.imported["salt"]) == 16
    text = (made.folder / "dataset.yaml").read_text() + made.manifest.to_csv() + made.inspection.to_csv()
    assert "SECRET" not in text
    assert "DOE" not in text
    assert dicom_files.ROOT not in text
    again = import_dataset(source, tmp_path / "again", workers=1)
    assert again.manifest["patient"].tolist() == made.manifest["patient"].tolist()
    (tmp_path / "salt").write_text("another hospital's salt")
    other = import_dataset(source, tmp_path / "other", options=ImportOptions(salt_file=tmp_path / "salt"), workers=1)
    assert set(other.manifest["patient"]).isdisjoint(made.manifest["patient"])
    assert "another" not in (other.folder / "dataset.yaml").read_text()
    assert other.card.imported["options"] == {"salt_file": "given"}


def test_dicom_slices_are_placed_by_position_and_keep_their_distance(tmp_path: Path) -> None:
    made = import_dataset(_dicom_source(tmp_path / "source", patient="1"), tmp_path / "out", workers=1)
    assert made.manifest["path"].tolist() == ["0.dcm", "1.dcm", "2.dcm"]
    assert made.manifest["slice"].tolist() == [2, 1, 0], "positions run against the file names"
    assert made.manifest["volume"].nunique() == 1
    assert list(made.manifest["spacing_mm"].iloc[0]) == [0.5, 0.5, 2.0]
    assert "slice_spacing_mm" not in made.manifest


def test_without_a_patient_id_the_study_stands_in(tmp_path: Path) -> None:
    made = import_dataset(_dicom_source(tmp_path / "source", patient=None), tmp_path / "out", workers=1)
    assert made.card.patient_source == "study"
    assert made.manifest["patient"].str.fullmatch("p-[0-9a-f]{16}").all()


def test_patients_are_read_from_file_names_where_a_pattern_holds(tmp_path: Path) -> None:
    names = [f"{name}/patient{number:03d}_{view}.png" for name in "ab" for number in range(3) for view in "xy"]
    write_pictures(tmp_path / "source", names)
    made = import_dataset(tmp_path / "source", tmp_path / "out", workers=1)
    assert made.card.patient_source == "file name"
    assert sorted(made.manifest["patient"].unique()) == ["patient000", "patient001", "patient002"]
    assert any("read from the file name" in note for note in made.card.imported["notes"])


def test_medmnist_frames_are_rows_of_one_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 9, 9), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    np.savez(tmp_path / "some.npz", **arrays)
    made = import_dataset(tmp_path / "some.npz", tmp_path / "out", workers=1)
    assert made.manifest["id"].tolist() == [f"some#000{number}" for number in range(8)]
    assert made.manifest["patient"].tolist() == made.manifest["id"].tolist()
    assert "volume" not in made.manifest
    pixels = np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")])
    assert made.manifest["sha256"].tolist() == [hash_pixels(one) for one in pixels]
    assert made.card.intensity == "gray8"


def test_large_images_are_cut_into_patches_that_keep_patient_and_parent(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number, name in enumerate(("a/1.png", "b/2.png")):
        image = picture(number, side=40)
        image[:, :16] = 245
        write_png(source / name, image)
    write_png(source / "b" / "glass.png", np.full((40, 40, 3), 245, np.uint8))
    options = ImportOptions(patch=16, stride=12, max_corrupt=0)
    made = import_dataset(source, tmp_path / "out", options=options, workers=1)
    rows = made.usable
    assert rows["parent"].unique().tolist() == ["a/1", "b/2"]
    assert rows["patient"].tolist() == rows["parent"].tolist()
    assert rows["id"].iloc[0] == "a/1@00000-00012"
    for row in rows.to_dict("records"):
        whole = picture({"a/1": 0, "b/2": 1}[row["parent"]], side=40)
        whole[:, :16] = 245
        assert row["sha256"] == hash_pixels(patches.cut(whole, row))
    blank = made.manifest[made.manifest["status"] == "quarantined"]
    assert blank["id"].tolist() == ["b/glass"]
    assert blank["reason"].tolist() == ["all 9 patches are blank"]
    assert made.card.imported["counts"]["blank_patches"] == 2 * 3 + 9


def test_files_that_differ_in_suffix_only_keep_it_in_their_ids(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", ["a/1.png", "a/1.bmp", "b/2.png"])
    made = import_dataset(tmp_path / "source", tmp_path / "out", workers=1)
    assert made.manifest["id"].tolist() == ["a/1.bmp", "a/1.png", "b/2"]


def test_gray_and_color_may_be_mixed_and_it_is_noted(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", ["1.png", "2.png"])
    write_png(tmp_path / "source" / "3.png", picture(3, color=False))
    made = import_dataset(tmp_path / "source", tmp_path / "out", workers=1)
    assert made.card.intensity == "rgb8"
    assert "the images are mixed (2 rgb8, 1 gray8); the dataset is rgb8" in made.card.imported["notes"]
    assert made.card.task == "unlabeled"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ImportOptions(kind="foldr"), "Unknown kind `foldr` in --kind. Did you mean `folder`? Known: `auto`, `table`"),
        (ImportOptions(kind="nifti"), "holds no NIfTI volume"),
        (ImportOptions(label="x"), "--label names a column, but this source has the kind `folder`; give its table with --table"),
        (ImportOptions(table=Path("none.csv")), "Table none.csv does not exist"),
        (ImportOptions(kind="folder", table=Path("none.csv")), "--table makes the kind `table`, but --kind is `folder`"),
        (ImportOptions(positive="malignent"), "Unknown class `malignent` in --positive. Did you mean `malignant`?"),
        (ImportOptions(max_corrupt=101), "--max-corrupt 101 is wrong; give a percentage from 0 to 100"),
        (ImportOptions(stride=3), "--stride 3 has no --patch"),
        (ImportOptions(patch=64), "8 of 8 images cannot be used (100.0 %, more than the 5 % of --max-corrupt): benign/00.png: 16 x 16 pixels, smaller"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: ImportOptions, expected: str) -> None:
    source = class_folders(tmp_path / "source", benign=4, malignant=4)
    assert expected in _refused(source, tmp_path / "out", options=options)


def test_a_positive_class_needs_two_classes(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", a=2, b=2, c=2)
    text = _refused(source, tmp_path / "out", options=ImportOptions(positive="a"))
    assert "--positive a needs two classes, but there are 3" in text
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert made.card.positive is None


def test_a_label_column_of_one_class_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_pictures(source, ["1.png", "2.png"])
    (source / "labels.csv").write_text("image,grade\n1.png,a\n2.png,a\n")
    text = _refused(source, tmp_path / "out", options=ImportOptions(label="grade"))
    assert (
        "The label column `grade` holds one class only (`a`, 2 images); give a column with two classes or more" in text
    )


def test_sources_that_are_missing_empty_or_of_no_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    assert f"SOURCE {tmp_path}/sourc does not exist" in _refused(tmp_path / "sourc", tmp_path / "out")
    assert f"Did you mean {tmp_path}/source?" in _refused(tmp_path / "sourc", tmp_path / "out")
    assert f"SOURCE {tmp_path}/source is an empty folder" in _refused(tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "a.txt").write_text("x")
    text = _refused(tmp_path / "source", tmp_path / "out")
    assert "is of no known kind (1 .txt); give --kind, one of table, medmnist" in text


def test_a_source_of_several_kinds_needs_a_choice(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source", ["1.png"])
    _volume(tmp_path / "source" / "v.nii.gz", np.ones((4, 4, 2), np.float32))
    text = _refused(tmp_path / "source", tmp_path / "out")
    assert (
        "could be of several kinds (nifti: 1 NIfTI volume; folder: 1 image without labels); choose one with --kind"
        in text
    )


def test_the_output_may_not_lie_in_the_source_nor_over_anything(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", a=2, b=2)
    assert "lies inside the source" in _refused(source, source / "out")
    assert "lies inside the source" in _refused(source, source)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("keep me")
    assert "exists and is not an empty folder" in _refused(source, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    made = import_dataset(source, tmp_path / "empty", workers=1)
    assert "already holds a dataset; choose another --out" in _refused(source, tmp_path / "empty")
    assert "is a dataset already" in _refused(made.folder, tmp_path / "other")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = class_folders(tmp_path / "source", a=2, b=2)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutOfSpace, match=r"No space left to write .*; free some room"):
        import_dataset(source, tmp_path / "out", workers=1)
    assert [one.name for one in tmp_path.iterdir()] == ["source"]


def test_whole_slide_images_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    write_pictures(source, ["a/1.png"])
    (source / "a" / "2.svs").write_bytes(b"II*\0")
    monkeypatch.setattr(importing, "find_spec", lambda name: None)
    text = _refused(source, tmp_path / "out")
    assert "1 whole-slide images (a/2.svs) need openslide; install the extra: pip install 'wazuka[wsi]'" in text


def test_every_kind_has_its_file_and_says_its_name(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png"])
    files = {one.stem for one in Path(importing.__file__).with_name("importers").glob("*.py")} - {"__init__", "listing"}
    assert {module.rsplit(".", 1)[1] for module in KINDS.values()} == files
    for kind in KINDS:
        module = importer(kind)
        assert kind == module.KIND
        assert (module.recognize(tmp_path) is not None) == (kind == "folder")
    assert recognize(tmp_path / "1.png") == ("folder", "one image")


def test_items_become_rows_with_relative_paths(tmp_path: Path) -> None:
    items = [
        Item(path=tmp_path / "a.png", label="x", attributes={"age": "5"}),
        Item(path="b/c.png", patient="P", patient_raw=True, frame=2, volume="v"),
    ]
    rows = Listing(items=items).table(tmp_path)
    assert rows["path"].tolist() == ["a.png", "b/c.png"]
    assert rows["frame"].fillna(-1).tolist() == [-1, 2]
    assert rows["patient_raw"].tolist() == [False, True]
    assert rows["age"].fillna("-").tolist() == ["5", "-"]
    with pytest.raises(DataError, match=r"Path /elsewhere/a\.png leaves the source folder"):
        Listing(items=[Item(path=Path("/elsewhere/a.png"))]).table(tmp_path)


def test_mask_classes_are_parsed_and_mistakes_named() -> None:
    assert parse_mask_classes("1=liver, 2=left kidney") == {1: "liver", 2: "left kidney"}
    for text, expected in (
        ("1", "part `1` is wrong; write VALUE=NAME"),
        ("x=a", "part `x=a` is wrong"),
        ("0=background", "a value above 0"),
        ("1=a,1=b", "has `1=b` twice"),
    ):
        with pytest.raises(ConfigError) as error:
            parse_mask_classes(text)
        assert expected in str(error.value)


@pytest.mark.shared
def test_a_part_of_the_mitosis_set_keeps_patients_scanners_and_votes(shared_data: Path, tmp_path: Path) -> None:
    import shutil

    import pandas as pd

    source = tmp_path / "mitosis"
    (source / "images").mkdir(parents=True)
    table = pd.read_csv(shared_data / "mitosis" / "labels.csv", dtype=str).iloc[::40]
    for name in table["image"]:
        shutil.copy(shared_data / "mitosis" / name, source / name)
    table.to_csv(source / "labels.csv", index=False)
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert made.card.imported["kind"] == "table"
    assert (made.card.classes, made.card.positive) == (("atypical", "normal"), "atypical")
    rows = made.manifest.set_index("path").loc[table["image"]]
    assert rows["patient"].tolist() == table["patient"].tolist()
    assert rows["domain"].tolist() == table["scanner"].tolist()
    assert made.card.imported["votes"] == {"atypical": "votes_atypical", "voters": 3}
    assert (made.inspection["text_score"] == 0).all()


@pytest.mark.shared
def test_blood_cells_are_recognized_as_a_table_with_masks(shared_data: Path, tmp_path: Path) -> None:
    import shutil

    source = tmp_path / "blood-cells"
    lines = (shared_data / "blood-cells" / "cells.csv").read_text().splitlines()[:13]
    for name in [cell for line in lines[1:] for cell in line.split(",")[:2]]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared_data / "blood-cells" / name, source / name)
    (source / "cells.csv").write_text("\n".join(lines) + "\n")
    made = import_dataset(source, tmp_path / "out", options=ImportOptions(label="cell_type"), workers=1)
    assert made.card.task == "classification"
    assert made.card.structures == {1: "structure_1", 2: "structure_2"}
    assert made.manifest["mask"].notna().all()
    assert made.card.patient_source == "image"


@pytest.mark.shared
def test_breastmnist_keeps_its_parts(shared_data: Path, tmp_path: Path) -> None:
    made = import_dataset(shared_data / "breastmnist", tmp_path / "out", workers=1)
    assert made.manifest["split"].value_counts().to_dict() == {"train": 546, "test": 156, "val": 78}
    assert made.card.positive == "malignant"
    assert made.card.intensity == "gray8"


@pytest.mark.shared
def test_orphans_of_the_hippocampus_set_are_reported(shared_data: Path, tmp_path: Path) -> None:
    import shutil

    source = tmp_path / "hippocampus"
    for part in ("images", "labels"):
        (source / part).mkdir(parents=True)
        for number in ("001", "010", "118", "281"):
            path = shared_data / "hippocampus" / part / f"hippocampus_{number}.nii.gz"
            if path.exists():
                shutil.copy(path, source / part)
    made = import_dataset(source, tmp_path / "out", workers=1)
    assert made.card.imported["orphan_masks"] == ["labels/hippocampus_010.nii.gz", "labels/hippocampus_281.nii.gz"]
    unlabeled = made.manifest[made.manifest["mask"].isna()]
    assert set(unlabeled["volume"]) == {"hippocampus_118"}
    assert set(made.manifest["volume"]) == {"hippocampus_001", "hippocampus_118"}


@pytest.mark.shared
def test_the_liver_of_the_abdomen_has_the_density_of_a_liver(shared_data: Path, tmp_path: Path) -> None:
    from wazuka.data.decode import decode, decode_masks

    made = import_dataset(shared_data / "abdomen-ct", tmp_path / "out", workers=1)
    assert len(made.usable) == 78
    assert (made.card.intensity, made.card.patient_source) == ("hounsfield", "study")
    shown = made.inspection["mask_values"].map(len) > 1
    assert shown.sum() == 71
    values = []
    for row in made.manifest[shown].iloc[::5].itertuples():
        mask = decode_masks(made.path_of(row.mask), [None])[0]
        values.append(decode(made.path_of(row.path), [None])[0][mask > 0])
    assert 100 < np.concatenate(values).mean() < 180
    assert json.dumps(made.card.imported)


@pytest.mark.shared
def test_a_three_line_table_brings_both_volumes_of_the_multi_organ_ct(shared_data: Path, tmp_path: Path) -> None:
    options = ImportOptions(table=tmp_path / "table.csv")
    (tmp_path / "table.csv").write_text(
        "image,mask,patient\nexample_ct_sm.nii.gz,example_seg.nii.gz,p1\nexample_ct.nii.gz,,p1\n"
    )
    made = import_dataset(shared_data / "multi-organ-ct", tmp_path / "out", options=options, workers=1)
    assert made.manifest["volume"].value_counts().to_dict() == {"example_ct": 112, "example_ct_sm": 30}
    assert len(made.card.structures) == 41
    assert made.card.intensity == "hounsfield"
    assert list(made.manifest["spacing_mm"].iloc[0]) == [3, 3, 3]
