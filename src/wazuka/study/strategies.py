"""One strategy of a study file, checked strictly and resolved: what is done with the labels of a budget."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wazuka import adapt, pretrain
from wazuka.core.config import build
from wazuka.core.errors import ConfigError, unknown_name
from wazuka.data.transform import ImageTransform
from wazuka.study.reading import Method, mapping, read_budgets, read_method, read_repeats, read_switch
from wazuka.study.synthetic.settings import SYNTHESIS_KEYS, Synthesis, read_synthesis

if TYPE_CHECKING:
    from wazuka.study.config import TestRule

LATER_KEYS = ("prompts",)
"""Strategy keys of the contract that belong to techniques which are not here yet."""
REMEDIES = ("stain-jitter", "randaugment", "domain-balanced", "test-batchnorm")
"""Switches against domain shift; stain normalization is `image: {stain: ...}`."""


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
    synthesis: Synthesis | None = None
    """What generator makes images beside the budget's, and how these are used; None: real images only."""
    local_labels: tuple[int, ...] = ()
    """Besides the ordinary trials (0 local labels): so many labels of a target domain on top of the train domain's."""


STRATEGY_KEYS = (
    "backbone",
    "weights",
    "pretrain",
    *SYNTHESIS_KEYS,
    "adapt",
    "image",
    "budgets",
    "repeats",
    "soft_labels",
    "remedies",
    "local_labels",
    *LATER_KEYS,
)
STRATEGY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


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
    if not isinstance(values.get("backbone"), str):
        raise ConfigError(
            f"{where}: `backbone` is missing; name one, as `backbone: resnet18` (see `wazuka backbones`)."
        )
    weights = values.get("weights", "pretrained")
    if weights not in ("pretrained", "none"):
        raise unknown_name("weights", str(weights), ["pretrained", "none"], where=where)
    merged = image | mapping(values.get("image"), f"{where}.image")
    pretraining = values.get("pretrain")
    adapting = read_method(values.get("adapt", "linear-probe"), adapt.METHODS, where=f"{where}.adapt")
    synthesis = read_synthesis(values, method=adapt.METHODS[adapting.name], where=where)
    soft_labels = read_switch(values.get("soft_labels", False), where=f"{where}.soft_labels")
    remedies = _remedies(values.get("remedies"), adapting.name, adapting.config, where=f"{where}.remedies")
    local_labels = _local_labels(values.get("local_labels"), where=f"{where}.local_labels")
    if synthesis is not None:
        _check_beside_synthesis(soft_labels=soft_labels, remedies=remedies, local_labels=local_labels, where=where)
    return Strategy(
        name=name,
        backbone=_located(values["backbone"], folder),
        weights=weights,
        pretrain=None if pretraining is None else read_method(pretraining, pretrain.METHODS, where=f"{where}.pretrain"),
        adapt=adapting,
        image=build(ImageTransform, merged, where=f"{where}.image"),
        budgets=read_budgets(values["budgets"], where=f"{where}.budgets") if "budgets" in values else budgets,
        repeats=read_repeats(values["repeats"], where=f"{where}.repeats") if "repeats" in values else repeats,
        synthesis=synthesis,
        soft_labels=soft_labels,
        remedies=remedies,
        local_labels=local_labels,
    )


def _check_beside_synthesis(
    *, soft_labels: bool, remedies: tuple[str, ...], local_labels: tuple[int, ...], where: str
) -> None:
    """Refuse keys that have no meaning for synthetic images: these have one label, and no domain."""
    for key, given in (
        ("soft_labels", soft_labels),
        ("remedies: [domain-balanced]", "domain-balanced" in remedies),
        ("local_labels", bool(local_labels)),
    ):
        if given:
            raise ConfigError(
                f"{where}: `{key}` does not go with `synthesize`, whose images have one label and no domain; drop one."
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


def _located(backbone: str, folder: Path) -> str:
    """Make the path in `NAME=FILE`, `FILE.onnx` or an artifact folder absolute, seen from the study file's folder."""
    name, equals, file = backbone.rpartition("=")
    if equals or file.endswith((".onnx", ".safetensors")) or "/" in file:
        path = folder / Path(file).expanduser()
        return f"{name}{equals}{path.resolve()}" if path.exists() else backbone
    return backbone
