"""The study file: what a user writes (`study.yaml`), checked strictly and resolved to frozen dataclasses.

Every value that decides a number is in the resolved study, which is what the run folder keeps and hashes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from wazuka.core.config import build, read_yaml
from wazuka.core.errors import ConfigError, unknown_name
from wazuka.data.manifest import Task
from wazuka.study.reading import mapping, read_budgets, read_repeats
from wazuka.study.strategies import Strategy, check_domain_keys, read_strategy
from wazuka.study.synthetic.settings import to_keys

METRICS = (
    "auroc", "average_precision", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "f1", "brier", "ece",
    "kappa",
)  # fmt: skip
LOWER_IS_BETTER = ("brier", "ece")


@dataclass(frozen=True, kw_only=True)
class TestRule:
    """How test patients are chosen; exactly one of the first four is set, else a share of the patients."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    patients: str = "20%"
    """Share of the patients that are test patients, where no other rule is given."""
    domain: Literal["leave-one-out", "each-to-each"] | None = None
    column: str | None = None
    """Manifest column that holds train, val or test."""
    dataset: str | None = None
    """Another dataset folder: all of it is the test set."""
    redraw: bool | Literal["auto"] = "auto"
    """Whether each repeat draws new test patients."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the user wants to reach."""

    metric: str = "auroc"
    target: float | None = None
    margin: float = 0.01
    """Smallest difference worth acting on."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise unknown_name("metric", self.metric, METRICS, where="goal")
        if self.margin < 0:
            raise ValueError(f"`margin` is {self.margin}; give a number of 0 or more")


Limit = float | Literal["waived"] | None


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Conditions a strategy must meet to be adopted. None is not asked for; `waived` is asked for, set aside and said so."""

    min_sensitivity: Limit = None
    max_domain_gap: Limit = None
    max_subgroup_gap: Limit = None
    memorization: Literal["pass", "waived"] | None = None
    max_ms: Limit = None
    max_memory_gb: Limit = None

    def __post_init__(self) -> None:
        """Refuse a limit that nothing could meet or miss."""
        for name in ("min_sensitivity", "max_domain_gap", "max_subgroup_gap"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value <= 1:
                raise ValueError(f"`{name}` is {value}; give a number from 0 to 1")
        for name in ("max_ms", "max_memory_gb"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value <= 0:
                raise ValueError(f"`{name}` is {value}; give a number above 0")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Prices and times for the cost ledger; what is None is not in the report."""

    minutes_per_label: float | None = None
    hourly_rate: float | None = None
    gpu_hour: float | None = None
    energy_kwh: float | None = None
    cases_per_year: float | None = None
    minutes_per_case_now: float | None = None
    minutes_per_case_with: float | None = None
    miss: float | None = None
    false_alarm: float | None = None
    currency: str = "EUR"

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"`{one.name}` is {value}; give a number of 0 or more")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A resolved study."""

    name: str
    dataset: str
    task: Task | None = None
    """None: the dataset's own task."""
    budgets: tuple[str, ...]
    repeats: int
    test: TestRule
    baseline: str
    strategies: tuple[Strategy, ...]
    goal: Goal = field(default_factory=Goal)
    gates: Gates = field(default_factory=Gates)
    costs: Costs | None = None
    threads_per_trial: int = 2
    seed: int = 0
    min_class_patients: int = 5
    not_measured: tuple[tuple[str, str], ...] = ()
    """(what, why) pairs that `poc` found before planning: they stand in the report."""

    def strategy(self, name: str) -> Strategy:
        """Return the strategy of this name."""
        for one in self.strategies:
            if one.name == name:
                return one
        raise unknown_name("strategy", name, [one.name for one in self.strategies])

    @property
    def redraw(self) -> bool:
        """Whether each repeat has its own test patients (`auto`: unless something learns from images without labels)."""
        if self.test.redraw != "auto":
            return bool(self.test.redraw)
        return not any(one.pretrain or _makes_without_labels(one) for one in self.strategies)


def _makes_without_labels(strategy: Strategy) -> bool:
    """Whether a generator is trained on all images, once, rather than on the labels of each budget."""
    from wazuka import synthesize

    chosen = strategy.synthesis
    return chosen is not None and synthesize.METHODS[chosen.method.name].needs == "none"


STUDY_KEYS = (
    "name", "dataset", "task", "unlabeled", "image", "budgets", "repeats", "test", "baseline", "strategies", "goal",
    "gates", "costs", "threads_per_trial", "seed", "min_class_patients", "not_measured",
)  # fmt: skip


def read_study(path: Path, *, dataset: Path | None = None) -> Study:
    """Read and resolve a study file; paths in it are relative to the file's folder.

    Args:
        path: The YAML file.
        dataset: Overrides the file's `dataset`.

    Raises:
        ConfigError: If anything in it is unknown, missing or of the wrong type.
    """
    values = read_yaml(path)
    return resolve_study(values, folder=Path(path).resolve().parent, where=str(path), dataset=dataset)


def resolve_study(values: Mapping[str, Any], *, folder: Path, where: str, dataset: Path | None = None) -> Study:
    """Resolve a study given as a mapping (see CONTRACTS, Study file)."""
    for key in values:
        if key not in STUDY_KEYS:
            raise unknown_name("key", key, STUDY_KEYS, where=where)
    if values.get("unlabeled"):
        raise ConfigError(
            f"{where}: `unlabeled` is given, but no strategy of this study learns from images without labels; remove it."
        )
    given = str(dataset) if dataset is not None else values.get("dataset")
    if not isinstance(given, str):
        raise ConfigError(f"{where}: `dataset` is missing; name a dataset folder there or with --dataset.")
    strategies = values.get("strategies")
    if not isinstance(strategies, dict) or not strategies:
        raise ConfigError(f"{where}: `strategies` is missing; list at least one, as `NAME: {{backbone: resnet18}}`.")
    budgets = read_budgets(values.get("budgets", ["20", "50", "100", "100%"]), where=f"{where}: budgets")
    repeats = read_repeats(values.get("repeats", 5), where=f"{where}: repeats")
    image = mapping(values.get("image"), f"{where}: image")
    resolved = tuple(
        read_strategy(
            name,
            given_one,
            folder=folder,
            image=image,
            budgets=budgets,
            repeats=repeats,
            where=f"{where}: strategies.{name}",
        )
        for name, given_one in strategies.items()
    )
    test = _test(values.get("test"), folder=folder, where=f"{where}: test")
    for one in resolved:
        check_domain_keys(one, test, where=f"{where}: strategies.{one.name}")
    baseline = values.get("baseline") or resolved[0].name
    if baseline not in strategies:
        raise unknown_name("strategy", str(baseline), list(strategies), where=f"{where}: baseline")
    rest = {
        key: values[key]
        for key in ("task", "threads_per_trial", "seed", "min_class_patients")
        if values.get(key) is not None
    }
    costs = values.get("costs")
    not_measured = tuple((str(what), str(why)) for what, why in values.get("not_measured") or ())
    name = values.get("name") or Path(given).name
    plain = build(_Rest, rest, where=where)
    return Study(
        name=str(name),
        dataset=str((folder / given).resolve()),
        budgets=budgets,
        repeats=repeats,
        test=test,
        baseline=str(baseline),
        strategies=resolved,
        goal=build(Goal, mapping(values.get("goal"), f"{where}: goal"), where=f"{where}: goal"),
        gates=build(Gates, mapping(values.get("gates"), f"{where}: gates"), where=f"{where}: gates"),
        costs=None if costs is None else build(Costs, mapping(costs, f"{where}: costs"), where=f"{where}: costs"),
        not_measured=not_measured,
        **dataclasses.asdict(plain),
    )


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """The study's plain keys."""

    task: Literal["classification", "segmentation"] | None = None
    threads_per_trial: int = 2
    seed: int = 0
    min_class_patients: int = 5

    def __post_init__(self) -> None:
        if self.threads_per_trial < 1:
            raise ValueError(f"`threads_per_trial` is {self.threads_per_trial}; give 1 or more")
        if self.min_class_patients < 2:
            raise ValueError(f"`min_class_patients` is {self.min_class_patients}; give 2 or more")


def _test(value: Any, *, folder: Path, where: str) -> TestRule:
    values = mapping(value, where)
    rule = build(TestRule, values, where=where)
    chosen = [key for key in ("patients", "domain", "column", "dataset") if key in values]
    if len(chosen) > 1:
        raise ConfigError(f"{where} names {' and '.join(f'`{key}`' for key in chosen)}; choose one of them.")
    share = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", rule.patients.strip())
    if share is None or not 0 < Fraction(share.group(1)) < 100:
        raise ConfigError(f"{where}: `patients` is {rule.patients!r}; give a share between 0 and 100, as `20%`.")
    if rule.dataset is not None:
        rule = dataclasses.replace(rule, dataset=str((folder / rule.dataset).resolve()))
    return rule


def to_mapping(study: Study) -> dict[str, Any]:
    """Write a resolved study as the mapping that `resolve_study` reads back to an equal study."""
    values: dict[str, Any] = {"name": study.name, "dataset": study.dataset}
    if study.task:
        values["task"] = study.task
    values |= {"budgets": list(study.budgets), "repeats": study.repeats}
    rule = {key: one for key, one in dataclasses.asdict(study.test).items() if one is not None}
    if any(key in rule for key in ("domain", "column", "dataset")):
        rule.pop("patients")
    values |= {"test": rule, "baseline": study.baseline, "strategies": {}}
    for one in study.strategies:
        entry: dict[str, Any] = {"backbone": one.backbone, "weights": one.weights}
        for key in ("pretrain", "adapt"):
            method = getattr(one, key)
            if method is not None:
                entry[key] = {"method": method.name} | _plain(dataclasses.asdict(method.config))
        entry |= {} if one.synthesis is None else to_keys(one.synthesis)
        entry |= {"image": _plain(dataclasses.asdict(one.image)), "budgets": list(one.budgets), "repeats": one.repeats}
        entry |= {"soft_labels": True} if one.soft_labels else {}
        entry |= {key: list(getattr(one, key)) for key in ("remedies", "local_labels") if getattr(one, key)}
        values["strategies"][one.name] = entry
    values["goal"] = dataclasses.asdict(study.goal)
    values["gates"] = dataclasses.asdict(study.gates)
    if study.costs is not None:
        values["costs"] = dataclasses.asdict(study.costs)
    values |= {key: getattr(study, key) for key in ("threads_per_trial", "seed", "min_class_patients")}
    if study.not_measured:
        values["not_measured"] = [list(pair) for pair in study.not_measured]
    return values


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(one) if isinstance(one, tuple) else one for key, one in values.items()}
