"""Strategies with synthetic images: who sees what, what trials are trained and tested on, the memorization check."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.study.conftest import NETWORK, PROBE, make_study
from wazuka import synthesize
from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.core.records import read_json, read_table
from wazuka.data.manifest import Dataset
from wazuka.nn import generators
from wazuka.study.context import Settings, open_run, pixels_of
from wazuka.study.data import load_study_data, make_splits
from wazuka.study.final import make_final
from wazuka.study.plan import step_folder
from wazuka.study.planner import make_plan
from wazuka.study.rows import generator_patients
from wazuka.study.run import run_study
from wazuka.study.synthetic.images import choose, open_images, seeds_of, wanted, weight

BOTH = PROBE | {"synthesize": "toy"}
STRATEGIES: dict[str, Any] = {
    "probe": PROBE,
    "both": BOTH,
    "only": BOTH | {"train_on": "synthetic", "ratio": 2},
    "then": BOTH | {"train_on": "synthetic-then-real"},
    "halves": BOTH | {"split_budget": True, "budgets": ["100%"]},
    "net": NETWORK | {"synthesize": "toy"},
}


def plant(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(synthesize.METHODS.modules, "toy", "tests.study.toy_synthesizer")
    patch.setitem(generators.KINDS, "toy", "tests.study.toy_synthesizer:ToyGenerator")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)


@pytest.fixture(scope="module")
def done(clinic: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of every way to train on synthetic images."""
    run = tmp_path_factory.mktemp("runs") / "synthetic"
    settings = Settings(cache=str(tmp_path_factory.getbasetemp() / "study-cache"), threads=1, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        outcome = run_study(make_study(clinic, strategies=STRATEGIES), out=run, settings=settings)
    assert (outcome.failed, outcome.failures) == (0, ())
    return run


def folders(run: Path, kind: str) -> list[Path]:
    plan = open_run(run).plan
    found = [step_folder(run, one) for one in plan.steps.values() if one.kind == kind]
    return [one for one in found if one is not None]


def test_generators_are_shared_by_strategies_with_the_same_settings(done: Path) -> None:
    # two repeats of two budgets for four strategies, two repeats of one budget for the halves
    assert len(folders(done, "synthesize")) == 2 * 2 + 2
    assert len(folders(done, "audit")) == 2 * 2 + 2


def test_a_generator_sees_the_rows_of_its_budget_and_no_test_patient(done: Path, clinic: Dataset) -> None:
    context = open_run(done)
    for step in context.plan.steps.values():
        if step.kind != "synthesize":
            continue
        handed = read_json(done / "artifacts" / "synthesize" / step.key / "handed.json")
        ids = clinic.usable["id"].iloc[handed["rows"]]
        split = context.splits[step.args["repeat"], "all"].set_index("id")
        assert split.loc[ids, "rank"].notna().all() and (split.loc[ids, "role"] != "test").all()
        tested = set(split.loc[split["role"] == "test", "patient"])
        assert not tested & set(split.loc[ids, "patient"])
        if step.args["budget"] == "12":
            assert (split.loc[ids, "rank"] < 12).all()
        if any(handed["is_val"]):
            assert ((split.loc[ids, "role"] == "val").to_numpy() == handed["is_val"]).all()
        assert (clinic.usable["label"].iloc[handed["rows"]].to_numpy() == [context.data.classes[one] for one in handed["labels"]]).all()  # fmt: skip


def test_a_split_budget_gives_generator_and_classifier_different_patients(done: Path) -> None:
    context = open_run(done)
    for trial in context.plan.trials:
        if trial.args["strategy"] != "halves":
            continue
        made = context.plan.steps[trial.args["synthetic"]["step"]]
        maker = read_table(done / "artifacts" / "synthesize" / made.args["generator"].split("/")[1] / "seen.parquet")
        seen = read_table(done / "trials" / trial.key / "seen.parquet")
        assert set(maker["image_sha256"]) < set(seen["image_sha256"])
        own = seen[~seen["image_sha256"].isin(set(maker["image_sha256"]))]
        assert len(own) and not set(own["patient_hash"]) & set(maker["patient_hash"])


def test_a_patients_side_does_not_change_with_the_budget() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"patient": rng.integers(0, 15, 60).astype(str), "label": rng.choice(["a", "b"], 60)})
    whole = generator_patients(rows)
    for n in (5, 17, 40):
        assert (generator_patients(rows.head(n)) == whole[:n]).all()
    assert not set(rows.loc[whole, "patient"]) & set(rows.loc[~whole, "patient"])
    assert 15 <= whole.sum() <= 45


def test_seeds_of_training_and_testing_never_meet_and_ratios_are_nested() -> None:
    def seeds(count: int, *, testing: bool) -> set[int]:
        return {int(one) for label in range(3) for one in seeds_of(label, 0, count, classes=3, testing=testing)}

    assert not seeds(50, testing=False) & seeds(50, testing=True)
    assert len(seeds(50, testing=False)) == 150
    assert seeds(10, testing=False) < seeds(20, testing=False)


