"""Synthesizers: few images become more. One file per technique; none is here yet."""

from wazuka.core.registry import Registry

METHODS = Registry("synthesize method", {})
"""Name -> module. A new technique adds one line here."""
