"""Cards of transformers for natural images. Parameter counts as published in timm's model cards, in millions.

DINOv2 was trained at 224 pixels and in a last phase at 518; its position embeddings (518 pixels) are interpolated here
to 224, the size of its linear evaluation (Oquab et al. 2023, arXiv:2304.07193). DINOv3's feature is the class token, as
in its own release; timm's default would be the mean of the patch tokens.
"""

from __future__ import annotations

from typing import Any

from wazuka.nn.cards.card import FROM_CLASS, HALF, Card

ATTENTION = ("attn.qkv", "attn.proj")
MLP = ("mlp.fc1", "mlp.fc2")


def _vit(name: str, size: str, **facts: Any) -> Card:
    """A ViT of Steiner et al. 2021 (arXiv:2106.10270), trained on ImageNet-21k only."""
    arch = f"vit_{size}_patch16_224.augreg_in21k"
    return Card(
        name=name,
        arch=arch,
        source=f"timm/{arch}",
        license="Apache-2.0",
        commercial_use="yes",
        input_size=224,
        fixed_size=True,
        mean=HALF,
        std=HALF,
        pooling=FROM_CLASS,
        lora_attention=ATTENTION,
        lora_mlp=MLP,
        published_classes=21_843,
        trained_on="ImageNet-21k",
        **facts,
    )


def _dinov2(name: str, size: str, **facts: Any) -> Card:
    arch = f"vit_{size}_patch14_dinov2.lvd142m"
    return Card(
        name=name,
        arch=arch,
        args={"dynamic_img_size": True},
        source=f"timm/{arch}",
        license="Apache-2.0",
        commercial_use="yes",
        input_size=224,
        fixed_size=True,
        pooling=FROM_CLASS,
        lora_attention=ATTENTION,
        lora_mlp=MLP,
        trained_on="LVD-142M, without labels (DINOv2)",
        **facts,
    )


def _dinov3(name: str, size: str, **facts: Any) -> Card:
    arch = f"vit_{size}_patch16_dinov3.lvd1689m"
    return Card(
        name=name,
        arch=arch,
        args={"global_pool": "token"},
        source=f"timm/{arch}",
        license="DINOv3-License",
        commercial_use="yes",
        input_size=256,
        fixed_size=True,
        pooling=f"{FROM_CLASS}; the 4 register tokens are left out",
        lora_attention=ATTENTION,
        lora_mlp=MLP,
        trained_on="LVD-1689M, without labels (DINOv3, distilled)",
        **facts,
    )


TRANSFORMERS = (
    Card(
        name="vit_small_patch16_224",
        arch="vit_small_patch16_224.augreg_in21k_ft_in1k",
        source="timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
        license="Apache-2.0",
        commercial_use="yes",
        input_size=224,
        fixed_size=True,
        mean=HALF,
        std=HALF,
        token_dim=384,
        feature_dim=384,
        pooling=FROM_CLASS,
        lora_attention=ATTENTION,
        lora_mlp=MLP,
        parameters=21_665_664,
        published_parameters="22.1M",
        published_classes=1000,
        trained_on="ImageNet-21k, then ImageNet-1k",
        summary="small vision transformer, 224 pixels",
    ),
    _vit(
        "vit-small",
        "small",
        token_dim=384,
        feature_dim=384,
        parameters=21_665_664,
        published_parameters="30.1M",
        summary="small vision transformer before any fine-tuning, 224 pixels",
    ),
    _vit(
        "vit-base",
        "base",
        token_dim=768,
        feature_dim=768,
        parameters=85_798_656,
        published_parameters="102.6M",
        summary="vision transformer of the usual size before any fine-tuning, 224 pixels",
    ),
    _vit(
        "vit-large",
        "large",
        token_dim=1024,
        feature_dim=1024,
        parameters=303_301_632,
        published_parameters="325.7M",
        summary="large vision transformer before any fine-tuning, 224 pixels",
    ),
    Card(
        name="swin-base",
        arch="swin_base_patch4_window7_224.ms_in22k_ft_in1k",
        source="timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k",
        license="MIT",
        commercial_use="yes",
        input_size=224,
        fixed_size=True,
        token_dim=1024,
        feature_dim=1024,
        pooling="mean of patch tokens",
        lora_attention=ATTENTION,
        lora_mlp=MLP,
        parameters=86_743_224,
        published_parameters="87.8M",
        published_classes=1000,
        trained_on="ImageNet-22k, then ImageNet-1k",
        summary="transformer with shifted windows, 224 pixels",
    ),
    _dinov2(
        "dinov2-small",
        "small",
        token_dim=384,
        feature_dim=384,
        parameters=22_056_192,
        published_parameters="22.1M",
        summary="small self-supervised transformer for natural images, 224 pixels",
    ),
    _dinov2(
        "dinov2-base",
        "base",
        token_dim=768,
        feature_dim=768,
        parameters=86_579_712,
        published_parameters="86.6M",
        summary="self-supervised transformer for natural images, 224 pixels",
    ),
    _dinov2(
        "dinov2-large",
        "large",
        token_dim=1024,
        feature_dim=1024,
        parameters=304_367_616,
        published_parameters="304.4M",
        summary="large self-supervised transformer for natural images, 224 pixels",
    ),
    _dinov3(
        "dinov3-small",
        "small",
        token_dim=384,
        feature_dim=384,
        parameters=21_586_944,
        published_parameters="21.6M",
        summary="small self-supervised transformer for natural images, 256 pixels",
    ),
    _dinov3(
        "dinov3-base",
        "base",
        token_dim=768,
        feature_dim=768,
        parameters=85_641_216,
        published_parameters="85.6M",
        summary="self-supervised transformer for natural images, 256 pixels",
    ),
)
