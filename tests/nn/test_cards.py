"""Cards: every backbone is built without weights and has the published size; pooling, tensor names and access are right."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from wazuka.core.errors import ArtifactError, ConfigError
from wazuka.nn import architectures, backbones, hub, vits, weights
from wazuka.nn.cards import CARDS, Card

PATHOLOGY = {
    *("phikon", "phikon-v2", "uni", "uni2-h", "virchow", "virchow2", "prov-gigapath", "h-optimus-0", "h-optimus-1")
}
GENERAL = {
    *("dinov2-small", "dinov2-base", "dinov2-large", "dinov3-small", "dinov3-base", "vit-small", "vit-base"),
    *("vit-large", "resnet18", "resnet50", "convnext-base", "swin-base", "efficientnet_b0", "densenet121"),
}
TINY_ARGS = {"layout": "vit", "dim": 12, "depth": 2, "heads": 2, "patch": 8, "size": 32}

PUBLISHED = {
    "uni": {
        "pos_embed": (1, 197, 1024),
        "blocks.23.ls2.gamma": (1024,),
        "patch_embed.proj.weight": (1024, 3, 16, 16),
    },
    "uni2-h": {
        "pos_embed": (1, 256, 1536),
        "reg_token": (1, 8, 1536),
        "blocks.23.mlp.fc1.weight": (8192, 1536),
        "blocks.23.mlp.fc2.weight": (1536, 4096),
    },
    "virchow": {"pos_embed": (1, 257, 1280), "blocks.31.mlp.fc1.weight": (6832, 1280), "norm.weight": (1280,)},
    "virchow2": {"pos_embed": (1, 261, 1280), "reg_token": (1, 4, 1280), "blocks.31.mlp.fc2.weight": (1280, 3416)},
    "prov-gigapath": {
        "pos_embed": (1, 197, 1536),
        "patch_embed.proj.weight": (1536, 3, 16, 16),
        "blocks.39.mlp.fc1.weight": (8192, 1536),
    },
    "h-optimus-0": {"pos_embed": (1, 256, 1536), "reg_token": (1, 4, 1536), "blocks.39.ls1.gamma": (1536,)},
    "phikon": {
        "embeddings.position_embeddings": (1, 197, 768),
        "encoder.layer.11.attention.attention.query.weight": (768, 768),
        "encoder.layer.11.attention.output.dense.bias": (768,),
        "encoder.layer.11.intermediate.dense.weight": (3072, 768),
        "encoder.layer.11.output.dense.weight": (768, 3072),
        "encoder.layer.11.layernorm_before.weight": (768,),
        "layernorm.weight": (768,),
    },
    "phikon-v2": {
        "embeddings.mask_token": (1, 1024),
        "encoder.layer.23.norm2.weight": (1024,),
        "encoder.layer.23.layer_scale2.lambda1": (1024,),
        "encoder.layer.23.attention.attention.value.weight": (1024, 1024),
        "encoder.layer.23.mlp.fc2.weight": (1024, 4096),
    },
}
"""Tensors of published checkpoints, by their names and shapes."""


def shapes_only(name: str) -> nn.Module:
    """The network of a card on the meta device."""
    card = CARDS[name]
    if not architectures.is_known(card.arch):
        pytest.skip(f"timm {timm.__version__} does not know {card.arch}")
    return build_once(card.arch, tuple(card.args.items()))


@cache
def build_once(arch: str, args: tuple[tuple[str, object], ...]) -> nn.Module:
    return architectures.build_meta(arch, dict(args))


def tiny_card(name: str = "tiny", **changes: object) -> Card:
    """A card of the layout of Phikon and the size of a toy."""
    card = dataclasses.replace(
        CARDS["phikon"], name=name, args=TINY_ARGS, source=f"someone/{name}", gated=True, input_size=32
    )
    return dataclasses.replace(card, **changes)  # type: ignore[arg-type]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    """A small gated card, an empty hub's cache and an empty configuration folder."""
    import huggingface_hub

    monkeypatch.setenv("WAZUKA_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(CARDS, "tiny", tiny_card())
    return CARDS["tiny"]


def write_tiny(path: Path, *, prefix: str = "", seed: int = 1) -> nn.Module:
    """Save a tiny network's weights as published files are: with a pooler, without our header."""
    network = architectures.build_seeded("hf-vit", TINY_ARGS, seed=seed)
    state = {f"{prefix}{name}": value.contiguous() for name, value in network.state_dict().items()}
    state |= {f"{prefix}pooler.dense.weight": torch.zeros(12, 12), f"{prefix}pooler.dense.bias": torch.zeros(12)}
    torch.save(state, path) if path.suffix == ".bin" else save_file(state, path)
    return network


def test_the_backbones_that_people_ask_for_have_cards() -> None:
    assert set(CARDS) >= PATHOLOGY | GENERAL
    assert all(name == card.name for name, card in CARDS.items())


@pytest.mark.parametrize("name", CARDS)
def test_a_card_has_the_dimensions_and_the_published_size_of_its_network(name: str) -> None:
    card, network = CARDS[name], shapes_only(name)
    assert next(network.parameters()).device.type == "meta"
    images = torch.zeros(2, 3, card.input_size, card.input_size, device="meta")
    last = [one for one in ("norm", "layernorm") if card.token_dim is not None and hasattr(network, one)]
    tokens: list[int] = []
    for one in last:
        network.get_submodule(one).register_forward_hook(lambda module, given, found: tokens.append(found.shape[-1]))
    with torch.inference_mode():
        assert network(images).shape == (2, card.feature_dim)
    assert tokens == ([] if card.token_dim is None else [card.token_dim])
    count = sum(one.numel() for one in network.parameters())
    assert count == card.parameters
    whole = count + card.published_classes * (card.feature_dim + 1)
    digits, unit = re.fullmatch(r"(\d+\.?\d*)([MB])", card.published_parameters).groups()  # type: ignore[union-attr]
    places = len(digits.partition(".")[2])
    assert f"{whole / {'M': 1e6, 'B': 1e9}[unit]:.{places}f}" == digits


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.lora_attention])
def test_the_layers_for_adapters_are_all_linear_layers_of_the_blocks(name: str) -> None:
    card = CARDS[name]
    linear = [one for one, module in shapes_only(name).named_modules() if isinstance(module, nn.Linear)]
    targets = (*card.lora_attention, *card.lora_mlp)
    missed = [one for one in linear if not one.endswith(tuple(f".{target}" for target in targets))]
    assert all("downsample" in one for one in missed), "only Swin's joints between stages are outside of blocks"
    for target in card.lora_attention:
        assert sum(one.endswith(f".{target}") for one in linear) == sum(
            "query" in one or "qkv" in one for one in linear
        )


