"""A strategy that pretrains: what the pretrainer is handed, what its artifact holds, and that all else goes on from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.study.conftest import NETWORK, PROBE, make_study
from tests.study.toy_pretrainer import METHOD
from wazuka import pretrain
from wazuka.core.errors import ConfigError, DataError
from wazuka.core.records import read_json, read_table
from wazuka.data.manifest import Dataset
from wazuka.nn import predictors
from wazuka.nn.encoders import load_encoder
from wazuka.study.context import Settings, open_run, pixels_of
from wazuka.study.final import make_final
from wazuka.study.planner import make_plan
from wazuka.study.predict import check_unseen, open_model
from wazuka.study.run import run_study
from wazuka.training.roles import Pretrainer

TOY = PROBE | {"pretrain": "toy"}


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pretrain.METHODS.modules, "toy", "tests.study.toy_pretrainer")


@pytest.fixture(scope="module")
def done(clinic: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of a probe and a network, each with and without pretraining."""
    run = tmp_path_factory.mktemp("runs") / "pretrained"
    settings = Settings(cache=str(tmp_path_factory.getbasetemp() / "study-cache"), threads=1, workers=1)
    strategies = {"probe": PROBE, "toy": TOY, "toy-net": NETWORK | {"pretrain": "toy"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pretrain.METHODS.modules, "toy", "tests.study.toy_pretrainer")
        outcome = run_study(make_study(clinic, strategies=strategies), out=run, settings=settings)
        assert (outcome.done, outcome.failures) == (10, ())
        make_final(run, strategy="toy", reason="a test", settings=settings)
    return run


def artifact(run: Path) -> Path:
    (folder,) = (run / "artifacts" / "pretrain").iterdir()
    return folder


def test_it_runs_once_for_all_repeats_budgets_and_adapters(done: Path) -> None:
    assert isinstance(METHOD, Pretrainer)
    record = read_json(artifact(done) / "record.json")
    assert record["step"] == "pretrain" and record["notes"] == {"images": record["images"]}
    assert {"rows_hash", "seed", "license", "backbone", "config", "curves"} <= set(record)


def test_it_is_handed_the_training_images_and_no_label(done: Path, clinic: Dataset) -> None:
    handed = read_json(artifact(done) / "handed.json")
    assert set(handed) == {"name", "images", "encoder", "seed", "intensity", "window", "rows"}
    assert set(handed["images"]) == {"source", "rows", "_array"}
    splits = read_table(done / "splits.parquet")
    train = set(splits.loc[(splits["repeat"] == 0) & (splits["role"] != "test"), "id"])
    assert set(clinic.usable["id"].iloc[handed["rows"]]) == train


def test_the_artifact_says_what_it_saw_without_labels(done: Path, clinic: Dataset) -> None:
    seen = read_table(artifact(done) / "seen.parquet")
    rows = clinic.usable.iloc[read_json(artifact(done) / "handed.json")["rows"]]
    assert not seen["labeled"].any()
    assert set(seen["image_sha256"]) == set(rows["sha256"])
    assert set(seen["patient_hash"]) == {hashlib.sha256(str(one).encode()).hexdigest() for one in rows["patient"]}


def test_a_predictor_says_what_its_encoder_saw(done: Path, clinic: Dataset) -> None:
    encoder = read_table(artifact(done) / "seen.parquet")
    for one in read_json(done / "plan.json")["trials"]:
        seen = read_table(done / "trials" / one["key"] / "seen.parquet")
        assert seen["labeled"].sum() == one["labels"]
        pretrained = one["strategy"] != "probe"
        assert set(seen["image_sha256"]) >= set(encoder["image_sha256"]) if pretrained else seen["labeled"].all()


def test_the_new_weights_are_those_that_the_trials_use_and_reload(done: Path) -> None:
    encoder = load_encoder(artifact(done))
    encoder.build()  # checks its hash
    assert encoder.pretrained
    context = open_run(done)
    images = pixels_of(
        context, context.plan.trials[0].args["pixels"][0], Settings(cache=str(done.parents[1] / "study-cache"))
    ).images(np.arange(4))
    for step in context.plan.trials:
        predictor = predictors.load(done / "trials" / step.key)
        same = predictor.encoder.weights_hash == encoder.weights_hash  # type: ignore[attr-defined]
        assert same == (step.args["strategy"] != "probe")
        assert np.isfinite(predictor.predict_images(images)).all()
        if step.args["features"]:
            assert isinstance(predictor, predictors.FeaturePredictor)


def test_the_final_model_is_pretrained_on_all_images_and_self_contained(done: Path, clinic: Dataset) -> None:
    final = done / "final"
    record, seen = read_json(final / "record.json"), read_table(final / "seen.parquet")
    assert record["pretrain_notes"] == {"images": len(clinic.usable)}
    assert set(seen["image_sha256"]) == set(clinic.usable["sha256"])
    assert not list(final.glob("checkpoint*"))
    assert predictors.load(final).encoder.path.is_relative_to(final.resolve())  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="were used to train this model"):
        check_unseen(open_model(done), clinic)


