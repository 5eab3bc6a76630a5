"""Readers of values that stand in study files: mappings, budgets, switches, a method with its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wazuka.core.config import build
from wazuka.core.errors import ConfigError, unknown_name
from wazuka.core.registry import Registry

MOST_REPEATS = 1000
"""Beyond it splits and plan alone fill a machine's memory."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A technique with its resolved settings."""

    name: str
    config: Any
    """An instance of the technique's `Config`."""


def mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}; write a mapping, `{{key: value}}`.")
    return value


def read_budgets(value: Any, *, where: str) -> tuple[str, ...]:
    from wazuka.data.budgets import parse

    listed = list(value) if isinstance(value, list | tuple) else [value]
    if not listed:
        raise ConfigError(f"{where} is empty; give at least one, as `[20, 50, 100%]`.")
    written = [parse(one).written for one in listed]
    if len(set(written)) < len(written):
        raise ConfigError(f"{where} names {max(written, key=written.count)} twice; name each budget once.")
    return tuple(written)


def read_repeats(value: Any, *, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where} is {value!r}; give a whole number of 1 or more.")
    if value > MOST_REPEATS:
        raise ConfigError(f"{where} is {value}; give {MOST_REPEATS} or fewer: intervals hardly narrow after ten.")
    return value


def read_switch(value: Any, *, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where} is {value!r}; write true or false.")
    return value


def read_method(value: Any, registry: Registry, *, where: str) -> Method:
    """Resolve a method's name, or `{method: NAME, ...}` with fields of its `Config`."""
    values = {"method": value} if isinstance(value, str) else mapping(value, where)
    name = values.get("method")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: `method` is missing; write the name or `{{method: NAME, ...}}`.")
    if name not in registry:
        raise unknown_name(registry.role, name, sorted(registry), where=where)
    settings = {key: one for key, one in values.items() if key != "method"}
    return Method(name=name, config=build(registry[name].config, settings, where=where))
