"""What a card holds: all that a user must know about a backbone before using it."""

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

FROM_CLASS = "class token"
OWN_POOLING = "network's own (mean over positions)"
CONVOLUTIONS = "every ungrouped convolution"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One curated backbone. A fact that could not be verified is "unknown"."""

    name: str
    """As given for `--backbone` and in a study file."""
    arch: str
    """timm model name with its weights' tag, or the name of one of our own builders (`architectures.BUILDERS`)."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the builder beyond its defaults."""
    source: str
    """Where the pretrained weights come from: the hub's repository, where `downloads`."""
    gated: bool = False
    """Whether the hub hands the weights only to users who accepted the license on its page and are logged in."""
    license: str
    commercial_use: CommercialUse
    """What the weights' license (and the terms on their page) say; the images that they were trained on have terms of
    their own."""
    input_size: int
    """Pixels a side that the network is used at."""
    fixed_size: bool = False
    """Whether images of another size are resized to `input_size`; else the network takes any size."""
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    token_dim: int | None = None
    """Length of one token of a transformer (of its last stage); None for convolutional networks."""
    feature_dim: int
    """Length of the feature vector after `pooling`."""
    pooling: str = OWN_POOLING
    """How tokens or positions become one vector, and whether register tokens enter."""
    lora_attention: tuple[str, ...] = ()
    """Ends of the names of the linear layers of attention, for low-rank adapters; none in convolutional networks."""
    lora_mlp: tuple[str, ...] = ()
    """The same for the MLP."""
    parameters: int
    """Trainable values without the classifier."""
    published_parameters: str
    """The rounded count as published (of `published_classes`), such as "25.6M"."""
    published_classes: int = 0
    """Classes of the classifier that `published_parameters` includes; 0: none."""
    trained_on: str
    summary: str
    downloads: bool = True
    """Whether the hub has the weights under `source`; otherwise they come through `wazuka backbones add`."""

    @property
    def page(self) -> str:
        """The page of the weights, where the hub has them; else empty."""
        return f"https://huggingface.co/{self.source}" if self.downloads else ""

    @property
    def lora_targets(self) -> str:
        """The layers that low-rank adapters change, in words."""
        if not self.lora_attention:
            return CONVOLUTIONS
        return f"attention: {', '.join(self.lora_attention)}; MLP: {', '.join(self.lora_mlp)}"
