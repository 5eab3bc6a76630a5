"""Run a study: study -> plan -> graph -> run folder. The same command goes on where an interrupted run stopped.

    folder = run_study(study, out=Path("runs/mitosis"), settings=Settings(cache="..."))

Finished steps are kept, a failed one is recorded with its reason and the others go on.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import yaml

from wazuka.core.errors import ArtifactError, OutOfSpace, WazukaError
from wazuka.core.progress import say
from wazuka.core.records import is_finished, read_json, read_table, write_json, write_table, write_text
from wazuka.data.pixels import refuse_misfits
from wazuka.study import data as study_data
from wazuka.study.config import Study, to_mapping
from wazuka.study.context import Settings
from wazuka.study.estimate import estimate
from wazuka.study.graph import execute
from wazuka.study.plan import Plan, Step, step_folder, study_key
from wazuka.study.planner import make_plan
from wazuka.study.provenance import check_backbones


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run did.

    Attributes:
        run: The run folder.
        done, kept, failed: Trials made now, found finished, and failed.
        failures: (trial's name, reason) of the failed ones.
    """

    run: Path
    done: int
    kept: int
    failed: int
    failures: tuple[tuple[str, str], ...]


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run folder against a second process; the lock is gone when the process is, however it ends."""
    lock = filelock.FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ArtifactError(
            f"Run folder {run} is in use by another process; wait for it or choose another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def prepare(study: Study, run: Path, *, overwrite: bool = False) -> tuple[Plan, study_data.StudyData, pd.DataFrame]:
    """Make the run folder's plan, or check that the one there is this study's.

    Raises:
        ArtifactError: If the folder holds something else, or a run of another study.
    """
    data = study_data.load_study_data(study)
    key = study_key(study, data)
    replace = _check_folder(run, key, study, overwrite=overwrite)
    for image in dict.fromkeys(one.image for one in study.strategies):
        for dataset in data.datasets:
            image.check(dataset.card.intensity)
            refuse_misfits(dataset.usable, image)
    split_table = study_data.make_splits(study, data)
    plan = make_plan(study, data, split_table)
    plan = dataclasses.replace(plan, not_measured=(*plan.not_measured, *_left_out(data)))
    plan = dataclasses.replace(plan, not_measured=(*plan.not_measured, *check_backbones(study, data, split_table)))
    if replace:  # only now that nothing of the new study is wrong
        _clear(run)
    return plan, data, split_table


def _left_out(data: study_data.StudyData) -> list[tuple[str, str]]:
    return [
        (f"class {name}", f"{count} patients are fewer than min_class_patients")
        for name, count in sorted(data.left_out.items())
    ]


def _check_folder(run: Path, key: str, study: Study, *, overwrite: bool) -> bool:
    """Whether another study's run is to be replaced; refuse what may not be."""
    if run.is_file():
        raise ArtifactError(f"{run} is a file; give a folder as --out.")
    if (run / "plan.json").is_file():
        theirs = read_json(run / "plan.json").get("study_key")
        if theirs == key:
            return False
        if not overwrite:
            raise ArtifactError(
                f"Run folder {run} belongs to another study or to other data (key {theirs}, this study has {key});"
                " choose another --out, or replace it with --overwrite."
            )
        return True
    inside = _refuse_strangers(run)
    if inside - {"dataset", ".lock"} and not overwrite:
        say(f"{run} holds an unfinished preparation; it is made again.")
    return False


def _refuse_strangers(run: Path) -> set[str]:
    """Names in a folder that has no plan yet; refused before anything, a lock too, is written into a user's folder."""
    inside = {one.name for one in run.iterdir()} if run.is_dir() else set()
    known = {"dataset", ".lock", "study.yaml", "splits.parquet", "attributes.parquet", "data.json"}
    stranger = sorted(inside - known - {"artifacts", "trials"})
    if stranger and "plan.json" not in inside:
        raise ArtifactError(f"{run} is not empty and no run folder (it holds `{stranger[0]}`); choose another --out.")
    return inside


