"""The study file: strict, resolved, and the same after a round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from wazuka.core.errors import ConfigError
from wazuka.study.config import read_study, resolve_study, to_mapping

MINIMAL: dict[str, Any] = {
    "dataset": "datasets/x",
    "strategies": {"probe": {"backbone": "resnet18", "weights": "none", "adapt": "linear-probe"}},
}


def resolve(folder: Path, **changes: Any) -> Any:
    return resolve_study(MINIMAL | changes, folder=folder, where="study.yaml")


def strategy(**changes: Any) -> dict[str, Any]:
    return {"probe": MINIMAL["strategies"]["probe"] | changes}


def test_a_minimal_study_gets_the_documented_defaults(tmp_path: Path) -> None:
    study = resolve(tmp_path)
    assert study.budgets == ("20", "50", "100", "100%")
    assert (study.repeats, study.baseline, study.seed, study.min_class_patients) == (5, "probe", 0, 5)
    assert (study.test.patients, study.goal.metric, study.goal.margin) == ("20%", "auroc", 0.01)
    assert study.dataset == str(tmp_path / "datasets/x")
    assert study.redraw is True


def test_a_resolved_study_survives_being_written_and_read(tmp_path: Path) -> None:
    study = resolve(
        tmp_path,
        image={"crop": 64, "size": 96},
        budgets=[20, "10%", "100%"],
        test={"domain": "leave-one-out"},
        strategies=strategy()
        | {"net": {"backbone": "resnet18", "adapt": {"method": "finetune", "steps": 7}, "repeats": 2}},
        costs={"minutes_per_label": 2},
        gates={"min_sensitivity": 0.9},
        goal={"target": 0.85},
    )
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(to_mapping(study), sort_keys=False))  # as `run_study` writes it
    assert read_study(path) == study


def test_strategy_settings_override_the_studys(tmp_path: Path) -> None:
    study = resolve(
        tmp_path, image={"crop": 64, "size": 96}, strategies=strategy(image={"size": 32}, budgets=[5], repeats=1)
    )
    one = study.strategies[0]
    assert (one.image.crop, one.image.size, one.budgets, one.repeats) == (64, 32, ("5",), 1)


def test_paths_in_a_study_file_start_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net.onnx").touch()
    study = resolve(tmp_path, strategies=strategy(backbone="weights/net.onnx"))
    assert study.strategies[0].backbone == str(tmp_path / "weights" / "net.onnx")
    named = resolve(tmp_path, strategies=strategy(backbone="net=weights/net.onnx"))
    assert named.strategies[0].backbone == f"net={tmp_path / 'weights' / 'net.onnx'}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": [1]}, "Unknown key `budget` in study.yaml. Did you mean `budgets`?"),
        ({"strategies": {}}, "`strategies` is missing; list at least one"),
        ({"strategies": {"a b": {}}}, "strategy name 'a b' is not usable"),
        (
            {"strategies": strategy(backbon="x")},
            "Unknown key `backbon` in study.yaml: strategies.probe. Did you mean `backbone`?",
        ),
        ({"strategies": {"p": {"adapt": "linear-probe"}}}, "`backbone` is missing; name one"),
        ({"strategies": strategy(adapt="linear-prob")}, "Unknown adapt method `linear-prob`"),
        ({"strategies": strategy(adapt="linear-prob")}, "Did you mean `linear-probe`?"),
        ({"strategies": strategy(adapt={"steps": 3})}, "`method` is missing; write the name or"),
        ({"strategies": strategy(adapt={"method": "finetune", "step": 3})}, "Unknown key `step`"),
        ({"strategies": strategy(adapt={"method": "finetune", "steps": "3"})}, "Value '3' of"),
        ({"strategies": strategy(pretrain="fg-sl")}, "Unknown pretrain method `fg-sl`"),
        ({"strategies": strategy(synthesize="gan")}, "Unknown synthesize method `gan`"),
        ({"strategies": strategy(ratio=2)}, "`ratio` has no effect without a generator"),
        ({"strategies": strategy(weights="imagenet")}, "Unknown weights `imagenet`"),
        ({"strategies": strategy(image={"sise": 3})}, "Unknown key `sise`"),
        ({"baseline": "prob"}, "Unknown strategy `prob` in study.yaml: baseline. Did you mean `probe`?"),
        ({"repeats": 0}, "repeats is 0; give a whole number of 1 or more"),
        ({"repeats": True}, "repeats is True; give a whole number"),
        ({"budgets": [20, "20"]}, "names 20 twice"),
        ({"budgets": []}, "budgets is empty"),
        ({"budgets": ["many"]}, "Budget"),
        ({"test": {"patients": "20"}}, "`patients` is '20'; give a share between 0 and 100"),
        ({"test": {"patients": "120%"}}, "give a share between 0 and 100"),
        ({"test": {"patients": "20%", "domain": "each-to-each"}}, "names `patients` and `domain`; choose one"),
        ({"test": {"domain": "loo"}}, "Value 'loo' of"),
        ({"test": {"redraw": "sometimes"}}, "Value 'sometimes' of"),
        ({"goal": {"metric": "auc"}}, "Unknown metric `auc` in goal."),
        ({"goal": {"margin": -1}}, "`margin` is -1"),
        ({"costs": {"hourly_rate": -5}}, "`hourly_rate` is -5"),
        ({"gates": {"min_sensitivty": 0.9}}, "Did you mean `min_sensitivity`?"),
        ({"image": [64]}, "image is [64]; write a mapping"),
        ({"seed": "0"}, "Value '0' of `study.yaml.seed` is wrong"),
        ({"threads_per_trial": 0}, "`threads_per_trial` is 0; give 1 or more"),
        ({"min_class_patients": 1}, "`min_class_patients` is 1; give 2 or more"),
        ({"unlabeled": ["x"]}, "`unlabeled` is given, but no strategy of this study learns from images without labels"),
        ({"dataset": None}, "`dataset` is missing; name a dataset folder there or with --dataset"),
    ],
)
def test_each_mistake_in_a_study_file_is_one_clear_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(tmp_path, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
