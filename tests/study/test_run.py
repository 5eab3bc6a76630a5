"""A study end to end: the run folder keeps its contract, resumes, survives failures, and is the same for any workers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.study.conftest import NETWORK, PROBE, TINY, make_study, study_values
from wazuka.core.errors import ArtifactError, DataError, NotEnoughData, OutOfSpace
from wazuka.core.records import read_json, read_table, write_table
from wazuka.data.manifest import Dataset
from wazuka.evaluate.intervals import RESULT_COLUMNS
from wazuka.study import steps, trial
from wazuka.study.config import resolve_study
from wazuka.study.context import Settings, features_of, open_run
from wazuka.study.final import make_final
from wazuka.study.run import locked, run_study


def stamps(run: Path) -> dict[str, tuple[int, str]]:
    """Modification time and content of every record: a finished step is never written again."""
    found = {}
    for path in sorted(run.rglob("record.json")):
        found[str(path.relative_to(run))] = (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def numbers(run: Path) -> dict[str, bytes]:
    """The bytes that must not depend on how a study was carried out."""
    found = {"results": (run / "results.parquet").read_bytes(), "splits": (run / "splits.parquet").read_bytes()}
    for path in sorted((run / "trials").glob("*/predictions.parquet")):
        found[path.parent.name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def done(clinic: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run, shared by the tests that only look at it."""
    run = tmp_path_factory.mktemp("runs") / "done"
    settings = Settings(cache=str(tmp_path_factory.getbasetemp() / "study-cache"), threads=1, workers=1)
    outcome = run_study(make_study(clinic), out=run, settings=settings)
    assert (outcome.done, outcome.kept, outcome.failed) == (6, 0, 0)
    return run


def test_a_run_folder_holds_what_the_contract_names(done: Path) -> None:
    plan = read_json(done / "plan.json")
    assert {"study_key", "trials", "steps", "estimate", "not_measured", "schema"} <= set(plan)
    assert len(plan["trials"]) == 6
    for one in plan["trials"]:
        folder = done / "trials" / one["key"]
        record = read_json(folder / "record.json")
        for name in ("strategy", "budget", "labels", "repeat", "train_domain", "local_labels"):
            assert record[name] == one[name]
        assert {"rows_hash", "split_hash", "seed", "versions", "seconds", "peak_memory_mb", "threshold"} <= set(record)
        assert record["key"] == one["key"]
        seen = read_table(folder / "seen.parquet")
        assert list(seen.columns) == ["patient_hash", "image_sha256", "labeled"]
        assert len(seen) == record["labels"]
    data = read_json(done / "data.json")
    assert {"card", "counts", "checks", "leakage", "simulated"} <= set(data)
    assert "root" not in data["card"]
    assert yaml.safe_load((done / "study.yaml").read_text())["baseline"] == "probe"


def test_results_have_the_contracts_columns_and_no_aggregate(done: Path) -> None:
    table = read_table(done / "results.parquet")
    assert list(table.columns) == list(RESULT_COLUMNS)
    auroc = table[(table["metric"] == "auroc") & (table["test_domain"] == "all")]
    assert len(auroc) == 6
    assert set(table["test_domain"]) == {"all", "Alpha 200", "Beta XT", "Gamma S"}
    known = auroc.dropna(subset=["value"])
    assert ((known["low"] <= known["value"]) & (known["value"] <= known["high"])).all()


def test_test_patients_are_seen_by_nothing_before_prediction(done: Path, clinic: Dataset) -> None:
    splits = read_table(done / "splits.parquet")
    patients = clinic.usable.set_index("id")["patient"]
    for one in read_json(done / "plan.json")["trials"]:
        folder = done / "trials" / one["key"]
        group = splits[splits["repeat"] == one["repeat"]]
        test = {hashlib.sha256(str(patients[i]).encode()).hexdigest() for i in group.loc[group["role"] == "test", "id"]}
        assert not test & set(read_table(folder / "seen.parquet")["patient_hash"])
        predicted = read_table(folder / "predictions.parquet")
        assert set(predicted["id"]) == set(group.loc[group["role"] == "test", "id"])
        assert np.allclose(predicted[["p_irregular", "p_regular"]].sum(axis=1), 1)


