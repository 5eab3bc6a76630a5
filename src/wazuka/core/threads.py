"""Threads per process, fixed before NumPy and torch are imported, so that the same study gives the same bytes."""

from __future__ import annotations

import os
import sys

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(threads: int) -> dict[str, str]:
    """Environment variables that hold a process to `threads` computing threads.

    Threads that wait for each other sleep instead of spinning, unless the user has said otherwise: on a machine that
    is busy with other work, spinning threads hold up the very thread they wait for (measured: two to five times slower).
    """
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return dict.fromkeys(VARIABLES, str(threads)) | {"WAZUKA_THREADS": str(threads), "OMP_WAIT_POLICY": policy}


def limit(threads: int) -> None:
    """Hold this process to `threads` computing threads, also where NumPy or torch are loaded already."""
    os.environ.update(environment(threads))
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def allowed() -> int:
    """Threads that this process may use: what `limit` set, else the machine's cores."""
    return int(os.environ.get("WAZUKA_THREADS", 0)) or len(os.sched_getaffinity(0))
