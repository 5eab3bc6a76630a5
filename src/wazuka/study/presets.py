"""`wazuka poc`: choose a study that suits the data and the machine, and say what was chosen and what was left out.

wazuka poc SOURCE --out RUN --preset quick
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from wazuka import adapt
from wazuka.core.errors import ConfigError, NotEnoughData, WazukaError, unknown_name
from wazuka.core.progress import say
from wazuka.core.records import read_json
from wazuka.data import budgets as budget_rules
from wazuka.data.manifest import load
from wazuka.nn import backbones
from wazuka.nn.encoders import Encoder
from wazuka.study import data as study_data
from wazuka.study.config import METRICS, Study, resolve_study
from wazuka.study.context import Settings
from wazuka.study.estimate import estimate
from wazuka.study.planner import make_plan
from wazuka.training.roles import Adapter

DEFAULT_BACKBONE = "resnet18"
GENERATOR_SIZE, GENERATOR_STEPS = 64, 3000
"""Pixels a side and steps of a generator in `poc`."""
SCRATCH_SIZE = 64
"""Largest side that a network trained from scratch is given: with few labels a small image learns faster, no worse."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How thorough a proof of concept is."""

    probe_repeats: int
    network_repeats: int
    steps: int
    """Training steps of 32 images for every trained network."""
    hours: float
    """A strategy that would take the study beyond this is left out and named, unless --strategies asks for it."""
    budgets: tuple[str, ...] = ("20", "50", "100", "100%")


PRESETS = {
    "quick": Preset(probe_repeats=5, network_repeats=3, steps=200, hours=1.0),
    "standard": Preset(probe_repeats=5, network_repeats=5, steps=500, hours=6.0),
    "thorough": Preset(probe_repeats=10, network_repeats=5, steps=1500, hours=24.0),
}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user asked of `poc`; None where nothing was asked."""

    preset: str = "quick"
    budgets: tuple[str, ...] | None = None
    repeats: int | None = None
    strategies: tuple[str, ...] | None = None
    backbone: str | None = None
    crop: int | None = None
    size: int | None = None
    goal: str | None = None
    hours: float | None = None
    labels: int | None = None
    after: Path | None = None
    min_class_patients: int = 5
    max_ms: float | None = None
    max_memory: float | None = None


def _linear_probe(backbone: str, preset: Preset, scratch_size: int) -> dict[str, Any]:
    return {"backbone": backbone, "adapt": "linear-probe"}


def _knn(backbone: str, preset: Preset, scratch_size: int) -> dict[str, Any]:
    return {"backbone": backbone, "adapt": "knn"}


def _finetune(backbone: str, preset: Preset, scratch_size: int) -> dict[str, Any]:
    return {"backbone": backbone, "adapt": {"method": "finetune", "steps": preset.steps}}


def _lora(backbone: str, preset: Preset, scratch_size: int) -> dict[str, Any]:
    return {"backbone": backbone, "adapt": {"method": "lora", "steps": preset.steps}}


def _scratch(backbone: str, preset: Preset, scratch_size: int) -> dict[str, Any]:
    return {
        "backbone": DEFAULT_BACKBONE,
        "weights": "none",
        "adapt": {"method": "finetune", "steps": preset.steps, "lr": 1e-3},
        "image": {"size": scratch_size},
    }


def _msg_gan(backbone: str, preset: Preset, scratch_size: int) -> dict[str, Any]:
    size = min(GENERATOR_SIZE, max(32, 1 << (scratch_size.bit_length() - 1)))
    made = {"method": "msg-gan", "size": size, "latent": 64, "steps": GENERATOR_STEPS}
    return {"backbone": backbone, "adapt": "linear-probe", "synthesize": made}


STRATEGIES: dict[str, Callable[[str, Preset, int], dict[str, Any]]] = {
    "linear-probe": _linear_probe,
    "knn": _knn,
    "finetune": _finetune,
    "lora": _lora,
    "scratch": _scratch,
    "msg-gan": _msg_gan,
}
"""Name for `--strategies` -> entry of the study file. A technique that joins `poc` adds one line."""


def make_study(dataset: Path, wishes: Wishes, *, settings: Settings, run: Path) -> Study:
    """Choose strategies, budgets and repeats for a dataset, and say what was left out and why.

    Raises:
        ConfigError, NotEnoughData: If something the user named does not exist or does not fit.
    """
    if wishes.preset not in PRESETS:
        raise unknown_name("preset", wishes.preset, list(PRESETS))
    wishes = _go_on_from(wishes)
    preset = PRESETS[wishes.preset]
    card = load(dataset).card
    entries, not_measured = _entries(wishes, preset, load(dataset))
    if not entries:
        why = "; ".join(f"{what}: {reason}" for what, reason in not_measured)
        raise ConfigError(f"No strategy can run here ({why}); add weights as said there, or name a --backbone FILE.")
    values: dict[str, Any] = {
        "name": card.name,
        "dataset": str(dataset.resolve()),
        "image": _image(wishes),
        "budgets": list(wishes.budgets or preset.budgets),
        "repeats": wishes.repeats or preset.probe_repeats,
        "strategies": entries,
        "goal": _goal(wishes.goal, card.classes),
        "gates": {"max_ms": wishes.max_ms, "max_memory_gb": wishes.max_memory},
        "threads_per_trial": settings.threads,
        "min_class_patients": wishes.min_class_patients,
        "not_measured": [list(one) for one in not_measured],
    }
    study = resolve_study(values, folder=Path.cwd(), where="poc")
    data = study_data.load_study_data(study)
    study = _fit_budgets(study, data, wishes)
    study = _fit_hours(study, data, wishes, preset, settings=settings, run=run)
    for what, why in study.not_measured:
        say(f"Not measured: {what}: {why}")
    chosen = ", ".join(one.name for one in study.strategies)
    say(
        f"Strategies: {chosen}. Budgets: {', '.join(study.budgets)}. Repeats: {study.repeats}. Baseline: {study.baseline}."
    )
    return study


def _go_on_from(wishes: Wishes) -> Wishes:
    """Take the next stage that an earlier run's report proposes, where the user has not said otherwise."""
    if wishes.after is None:
        return wishes
    report = read_json(wishes.after / "report.json")
    stage = report.get("next_stage") or {}
    strategies = wishes.strategies or tuple(one for one in stage.get("strategies", ()) if one in STRATEGIES) or None
    repeats = wishes.repeats or stage.get("repeats")
    say(f"After {wishes.after}: strategies {', '.join(strategies or ('as usual',))}, repeats {repeats or 'as usual'}.")
    return dataclasses.replace(wishes, strategies=strategies, repeats=repeats)


