"""Cards of foundation models for histopathology. All take tiles of 224 pixels, most of them cut at 0.5 um/px.

Architectures as their authors' model cards give them for timm and transformers; parameter counts as the hub and public
tile-encoder collections list them. Virchow's papers say 632 M, the count of a plain ViT-H with a classifier of 1,000
classes; the released networks, with gated MLPs, have 631.2 M.

Where the tiles of a benchmark come from public archives such as TCGA, models trained on these have seen its patients.
"""

from __future__ import annotations

from typing import Any

from wazuka.nn.cards.card import FROM_CLASS, Card, Triple

TIMM_ATTENTION = ("attn.qkv", "attn.proj")
TIMM_MLP = ("mlp.fc1", "mlp.fc2")
HF_ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.output.dense")

H_OPTIMUS_MEAN: Triple = (0.707223, 0.578729, 0.703617)
H_OPTIMUS_STD: Triple = (0.211883, 0.230117, 0.177517)

OWKIN = "Owkin non-commercial license"
BY_NC_ND = "CC-BY-NC-ND-4.0"
CLASS_AND_MEAN = f"{FROM_CLASS} ++ mean of patch tokens"
"""As the authors of Virchow use it; the class token alone is half as long."""


def _tile_encoder(args: dict[str, Any], **facts: Any) -> Card:
    """A timm vision transformer; `pooled-vit` builds it with the published checkpoint's keys."""
    return Card(
        arch="pooled-vit",
        args=args,
        input_size=224,
        fixed_size=True,
        lora_attention=TIMM_ATTENTION,
        lora_mlp=TIMM_MLP,
        **facts,
    )


