"""Pretrainers: images without labels become an encoder. One file per technique; none is here yet."""

from wazuka.core.registry import Registry

METHODS = Registry("pretrain method", {})
"""Name -> module. A new technique adds one line here."""
