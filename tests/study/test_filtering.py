"""What leaving out copies changes: planted copies among honest images, equal numbers on all sides, one line for nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.study.conftest import PROBE, make_study
from tests.study.test_make_dataset import _with
from tests.study.test_private_images import EveryOther
from tests.study.test_synthesis import folders, plant
from tests.study.toy_synthesizer import ToyGenerator
from wazuka.audit.synthetic import memorized
from wazuka.cli.app import run as run_cli
from wazuka.core.records import read_json
from wazuka.data.manifest import Dataset
from wazuka.evaluate.fidelity import fidelity
from wazuka.nn import backbones
from wazuka.study.context import Settings, open_run
from wazuka.study.graph import needed
from wazuka.study.run import run_study
from wazuka.study.steps import run_step
from wazuka.study.synthetic.filtering import (
    ImageSet,
    Real,
    equal_counts,
    made_and_kept,
    measure_change,
    sets_of_pools,
    what_changes,
    with_pixels,
)
from wazuka.study.synthetic.images import make_images, save_images
from wazuka.study.synthetic.make_dataset import Wishes, make_dataset
from wazuka.study.synthetic.steps import make_filtered

COPIES = 12
PATIENTS = 30


# --- figures ---------------------------------------------------------------------------------------------------------


def arrays() -> tuple[Real, np.ndarray, np.ndarray, pd.DataFrame]:
    """Training and held-out images, and a set: 60 made, of which 12 are copies, and 12 others that replace these."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        features = rng.standard_normal((n, 8)).astype(np.float32)
        return features, rng.uniform(0, 255, (n, 32, 32, 1)).astype(np.float32)

    features, small = draw(2 * 60)
    real = Real(
        features=features,
        small=small,
        labels=np.array(["a", "b"] * 60, object),
        patients=np.array([f"{row // 60}-{row % PATIENTS}" for row in range(120)], object),
        training=np.arange(120) < 60,
        unseen=np.arange(120) >= 60,
    )
    own, own_small = draw(60 + COPIES)
    own[:60:5], own_small[:60:5] = features[:COPIES], small[:COPIES]  # planted among honest images
    table = pd.DataFrame({"label": [*(["a"] * 30 + ["b"] * 30), *["a"] * 6, *["b"] * 6]})
    flag = np.zeros(72, bool)
    flag[:60:5] = True
    return real, own, own_small, table.assign(made=np.arange(72) < 60, kept=~flag, flag=flag)


def measured(table: pd.DataFrame, keep: np.ndarray | None = None) -> dict[str, Any]:
    real, features, small, _ = arrays()
    keep = np.ones(len(table), bool) if keep is None else keep
    one = ImageSet(part="train", table=table[keep].reset_index(drop=True), pixels=small[keep])
    return what_changes(one) | measure_change(one, features=features[keep], small=small[keep], real=real, seed=7)


def test_figures_after_the_filter_are_those_of_the_honest_images_alone() -> None:
    real, features, small, table = arrays()
    found, copies = measured(table), {}
    held = real.features[real.unseen]
    for side in ("made", "kept"):
        rows = table[side].to_numpy()
        alone = fidelity(held, features[rows], real_patients=real.patients[real.unseen], seed=7)
        assert found["fidelity"][side] == dataclasses.asdict(alone)
        search = memorized(
            {"pixels": small[rows], "features": features[rows]},
            {"pixels": real.small, "features": real.features},
            training=real.training,
            patients=pd.factorize(real.patients)[0],
            seed=7,
        )
        copies[side] = search.flagged
    assert found["made"] == {"images": 60, "flagged": COPIES, "classes": {"a": 30, "b": 30}}
    assert found["kept"] == {"images": 60, "flagged": 0, "classes": {"a": 30, "b": 30}}
    assert (found["rows"], found["replaced"], found["changed"]) == (60, COPIES, True)
    assert found["audit_flagged"] == copies and copies["made"] - copies["kept"] == COPIES


def test_before_and_after_have_equal_numbers_of_each_class_and_one_floor() -> None:
    *_, table = arrays()
    short = measured(table, table["made"].to_numpy())  # nothing came in place of what was left out
    made, kept = short["fidelity"]["made"], short["fidelity"]["kept"]
    assert short["kept"]["classes"] == {"a": 24, "b": 24} == short["classes"]
    assert made["rows"] == kept["rows"] == short["rows"] == 48
    for name, score in kept["scores"].items():
        floors = ("floor", "floor_low", "floor_high")
        assert [score[one] for one in floors] == [made["scores"][name][one] for one in floors]
    whole = measured(table)
    assert {one["half_rows"] for one in whole["fidelity"].values()} == {30}


