"""Fixtures for the whole suite: the real data beside the checkout, an isolated cache and configuration folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from wazuka.core import threads

settings.register_profile("fixed", derandomize=True, deadline=None)
"""The same examples in every run; `WAZUKA_FUZZ=1 make test` draws new ones."""
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile("fuzz" if os.environ.get("WAZUKA_FUZZ") else "fixed")

os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported
threads.limit(
    1
)  # before NumPy and torch are imported: small work is fastest on one thread, and two test processes share


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; the test is skipped where it is absent (as in most checkouts)."""
    folder = Path(os.environ.get("WAZUKA_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder}")
    return folder


@pytest.fixture(autouse=True)
def isolated_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own cache, configuration or hub folders."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("WAZUKA_CACHE", str(base / "cache"))
    monkeypatch.setenv("WAZUKA_CONFIG", str(base / "config"))
    monkeypatch.setenv("HF_HOME", str(base / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