PATHOLOGY = (
    Card(
        name="phikon",
        arch="hf-vit",
        args={"layout": "vit", "dim": 768, "depth": 12, "heads": 12},
        source="owkin/phikon",
        license=OWKIN,
        commercial_use="no",
        input_size=224,
        fixed_size=True,
        token_dim=768,
        feature_dim=768,
        pooling=FROM_CLASS,
        lora_attention=HF_ATTENTION,
        lora_mlp=("intermediate.dense", "output.dense"),
        parameters=85_798_656,
        published_parameters="85.8M",
        trained_on="40 million tiles of TCGA, without labels (iBOT)",
        summary="ViT-B/16 for histopathology, open to download",
    ),
    Card(
        name="phikon-v2",
        arch="hf-vit",
        args={"layout": "dinov2", "dim": 1024, "depth": 24, "heads": 16},
        source="owkin/phikon-v2",
        license=OWKIN,
        commercial_use="no",
        input_size=224,
        fixed_size=True,
        token_dim=1024,
        feature_dim=1024,
        pooling=FROM_CLASS,
        lora_attention=HF_ATTENTION,
        lora_mlp=TIMM_MLP,
        parameters=303_351_808,  # with the mask token of its pretraining, which the published file holds
        published_parameters="303.4M",
        trained_on="PANCAN-XL, public slides of TCGA, CPTAC, GTEx and others, without labels (DINOv2)",
        summary="ViT-L/16 for histopathology, open to download",
    ),
    _tile_encoder(
        {"model": "vit_large_patch16_224", "init_values": 1e-5},
        name="uni",
        source="MahmoodLab/UNI",
        gated=True,
        license=BY_NC_ND,
        commercial_use="no",
        token_dim=1024,
        feature_dim=1024,
        pooling=FROM_CLASS,
        parameters=303_350_784,
        published_parameters="303.4M",
        trained_on="Mass-100K, 100 million tiles, without labels (DINOv2)",
        summary="ViT-L/16 for histopathology",
    ),
    _tile_encoder(
        {
            "model": "vit_giant_patch14_224",
            "depth": 24,
            "embed_dim": 1536,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
            "init_values": 1e-5,
            "no_embed_class": True,
            "reg_tokens": 8,
            "swiglu": True,
        },
        name="uni2-h",
        source="MahmoodLab/UNI2-h",
        gated=True,
        license=BY_NC_ND,
        commercial_use="no",
        token_dim=1536,
        feature_dim=1536,
        pooling=f"{FROM_CLASS}; the 8 register tokens are left out",
        parameters=681_394_176,
        published_parameters="681.4M",
        trained_on="over 200 million H&E and IHC tiles of 350,000 slides, without labels (DINOv2)",
        summary="ViT-H/14 with registers for histopathology",
    ),
    _tile_encoder(
        {
            "model": "vit_huge_patch14_224",
            "mlp_ratio": 5.3375,
            "init_values": 1e-5,
            "swiglu": True,
            "pooling": "class+mean",
        },
        name="virchow",
        source="paige-ai/Virchow",
        gated=True,
        license="Apache-2.0",
        commercial_use="yes",
        token_dim=1280,
        feature_dim=2560,
        pooling=f"{CLASS_AND_MEAN} (tokens 0 and 1:; no register tokens); the class token alone has 1280",
        parameters=631_229_184,
        published_parameters="631.2M",
        trained_on="1.5 million H&E slides of one center, without labels (DINOv2)",
        summary="ViT-H/14 for histopathology",
    ),
    _tile_encoder(
        {
            "model": "vit_huge_patch14_224",
            "mlp_ratio": 5.3375,
            "init_values": 1e-5,
            "reg_tokens": 4,
            "swiglu": True,
            "pooling": "class+mean",
        },
        name="virchow2",
        source="paige-ai/Virchow2",
        gated=True,
        license=BY_NC_ND,
        commercial_use="no",
        token_dim=1280,
        feature_dim=2560,
        pooling=(
            f"{CLASS_AND_MEAN} (tokens 0 and 5:; the 4 register tokens are left out); the class token alone has 1280"
        ),
        parameters=631_239_424,
        published_parameters="631.2M",
        trained_on="3.1 million H&E and IHC slides, without labels (DINOv2)",
        summary="ViT-H/14 with registers for histopathology, mixed magnifications",
    ),
    _tile_encoder(
        {"model": "vit_giant_patch14_dinov2", "patch_size": 16, "img_size": 224},
        name="prov-gigapath",
        source="prov-gigapath/prov-gigapath",
        gated=True,
        license="Apache-2.0; its page limits use to research",
        commercial_use="no",
        token_dim=1536,
        feature_dim=1536,
        pooling=FROM_CLASS,
        parameters=1_134_953_984,
        published_parameters="1.13B",
        trained_on="1.3 billion tiles of 171,189 slides of one health system, without labels (DINOv2)",
        summary="ViT-g/16 for histopathology, the tile encoder of Prov-GigaPath",
    ),
    _tile_encoder(
        {"model": "vit_giant_patch14_reg4_dinov2", "img_size": 224, "init_values": 1e-5},
        name="h-optimus-0",
        source="bioptimus/H-optimus-0",
        gated=True,
        license="Apache-2.0",
        commercial_use="yes",
        mean=H_OPTIMUS_MEAN,
        std=H_OPTIMUS_STD,
        token_dim=1536,
        feature_dim=1536,
        pooling=f"{FROM_CLASS}; the 4 register tokens are left out",
        parameters=1_134_774_272,
        published_parameters="1.13B",
        trained_on="over 500,000 H&E slides, without labels (DINOv2)",
        summary="ViT-g/14 with registers for histopathology, own normalization",
    ),
    _tile_encoder(
        {"model": "vit_giant_patch14_reg4_dinov2", "img_size": 224, "init_values": 1e-5},
        name="h-optimus-1",
        source="bioptimus/H-optimus-1",
        gated=True,
        license=BY_NC_ND,
        commercial_use="no",
        mean=H_OPTIMUS_MEAN,
        std=H_OPTIMUS_STD,
        token_dim=1536,
        feature_dim=1536,
        pooling=f"{FROM_CLASS}; the 4 register tokens are left out",
        parameters=1_134_774_272,
        published_parameters="1.13B",
        trained_on="over one million slides, without labels",
        summary="ViT-g/14 with registers for histopathology, own normalization",
    ),
)
