"""`wazuka check`: the coded checks on a dataset's tables, and the leakage certificate measured on its pixels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wazuka import audit
from wazuka.core.places import cache_folder
from wazuka.data.manifest import Dataset


@dataclass(frozen=True)
class Checked:
    """Results of the checks, in the form of `check --json`, and the leakage certificate (None if not measured)."""

    checks: list[dict[str, Any]]
    leakage: dict[str, Any] | None

    @property
    def has_issue(self) -> bool:
        """Whether any check has the outcome `issue`."""
        return any(one["outcome"] == "issue" for one in self.checks)


def tables_of(dataset: Dataset) -> audit.Tables:
    """The tables that the checks judge."""
    card = dataclasses.asdict(dataset.card)
    return audit.Tables(card=card, manifest=dataset.manifest, inspection=dataset.inspection)


def check_dataset(dataset: Dataset, *, leakage: bool = True, cache: Path | None = None, threads: int = 2) -> Checked:
    """Run every check on a dataset.

    Args:
        dataset: A loaded dataset.
        leakage: Whether to measure the inflation of a naive split too (needs pixels and a small network; about a
            minute for two thousand images).
        cache: Cache folder for these pixels.
        threads: Threads and decoding processes to use.
    """
    tables = tables_of(dataset)
    found = [dataclasses.asdict(one) for one in audit.run_checks(tables)]
    certificate = None
    if leakage:
        from wazuka.study.leakage import certify

        certificate = certify(dataset, tables, cache=cache_folder(cache), threads=threads)
    return Checked(found, certificate)
