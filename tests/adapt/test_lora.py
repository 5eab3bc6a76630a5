"""LoRA against closed forms and against fine-tuning, and the adapters that it leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy_images import as_images, make_task, noise, tiny_encoder, toy_classes
from wazuka.adapt import finetune
from wazuka.adapt import lora as method
from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.data.views import Images
from wazuka.nn import architectures, lora, predictors
from wazuka.nn.adaptable import adaptable
from wazuka.nn.features import compute_features
from wazuka.nn.lora import Adapted, LoraNetwork, LoraSpec
from wazuka.nn.prefix import Suffix, prefix_output
from wazuka.nn.rows import ArrayImages
from wazuka.training.roles import Fitted, Runtime

VIT = "test_vit"
"""A timm vision transformer of 6 narrow blocks, 160 pixels."""


def small_vit() -> nn.Module:
    return architectures.build_seeded(VIT, {"img_size": 32, "patch_size": 8}, seed=0)


def run(
    config: method.Config, folder: Path, *, encoder: Any = None, images: Images | None = None, **task: Any
) -> Fitted:
    array, labels = toy_classes(16)
    folder.mkdir(parents=True, exist_ok=True)
    one = make_task(images or as_images(array, folder), labels, encoder or tiny_encoder(), **task)
    (fitted,) = method.METHOD([one], config=config, runtime=Runtime(device="cpu", threads=1, folder=folder))
    return fitted


# ------------------------------------------------------------------------------------------------ what is adapted


@pytest.mark.parametrize(
    ("arch", "attention", "mlp", "convolutions", "skipped", "blocks"),
    [
        ("resnet18", 0, 0, 20, 0, 8),
        ("mobilenetv1-025", 0, 0, 14, 13, 13),  # a stem and 13 pairs of a depthwise and a pointwise convolution
        ("vit_small_patch16_224", 24, 24, 0, 0, 12),
        ("convnext_tiny", 0, 0, 40, 18, 18),  # stem, 3 downsamplings, 18 blocks of 2 pointwise layers
        ("swin_base_patch4_window7_224", 48, 48, 0, 0, 24),
        ("vit_small_patch16_dinov3", 24, 24, 0, 0, 12),
        ("densenet121", 0, 0, 120, 0, 0),
    ],
)
def test_layers_are_told_apart(
    arch: str, attention: int, mlp: int, convolutions: int, skipped: int, blocks: int
) -> None:
    found = adaptable(architectures.build_meta(arch, {}))
    counts = (len(found.attention), len(found.mlp), len(found.convolutions), len(found.skipped), len(found.blocks))
    assert counts == (attention, mlp, convolutions, skipped, blocks)
    assert found.is_transformer == (attention > 0)


@pytest.mark.parametrize(
    ("arch", "targets", "last"),
    [
        ("resnet18", None, None), ("resnet18", None, 2), ("efficientnet_b0", None, None), ("mobilenetv1-025", None, None),
        (VIT, "attention", None), (VIT, None, None), (VIT, "attention+mlp", 2),
    ],
)  # fmt: skip
def test_the_number_of_trained_values_is_the_closed_form(arch: str, targets: Any, last: int | None) -> None:
    with torch.device("meta"):
        network = architectures.build_network(arch, {})
        layers = lora.choose_layers(network, targets, last=last, name=arch)
        expected = lora.parameter_count(network, layers, rank=4)
        lora.inject(network, LoraSpec(rank=4, alpha=4, layers=layers))
    assert sum(one.numel() for one in network.parameters() if one.requires_grad) == expected > 0


def test_a_vit_has_the_published_count() -> None:
    # ViT-S: 12 blocks of width 384; qkv 384 + 1152, proj 384 + 384, fc1 and fc2 384 + 1536, each times the rank
    network = architectures.build_meta("vit_small_patch16_224", {})
    layers = lora.choose_layers(network, None, last=None, name="vit")
    assert lora.parameter_count(network, layers, rank=16) == 12 * 16 * (1536 + 768 + 2 * 1920)


@pytest.mark.parametrize(
    ("arch", "targets", "last", "message"),
    [
        ("resnet18", "attention", None, "`targets: attention` needs a transformer, `net` has no attention"),
        ("densenet121", None, 1, "`blocks: 1` needs blocks that follow one another, `net` has none"),
        ("resnet18", None, 9, "`blocks` is 9, `net` has 8; give that many at most"),
    ],
)
def test_what_cannot_be_adapted_is_refused(arch: str, targets: Any, last: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lora.choose_layers(architectures.build_meta(arch, {}), targets, last=last, name="net")


# ---------------------------------------------------------------------------------------------------- mathematics


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Conv2d(6, 5, 1, bias=False),
        nn.Conv2d(6, 5, 3, stride=2, padding=1),
    ],
)
def test_merging_gives_the_same_outputs(layer: nn.Module) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(layer)
    lora.inject(network, LoraSpec(rank=3, alpha=6, layers=("0",)))
    with torch.no_grad():
        for name, one in network.named_parameters():
            if ".lora_B" in name:
                one.normal_()
    x = torch.randn(4, 6) if isinstance(layer, nn.Linear) else torch.randn(4, 6, 8, 8)
    before = network(x)
    lora.merge(network)
    assert network[0] is layer
    torch.testing.assert_close(network(x), before, rtol=1e-5, atol=1e-5)


def test_one_step_moves_the_merged_weight_as_a_fine_tuning_step_does() -> None:
    # W + (alpha/rank) B A with B = 0: dL/dB = G A^T, so B = -lr G A^T and B A = -lr G A^T A = -lr G for orthogonal A
    torch.manual_seed(0)
    x, target, lr = torch.randn(8, 6, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64), 0.1
    plain = nn.Linear(6, 5, bias=False).double()
    adapted = nn.Sequential(nn.Linear(6, 5, bias=False).double())
    adapted[0].load_state_dict(plain.state_dict())
    lora.inject(adapted, LoraSpec(rank=6, alpha=6, layers=("0",)))
    adapted.double()
    with torch.no_grad():
        next(one for name, one in adapted.named_parameters() if ".lora_A" in name).copy_(
            torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
        )
    for network in (plain, adapted):
        optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=lr)
        (network(x) - target).square().sum().backward()
        optimizer.step()
    lora.merge(adapted)
    torch.testing.assert_close(adapted[0].weight, plain.weight, rtol=1e-12, atol=1e-12)


def test_a_convolution_steps_likewise() -> None:
    torch.manual_seed(0)
    x, lr, rank = torch.randn(4, 2, 6, 6, dtype=torch.float64), 0.05, 18  # rank = 2 x 3 x 3: A as a matrix is square
    plain = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    adapted = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False).double())
    adapted[0].load_state_dict(plain.state_dict())
    lora.inject(adapted, LoraSpec(rank=rank, alpha=rank, layers=("0",)))
    adapted.double()
    with torch.no_grad():
        found = next(one for name, one in adapted.named_parameters() if ".lora_A" in name)
        found.copy_(torch.linalg.qr(torch.randn(rank, rank, dtype=torch.float64))[0].reshape(found.shape))
    for network in (plain, adapted):
        optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=lr)
        network(x).square().sum().backward()
        optimizer.step()
    lora.merge(adapted)
    torch.testing.assert_close(adapted[0].weight, plain.weight, rtol=1e-12, atol=1e-12)


def test_standardizing_features_folds_into_the_head() -> None:
    torch.manual_seed(0)
    backbone, head, x = nn.Linear(4, 3), nn.Linear(3, 2), torch.randn(9, 4)
    adapted = Adapted(backbone, features=backbone(x).detach())
    torch.testing.assert_close(adapted(x).mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(adapted.folded(head)(backbone(x)), head(adapted(x)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arch", "args"), [(VIT, {"img_size": 32, "patch_size": 8}), ("test_resnet", {}), ("convnext_atto", {})]
)
def test_prefix_and_suffix_make_the_network(arch: str, args: dict[str, Any]) -> None:
    network = architectures.build_seeded(arch, args, seed=0)
    blocks = adaptable(network).blocks
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        whole = network(images)
        stored = prefix_output(network, blocks[-3], images)
        torch.testing.assert_close(Suffix(network, blocks[:-2], (32, 32))(stored), whole)


# ------------------------------------------------------------------------------------------------------ the method


def test_what_is_saved_is_small_and_predicts_the_same(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    fitted = run(method.Config(steps=6, batch=8, rank=2, lr=0.01), tmp_path / "fit", encoder=encoder)
    predictor = fitted.predictor
    assert isinstance(predictor, LoraNetwork)
    layers = predictor.spec.layers
    head = 2 * (encoder.feature_dim + 1)
    assert predictor.trained_params == lora.parameter_count(encoder.build(), layers, 2) + head
    images = ArrayImages(noise(5, seed=3))
    expected = predictor.predict_images(images)
    predictor.save(tmp_path / "saved")
    loaded = predictors.load(tmp_path / "saved")
    assert isinstance(loaded, LoraNetwork) and loaded.spec == predictor.spec
    np.testing.assert_array_equal(loaded.predict_images(images), expected)
    assert (tmp_path / "saved" / "predictor.safetensors").stat().st_size < 4 * predictor.trained_params + 8192
    odd = dataclasses.replace(
        predictor, state={name: one for name, one in predictor.state.items() if name != "head.bias"}
    )
    with pytest.raises(ArtifactError, match=r"do not fit `test_resnet`: tensor `head\.bias` is on one side only"):
        odd.build()


def test_the_backbones_statistics_stay_and_only_adapters_change(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    fitted = run(method.Config(steps=4, batch=8, lr=0.01), tmp_path, encoder=encoder)
    plain = encoder.build().state_dict()
    merged = fitted.predictor.build().backbone.state_dict()  # type: ignore[attr-defined]
    adapted = {f"{one}.weight" for one in fitted.predictor.spec.layers}  # type: ignore[attr-defined]
    changed = {name for name, one in plain.items() if not torch.equal(one, merged[name])}
    assert changed and changed <= adapted


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_accumulating_gives_the_gradient_of_the_whole_batch(accumulate: int, tmp_path: Path) -> None:
    config = method.Config(steps=3, batch=8, dropout=0.0, augment="none", lr=0.01)
    whole = run(config, tmp_path / "whole")
    parts = run(dataclasses.replace(config, accumulate=accumulate), tmp_path / "parts")
    for name, one in whole.predictor.state.items():  # type: ignore[attr-defined]
        torch.testing.assert_close(parts.predictor.state[name], one, rtol=1e-3, atol=1e-5)  # type: ignore[attr-defined]


def test_checkpointing_changes_no_number(tmp_path: Path) -> None:
    config = method.Config(steps=3, batch=8, lr=0.01)
    plain = run(config, tmp_path / "plain")
    saved = run(dataclasses.replace(config, checkpointing=True), tmp_path / "saved")
    for name, one in plain.predictor.state.items():  # type: ignore[attr-defined]
        torch.testing.assert_close(saved.predictor.state[name], one, rtol=1e-4, atol=1e-6)  # type: ignore[attr-defined]


def test_a_stored_prefix_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = method.Config(steps=4, batch=8, blocks=1, lr=0.01)
    stored = run(config, tmp_path / "stored")
    monkeypatch.setattr(method, "PREFIX_BYTES", 0)
    computed = run(config, tmp_path / "computed")
    assert stored.notes["prefix_stored"] and not computed.notes["prefix_stored"]
    for name, one in computed.predictor.state.items():  # type: ignore[attr-defined]
        torch.testing.assert_close(stored.predictor.state[name], one, rtol=1e-4, atol=1e-6)  # type: ignore[attr-defined]


def test_probabilities_follow_the_shares_of_the_classes(tmp_path: Path) -> None:
    # features say nothing: images are all alike, so that the head learns the shares alone, whatever was drawn
    array, labels = np.repeat(noise(1), 16, axis=0), np.array([0] * 12 + [1] * 4)
    task = make_task(as_images(array, tmp_path), labels, tiny_encoder(), inner_split=False)
    config = method.Config(steps=60, batch=16, augment="none", rank=1)
    (fitted,) = method.METHOD([task], config=config, runtime=Runtime(device="cpu", threads=1, folder=tmp_path))
    np.testing.assert_allclose(fitted.predictor.predict_images(ArrayImages(array[:1]))[0], [0.75, 0.25], atol=0.02)


def test_settings_out_of_range_are_refused() -> None:
    for values, message in (
        ({"rank": 0}, "`rank` is 0; give a number above 0"),
        ({"dropout": 1.0}, "`dropout` is 1.0; give a number from 0 to below 1"),
        ({"steps": 1, "epochs": 1}, "both given"),
    ):
        with pytest.raises(ValueError, match=message):
            method.Config(**values)  # type: ignore[arg-type]


def test_fine_tuning_a_transformer_works_end_to_end(tmp_path: Path) -> None:
    array, labels = toy_classes(16)
    encoder = tiny_encoder(VIT)
    images = as_images(np.repeat(np.repeat(array, 5, axis=1), 5, axis=2), tmp_path)
    task = make_task(images, labels, encoder)
    config = finetune.Config(steps=4, batch=8)
    (fitted,) = finetune.METHOD([task], config=config, runtime=Runtime(device="cpu", threads=1, folder=tmp_path))
    assert fitted.predictor.predict_images(images).shape == (16, 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_starts_as_the_linear_probe(classes: int, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    labels = np.arange(16) % classes
    images, encoder = as_images(noise(16), tmp_path), tiny_encoder()
    config = method.Config(steps=1, batch=8, lr=1e-12, dropout=0.0, augment="none")
    task = make_task(images, labels, encoder, inner_split=False)
    (fitted,) = method.METHOD([task], config=config, runtime=Runtime(device="cpu", threads=1, folder=tmp_path))
    features = compute_features(images, encoder, intensity="rgb8").astype(np.float64)
    deviation = features.std(0)
    features = (features - features.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    probe = LogisticRegression(C=method.DEFAULT_PENALTY, tol=1e-10, max_iter=10_000).fit(features, labels)
    np.testing.assert_allclose(fitted.predictor.predict_images(images), probe.predict_proba(features), atol=2e-4)


def test_the_probe_stays_where_adapting_only_harms(tmp_path: Path) -> None:
    array, labels = toy_classes(32)
    images = as_images(array, tmp_path)
    config = method.Config(steps=20, batch=8, lr=30.0, augment="none", clip_norm=None)
    task = make_task(images, labels, tiny_encoder())
    (fitted,) = method.METHOD([task], config=config, runtime=Runtime(device="cpu", threads=1, folder=tmp_path))
    assert fitted.notes["best_step"] == 0 and fitted.curves["val_loss"][0][0] == 0