def test_a_class_without_real_images_to_compare_with_is_not_measured() -> None:
    *_, table = arrays()
    found = measured(table.assign(label=table["label"].replace("b", "c")))
    assert found["rows"] == 0 and found["fidelity"]["kept"]["scores"] == {}
    assert "0 rows on a side" in found["fidelity"]["kept"]["missing"]["frechet"]


counts = st.lists(st.integers(0, 40), min_size=3, max_size=3).map(np.array)


@given(counts, counts, counts, st.integers(1, 60))
def test_equal_numbers_fit_every_side_keep_the_proportions_and_are_the_largest(
    shares: np.ndarray, one: np.ndarray, other: np.ndarray, most: int
) -> None:
    found = equal_counts(shares, one, other, most=most)
    have = np.minimum(one, other)
    assert (found >= 0).all() and (found <= np.maximum(have, 0))[shares > 0].all() and found.sum() <= most
    assert (found[shares == 0] == 0).all()
    if shares.sum():
        scale = min([*(have[shares > 0] / shares[shares > 0]), most / shares.sum()])
        assert (np.abs(found - scale * shares) < 1 + 1e-9).all()


def test_equal_numbers_in_closed_form() -> None:
    assert equal_counts(np.array([30, 10]), np.array([30, 9]), np.array([40, 40])).tolist() == [27, 9]
    assert equal_counts(np.array([30, 10]), np.array([99, 99]), most=20).tolist() == [15, 5]
    assert equal_counts(np.array([0, 10]), np.array([0, 4])).tolist() == [0, 4]
    assert equal_counts(np.array([5, 10]), np.array([0, 4])).tolist() == [0, 0]


# --- which images ----------------------------------------------------------------------------------------------------


def toy() -> ToyGenerator:
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3))
    return ToyGenerator(("a", "b"), images, np.array([0, 1, 0, 1]), 5.0)


@pytest.mark.parametrize("testing", [True, False])
def test_images_left_out_are_known_by_their_seeds_and_made_again(testing: bool) -> None:
    generator, wanted = toy(), np.array([8, 6])
    kept = make_filtered(generator, wanted, EveryOther(), testing=testing, device="cpu")
    first = make_images(generator, wanted, testing=testing, device="cpu")
    table = made_and_kept(wanted, kept.rows, generator.classes, testing=testing)
    made = table[table["made"]]
    assert made["seed"].tolist() == first.seeds.tolist() and made["class"].tolist() == first.labels.tolist()
    assert made["flag"].tolist() == kept.first.table["flag"].tolist() == (~made["kept"]).tolist()
    assert set(table.loc[table["kept"], "seed"]) == set(kept.rows["seed"])
    rows = pd.Series(range(len(kept.rows)), index=kept.rows["seed"]).loc[table.loc[table["kept"], "seed"]].to_numpy()
    pixels = with_pixels(table, kept.pixels, rows, generator, device="cpu")
    assert (pixels[table["made"].to_numpy()] == first.pixels).all()
    again = generator.sample(table["class"].to_numpy(), table["seed"].to_numpy())
    assert (pixels == again).all()


def test_sets_that_hold_the_same_images_are_one_and_a_private_one_is_unchanged(tmp_path: Path) -> None:
    generator, pools = toy(), {}
    for name, train in (("one", [4, 4]), ("two", [8, 8]), ("rare", [0, 4])):
        parts, args = [], {"train": train, "test": [6, 6]}
        for part, wanted in args.items():
            kept = make_filtered(
                generator, np.array(wanted), EveryOther(), testing=part == "test", device="cpu", private=part == "test"
            )
            parts.append(
                (kept.pixels, kept.rows.assign(part=part, label=[generator.classes[c] for c in kept.rows["class"]]))
            )
        (tmp_path / name).mkdir()
        save_images(tmp_path / name, np.concatenate([p for p, _ in parts]), pd.concat([r for _, r in parts]))
        pools[f"synthetic/{name}"] = tmp_path / name, args
    found = sets_of_pools(pools, generator, classes=generator.classes, device="cpu")
    assert [(one.part, len(one.steps), one.changed) for one in found] == [
        ("train", 1, True), ("train", 1, True), ("train", 1, True), ("test", 3, False),
    ]  # fmt: skip
    for one in found[:3]:
        assert one.pixels is not None
        seeds, codes = one.table["seed"].to_numpy(), one.table["class"].to_numpy()
        assert (one.pixels == generator.sample(codes, seeds)).all()
    facts = what_changes(found[3])
    assert found[3].pixels is None and facts["made"] == facts["kept"] and facts["made"]["flagged"] == 6
    assert what_changes(found[2])["made"]["classes"] == {"b": 4}


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    presets: dict[str, dict[str, object]] = {"smoke": {"noise": 30.0}, "some": {"noise": 30.0, "copy_every": 12}}
    monkeypatch.setattr("tests.study.toy_synthesizer.METHOD", _with(presets))