def _image(wishes: Wishes) -> dict[str, Any]:
    return {key: one for key, one in (("crop", wishes.crop), ("size", wishes.size)) if one is not None}


def _entries(wishes: Wishes, preset: Preset, dataset: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Strategy entries that can run here, and (what, why) for those that cannot."""
    asked = wishes.strategies or tuple(STRATEGIES)
    for name in asked:
        if name not in STRATEGIES:
            raise unknown_name("strategy", name, list(STRATEGIES), where="--strategies")
    backbone = wishes.backbone or DEFAULT_BACKBONE
    entries: dict[str, Any] = {}
    left_out: list[tuple[str, str]] = []
    find = functools.cache(_find)  # without a network the hub takes its time to fail: ask once for each backbone
    side = int(dataset.usable[["height", "width"]].max().max())
    scratch_size = max(32, min(SCRATCH_SIZE, wishes.crop or side, wishes.size or SCRATCH_SIZE) // 32 * 32)
    for name in asked:
        entry = STRATEGIES[name](backbone, preset, scratch_size)
        why = _cannot_run(entry, find(entry["backbone"], entry.get("weights", "pretrained")))
        if why is not None:
            if wishes.strategies or (wishes.backbone and not _trains(entry["adapt"])):
                raise ConfigError(why)
            left_out.append((name, why))
            continue
        if wishes.repeats is None and (_trains(entry["adapt"]) or "synthesize" in entry):
            entry["repeats"] = preset.network_repeats
        entries[name] = entry
    return entries, left_out


def _method(chosen: str | dict[str, Any]) -> Adapter:
    """The method that an entry's `adapt` names."""
    return cast(Adapter, adapt.METHODS[chosen if isinstance(chosen, str) else chosen["method"]])


def _trains(chosen: str | dict[str, Any]) -> bool:
    """Whether a method trains a network: what makes a strategy dear."""
    return _method(chosen).images_trained is not None


def _find(backbone: str, weights: Literal["pretrained", "none"]) -> Encoder | str:
    """Find a backbone, or say why it is not to be had on this machine."""
    try:
        return backbones.resolve(backbone, weights=weights)
    except WazukaError as error:
        return str(error)


def _cannot_run(entry: dict[str, Any], found: Encoder | str) -> str | None:
    """Why a strategy cannot run with what was found of its backbone, or None."""
    if isinstance(found, str):
        return found
    if found.kind not in _method(entry["adapt"]).backbone_kinds:
        return "an ONNX backbone is frozen; give --backbone NAME=FILE.safetensors to train it"
    return None


def _goal(text: str | None, classes: tuple[str, ...]) -> dict[str, Any]:
    if text is None:
        return {}
    metric, equals, value = text.partition("=")
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS, where="--goal")
    try:
        return {"metric": metric} if not equals else {"metric": metric, "target": float(value)}
    except ValueError as error:
        raise ConfigError(f"--goal {text} is not METRIC=VALUE; write it as auroc=0.85.") from error


