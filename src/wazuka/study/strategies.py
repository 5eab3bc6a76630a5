"""One strategy of a study file, checked strictly and resolved: what is done with the labels of a budget."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wazuka import adapt, pretrain, synthesize
from wazuka.core.config import build
from wazuka.core.errors import ConfigError, unknown_name
from wazuka.core.registry import Registry
from wazuka.data.transform import ImageTransform

if TYPE_CHECKING:
    from wazuka.study.config import TestRule

LATER_KEYS = ("train_on", "ratio", "split_budget", "prompts", "dp", "classes")
"""Strategy keys of the contract that only generators and prompts read; none of these is here yet."""
REMEDIES = ("stain-jitter", "randaugment", "domain-balanced", "test-batchnorm")
"""Switches against domain shift; stain normalization is `image: {stain: ...}`."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A technique with its resolved settings."""

    name: str
    config: Any
    """An instance of the technique's `Config`."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What is done with the labels: a backbone, perhaps pretrained on images without labels, adapted with labels."""

    name: str
    backbone: str
    weights: Literal["pretrained", "none"] = "pretrained"
    pretrain: Method | None = None
    adapt: Method
    image: ImageTransform
    budgets: tuple[str, ...]
    repeats: int
    soft_labels: bool = False
    """Learn from the shares of the annotators' votes instead of one label (datasets with votes only)."""
    remedies: tuple[str, ...] = ()
    """Against domain shift, of `REMEDIES`, in their order."""
    local_labels: tuple[int, ...] = ()
    """Besides the ordinary trials (0 local labels): so many labels of a target domain on top of the train domain's."""


STRATEGY_KEYS = (
    "backbone",
    "weights",
    "pretrain",
    "synthesize",
    "adapt",
    "image",
    "budgets",
    "repeats",
    "soft_labels",
    "remedies",
    "local_labels",
    *LATER_KEYS,
)
MOST_REPEATS = 1000
"""Beyond it splits and plan alone fill a machine's memory."""
STRATEGY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


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


def read_strategy(
    name: str,
    value: Any,
    *,
    folder: Path,
    image: dict[str, Any],
    budgets: tuple[str, ...],
    repeats: int,
    where: str,
) -> Strategy:
    if not isinstance(name, str) or not STRATEGY_NAME.fullmatch(name):
        raise ConfigError(f"{where}: strategy name {name!r} is not usable; use letters, digits and . _ + - only.")
    values = mapping(value, where)
    for key in values:
        if key not in STRATEGY_KEYS:
            raise unknown_name("key", key, STRATEGY_KEYS, where=where)
    for key in LATER_KEYS:
        if key in values:
            raise ConfigError(f"{where}: `{key}` belongs to techniques that this version does not have; remove it.")
    if values.get("synthesize") is not None:
        _method(values["synthesize"], synthesize.METHODS, where=f"{where}.synthesize")
    if not isinstance(values.get("backbone"), str):
        raise ConfigError(
            f"{where}: `backbone` is missing; name one, as `backbone: resnet18` (see `wazuka backbones`)."
        )
    weights = values.get("weights", "pretrained")
    if weights not in ("pretrained", "none"):
        raise unknown_name("weights", str(weights), ["pretrained", "none"], where=where)
    merged = image | mapping(values.get("image"), f"{where}.image")
    pretraining = values.get("pretrain")
    adapting = _method(values.get("adapt", "linear-probe"), adapt.METHODS, where=f"{where}.adapt")
    return Strategy(
        name=name,
        backbone=_located(values["backbone"], folder),
        weights=weights,
        pretrain=None if pretraining is None else _method(pretraining, pretrain.METHODS, where=f"{where}.pretrain"),
        adapt=adapting,
        image=build(ImageTransform, merged, where=f"{where}.image"),
        budgets=read_budgets(values["budgets"], where=f"{where}.budgets") if "budgets" in values else budgets,
        repeats=read_repeats(values["repeats"], where=f"{where}.repeats") if "repeats" in values else repeats,
        soft_labels=_switch(values.get("soft_labels", False), where=f"{where}.soft_labels"),
        remedies=_remedies(values.get("remedies"), adapting.name, adapting.config, where=f"{where}.remedies"),
        local_labels=_local_labels(values.get("local_labels"), where=f"{where}.local_labels"),
    )


def _remedies(value: Any, method: str, config: Any, *, where: str) -> tuple[str, ...]:
    """Check that a method honors what is asked, so that no switch is without effect."""
    listed = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    honored = adapt.METHODS[method].remedies
    for one in listed:
        if one not in REMEDIES:
            raise unknown_name("remedy", str(one), REMEDIES, where=where)
        if one not in honored:
            able = [name for name in adapt.METHODS if one in adapt.METHODS[name].remedies]
            raise ConfigError(
                f"{where}: `{one}` has no effect on `{method}`; use it with {', '.join(able)}, or"
                " `image: {stain: macenko}`, which suits every method."
            )
    if "test-batchnorm" in listed and getattr(config, "train", "all") == "head":
        raise ConfigError(
            f"{where}: `test-batchnorm` has no effect on `{method}` with `train: head`, whose backbone stays as it is; drop"
            " it, or use `train: all`."
        )
    return tuple(one for one in REMEDIES if one in listed)


def _local_labels(value: Any, *, where: str) -> tuple[int, ...]:
    listed = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    for one in listed:
        if isinstance(one, bool) or not isinstance(one, int) or one < 1:
            raise ConfigError(f"{where} has {one!r}; give whole numbers of 1 or more, as `[10, 20, 50, 100]`.")
    if len(set(listed)) < len(listed):
        raise ConfigError(f"{where} names {max(listed, key=listed.count)} twice; name each number once.")
    return tuple(sorted(listed))


def check_domain_keys(strategy: Strategy, test: TestRule, *, where: str) -> None:
    """Refuse what only some test rules give a meaning."""
    each_to_each = test.domain == "each-to-each"
    if strategy.local_labels and not each_to_each:
        raise ConfigError(
            f"{where}.local_labels adds labels of a target domain, which needs `test: {{domain: each-to-each}}`: there a"
            " part of each domain is held out; write that, or leave it out."
        )
    if "domain-balanced" in strategy.remedies and each_to_each and not strategy.local_labels:
        raise ConfigError(
            f"{where}.remedies: `domain-balanced` has no effect with `test: {{domain: each-to-each}}`, which trains on one"
            " domain; drop it, or add `local_labels`."
        )


def _switch(value: Any, *, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{where} is {value!r}; write true or false.")
    return value


def _located(backbone: str, folder: Path) -> str:
    """Make the path in `NAME=FILE`, `FILE.onnx` or an artifact folder absolute, seen from the study file's folder."""
    name, equals, file = backbone.rpartition("=")
    if equals or file.endswith((".onnx", ".safetensors")) or "/" in file:
        path = folder / Path(file).expanduser()
        return f"{name}{equals}{path.resolve()}" if path.exists() else backbone
    return backbone


def _method(value: Any, registry: Registry, *, where: str) -> Method:
    """Resolve a method's name, or `{method: NAME, ...}` with fields of its `Config`."""
    values = {"method": value} if isinstance(value, str) else mapping(value, where)
    name = values.get("method")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: `method` is missing; write the name or `{{method: NAME, ...}}`.")
    if name not in registry:
        raise unknown_name(registry.role, name, sorted(registry), where=where)
    settings = {key: one for key, one in values.items() if key != "method"}
    return Method(name=name, config=build(registry[name].config, settings, where=where))
