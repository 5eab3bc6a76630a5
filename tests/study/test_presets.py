"""`poc` chooses what suits the data and the machine, and names what it left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.study.conftest import TINY
from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.data.manifest import Dataset
from wazuka.study.context import Settings
from wazuka.study.presets import PRESETS, Wishes, make_study


def chosen(clinic: Dataset, settings: Settings, tmp_path: Path, **wishes: object) -> object:
    defaults = {"min_class_patients": 2, "size": 32, "hours": 100.0}
    return make_study(clinic.folder, Wishes(**(defaults | wishes)), settings=settings, run=tmp_path)  # type: ignore[arg-type]


def test_what_cannot_run_here_is_named_with_its_reason(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    study = chosen(clinic, settings, tmp_path)
    assert [one.name for one in study.strategies] == ["scratch"]  # no weights of resnet18 are here
    why = dict(study.not_measured)
    assert "wazuka backbones add resnet18" in why["linear-probe"]
    assert "wazuka backbones add resnet18" in why["finetune"]
    assert study.strategies[0].repeats == PRESETS["quick"].network_repeats


def test_preset_budgets_that_do_not_fit_are_left_out_and_named_but_the_users_own_are_refused(
    clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    study = chosen(clinic, settings, tmp_path)
    assert study.budgets == ("20", "50", "100%")
    assert "budget 100" in dict(study.not_measured)
    with pytest.raises(NotEnoughData, match="Budget 100"):
        chosen(clinic, settings, tmp_path, budgets=("20", "100"))


def test_labels_caps_every_budget(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    assert chosen(clinic, settings, tmp_path, labels=30).budgets == ("20", "30")


def test_strategies_that_would_take_too_long_are_left_out_and_named(
    clinic: Dataset, settings: Settings, tmp_path: Path
) -> None:
    both = {"strategies": ("linear-probe", "scratch"), "backbone": str(_folder(tmp_path))}
    study = chosen(clinic, settings, tmp_path, hours=1e-6, **both)
    assert [one.name for one in study.strategies] == ["linear-probe"]
    assert "more than the 1e-06 h allowed" in dict(study.not_measured)["scratch"]


def _folder(tmp_path: Path) -> Path:
    from wazuka.nn import backbones
    from wazuka.nn.encoders import save_encoder

    save_encoder(backbones.resolve(TINY, weights="none", seed=0), tmp_path / "encoder")
    return tmp_path / "encoder"


def test_a_strategy_asked_for_that_cannot_run_is_an_error(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wazuka backbones add resnet18"):
        chosen(clinic, settings, tmp_path, strategies=("linear-probe",))


def test_a_goal_is_read_and_checked(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    goal = chosen(clinic, settings, tmp_path, goal="balanced_accuracy=0.8").goal
    assert (goal.metric, goal.target) == ("balanced_accuracy", 0.8)
    with pytest.raises(ConfigError, match="--goal auroc=high is not METRIC=VALUE"):
        chosen(clinic, settings, tmp_path, goal="auroc=high")


def test_the_next_stage_of_an_earlier_run_is_taken(clinic: Dataset, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    report = {"next_stage": {"strategies": ["scratch"], "repeats": 7}}
    (tmp_path / "before" / "report.json").write_text(json.dumps(report))
    study = chosen(clinic, settings, tmp_path, after=tmp_path / "before")
    assert ([one.name for one in study.strategies], study.repeats) == (["scratch"], 7)
