"""Backbones: names, files, graphs and folders become encoders; what does not fit is refused with one clear line."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toy_images import TINY, noise, tiny_encoder
from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.core.places import config_folder
from wazuka.core.records import read_json, read_table, write_json, write_table
from wazuka.nn import architectures, backbones, encoders, features
from wazuka.nn.cards import CARDS
from wazuka.nn.rows import ArrayImages


def write_tiny(path: Path, *, seed: int = 5, **changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Save a tiny network's weights as others would: with a classifier, without our header."""
    state = dict(architectures.build_seeded(TINY, {}, seed=seed).state_dict())
    state |= {"fc.weight": torch.zeros(1000, 96), "fc.bias": torch.zeros(1000)}
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return state


def outputs(encoder: backbones.Encoder) -> torch.Tensor:
    with torch.inference_mode():
        return encoder.build()(torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (backbones.resolve(TINY, weights="none", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state), "torch's own generator was touched"
    assert first == again and first.weights_hash != other.weights_hash
    assert not first.pretrained and first.path is None
    assert torch.equal(outputs(first), outputs(again)) and not torch.equal(outputs(first), outputs(other))


def test_an_unknown_name_offers_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"Unknown backbone `resnet81`\. Did you mean `resnet18`\?"):
        backbones.resolve("resnet81")
    with pytest.raises(ConfigError, match=r"Did you mean `test_convnext3?`\?"):
        backbones.resolve("test_convnexx", weights="none")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, without a network."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.usefixtures("hub")
def test_pretrained_weights_that_cannot_be_had_are_one_clear_error() -> None:
    remedy = r"`wazuka backbones add resnet18 FILE\.safetensors`, or use `weights: none`\.$"
    with pytest.raises(ArtifactError, match=rf"^The pretrained weights of `resnet18` are neither .*{remedy}"):
        backbones.resolve("resnet18")
    with pytest.raises(
        ArtifactError, match=r"`mobilenetv1-025` are not on this machine.*backbones add mobilenetv1-025"
    ):
        backbones.resolve("mobilenetv1-025")


def test_pretrained_weights_in_the_hubs_cache_are_used_offline(hub: Path) -> None:
    base = hub / "models--timm--test_resnet.r160_in1k"
    (base / "snapshots" / "0123").mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("0123")
    write_tiny(base / "snapshots" / "0123" / "model.safetensors", seed=5)
    encoder = backbones.resolve(TINY)
    assert encoder.weights == "pretrained" and encoder.pretrained and encoder.license == "apache-2.0"
    assert encoder.weights_hash == tiny_encoder(seed=5).weights_hash
    assert torch.equal(outputs(encoder), outputs(tiny_encoder(seed=5)))


def test_the_list_says_which_weights_are_on_this_machine(hub: Path) -> None:
    base = hub / "models--timm--resnet18.a1_in1k"
    (base / "snapshots" / "0123").mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("0123")
    (base / "snapshots" / "0123" / "model.safetensors").touch()
    here = {one["name"]: one["weights_here"] for one in backbones.listing()}
    assert here == {name: "yes" if name == "resnet18" else "no" for name in CARDS}


def test_a_weights_file_gives_its_network_without_the_classifier(tmp_path: Path) -> None:
    write_tiny(tmp_path / "w.safetensors", seed=5)
    encoder = backbones.resolve(f"{TINY}={tmp_path / 'w.safetensors'}")
    assert encoder.weights == "file" and encoder.feature_dim == 96 and encoder.pretrained
    assert "fc.weight" in encoder.note and "not used" in encoder.note
    assert encoder.weights_hash == tiny_encoder(seed=5).weights_hash, "equal weights have equal hashes"
    assert torch.equal(outputs(encoder), outputs(tiny_encoder(seed=5)))


def test_weights_in_half_precision_are_used_as_float32(tmp_path: Path) -> None:
    state = write_tiny(tmp_path / "w.safetensors")
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    network = backbones.resolve(f"{TINY}={tmp_path / 'half.safetensors'}").build()
    assert {one.dtype for one in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"tensor `layer1\.0\.conv1\.weight` of shape \(32, 32, 3, 3\) is missing"),
        (
            {"layer1.0.conv1.weight": torch.zeros(8, 4, 3, 3)},
            r"tensor `layer1\.0\.conv1\.weight` has shape \(8, 4, 3, 3\), the network needs \(32, 32, 3, 3\)",
        ),
        ({"extra.weight": torch.zeros(3)}, r"tensor `extra\.weight` of shape \(3,\) is not part of the network"),
    ],
)
def test_weights_that_do_not_fit_name_the_first_wrong_tensor(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    write_tiny(tmp_path / "w.safetensors", **change)
    for use in (
        lambda: backbones.resolve(f"{TINY}={tmp_path / 'w.safetensors'}"),
        lambda: backbones.add(TINY, tmp_path / "w.safetensors"),
    ):
        with pytest.raises(ArtifactError, match=f"w.safetensors does not fit: {message}"):
            use()
    assert backbones.added_files() == {}


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.safetensors does not exist"):
        backbones.resolve(f"{TINY}={tmp_path / 'none.safetensors'}")
    (tmp_path / "text.safetensors").write_text("no tensors here")
    with pytest.raises(ArtifactError, match=r"text\.safetensors is not a safetensors file"):
        backbones.resolve(f"{TINY}={tmp_path / 'text.safetensors'}")
    with pytest.raises(ConfigError, match=r"names a file but no network; write NAME=FILE\.safetensors"):
        backbones.resolve("some.safetensors")
    with pytest.raises(ArtifactError, match=r"holds no encoder\.json"):
        backbones.resolve(str(tmp_path))
    write_tiny(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"`weights: none` contradicts the weights given by"):
        backbones.resolve(f"{TINY}={tmp_path / 'w.safetensors'}", weights="none")


def test_weights_that_changed_after_they_were_chosen_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path / "w.safetensors", seed=5)
    encoder = backbones.resolve(f"{TINY}={tmp_path / 'w.safetensors'}")
    write_tiny(tmp_path / "w.safetensors", seed=6)
    with pytest.raises(ArtifactError, match="have changed since they were chosen"):
        encoder.build()


