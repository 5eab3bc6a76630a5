"""A backbone with a linear head, as fine-tuning trains it."""

from __future__ import annotations

import torch
from torch import nn


class Classifier(nn.Module):
    """Backbone and linear head: normalized (B, 3, H, W) -> logits (B, classes).

    The head starts at zero, so that training starts at equal probabilities and no draw decides its first step.

    Args:
        backbone: (B, 3, H, W) -> features (B, dim).
        feature_dim: dim.
        classes: Number of classes.
    """

    def __init__(self, backbone: nn.Module, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(feature_dim, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images to logits."""
        return self.head(self.backbone(images))
