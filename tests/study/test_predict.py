"""Prediction and external evaluation: new images take the path of training, misfits are refused, nothing is seen twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.study.conftest import NETWORK, PROBE, make_study
from wazuka.core.errors import ArtifactError, DataError
from wazuka.core.records import read_json, read_table
from wazuka.data.importers.listing import ImportOptions
from wazuka.data.importing import import_dataset
from wazuka.data.manifest import Dataset
from wazuka.data.phantoms import make_clinic
from wazuka.study.context import Settings
from wazuka.study.final import make_final
from wazuka.study.predict import evaluate_model, open_model, predict
from wazuka.study.run import run_study


@pytest.fixture(scope="module")
def run(clinic: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "run"
    settings = Settings(cache=str(tmp_path_factory.getbasetemp() / "study-cache"), threads=1, workers=1)
    study = make_study(clinic, strategies={"probe": PROBE, "net": NETWORK}, budgets=["100%"], repeats=1)
    run_study(study, out=folder, settings=settings)
    make_final(folder, strategy="probe", reason="the baseline", settings=settings)
    return folder


@pytest.fixture(scope="module")
def other_site(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Other simulated patients, whose ids happen to be spelled like the first clinic's."""
    folder = tmp_path_factory.mktemp("other")
    make_clinic(folder / "source", patients=8, patches=3, side=48, corrupt=0, duplicates=0, seed=99)
    options = ImportOptions(
        table=folder / "source" / "labels.csv", image="image", label="label", patient="patient", domain="scanner"
    )
    return import_dataset(folder / "source", folder / "dataset", options=options, workers=1)


def test_a_trials_predictor_gives_new_files_the_trials_own_probabilities(
    run: Path, clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    for one in read_json(run / "plan.json")["trials"]:
        folder = run / "trials" / one["key"]
        expected = read_table(folder / "predictions.parquet").set_index("id")
        source = tmp_path / one["strategy"] / "images"
        source.mkdir(parents=True)
        paths = clinic.usable.set_index("id")["path"]
        for name in expected.index:
            shutil.copy(clinic.path_of(paths[name]), source / f"{name.replace('/', '_')}.png")
        table, refused = predict(open_model(folder), source, out=tmp_path / one["strategy"] / "out", settings=settings)
        assert len(refused) == 0
        found = table.assign(id=table["id"].str.replace("images_", "images/")).set_index("id").loc[expected.index]
        columns = ["p_irregular", "p_regular"]
        np.testing.assert_allclose(found[columns], expected[columns], atol=1e-5)
        assert (found["predicted"] == expected["predicted"]).all()
        assert found["label"].isna().all()


def test_prediction_writes_its_tables_and_lists_what_it_refuses(
    run: Path, clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    source = tmp_path / "new"
    source.mkdir()
    shutil.copy(clinic.path_of(clinic.usable["path"].iloc[0]), source / "good.png")
    Image.new("RGB", (700, 700), "purple").save(source / "huge.png")
    (source / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    (source / "notes.txt").write_text("not an image")
    table, refused = predict(open_model(run), source, out=tmp_path / "out", settings=settings, explain=True)
    assert table["id"].tolist() == ["good"]
    reasons = dict(zip(refused["id"], refused["reason"], strict=True))
    assert set(reasons) == {"broken", "huge"}
    assert "beyond 2 times" in reasons["huge"]
    assert pd.read_csv(tmp_path / "out" / "refused.csv").shape == (2, 2)
    assert pd.read_csv(tmp_path / "out" / "predictions.csv")["id"].tolist() == ["good"]
    with Image.open(tmp_path / "out" / "explanations" / "good.png") as picture:
        assert picture.size == (32, 32)


def test_a_single_file_can_be_predicted_and_a_used_out_folder_is_refused(
    run: Path, clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    file = clinic.path_of(clinic.usable["path"].iloc[0])
    table, _ = predict(open_model(run), file, out=tmp_path / "out", settings=settings)
    assert len(table) == 1
    with pytest.raises(DataError, match="is not empty; choose another --out"):
        predict(open_model(run), file, out=tmp_path / "out", settings=settings)


def test_a_moved_final_folder_predicts_alone(run: Path, clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    shutil.copytree(run / "final", tmp_path / "mailed")
    file = clinic.path_of(clinic.usable["path"].iloc[0])
    first, _ = predict(open_model(run), file, out=tmp_path / "a", settings=settings)
    second, _ = predict(open_model(tmp_path / "mailed"), file, out=tmp_path / "b", settings=settings)
    pd.testing.assert_frame_equal(first, second)


def test_gray_images_are_refused_by_a_color_model(run: Path, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "gray").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48), np.uint8)).save(tmp_path / "gray" / "a.png")
    with pytest.raises(DataError, match="has gray8 pixels, but the model was trained on rgb8"):
        predict(open_model(run), tmp_path / "gray", out=tmp_path / "out", settings=settings)


def test_a_folder_without_a_model_says_what_would_be_right(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no model; give a run folder"):
        open_model(tmp_path)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run / "plan.json", unfinished)
    with pytest.raises(ArtifactError, match="has no finished model yet"):
        open_model(unfinished)


def test_another_sites_labels_are_scored_with_intervals(
    run: Path, other_site: Dataset, settings: Settings, tmp_path: Path
) -> None:
    scores = evaluate_model(open_model(run), other_site, out=tmp_path / "out", settings=settings)
    row = scores[(scores["metric"] == "auroc") & (scores["test_domain"] == "all") & (scores["class"] == "")].iloc[0]
    predictions = read_table(tmp_path / "out" / "predictions.parquet")
    from sklearn.metrics import roc_auc_score

    truth = predictions["label"] == other_site.card.positive
    assert row["value"] == pytest.approx(roc_auc_score(truth, predictions[f"p_{other_site.card.positive}"]))
    assert row["low"] <= row["value"] <= row["high"]
    assert row["n_patients"] == 8
    assert "| auroc |" in (tmp_path / "out" / "summary.md").read_text()


def test_a_dataset_that_the_model_has_seen_is_refused(
    run: Path, clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"images of .* were used to train this model"):
        evaluate_model(open_model(run), clinic, out=tmp_path / "out", settings=settings)


def test_labels_that_the_model_does_not_know_are_refused(
    run: Path, other_site: Dataset, settings: Settings, tmp_path: Path
) -> None:
    import dataclasses

    manifest = other_site.manifest.assign(label=other_site.manifest["label"].str.replace("irregular", "odd"))
    strange = dataclasses.replace(other_site, manifest=manifest)
    with pytest.raises(DataError, match="has the label `odd`, the model knows irregular, regular"):
        evaluate_model(open_model(run), strange, out=tmp_path / "out", settings=settings)
