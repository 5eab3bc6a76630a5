"""The keys of a strategy that make and use synthetic images: which generator, what is trained on, how many."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from wazuka import adapt, synthesize
from wazuka.core.config import build
from wazuka.core.errors import ConfigError, unknown_name
from wazuka.study.reading import Method, mapping, read_method, read_switch
from wazuka.training.roles import Adapter, TrainOn

Classes = Literal["all", "rare-only"]
SYNTHESIS_KEYS = ("synthesize", "train_on", "ratio", "split_budget", "classes", "dp")
MOST_PER_REAL = 1000.0
"""Largest `ratio`: beyond it the synthetic images of a budget fill a disk."""


@dataclass(frozen=True, kw_only=True)
class Dp:
    """Differential privacy of the generator's training (key `dp`)."""

    epsilon: float
    """Privacy budget, above 0; smaller is stricter."""
    delta: float
    """Chance with which the bound may fail, above 0; well below 1 / images."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"`epsilon` is {self.epsilon}; give a number above 0, as 8.")
        if not 0 < self.delta < 1:
            raise ValueError(f"`delta` is {self.delta}; give a number between 0 and 1, as 1e-4.")


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How a strategy makes and uses synthetic images."""

    method: Method
    train_on: TrainOn = "real+synthetic"
    ratio: float = 1.0
    """Synthetic images per real one of the budget, of each class."""
    split_budget: bool = False
    """Whether generator and classifier get different patients of the budget."""
    classes: Classes = "all"
    """`rare-only` makes training images of the rarest class of the budget only."""
    dp: Dp | None = None


def read_synthesis(values: Mapping[str, Any], *, method: Adapter, where: str) -> Synthesis | None:
    """Read the keys of one strategy; None where it makes no images.

    Raises:
        ConfigError: If a key has no effect, or the strategy's adapter cannot use synthetic images.
    """
    if values.get("synthesize") is None:
        for key in SYNTHESIS_KEYS[1:]:
            if key in values and not (key == "train_on" and values[key] == "real"):
                raise ConfigError(
                    f"{where}: `{key}` has no effect without a generator; add `synthesize: NAME`, or remove it."
                )
        return None
    chosen = read_method(values["synthesize"], synthesize.METHODS, where=f"{where}.synthesize")
    train_on = values.get("train_on", "real+synthetic")
    if train_on not in get_args(TrainOn):
        raise unknown_name("way to train", str(train_on), get_args(TrainOn), where=f"{where}.train_on")
    if train_on != "real" and not method.synthetic:
        able = [name for name in adapt.METHODS if adapt.METHODS[name].synthetic]
        raise ConfigError(
            f"{where}: `{method.name}` cannot train on synthetic images; use {', '.join(able)}, or `train_on: real`."
        )
    classes = values.get("classes", "all")
    if classes not in get_args(Classes):
        raise unknown_name("choice of classes", str(classes), get_args(Classes), where=f"{where}.classes")
    if classes == "rare-only" and train_on in ("synthetic", "synthetic-then-real"):
        raise ConfigError(
            f"{where}: `classes: rare-only` makes images of one class, which `train_on: {train_on}` cannot learn from alone;"
            " use `train_on: real+synthetic`."
        )
    dp = None if values.get("dp") is None else build(Dp, mapping(values["dp"], f"{where}.dp"), where=f"{where}.dp")
    if dp is not None:
        _check_private(chosen, where=where)
    return Synthesis(
        method=chosen,
        train_on=train_on,
        ratio=_ratio(values.get("ratio", 1), where=f"{where}.ratio"),
        split_budget=read_switch(values.get("split_budget", False), where=f"{where}.split_budget"),
        classes=classes,
        dp=dp,
    )


def _check_private(chosen: Method, *, where: str) -> None:
    synthesizer = synthesize.METHODS[chosen.name]
    if not synthesizer.private:
        raise ConfigError(f"{where}: `{chosen.name}` cannot train under differential privacy; remove `dp`.")
    if synthesizer.check_private is not None:
        try:
            synthesizer.check_private(chosen.config)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def _ratio(value: Any, *, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_PER_REAL:
        raise ConfigError(f"{where} is {value!r}; give synthetic images per real one, above 0, as 1 or 0.5.")
    return float(value)


def to_keys(synthesis: Synthesis) -> dict[str, Any]:
    """Write the keys that `read_synthesis` reads back to an equal value."""

    values: dict[str, Any] = {"synthesize": {"method": synthesis.method.name} | _plain(synthesis.method.config)}
    values |= {key: getattr(synthesis, key) for key in ("train_on", "ratio", "split_budget", "classes")}
    return values | ({} if synthesis.dp is None else {"dp": dataclasses.asdict(synthesis.dp)})


def _plain(config: Any) -> dict[str, Any]:

    return {key: list(one) if isinstance(one, tuple) else one for key, one in dataclasses.asdict(config).items()}
