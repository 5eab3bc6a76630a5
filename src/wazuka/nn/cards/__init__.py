"""The curated backbones: one card each, with source, license and the numbers that a test holds against the network.

Any other timm model works by its name; a card adds what timm does not say in one place. Shown by `wazuka backbones`.
"""

from __future__ import annotations

from wazuka.nn.cards.card import HALF, IMAGENET_MEAN, IMAGENET_STD, Card, CommercialUse, Triple
from wazuka.nn.cards.convolutional import CONVOLUTIONAL
from wazuka.nn.cards.pathology import PATHOLOGY
from wazuka.nn.cards.transformers import TRANSFORMERS

__all__ = ["CARDS", "HALF", "IMAGENET_MEAN", "IMAGENET_STD", "Card", "CommercialUse", "Triple"]

CARDS: dict[str, Card] = {card.name: card for card in (*CONVOLUTIONAL, *TRANSFORMERS, *PATHOLOGY)}
"""Name -> card. A new curated backbone adds one in its family's file."""
