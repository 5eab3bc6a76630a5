"""Errors that a user can mend. Each is one line: what is wrong with its value, then what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WazukaError(Exception):
    """A mistake in use or input; the command line prints it as one line and exits with 2."""

    exit_code = 2


class ConfigError(WazukaError):
    """A study file, option or setting is wrong."""


class DataError(WazukaError):
    """A dataset, table, image or mask is wrong."""


class ArtifactError(WazukaError):
    """A run folder, model or weights file is wrong or does not fit."""


class NotEnoughData(DataError):
    """The data cannot carry what was asked; the message names the smallest possible request."""


class OutOfSpace(WazukaError):
    """The disk has no room left."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest in spelling to `name`, or None if none is close.

    >>> nearest("lamb", ["lam", "rank"])
    'lam'
    """
    lowered = {str(one).lower(): str(one) for one in known}
    found = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.5)
    return lowered[found[0]] if found else None


def unknown_name(what: str, name: str, known: Iterable[str], *, where: str = "") -> ConfigError:
    """Build the error for a name that is not among `known`, offering the nearest one.

    >>> print(unknown_name("setting", "lamb", ["lam", "rank"], where="Config"))
    Unknown setting `lamb` in Config. Did you mean `lam`? Known: `lam`, `rank`.
    """
    known = [str(one) for one in known]
    close = nearest(name, known)
    hint = f" Did you mean `{close}`?" if close else ""
    listed = ", ".join(f"`{one}`" for one in known) if known else "none"
    place = f" in {where}" if where else ""
    return ConfigError(f"Unknown {what} `{name}`{place}.{hint} Known: {listed}.")
