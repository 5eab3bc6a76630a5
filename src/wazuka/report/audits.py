"""The audits of a run's generators, read from its folder: figures, coded checks, memorization, pictures, training curves.

A generator is one synthesize step: trained on the rows of one budget in one repeat, used by every strategy that asks for
the same one. Nothing is computed here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wazuka.core.records import is_finished, read_json
from wazuka.report.run_folder import RunFolder, Trial

WORST_FIRST = ("issue", "warning", "not applicable", "skipped", "ignored", "passed")
"""Outcomes of a check; what could not be looked at is no better than what was found in order."""
MEMORIZATION = "WZ201"
PICTURE_BYTES = 400_000
"""A larger picture is embedded as JPEG, so that the page can be mailed."""
MOST_PIXELS = 16_000_000
QUALITIES = (85, 70, 50, 30)
PNG = b"\x89PNG\r\n\x1a\n"
KINDS = ("synthesize", "synthetic", "audit")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The images made by one synthetic step: what a strategy trains on, and what trials are tested on.

    Attributes:
        made, wanted: Images kept and planned of each part (`train`, `test`); `wanted` is None where no plan says so.
        memorization: As in the step's record: `outcome, flagged, images, filtered`, `share`, `low` where defined.
    """

    made: dict[str, int]
    wanted: dict[str, int] | None
    memorization: dict[str, Any]

    @property
    def short(self) -> int:
        """Images fewer than planned: memorized ones for which the spares did not suffice."""
        return 0 if self.wanted is None else sum(self.wanted.values()) - sum(self.made.values())


@dataclass(frozen=True, kw_only=True)
class Audit:
    """One audited generator.

    Attributes:
        key: Of its synthesize step.
        strategies: Those that train on its images; those that only are tested on them if there are none.
        images: Images that it was trained on; None if not recorded.
        fidelity: As `evaluate.fidelity.Fidelity`, in plain values.
        against, compared_with: What real images it was compared with.
        checks: `code, name, outcome, count, threshold, reason`, in the order of their codes.
        pools: Its images, the largest pool first.
        collapsed: Why its training was stopped; None where it was not.
        curves: Name -> list of (step, value) of its training.
        pictures: Name -> (folder, file) of its audit and its training.
        seconds: Of its training.
    """

    key: str
    strategies: tuple[str, ...]
    method: str
    budget: str
    repeat: int
    train_domain: str
    images: int | None
    encoder: str
    fidelity: Mapping[str, Any]
    against: str
    compared_with: str
    checks: tuple[dict[str, Any], ...]
    pools: tuple[Pool, ...]
    collapsed: str | None
    curves: Mapping[str, list[tuple[float, float]]]
    pictures: Mapping[str, tuple[Path, str]]
    seconds: float | None

    @property
    def memorization(self) -> str | None:
        """Outcome of its memorization checks, as `judge_memorization` has it; None without any."""
        audited = [str(one["outcome"]) for one in self.checks if one["code"] == MEMORIZATION]
        return judge_memorization([str(one.memorization["outcome"]) for one in self.pools], audited)

    @property
    def group(self) -> tuple[tuple[str, ...], str]:
        """What the repeats of one generator have in common: who uses it, and the budget."""
        return self.strategies, self.budget


def read_audits(run: RunFolder) -> tuple[Audit, ...]:
    """Read every finished audit, in the study's order of strategies, then by training images, repeat and train domain."""
    trained, tested = _users(run)
    found = []
    for name, record in run.steps.items():
        kind, _, key = name.partition("/")
        if kind != "audit":
            continue
        maker = str(record["generator"])
        first = str(record["strategy"])
        users = trained.get(maker) or tested.get(maker) or {first}
        found.append(_audit(run, key, record, tuple(one for one in run.strategies if one in users) or (first,)))
    places = {name: number for number, name in enumerate(run.strategies)}

    size: dict[Any, int] = {}
    for one in found:
        size[one.group] = max(size.get(one.group, 0), one.images or 0)

    def order(one: Audit) -> tuple[Any, ...]:
        return places.get(one.strategies[0], len(places)), size[one.group], one.budget, one.repeat, one.train_domain

    return tuple(sorted(found, key=order))


def _users(run: RunFolder) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Generator -> strategies that train on its images, and -> strategies that are tested on them."""
    trained: dict[str, set[str]] = {}
    tested: dict[str, set[str]] = {}
    for trial in run.trials:
        step = run.steps.get(str(trial.record.get("synthetic_test")))
        if step is not None:
            users = trained if trains_on_images(trial) else tested
            users.setdefault(str(step["generator"]), set()).add(trial.strategy)
    return trained, tested


def trains_on_images(trial: Trial) -> bool:
    """Whether a trial learned from synthetic images, its own generator's; else it may only be tested on some."""
    return trial.record.get("train_on", "real") != "real"


