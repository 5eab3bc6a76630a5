"""What every pretrainer must do, on a dozen tiny images. A new pretrainer is tested here by being registered."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.toy_images import as_images, noise, tiny_encoder
from wazuka import pretrain
from wazuka.core.config import build, describe_fields
from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.data.views import Images
from wazuka.nn.encoders import Encoder, save_encoder
from wazuka.nn.features import compute_features
from wazuka.training import loop
from wazuka.training.roles import Pretrained, Pretrainer, PretrainTask, Runtime

ROWS = np.arange(12) * 2
"""Rows of the file that a task may see; the others are test images."""
SIDE = 16
SHARED = {"steps", "batch", "lr", "weight_decay", "precision", "augment", "seed"}

methods = pytest.mark.parametrize("name", list(pretrain.METHODS))


class Killed(BaseException):
    """Stands for a process that is killed."""


def fast_config(method: Pretrainer, **more: Any) -> Any:
    return build(method.config, method.presets["smoke"] | more, where="pretrain")


def make_task(images: Images, *, seed: int = 0, intensity: str = "rgb8") -> PretrainTask:
    return PretrainTask(name="toy", images=images, encoder=tiny_encoder(), seed=seed, intensity=intensity)


def view(folder: Path, *, other: int = 1) -> Images:
    """Every second row of a file whose other rows are the noise of a seed."""
    array = np.repeat(noise(len(ROWS), size=SIDE), 2, axis=0)
    array[1::2] = noise(len(ROWS), size=SIDE, seed=other)
    return as_images(array, folder, rows=ROWS)


def run(method: Pretrainer, task: PretrainTask, folder: Path, **more: Any) -> Pretrained:
    folder.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(device="cpu", threads=1, folder=folder)
    return method.fit(task, config=fast_config(method, **more), runtime=runtime)


def bytes_of(result: Pretrained) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in result.state.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pretrained]:
    """Each method's result on the same images, with the same seed."""
    folder = tmp_path_factory.mktemp("whole")
    task = make_task(view(folder))
    return {name: run(pretrain.METHODS[name], task, folder / name) for name in pretrain.METHODS}


@methods
def test_the_declaration_is_whole(name: str) -> None:
    method = pretrain.METHODS[name]
    assert isinstance(method, Pretrainer) and method.name == name
    assert method.summary and method.cites and method.code_version >= 1
    assert method.config.__dataclass_params__.frozen
    assert {one.name for one in dataclasses.fields(method.config)} >= SHARED
    documented = {
        row[0] for cls in method.config.__mro__ if dataclasses.is_dataclass(cls) for row in documented_in(cls)
    }
    assert {one.name for one in dataclasses.fields(method.config)} <= documented, "every setting has a docstring"
    assert method.config() == build(method.config, {}, where="pretrain"), "every setting has a default"
    for preset in ("smoke", "quick", "standard", "paper"):
        build(method.config, method.presets[preset], where=preset)
    assert method.images_trained(fast_config(method), 12) >= 4 * 8


def documented_in(cls: type) -> list[tuple[str, str, str, str]]:
    return [row for row in describe_fields(cls) if row[3]]


def test_what_is_registered_is_what_is_in_the_folder() -> None:
    folder, found = Path(pretrain.__file__).parent, set()
    for file in folder.glob("[!_]*.py"):
        module = importlib.import_module(f"wazuka.pretrain.{file.stem}")
        found |= {one.name for one in vars(module).values() if isinstance(one, Pretrainer)}
    assert found == set(pretrain.METHODS)


def test_an_unknown_method_is_refused_and_the_nearest_offered() -> None:
    with pytest.raises(ConfigError, match=r"Unknown pretrain method `simsam`\. Did you mean `simsiam`\?"):
        pretrain.METHODS["simsam"]