@pytest.mark.usefixtures("_toy")
def test_a_study_measures_every_set_of_images_before_and_after(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    some = PROBE | {"synthesize": {"method": "toy", "copy_every": 6}}
    strategies = {"one": some, "two": some | {"ratio": 2}, "same": some | {"train_on": "synthetic"}}
    study = make_study(clinic, strategies=strategies, budgets=["100%"], repeats=1)
    assert run_study(study, out=tmp_path / "run", settings=settings).failed == 0
    (folder,) = folders(tmp_path / "run", "audit")
    record = read_json(folder / "record.json")
    found = record["filtering"]
    assert [(one["part"], len(one["steps"])) for one in found] == [("train", 1), ("train", 1), ("test", 2)]
    for one in found:
        wanted = one["made"]["classes"]
        assert one["changed"] and one["made"]["flagged"] >= sum(-(-n // 6) for n in wanted.values())
        assert one["kept"]["flagged"] == 0 and one["kept"]["classes"] == wanted
        assert {name: each["rows"] for name, each in one["fidelity"].items()} == {
            "made": one["rows"],
            "kept": one["rows"],
        }
        assert one["audit_flagged"]["kept"] < one["audit_flagged"]["made"]
    # the test images made first are the very images of the audit
    assert found[2]["fidelity"]["made"] == record["fidelity"]
    # an audit does without a pool that failed, says so, and is made again once the pool is there
    run, plan = tmp_path / "run", open_run(tmp_path / "run").plan
    (step,) = [one for one in plan.wanted if one.kind == "audit"]
    lost = plan.steps[step.after[0]]
    for one in (lost, step):
        (run / "artifacts" / one.kind / one.key / "record.json").unlink()
    assert run_step(str(run), step.id, settings)["outcome"] == "done"
    short = read_json(folder / "record.json")
    assert lost.name in short["synthetic_missing"] and len(short["filtering"]) == 2
    assert {step.id, lost.id} <= set(needed(run, plan))


@pytest.mark.usefixtures("_toy")
@pytest.mark.parametrize(("preset", "lines"), [("smoke", 1), ("some", 12)])
def test_the_audit_of_a_dataset_says_what_its_filter_changed(
    clinic: Dataset,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    lines: int,
) -> None:
    resolve = backbones.resolve
    monkeypatch.setattr(
        backbones, "resolve", lambda name, *, weights, seed: resolve("test_resnet.r160_in1k", weights="none", seed=0)
    )
    wishes = Wishes(method="toy", preset=preset, size=32, count=30)
    assert make_dataset(clinic, tmp_path / "d2", wishes=wishes, settings=settings).blocked is None
    places = ["--real", str(clinic.folder), "--synthetic", str(tmp_path / "d2"), "--out", str(tmp_path / "audit")]
    assert run_cli(["audit", *places, "--cache", settings.cache]) in (0, 3)
    (found,) = read_json(tmp_path / "audit" / "record.json")["filtering"]
    summary = (tmp_path / "audit" / "summary.md").read_text(encoding="utf-8")
    if lines == 1:
        assert "Filter: none of the 30 images made was flagged" in summary and "fidelity" not in found
        assert "## What filtering changed" not in summary
    else:
        assert found["made"]["images"] == found["kept"]["images"] == 30 and found["made"]["flagged"] >= 2
        assert "## What filtering changed" in summary and "| flagged by the filter | " in summary
        assert set(found["fidelity"]) == {"made", "kept"}
