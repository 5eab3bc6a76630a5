"""Pretrainers: images without labels become an encoder. One file per technique; the five joint embeddings share one."""

from __future__ import annotations

import importlib
from typing import Any

from wazuka.core.errors import unknown_name
from wazuka.core.registry import Registry


class _Pretrainers(Registry):
    """A registry whose modules may hold several techniques: "module:OBJECT" is one of them."""

    def __getitem__(self, name: str) -> Any:
        if name not in self.modules:
            raise unknown_name(self.role, name, sorted(self.modules))
        module, _, technique = self.modules[name].partition(":")
        return getattr(importlib.import_module(module), technique or "METHOD")


METHODS = _Pretrainers(
    "pretrain method",
    {
        "fg-ssl": "wazuka.pretrain.fg_ssl",
        "simsiam": "wazuka.pretrain.joint_embedding:SIMSIAM",
        "byol": "wazuka.pretrain.joint_embedding:BYOL",
        "barlow-twins": "wazuka.pretrain.joint_embedding:BARLOW_TWINS",
        "simclr": "wazuka.pretrain.joint_embedding:SIMCLR",
        "vicreg": "wazuka.pretrain.joint_embedding:VICREG",
        "jigsaw-permutation": "wazuka.pretrain.jigsaw_permutation",
    },
)
"""Name -> module. A new technique adds one line here."""
