"""Every check of synthetic images passes on honest ones, fires on a planted fault, and says so where it cannot judge."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from tests.audit.synthetic_cases import clinic, features, held_out_images, make_inputs, small, to_bytes, training_images
from wazuka.audit import CHECKS as DATASET_CHECKS
from wazuka.audit import CheckResult, synthetic
from wazuka.audit.synthetic import CHECKS, Distance, Inputs, run_synthetic_checks
from wazuka.audit.tables import OUTCOMES
from wazuka.core.errors import ConfigError, DataError

DOCS = Path(__file__).parents[2] / "docs" / "synthetic_checks.md"


def run(inputs: Inputs, code: str, **options: float) -> CheckResult:
    found = next(one for one in CHECKS if code == one.CODE)
    result: CheckResult = found.check(inputs, {**found.THRESHOLDS, **options})
    return result


def test_every_file_of_a_check_is_registered_under_a_code_of_its_own():
    written = {
        one.stem for one in Path(str(synthetic.__file__)).parent.glob("*.py") if 'CODE = "WZ2' in one.read_text()
    }
    assert {one.__name__.rsplit(".", 1)[-1] for one in CHECKS} == written
    codes = [one.CODE for one in (*DATASET_CHECKS, *CHECKS)]
    assert codes == sorted(set(codes))


def test_every_check_has_its_docs_section_with_its_exact_threshold():
    sections = DOCS.read_text().split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == [f"{one.CODE} {one.NAME}" for one in CHECKS]
    for check, section in zip(CHECKS, sections, strict=True):
        text = " ".join(section.split())
        assert check.RULE.format(**check.THRESHOLDS) in text, check.CODE
        assert all(part in text for part in ("**Why it matters.**", "**What to do.**")), check.CODE


def test_honest_images_of_held_out_patients_pass_every_check():
    results = run_synthetic_checks(make_inputs())
    assert {one.code: one.outcome for one in results} == {one.CODE: "passed" for one in CHECKS}
    assert all(one.count == 0 for one in results if one.code != "WZ201")


def test_honest_images_pass_without_knowing_their_patients_too():
    inputs = make_inputs()
    alone = replace(inputs, synthetic=inputs.synthetic.drop(columns="patient"), found={})
    assert {one.outcome for one in run_synthetic_checks(alone)} == {"passed"}


def test_one_image_per_class_fails_diversity_and_nothing_hides_it():
    images, labels = held_out_images()
    first = [int(np.flatnonzero(labels == one)[0]) for one in ("irregular", "regular")]
    rows = np.repeat(first, 90)
    result = run(make_inputs(images[rows], labels[rows]), "WZ203")
    assert (result.outcome, result.ids) == ("issue", ["irregular", "regular"])
    assert "irregular: 0.00 of the real distance, 100.00% of pairs the same" in result.reason


def test_one_image_of_one_class_with_noise_names_that_class():
    images, labels = held_out_images()
    images = images.copy()
    rows = labels == "regular"
    images[rows] = to_bytes(images[0] + np.random.default_rng(0).normal(0, 5, images[rows].shape))
    result = run(make_inputs(images, labels), "WZ203")
    assert (result.outcome, result.ids) == ("issue", ["regular"])


def test_a_few_images_over_and_over_count_as_so_many():
    # 10 different images, 18 times each: of 180 * 179 ordered pairs 180 * 17 are the same, 9.5 %
    images, labels = held_out_images()
    rows = np.repeat(np.flatnonzero(labels == "regular")[:10], 18)
    found = synthetic.diversity.spreads(make_inputs(images[rows], labels[rows]), near=0.0, least=10)[0]
    assert found[0].same == pytest.approx(17 / 179)
    assert run(make_inputs(images[rows], labels[rows]), "WZ203").outcome == "issue"


def test_classes_with_few_images_are_named_and_images_without_labels_judged_as_one():
    images, labels = held_out_images()
    rows = np.concatenate([np.flatnonzero(labels == "regular")[:40], np.flatnonzero(labels == "irregular")[:3]])
    assert "too few images to judge: `irregular`" in run(make_inputs(images[rows], labels[rows]), "WZ203").reason
    assert run(make_inputs(images, None), "WZ203").reason.startswith("all: ")


def test_noise_is_told_apart_and_real_images_are_not():
    images = np.random.default_rng(0).integers(0, 256, (120, 64, 64, 3)).astype(np.uint8)
    labels = np.repeat(["regular", "irregular"], 60)
    result = run(make_inputs(images, labels), "WZ204")
    assert (result.outcome, result.count) == ("warning", 120)
    honest = synthetic.two_sample.told_apart(make_inputs())
    assert [one.space for one in honest] == ["pixels", "features"]
    assert all(one.high < 0.75 for one in honest)


def test_a_color_cast_is_a_warning_and_another_stain_an_issue():
    images, labels = held_out_images()
    pixels = images.astype(np.float64)
    cast = run(make_inputs(to_bytes(pixels + np.array([0, 30, 0])), labels), "WZ205")
    assert cast.outcome == "warning"
    assert "of channel green differ by" in cast.reason
    assert run(make_inputs(to_bytes(255 - pixels), labels), "WZ205").outcome == "issue"


def test_lost_contrast_is_found_where_the_mean_is_right():
    images, labels = held_out_images()
    pixels = images.astype(np.float64)
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    found = synthetic.color.shifts(make_inputs(to_bytes(mean + 0.3 * (pixels - mean)), labels))
    beyond = {one.quantity for one in found if one.distance.beyond(2) and one.distance.value > 0.1}
    assert "image contrasts" in beyond and "image means" not in beyond


@pytest.mark.parametrize(("sigma", "word"), [(1.0, "less"), (0.0, "more")])
def test_blur_and_noise_change_the_spectrum(sigma: float, word: str):
    images, labels = held_out_images()
    changed = (
        ndimage.gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))
        if sigma
        else images + np.random.default_rng(0).normal(0, 20, images.shape)
    )
    result = run(make_inputs(to_bytes(changed), labels), "WZ206")
    assert (result.outcome, result.count) == ("warning", 180)
    assert f"dB {word} power" in result.reason


@pytest.mark.parametrize(("pattern", "name"), [((1, 0), "rows"), ((0, 1), "columns"), ((1, 1), "checkerboard")])
def test_a_pattern_of_every_other_pixel_is_named(pattern: tuple[int, int], name: str):
    images, labels = held_out_images()
    y, x = np.mgrid[:64, :64]
    wave = (-1.0) ** (y * pattern[0] + x * pattern[1])
    result = run(make_inputs(to_bytes(images + 3 * wave[..., None]), labels), "WZ207")
    assert result.outcome == "warning"
    assert result.reason.startswith(f"{name}: ") and ";" not in result.reason


def test_a_checkerboard_below_the_power_of_the_grain_is_found_by_its_phase():
    wave = (-1.0) ** np.add.outer(np.arange(64), np.arange(64))
    rng = np.random.default_rng(0)
    grain = rng.normal(128, 30, (600, 64, 64, 1)).astype(np.float32)
    made = grain[420:] + np.float32(0.35) * wave[..., None].astype(np.float32)
    inputs = make_inputs(real_large=grain[:420], synthetic_large=made)
    checker = synthetic.checkerboard.patterns(inputs)[2]
    # 0.35 gray levels x 64 of the noise's amplitude of 30; 10 log10(1 + 0.75^2) dB
    assert abs(checker.phase) == pytest.approx(0.75, abs=0.15)
    assert checker.excess == pytest.approx(1.9, abs=1)
    result = run(inputs, "WZ207")
    assert result.outcome == "warning"
    assert result.reason.startswith("checkerboard: ")


def test_a_pattern_that_no_one_could_see_is_none():
    images, labels = held_out_images()
    wave = (-1.0) ** np.add.outer(np.arange(64), np.arange(64))
    faint = images.astype(np.float32) + np.float32(0.1) * wave[..., None].astype(np.float32)
    inputs = make_inputs(images, labels, synthetic_large=faint)
    assert synthetic.checkerboard.patterns(inputs)[2].excess > 3
    assert run(inputs, "WZ207").outcome == "passed"


def test_a_class_that_is_too_frequent_is_a_warning_and_an_absent_one_an_issue():
    images, labels = held_out_images()
    regular = np.flatnonzero(labels == "regular")
    skewed = np.concatenate([regular, np.flatnonzero(labels == "irregular")[:10]])
    result = run(make_inputs(images[skewed], labels[skewed]), "WZ208")
    assert (result.outcome, result.ids) == ("warning", ["irregular", "regular"])
    result = run(make_inputs(images[regular], labels[regular]), "WZ208")
    assert (result.outcome, result.ids) == ("issue", ["irregular"])


def one_scanner() -> tuple[np.ndarray, np.ndarray]:
    """Held-out images of the first scanner only, and their labels."""
    images, table = clinic()
    rows = ((table["part"] == 2) & (table["domain"] == "Alpha 200")).to_numpy()
    return images[rows], table["label"].to_numpy()[rows]


def test_images_that_look_like_one_scanner_are_found():
    result = run(make_inputs(*one_scanner()), "WZ209")
    assert result.outcome == "warning"
    assert "domain=Alpha 200" in result.ids
    assert "domain=Beta XT" in result.ids  # the cool one lies nearer to the neutral one
    assert "domain Alpha 200: 75%" in result.reason


def test_scanners_that_synthetic_images_do_not_show_are_found():
    result = run(make_inputs(*one_scanner()), "WZ210")
    assert result.outcome == "issue"
    assert result.ids == ["domain=Beta XT"]


def test_attributes_are_judged_like_domains_and_columns_of_many_values_left_out():
    inputs = make_inputs(*one_scanner())
    real = inputs.real.assign(site=inputs.real["domain"].str[:1], age=range(len(inputs.real)))
    attributed = replace(inputs, real=real, attributes=("site", "age"), found={})
    assert run(attributed, "WZ210").ids == ["domain=Beta XT", "site=B"]
    result = run(attributed, "WZ209")
    assert "site=A" in result.ids
    assert f"age not judged: {len(real)} groups" in result.reason


def test_given_coverage_is_used():
    inputs = make_inputs()
    covered = (inputs.real["domain"] != "Beta XT").to_numpy()
    result = run(replace(inputs, covered=covered, found={}), "WZ210")
    assert (result.outcome, result.ids) == ("issue", ["domain=Beta XT"])
    assert "domain=Beta XT: 0% covered, 0.00 [0.00, 0.00] of the best" in result.reason


def test_no_coverage_at_all_is_a_warning():
    inputs = make_inputs()
    result = run(replace(inputs, covered=np.zeros(len(inputs.real), dtype=bool), found={}), "WZ210")
    assert result.outcome == "warning"
    assert "no group is covered by more than 0%" in result.reason


@pytest.mark.parametrize(
    ("distance", "outcome"),
    [
        (Distance(30.0, 25.0, 36.0, 10.0, 13.0), "warning"),
        (Distance(22.0, 19.0, 25.0, 10.0, 13.0), "passed"),  # the interval reaches below twice the floor
        (Distance(24.0, 22.0, 26.0, 10.0, 23.0), "passed"),  # real images have differed as much
        (Distance(0.02, 0.01, 0.03, -0.001, 0.004), "warning"),  # unbiased: its floor may be negative
        (Distance(30.0, float("nan"), 36.0, 10.0, 13.0), "not applicable"),
    ],
)
def test_a_distance_is_judged_against_the_floor(distance: Distance, outcome: str):
    assert run(make_inputs(fidelity={"frechet": distance}), "WZ211").outcome == outcome


def nothing() -> Inputs:
    """Tables only."""
    arrays = [f"{side}_{name}" for side in ("real", "synthetic") for name in ("pixels", "features", "large")]
    inputs = make_inputs()
    without: dict[str, Any] = dict.fromkeys([*arrays, "real_large_rows", "fidelity"])
    unlabeled = inputs.synthetic.assign(label=None)
    return replace(inputs, **without, synthetic=unlabeled, found={})


def first(rows: int, made: int) -> Inputs:
    """The first rows and images only."""
    inputs = make_inputs()
    arrays: dict[str, Any] = {}
    for name in ("pixels", "features"):
        arrays[f"real_{name}"] = getattr(inputs, f"real_{name}")[:rows]
        arrays[f"synthetic_{name}"] = getattr(inputs, f"synthetic_{name}")[:made]
    return replace(
        inputs,
        real=inputs.real.iloc[:rows],
        synthetic=inputs.synthetic.iloc[:made],
        training=inputs.training[:rows],
        real_large=inputs.real_large[:rows],  # type: ignore[index]
        real_large_rows=np.arange(rows),
        synthetic_large=inputs.synthetic_large[:made],  # type: ignore[index]
        found={},
        **arrays,
    )


@pytest.mark.parametrize(("rows", "made"), [(0, 0), (1, 1), (9, 1), (420, 0), (9, 180)])
def test_without_enough_images_no_check_passes(rows: int, made: int):
    results = run_synthetic_checks(replace(first(rows, made), fidelity=None))
    assert {one.outcome for one in results} == {"not applicable"}, [one for one in results if one.outcome == "passed"]


def test_without_arrays_every_check_says_what_is_missing():
    for one in run_synthetic_checks(nothing()):
        assert (one.outcome, one.count, one.ids) == ("not applicable", None, []), one
        assert one.reason


def test_one_patient_is_no_evidence():
    inputs = make_inputs()
    lonely = replace(inputs, real=inputs.real.assign(patient="p"), fidelity=None, found={})
    outcomes = {one.code: one.outcome for one in run_synthetic_checks(lonely)}
    assert {code for code, outcome in outcomes.items() if outcome != "not applicable"} == {"WZ203", "WZ208"}


def test_results_keep_the_contract_and_the_runner_takes_thresholds_and_exceptions():
    results = run_synthetic_checks(
        make_inputs(),
        ignore=("WZ204",),
        skip={"WZ201": "asked for a quick look"},
        thresholds={"WZ208": {"images": 999}},
    )
    assert [one.code for one in results] == [one.CODE for one in CHECKS]
    for one in results:
        plain = dataclasses.asdict(one)
        assert list(plain) == ["code", "name", "outcome", "count", "threshold", "reason", "ids"]
        assert json.loads(json.dumps(plain)) == plain
        assert one.outcome in OUTCOMES
    by_code = {one.code: one for one in results}
    assert by_code["WZ204"].outcome == "ignored"
    assert by_code["WZ201"].reason == "asked for a quick look"
    assert by_code["WZ208"].outcome == "not applicable" and "fewer than 999 labeled" in by_code["WZ208"].threshold
    with pytest.raises(ConfigError, match="Unknown check `WZ101`"):
        run_synthetic_checks(make_inputs(), ignore=("WZ101",))


def test_the_same_inputs_give_the_same_results():
    images, labels = training_images(60)
    assert run_synthetic_checks(make_inputs(images, labels)) == run_synthetic_checks(make_inputs(images, labels))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"training": np.zeros(3, dtype=bool)}, "`training` is bool (3,); give bool (420,)"),
        ({"training": np.zeros(420)}, "`training` is float64 (420,)"),
        ({"real_features": None}, "`real_features` and `synthetic_features` must be given together"),
        ({"real_features": np.zeros((420, 7), np.float32)}, "their rows must agree"),
        ({"synthetic_features": np.zeros((9, 24), np.float32)}, "have 420 and 9 rows; the tables have 420 and 180"),
        ({"synthetic_features": np.full((180, 24), np.nan)}, "`synthetic_features` has NaN or infinite values"),
        (
            {"real_pixels": np.zeros((420, 64, 64, 3)), "synthetic_pixels": np.zeros((180, 64, 64, 3))},
            "give images of 32 x 32 pixels",
        ),
        ({"real_large_rows": None}, "`real_large_rows` does not name a row of `real` for each of the 420 images"),
        ({"real_large_rows": np.full(420, 420)}, "give int64 (420,) below 420"),
        ({"attributes": ("age",)}, "`real` has no column `age`; it has "),
        ({"synthetic": pd.DataFrame({"id": ["a"], "label": ["b"]})}, "`synthetic` has no column `seed`"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes: dict[str, Any], text: str):
    with pytest.raises(DataError) as error:
        replace(make_inputs(), **changes)
    assert text in str(error.value)


def test_a_missing_patient_is_refused():
    inputs = make_inputs()
    with pytest.raises(DataError, match="1 of 420 rows of `real` have no patient"):
        replace(inputs, real=inputs.real.assign(patient=[None, *inputs.real["patient"][1:]]))


def test_features_and_small_pixels_of_the_cases_are_those_of_their_images():
    images, _ = held_out_images(3)
    np.testing.assert_allclose(small(images)[1, 4, 5], images[1, 8:10, 10:12].mean(axis=(0, 1)))
    np.testing.assert_allclose(features(images)[:1], features(images[:1]), rtol=1e-4, atol=1e-2)