def _clear(run: Path) -> None:
    """Remove another study's run; its imported dataset stays."""
    for name in ("trials", "artifacts", "final"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in (
        "results.parquet",
        "report.html",
        "report.ja.html",
        "report.json",
        "summary.md",
        "data.json",
        "attributes.parquet",
        "report.joint.html",
        "report.joint.ja.html",
        "plan.json",
    ):
        (run / name).unlink(missing_ok=True)


def run_study(
    study: Study,
    *,
    out: Path,
    settings: Settings,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Run a study into a run folder.

    Args:
        study: The resolved study.
        out: The run folder; made if absent, gone on with if it is this study's.
        settings: Cache, device, threads.
        workers: Processes on this machine; 1 runs in this process.
        scheduler: Address of a Dask scheduler whose workers see the same file system; overrides `workers`.
        overwrite: Replace another study's run in the folder.

    Raises:
        WazukaError: For whatever is wrong before work starts, and when the disk is full.
    """
    run = Path(out)
    _check_is_folder(run)
    _refuse_strangers(run)
    new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        for part in run.glob(".*.part"):  # what a killed process was writing; nobody else writes while we hold the lock
            part.unlink()
        try:
            plan, data, split_table = prepare(study, run, overwrite=overwrite)
        except WazukaError:
            if new:
                shutil.rmtree(run)  # refused before anything was made: nothing stays behind
            raise
        write_text(run / "study.yaml", yaml.safe_dump(to_mapping(study), sort_keys=False, allow_unicode=True))
        write_table(run / "splits.parquet", split_table)
        write_table(run / "attributes.parquet", study_data.attributes(data))
        cost = estimate(study, data, plan, run=run, settings=settings, workers=workers, remote=scheduler is not None)
        if (run / "plan.json").is_file():  # the first estimate stands in the report, not that of a resumed rest
            cost = read_json(run / "plan.json").get("estimate", cost)
        if not (run / "data.json").is_file():
            write_json(run / "data.json", study_data.describe(data) | _checks(data))
        write_json(run / "plan.json", plan.to_json() | {"estimate": cost})  # last: a folder with a plan is prepared
        statuses = execute(run, plan, settings, workers=workers, scheduler=scheduler)
        full = [one for one in statuses.values() if one["outcome"] == "no space"]
        if full:
            raise OutOfSpace(full[0]["reason"])
        _certify(run, plan, data, settings)
        collect_results(run, plan)
    return _outcome(run, plan, statuses)


def _check_is_folder(run: Path) -> None:
    if run.is_file():
        raise ArtifactError(f"{run} is a file; give a folder as --out.")


def _checks(data: study_data.StudyData) -> dict[str, Any]:
    """The dataset's checks; the leakage certificate follows once there are features to measure it with."""
    from wazuka.study.check import check_dataset

    return {"checks": check_dataset(data.main, leakage=False).checks, "leakage": None}


def _certify(run: Path, plan: Plan, data: study_data.StudyData, settings: Settings) -> None:
    """Add the leakage certificate to `data.json`, measured on frozen features that the study has computed anyway."""
    facts = read_json(run / "data.json")
    made = [one for one in plan.steps.values() if one.kind == "features" and _has_encoder(run, plan, one)]
    step = made[0] if made else None
    if facts["leakage"] is not None or step is None:
        return
    from wazuka.study.check import tables_of
    from wazuka.study.context import features_of, open_run
    from wazuka.study.leakage import certify

    matrix = features_of(open_run(run), step.id, settings)
    found = certify(
        data.main, tables_of(data.main), cache=Path(settings.cache), threads=settings.workers, matrix=matrix
    )
    write_json(run / "data.json", facts | {"leakage": found})


def _has_encoder(run: Path, plan: Plan, step: Step) -> bool:
    """Whether the encoder of a `features` step is there: its pretraining may have failed."""
    folder = step_folder(run, plan.steps[step.args["encoder"]])
    return folder is not None and is_finished(folder)


def collect_results(run: Path, plan: Plan) -> pd.DataFrame:
    """Join the finished trials' rows into `results.parquet`, in plan order: nothing is aggregated."""
    parts = []
    for step in plan.trials:
        folder = step_folder(run, step)
        assert folder is not None
        if is_finished(folder):
            parts.append(read_table(folder / "results.parquet"))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    write_table(run / "results.parquet", table)
    return table


def _outcome(run: Path, plan: Plan, statuses: dict[str, dict[str, Any]]) -> Outcome:
    trials = [statuses[one.id] for one in plan.trials if one.id in statuses]
    counts = Counter(one["outcome"] for one in trials)
    failures = tuple((one["name"], one["reason"]) for one in trials if one["outcome"] == "failed")
    return Outcome(run=run, done=counts["done"], kept=counts["kept"], failed=counts["failed"], failures=failures)
