"""What each step of a plan does. `run_step` runs one anywhere (this process, a Dask worker) and returns a status.

Steps exchange paths, never arrays. A step that is done is kept; one that fails leaves `failure.json` and raises nothing.
"""

from __future__ import annotations

import platform
import resource
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import wazuka
from wazuka import adapt, pretrain
from wazuka.core import threads
from wazuka.core.errors import OutOfSpace, WazukaError
from wazuka.core.records import RECORD, clear_unfinished, finish, out_of_space, read_table, write_json, write_table
from wazuka.nn import encoders
from wazuka.nn.cards import CARDS
from wazuka.nn.encoders import Encoder
from wazuka.study import provenance
from wazuka.study.context import Context, Settings, encoder_of, encoder_seen, features_of, open_run, pixels_of
from wazuka.study.fitted import save_fitted
from wazuka.study.plan import Step, is_complete, step_folder
from wazuka.study.rows import join_seen, pretraining_rows, rows_hash, seen_table
from wazuka.study.synthetic.steps import do_synthesize, do_synthetic
from wazuka.study.tasks import adapt_task
from wazuka.training.roles import PretrainTask, Runtime

PACKAGES = (
    "wazuka",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "onnxruntime",
    "pandas",
    "pillow",
)


def run_step(run: str, step_id: str, settings: Settings, *before: dict[str, Any]) -> dict[str, Any]:
    """Run one step and return its status; never raises, except when the user interrupts.

    Args:
        run: The run folder.
        step_id: Id of the step in the plan.
        settings: How to carry it out.
        before: Statuses of the steps it needs (Dask passes these, which makes the graph's arrows).

    Returns:
        `{step, name, outcome: done|kept|failed|no space, reason, seconds}`.
    """
    began = time.monotonic()
    status: dict[str, Any] = {"step": step_id, "name": step_id, "outcome": "done", "reason": None}
    folder: Path | None = None
    try:
        threads.limit(settings.threads)
        context = open_run(Path(run))
        step = context.plan.steps[step_id]
        status["name"] = step.name
        folder = step_folder(context.run, step)
        if is_complete(context.run, context.plan, step):
            return status | {"outcome": "kept", "seconds": 0.0}
        lost = [one for one in before if one["outcome"] == "failed" and one["step"] in step.needs]
        if lost:
            raise WazukaError(f"{lost[0]['name']} failed: {lost[0]['reason']}")
        if folder is not None:
            (folder / RECORD).unlink(missing_ok=True)
            clear_unfinished(folder)
        outcome = STEPS[step.kind](context, step, settings)
        if folder is not None:
            finish(folder, _record(context, step, settings, outcome, seconds=time.monotonic() - began))
        elif outcome == "kept":
            status["outcome"] = "kept"
    except OutOfSpace as error:
        status |= {"outcome": "no space", "reason": str(error)}
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            status |= {"outcome": "no space", "reason": str(out_of_space(Path(error.filename or run)))}
        else:
            status |= _failed(error, folder, step_id, run)
    except Exception as error:
        status |= _failed(error, folder, step_id, run)
    return status | {"seconds": round(time.monotonic() - began, 3)}


def _failed(error: Exception, folder: Path | None, step_id: str, run: str) -> dict[str, Any]:
    """Write `failure.json` for a step, so that its reason outlives the process, and return what the status says."""
    reason = str(error) if isinstance(error, WazukaError) else f"{type(error).__name__}: {error}"
    reason = textwrap.shorten(" ".join(reason.split()), 300, placeholder=" ...")
    text = "".join(traceback.format_exception(error)).replace(str(run), "RUN")
    if folder is not None:
        try:
            args = open_run(Path(run)).plan.steps[step_id].args
            where = {name: args[name] for name in ("strategy", "budget", "repeat", "train_domain") if name in args}
            write_json(folder / "failure.json", where | {"step": step_id, "reason": reason, "traceback": text})
        except (OSError, WazukaError) as second:
            reason = f"{reason} (and its failure.json could not be written: {second})"
    return {"outcome": "failed", "reason": reason}