def _audit(run: RunFolder, key: str, record: dict[str, Any], strategies: tuple[str, ...]) -> Audit:
    maker = str(record["generator"])
    trained = run.steps.get(f"synthesize/{maker}", {})
    folders = (run.path / "artifacts" / "audit" / key, run.path / "artifacts" / "synthesize" / maker)
    pictures = {
        name: (folder, str(file))
        for folder, source in zip(folders, (record, trained), strict=True)
        for name, file in (source.get("pictures") or {}).items()
    }
    return Audit(
        key=maker,
        strategies=strategies,
        method=str((trained.get("config") or {}).get("method", "")),
        budget=str(record["budget"]),
        repeat=int(record["repeat"]),
        train_domain=str(record["train_domain"]),
        images=trained.get("images"),
        encoder=str(record["encoder"]),
        fidelity=record["fidelity"],
        against=str(record["fidelity_against"]),
        compared_with=str(record["compared_with"]),
        checks=tuple(record["checks"]),
        pools=_pools(run, maker),
        collapsed=record.get("collapsed"),
        curves=trained.get("curves") or {},
        pictures=pictures,
        seconds=trained.get("seconds"),
    )


def _pools(run: RunFolder, maker: str) -> tuple[Pool, ...]:
    planned = {f"{one['kind']}/{one['key']}": one.get("args", {}) for one in run.plan.get("steps", [])}
    found = []
    for name, record in run.steps.items():
        if name.startswith("synthetic/") and str(record["generator"]) == maker:
            args = planned.get(name)
            wanted = None if args is None else {part: int(sum(args[part])) for part in ("train", "test")}
            found.append(Pool(made=record["images"], wanted=wanted, memorization=record["memorization"]))
    return tuple(sorted(found, key=lambda one: -one.memorization["images"]))


def worst(outcomes: Sequence[str]) -> str:
    """The worst of several outcomes of a check."""
    return min(outcomes, key=WORST_FIRST.index)


def memorization(run: RunFolder, strategy: str, budget: str) -> str | None:
    """Outcome of the memorization checks of the images that a strategy trains on, and of its generators' audits."""
    audits = {
        str(one["generator"]): str(check["outcome"])
        for name, one in run.steps.items()
        if name.startswith("audit/")
        for check in one["checks"]
        if check["code"] == MEMORIZATION
    }
    own = [one for one in run.trials_of(strategy, budget) if trains_on_images(one)]
    steps = [run.steps.get(str(one.record.get("synthetic_test")), {}) for one in own]
    audited = [audits[str(step["generator"])] for step in steps if str(step.get("generator")) in audits]
    given = [one.record.get("memorization") for one in own]
    return judge_memorization([str(one or "not applicable") for one in given], audited) if any(given) else None


def judge_memorization(pools: Sequence[str], audited: Sequence[str]) -> str | None:
    """Join outcomes of memorization checks.

    Args:
        pools: Of the images trained on, one per trial or pool.
        audited: Of the audits of their generators, which see other images of these.

    Returns:
        `issue` if any of them is one. Else `not applicable` if some pool could not be checked: what was not looked at is
        not in order. Else the worst. None without any pool.
    """
    if not pools:
        return None
    if "issue" in (*pools, *audited):
        return "issue"
    if "not applicable" in pools:
        return "not applicable"
    return worst([*pools, *(one for one in audited if one == "warning")])


def generator_seconds(run: RunFolder, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Records of the steps that made the images a trial trained on: its generator's training, and their making.

    They count whole, though other strategies may share them: whoever uses one strategy pays for its generator.
    """
    made = run.steps.get(str(record.get("synthetic_test")))
    if made is None or record.get("train_on", "real") == "real":
        return []
    trained = run.steps.get(f"synthesize/{made['generator']}")
    return [made] if trained is None else [made, trained]


def failed_steps(run: RunFolder) -> list[tuple[str, str]]:
    """(name, reason) of every step on synthetic images that failed by itself, not because one that it needs did."""
    failed = {}
    for step in run.plan.get("steps", []):
        folder = run.path / "artifacts" / str(step["kind"]) / str(step["key"])
        if step["kind"] in KINDS and not is_finished(folder) and (folder / "failure.json").is_file():
            failed[f"{step['kind']}/{step['key']}"] = step, str(read_json(folder / "failure.json").get("reason", ""))
    return [
        (str(step["name"]), reason)
        for step, reason in failed.values()
        if not any(need in failed for need in step.get("needs", []))
    ]


def data_uri(folder: Path, file: str) -> str | None:
    """A PNG of a step's own folder as a data URI, as JPEG where it is large; None for anything else, however named."""
    path = (folder / file).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    if not content.startswith(PNG):
        return None
    if len(content) <= PICTURE_BYTES:
        return _uri("png", content)
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            return None
        image = picture.convert("RGB")
    for quality in QUALITIES:
        file_like = io.BytesIO()
        image.save(file_like, "JPEG", quality=quality, optimize=True)
        if file_like.tell() <= PICTURE_BYTES:
            return _uri("jpeg", file_like.getvalue())
    return None


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