@methods
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    name: str, whole: dict[str, Pretrained], tmp_path: Path
) -> None:
    method, images = pretrain.METHODS[name], view(tmp_path)
    again, other = (run(method, make_task(images, seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    assert bytes_of(again) == bytes_of(whole[name])
    assert (again.notes, again.curves) == (whole[name].notes, whole[name].curves)
    assert bytes_of(other) != bytes_of(whole[name])


@methods
def test_a_killed_pretraining_goes_on_and_ends_with_the_same_bytes(
    name: str, whole: dict[str, Pretrained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, task, close = pretrain.METHODS[name], make_task(view(tmp_path)), loop._Loop._close_interval

    def killed(self: Any) -> None:
        close(self)
        if self.now.step == 2:
            self._save()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_close_interval", killed)
        with pytest.raises(Killed):
            run(method, task, tmp_path / "step")
    assert list((tmp_path / "step").glob("checkpoint*")), "it left where it was"
    resumed = run(method, task, tmp_path / "step")
    assert bytes_of(resumed) == bytes_of(whole[name])
    assert (resumed.notes, resumed.curves) == (whole[name].notes, whole[name].curves)


@methods
def test_images_outside_the_task_are_not_reachable(name: str, whole: dict[str, Pretrained], tmp_path: Path) -> None:
    found = run(pretrain.METHODS[name], make_task(view(tmp_path, other=9)), tmp_path / "step")
    assert bytes_of(found) == bytes_of(whole[name])


@methods
def test_the_state_fits_the_encoder_and_has_changed(name: str, whole: dict[str, Pretrained]) -> None:
    result, before = whole[name], tiny_encoder().build().state_dict()
    assert list(result.state) == list(before)
    result.encoder.build_empty().load_state_dict(dict(result.state))
    for value in result.state.values():
        assert value.is_contiguous() and value.device.type == "cpu" and not value.requires_grad
        assert bool(torch.isfinite(value.float()).all())
    changed = [key for key, value in before.items() if not torch.equal(value, result.state[key])]
    assert sum("weight" in key for key in changed) > 0.5 * sum("weight" in key for key in before)


@methods
def test_the_monitor_s_figures_are_in_the_curves(name: str, whole: dict[str, Pretrained]) -> None:
    result = whole[name]
    assert result.notes["collapsed"] is None and result.notes["images"] == len(ROWS)
    for figure in ("spread", "dead", "effective_rank", "uniformity", "alignment"):
        steps = [step for step, _ in result.curves[figure]]
        assert steps == [step for step, _ in result.curves["train_loss"]]
        assert np.isfinite([value for _, value in result.curves[figure]]).all()


@methods
@pytest.mark.parametrize("intensity", ["gray8", "hounsfield"])
def test_gray_images_and_hounsfield_units_are_pretrained_on(name: str, intensity: str, tmp_path: Path) -> None:
    array = noise(8, size=SIDE, channels=1)
    if intensity == "hounsfield":
        array = array.astype(np.int16) * 2 - 200
    method, task = pretrain.METHODS[name], make_task(as_images(array, tmp_path), intensity=intensity)
    result = run(method, task, tmp_path / "step", steps=1, augment="strong", batch=64)
    assert result.notes["batch"] == 8, "a batch is never larger than the number of images"
    assert all(bool(torch.isfinite(value.float()).all()) for value in result.state.values())


@methods
def test_a_single_image_is_refused(name: str, tmp_path: Path) -> None:
    images = as_images(noise(1, size=SIDE), tmp_path)
    with pytest.raises(NotEnoughData, match=r"1 image to pretrain on.* 2 or more"):
        run(pretrain.METHODS[name], make_task(images), tmp_path / "step")


@methods
def test_a_frozen_onnx_graph_is_refused(name: str, tmp_path: Path) -> None:
    task = make_task(view(tmp_path))
    task = dataclasses.replace(task, encoder=dataclasses.replace(task.encoder, kind="onnx"))
    assert pretrain.METHODS[name].backbone_kinds == ("torch",)
    with pytest.raises(ConfigError, match="is an ONNX graph and stays frozen"):
        run(pretrain.METHODS[name], task, tmp_path / "step")


@methods
def test_nothing_is_left_of_the_checkpoints(name: str, whole: dict[str, Pretrained], tmp_path: Path) -> None:
    run(pretrain.METHODS[name], make_task(view(tmp_path)), tmp_path / "step", steps=1)
    assert list((tmp_path / "step").glob("checkpoint*")) == []


def stripes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Faint stripes, upright or level, under noise, light and slopes of light that differ more: (images, labels)."""
    rng, labels = np.random.default_rng(0), np.arange(n) % 2
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    found = []
    for label in labels:
        wave = 0.12 * np.sin(6 * np.pi * (x if label else y) + rng.uniform(0, 2 * np.pi))
        light = rng.uniform(0.2, 0.8) + rng.uniform(-0.5, 0.5) * (x - 0.5) + rng.uniform(-0.5, 0.5) * (y - 0.5)
        found.append(light + wave + rng.normal(0, 0.12, (SIDE, SIDE)))
    images = (np.clip(np.array(found), 0, 1) * 255).astype(np.uint8)
    return np.repeat(images[..., None], 3, axis=3), labels


def separation(images: Images, labels: np.ndarray, encoder: Encoder) -> float:
    """How much more alike centered features of one class are than those of two: difference of the mean cosines."""
    features = compute_features(images, encoder, intensity="rgb8")
    features = features - features.mean(axis=0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines, same = features @ features.T, labels[:, None] == labels[None]
    return float(cosines[same & ~np.eye(len(labels), dtype=bool)].mean() - cosines[~same].mean())


LEARNING = {
    "steps": 40,
    "batch": 32,
    "lr": 0.003,
    "optimizer": "adamw",
    "augment": "strong",
    "projector_hidden": 128,
    "projector_dim": 64,
    "smallest_crop": 0.5,
}
"""Settings under which a few seconds' training of a tiny network teaches something, where a method has them."""
OWN = {"byol": {"target_decay": 0.95}, "jigsaw-permutation": {"steps": 60}, "fg-ssl": {"steps": 25, "dim": 64}}


@pytest.mark.slow
@methods
def test_frozen_features_separate_classes_better_than_untrained_ones(name: str, tmp_path: Path) -> None:
    method, (array, labels) = pretrain.METHODS[name], stripes(96)
    images, names = as_images(array, tmp_path), {one.name for one in dataclasses.fields(method.config)}
    known = {key: value for key, value in LEARNING.items() if key in names}
    result = run(method, make_task(images), tmp_path / "step", **known | OWN.get(name, {}))
    encoder = save_encoder(result.encoder, tmp_path / "encoder", state=result.state)
    assert separation(images, labels, encoder) > 1.5 * separation(images, labels, tiny_encoder())


@methods
def test_it_trains_in_bfloat16_too(name: str, tmp_path: Path) -> None:
    # torch's bfloat16 weight gradient of a 3 x 3 convolution of a single position is not finite on some CPUs; tiles are small
    side = 192 if name == "jigsaw-permutation" else 32
    task = make_task(as_images(noise(12, size=side), tmp_path))
    results = [run(pretrain.METHODS[name], task, tmp_path / one, precision=one) for one in ("bf16", "fp32")]
    assert [one.notes["precision"] for one in results] == ["bf16", "fp32"]
    assert all(bool(torch.isfinite(one.float()).all()) for one in results[0].state.values())
    assert bytes_of(results[0]) != bytes_of(results[1])
