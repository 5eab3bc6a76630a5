"""Networks trained on synthetic rows: what each step draws, and what real rows still decide alone."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.adapt.synthetic_tasks import WAYS, add, fit
from tests.toy_images import as_images, make_task, noise, tiny_encoder, toy_classes
from wazuka.adapt import finetune, lora
from wazuka.core.errors import DataError
from wazuka.data.views import Images
from wazuka.nn.features import compute_features
from wazuka.nn.predictors import LinearHead, Network
from wazuka.nn.rows import ArrayImages
from wazuka.nn.weights import hash_state
from wazuka.training import batches, mixing
from wazuka.training.loop import LoopSettings
from wazuka.training.mixing import MixedRows
from wazuka.training.roles import AdaptTask, SyntheticRows, TrainOn


@settings(max_examples=50, deadline=None)
@given(
    weight=st.floats(0.01, 50),
    batch=st.integers(1, 20),
    steps=st.integers(1, 40),
    order=st.randoms(use_true_random=False),
)
def test_of_any_number_of_draws_the_synthetic_share_is_less_than_one_off(
    weight: float, batch: int, steps: int, order: Any
) -> None:
    share = weight / (1 + weight)
    rows = MixedRows(lambda one: np.array([one]), lambda one: np.array([-1 - one]), share=share, batch=batch)
    asked = list(range(steps))
    order.shuffle(asked)
    drawn = {step: rows(step) for step in asked}
    stream = np.concatenate([drawn[step] for step in range(steps)])
    assert {len(one) for one in drawn.values()} == {batch}
    np.testing.assert_array_equal(stream[stream >= 0], np.arange((stream >= 0).sum()), "each stream goes on in order")
    np.testing.assert_array_equal(-1 - stream[stream < 0], np.arange((stream < 0).sum()))
    for step in range(steps):
        seen = stream[: (step + 1) * batch]
        assert abs((seen < 0).sum() - share * len(seen)) < 1


def toy(
    folder: Path, train_on: TrainOn | None, *, n: int = 32, m: int = 40, weight: float = 1.0, **more: Any
) -> AdaptTask:
    images, labels = toy_classes(n)
    task = make_task(as_images(images, folder / "real"), labels, tiny_encoder(), **more)
    if train_on is None:
        return task
    made, own = toy_classes(m, seed=5)
    view = as_images(made, folder / "made")
    return add(
        task, SyntheticRows(images=view, labels=own.astype(np.int64), features=None, train_on=train_on, weight=weight)
    )


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_phases_draw_what_they_say_and_know_the_shares_of_it(tmp_path: Path, balanced: bool, weight: float) -> None:
    labels, made = np.arange(40) % 4 // 3, np.arange(30) % 3 // 1 % 2
    real = make_task(as_images(noise(40, size=2), tmp_path / "a"), labels, tiny_encoder(), inner_split=False)
    view = as_images(noise(30, size=2), tmp_path / "b")
    pooled = np.concatenate([labels, made])
    for way, share in (("real+synthetic", weight / (1 + weight)), ("synthetic", 1.0), ("synthetic-then-real", None)):
        rows = SyntheticRows(images=view, labels=made, features=None, train_on=way, weight=weight)  # type: ignore[arg-type]
        plan = functools.partial(
            mixing.plan_phases, train_rows=np.arange(40), batch=8, steps=101, seed=3, balance_classes=balanced
        )
        phases = plan(add(real, rows))
        assert [one.steps for one in phases] == ([101] if share is not None else [50, 51])
        for phase, expected in zip(phases, [share] if share is not None else [1.0, 0.0], strict=True):
            drawn = np.concatenate([phase.rows(step) for step in range(150)])
            assert len(drawn) == 1200 and abs((drawn >= 40).mean() - expected) < 1 / 1200
            found = np.log(np.bincount(pooled[drawn]) / len(drawn)) - np.log(np.bincount(labels) / 40)
            np.testing.assert_allclose(found - found[0], phase.shift - phase.shift[0], atol=0.03)
        (plain,) = plan(real)
        whole = batches.draw_rows(real, np.arange(40), 8, seed=3, balance_classes=balanced)
        for step in (0, 7, 33):
            np.testing.assert_array_equal(plain.rows(step), whole.sampler(step))
            if way == "synthetic-then-real":
                np.testing.assert_array_equal(phases[1].rows(step), whole.sampler(step))


@pytest.mark.parametrize("name", ["finetune", "lora"])
def test_steps_batches_and_validation_are_those_of_the_real_rows(name: str, tmp_path: Path) -> None:
    found = []
    for way in (None, *WAYS) if name == "finetune" else (None, "synthetic-then-real"):
        task = toy(tmp_path / str(way), way, n=16, m=80)
        found.append(fit(name, [task], tmp_path / f"{way}-step", epochs=2, batch=8, patience=100)[0].notes)
    for notes in found[1:]:
        for key in ("steps", "steps_planned", "batch", "train_rows", "val_rows", "lr"):
            assert notes[key] == found[0][key], key
    assert found[0]["steps"] == 4


def test_the_best_weights_of_two_phases_have_seen_real_rows(tmp_path: Path) -> None:
    (fitted,) = fit(
        "finetune", [toy(tmp_path, "synthetic-then-real")], tmp_path / "step", steps=41, batch=8, patience=3
    )
    steps = [step for step, _ in fitted.curves["val_loss"]]
    assert min(steps) > 20 and fitted.notes["best_step"] > 20 and fitted.notes["steps_planned"] == 41
    losses = [step for step, _ in fitted.curves["train_loss"]]
    assert losses == sorted(set(losses)) and losses[0] < 20 and losses[-1] == fitted.notes["steps"]


@pytest.mark.parametrize("killed_after", [3, 9])
def test_an_interrupted_training_of_two_phases_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    task = toy(tmp_path, "synthetic-then-real")
    how = {"steps": 12, "batch": 8, "ema": 0.9, "sampling": "balanced"}
    (whole,) = fit("finetune", [task], tmp_path / "a", **how)
    real, calls = batches.augment, 0

    def killed(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == killed_after + 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(finetune, "LoopSettings", functools.partial(LoopSettings, checkpoint_seconds=0.0))
    monkeypatch.setattr(batches, "augment", killed)
    with pytest.raises(KeyboardInterrupt):
        fit("finetune", [task], tmp_path / "b", **how)
    calls = 100
    (resumed,) = fit("finetune", [task], tmp_path / "b", **how)
    assert calls == 100 + 12 - killed_after, "no step is done twice"
    assert isinstance(whole.predictor, Network) and isinstance(resumed.predictor, Network)
    assert hash_state(resumed.predictor.state) == hash_state(whole.predictor.state)
    assert (resumed.notes, resumed.curves, resumed.threshold) == (whole.notes, whole.curves, whole.threshold)


@pytest.mark.parametrize("how", [{}, {"class_weights": "balanced"}, {"sampling": "balanced"}])
@pytest.mark.parametrize("way", WAYS)
def test_probabilities_follow_the_shares_of_the_real_rows(tmp_path: Path, way: TrainOn, how: dict[str, str]) -> None:
    """All images are the same: the best prediction is the share of each class, here 3/4 and 1/4."""
    gray = as_images(np.full((16, 16, 16, 3), 128, np.uint8), tmp_path)
    task = make_task(gray, np.arange(16) % 4 // 3, tiny_encoder(), inner_split=False)
    rows = SyntheticRows(images=gray, labels=np.arange(16) % 2, features=None, train_on=way, weight=1.0)
    (fitted,) = fit(
        "finetune", [add(task, rows)], tmp_path / "s", train="head", steps=60, batch=16, lr=0.3, augment="none", **how
    )
    np.testing.assert_allclose(fitted.predictor.predict_images(gray)[0], [0.75, 0.25], atol=0.01)
    assert fitted.notes["bias_corrected"] or (way == "synthetic-then-real" and not how)


def test_a_head_is_standardized_on_real_rows_whatever_it_trains_on(tmp_path: Path) -> None:
    for way in WAYS:
        task = toy(tmp_path / way, way, n=16, m=12, inner_split=False)
        (fitted,) = fit("finetune", [task], tmp_path / f"{way}-s", train="head", steps=4, batch=8)
        real = compute_features(task.labeled.images, task.encoder, intensity="rgb8").astype(np.float64)
        assert isinstance(fitted.predictor, LinearHead)
        np.testing.assert_allclose(fitted.predictor.mean, real.mean(0), atol=1e-5)
        deviation = np.where(real.std(0) > 0, real.std(0), 1)
        np.testing.assert_allclose(fitted.predictor.scale, deviation, rtol=1e-3)


@pytest.mark.parametrize("name", ["finetune", "lora"])
def test_synthetic_labels_are_learned_and_wrong_ones_too(name: str, tmp_path: Path) -> None:
    images, labels = toy_classes(60, seed=77)
    for flip in (False, True) if name == "finetune" else (True,):
        task = toy(tmp_path / str(flip), "synthetic", inner_split=False)
        assert task.synthetic is not None
        own = 1 - task.synthetic.labels if flip else task.synthetic.labels
        task = add(task, dataclasses.replace(task.synthetic, labels=own))
        (fitted,) = fit(name, [task], tmp_path / f"{flip}-step", steps=30, batch=16)
        auroc = roc_auc_score(labels, fitted.predictor.predict_images(ArrayImages(images))[:, 1])
        assert (auroc < 0.1) if flip else (auroc > 0.9)


def test_the_head_of_lora_starts_at_the_probe_of_what_its_first_phase_trains_on(tmp_path: Path) -> None:
    for way in WAYS:
        task = toy(tmp_path / way, way, m=20, weight=2.0, inner_split=False)
        made = task.synthetic
        assert made is not None
        both = [compute_features(one, task.encoder, intensity="rgb8") for one in (task.labeled.images, made.images)]
        rows = dataclasses.replace(made, features=both[1], train_on="synthetic" if "then" in way else way)
        probed = dataclasses.replace(task, features=both[0], synthetic=rows)
        (want,) = fit("linear-probe", [probed], tmp_path, penalty=lora.DEFAULT_PENALTY)
        (found,) = fit("lora", [task], tmp_path / f"{way}-s", steps=1, batch=8, lr=1e-12, sampling="shuffled")
        probs = [one.predictor.predict_images(task.labeled.images) for one in (found, want)]
        np.testing.assert_allclose(probs[0], probs[1], atol=1e-4)


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    task = toy(tmp_path, "synthetic")
    assert task.synthetic is not None
    small: Images = as_images(noise(40, size=16), tmp_path / "small")
    with pytest.raises(DataError, match=r"are \(16, 16, 3\) uint8; give \(32, 32, 3\) uint8, as there are in"):
        fit("finetune", [add(task, dataclasses.replace(task.synthetic, images=small))], tmp_path / "step")
