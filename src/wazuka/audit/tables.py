"""What a check is given (`Tables`) and what it gives back (`CheckResult`); six outcomes, never "passed" without evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

Outcome = Literal["passed", "warning", "issue", "not applicable", "skipped", "ignored"]
STAND_INS = ("image", "volume", "study")
"""Sources of `patient` that stand in for a patient nobody told."""
OUTCOMES: tuple[str, ...] = get_args(Outcome)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """One line of `wazuka check`; its fields are the keys of `check --json`.

    Attributes:
        code: Stable name for scripts and the docs (`WZ101`).
        name: What is looked for.
        outcome: `issue`: results would mislead; `warning`: look at it; `not applicable`: there is no evidence to judge.
        count: How many images (or classes, domains, patients: see the check) are concerned; None where not judged.
        threshold: The rule with its numbers.
        reason: One sentence with what was found, or why nothing could be.
        ids: All that `count` counts, sorted.
    """

    code: str
    name: str
    outcome: Outcome
    count: int | None
    threshold: str
    reason: str
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rule:
    """A check's code, name and threshold text; builds its results.

    Attributes:
        code: Of the check.
        name: Of the check.
        threshold: The rule with its numbers filled in.
    """

    code: str
    name: str
    threshold: str

    def result(
        self, outcome: Outcome, reason: str, *, ids: Iterable[str] | None = None, count: int | None = None
    ) -> CheckResult:
        """Build a result; `ids` None means that nothing was judged, `count` stands where the ids would be all."""
        named = None if ids is None else sorted(str(one) for one in ids)
        if count is None and named is not None:
            count = len(named)
        return CheckResult(
            code=self.code,
            name=self.name,
            outcome=outcome,
            count=count,
            threshold=self.threshold,
            reason=reason,
            ids=named or [],
        )

    def passed(self, reason: str) -> CheckResult:
        """There was evidence, and nothing was found in it."""
        return self.result("passed", reason, ids=())

    def not_applicable(self, reason: str) -> CheckResult:
        """There is nothing to judge from."""
        return self.result("not applicable", reason)


@dataclass(frozen=True)
class Tables:
    """A dataset as tables; no image is opened.

    Attributes:
        card: `dataset.yaml` as a mapping.
        manifest: Rows as in `data.manifest.COLUMNS` plus attribute columns.
        inspection: What the import measured, one row per manifest row, matched by `id`; None where there is none.
    """

    card: Mapping[str, Any]
    manifest: pd.DataFrame
    inspection: pd.DataFrame | None = None
    found: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What one check found and another needs again (the search for copies)."""

    @cached_property
    def usable(self) -> pd.DataFrame:
        """Rows that are not quarantined, index 0..n-1."""
        return self.manifest[(self.manifest["status"] == "ok").to_numpy(dtype=bool)].reset_index(drop=True)

    @cached_property
    def _place(self) -> np.ndarray:
        """Row of the inspection table for each manifest row."""
        assert self.inspection is not None
        ids = self.inspection["id"]
        if len(ids) == len(self.manifest) and (ids.to_numpy() == self.manifest["id"].to_numpy()).all():
            return np.arange(len(ids))
        place = pd.Index(ids).get_indexer(pd.Index(self.manifest["id"]))
        assert (place >= 0).all(), "every manifest row has its row in inspection.parquet"
        return place

    def measured(self, column: str, *, usable: bool = True) -> pd.Series | None:
        """One column of the inspection, index 0..n-1, for the usable rows or for all; None where it was not measured."""
        if self.inspection is None or column not in self.inspection:
            return None
        values = self.inspection[column].iloc[self._place]
        if usable:
            values = values[(self.manifest["status"] == "ok").to_numpy(dtype=bool)]
        return values.reset_index(drop=True)

    @property
    def another_patient(self) -> str:
        """What a sentence calls another patient, with the caveat where none is known."""
        source = self.card.get("patient_source") or "image"
        return f"another patient (each {source} counts as one)" if source in STAND_INS else "another patient"

    @cached_property
    def in_volume(self) -> np.ndarray:
        """Which usable rows are slices of a volume, bool (n,)."""
        if "volume" not in self.usable:
            return np.zeros(len(self.usable), dtype=bool)
        return self.usable["volume"].notna().to_numpy(dtype=bool)


NOT_MEASURED = "the dataset has no inspection.parquet with the column `{}`; import it again"


def some(names: Iterable[str], shown: int = 3) -> str:
    """List the first few names for a sentence."""
    listed = sorted(str(one) for one in names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(f"`{one}`" for one in listed[:shown]) + more
