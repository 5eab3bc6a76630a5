"""The curated backbones: one card each, with source, license and the numbers that a test holds against the network.

Any other timm model works by its name; a card adds what timm does not say in one place. Shown by `wazuka backbones`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CommercialUse = Literal["yes", "no", "unknown"]
Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)
"""As mean and standard deviation: inputs in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One curated backbone."""

    name: str
    """As given for `--backbone` and in a study file."""
    arch: str
    """timm model name with its weights' tag, or the name of one of our own builders (`architectures.BUILDERS`)."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the builder beyond its defaults."""
    source: str
    """Where the pretrained weights come from."""
    license: str
    commercial_use: CommercialUse
    """What the weights' license says; the images that they were trained on have terms of their own."""
    input_size: int
    """Pixels a side in pretraining."""
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    feature_dim: int
    parameters: int
    """Trainable values without the classifier."""
    trained_on: str
    summary: str
    downloads: bool = True
    """Whether the hub has the weights under `source`; otherwise they come through `wazuka backbones add`."""


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        Card(
            name="resnet18",
            arch="resnet18.a1_in1k",
            source="timm/resnet18.a1_in1k",
            license="Apache-2.0",
            commercial_use="yes",
            input_size=224,
            feature_dim=512,
            parameters=11_176_512,
            trained_on="ImageNet-1k",
            summary="small residual network; the usual baseline, any input size",
        ),
        Card(
            name="resnet50",
            arch="resnet50.a1_in1k",
            source="timm/resnet50.a1_in1k",
            license="Apache-2.0",
            commercial_use="yes",
            input_size=224,
            feature_dim=2048,
            parameters=23_508_032,
            trained_on="ImageNet-1k",
            summary="residual network with bottlenecks, any input size",
        ),
        Card(
            name="mobilenetv1-025",
            arch="mobilenetv1-025",
            source="MobileNet v1, width 0.25, 224 pixels, as released with its paper (arXiv:1704.04861)",
            license="Apache-2.0",
            commercial_use="yes",
            input_size=224,
            mean=HALF,
            std=HALF,
            feature_dim=256,
            parameters=213_072,
            trained_on="ImageNet-1k",
            summary="a network of under 1 MB for processors without a GPU, any input size",
            downloads=False,
        ),
        Card(
            name="vit_small_patch16_224",
            arch="vit_small_patch16_224.augreg_in21k_ft_in1k",
            source="timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
            license="Apache-2.0",
            commercial_use="yes",
            input_size=224,
            mean=HALF,
            std=HALF,
            feature_dim=384,
            parameters=21_665_664,
            trained_on="ImageNet-21k, then ImageNet-1k",
            summary="small vision transformer, 224 pixels",
        ),
        Card(
            name="convnext_tiny",
            arch="convnext_tiny.in12k_ft_in1k",
            source="timm/convnext_tiny.in12k_ft_in1k",
            license="Apache-2.0",
            commercial_use="yes",
            input_size=224,
            feature_dim=768,
            parameters=27_820_128,
            trained_on="ImageNet-12k, then ImageNet-1k",
            summary="modern convolutional network, any input size",
        ),
        Card(
            name="efficientnet_b0",
            arch="efficientnet_b0.ra_in1k",
            source="timm/efficientnet_b0.ra_in1k",
            license="Apache-2.0",
            commercial_use="yes",
            input_size=224,
            feature_dim=1280,
            parameters=4_007_548,
            trained_on="ImageNet-1k",
            summary="small convolutional network, any input size",
        ),
        Card(
            name="densenet121",
            arch="densenet121.ra_in1k",
            source="timm/densenet121.ra_in1k",
            license="Apache-2.0",
            commercial_use="yes",
            input_size=224,
            feature_dim=1024,
            parameters=6_953_856,
            trained_on="ImageNet-1k",
            summary="densely connected network, much used on chest radiographs, any input size",
        ),
    )
}
"""Name -> card. A new curated backbone adds one here."""
