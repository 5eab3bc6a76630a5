"""What several commands share: fix the threads before anything heavy is imported, run a study to its report."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wazuka.core import threads
from wazuka.core.errors import ConfigError, unknown_name
from wazuka.core.places import cache_folder

if TYPE_CHECKING:
    from wazuka.study.config import Study
    from wazuka.study.context import Settings

DEVICES = ("auto", "cpu", "cuda")


def fix_threads(count: int) -> None:
    """Hold this process to `count` computing threads; before NumPy and torch are imported this is exact."""
    threads.limit(count)
    if "numpy" not in sys.modules:
        os.environ["WAZUKA_THREADS_FIXED"] = "1"


def settings(*, device: str, cache: Path | None, computing_threads: int) -> Settings:
    """Resolve how a command is carried out on this machine."""
    from wazuka.study.context import Settings

    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES, where="--device")
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda is asked for, but torch sees no CUDA device; use --device cpu or auto.")
    chosen = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
    if chosen == "cpu":
        torch.use_deterministic_algorithms(True)
    cores = len(os.sched_getaffinity(0))
    return Settings(cache=str(cache_folder(cache)), device=chosen, threads=computing_threads, workers=cores)


def complete(
    study: Study,
    *,
    out: Path,
    how: Settings,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
) -> int:
    """Run a study, refit the strategy the verdicts choose, write the report; return the exit code."""
    from wazuka.core.progress import say
    from wazuka.report.build import judge, write_report
    from wazuka.study.final import make_final
    from wazuka.study.run import locked, run_study

    outcome = run_study(study, out=out, settings=how, workers=workers, scheduler=scheduler, overwrite=overwrite)
    trials = outcome.done + outcome.kept
    if trials == 0:
        reasons = "; ".join(sorted({reason for _, reason in outcome.failures}))
        say(f"All {outcome.failed} trials failed: {reasons}")
        return 1
    with locked(out):
        judgement = judge(out)
        make_final(out, strategy=judgement.final_strategy, reason=judgement.final_reason, settings=how)
        page = write_report(out)
    kept = f" ({outcome.kept} were there already)" if outcome.kept else ""
    say(f"{trials} trials{kept}, {outcome.failed} failed. {judgement.headline}")
    print(f"Report: {page}")
    print(f"Model:  {out / 'final'}")
    return 1 if outcome.failed else 0
