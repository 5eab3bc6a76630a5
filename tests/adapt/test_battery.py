"""What every adapter must do, on sixteen tiny images. A new adapter is tested here by being registered."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from tests.toy_images import as_images, make_task, noise, tiny_encoder, toy_classes
from wazuka import adapt
from wazuka.core.config import build, describe_fields
from wazuka.core.errors import ConfigError
from wazuka.core.hashing import hash_file
from wazuka.data.views import Images
from wazuka.nn import predictors
from wazuka.nn.features import compute_features
from wazuka.nn.rows import ArrayImages
from wazuka.training.roles import Adapter, AdaptTask, Fitted, Runtime, SyntheticRows, TrainOn

FAST = {"steps": 4, "batch": 8}
"""Settings that make a trained method quick, where it has them."""
ROWS = np.arange(16) * 2
"""Rows of the file that a task may see; the others are test images."""

methods = pytest.mark.parametrize("name", list(adapt.METHODS))
mixing_methods = pytest.mark.parametrize("name", [one for one in adapt.METHODS if adapt.METHODS[one].synthetic])
ways = pytest.mark.parametrize("train_on", [one for one in get_args(TrainOn) if one != "real"])


def fast_config(method: Adapter, **more: Any) -> Any:
    names = {one.name for one in dataclasses.fields(method.config)}
    values = {key: value for key, value in FAST.items() if key in names} | more
    return build(method.config, values, where="adapt")


def view(folder: Path, array: np.ndarray | None = None) -> Images:
    images = np.repeat(toy_classes(16)[0], 2, axis=0) if array is None else array
    return as_images(images, folder, rows=ROWS)


def task_for(
    method: Adapter, images: Images, *, seed: int = 0, inner_split: bool = True, classes: int = 2
) -> AdaptTask:
    labels = toy_classes(16)[1] if classes == 2 else np.arange(16) % classes
    encoder = tiny_encoder()
    found = compute_features(images, encoder, intensity="rgb8") if method.input == "features" else None
    task = make_task(images, labels, encoder, seed=seed, inner_split=inner_split, features=found)
    if method.semi_supervised:
        task = dataclasses.replace(task, unlabeled=images.take(np.arange(4, 16)), unlabeled_features=found)
    return task


def with_synthetic(method: Adapter, task: AdaptTask, train_on: TrainOn, folder: Path, *, other: int = 99) -> AdaptTask:
    """Add twelve synthetic images, every second row of a file whose other rows are the noise of a seed."""
    images, labels = toy_classes(12, seed=7)
    array = np.repeat(images, 2, axis=0)
    array[1::2] = noise(12, seed=other)
    made = as_images(array, folder, rows=np.arange(12) * 2)
    found = compute_features(made, task.encoder, intensity="rgb8") if method.input == "features" else None
    rows = SyntheticRows(images=made, labels=labels.astype(np.int64), features=found, train_on=train_on, weight=2.0)
    return dataclasses.replace(task, synthetic=rows)


def run(method: Adapter, tasks: list[AdaptTask], folder: Path) -> list[Fitted]:
    folder.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(device="cpu", threads=1, folder=folder)
    return method(tasks, config=fast_config(method), runtime=runtime)


def saved(fitted: Fitted, folder: Path) -> dict[str, str]:
    """Hash of every file of the saved predictor."""
    fitted.predictor.save(folder)
    return {one.relative_to(folder).as_posix(): hash_file(one) for one in sorted(folder.rglob("*")) if one.is_file()}


@methods
def test_the_declaration_is_whole(name: str) -> None:
    method = adapt.METHODS[name]
    assert isinstance(method, Adapter) and method.name == name
    assert method.summary and method.cites and method.code_version >= 1
    assert method.config.__dataclass_params__.frozen
    undocumented = [row[0] for row in describe_fields(method.config) if not row[3]]
    assert undocumented == [], "every setting has a docstring"
    assert method.config() == build(method.config, {}, where="adapt"), "every setting has a default"


@methods
def test_there_is_a_docs_page_of_the_same_stem_that_names_every_setting(name: str) -> None:
    stem = adapt.METHODS.modules[name].rpartition(".")[2]
    page = (Path(__file__).parents[2] / "docs" / "adapt" / f"{stem}.md").read_text(encoding="utf-8")
    missing = [one.name for one in dataclasses.fields(adapt.METHODS[name].config) if f"`{one.name}`" not in page]
    assert missing == []


def test_what_is_registered_is_what_is_in_the_folder() -> None:
    folder = Path(adapt.__file__).parent
    files = {
        one.stem
        for one in folder.glob("*.py")
        if hasattr(importlib.import_module(f"wazuka.adapt.{one.stem}"), "METHOD")
    }
    assert {module.rpartition(".")[2] for module in adapt.METHODS.modules.values()} == files


@methods
def test_the_same_seed_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    found = []
    for number in "12":
        (fitted,) = run(method, [task_for(method, images)], tmp_path / number)
        found.append((saved(fitted, tmp_path / f"saved{number}"), fitted.threshold, fitted.notes, fitted.curves))
    assert found[0] == found[1]


@methods
def test_another_seed_gives_other_bytes_where_the_method_draws(name: str, tmp_path: Path) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    found = []
    for seed in (0, 1):
        task = task_for(method, images, seed=seed, inner_split=False)
        (fitted,) = run(method, [task], tmp_path / str(seed))
        found.append(saved(fitted, tmp_path / f"saved{seed}")["predictor.safetensors"])
    exact = method.input == "features"  # the optimum of a convex problem depends on no draw
    assert (found[0] == found[1]) == exact


@methods
def test_images_outside_the_task_are_not_reachable(name: str, tmp_path: Path) -> None:
    method = adapt.METHODS[name]
    images = np.repeat(toy_classes(16)[0], 2, axis=0)
    other = images.copy()
    other[1::2] = noise(16, seed=99)
    found = []
    for number, array in enumerate((images, other)):
        (fitted,) = run(method, [task_for(method, view(tmp_path / f"pixels{number}", array))], tmp_path / str(number))
        found.append(saved(fitted, tmp_path / f"saved{number}"))
    assert found[0] == found[1]


@methods
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("inner_split", [True, False])
def test_probabilities_are_a_row_per_image_that_sums_to_one(
    name: str, classes: int, inner_split: bool, tmp_path: Path
) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    (fitted,) = run(method, [task_for(method, images, inner_split=inner_split, classes=classes)], tmp_path / "step")
    probs = fitted.predictor.predict_images(ArrayImages(noise(5, seed=4)))
    assert probs.shape == (5, classes) and probs.dtype == np.float64
    assert (probs >= 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-9)
    assert 0 < fitted.threshold < 1
    assert inner_split or fitted.threshold == 0.5, "without an inner split nothing is chosen"


@methods
def test_a_saved_predictor_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    (fitted,) = run(method, [task_for(method, images)], tmp_path / "step")
    fitted.predictor.save(tmp_path / "saved")
    new = ArrayImages(noise(5, seed=4))
    again = predictors.load(tmp_path / "saved").predict_images(new)
    assert again.tobytes() == fitted.predictor.predict_images(new).tobytes()


@methods
def test_tasks_do_not_influence_each_other(name: str, tmp_path: Path) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    tasks = [task_for(method, images, seed=seed, inner_split=seed == 0) for seed in (0, 1)]
    together = run(method, tasks, tmp_path / "together")
    for number, task in enumerate(tasks):
        (alone,) = run(method, [task], tmp_path / str(number))
        found = [one.predictor.predict_images(images) for one in (together[number], alone)]
        np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@methods
def test_an_unknown_setting_is_refused_and_the_nearest_offered(name: str) -> None:
    method = adapt.METHODS[name]
    known = dataclasses.fields(method.config)[0].name
    with pytest.raises(ConfigError, match=rf"Unknown key `{known}x` in adapt\. Did you mean `{known}`\?"):
        build(method.config, {f"{known}x": 1}, where="adapt")


@methods
def test_nothing_is_left_in_the_steps_folder_when_it_is_done(name: str, tmp_path: Path) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    run(method, [task_for(method, images)], tmp_path / "step")
    assert [one.name for one in (tmp_path / "step").iterdir() if one.name.startswith("checkpoint")] == []


@mixing_methods
@ways
def test_synthetic_rows_change_the_result_and_the_same_seed_gives_the_same_bytes(
    name: str, train_on: TrainOn, tmp_path: Path
) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    plain = task_for(method, images)
    mixed = with_synthetic(method, plain, train_on, tmp_path / "made")
    found = []
    for number, task in enumerate((plain, mixed, mixed)):
        (fitted,) = run(method, [task], tmp_path / str(number))
        found.append((saved(fitted, tmp_path / f"saved{number}"), fitted.threshold, fitted.notes, fitted.curves))
        left = [one.name for one in (tmp_path / str(number)).iterdir() if one.name.startswith("checkpoint")]
        assert left == []
    assert found[1] == found[2]
    assert found[0][0]["predictor.safetensors"] != found[1][0]["predictor.safetensors"]
    assert found[1][2]["train_on"] == train_on and found[1][2]["synthetic_rows"] == 12
    assert "train_on" not in found[0][2]


@mixing_methods
@ways
def test_synthetic_images_outside_the_task_are_not_reachable(name: str, train_on: TrainOn, tmp_path: Path) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    found = []
    for other in (98, 99):
        task = with_synthetic(method, task_for(method, images), train_on, tmp_path / f"made{other}", other=other)
        (fitted,) = run(method, [task], tmp_path / str(other))
        found.append(saved(fitted, tmp_path / f"saved{other}"))
    assert found[0] == found[1]


@mixing_methods
def test_synthetic_rows_that_are_not_trained_on_change_nothing(name: str, tmp_path: Path) -> None:
    method, images = adapt.METHODS[name], view(tmp_path)
    plain = task_for(method, images)
    found = []
    for number, task in enumerate((plain, with_synthetic(method, plain, "real", tmp_path / "made"))):
        (fitted,) = run(method, [task], tmp_path / str(number))
        found.append((saved(fitted, tmp_path / f"saved{number}"), fitted.threshold))
    assert found[0] == found[1]
