"""A study's plan as plain data (`plan.json`): every step with its key, what it needs, and every trial.

A step's key is the hash of all that goes into it, so equal work is shared and a run resumes by finding what is there.
`study/planner.py` makes the plan.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wazuka.core.hashing import make_key
from wazuka.core.records import is_finished, read_json
from wazuka.study.config import Study, to_mapping
from wazuka.study.data import StudyData

SCHEMA = 1
Kind = Literal["pixels", "features", "encoder", "pretrain", "synthesize", "synthetic", "audit", "adapt", "trial"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One node of the study's graph.

    Attributes:
        kind: What it does; `study/steps.py` has one function per kind.
        key: Hash of all that goes into it.
        needs: Ids of the steps that must be done first.
        after: Ids of steps that are waited for, and used where they succeeded.
        args: Plain values that the step's function reads.
        name: For people: "trial jigsaw-probe, 50 labels, repeat 2".
    """

    kind: Kind
    key: str
    name: str
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Unique name of the step in the graph."""
        return f"{self.kind}/{self.key}"


@dataclass(frozen=True)
class Plan:
    """All steps in an order that respects `needs`, and the trials among them."""

    study_key: str
    steps: dict[str, Step]
    not_measured: tuple[tuple[str, str], ...] = ()

    @property
    def trials(self) -> list[Step]:
        """The trial steps, in study order."""
        return [one for one in self.steps.values() if one.kind == "trial"]

    @property
    def wanted(self) -> list[Step]:
        """What the study is for: its trials and audits; all else is made because these need it."""
        return [one for one in self.steps.values() if one.kind in ("trial", "audit")]

    def backbone(self, step_id: str) -> dict[str, Any]:
        """Spec of the backbone that an `encoder` or `pretrain` step starts from."""
        args = self.steps[step_id].args
        return args["backbone"] if "backbone" in args else self.backbone(args["encoder"])

    def to_json(self) -> dict[str, Any]:
        """Plain form for `plan.json`."""
        columns = ("strategy", "budget", "labels", "repeat", "train_domain", "local_labels", "target_domain")
        return {
            "schema": SCHEMA,
            "study_key": self.study_key,
            "trials": [{"key": one.key} | {name: one.args[name] for name in columns} for one in self.trials],
            "steps": [dataclasses.asdict(one) for one in self.steps.values()],
            "not_measured": [{"what": what, "why": why} for what, why in self.not_measured],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """Read what `to_json` wrote."""
        steps = [
            Step(**(one | {name: tuple(one.get(name, ())) for name in ("needs", "after")})) for one in values["steps"]
        ]
        not_measured = tuple((one["what"], one["why"]) for one in values["not_measured"])
        return cls(values["study_key"], {one.id: one for one in steps}, not_measured)


def study_key(study: Study, data: StudyData) -> str:
    """Hash that says whether a run folder belongs to this study: its resolved file and its data."""
    values = to_mapping(study)
    for key in ("dataset", "costs", "not_measured"):  # where the data lie and what things cost decide no score
        values.pop(key, None)
    values["test"].pop("dataset", None)
    return make_key("study", values, data.fingerprint)


def is_complete(run: Path, plan: Plan, step: Step) -> bool:
    """Whether a step is finished, and did not have to do without a step it waits for that has succeeded since."""
    folder = step_folder(run, step)
    if folder is None or not is_finished(folder):
        return False
    if not step.after or "synthetic_missing" not in read_json(folder / "record.json"):
        return True
    made = [step_folder(run, plan.steps[one]) for one in step.after]
    return not all(one is None or is_finished(one) for one in made)


def step_folder(run: Path, step: Step) -> Path | None:
    """Where a step leaves its record; None for steps that only fill the cache."""
    if step.kind == "trial":
        return run / "trials" / step.key
    if step.kind in ("pixels", "features"):
        return None
    return run / "artifacts" / step.kind / step.key