def test_all_strategies_share_the_test_patients_of_a_repeat_and_budgets_are_nested(done: Path) -> None:
    seen: dict[tuple[str, int], dict[str, set[str]]] = {}
    tested: dict[int, set[frozenset[str]]] = {}
    for one in read_json(done / "plan.json")["trials"]:
        folder = done / "trials" / one["key"]
        images = set(read_table(folder / "seen.parquet")["image_sha256"])
        seen.setdefault((one["strategy"], one["repeat"]), {})[one["budget"]] = images
        tested.setdefault(one["repeat"], set()).add(frozenset(read_table(folder / "predictions.parquet")["patient"]))
    assert all(len(sets) == 1 for sets in tested.values())
    assert all(budgets["12"] < budgets["100%"] for budgets in seen.values())
    assert seen["probe", 0] == seen["net", 0]


def test_the_probes_scores_are_those_of_scikit_learn_on_the_runs_own_splits(
    done: Path, clinic: Dataset, settings: Settings
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    context = open_run(done)
    splits = read_table(done / "splits.parquet")
    for step in context.plan.trials:
        if step.args["strategy"] != "probe":
            continue
        record = read_json(done / "trials" / step.key / "record.json")
        features = np.asarray(features_of(context, step.args["features"][0], settings), np.float64)
        rows = clinic.usable.assign(number=range(len(clinic.usable))).set_index("id")
        group = splits[splits["repeat"] == step.args["repeat"]]
        train = rows.loc[group.loc[group["rank"] < step.args["labels"], "id"]]
        test = rows.loc[sorted(group.loc[group["role"] == "test", "id"])]
        scaler = StandardScaler().fit(features[train["number"]])
        model = LogisticRegression(C=record["notes"]["penalty"], tol=1e-10, max_iter=10_000)
        model.fit(scaler.transform(features[train["number"]]), train["label"])
        expected = model.predict_proba(scaler.transform(features[test["number"]]))
        found = read_table(done / "trials" / step.key / "predictions.parquet").set_index("id").loc[test.index]
        np.testing.assert_allclose(found[["p_irregular", "p_regular"]], expected, atol=1e-5)


def test_the_same_command_again_keeps_every_finished_step(done: Path, clinic: Dataset, settings: Settings) -> None:
    before = stamps(done)
    outcome = run_study(make_study(clinic), out=done, settings=settings)
    assert (outcome.done, outcome.kept, outcome.failed) == (0, 6, 0)
    assert stamps(done) == before


def test_two_processes_give_the_same_bytes_as_one(
    done: Path, clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    outcome = run_study(make_study(clinic), out=tmp_path / "run", settings=settings, workers=2)
    assert outcome.failed == 0
    assert numbers(tmp_path / "run") == numbers(done)


def test_another_study_or_stranger_in_the_folder_is_refused(
    done: Path, clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    before = stamps(done)
    with pytest.raises(ArtifactError, match=r"belongs to another study or to other data .* choose another --out"):
        run_study(make_study(clinic, seed=7), out=done, settings=settings)
    assert stamps(done) == before
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ArtifactError, match=r"is not empty and no run folder \(it holds `thesis.txt`\)"):
        run_study(make_study(clinic), out=tmp_path, settings=settings)
    with pytest.raises(ArtifactError, match=r"thesis.txt is a file; give a folder as --out"):
        run_study(make_study(clinic), out=tmp_path / "thesis.txt", settings=settings)


def test_overwrite_replaces_another_studys_run(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    small = {"budgets": ["100%"], "repeats": 1, "strategies": {"probe": PROBE}}
    run_study(make_study(clinic, **small), out=tmp_path / "run", settings=settings)
    outcome = run_study(make_study(clinic, seed=3, **small), out=tmp_path / "run", settings=settings, overwrite=True)
    assert (outcome.done, outcome.kept) == (1, 0)
    assert len(list((tmp_path / "run" / "trials").iterdir())) == 1


def test_a_run_folder_in_use_is_refused(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ArtifactError, match="is in use by another process"):
        run_study(make_study(clinic), out=tmp_path, settings=settings)


def test_a_failed_trial_is_recorded_the_rest_go_on_and_the_same_command_tries_it_again(
    clinic: Dataset, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(clinic, strategies={"probe": PROBE})
    real = trial.score

    def broken(context: Any, step: Any, *rest: Any) -> pd.DataFrame:
        if step.args["repeat"] == 1 and step.args["budget"] == "12":
            raise RuntimeError("the disk\nhiccuped")
        return real(context, step, *rest)

    monkeypatch.setattr(trial, "score", broken)
    outcome = run_study(study, out=tmp_path / "run", settings=settings)
    assert (outcome.done, outcome.failed) == (3, 1)
    assert outcome.failures == (("probe, 12 labels, repeat 2", "RuntimeError: the disk hiccuped"),)
    (failure,) = (tmp_path / "run" / "trials").glob("*/failure.json")
    assert not (failure.parent / "record.json").exists()
    values = json.loads(failure.read_text())
    assert (values["strategy"], values["budget"], values["repeat"]) == ("probe", "12", 1)
    assert "hiccuped" in values["traceback"]
    assert str(tmp_path) not in values["traceback"]
    assert set(read_table(tmp_path / "run" / "results.parquet").query("repeat == 1")["budget"]) == {"100%"}
    before = stamps(tmp_path / "run")
    monkeypatch.setattr(trial, "score", real)
    again = run_study(study, out=tmp_path / "run", settings=settings)
    assert (again.done, again.kept, again.failed) == (1, 3, 0)
    assert not failure.exists()
    after = stamps(tmp_path / "run")
    assert {name: after[name] for name in before} == before


def test_a_failed_solve_fails_its_trials_with_its_reason_and_no_others(
    clinic: Dataset, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no optimum")

    monkeypatch.setitem(steps.STEPS, "adapt", broken)
    outcome = run_study(make_study(clinic, repeats=1), out=tmp_path / "run", settings=settings)
    assert (outcome.done, outcome.failed) == (2, 2)
    assert all("no optimum" in reason for _, reason in outcome.failures)


def test_a_full_disk_stops_the_run_with_one_line_and_it_goes_on_later(
    clinic: Dataset, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(clinic, strategies={"probe": PROBE}, repeats=1)
    real = trial.score

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "run" / "x"))

    monkeypatch.setattr(trial, "score", full)
    with pytest.raises(OutOfSpace, match=r"No space left to write .* free some room"):
        run_study(study, out=tmp_path / "run", settings=settings)
    monkeypatch.setattr(trial, "score", real)
    assert run_study(study, out=tmp_path / "run", settings=settings).failed == 0


def test_final_is_refitted_on_every_label_and_kept(done: Path, clinic: Dataset, settings: Settings) -> None:
    record = make_final(done, strategy="probe", reason="the baseline", settings=settings)
    assert record["labels"] == clinic.usable["label"].notna().sum()
    assert {"latency_ms", "size_mb", "trained_params", "strategy", "reason", "seconds"} <= set(record)
    stamp = (done / "final" / "record.json").stat().st_mtime_ns
    assert make_final(done, strategy="probe", reason="the baseline", settings=settings) == record
    assert (done / "final" / "record.json").stat().st_mtime_ns == stamp
    assert len(read_table(done / "final" / "seen.parquet")) == record["labels"]


def test_leave_one_scanner_out_tests_only_the_left_out_domain(
    clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    study = make_study(
        clinic, test={"domain": "leave-one-out"}, strategies={"probe": PROBE}, budgets=["100%"], repeats=1
    )
    run_study(study, out=tmp_path / "run", settings=settings)
    table = read_table(tmp_path / "run" / "results.parquet")
    pairs = set(zip(table["train_domain"], table["test_domain"], strict=True))
    assert pairs == {(f"not:{one}", one) for one in ("Alpha 200", "Beta XT", "Gamma S")}


def test_each_to_each_tests_every_domain_from_every_domain(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    study = make_study(
        clinic, test={"domain": "each-to-each"}, strategies={"probe": PROBE}, budgets=["100%"], repeats=1
    )
    run_study(study, out=tmp_path / "run", settings=settings)
    table = read_table(tmp_path / "run" / "results.parquet")
    names = ("Alpha 200", "Beta XT", "Gamma S")
    assert set(zip(table["train_domain"], table["test_domain"], strict=True)) == {(a, b) for a in names for b in names}
    domains = clinic.usable.drop_duplicates("sha256").set_index("sha256")["domain"]
    for one in read_json(tmp_path / "run" / "plan.json")["trials"]:
        seen = read_table(tmp_path / "run" / "trials" / one["key"] / "seen.parquet")["image_sha256"]
        assert set(domains[seen]) == {one["train_domain"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": [3]}, "Budget 3 is too small"),
        ({"budgets": [5000]}, "Budget 5000"),
        ({"min_class_patients": 500}, "0 usable classes"),
        ({"test": {"column": "part"}}, "Unknown column `part`"),
    ],
)
def test_what_the_data_cannot_carry_is_refused_before_work_starts(
    clinic: Dataset, settings: Settings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((NotEnoughData, Exception), match=message):
        run_study(make_study(clinic, **changes), out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_equal_work_is_one_step_however_many_strategies_ask_for_it(clinic: Dataset, tmp_path: Path) -> None:
    from wazuka.study.data import load_study_data, make_splits
    from wazuka.study.planner import make_plan

    study = make_study(clinic, strategies={"a": PROBE, "b": PROBE, "net": NETWORK})
    data = load_study_data(study)
    plan = make_plan(study, data, make_splits(study, data))
    kinds = [one.kind for one in plan.steps.values()]
    assert (kinds.count("pixels"), kinds.count("encoder"), kinds.count("features"), kinds.count("adapt")) == (
        1,
        1,
        1,
        1,
    )
    assert len({one.key for one in plan.trials}) == len(plan.trials) == 10
    moved = resolve_study(
        study_values(clinic, strategies={"a": PROBE | {"backbone": TINY}}), folder=tmp_path, where="elsewhere"
    )
    again = make_plan(moved, data, make_splits(moved, data))
    assert {one.key for one in again.trials} < {one.key for one in plan.trials}
    assert os.sep not in "".join(one.key for one in plan.trials)


def test_a_manifest_edited_in_place_is_other_data(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    shutil.copytree(clinic.folder, folder)
    changes: dict[str, Any] = {"name": "s", "dataset": str(folder), "strategies": {"probe": PROBE}, "repeats": 1}
    run_study(make_study(clinic, **changes), out=tmp_path / "run", settings=settings)
    assert run_study(make_study(clinic, **changes), out=tmp_path / "run", settings=settings).done == 0
    manifest = read_table(folder / "manifest.parquet")
    row = int(manifest.index[manifest["label"].notna()][0])
    others = [one for one in clinic.card.classes if one != manifest.loc[row, "label"]]
    manifest.loc[row, "label"] = others[0]
    write_table(folder / "manifest.parquet", manifest)
    with pytest.raises(ArtifactError, match="belongs to another study or to other data"):
        run_study(make_study(clinic, **changes), out=tmp_path / "run", settings=settings)


@pytest.mark.parametrize("name", ["all", "synthetic", "not:Beta XT"])
def test_a_domain_named_as_a_test_part_is_refused(clinic: Dataset, tmp_path: Path, name: str) -> None:
    from wazuka.study.data import load_study_data

    folder = tmp_path / "renamed"
    shutil.copytree(clinic.folder, folder)
    manifest = read_table(folder / "manifest.parquet")
    manifest["domain"] = manifest["domain"].replace({"Alpha 200": name})
    write_table(folder / "manifest.parquet", manifest)
    with pytest.raises(DataError, match=f"has a domain named `{name}`"):
        load_study_data(make_study(clinic, dataset=str(folder)))


def test_final_does_not_go_on_from_another_strategys_checkpoint(
    clinic: Dataset, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wazuka.training import loop

    smooth = NETWORK | {"adapt": NETWORK["adapt"] | {"label_smoothing": 0.3}}
    changes: dict[str, Any] = {"strategies": {"a": NETWORK, "b": smooth}, "budgets": ["100%"], "repeats": 1}
    for name in ("clean", "interrupted"):
        run_study(make_study(clinic, **changes), out=tmp_path / name, settings=settings)
    make_final(tmp_path / "clean", strategy="b", reason="adopted", settings=settings)
    whole = loop._Loop._step

    def stop(self: loop._Loop) -> None:
        whole(self)
        self._save()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._Loop, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        make_final(tmp_path / "interrupted", strategy="a", reason="the baseline", settings=settings)
    monkeypatch.setattr(loop._Loop, "_step", whole)
    make_final(tmp_path / "interrupted", strategy="b", reason="adopted", settings=settings)
    one, other = (read_json(tmp_path / name / "final" / "record.json")["notes"] for name in ("clean", "interrupted"))
    assert one == other
    weights = [sorted((tmp_path / name / "final").glob("*.safetensors")) for name in ("clean", "interrupted")]
    assert [p.read_bytes() for p in weights[0]] == [p.read_bytes() for p in weights[1]] and weights[0]
    assert not list((tmp_path / "interrupted" / "final").glob("checkpoint*"))


def test_what_a_killed_process_was_writing_is_removed(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    study = make_study(clinic, strategies={"probe": PROBE}, budgets=["100%"], repeats=1)
    run_study(study, out=tmp_path / "run", settings=settings)
    (tmp_path / "run" / ".results.parquet.abc.part").write_text("half")
    run_study(study, out=tmp_path / "run", settings=settings)
    assert not list((tmp_path / "run").rglob("*.part"))


def test_soft_labels_are_a_switch_that_only_votes_allow(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    from wazuka.data import manifest, votes

    soft = {"soft": PROBE | {"soft_labels": True}, "hard": PROBE}
    with pytest.raises(Exception, match=r"asks for soft labels, but .* has no annotators' votes"):
        run_study(make_study(clinic, strategies=soft), out=tmp_path / "none", settings=settings)
    card, rows = clinic.card, clinic.manifest.copy()
    rng = np.random.default_rng(0)
    rows["votes_irregular"] = np.where(
        rows["label"] == "irregular", rng.integers(2, 4, len(rows)), rng.integers(0, 2, len(rows))
    )
    described = {"irregular": "votes_irregular", "voters": 3}
    card = dataclasses.replace(
        card, attributes=card.attributes | {"votes_irregular": "table"}, imported=card.imported | {"votes": described}
    )
    voted = manifest.save(tmp_path / "voted", card, rows, clinic.inspection)
    study = make_study(voted, strategies=soft, budgets=["100%"], repeats=1)
    run_study(study, out=tmp_path / "run", settings=settings)
    table = read_table(tmp_path / "run" / "results.parquet")
    brier = table[(table["metric"] == "brier") & (table["test_domain"] == "all")].set_index("strategy")["value"]
    assert brier["soft"] != brier["hard"]
    assert {"auroc_unanimous", "brier_disputed"} <= set(table["metric"])
    data = open_run(tmp_path / "run").data
    shares = data.soft_labels(data.table)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    expected = data.main.usable["votes_irregular"].to_numpy(float) / 3
    np.testing.assert_allclose(shares[:, data.classes.index("irregular")], expected[data.table["row"]])
    assert votes.unanimous(data.main.usable, card).mean() == pytest.approx(np.isin(expected, (0, 1)).mean())
