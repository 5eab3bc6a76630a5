"""Every coded check fires on a bad table, stays silent on a good one, and says so where it has nothing to judge."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wazuka.audit import CHECKS, CheckResult, Tables, run_checks
from wazuka.audit.tables import OUTCOMES
from wazuka.core.errors import ConfigError
from wazuka.data import inspect

DOCS = Path(__file__).parents[2] / "docs" / "checks.md"
EVIDENCE_FOR_ALL = {
    "name": "clinic",
    "intensity": "gray8",
    "structures": {1: "lesion"},
    "mask_values": {255: 1},
    "patient_source": "table",
    "imported": {"kind": "dicom", "orphan_masks": []},
}


def make_tables(*, n: int = 48, card: dict[str, Any] | None = None) -> Tables:
    """A clean dataset that gives every check its evidence: 12 patients, 2 classes, 2 scanners, masks, DICOM files."""
    rng = np.random.default_rng(0)
    rows, measured = [], []
    for i in range(n):
        image = rng.integers(0, 256, (32, 32), dtype=np.uint8)
        found = inspect.measure(image)
        rows.append(
            {
                "id": f"image{i:03d}",
                "path": f"image{i:03d}.dcm",
                "label": f"class{i % 12 % 2}",
                "mask": f"mask{i:03d}.png",
                "patient": f"p{i % 12:02d}",
                "domain": f"scanner{i % 12 // 2 % 2}",
                "status": "ok",
                "reason": None,
                "height": 32,
                "width": 32,
                "spacing_mm": [0.5, 0.5, None],
                "sha256": found["sha256"],
            }
        )
        measured.append(
            {name: found.get(name) for name in inspect.COLUMNS}
            | {"id": f"image{i:03d}", "nan_count": 0, "inf_count": 0, "mask_values": [0, 255], "identifying_tags": []}
            | {"mask_height": 32, "mask_width": 32, "mask_spacing_mm": [0.5, 0.5, None], "mask_error": None}
        )
    return Tables(EVIDENCE_FOR_ALL | (card or {}), pd.DataFrame(rows), pd.DataFrame(measured))


def change(
    tables: Tables,
    *,
    rows: list[int] | slice = slice(None),
    manifest: dict[str, Any] | None = None,
    inspection: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
) -> Tables:
    """Copy the tables and set columns of some rows."""
    both = [tables.manifest.copy(), tables.inspection.copy()]  # type: ignore[union-attr]
    for table, values in zip(both, (manifest or {}, inspection or {}), strict=True):
        for name, value in values.items():
            column = table[name].astype("object").tolist() if name in table else [None] * len(table)
            numbers = range(len(table))[rows] if isinstance(rows, slice) else rows
            for turn, at in enumerate(numbers):
                column[at] = value(turn) if callable(value) else value
            table[name] = pd.Series(column, dtype="object")
    return Tables({**tables.card, **(card or {})}, *both)


def run(tables: Tables, code: str, **options: Any) -> CheckResult:
    check = next(one for one in CHECKS if code == one.CODE)
    return check.check(tables, {**check.THRESHOLDS, **options})


def test_every_check_passes_on_a_clean_dataset():
    results = run_checks(make_tables())
    assert {one.code: (one.outcome, one.count) for one in results} == {one.CODE: ("passed", 0) for one in CHECKS}


def test_codes_and_names_are_unique_and_in_order():
    codes = [one.CODE for one in CHECKS]
    assert codes == sorted(set(codes))
    assert len({one.NAME for one in CHECKS}) == len(CHECKS)


def test_every_file_of_a_check_is_registered():
    folder = Path(run_checks.__code__.co_filename).parent
    written = {one.stem for one in folder.glob("*.py") if 'CODE = "WZ1' in one.read_text()}
    assert {one.__name__.rsplit(".", 1)[-1] for one in CHECKS} == written


def test_every_check_has_its_docs_section_with_its_exact_threshold():
    sections = DOCS.read_text().split("\n## ")[1:]
    titles = [section.splitlines()[0] for section in sections]
    assert titles == [f"{one.CODE} {one.NAME}" for one in CHECKS]
    for check, section in zip(CHECKS, sections, strict=True):
        text = " ".join(section.split())
        assert check.RULE.format(**check.THRESHOLDS) in text, check.CODE
        assert all(part in text for part in ("**Why it matters.**", "**What to do.**")), check.CODE


def fires(tables: Tables, code: str, outcome: str, count: int, ids: list[str], text: str) -> None:
    result = run(tables, code)
    assert (result.outcome, result.count, result.ids) == (outcome, count, ids), result
    assert text in result.reason
    others = {one.code for one in run_checks(tables) if one.outcome in ("warning", "issue")}
    assert code in others


def test_unreadable_images_are_counted_by_reason():
    bad = change(
        make_tables(),
        rows=[3, 5],
        manifest={"status": "quarantined", "reason": "truncated PNG"},
        inspection={"decode_error": "truncated PNG"},
    )
    fires(bad, "WZ101", "warning", 2, ["image003", "image005"], "2 of 48 images (4.2%) are left out: truncated PNG (2)")
    worse = change(bad, rows=[7], manifest={"status": "quarantined", "reason": "empty file"})
    fires(
        worse, "WZ101", "issue", 3, ["image003", "image005", "image007"], "left out: truncated PNG (2); empty file (1)"
    )


def test_blank_images_are_found_by_one_value_or_by_their_spread():
    bad = change(make_tables(), rows=[1], inspection={"constant": True, "std": 0.0})
    bad = change(bad, rows=[2], inspection={"std": 0.9})
    fires(bad, "WZ102", "warning", 2, ["image001", "image002"], "2 of 48 images are blank")
    assert run(change(bad, card={"intensity": "hounsfield"}), "WZ102").ids == ["image001"]
    slices = change(bad, manifest={"volume": "v1"})
    many = change(slices, rows=list(range(20)), inspection={"constant": True})
    assert run(many, "WZ102").outcome == "warning"  # slices of a volume
    assert run(change(bad, rows=list(range(20)), inspection={"constant": True}), "WZ102").outcome == "issue"


def test_pixels_that_are_no_numbers_are_an_issue():
    bad = change(make_tables(), rows=[4], inspection={"nan_count": 7, "inf_count": 1})
    fires(bad, "WZ103", "issue", 1, ["image004"], "1 of 48 images have pixels that are NaN or infinite, 8 in all")


@pytest.mark.parametrize(
    ("inspection", "text"),
    [
        ({"mask_height": 31}, "1 of another shape"),
        ({"mask_width": 33}, "1 of another shape"),
        ({"mask_error": "truncated PNG"}, "1 unreadable"),
        ({"mask_spacing_mm": [0.5, 0.506, None]}, "1 of another spacing"),
    ],
)
def test_masks_that_do_not_fit_are_an_issue(inspection: dict[str, Any], text: str):
    fires(change(make_tables(), rows=[4], inspection=inspection), "WZ104", "issue", 1, ["image004"], text)


def test_a_spacing_within_one_percent_or_unknown_is_no_mismatch():
    near = change(make_tables(), rows=[4], inspection={"mask_spacing_mm": [0.5, 0.5049, None]})
    assert run(near, "WZ104").outcome == "passed"
    unknown = change(make_tables(), inspection={"mask_spacing_mm": None})
    assert run(unknown, "WZ104").outcome == "passed"


def test_mask_values_without_a_structure_are_an_issue():
    bad = change(make_tables(), rows=[0, 1], inspection={"mask_values": [0, 2, 255]})
    fires(bad, "WZ105", "issue", 2, ["image000", "image001"], "2 masks hold values without a structure: 2")
    assert run(change(bad, card={"structures": {1: "lesion", 2: "vessel"}}), "WZ105").outcome == "passed"
    assert run(change(bad, card={"mask_values": {}}), "WZ105").count == 48  # now 255 is unknown too


def test_empty_masks_count_by_image_and_by_whole_volume():
    bad = change(make_tables(), rows=[0, 1], inspection={"mask_values": [0]})
    fires(bad, "WZ106", "warning", 2, ["image000", "image001"], "2 of 48 masks (4.2%) have no foreground")
    volumes = change(bad, manifest={"volume": lambda turn: f"v{turn // 8}"})
    assert run(volumes, "WZ106").outcome == "passed"
    assert "2 slices of volumes are" in run(volumes, "WZ106").reason
    whole = change(volumes, rows=list(range(8)), inspection={"mask_values": [0]})
    result = run(whole, "WZ106")
    assert (result.outcome, result.count) == ("warning", 8)
    assert "1 of 6 volumes" in result.reason
    most = change(make_tables(), rows=list(range(25)), inspection={"mask_values": [0]})
    assert run(most, "WZ106").outcome == "issue"


def test_exact_copies_across_patients_are_an_issue_and_within_a_warning():
    tables = make_tables()
    copied = tables.manifest["sha256"][0]
    across = change(tables, rows=[1], manifest={"sha256": copied})
    fires(
        across, "WZ107", "issue", 2, ["image000", "image001"], "2 images have the same pixels as one of another patient"
    )
    within = change(tables, rows=[12], manifest={"sha256": copied})
    fires(within, "WZ107", "warning", 2, ["image000", "image012"], "another image of the same patient")
    blank = change(across, rows=[0, 1], inspection={"constant": True})
    assert run(blank, "WZ107").outcome == "passed"
    nobody = change(across, card={"patient_source": "image"})
    assert "another patient (each image counts as one)" in run(nobody, "WZ107").reason


def test_copies_with_different_labels_are_an_issue():
    tables = make_tables()
    copied = tables.manifest["sha256"][0]
    bad = change(tables, rows=[1], manifest={"sha256": copied})
    fires(bad, "WZ109", "issue", 2, ["image000", "image001"], "2 images in 1 groups of equal pixels")
    agreeing = change(tables, rows=[2], manifest={"sha256": copied})
    assert run(agreeing, "WZ109").outcome == "passed"
    unlabeled = change(bad, rows=[1], manifest={"label": None})
    assert run(unlabeled, "WZ109").outcome == "passed"


def test_classes_of_few_patients_are_warned_of_until_fewer_than_two_are_left():
    rare = change(make_tables(), rows=[0, 1, 2, 3], manifest={"label": "rare"})
    fires(rare, "WZ110", "warning", 1, ["rare"], "`rare` (4)")
    assert run(rare, "WZ110", patients=4).outcome == "passed"
    few = change(make_tables(), manifest={"patient": lambda turn: f"p{turn % 4}"})
    result = run(few, "WZ110")
    assert (result.outcome, result.ids) == ("issue", ["class0", "class1"])
    single = change(make_tables(), manifest={"label": "normal"})
    assert run(single, "WZ110").reason.startswith("1 of 1 classes have enough patients")
    without = change(few, manifest={"label": None})
    assert run(without, "WZ110").outcome == "warning"
    assert run(change(make_tables(), manifest={"label": None}), "WZ110").outcome == "passed"


@pytest.mark.parametrize("source", ["image", "volume", "study"])
def test_patients_that_nobody_told_are_a_warning(source: str):
    fires(
        change(make_tables(), card={"patient_source": source}),
        "WZ112",
        "warning",
        48,
        [],
        f"no patient is known: each {source} counts",
    )


def test_identifying_tags_are_an_issue_and_other_formats_give_no_evidence():
    bad = change(make_tables(), rows=[2, 3], inspection={"identifying_tags": ["PatientName", "PatientBirthDate"]})
    fires(bad, "WZ113", "issue", 2, ["image002", "image003"], "PatientName (2), PatientBirthDate (2)")
    png = change(make_tables(), manifest={"path": lambda turn: f"{turn}.png"}, card={"imported": {"kind": "folder"}})
    assert run(png, "WZ113").reason == "no file is DICOM; other formats have no such tags"


def test_text_drawn_into_an_image_is_found():
    from PIL import Image, ImageDraw

    image = Image.fromarray(np.random.default_rng(0).integers(0, 120, (128, 128), dtype=np.uint8))
    ImageDraw.Draw(image).text((6, 10), "DOE JANE 1951", fill=255)
    score = inspect.measure(np.asarray(image))["text_score"]
    bad = change(make_tables(), rows=[9], inspection={"text_score": score})
    fires(bad, "WZ114", "warning", 1, ["image009"], "1 of 48 images seem to have text")


def test_masks_without_an_image_are_named():
    bad = change(make_tables(), card={"imported": {"kind": "nifti", "orphan_masks": ["labels/b.nii", "labels/a.nii"]}})
    fires(bad, "WZ115", "warning", 2, ["labels/a.nii", "labels/b.nii"], "2 masks have no image")


def test_domains_of_one_name_in_two_spellings_or_of_few_patients_are_warned_of():
    spelled = change(make_tables(), manifest={"domain": lambda turn: ["Site A", "site_a", "Site B"][turn % 12 % 3]})
    result = run(spelled, "WZ116", patients=3)
    assert (result.outcome, result.ids) == ("warning", ["Site A", "site_a"])
    fires(spelled, "WZ116", "warning", 3, ["Site A", "Site B", "site_a"], "`Site A`, `site_a` may be the same")
    unnamed = change(make_tables(), rows=[0], manifest={"domain": None})
    assert "1 images have no domain" in run(unnamed, "WZ116").reason


def test_a_patient_with_most_images_is_named():
    # 36 of 48 images: (48)^2 / (36^2 + 12 * 1) = 1.76 effective patients
    bad = change(make_tables(), manifest={"patient": lambda turn: "p0" if turn < 36 else f"p{turn}"})
    fires(
        bad, "WZ117", "warning", 1, ["p0"], "1 patients have 75% of the images; 13 patients weigh like 1.8 equal ones"
    )


ABSENT = {
    "WZ101": change(make_tables(n=1)),
    "WZ102": {"inspection": None},
    "WZ103": {"inspection": None},
    "WZ104": {"mask": None},
    "WZ105": {"structures": {}},
    "WZ106": {"mask": None},
    "WZ107": {"sha256": None},
    "WZ108": {"inspection": None},
    "WZ109": {"label": None},
    "WZ110": {"label": None, "mask": None},
    "WZ111": {"domain": None},
    "WZ113": {"inspection": None},
    "WZ114": {"inspection": None},
    "WZ115": {"imported": {}},
    "WZ116": {"domain": None},
    "WZ117": {"patient": "one"},
}


@pytest.mark.parametrize("code", sorted(set(ABSENT)))
def test_without_evidence_a_check_says_why_and_never_passes(code: str):
    missing = ABSENT[code]
    tables = make_tables()
    if isinstance(missing, Tables):
        tables = Tables(missing.card, missing.manifest.iloc[:0], missing.inspection.iloc[:0])  # type: ignore[union-attr]
    elif "inspection" in missing:
        tables = Tables(tables.card, tables.manifest)
    else:
        columns = {name: value for name, value in missing.items() if name in tables.manifest}
        card = {name: value for name, value in missing.items() if name not in columns}
        tables = change(tables, manifest=columns, card=card)
    result = run(tables, code)
    assert (result.outcome, result.count, result.ids) == ("not applicable", None, [])
    assert result.reason


def test_an_empty_dataset_passes_no_check_by_absence():
    tables = make_tables(n=1)
    empty = Tables(tables.card, tables.manifest.iloc[:0], tables.inspection.iloc[:0])  # type: ignore[union-attr]
    passed = {one.code for one in run_checks(empty) if one.outcome == "passed"}
    assert passed == set()


def test_a_dataset_without_inspection_says_so_for_each_check_that_needs_it():
    tables = make_tables()
    results = run_checks(Tables(tables.card, tables.manifest))
    silent = {one.code for one in results if one.outcome == "not applicable"}
    assert silent == {"WZ102", "WZ103", "WZ104", "WZ105", "WZ106", "WZ108", "WZ113", "WZ114"}


def test_the_inspection_is_matched_by_id_whatever_its_order():
    tables = change(make_tables(), rows=[4], inspection={"nan_count": 7})
    shuffled = Tables(tables.card, tables.manifest, tables.inspection.sample(frac=1, random_state=0))  # type: ignore[union-attr]
    assert run(shuffled, "WZ103").ids == ["image004"]


def test_results_have_the_keys_of_the_contract_and_survive_json():
    results = run_checks(make_tables(), ignore=("WZ112",), skip={"WZ108": "asked for a quick look"})
    for result in results:
        plain = dataclasses.asdict(result)
        assert list(plain) == ["code", "name", "outcome", "count", "threshold", "reason", "ids"]
        assert json.loads(json.dumps(plain)) == plain
        assert result.outcome in OUTCOMES
    by_code = {one.code: one for one in results}
    assert by_code["WZ112"].outcome == "ignored"
    assert (by_code["WZ108"].outcome, by_code["WZ108"].reason) == ("skipped", "asked for a quick look")


def test_thresholds_can_be_replaced_and_show_in_the_result():
    results = {one.code: one for one in run_checks(make_tables(), thresholds={"WZ110": {"patients": 7}})}
    assert results["WZ110"].outcome == "issue"
    assert "fewer than 7 patients" in results["WZ110"].threshold


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ignore": ("WZ11",)}, "Unknown check `WZ11`. Did you mean `WZ11"),
        ({"skip": {"near": "slow"}}, "Unknown check `near`"),
        ({"thresholds": {"WZ110": {"patient": 3}}}, "Unknown threshold `patient` in WZ110. Did you mean `patients`"),
    ],
)
def test_unknown_codes_and_thresholds_are_refused(options: dict[str, Any], text: str):
    with pytest.raises(ConfigError) as error:
        run_checks(make_tables(), **options)
    assert text in str(error.value)