def test_images_of_each_class_follow_ratio_and_classes() -> None:
    counts = np.array([10, 3])
    assert wanted(counts, ratio=0.5, classes="all").tolist() == [5, 2]
    assert wanted(counts, ratio=2, classes="rare-only").tolist() == [0, 6]
    assert wanted(np.array([1, 1]), ratio=0.1, classes="all").tolist() == [1, 1]


def test_memorized_images_are_replaced_by_spares_unless_a_class_would_vanish() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1])  # three of each wanted, one spare each
    marks = np.array([0, 1, 0, 0, 0, 0, 0, 1], bool)
    chosen, filtered = choose(labels, marks, np.array([3, 3]))
    assert chosen.tolist() == [0, 2, 3, 4, 5, 6] and filtered
    chosen, filtered = choose(labels, np.array([1, 1, 1, 0, 0, 0, 0, 0], bool), np.array([3, 3]))
    assert chosen.tolist() == [0, 1, 2, 3, 4, 5] and not filtered


def test_every_trial_is_tested_on_as_many_synthetic_images_with_the_same_class_shares(done: Path) -> None:
    results = read_table(done / "results.parquet")
    assert set(results.loc[results["test_domain"] == "synthetic", "strategy"]) == set(STRATEGIES)
    for trial in open_run(done).plan.trials:
        table = read_table(done / "trials" / trial.key / "predictions.parquet")
        parts = table.assign(real=table["test_domain"] != "synthetic").groupby("real")["label"].value_counts()
        assert parts[True].to_dict() == parts[False].to_dict()
        assert table.loc[table["test_domain"] == "synthetic", "id"].str.match(r"synthetic/.+/\d*[13579]$").all()


def test_training_pools_hold_the_ratio_of_each_class(done: Path) -> None:
    context = open_run(done)
    for trial in context.plan.trials:
        given, record = trial.args["synthetic"], read_json(done / "trials" / trial.key / "record.json")
        if trial.args["strategy"] == "probe":
            assert given is None and "memorization" not in record
            continue
        rows = read_table(done / "artifacts" / "synthetic" / given["step"].split("/")[1] / "rows.parquet")
        train = rows[rows["part"] == "train"]
        assert (train["seed"] % 2 == 0).all()
        if trial.args["strategy"] != "halves":
            assert len(train) == trial.args["labels"] * given["ratio"]
        assert record["train_on"] == given["train_on"] and record["memorization"] is not None


def test_the_audit_leaves_its_checks_figures_and_pictures(done: Path) -> None:
    for folder in folders(done, "audit"):
        record = read_json(folder / "record.json")
        assert {one["code"] for one in record["checks"]} >= {"WZ201", "WZ203"}
        assert set(record["pictures"]) >= {"grid"}
        for name in record["pictures"].values():
            assert (folder / name).stat().st_size > 100
        assert "test images" in record["compared_with"]


