"""Synthesizers: few images become more. One file per technique."""

from wazuka.core.registry import Registry

METHODS = Registry(
    "synthesize method",
    {
        "msg-gan": "wazuka.synthesize.msg_gan",
    },
)
"""Name -> module. A new technique adds one line here."""
