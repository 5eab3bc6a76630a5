"""Carry out a plan's graph: in this process, in local Dask processes, or on a Dask cluster.

Decoding comes first and in this process's own pool (workers may not start processes of their own); everything else is
a graph of steps that exchange paths through the run folder and return a status.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wazuka.core import threads
from wazuka.core.errors import ConfigError
from wazuka.core.progress import say, track
from wazuka.core.records import is_finished, read_json
from wazuka.study.context import Settings
from wazuka.study.plan import Plan, Step, step_folder
from wazuka.study.steps import run_step

if TYPE_CHECKING:
    from distributed import Client

Status = dict[str, Any]
RETRIES = 3
"""How often Dask tries a step again whose worker died."""


def execute(
    run: Path, plan: Plan, settings: Settings, *, workers: int = 1, scheduler: str | None = None
) -> dict[str, Status]:
    """Run every step that is not finished and return each step's status by id.

    A step that fails does not stop the others; steps that need it fail with its reason. A full disk stops the run.
    """
    waiting = needed(run, plan)
    statuses: dict[str, Status] = {
        one.id: {"step": one.id, "name": one.name, "outcome": "kept", "reason": None, "seconds": 0.0}
        for one in plan.steps.values()
        if one.id not in waiting
    }
    first = [one for one in waiting.values() if one.kind == "pixels"]
    statuses |= _in_process(run, first, settings, statuses)
    rest = [one for one in waiting.values() if one.kind != "pixels"]
    if workers == 1 and scheduler is None:
        return statuses | _in_process(run, rest, dataclasses.replace(settings, workers=1), statuses)
    with _client(workers, scheduler, settings) as client, client.as_current():
        return statuses | _on_dask(client, run, rest, dataclasses.replace(settings, workers=1), statuses)


def needed(run: Path, plan: Plan) -> dict[str, Step]:
    """Steps to run, in plan order: unfinished trials and whatever unfinished steps these need.

    A cache step (pixels, features) is needed only by a step that is still to be run.
    """
    wanted: set[str] = set()

    def want(step: Step) -> None:
        if step.id in wanted:
            return
        folder = step_folder(run, step)
        finished = folder is not None and is_finished(folder)
        if finished and not (step.after and "synthetic_missing" in read_json(folder / "record.json")):  # type: ignore[operator]
            return
        wanted.add(step.id)
        for one in (*step.needs, *step.after):
            want(plan.steps[one])

    for one in plan.wanted:
        want(one)
    return {one.id: one for one in plan.steps.values() if one.id in wanted}


def _in_process(run: Path, steps: list[Step], settings: Settings, known: dict[str, Status]) -> dict[str, Status]:
    found: dict[str, Status] = {}
    for step in track(steps, "Running the study" if len(steps) > 2 else "Preparing", len(steps)):
        before = [(known | found)[one] for one in (*step.needs, *step.after) if one in known or one in found]
        found[step.id] = run_step(str(run), step.id, settings, *before)
        _tell(found[step.id])
        if found[step.id]["outcome"] == "no space":
            break
    return found


def _tell(status: Status) -> None:
    if status["outcome"] == "failed":
        say(f"Failed: {status['name']}: {status['reason']}")


@contextmanager
def _client(workers: int, scheduler: str | None, settings: Settings) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="20s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"No Dask scheduler answers at {scheduler}; start one, or use --workers N.") from error
        try:
            yield client
        finally:
            client.close()
        return
    # The nanny's environment is what a worker has before it imports NumPy and torch.
    environment = threads.environment(settings.threads)
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment, "distributed.worker.daemon": False}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1",
            memory_limit=0, silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        yield client


def on_worker(run: str, step_id: str, settings: Settings, *before: Status) -> Status:
    """Run one step on a Dask worker; worker i of n uses GPU i mod the number of GPUs."""
    from distributed import get_worker

    if settings.device == "cuda":
        import torch

        name = get_worker().name
        number = name if isinstance(name, int) else abs(hash(str(name)))
        settings = dataclasses.replace(settings, device=f"cuda:{number % max(1, torch.cuda.device_count())}")
    return run_step(run, step_id, settings, *before)


def _on_dask(
    client: Client, run: Path, steps: list[Step], settings: Settings, known: dict[str, Status]
) -> dict[str, Status]:
    from distributed import as_completed

    futures: dict[str, Any] = {}
    for step in steps:
        before = [futures[one] if one in futures else known[one] for one in (*step.needs, *step.after)]
        futures[step.id] = client.submit(
            on_worker,
            str(run.resolve()),
            step.id,
            settings,
            *before,
            key=f"{run.name}-{step.id}",
            pure=False,
            retries=RETRIES,
        )
    by_key = {future.key: step_id for step_id, future in futures.items()}
    names = {step.id: step.name for step in steps}
    found: dict[str, Status] = {}
    try:
        for future in track(as_completed(futures.values()), "Running the study", len(futures)):
            step_id = by_key[future.key]
            found[step_id] = _result(future.result if future.status == "finished" else None, future, step_id, names)
            _tell(found[step_id])
            if found[step_id]["outcome"] == "no space":
                break
    finally:
        client.cancel(list(futures.values()), force=True)
    return found


def _result(result: Callable[[], Status] | None, future: Any, step_id: str, names: dict[str, str]) -> Status:
    """A step's status, also where its worker died more often than Dask tries again."""
    if result is not None:
        return result()
    reason = f"the worker process died ({future.exception()!r})"
    return {"step": step_id, "name": names[step_id], "outcome": "failed", "reason": reason, "seconds": None}