def test_an_added_file_serves_under_its_name(tmp_path: Path) -> None:
    write_tiny(tmp_path / "w.safetensors", seed=5)
    added = backbones.add(TINY, tmp_path / "w.safetensors")
    assert added.path is not None and added.path.parent == (config_folder() / "backbones").resolve()
    (tmp_path / "w.safetensors").unlink()
    try:
        encoder = backbones.resolve(TINY)
        assert encoder.weights_hash == added.weights_hash and encoder.license == "unknown"
        assert torch.equal(outputs(encoder), outputs(tiny_encoder(seed=5)))
        assert [one["weights"] for one in backbones.listing() if one["name"] == TINY] == ["added"]
        write_tiny(tmp_path / "other.safetensors", seed=6)
        with pytest.raises(ArtifactError, match=rf"Backbone `{TINY}` was added before"):
            backbones.add(TINY, tmp_path / "other.safetensors")
        write_tiny(tmp_path / "same.safetensors", seed=5)
        backbones.add(TINY, tmp_path / "same.safetensors")
    finally:
        added.path.unlink()


def test_added_weights_keep_what_their_training_has_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAZUKA_CONFIG", str(tmp_path / "config"))
    backbones.save_encoder(tiny_encoder(seed=3), tmp_path / "artifact")
    seen = pd.DataFrame({"patient_hash": ["p"], "image_sha256": ["i"], "labeled": [False]})
    write_table(tmp_path / "artifact" / "seen.parquet", seen)
    write_json(tmp_path / "artifact" / "record.json", {"fingerprint": "f", "salt": None, "device": "cpu"})
    for name in ("mine.v2", "mine.v2", "copy"):
        source = tmp_path / "artifact" / "encoder.safetensors"
        backbones.add(name, source if name != "copy" else backbones.added_files()["mine.v2"])
        table = backbones.resolve(name).provenance()
        assert table is not None and table.name == f"{name}.seen.parquet"
        pd.testing.assert_frame_equal(read_table(table), seen)
        assert read_json(encoders.record_beside(table)) == {"fingerprint": "f", "salt": None}
    assert set(backbones.added_files()) == {"mine.v2", "copy"}
    loaded = backbones.resolve(str(tmp_path / "artifact")).provenance()
    assert loaded is not None and encoders.record_beside(loaded) == tmp_path / "artifact" / "record.json"
    write_tiny(tmp_path / "w.safetensors")
    backbones.add(TINY, tmp_path / "w.safetensors")
    assert backbones.resolve(TINY).provenance() is None and tiny_encoder().provenance() is None


