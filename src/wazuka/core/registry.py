"""Registries of techniques: a name and the module that holds its one file; nothing is imported until it is used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from wazuka.core.errors import unknown_name


class Registry(Mapping[str, Any]):
    """Names of one role's techniques, each with the module whose `METHOD` describes it.

    Args:
        role: What the members are, for messages ("adapt method").
        modules: Name -> module, or "module:OBJECT" where one file holds several techniques. This mapping is the registry
            entry that a new technique adds.
    """

    def __init__(self, role: str, modules: Mapping[str, str]) -> None:
        self.role = role
        self.modules = dict(modules)

    def __getitem__(self, name: str) -> Any:
        """Import and return the technique's `METHOD`.

        Raises:
            ConfigError: If no technique has this name; the nearest one is offered.
        """
        if name not in self.modules:
            raise unknown_name(self.role, name, sorted(self.modules))
        module, _, technique = self.modules[name].partition(":")
        return getattr(importlib.import_module(module), technique or "METHOD")

    def __contains__(self, name: object) -> bool:
        return name in self.modules

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)