def _record(context: Context, step: Step, settings: Settings, outcome: Any, *, seconds: float) -> dict[str, Any]:
    """The step's record: what it was, what went in, what it took; the step adds its own entries."""
    own = outcome if isinstance(outcome, dict) else {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
    return {
        "schema": 1,
        "step": step.kind,
        "key": step.key,
        "name": step.name,
        "inputs": list(step.needs),
        **own,
        "fingerprint": context.data.main.card.fingerprint,
        "salt": context.data.main.card.imported.get("salt"),
        "versions": versions(),
        "device": settings.device,
        "threads": settings.threads,
        "seconds": round(own.get("seconds", seconds), 3),
        "peak_memory_mb": round(max(peak, own.get("peak_memory_mb", 0.0)), 1),
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = wazuka.__version__ if name == "wazuka" else "absent"
    return found


def _do_pixels(context: Context, step: Step, settings: Settings) -> None:
    pixels_of(context, step.id, settings)


def _do_features(context: Context, step: Step, settings: Settings) -> None:
    features_of(context, step.id, settings)


def _do_encoder(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    folder = step_folder(context.run, step)
    assert folder is not None
    encoder = encoders.from_spec(step.args["backbone"])
    encoders.save_encoder(encoder, folder)
    _carry_seen(context, encoder, folder)
    card = CARDS.get(encoder.name)
    return {
        "backbone": encoder.name,
        "license": encoder.license,
        "commercial_use": encoder.commercial_use,
        "gated": None if card is None or encoder.weights == "none" else card.gated,
    }


def _carry_seen(context: Context, encoder: Encoder, folder: Path) -> None:
    """Take along what a backbone artifact has seen; patients only where their ids mean the same here."""
    seen_file = encoder.provenance()
    if seen_file is None:
        return
    seen = read_table(seen_file)
    if not provenance.comparable(seen_file, context.data):
        seen["patient_hash"] = ""
    write_table(folder / "seen.parquet", seen)


def _do_pretrain(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    """Pretrain on the training images of one split: the method is handed `Images`, which carry no label."""
    folder = step_folder(context.run, step)
    assert folder is not None
    strategy = context.study.strategy(step.args["strategy"])
    assert strategy.pretrain is not None
    group = context.splits[step.args["repeat"], step.args["train_domain"]]
    rows = pretraining_rows(context.data, group, train_domain=step.args["train_domain"])
    pixels = pixels_of(context, step.args["pixels"], settings)
    task = PretrainTask(
        name=step.key,
        images=pixels.images(rows["row"].to_numpy(np.int64)),
        encoder=encoder_of(context, step.args["encoder"]),
        seed=step.args["seed"],
        intensity=pixels.intensity,
        window=strategy.image.window,
    )
    method = pretrain.METHODS[strategy.pretrain.name]
    result = method.fit(task, config=strategy.pretrain.config, runtime=_runtime(folder, settings))
    encoder = encoders.save_encoder(result.encoder, folder, state=result.state)
    seen = join_seen(seen_table(rows, labeled=False), *encoder_seen(context, step.args["encoder"]))
    write_table(folder / "seen.parquet", seen)
    return {
        "config": {"method": strategy.pretrain.name, "config": strategy.pretrain.config},
        "backbone": encoder.name,
        "license": encoder.license,
        "commercial_use": encoder.commercial_use,
        "images": len(rows),
        "rows_hash": rows_hash(rows, labeled=False),
        "seed": step.args["seed"],
        "notes": result.notes,
        "curves": result.curves,
    }


def _do_adapt(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    """Solve all problems of a batched adapter at once; each trial reads its own from `tasks/INDEX`."""
    folder = step_folder(context.run, step)
    assert folder is not None
    strategy = context.study.strategy(step.args["strategy"])
    tasks = [adapt_task(context, one, settings) for one in step.args["tasks"]]
    method = adapt.METHODS[strategy.adapt.name]
    fitted = method(tasks, config=strategy.adapt.config, runtime=_runtime(folder, settings))
    for index, one in enumerate(fitted):
        save_fitted(
            context, one, folder / "tasks" / str(index), strategy=strategy, encoder=step.args["tasks"][index]["encoder"]
        )
    return {"config": {"method": method.name, "config": strategy.adapt.config}, "problems": len(tasks)}


def _do_trial(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    from wazuka.study.trial import run_trial

    folder = step_folder(context.run, step)
    assert folder is not None
    return run_trial(context, step, settings, folder)


def _do_audit(context: Context, step: Step, settings: Settings) -> dict[str, Any]:
    from wazuka.study.synthetic.audit import audit_generator

    folder = step_folder(context.run, step)
    assert folder is not None
    return audit_generator(context, step, settings, folder)


STEPS: dict[str, Callable[[Context, Step, Settings], Any]] = {
    "pixels": _do_pixels,
    "features": _do_features,
    "encoder": _do_encoder,
    "pretrain": _do_pretrain,
    "synthesize": do_synthesize,
    "synthetic": do_synthetic,
    "audit": _do_audit,
    "adapt": _do_adapt,
    "trial": _do_trial,
}


def _runtime(folder: Path, settings: Settings) -> Runtime:
    return Runtime(device=settings.device, threads=settings.threads, folder=folder)
