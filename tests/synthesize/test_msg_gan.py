"""The technique as a whole: what it sees, learns and leaves behind; resume and failures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.toy_images import as_images, noise, tiny_encoder
from wazuka.core.config import build
from wazuka.core.errors import ConfigError, NotEnoughData
from wazuka.nn import generators
from wazuka.nn.msg_gan import MsgGanGenerator
from wazuka.synthesize import msg_gan
from wazuka.synthesize.msg_gan import METHOD, Config, build_networks, expected_seconds, fit, make_game, settle_size
from wazuka.training import sample_monitor, seeding
from wazuka.training.adversarial import _Loop
from wazuka.training.gan_game import Batch, GanGame
from wazuka.training.pyramid_images import PyramidImages, pyramid_of
from wazuka.training.roles import Generated, Privacy, Runtime, SynthesisTask
from wazuka.training.sample_monitor import Quality

TINY = Config(steps=4, batch=4, latent=32, size=32, monitor_every=2, patience=None)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Monitors look at fewer images than usual, for speed."""
    monkeypatch.setattr(sample_monitor, "SAMPLES", 12)
    monkeypatch.setattr(sample_monitor, "PER_CLASS", 4)


def blobs(n: int, *, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """A soft spot somewhere in a gray image: red for class 0, blue for class 1."""
    rng, labels, at = np.random.default_rng(0), np.arange(n) % 2, np.arange(size)
    images = np.full((n, size, size, 3), 60.0)
    for image, label in zip(images, labels, strict=True):
        (x, y), radius = rng.uniform(10, 22, 2), rng.uniform(4, 7)
        image[:, :, 2 * label] += 170 * np.exp(-((at - x) ** 2 + (at[:, None] - y) ** 2) / (2 * radius**2))
    return (images + rng.normal(0, 3, images.shape)).clip(0, 255).astype(np.uint8), labels


def make_task(folder: Path, images: np.ndarray, labels: np.ndarray, **changes: Any) -> SynthesisTask:
    n = len(images)
    task = SynthesisTask(
        name="toy",
        images=as_images(images, folder),
        labels=labels.astype(np.int64),
        patients=np.arange(n),
        is_val=np.zeros(n, bool),
        masks=None,
        classes=("red", "blue"),
        encoder=tiny_encoder(),
        seed=0,
    )
    return dataclasses.replace(task, **changes)


def run(task: SynthesisTask, folder: Path, config: Config = TINY) -> Generated:
    folder.mkdir(exist_ok=True)
    return fit(task, config=config, runtime=Runtime(device="cpu", threads=1, folder=folder))


def trained_bytes(result: Generated) -> list[np.ndarray]:
    assert isinstance(result.generator, MsgGanGenerator)
    return [one.numpy() for state in result.generator.states for one in state.values()]


def equal(first: Generated, second: Generated) -> bool:
    same = all(np.array_equal(a, b) for a, b in zip(trained_bytes(first), trained_bytes(second), strict=True))
    return same and (first.notes, first.curves) == (second.notes, second.curves)


@pytest.mark.parametrize("conditional", ["projection", "per-class", "none"])
def test_a_training_leaves_a_generator_curves_and_a_picture(conditional: str, tmp_path: Path) -> None:
    task = make_task(tmp_path / "data", *blobs(16), is_val=np.arange(16) >= 12)
    config = build(Config, dataclasses.asdict(TINY) | {"conditional": conditional}, where="test")
    result = run(task, tmp_path / "run", config)
    generator = result.generator
    assert isinstance(generator, MsgGanGenerator) and result.collapsed is None
    assert len(generator.states) == (2 if conditional == "per-class" else 1)
    assert generator.classes == (() if conditional == "none" else ("red", "blue"))
    generator.save(tmp_path / "saved")
    labels, seeds = np.array([0, 1, 1]), np.arange(3)
    images = generators.load(tmp_path / "saved").sample(labels, seeds)
    assert np.array_equal(images, generator.sample(labels, seeds)) and images.shape == (3, 32, 32, 3)
    prefixes = ["red: ", "blue: "] if conditional == "per-class" else [""]
    steps = [2] if conditional == "per-class" else [2, 4]
    names = {"g_loss", "d_loss", "g_grad_norm", "d_grad_norm", "distance", "diversity", "augment_chance"}
    assert set(result.curves) == {prefix + name for prefix in prefixes for name in names}
    assert all([step for step, _ in curve] == steps for curve in result.curves.values())
    for prefix in prefixes:
        with Image.open(tmp_path / "run" / result.pictures[f"{prefix}scales"]) as picture:
            assert picture.size == (8 * 34 - 2, 4 * 34 - 2)  # 8 images at 4, 8, 16 and 32 pixels
        assert result.notes[f"{prefix}train_rows"] == (6 if prefix else 12)
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_rows_held_out_for_the_monitor_are_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = blobs(24)
    is_val = np.arange(24) % 3 == 0
    images[is_val] = 255
    seen: list[float] = []
    original = PyramidImages.batch

    def watched(self: PyramidImages, rows: np.ndarray, generator: torch.Generator) -> list[torch.Tensor]:
        pyramid = original(self, rows, generator)
        seen.extend(pyramid[-1].mean((1, 2, 3)).tolist())
        return pyramid

    monkeypatch.setattr(PyramidImages, "batch", watched)
    config = dataclasses.replace(TINY, steps=6, start="normal")  # alike images, as at first from zero, are not judged
    result = run(make_task(tmp_path / "data", images, labels, is_val=is_val), tmp_path / "run", config)
    assert len(seen) == 24 and max(seen) < 0
    assert result.notes["early_stopping"] == "feature distance inside the budget" and "distance" in result.curves
    assert run(make_task(tmp_path / "all", images, labels), tmp_path / "run2", config).notes["train_rows"] == 24
    assert max(seen) == 1.0  # the marker would have been seen


def test_each_class_is_drawn_equally_often_with_its_own_label(tmp_path: Path) -> None:
    images = np.zeros((12, 32, 32, 3), np.uint8)
    labels = np.array([0] * 9 + [1] * 3)
    images[labels == 1] = 255
    task = make_task(tmp_path, images, labels)
    game = make_game(task.images, labels, size=32, config=TINY, intensity="rgb8", window=None, device="cpu", seed=0)
    counts = np.zeros(2, int)
    for step in range(10):
        batch = game.draw(step, seeding.step_generator(0, "step", step))
        assert batch.labels is not None and batch.latents.shape == (4, 32)
        assert torch.equal(batch.reals[-1].mean((1, 2, 3)) > 0, batch.labels == 1)
        counts += np.bincount(batch.labels.numpy(), minlength=2)
    assert counts.tolist() == [20, 20]


@pytest.mark.parametrize(("flips", "moves"), [("none", 1), ("horizontal", 2), ("all", 4)])
def test_real_images_are_flipped_at_every_scale_alike(flips: Any, moves: int, tmp_path: Path) -> None:
    images = as_images(noise(1), tmp_path)
    source = PyramidImages(images, size=32, flips=flips, intensity="rgb8", window=None, device="cpu")
    found = set()
    for step in range(40):
        pyramid = source.batch(np.zeros(1, np.int64), seeding.step_generator(0, "flip", step))
        assert [one.shape[-1] for one in pyramid] == [4, 8, 16, 32]
        assert all(torch.equal(a, b) for a, b in zip(pyramid, pyramid_of(pyramid[-1]), strict=True))
        assert pyramid[-1].min() >= -1 and pyramid[-1].max() <= 1
        found.add(pyramid[-1].numpy().tobytes())
    assert len(found) == moves


def test_the_pyramid_holds_means_over_blocks() -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for level in pyramid_of(images):
        factor = 16 // level.shape[-1]
        blocks = images.reshape(2, 3, 16 // factor, factor, 16 // factor, factor).mean((3, 5))
        assert torch.allclose(level, blocks, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "ns-r1", "augment": "adaptive"},
        {"loss": "ra-hinge", "augment": "strong", "conditional": "per-class"},
        {"loss": "wgan-gp", "combine": "cat-lin"},
    ],
)
def test_a_killed_training_ends_with_the_same_bytes(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = msg_gan._settings
    monkeypatch.setattr(
        msg_gan, "_settings", lambda *given: dataclasses.replace(settings(*given), checkpoint_seconds=0)
    )
    config = dataclasses.replace(TINY, steps=6, monitor_every=2, **changes)
    task = make_task(tmp_path / "data", *blobs(12), is_val=np.arange(12) >= 8)
    whole = run(task, tmp_path / "whole", config)
    original, calls = GanGame.draw, []

    def dying(self: GanGame, step: int, generator: torch.Generator) -> Batch:
        calls.append(step)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(self, step, generator)

    with monkeypatch.context() as patched:
        patched.setattr(GanGame, "draw", dying)
        with pytest.raises(KeyboardInterrupt):
            run(task, tmp_path / "killed", config)
    assert list((tmp_path / "killed").glob("checkpoint*"))
    assert equal(whole, run(task, tmp_path / "killed", config))
    picture = next(iter(whole.pictures.values()))
    assert (tmp_path / "whole" / picture).read_bytes() == (tmp_path / "killed" / picture).read_bytes()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    task = make_task(tmp_path / "data", *blobs(8))
    first = run(task, tmp_path / "a")
    assert equal(first, run(task, tmp_path / "b"))
    for other in (
        run(dataclasses.replace(task, seed=1), tmp_path / "c"),
        run(task, tmp_path / "d", dataclasses.replace(TINY, seed=1)),
    ):
        assert not np.array_equal(trained_bytes(first)[0], trained_bytes(other)[0])


@pytest.mark.parametrize(
    ("shape", "dtype", "intensity"), [((40, 36, 1), np.uint8, "gray8"), ((20, 20, 1), np.int16, "hounsfield")]
)
def test_images_of_other_sizes_and_types_come_back_as_they_were(
    shape: tuple[int, int, int], dtype: Any, intensity: str, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (8, *shape)).astype(dtype)
    task = make_task(tmp_path / "data", pixels, np.arange(8) % 2, intensity=intensity)
    result = run(task, tmp_path / "run", dataclasses.replace(TINY, size=None, augment="strong"))
    images = result.generator.sample(np.array([0, 1]), np.array([0, 1]))
    assert images.shape == (2, *shape) and images.dtype == dtype and result.notes["size"] == 32


@pytest.mark.parametrize(
    ("height", "size"), [(28, 32), (32, 32), (50, 32), (64, 64), (100, 64), (224, 128), (256, 256), (900, 256)]
)
def test_the_size_is_the_largest_that_the_images_have(height: int, size: int) -> None:
    assert settle_size(Config(), (height, 1000, 3)) == size
    assert settle_size(Config(size=64), (height, height, 3)) == 64


def test_a_collapsed_training_is_stopped_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator's output is made the same for all latent vectors from step 3 on."""
    original = GanGame.make

    def collapse(self: GanGame, network: Any, batch: Batch) -> list[torch.Tensor]:
        if state["step"] >= 3:
            with torch.no_grad():
                network.enlarge.weight.zero_()
                network.enlarge.bias.fill_(1)  # beside which what Adam then adds is nothing
        state["step"] += 1
        return original(self, network, batch)

    state = {"step": 0}
    monkeypatch.setattr(GanGame, "make", collapse)
    config = dataclasses.replace(TINY, steps=12, monitor_every=3, ema=0.0, lr=1e-6, start="normal")
    result = run(make_task(tmp_path / "data", *blobs(16)), tmp_path / "run", config)
    assert result.collapsed is not None
    assert result.collapsed.startswith("Stopped at step 9: at step 6 the images differ by 0.0%")
    assert result.collapsed.endswith("the generator is that of step 3.") and result.notes["best_step"] == 3
    images = result.generator.sample(np.zeros(4, np.int64), np.arange(4))
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4  # sound: made before


def test_a_training_that_is_not_finite_leaves_a_sound_generator(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, steps=6, monitor_every=3, lr=1e30, loss="ra-hinge")
    result = run(make_task(tmp_path / "data", *blobs(8)), tmp_path / "run", config)
    assert result.collapsed is not None and "the loss is not finite between steps 0 and 3 (lr 1e+30" in result.collapsed
    assert all(np.isfinite(one).all() for one in trained_bytes(result))


def test_a_step_never_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value of a tensor would; none is read between two monitors."""

    def refuse(*given: Any) -> Any:
        raise AssertionError("a tensor's value is read within a step")

    config = dataclasses.replace(TINY, augment="adaptive", steps=1000, monitor_every=1000)
    game = make_game(
        as_images(noise(8), tmp_path),
        np.arange(8) % 2,
        size=32,
        config=config,
        intensity="rgb8",
        window=None,
        device="cpu",
        seed=0,
    )
    networks = build_networks(config, size=32, channels=3, classes=2, seed=0)
    loop = _Loop(
        *networks, game, msg_gan._settings(config, 1000), 0, "cpu", tmp_path, lambda network, step: Quality(), print
    )
    with monkeypatch.context() as patched:
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            patched.setattr(torch.Tensor, name, refuse)
        for _ in range(5):
            loop._step()
    assert loop.now.step == 5


@pytest.mark.slow
def test_the_classes_get_their_colors(tmp_path: Path) -> None:
    images, labels = blobs(64)
    config = Config(steps=150, batch=8, latent=32, size=32, lr=0.01, augment="none", flips="none", monitor_every=150)
    result = run(make_task(tmp_path / "data", images, labels), tmp_path / "run", config)
    made = result.generator.sample(labels, np.arange(64))

    def redness(which: np.ndarray, label: int) -> float:
        means = which[labels == label].astype(float).mean((0, 1, 2))
        return float(means[0] - means[2])

    real = redness(images, 0) - redness(images, 1)
    assert redness(made, 0) - redness(made, 1) > real / 6  # 21 of 63 gray levels after these few steps


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"size": 48}, "`size` is 48; give 32, 64, 128 or 256"),
        ({"latent": 100}, "`latent` is 100; give 32, 64, 128, 256 or 512"),
        ({"compile": True, "loss": "wgan-gp"}, "`compile: true` is not possible with `loss: wgan-gp`"),
        ({"steps": 0}, "`steps` is 0"),
        ({"ema": 1.0}, "`ema` is 1.0"),
        ({"mismatch": -1}, "`mismatch` is -1"),
        ({"mismatch": 1.0, "conditional": "per-class"}, "only `conditional: projection` has it"),
        ({"loss": "lsgan"}, "Value 'lsgan' of `synthesize.loss` is wrong"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(Config, values, where="synthesize")


def test_what_cannot_be_done_is_refused_before_training(tmp_path: Path) -> None:
    task = make_task(tmp_path, *blobs(8))
    with pytest.raises(ConfigError, match="with `dp` use `loss: ns`"):
        run(dataclasses.replace(task, privacy=Privacy(epsilon=1.0, delta=1e-5)), tmp_path)
    with pytest.raises(NotEnoughData, match="Class `blue` has no image to train on"):
        run(dataclasses.replace(task, is_val=np.arange(8) % 2 == 1), tmp_path)


def test_presets_are_settings_of_the_method() -> None:
    assert set(METHOD.presets) == {"smoke", "quick", "standard", "paper"}
    for name, values in METHOD.presets.items():
        build(METHOD.config, values, where=name)


def test_the_expected_time_grows_with_the_steps() -> None:
    config = dataclasses.replace(TINY, steps=100)
    measured = expected_seconds(config, 50, (32, 32, 3), "cpu")
    assert 0.1 < measured < 200
    assert expected_seconds(dataclasses.replace(config, steps=10_000), 50, (32, 32, 3), "cpu") > 10 * measured