def test_networks_without_attention_say_that_their_convolutions_are_adapted() -> None:
    for name, card in CARDS.items():
        has_attention = any("attn" in one or "attention" in one for one, _ in shapes_only(name).named_modules())
        assert has_attention == bool(card.lora_attention) == (card.lora_targets != "every ungrouped convolution")


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.arch not in architectures.BUILDERS])
def test_a_card_of_a_timm_model_says_what_timm_says(name: str) -> None:
    card, network = CARDS[name], shapes_only(name)
    config = network.pretrained_cfg
    assert (card.mean, card.std) == (tuple(config["mean"]), tuple(config["std"]))  # type: ignore[index]
    if "license" in config:  # type: ignore[operator]  # older timm does not say it of every model
        assert card.license.lower() == config["license"].lower()  # type: ignore[index]
    assert card.source == config["hf_hub_id"]  # type: ignore[index]
    assert card.fixed_size == bool(config.get("fixed_input_size"))  # type: ignore[operator, union-attr]
    if not card.args.get("dynamic_img_size"):
        assert (3, card.input_size, card.input_size) == tuple(config["input_size"])  # type: ignore[index]
    if card.args:  # they change the use of the weights, not the weights
        plain = architectures.build_meta(card.arch, {})
        assert {one: value.shape for one, value in plain.state_dict().items()} == {
            one: value.shape for one, value in network.state_dict().items()
        }


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tensors_have_the_names_and_shapes_of_the_published_file(name: str) -> None:
    own = shapes_only(name).state_dict()
    assert {key: tuple(own[key].shape) for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("registers", [0, 4])
def test_the_class_token_is_joined_with_the_mean_of_the_patch_tokens_alone(registers: int) -> None:
    args = {"model": "test_vit", "reg_tokens": registers, "swiglu": True}
    network = architectures.build_seeded("pooled-vit", args | {"pooling": "class+mean"}, seed=0)
    images = torch.linspace(-1, 1, 2 * 3 * 160 * 160).reshape(2, 3, 160, 160)
    with torch.inference_mode():
        tokens = network.forward_features(images)  # type: ignore[operator]
        expected = torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(1)], dim=1)
        assert tokens.shape[1] == 1 + registers + 100
        assert torch.equal(network(images), expected) and expected.shape == (2, 128)
        alone = architectures.build_seeded("pooled-vit", args, seed=0)
        assert torch.equal(alone(images), tokens[:, 0])
    assert list(alone.state_dict()) == list(network.state_dict())


