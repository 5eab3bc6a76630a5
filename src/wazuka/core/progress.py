"""Progress of long work: a bar on a terminal, one line a step elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and show how far the work is.

    On a terminal a bar with the time left; else a line on stderr every ten seconds, so that a log stays readable.
    """
    if total is None:
        total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, description=what, total=total, console=Console(stderr=True), transient=True)
        return
    began = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said = now
            of = f" of {total}" if total else ""
            print(f"{what}: {done}{of} ({now - began:.0f} s)", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print one line of status on stderr at once."""
    print(text, file=sys.stderr, flush=True)
