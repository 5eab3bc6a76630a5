"""Frozen features: equal to a bare forward pass, made once, safe for two processes, never silently wrong."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.toy_images import as_images, noise, tiny_encoder
from wazuka.core.errors import ArtifactError, DataError
from wazuka.data.views import Images
from wazuka.nn import features
from wazuka.nn.encoders import Encoder
from wazuka.nn.normalize import to_input
from wazuka.nn.rows import ArrayImages


@dataclass(frozen=True)
class FakePixels:
    """The part of a pixel cache that features need."""

    path: Path
    n: int
    key: str = "pixels-key"
    intensity: str = "rgb8"
    misfits: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"row": [], "what": [], "reason": []}))
    transform: Any = field(default_factory=lambda: SimpleNamespace(window=None))

    def images(self, rows: np.ndarray) -> Images:
        return Images(self.path, rows)


def make_pixels(folder: Path, images: np.ndarray, **changes: Any) -> FakePixels:
    as_images(images, folder)
    return FakePixels(folder / "images.npy", len(images), **changes)


def test_features_equal_a_bare_forward_pass_in_the_order_of_the_rows(tmp_path: Path) -> None:
    encoder, pixels = tiny_encoder(), noise(11)
    rows = np.array([7, 2, 9, 4, 0])
    found = features.compute_features(as_images(pixels, tmp_path, rows=rows), encoder, intensity="rgb8", batch=2)
    with torch.inference_mode():
        batch = to_input(torch.from_numpy(pixels[rows]), encoder, intensity="rgb8")
        expected = encoder.build()(batch).numpy()
    assert found.dtype == np.float32 and found.shape == (5, 96)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_features_are_the_same_bytes_each_time() -> None:
    images, encoder = ArrayImages(noise(9)), tiny_encoder()
    first, second = (features.compute_features(images, encoder, intensity="rgb8", batch=4) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_no_images_give_no_features() -> None:
    found = features.compute_features(ArrayImages(noise(0)), tiny_encoder(), intensity="rgb8")
    assert found.shape == (0, 96)


def test_features_that_are_not_finite_name_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(batch: torch.Tensor) -> torch.Tensor:
        values = batch.mean(dim=(2, 3))
        values[batch[:, 0, 0, 0] == batch[:, 0, 0, 0].max(), 1] = torch.nan
        return values

    monkeypatch.setattr(features, "load_forward", lambda encoder, device: forward)
    pixels = noise(6) // 2
    pixels[4, 0, 0] = 255
    with pytest.raises(DataError, match=r"gives values that are not finite for image 4 \(1 in its batch of 6\)"):
        features.compute_features(ArrayImages(pixels), tiny_encoder(), intensity="rgb8")


def test_cached_features_are_computed_once_and_equal_uncached_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, encoder = make_pixels(tmp_path, noise(70)), tiny_encoder()
    path = features.cached_features(pixels, encoder, cache=tmp_path / "cache")
    assert path.name == "features.npy" and [one.name for one in path.parent.iterdir() if one.suffix == ".part"] == []
    direct = features.compute_features(pixels.images(np.arange(70)), encoder, intensity="rgb8")
    assert np.load(path).tobytes() == direct.tobytes()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed twice")

    monkeypatch.setattr(features, "load_forward", refuse)
    assert features.cached_features(pixels, encoder, cache=tmp_path / "cache") == path


def test_other_pixels_weights_or_windows_are_other_features(tmp_path: Path) -> None:
    pixels = make_pixels(tmp_path, noise(3))
    others = [
        (pixels, tiny_encoder(seed=0)),
        (pixels, tiny_encoder(seed=1)),
        (make_pixels(tmp_path, noise(3), key="other-key"), tiny_encoder(seed=0)),
        (make_pixels(tmp_path, noise(3), transform=SimpleNamespace(window="lung")), tiny_encoder(seed=0)),
    ]
    paths = [features.cached_features(one, encoder, cache=tmp_path) for one, encoder in others]
    assert len(set(paths)) == 4


def test_rows_that_do_not_fit_the_transform_are_nan_and_leave_the_others_in_place(tmp_path: Path) -> None:
    misfits = pd.DataFrame({"row": [0, 3, 4, 8], "what": ["image", "image", "mask", "image"], "reason": ["small"] * 4})
    pixels, encoder = make_pixels(tmp_path, noise(9), misfits=misfits), tiny_encoder()
    found = np.load(features.cached_features(pixels, encoder, cache=tmp_path))
    assert np.isnan(found).all(axis=1).tolist() == [row in (0, 3, 8) for row in range(9)]
    good = np.array([1, 2, 4, 5, 6, 7])
    expected = features.compute_features(pixels.images(good), encoder, intensity="rgb8")
    assert np.array_equal(found[good], expected)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    pixels, encoder = make_pixels(tmp_path, noise(3)), tiny_encoder()
    path = features.cached_features(pixels, encoder, cache=tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"features\.npy is damaged .*; remove it"):
        features.cached_features(pixels, encoder, cache=tmp_path)


def _slow_compute(pixels: FakePixels, encoder: Encoder, cache: Path, done: Any) -> None:
    real = features.load_forward

    def slow(encoder: Encoder, *, device: str) -> Any:
        done.put("computed")
        time.sleep(0.3)
        return real(encoder, device=device)

    features.load_forward = slow  # type: ignore[assignment]
    features.cached_features(pixels, encoder, cache=cache)


def test_two_processes_compute_the_features_once(tmp_path: Path) -> None:
    pixels, encoder = make_pixels(tmp_path, noise(5)), tiny_encoder()
    encoder.build()  # timm is loaded before the fork
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    workers = [context.Process(target=_slow_compute, args=(pixels, encoder, tmp_path, done)) for _ in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for one in workers:
        one.start()
    for one in workers:
        one.join(60)
    torch.set_num_threads(threads)
    assert [one.exitcode for one in workers] == [0, 0]
    assert done.get(timeout=5) == "computed" and done.empty()


def test_time_per_image_is_a_plausible_number_of_seconds() -> None:
    assert 0 < features.time_per_image(tiny_encoder(), size=32) < 10
