"""Remedies for domain shift and labels of a target domain, from the study file to the run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.study.conftest import NETWORK, PROBE, TINY, make_study
from tests.toy_images import as_images, make_task, noise, tiny_encoder
from wazuka.core.errors import ConfigError
from wazuka.core.records import read_json, read_table
from wazuka.data import splits
from wazuka.data.manifest import Dataset
from wazuka.nn import predictors
from wazuka.study.context import Settings, open_run, pixels_of
from wazuka.study.data import StudyData, split_groups
from wazuka.study.final import make_final
from wazuka.study.predict import open_model, predict
from wazuka.study.rows import LocalLabels, trial_rows
from wazuka.study.run import run_study
from wazuka.training import batches

NAMES = ("Alpha 200", "Beta XT", "Gamma S")
LORA: dict[str, Any] = {
    "backbone": TINY,
    "weights": "none",
    "adapt": {"method": "lora", "steps": 3, "batch": 4, "rank": 2},
}


def trials(run: Path) -> list[dict[str, Any]]:
    return [one | {"folder": run / "trials" / one["key"]} for one in read_json(run / "plan.json")["trials"]]


def test_local_labels_are_the_targets_first_training_rows_and_only_the_target_is_tested(
    clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    probe = PROBE | {"local_labels": [4, 8]}
    study = make_study(
        clinic, test={"domain": "each-to-each"}, strategies={"probe": probe}, budgets=["100%"], repeats=1
    )
    run_study(study, out=tmp_path / "run", settings=settings)
    splits = read_table(tmp_path / "run" / "splits.parquet")
    shas = clinic.usable.set_index("id")["sha256"]
    domains = clinic.usable.drop_duplicates("sha256").set_index("sha256")["domain"]
    results = read_table(tmp_path / "run" / "results.parquet")
    found = set(zip(results["train_domain"], results["test_domain"], results["local_labels"], strict=True))
    assert found == {(a, b, 0) for a in NAMES for b in NAMES} | {
        (a, b, n) for a in NAMES for b in NAMES if a != b for n in (4, 8)
    }
    for one in trials(tmp_path / "run"):
        seen = set(read_table(one["folder"] / "seen.parquet")["image_sha256"])
        tested = read_table(one["folder"] / "predictions.parquet")
        group = splits[splits["repeat"] == one["repeat"]]
        own = group[(group["train_domain"] == one["train_domain"]) & group["rank"].notna()]
        expected = set(shas[own["id"]])
        if one["local_labels"]:
            target = group[(group["train_domain"] == one["target_domain"]) & (group["rank"] < one["local_labels"])]
            expected |= set(shas[target["id"]])
            assert set(tested["test_domain"]) == {one["target_domain"]}
        assert seen == expected
        assert not seen & set(shas[tested["id"]])
        assert set(domains[list(seen)]) <= {one["train_domain"], one["target_domain"]}


@pytest.mark.parametrize("values", [LORA, NETWORK | {"repeats": 2}], ids=["lora", "finetune"])
def test_statistics_of_the_tested_images_are_taken_domain_by_domain(
    values: dict[str, Any], clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    study = make_study(
        clinic,
        strategies={"plain": values, "shifted": values | {"remedies": ["test-batchnorm"]}},
        budgets=["100%"],
        repeats=1,
    )
    run_study(study, out=tmp_path / "run", settings=settings)
    context = open_run(tmp_path / "run")
    one = next(one for one in context.plan.trials if one.args["strategy"] == "shifted")
    folder = tmp_path / "run" / "trials" / one.key
    assert read_json(folder / "record.json")["transductive"] is True
    table = read_table(folder / "predictions.parquet")
    predictor = predictors.load(folder)
    pixels = pixels_of(context, one.args["pixels"][0], settings)
    for domain in NAMES:
        part = table[table["domain"] == domain]
        rows = context.data.rows_of(part["id"].tolist())["row"].to_numpy(np.int64)
        images = pixels.images(rows)
        expected = predictors.settled(predictor, images).predict_images(images)
        np.testing.assert_array_equal(part[[f"p_{name}" for name in predictor.classes]].to_numpy(), expected)
    plain = next(one for one in trials(tmp_path / "run") if one["strategy"] == "plain")
    other = read_table(plain["folder"] / "predictions.parquet")
    assert (table["p_" + predictor.classes[0]] - other["p_" + predictor.classes[0]]).abs().max() > 1e-4


def test_a_final_model_of_every_kind_goes_through_predict(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    strategies = {
        "probe": PROBE,
        "lora": LORA,
        "net": NETWORK | {"repeats": 2},
        "shifted": LORA | {"remedies": ["test-batchnorm", "stain-jitter", "randaugment", "domain-balanced"]},
        "knn": PROBE | {"adapt": "knn"},
        "prototype": PROBE | {"adapt": "prototype"},
        "fixmatch": PROBE | {"adapt": {"method": "fixmatch", "steps": 2, "batch": 4}},
    }
    study = make_study(clinic, strategies=strategies, budgets=[12], repeats=1)
    assert run_study(study, out=tmp_path / "run", settings=settings).failed == 0
    for name in strategies:
        record = make_final(tmp_path / "run", strategy=name, reason=f"to see {name}", settings=settings)
        model = open_model(tmp_path / "run")
        out = tmp_path / f"predicted-{name}"
        table, refused = predict(model, clinic.folder, out=out, settings=settings)
        assert len(table) == len(clinic.usable) and len(refused) == 2  # the clinic has two corrupt files
        sums = table[[f"p_{one}" for one in model.predictor.classes]].sum(axis=1)
        np.testing.assert_allclose(sums, 1, atol=1e-6)
        assert record["size_mb"] > 0 and record["latency_ms"]["p95"] >= record["latency_ms"]["median"] > 0


@pytest.mark.parametrize(
    ("values", "test", "message"),
    [
        ({"remedies": ["stain-jiter"]}, {}, "Did you mean `stain-jitter`?"),
        ({"adapt": "linear-probe", "remedies": ["randaugment"]}, {}, "`randaugment` has no effect on `linear-probe`"),
        ({"local_labels": [10]}, {}, "which needs `test: {domain: each-to-each}`"),
        ({"local_labels": [10, 0]}, {"domain": "each-to-each"}, "has 0; give whole numbers of 1 or more"),
        ({"local_labels": [10, 10]}, {"domain": "each-to-each"}, "names 10 twice"),
        ({"remedies": ["domain-balanced"]}, {"domain": "each-to-each"}, "`domain-balanced` has no effect with"),
    ],
)
def test_switches_without_effect_are_refused(
    values: dict[str, Any], test: dict[str, Any], message: str, clinic: Dataset
) -> None:
    with pytest.raises(ConfigError, match=message.replace("{", r"\{").replace("}", r"\}").replace("?", r"\?")):
        make_study(clinic, strategies={"one": LORA | values}, test=test)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"backbone": "test_vit", "adapt": {"method": "lora"}, "remedies": ["test-batchnorm"], "image": {"size": 160}},
         "`test-batchnorm` needs BatchNorm layers, `test_vit` has none"),
    ],
)  # fmt: skip
def test_remedies_that_a_network_cannot_carry_are_refused_before_the_run(
    values: dict[str, Any], message: str, clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_study(make_study(clinic, strategies={"one": LORA | values}), out=tmp_path / "run", settings=settings)


def test_a_patient_of_both_domains_stays_on_one_side_of_the_inner_split() -> None:
    # 40 patients, each scanned on both scanners
    patients = np.repeat(np.arange(40), 4)
    table = pd.DataFrame(
        {
            "id": [f"i{number:03d}" for number in range(160)],
            "patient": [f"p{one:02d}" for one in patients],
            "label": pd.array([f"c{one % 2}" for one in patients], dtype="string"),
            "domain": pd.array([f"s{number % 2}" for number in range(160)], dtype="string"),
            "source": 0,
            "row": np.arange(160),
            "sha256": [str(number) for number in range(160)],
        }
    )
    data = StudyData((), table, "classification", ("c0", "c1"), {})
    rows = splits.make_splits(
        table.assign(is_test=False),
        test=splits.Test(kind="each-to-each"),
        repeats=1,
        redraw=True,
        seed=0,
        task="classification",
    )
    groups = split_groups(rows)
    local = LocalLabels(domain="s1", rows=groups[0, "s1"], labels=50)
    found = trial_rows(data, groups[0, "s0"], budget="100%", train_domain="s0", local=local)
    assert found.inner_split and set(found.labeled["domain"]) == {"s0", "s1"}
    held, trained = (set(found.labeled.loc[side, "patient"]) for side in (found.is_val, ~found.is_val))
    assert held and not held & trained and not held & set(found.unlabeled["patient"])
    assert not (held | trained) & set(found.test["patient"]) and set(found.test["test_domain"]) == {"s1"}


def test_drawing_domains_evenly_leaves_the_bias_alone_and_drawing_classes_evenly_does_not(tmp_path: Path) -> None:
    labels = np.array([0] * 9 + [1] + [0] * 3 + [1] * 3)
    task = make_task(as_images(noise(16), tmp_path), labels, tiny_encoder(), inner_split=False)
    domains = np.array([0] * 10 + [1] * 6)
    task = dataclasses.replace(
        task, labeled=dataclasses.replace(task.labeled, domains=domains), remedies=("domain-balanced",)
    )
    rows = np.arange(16)
    assert not batches.draw_rows(task, rows, 8, seed=0, balance_classes=False).shift.any()
    shift = batches.draw_rows(task, rows, 8, seed=0, balance_classes=True).shift
    np.testing.assert_allclose(shift, np.log([0.5 / (12 / 16), 0.5 / (4 / 16)]))


def test_a_head_on_a_frozen_backbone_has_no_statistics_to_take(clinic: Dataset) -> None:
    frozen = NETWORK | {"adapt": {"method": "finetune", "train": "head"}, "remedies": ["test-batchnorm"]}
    with pytest.raises(ConfigError, match="`test-batchnorm` has no effect on `finetune` with `train: head`"):
        make_study(clinic, strategies={"one": frozen})