def test_a_state_dict_is_converted_and_a_pickled_object_refused(tmp_path: Path) -> None:
    state = write_tiny(tmp_path / "w.safetensors", seed=5)
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pth")
    with pytest.raises(ArtifactError, match=rf"convert it with `wazuka backbones add {TINY} w.pth`"):
        backbones.resolve(f"{TINY}={tmp_path / 'w.pth'}")
    added = backbones.add(TINY, tmp_path / "w.pth")
    try:
        assert added.weights_hash == tiny_encoder(seed=5).weights_hash
        assert backbones.resolve(TINY).weights_hash == added.weights_hash
    finally:
        assert added.path is not None
        added.path.unlink()

    ran = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (ran,))  # type: ignore[return-value]

    for name, write in (
        ("a.pt", lambda path: torch.save({"x": Attack()}, path)),
        ("b.pth", lambda path: path.write_bytes(pickle.dumps(Attack()))),
    ):
        write(tmp_path / name)
        with pytest.raises(ArtifactError, match=rf"{name} (holds pickled objects|is not a readable weights file)"):
            backbones.add(TINY, tmp_path / name)
    assert not ran.exists(), "code in a weights file was run"


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden"])
def test_a_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a backbone"):
        backbones.add(name, tmp_path / "w.safetensors")


def test_a_saved_encoder_is_whole_and_rebuilds_exactly(tmp_path: Path) -> None:
    encoder = tiny_encoder(seed=3)
    saved = backbones.save_encoder(encoder, tmp_path / "artifact")
    loaded = backbones.resolve(str(tmp_path / "artifact"))
    assert loaded.weights == "file" and not loaded.pretrained and loaded.weights_hash == encoder.weights_hash
    assert loaded.key() == encoder.key() == saved.key()
    assert torch.equal(outputs(loaded), outputs(encoder))
    assert str(tmp_path) not in (tmp_path / "artifact" / "encoder.json").read_text()
    (tmp_path / "artifact").rename(tmp_path / "moved")
    assert torch.equal(outputs(backbones.load_encoder(tmp_path / "moved")), outputs(encoder))
    alone = backbones.resolve(f"mine={tmp_path / 'moved' / 'encoder.safetensors'}")
    assert alone.arch == TINY and torch.equal(outputs(alone), outputs(encoder)), "the header is enough to rebuild"
    with pytest.raises(ArtifactError, match=rf"holds weights of `{TINY}`, not of `resnet18`"):
        backbones.resolve(f"resnet18={tmp_path / 'moved' / 'encoder.safetensors'}")


def test_new_weights_of_a_pretrainer_are_saved_in_the_encoders_place(tmp_path: Path) -> None:
    start, learned = tiny_encoder(seed=3), tiny_encoder(seed=4)
    saved = backbones.save_encoder(start, tmp_path, state=learned.build().state_dict())
    assert saved.pretrained and saved.weights_hash == learned.weights_hash
    assert torch.equal(outputs(backbones.load_encoder(tmp_path)), outputs(learned))


def test_a_spec_survives_json() -> None:
    encoder = tiny_encoder("test_vit")
    assert backbones.from_spec(json.loads(json.dumps(encoder.spec()))) == encoder
    with pytest.raises(ConfigError, match=r"Unknown key `weight` .*Did you mean `weights`"):
        backbones.from_spec(encoder.spec() | {"weight": "none"})


def test_the_list_and_the_cards_are_shown_without_torch() -> None:
    program = (
        "import sys; from wazuka.nn import backbones; rows = backbones.listing(); backbones.show('resnet18');"
        "assert len(rows) >= 7 and len({tuple(one) for one in rows}) == 1; assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_any_timm_model_can_be_shown() -> None:
    shown = backbones.show("test_vit")
    assert shown["feature_dim"] == 64 and shown["size"] == 160 and shown["fixed"]
    with pytest.raises(ConfigError, match="Did you mean `resnet50`"):
        backbones.show("resnet5o")


@pytest.mark.shared
def test_our_mobilenet_and_its_graph_give_the_same_features(shared_data: Path) -> None:
    ours = backbones.resolve(f"mobilenetv1-025={shared_data / 'weights' / 'mobilenetv1_025.safetensors'}")
    graph = backbones.resolve(str(shared_data / "weights" / "mobilenetv1_025_encoder.onnx"))
    assert (
        (ours.mean, ours.std, ours.feature_dim)
        == (graph.mean, graph.std, graph.feature_dim)
        == ((0.5,) * 3, (0.5,) * 3, 256)
    )
    assert "scaled to [-1, 1]" in graph.note
    network = architectures.build_network("mobilenetv1-025", {})
    classifier = load_file(shared_data / "weights" / "mobilenetv1_025.safetensors")["classifier.weight"].numel() + 1000
    assert ours.parameters + classifier == 470_072
    state = {name: one for name, one in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert sum(one.numel() for one in state.values()) + classifier == 475_544
    images = ArrayImages(noise(4, size=224))
    found = [features.compute_features(images, one, intensity="rgb8") for one in (ours, graph)]
    assert np.abs(found[0]).max() > 1
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