def test_a_generator_that_copies_is_caught_and_its_images_are_not_used(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    cheat = BOTH | {"synthesize": {"method": "toy", "copies": True}}
    study = make_study(clinic, strategies={"probe": PROBE, "cheat": cheat}, budgets=["100%"], repeats=1)
    assert run_study(study, out=tmp_path / "run", settings=settings).failed == 0
    (folder,) = folders(tmp_path / "run", "synthetic")
    found = read_json(folder / "record.json")["memorization"]
    assert found["outcome"] == "issue", str(found)
    assert found["flagged"] > found["images"] / 2


def test_a_generator_that_fails_costs_the_other_strategies_nothing(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    broken = BOTH | {"synthesize": {"method": "toy", "fail": True}}
    study = make_study(clinic, strategies={"probe": PROBE, "broken": broken}, budgets=[12], repeats=1)
    outcome = run_study(study, out=tmp_path / "run", settings=settings)
    assert (outcome.done, outcome.failed) == (1, 1)
    (trial,) = [one for one in open_run(tmp_path / "run").plan.trials if one.args["strategy"] == "probe"]
    assert "failed" in read_json(tmp_path / "run" / "trials" / trial.key / "record.json")["synthetic_missing"]


def test_a_trial_that_missed_its_synthetic_test_is_made_again_once_the_generator_is_there(
    clinic: Dataset, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(clinic, strategies={"probe": PROBE, "both": BOTH}, budgets=[12], repeats=1)
    with monkeypatch.context() as patch:
        patch.setattr("wazuka.study.synthetic.steps.train_generator", lambda *given, **named: 1 / 0)
        assert run_study(study, out=tmp_path / "run", settings=settings).failed == 1
    outcome = run_study(study, out=tmp_path / "run", settings=settings)
    assert (outcome.done, outcome.kept, outcome.failed) == (2, 0, 0)
    whole = run_study(study, out=tmp_path / "whole", settings=settings)
    assert whole.done == 2
    for trial in open_run(tmp_path / "run").plan.trials:
        for name in ("predictions.parquet", "results.parquet"):
            tables = [read_table(tmp_path / run / "trials" / trial.key / name) for run in ("run", "whole")]
            pd.testing.assert_frame_equal(*tables)
            assert (tables[0]["test_domain"] == "synthetic").any()
    assert run_study(study, out=tmp_path / "run", settings=settings).kept == 2


def test_images_of_the_rare_class_alone_weigh_what_they_are() -> None:
    assert weight(np.array([80, 20]), ratio=1, classes="rare-only") == 0.2
    assert weight(np.array([80, 20]), ratio=0.5, classes="all") == 0.5


def test_features_are_cached_by_what_the_images_are(done: Path, settings: Settings, tmp_path: Path) -> None:
    context = open_run(done)
    step = next(one for one in context.plan.steps.values() if one.kind == "synthetic")
    cache = pixels_of(context, step.args["pixels"], settings)
    folder = done / "artifacts" / "synthetic" / step.key
    shutil.copytree(folder, tmp_path / "other")
    same = open_images(tmp_path / "other", key=step.key, like=cache)
    assert open_images(folder, key=step.key, like=cache).key == same.key
    np.save(tmp_path / "other" / "images.npy", 255 - np.load(folder / "images.npy"))
    assert open_images(tmp_path / "other", key=step.key, like=cache).key != same.key


def test_strategies_whose_images_no_generator_makes_are_named(clinic: Dataset) -> None:
    study = make_study(clinic, strategies={"probe": PROBE | {"image": {"size": 48}}, "both": BOTH}, repeats=1)
    data = load_study_data(study)
    plan = make_plan(study, data, make_splits(study, data))
    assert [what for what, _ in plan.not_measured] == ["probe on synthetic images"]


def test_held_out_images_of_an_audit_are_of_the_generators_own_domains(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    study = make_study(clinic, strategies={"both": BOTH}, budgets=[12], repeats=1, test={"domain": "leave-one-out"})
    assert run_study(study, out=tmp_path / "run", settings=settings).failed == 0
    for folder in folders(tmp_path / "run", "audit"):
        record = read_json(folder / "record.json")
        assert "other training images" in record["compared_with"]
        assert record["fidelity"]["rows"] > 10


@pytest.mark.parametrize("strategy", ["then", "halves", "net"])
def test_the_final_model_has_a_generator_of_its_own(
    done: Path, tmp_path: Path, settings: Settings, strategy: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    record = make_final(run, strategy=strategy, reason="a test", settings=settings)
    notes = record["synthesis_notes"]
    assert notes["images"] == record["labels"] or strategy == "halves"
    assert "outcome" in notes["memorization"]
    assert not list((run / "final").glob("checkpoint*"))
    seen = read_table(run / "final" / "seen.parquet")
    assert seen["labeled"].all() and len(seen) == open_run(run).data.table["label"].notna().sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_on": "fake"}, "Unknown way to train `fake`"),
        ({"ratio": 0}, "ratio is 0; give synthetic images per real one, above 0"),
        ({"ratio": True}, "ratio is True"),
        ({"classes": "rare"}, "Did you mean `rare-only`?"),
        ({"classes": "rare-only", "train_on": "synthetic"}, "cannot learn from alone"),
        ({"split_budget": "yes"}, "split_budget is 'yes'; write true or false"),
        ({"dp": {"epsilon": 8, "delta": 1e-4}}, "`toy` cannot train under differential privacy"),
        ({"dp": {"epsilon": 0, "delta": 1e-4}}, "`epsilon` is 0.0; give a number above 0"),
        ({"adapt": "knn"}, "`knn` cannot train on synthetic images; use linear-probe"),
        ({"remedies": "domain-balanced", "adapt": "finetune"}, "does not go with `synthesize`"),
    ],
)
def test_each_mistake_is_one_clear_line(clinic: Dataset, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_study(clinic, strategies={"both": BOTH | changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["train_on", "ratio", "split_budget", "classes", "dp"])
def test_a_key_without_a_generator_has_no_effect_and_is_refused(clinic: Dataset, key: str) -> None:
    with pytest.raises(ConfigError, match=f"`{key}` has no effect without a generator"):
        make_study(clinic, strategies={"probe": PROBE | {key: "synthetic"}})


def test_a_budget_too_small_to_be_split_is_refused_before_anything_runs(
    clinic: Dataset, tmp_path: Path, settings: Settings
) -> None:
    study = make_study(clinic, strategies={"halves": BOTH | {"split_budget": True}}, budgets=[4])
    with pytest.raises(NotEnoughData, match="Budget 4 is too small for `split_budget`"):
        run_study(study, out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()
