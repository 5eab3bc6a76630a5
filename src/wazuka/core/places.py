"""Where things live on the user's machine: the cache, added weights, the salt."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder(given: Path | None = None) -> Path:
    """Return the cache folder: `--cache DIR`, else `$WAZUKA_CACHE`, else the user's cache folder."""
    if given is not None:
        return Path(given).expanduser().resolve()
    named = os.environ.get("WAZUKA_CACHE")
    return Path(named).expanduser().resolve() if named else Path(platformdirs.user_cache_dir("wazuka"))


def config_folder() -> Path:
    """Return the user's configuration folder (`$WAZUKA_CONFIG`, else the system's): salt and added weights live here."""
    named = os.environ.get("WAZUKA_CONFIG")
    return Path(named).expanduser().resolve() if named else Path(platformdirs.user_config_dir("wazuka"))
