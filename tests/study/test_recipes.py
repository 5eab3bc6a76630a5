"""The recipes that come with the package: all can be read, every technique is in one, and the smoke versions run."""

from __future__ import annotations

from pathlib import Path

import pytest

from wazuka import adapt, pretrain, synthesize
from wazuka.core.records import read_json, read_table
from wazuka.data.manifest import Dataset
from wazuka.report.build import write_report
from wazuka.study.config import Study, read_study
from wazuka.study.context import Settings
from wazuka.study.recipes import recipes
from wazuka.study.run import run_study

SMOKE = [name for name in recipes() if name.endswith("-smoke")]


def read(name: str, clinic: Dataset) -> Study:
    return read_study(recipes()[name], dataset=clinic.folder)


@pytest.mark.parametrize("name", list(recipes()))
def test_a_recipe_is_a_study_under_its_own_name(name: str, clinic: Dataset) -> None:
    assert read(name, clinic).name == name
    assert recipes()[name].read_text(encoding="utf-8").startswith("# ")


def test_every_technique_is_in_a_recipe(clinic: Dataset) -> None:
    used = {one.adapt.name for name in recipes() for one in read(name, clinic).strategies}
    assert used == set(adapt.METHODS)
    made = {one.synthesis.method.name for name in recipes() for one in read(name, clinic).strategies if one.synthesis}
    assert made == set(synthesize.METHODS)
    pretrained = {one.pretrain.name for name in recipes() for one in read(name, clinic).strategies if one.pretrain}
    assert pretrained == set(pretrain.METHODS)


def test_the_papers_settings_are_in_its_recipe(clinic: Dataset) -> None:
    study = read("foundation-lora-paper", clinic)
    assert (study.budgets, study.repeats) == (("0.1%", "1%", "10%", "100%"), 5)
    lora = study.strategy("uni-lora").adapt.config
    assert (lora.rank, lora.alpha, lora.dropout, lora.lr, lora.batch) == (16, 16, 0.1, 1e-4, 16)
    assert lora.steps * lora.batch == 100 * 1280
    assert (lora.weight_decay, lora.optimizer, lora.schedule, lora.sampling) == (0, "adamw", "one-cycle", "balanced")
    assert study.strategy("resnet50-finetune").adapt.config.steps == lora.steps


@pytest.mark.parametrize("name", SMOKE)
def test_a_smoke_recipe_runs_to_its_report(name: str, clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    study = read(name, clinic)
    done = run_study(study, out=tmp_path / "run", settings=settings)
    assert done.failed == 0
    write_report(tmp_path / "run")
    found = read_json(tmp_path / "run" / "report.json")
    assert {one["name"] for one in found["strategies"]} == {one.name for one in study.strategies}
    assert set(read_table(tmp_path / "run" / "results.parquet")["strategy"]) == {one.name for one in study.strategies}
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