@pytest.mark.parametrize("layout", ["vit", "dinov2"])
def test_the_hubs_layouts_compute_what_timms_transformer_computes(layout: vits.Layout) -> None:
    from timm.models.vision_transformer import VisionTransformer

    ours = architectures.build_seeded("hf-vit", TINY_ARGS | {"layout": layout}, seed=3)
    with torch.no_grad():
        for one in ours.parameters():
            one.add_(torch.linspace(-0.3, 0.3, one.numel()).reshape(one.shape))  # biases and scales matter, too
    scale = {"init_values": 1.0} if layout == "dinov2" else {}
    theirs = VisionTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=0, **scale)
    own = ours.state_dict()
    state = {
        "cls_token": own["embeddings.cls_token"],
        "pos_embed": own["embeddings.position_embeddings"],
        "norm.weight": own["layernorm.weight"],
        "norm.bias": own["layernorm.bias"],
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = own[f"embeddings.patch_embeddings.projection.{kind}"]
        for i in range(2):
            block, old = f"blocks.{i}", f"encoder.layer.{i}"
            parts = [own[f"{old}.attention.attention.{one}.{kind}"] for one in ("query", "key", "value")]
            state[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
            state[f"{block}.attn.proj.{kind}"] = own[f"{old}.attention.output.dense.{kind}"]
            mlp, norms = (
                (("intermediate.dense", "output.dense"), ("layernorm_before", "layernorm_after"))
                if layout == "vit"
                else (("mlp.fc1", "mlp.fc2"), ("norm1", "norm2"))
            )
            for new, one in zip(("mlp.fc1", "mlp.fc2", "norm1", "norm2"), (*mlp, *norms), strict=True):
                state[f"{block}.{new}.{kind}"] = own[f"{old}.{one}.{kind}"]
            if layout == "dinov2" and kind == "weight":
                for n in (1, 2):
                    state[f"{block}.ls{n}.gamma"] = own[f"{old}.layer_scale{n}.lambda1"]
    theirs.load_state_dict(state, strict=True)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours.set_grad_checkpointing()  # type: ignore[operator]
    torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)


def test_a_network_of_ours_that_cannot_be_is_refused() -> None:
    for arch, args, message in (
        ("hf-vit", TINY_ARGS | {"layout": "beit"}, r"`layout` is `beit`; use `vit` or `dinov2`"),
        ("hf-vit", TINY_ARGS | {"heads": 5}, "5 heads do not divide 12"),
        ("pooled-vit", {"model": "test_vit", "pooling": "max"}, r"`pooling` is `max`; use `class` or `class\+mean`"),
        ("pooled-vit", {"model": "test_vit", "head": 1}, "unexpected keyword argument 'head'"),
    ):
        with pytest.raises(ConfigError, match=rf"`{arch}` cannot be built .*{message}"):
            architectures.build_network(arch, args)
    with pytest.raises(ConfigError, match="Unknown backbone `hf-vit`"):
        backbones.resolve("hf-vit", weights="none")


@pytest.mark.parametrize(
    ("name", "key"), [("uni", "blocks.5.attn.qkv.weight"), ("phikon", "encoder.layer.5.output.dense.bias")]
)
def test_a_file_of_another_network_is_refused_with_its_first_wrong_tensor(name: str, key: str) -> None:
    card, network, path = CARDS[name], shapes_only(name), Path("w.safetensors")
    own = dict(network.state_dict())
    fitted, note = architectures.fit_weights(card.arch, network, own, path=path)
    assert fitted.keys() == own.keys() and note == ""
    shape = re.escape(str(tuple(own[key].shape)))
    name_of = re.escape(key)
    for state, message in (
        ({one: value for one, value in own.items() if one != key}, rf"`{name_of}` of shape {shape} is missing"),
        (own | {key: torch.zeros(7)}, rf"`{name_of}` has shape \(7,\), the network needs {shape}"),
        (own | {"extra.weight": torch.zeros(3)}, r"`extra\.weight` of shape \(3,\) is not part of the network"),
    ):
        with pytest.raises(ArtifactError, match=rf"^w\.safetensors does not fit: tensor {message}"):
            architectures.fit_weights(card.arch, network, state, path=path)


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_a_given_file_carries_the_license_of_its_card(tiny: Card, tmp_path: Path, prefix: str) -> None:
    network = write_tiny(tmp_path / "w.safetensors", prefix=prefix)
    given = backbones.resolve(f"tiny={tmp_path / 'w.safetensors'}")
    write_tiny(tmp_path / "w.bin", prefix=prefix)
    backbones.add("tiny", tmp_path / "w.bin")
    added = backbones.resolve("tiny")
    for one in (given, added):
        assert (one.license, one.commercial_use, one.source) == (tiny.license, "no", "someone/tiny")
        assert "license and source are those of the card `tiny`, the weights were given as w." in one.note
        assert (one.mean, one.input_size, one.fixed_size) == (tiny.mean, 32, True)
        assert one.weights_hash == weights.hash_state(network.state_dict())
    images = torch.ones(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(added.build()(images), network(images))
    assert "pooler.dense.weight" in given.note


def test_weights_from_the_hub_go_through_the_same_check(
    tiny: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(source: str, name: str) -> str:
        asked.append((source, name))
        if name == "model.safetensors":
            raise EntryNotFoundError("no such file")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    network = write_tiny(tmp_path / "pytorch_model.bin")
    encoder = backbones.resolve("tiny")
    assert asked == [("someone/tiny", "model.safetensors"), ("someone/tiny", "pytorch_model.bin")]
    assert encoder.pretrained and encoder.weights == "pretrained" and encoder.license == tiny.license
    images = torch.ones(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(encoder.build()(images), network(images))
    torch.save({"norm.weight": torch.zeros(12)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin does not fit: tensor `embeddings\.cls_token`"):
        backbones.resolve("tiny")


@pytest.mark.usefixtures("tiny")
def test_gated_weights_without_access_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    def refuse(source: str, name: str) -> str:
        raise GatedRepoError.__new__(GatedRepoError)  # its arguments changed between versions

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(
        ArtifactError,
        match=(
            r"^The weights of `tiny` are gated and the hub refused them; accept their license at"
            r" https://huggingface\.co/someone/tiny, log in with `hf auth login` \(or set HF_TOKEN\), or add them with"
            r" `wazuka backbones add tiny FILE\.safetensors`, or use `weights: none`\.$"
        ),
    ):
        backbones.resolve("tiny")

    def offline(source: str, name: str) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(
        ArtifactError, match=r"\(no connection\)\. They are gated: accept .* `wazuka backbones add tiny"
    ):
        backbones.resolve("tiny")


def test_weights_in_the_hubs_cache_are_found_in_either_format(tiny: Card, tmp_path: Path) -> None:
    assert hub.cached_file(tiny.source) is None
    folder = tmp_path / "hub" / "models--someone--tiny"
    (folder / "snapshots" / "0123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123")
    write_tiny(folder / "snapshots" / "0123" / "pytorch_model.bin")
    assert hub.cached_file(tiny.source) == folder / "snapshots" / "0123" / "pytorch_model.bin"
    assert backbones.resolve("tiny").pretrained


def test_a_file_of_ours_is_refused_under_the_name_of_another_card(
    tiny: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CARDS, "other", tiny_card("other", args=TINY_ARGS | {"depth": 1}))
    write_tiny(tmp_path / "w.safetensors")
    path = backbones.add("tiny", tmp_path / "w.safetensors").path
    with pytest.raises(ArtifactError, match=r"holds weights of `tiny`, not of `other`; write tiny="):
        backbones.resolve(f"other={path}")
    assert backbones.resolve(f"mine={path}").license == tiny.license


def test_a_card_that_this_timm_does_not_know_asks_for_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "is_model", lambda name: False)
    for use in (lambda: backbones.resolve("dinov3-small", weights="none"), lambda: backbones.resolve("dinov3-small")):
        with pytest.raises(ConfigError, match=r"^Backbone `dinov3-small` needs a newer timm than .*`pip install"):
            use()


def test_what_must_be_known_about_a_gated_backbone_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from wazuka.cli import models

    models.show("virchow2")
    shown = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert shown["gated"] == "yes" and "https://huggingface.co/paige-ai/Virchow2" in shown["access"]
    assert (shown["license"], shown["commercial_use"]) == ("CC-BY-NC-ND-4.0", "no")
    assert (shown["token_dim"], shown["feature_dim"]) == ("1280", "2560")
    assert "the 4 register tokens are left out" in shown["pooling"]
    assert shown["lora_targets"] == "attention: attn.qkv, attn.proj; MLP: mlp.fc1, mlp.fc2"
    models.list_verb()
    header, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines()[:-1])
    gated = {row[0] for row in rows if row[header.index("gated")] == "yes"}
    assert gated == {name for name, card in CARDS.items() if card.gated}
    assert {row[0]: row[header.index("license")] for row in rows}["uni"] == "CC-BY-NC-ND-4.0"


def test_the_documentation_lists_the_cards_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name, card in CARDS.items():
        assert rows[name] == documented(card)


def documented(card: Card) -> str:
    """The row of a card in the table of docs/backbones.md."""
    size = str(card.input_size) if card.fixed_size else f"any ({card.input_size})"
    weights_are = ("hub, gated" if card.gated else "hub") if card.downloads else "to be added"
    token = card.token_dim or ""
    cells = (f"`{card.name}`", card.license, card.commercial_use, weights_are, size, token, card.feature_dim)
    return f"| {' | '.join(str(one) for one in cells)} | {card.parameters:,} |"
