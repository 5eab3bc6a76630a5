"""Strict configuration: YAML text -> mapping -> frozen dataclass; an unknown key is an error that names the nearest."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import yaml

from wazuka.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")
"""A number with an exponent and without a point."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error instead of the last one silently winning."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=deep)
        if key in mapping:
            raise ConfigError(f"Key `{key}` stands twice (line {key_node.start_mark.line + 1}); keep one of them.")
        mapping[key] = loader.construct_object(value_node, deep=deep)
    return mapping


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: If the file is missing, is not YAML, is not a mapping or has a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist; give the path of a YAML file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give the path of a YAML text file.") from error
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """Parse YAML text that must be a mapping; `where` names it in errors."""
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506  (a SafeLoader with one more check)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where} is not valid YAML ({reason}); mend the file.") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply; a file of settings needs a few levels only.") from error
    except (ValueError, TypeError, OverflowError) as error:  # a date that is none, a list as key
        raise ConfigError(
            f"{where} has a value that YAML does not allow ({error}); mend it, or put it in quotes."
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{where} holds {type(value).__name__}, not a mapping; write `key: value` lines.")
    return value


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build the frozen dataclass `cls` from a mapping, strictly: no unknown key, no wrong type, no missing key.

    Types are checked as written (`1` is no `str`, `"3"` is no `int`; an `int` is welcome as a `float`, and so is `1e-4`,
    which YAML 1.1 takes for a text). A dataclass
    may refuse values in its `__post_init__` by raising `ValueError`.

    Args:
        cls: A dataclass whose fields have ordinary annotations (numbers, strings, `Literal`, tuples, `| None`).
        values: What the user wrote.
        where: The place of the mapping, as in "strategies.lora.adapt"; it stands in every error.

    Raises:
        ConfigError: With the key, its value and what would be right.
    """
    from pydantic import TypeAdapter, ValidationError

    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise unknown_name("key", key, sorted(fields), where=where)
    checked = {}
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ConfigError(f"Key `{where}.{field.name}` is missing; add it.")
            continue
        try:
            adapter = TypeAdapter(hints[field.name])
            given = _lists_to_tuples(values[field.name])
            read = _with_exponents(given)
            try:
                checked[field.name] = adapter.validate_python(given, strict=True)
            except ValidationError:
                if read == given or not _fits(adapter, read):
                    raise
                checked[field.name] = adapter.validate_python(read, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join([where, field.name, *(str(part) for part in first["loc"] if isinstance(part, int))])
            said = "; or ".join(dict.fromkeys(_lowered(one["msg"]) for one in error.errors()))
            raise ConfigError(f"Value {first['input']!r} of `{place}` is wrong: {said}.") from error
        if not _is_finite(checked[field.name]):
            raise ConfigError(f"Value {values[field.name]!r} of `{where}.{field.name}` is wrong; give finite numbers.")
    try:
        return cls(**checked)
    except ValueError as error:
        raise ConfigError(f"{where}: {str(error).rstrip('.')}.") from error


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]


def _is_finite(value: Any) -> bool:
    """YAML has `.inf` and `.nan`; no setting has a use for them, and JSON cannot hold them."""
    if isinstance(value, tuple):
        return all(_is_finite(one) for one in value)
    return not isinstance(value, float) or math.isfinite(value)


def _lists_to_tuples(value: Any) -> Any:
    """YAML has lists, frozen dataclasses have tuples."""
    if isinstance(value, list):
        return tuple(_lists_to_tuples(one) for one in value)
    return value


def _fits(adapter: TypeAdapter[Any], value: Any) -> bool:
    from pydantic import ValidationError

    try:
        adapter.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _with_exponents(value: Any) -> Any:
    """Read texts like `1e-4` as numbers: YAML 1.1, which PyYAML reads, takes them for texts without a point."""
    if isinstance(value, tuple):
        return tuple(_with_exponents(one) for one in value)
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def describe_fields(cls: type) -> list[tuple[str, str, str, str]]:
    """List a config's fields as (name, type, default, docstring); the docstring is the string under the field, also in a
    class that it inherits from."""
    docs: dict[str, str] = {}
    for one in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        body = tree.body[0].body  # type: ignore[attr-defined]
        for before, node in itertools.pairwise(body):
            described = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if isinstance(before, ast.AnnAssign) and described:
                docs[before.target.id] = " ".join(str(node.value.value).split())  # type: ignore[union-attr]
    rows = []
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else repr(field.default)
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        rows.append((field.name, kind, default, docs.get(field.name, "")))
    return rows
