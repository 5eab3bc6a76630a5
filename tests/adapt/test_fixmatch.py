"""FixMatch: its loss written out, what it may see, resuming, and that images without labels help."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.toy_images import as_images, make_task, noise, tiny_encoder, toy_classes
from wazuka.adapt import finetune, fixmatch
from wazuka.core.config import build
from wazuka.core.errors import ConfigError
from wazuka.core.hashing import derive_seed
from wazuka.data.views import Images
from wazuka.nn.network import Classifier
from wazuka.nn.predictors import Network
from wazuka.nn.rows import ArrayImages
from wazuka.nn.weights import hash_state
from wazuka.training import batches
from wazuka.training.loop import LoopSettings
from wazuka.training.roles import AdaptTask, Fitted, Runtime


def fit(task: AdaptTask, folder: Path, **config: Any) -> Fitted:
    """Fit one task with settings written as in a study file."""
    folder.mkdir(parents=True, exist_ok=True)
    runtime = Runtime(device="cpu", threads=1, folder=folder)
    (fitted,) = fixmatch.METHOD([task], config=build(fixmatch.Config, config, where="adapt"), runtime=runtime)
    return fitted


def toy_task(folder: Path, n: int = 16, unlabeled: int = 32, **changes: Any) -> AdaptTask:
    """The first n rows have labels, the next ones do not."""
    images, labels = toy_classes(n + unlabeled)
    file = as_images(images, folder)
    task = make_task(file.take(np.arange(n)), labels[:n], changes.pop("encoder", tiny_encoder()), **changes)
    return dataclasses.replace(task, unlabeled=file.take(np.arange(n, n + unlabeled)))


def state_of(fitted: Fitted) -> dict[str, torch.Tensor]:
    assert isinstance(fitted.predictor, Network)
    return dict(fitted.predictor.state)


@pytest.mark.parametrize("aligned", [False, True])
def test_the_unsupervised_loss_is_equation_4_written_out(aligned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weak, strong = (3 * torch.randn(20, 3, generator=generator, dtype=torch.float64) for _ in "ab")
    weak.requires_grad_()
    scale = torch.tensor([0.5, 1.0, 4.0]) if aligned else None
    labels, sure = fixmatch.pseudo_labels(weak, 0.8, scale=scale)
    loss = fixmatch.unsupervised_loss(strong, labels, sure)
    want, counted = 0.0, 0
    for number in range(20):
        q = np.exp(weak[number].detach().numpy())
        q = q / q.sum()
        if aligned:
            q = q * [0.5, 1.0, 4.0]
            q = q / q.sum()
        if max(q) >= 0.8:
            p = np.exp(strong[number].numpy())
            want += -np.log(p[int(np.argmax(q))] / p.sum()) / 20
            counted += 1
    assert 0 < counted < 20 and int(sure.sum()) == counted
    assert float(loss) == pytest.approx(want, rel=1e-6)
    assert not loss.requires_grad, "nothing passes through the weak versions"


class _Drawn(Classifier):
    """Its head is drawn, not zero: predictions differ, and a first step changes the backbone, too."""

    def __init__(self, backbone: torch.nn.Module, feature_dim: int, classes: int) -> None:
        super().__init__(backbone, feature_dim, classes)
        torch.nn.init.normal_(self.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))


def test_one_step_is_algorithm_1_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = toy_task(tmp_path, n=8, unlabeled=16, inner_split=False)
    how = {"batch": 4, "mu": 3, "lambda_u": 0.7, "tau": 0.8, "optimizer": "sgd", "lr": 0.05, "weight_decay": 0.0}
    how |= {"clip_norm": None, "ema": 0.0, "steps": 1, "schedule": "constant", "warmup": 0.0, "head_lr_factor": 1.0}
    seen: list[torch.Tensor] = []

    class Spied(_Drawn):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    monkeypatch.setattr(fixmatch, "Classifier", Spied)
    fitted = fit(task, tmp_path, **how)
    (together,) = seen
    assert len(together) == 4 + 3 * 4 + 3 * 4, "one pass of labeled, weak and strong images"
    network = _Drawn(task.encoder.build(), task.encoder.feature_dim, 2).train()
    network = network.to(memory_format=torch.channels_last)  # as in training: rounding can turn a ReLU near zero
    order = derive_seed(derive_seed(task.seed, "fixmatch", 0), "order")
    drawn = batches.draw_rows(task, np.arange(8), 4, seed=order, balance_classes=False).sampler(0)
    log_p = network(together).log_softmax(1)
    loss = -log_p[range(4), task.labeled.labels[drawn]].mean()
    q, sure = log_p[4:16].detach().exp(), 0
    for number in range(12):
        if float(q[number].max()) >= 0.8:
            loss = loss - 0.7 * log_p[16 + number, int(q[number].argmax())] / 12
            sure += 1
    assert 0 < sure < 12
    loss.backward()
    found, moved = state_of(fitted), 0.0
    for name, one in network.named_parameters():
        assert one.grad is not None
        step = 0.05 * (1 + 0.9) * one.grad  # the first step with Nesterov's momentum
        torch.testing.assert_close(found[name], one.detach() - step, rtol=1e-4, atol=1e-6)
        moved = max(moved, float(step.abs().max())) if name.startswith("backbone") else moved
    assert moved > 1e-3
    assert fitted.curves["pseudo_labeled"] == [(1.0, pytest.approx(sure / 12))]


def test_without_weight_on_the_unlabeled_it_is_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder("test_vit")  # no BatchNorm: images of one batch do not meet
    images, labels = toy_classes(24, size=encoder.input_size)
    file = as_images(images, tmp_path)
    task = make_task(file.take(np.arange(8)), labels[:8], encoder, inner_split=False)
    task = dataclasses.replace(task, unlabeled=file.take(np.arange(8, 24)))
    same = {"steps": 3, "batch": 4, "augment": "none", "lr": 1e-3, "warmup": 0.0}
    monkeypatch.setattr(fixmatch, "derive_seed", lambda seed, *names: derive_seed(seed, *_as_finetune(names)))
    here = fit(task, tmp_path / "a", lambda_u=0.0, ema=0.0, mu=2, **same)
    config = build(finetune.Config, same, where="adapt")
    runtime = Runtime(device="cpu", threads=1, folder=tmp_path)
    (there,) = finetune.METHOD([task], config=config, runtime=runtime)
    want, found = state_of(there), state_of(here)
    for name in want:
        torch.testing.assert_close(found[name], want[name], rtol=1e-3, atol=2e-5)
    moved = fit(task, tmp_path / "b", lambda_u=1.0, tau=0.0, ema=0.0, mu=2, **same)
    assert max(float((state_of(moved)[name] - want[name]).abs().max()) for name in want) > 1e-3


def _as_finetune(names: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple("finetune" if one == "fixmatch" else one for one in names)


def disks(n: int, seed: int, *, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Small and large disks of random place and color: what strong augmentation changes says nothing about the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    row, column = np.mgrid[:size, :size]
    center = rng.uniform(4, size - 5, (2, n, 1, 1))
    radius = np.where(labels == 1, 4.5, 2.5)[:, None, None] * rng.uniform(0.9, 1.1, (n, 1, 1))
    inside = (row - center[0]) ** 2 + (column - center[1]) ** 2 < radius**2
    base, step = rng.uniform(60, 110, (n, 1, 1, 3)), rng.uniform(50, 110, (n, 1, 1, 1))
    images = base + inside[..., None] * step + 12 * rng.normal(size=(n, size, size, 3))
    return images.clip(0, 255).astype(np.uint8), labels


def test_images_without_labels_help(tmp_path: Path) -> None:
    images, labels = disks(8 + 96, seed=0)
    file = as_images(images, tmp_path)
    task = make_task(file.take(np.arange(8)), labels[:8], tiny_encoder(), inner_split=False)
    new, truth = disks(100, seed=100)
    score = {}
    for name, unlabeled in (("alone", None), ("with", file.take(np.arange(8, 104)))):
        fitted = fit(dataclasses.replace(task, unlabeled=unlabeled), tmp_path / name, steps=120, batch=8, mu=4, lr=3e-3)
        score[name] = roc_auc_score(truth, fitted.predictor.predict_images(ArrayImages(new))[:, 1])
    assert score["with"] > 0.97 > 0.95 > score["alone"], score  # five seeds: 1.00 each, against 0.88 to 0.96


def test_classes_are_learned_and_the_share_of_pseudo_labels_is_recorded(tmp_path: Path) -> None:
    fitted = fit(toy_task(tmp_path, n=24), tmp_path, steps=40, batch=8, mu=2, tau=0.8)
    images, labels = toy_classes(60, seed=77)
    probs = fitted.predictor.predict_images(ArrayImages(images))
    assert roc_auc_score(labels, probs[:, 1]) > 0.95
    curve = fitted.curves["pseudo_labeled"]
    assert curve[0][1] < curve[-1][1] == fitted.notes["pseudo_labeled_last"]
    assert all(0 <= share <= 1 for _, share in curve) and curve[-1][0] == fitted.notes["best_step"]
    assert fitted.notes["unlabeled_images"] == 32 and fitted.notes["unlabeled_batch"] == 16
    assert fitted.notes["ema"] == 0.75 and fitted.notes["threshold"].startswith("highest balanced accuracy")


def test_all_labels_given_is_plain_training_and_the_record_says_so(tmp_path: Path) -> None:
    task = toy_task(tmp_path)
    empty = dataclasses.replace(task, unlabeled=Images(task.labeled.images.source, np.zeros(0, np.int64)))
    found = []
    for number, one in enumerate((empty, dataclasses.replace(task, unlabeled=None))):
        fitted = fit(one, tmp_path / str(number), steps=3, batch=8)
        assert fitted.notes["unlabeled_images"] == 0 and "pseudo_labeled" not in fitted.curves
        assert fitted.notes["semi_supervised"].startswith("no: the budget leaves no training image without a label")
        found.append(hash_state(state_of(fitted)))
    assert found[0] == found[1]
    assert hash_state(state_of(fit(task, tmp_path / "c", steps=3, batch=8))) != found[0]


def test_an_interrupted_fit_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = toy_task(tmp_path)
    how = {"steps": 8, "batch": 4, "mu": 2, "tau": 0.55, "lr": 0.01, "distribution_alignment": True}
    whole = fit(task, tmp_path / "a", **how)
    assert whole.notes["pseudo_labeled_last"] > 0
    real, calls = fixmatch.unsupervised_loss, 0

    def killed(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(fixmatch, "LoopSettings", functools.partial(LoopSettings, checkpoint_seconds=0.0))
    monkeypatch.setattr(fixmatch, "unsupervised_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(task, tmp_path / "b", **how)
    calls = 100
    resumed = fit(task, tmp_path / "b", **how)
    assert calls == 103, "five steps were kept, three were left to do"
    assert hash_state(state_of(resumed)) == hash_state(state_of(whole))
    assert (resumed.notes, resumed.curves, resumed.threshold) == (whole.notes, whole.curves, whole.threshold)


def test_validation_images_and_labels_of_the_others_cannot_be_reached(tmp_path: Path) -> None:
    task = toy_task(tmp_path)
    assert type(task.unlabeled) is Images, "pixels only"
    assert {one.name for one in dataclasses.fields(Images)} == {"source", "rows", "_array"}
    drawn: list[int] = []

    class Spied(Images):
        def batch(self, positions: np.ndarray) -> np.ndarray:
            drawn.extend(self.rows[positions].tolist())
            return super().batch(positions)

    assert task.unlabeled is not None
    spied = Spied(task.unlabeled.source, task.unlabeled.rows)
    fit(dataclasses.replace(task, unlabeled=spied), tmp_path, steps=3, batch=8, mu=3)
    assert set(drawn) <= set(range(16, 48)) and len(set(drawn)) == 32, "its own rows, all of them in an epoch"


def test_distribution_alignment_follows_the_shares_of_the_labels(tmp_path: Path) -> None:
    network = fixmatch.SemiSupervised(Classifier(torch.nn.Flatten(), 12, 2), 2, steps=4)
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    for _ in range(2000):
        scale = fixmatch._alignment(network, logits, torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(scale, torch.tensor([0.25 / 0.7, 0.75 / 0.3]), rtol=1e-3, atol=1e-4)


def test_strong_views_alone_are_changed_by_randaugment(tmp_path: Path) -> None:
    task = dataclasses.replace(toy_task(tmp_path), remedies=("randaugment", "stain-jitter"))
    opened = fixmatch._Unlabeled.open(task, build(fixmatch.Config, {"mu": 2}, where="adapt"), seed=0, device="cpu")
    assert opened is not None
    assert opened.weak.remedies == ("stain-jitter",) and opened.strong.remedies == ("randaugment", "stain-jitter")


def test_the_estimate_of_time_counts_every_image_of_a_step() -> None:
    config = build(fixmatch.Config, {"steps": 10, "batch": 8, "mu": 3}, where="adapt")
    assert fixmatch.images_trained(config, 100) == 10 * 8 * 7
    assert fixmatch.images_trained(config, 4) == 10 * 4 * 7


def test_one_channel_and_hounsfield_units_are_trained_on(tmp_path: Path) -> None:
    units = noise(24, channels=1).astype(np.int16) - 128
    file = as_images(units, tmp_path)
    task = make_task(file.take(np.arange(8)), np.arange(8) % 2, tiny_encoder(), inner_split=False)
    task = dataclasses.replace(task, unlabeled=file.take(np.arange(8, 24)))
    fitted = fit(task, tmp_path, steps=2, batch=4, mu=2)
    assert isinstance(fitted.predictor, Network) and fitted.predictor.intensity == "hounsfield"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"tau": 1.5}, "`tau` is 1.5; give a probability from 0 to 1"),
        ({"mu": 0}, "`mu` is 0; give a number above 0"),
        ({"lambda_u": -1.0}, "`lambda_u` is -1.0; give a number from 0 on"),
        ({"ema": 1.0}, "`ema` is 1.0; give a number from 0 to below 1"),
        ({"steps": 1, "epochs": 1}, "`steps: 1` and `epochs: 1` are both given"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(fixmatch.Config, settings, where="adapt")
