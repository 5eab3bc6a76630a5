"""Attributes from tags, sidecars, file names and statistics; oracles: literal names of known sets, closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from wazuka.data import attributes
from wazuka.data.formats import sidecar, tags


@given(years=st.integers(0, 130))
def test_ages_become_decades_and_from_90_one_group(years: int) -> None:
    group = tags.age_group(f"{years:03d}Y")
    assert group == tags.age_group(str(years))
    if years >= 90:
        assert group == "90+"
    else:
        assert group is not None
        low, high = (int(one) for one in group.split("-"))
        assert low <= years <= high == low + 9


@pytest.mark.parametrize(
    ("text", "group"),
    [("018M", "0-9"), ("130M", "10-19"), ("006W", "0-9"), ("364D", "0-9"), ("", None), ("old", None), ("200Y", None)],
)
def test_ages_in_other_units(text: str, group: str | None) -> None:
    assert tags.age_group(text) == group


def dataset(**values: object) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_only_allow_listed_tags_are_read() -> None:
    made = dataset(
        PatientName="Doe^Jane",
        PatientID="7",
        StudyDate="20200101",
        PatientSex="M",
        KVP="120",
        StationName="CT1",
        Manufacturer=" GE  MEDICAL ",
    )
    values, sources = tags.read_attributes(made)
    assert values == {"sex": "M", "maker": "GE MEDICAL"}
    assert sources == {"sex": "DICOM tag PatientSex", "maker": "DICOM tag Manufacturer"}


def test_contrast_is_yes_or_no_and_never_the_text() -> None:
    assert tags.read_attributes(dataset(ContrastBolusAgent="Ultravist for Mr. X"))[0] == {"contrast": "yes"}
    assert tags.read_attributes(dataset(ContrastBolusAgent="NONE"))[0] == {"contrast": "no"}
    assert tags.read_attributes(dataset(ContrastBolusAgent=""))[0] == {}


def test_identifying_tags_are_named_without_their_values() -> None:
    made = dataset(
        PatientName="Doe^Jane",
        PatientID="",
        AccessionNumber="123",
        InstitutionName="Clinic",
        StudyDate="20200101",
        PatientSex="F",
    )
    block = made.private_block(0x0011, "Maker", create=True)
    block.add_new(0x01, "PN", "Someone^Else")
    found = tags.identifying(made)
    assert set(found) >= {"PatientName", "AccessionNumber", "InstitutionName", "StudyDate"}
    assert "PatientID" not in found
    assert "PatientSex" not in found
    assert sum(one.startswith("private") for one in found) == 1
    assert not any("Doe" in one or "Someone" in one or "123" in one for one in found)


def test_a_sidecar_of_another_shape_is_no_sidecar(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2]")
    assert sidecar.attributes(tmp_path / "a.nii.gz") == ({}, {})
    (tmp_path / "b.json").write_text("{broken")
    assert sidecar.attributes(tmp_path / "b.png") == ({}, {})
    (tmp_path / "c.json").write_text(json.dumps({"Sex": ["female"], "Age": 61.5, "ManufacturersModelName": "Prisma"}))
    assert sidecar.attributes(tmp_path / "c.nii.gz")[0] == {"sex": "F", "age_group": "60-69", "scanner": "Prisma"}


CAMUS = [
    f"patient{n:04d}/patient{n:04d}_{view}_{phase}.nii.gz"
    for n in range(1, 6)
    for view in ("2CH", "4CH")
    for phase in ("ED", "ES")
]
MAMMO = [f"P_{n:05d}_{side}_{view}.png" for n in range(5) for side in "LR" for view in ("CC", "MLO")]


def test_echo_names_give_patient_view_and_phase() -> None:
    rows = pd.DataFrame({"path": CAMUS}, index=range(100, 100 + len(CAMUS)))
    columns, sources = attributes.infer(rows)
    assert columns.loc[100].to_dict() == {"view": "2CH", "phase": "ED"}
    assert columns.loc[103].to_dict() == {"view": "4CH", "phase": "ES"}
    assert sources == {"view": "file name", "phase": "file name"}
    patients, name = attributes.infer_patients(rows["path"]) or (pd.Series(), "")
    assert name == "patient0001"
    assert patients.nunique() == 5
    assert patients.loc[104] == "patient0002"


def test_mammogram_names_give_side_view_and_patient() -> None:
    rows = pd.DataFrame({"path": MAMMO})
    columns, _ = attributes.infer(rows)
    assert columns["laterality"].tolist()[:4] == ["L", "L", "R", "R"]
    assert columns["view"].tolist()[:2] == ["CC", "MLO"]
    patients, name = attributes.infer_patients(rows["path"]) or (pd.Series(), "")
    assert name == "NAME_VIEW_PHASE"
    assert patients.nunique() == 5


@pytest.mark.parametrize(
    ("paths", "name", "first"),
    [
        ([f"sub-{n:02d}/anat/sub-{n:02d}_run-{r}_T1w.nii.gz" for n in (1, 2, 3) for r in (1, 2)], "sub-XX (BIDS)", "sub-01"),
        ([f"TCGA-A{n}-000{n}-01Z/{p}.png" for n in (1, 2, 3) for p in (1, 2)], "TCGA-XX-XXXX", "TCGA-A1-0001"),
        ([f"images/case_{n}_slice_{s}.png" for n in (1, 2, 3) for s in (1, 2)], "case_12", "case_1"),
        ([f"c{n}/BRATS_{n}_{s}.nii.gz" for n in (1, 2, 3) for s in ("t1", "flair")], "BraTS-like NAME_NUMBER_SEQUENCE", "BRATS_1"),
        ([f"00{n}_{s}.png" for n in (1, 2, 3) for s in (1, 2)], "NUMBER_PART", "001"),
    ],
)  # fmt: skip
def test_known_ways_to_name_patients(paths: list[str], name: str, first: str) -> None:
    guess = attributes.infer_patients(pd.Series(paths))
    assert guess is not None
    assert guess[1] == name
    assert guess[0].iloc[0] == first
    assert guess[0].nunique() == 3


@pytest.mark.parametrize(
    "paths",
    [
        [f"image_{n}.png" for n in range(20)],
        [f"patient{n}.png" for n in range(20)],  # each file its own
        [f"patient1_{n}.png" for n in range(20)],  # all the same
        CAMUS[:15] + [f"other{n}.png" for n in range(5)],  # holds for 75 % only
        ["a.png"],
        [],
    ],
    ids=["no name", "all different", "all alike", "too few", "one file", "none"],
)
def test_a_pattern_that_says_nothing_is_not_applied(paths: list[str]) -> None:
    assert attributes.infer_patients(pd.Series(paths, dtype="string")) is None


def test_a_pattern_may_miss_one_file_in_twenty_and_leaves_it_open() -> None:
    paths = pd.Series([*CAMUS, "readme_scan.png"])
    guess = attributes.infer_patients(paths)
    assert guess is not None
    assert guess[0].isna().tolist() == [False] * len(CAMUS) + [True]


def test_slices_of_a_volume_count_as_one_file() -> None:
    volumes = [f"case_{n}.nii.gz" for n in range(4) for _ in range(30)]
    assert attributes.infer_patients(pd.Series(volumes)) is None


@given(st.permutations(range(30)))
def test_terciles_split_images_into_thirds_in_any_order(order: list[int]) -> None:
    rows = pd.DataFrame({"path": [f"i{n}.png" for n in order], "mean": np.array(order, dtype=float), "std": 1.0})
    columns, sources = attributes.infer(rows)
    assert sources == {"brightness": "computed"}
    assert columns["brightness"].value_counts().to_dict() == {"low": 10, "medium": 10, "high": 10}
    assert set(rows["mean"][columns["brightness"] == "low"]) == set(range(10))


def test_images_without_a_statistic_have_no_level() -> None:
    rows = pd.DataFrame({"path": [f"i{n}.png" for n in range(12)], "mean": [float(n) for n in range(11)] + [np.nan]})
    columns, _ = attributes.infer(rows)
    assert columns["brightness"].isna().tolist() == [False] * 11 + [True]
    assert attributes.infer(rows.head(5))[0].empty