def _fit_budgets(study: Study, data: study_data.StudyData, wishes: Wishes) -> Study:
    """Leave out preset budgets that the data cannot carry, and name them; budgets of the user's own are his word."""
    table = study_data.make_splits(study, data)
    groups = [rows for _, rows in table.groupby(["repeat", "train_domain"], sort=True, observed=True)]
    kept: list[str] = []
    left_out = list(study.not_measured)
    written = list(study.budgets)
    if wishes.labels is not None and wishes.budgets is None:
        written = [one for one in written if one.isdigit() and int(one) < wishes.labels] + [str(wishes.labels)]
    counts: set[int] = set()
    for budget in written:
        try:
            found = [budget_rules.select(r, budget_rules.parse(budget), labels=data.labels) for r in groups]
        except NotEnoughData as error:
            if wishes.budgets is not None or (wishes.labels is not None and budget == str(wishes.labels)):
                raise
            left_out.append((f"budget {budget}", str(error)))
            continue
        count = int(found[0].labels)
        if count in counts:
            left_out.append((f"budget {budget}", f"is the same {count} labels as a smaller budget of the list"))
            continue
        counts.add(count)
        kept.append(budget)
    if not kept:
        raise NotEnoughData(f"No budget fits the data: {left_out[-1][1]}")
    strategies = tuple(dataclasses.replace(one, budgets=tuple(kept)) for one in study.strategies)
    return dataclasses.replace(study, budgets=tuple(kept), strategies=strategies, not_measured=tuple(left_out))


def _fit_hours(
    study: Study, data: study_data.StudyData, wishes: Wishes, preset: Preset, *, settings: Settings, run: Path
) -> Study:
    """Leave out trained strategies, the dearest first, until the estimate fits the time; name them."""
    if wishes.strategies is not None and wishes.hours is None:
        return study
    limit = wishes.hours if wishes.hours is not None else preset.hours
    while True:
        plan = make_plan(study, data, study_data.make_splits(study, data))
        seconds = estimate(study, data, plan, run=run, settings=settings, workers=1, quiet=True)["seconds"]
        trained = [one for one in study.strategies if _trains(one.adapt.name) or one.synthesis is not None]
        if seconds <= limit * 3600 or not trained or len(study.strategies) == 1:
            return study
        dearest = max(trained, key=lambda one: (one.synthesis is not None, one.image.size))
        why = f"the study would take about {seconds / 3600:.1f} h, more than the {limit:g} h allowed (--hours)"
        rest = tuple(one for one in study.strategies if one is not dearest)
        baseline = study.baseline if study.baseline != dearest.name else rest[0].name
        not_measured = (*study.not_measured, (dearest.name, why))
        study = dataclasses.replace(study, strategies=rest, baseline=baseline, not_measured=not_measured)
