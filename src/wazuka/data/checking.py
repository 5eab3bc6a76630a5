"""Check many files in parallel processes (`wazuka import`), so that a file that kills its reader does not kill the import.

Jobs go out in small batches, a few at a time. When a process dies, the batches that were out are repeated file by file in
a process of their own; the file on which that one dies too is answered with the reason, and the rest goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from wazuka.core import threads
from wazuka.core.progress import say
from wazuka.data.inspect import Checked, Job, check_file, unreadable

DIED = "the process that read it died (crash of the reader or out of memory)"
BATCH = 16
"""Most files that are sent to a process at once."""
FILES_WORTH_A_PROCESS = 48
"""A process takes a second or two to start: fewer files than this for each are read faster without it."""

Check = Callable[[Job], Checked]


def check_all(jobs: Sequence[Job], *, workers: int | None = None, check: Check = check_file) -> Iterator[Checked]:
    """Check every job; answers come in any order, one per job.

    Args:
        jobs: What to check.
        workers: Processes; None: as many as this process may use cores and the number of files is worth; 1: in this
            process, where a reader that crashes takes the import with it.
        check: What is done with each job; a module's own function.
    """
    if workers is None:
        workers = max(1, min(threads.allowed(), len(jobs) // FILES_WORTH_A_PROCESS))
    if workers == 1 or not jobs:
        yield from map(check, jobs)
        return
    size = max(1, min(BATCH, len(jobs) // (workers * 4)))
    batches = deque(list(jobs[start : start + size]) for start in range(0, len(jobs), size))
    pool: ProcessPoolExecutor | None = _first_pool(workers)
    if pool is None:
        say("Worker processes cannot start here; the files are checked in this process.")
        yield from map(check, jobs)
        return
    while batches:
        suspects: list[list[Job]] = []
        yield from _run(pool or _pool(workers), batches, workers=workers, suspects=suspects, check=check)
        pool = None
        yield from _run_alone(suspects, check)


def _run(
    pool: ProcessPoolExecutor, batches: deque[list[Job]], *, workers: int, suspects: list[list[Job]], check: Check
) -> Iterator[Checked]:
    """Work until the batches are done or a process dies; then `suspects` are the batches that were out."""
    out: dict[Future[list[Checked]], list[Job]] = {}
    try:
        while batches or out:
            while batches and len(out) < 2 * workers:
                out[pool.submit(_check_batch, batches[0], check)] = batches[0]
                batches.popleft()
            for future in wait(out, return_when=FIRST_COMPLETED).done:
                answers = future.result()
                del out[future]
                yield from answers
    except BrokenProcessPool:
        suspects += out.values()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_alone(batches: list[list[Job]], check: Check) -> Iterator[Checked]:
    """Check batches one after the other in one process; if it dies, the files of that batch each, in a fresh one."""
    waiting = deque(batches)
    while waiting:
        pool = _pool(1)
        try:
            while waiting:
                answers = pool.submit(_check_batch, waiting[0], check).result()
                waiting.popleft()
                yield from answers
        except BrokenProcessPool:
            batch = waiting.popleft()
            if len(batch) == 1:
                size = Path(batch[0].path).stat().st_size if Path(batch[0].path).exists() else 0
                yield Checked(number=batch[0].number, error=DIED, rows=[unreadable(DIED, size)])
            else:
                waiting.extendleft([job] for job in reversed(batch))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    """Fresh interpreters: a fork would copy the threads and locks of whatever is loaded here."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare)


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends these
    threads.limit(1)


def _check_batch(jobs: list[Job], check: Check) -> list[Checked]:
    return [check(job) for job in jobs]


def _first_pool(workers: int) -> ProcessPoolExecutor | None:
    """A pool that is known to work, or None where this program cannot start a fresh interpreter (a script that was read
    from standard input, or one that has no `if __name__ == "__main__"`)."""
    pool = _pool(workers)
    try:
        pool.submit(os.getpid).result()
    except (BrokenProcessPool, OSError):
        pool.shutdown(wait=True)
        return None
    return pool