@pytest.mark.parametrize("form", ["{folder}", "test_resnet.r160_in1k={folder}/encoder.safetensors"])
def test_the_artifact_is_a_backbone_of_another_study(
    form: str, done: Path, clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    backbone = form.format(folder=artifact(done))
    strategies = {"again": {"backbone": backbone, "adapt": "linear-probe"}}
    study = make_study(clinic, strategies=strategies, budgets=["100%"], repeats=1, seed=5)
    assert run_study(study, out=tmp_path / "run", settings=settings).failures == ()
    plan = read_json(tmp_path / "run" / "plan.json")
    assert any("pretrained on unlabeled test images" in one["why"] for one in plan["not_measured"])
    seen = read_table(tmp_path / "run" / "trials" / plan["trials"][0]["key"] / "seen.parquet")
    assert set(read_table(artifact(done) / "seen.parquet")["image_sha256"]) <= set(seen["image_sha256"])
    assert seen["labeled"].sum() == plan["trials"][0]["labels"]


def test_each_train_domain_has_its_own_pretraining_on_its_own_images(clinic: Dataset) -> None:
    from wazuka.study import data as study_data
    from wazuka.study import rows as study_rows

    test = {"domain": "leave-one-out", "redraw": False}
    study = make_study(clinic, strategies={"toy": TOY}, test=test, budgets=["100%"])
    data = study_data.load_study_data(study)
    table = study_data.make_splits(study, data)
    plan = make_plan(study, data, table)
    made = [one for one in plan.steps.values() if one.kind == "pretrain"]
    assert {one.args["train_domain"] for one in made} == {f"not:{one}" for one in data.domains}
    for one in made:
        rows = table[(table["repeat"] == one.args["repeat"]) & (table["train_domain"] == one.args["train_domain"])]
        found = study_rows.pretraining_rows(data, rows, train_domain=one.args["train_domain"])
        assert len(found) == one.args["images"]
        assert one.args["train_domain"].removeprefix("not:") not in set(found["domain"])


def test_a_failed_pretraining_fails_its_trials_and_no_other(
    clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    strategies = {"toy": TOY | {"pretrain": {"method": "toy", "fail": True}}, "probe": PROBE}
    study = make_study(clinic, strategies=strategies, budgets=["100%"], repeats=1)
    outcome = run_study(study, out=tmp_path / "run", settings=settings)
    assert (outcome.done, outcome.failed) == (1, 1)
    assert "no luck today" in outcome.failures[0][1]


def test_a_backbone_that_stays_frozen_cannot_be_pretrained(
    clinic: Dataset, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from wazuka.nn import backbones

    frozen = dataclasses.replace(backbones.resolve(PROBE["backbone"], weights="none"), kind="onnx")
    monkeypatch.setattr(backbones, "resolve", lambda *args, **more: frozen)
    with pytest.raises(ConfigError, match=r"`toy` trains the network, which an ONNX backbone .* does not allow"):
        run_study(make_study(clinic, strategies={"toy": TOY}), out=tmp_path / "run", settings=settings)
