"""The cross-domain matrix: models trained on each domain (or on all others) scored on every domain, with intervals.

Each-to-each studies test all models of a repeat on the same patients of a domain, so a column compares train domains on
equal terms; down the diagonal stand the in-domain scores. Leave-one-out studies give one row: "all other domains".
"""

from __future__ import annotations

from dataclasses import dataclass

from wazuka.evaluate.domains import DomainSummary, domain_summary
from wazuka.evaluate.intervals import Estimate, estimate
from wazuka.evaluate.panel import POOLED, Cell, Key, Panel

OTHERS = "not:"
"""`train_domain` of leave-one-out trials begins with it; alone it names their row."""


@dataclass(frozen=True, kw_only=True)
class CrossDomain:
    """A strategy's scores by train and test domain at one budget.

    Attributes:
        trained: Rows: train domains; `not:` for models trained on all domains but the tested one; `all` in pooled
            studies, whose domains are parts of one test.
        tested: Columns: the tested domains.
        cells: (trained, tested) -> mean over repeats with its interval; pairs without a defined score are absent.
        summary: In-domain, out-of-domain, gap and hardest target (`domains.domain_summary`).
    """

    trained: tuple[str, ...]
    tested: tuple[str, ...]
    cells: dict[tuple[str, str], Estimate]
    summary: DomainSummary


def cross_domain(panel: Panel, key: Key, *, metric: str, class_: str = "") -> CrossDomain:
    """Make the matrix of a strategy at a budget.

    Args:
        panel: The study's trials.
        key: Strategy and budget.
        metric: A metric's name.
        class_: One class, or "" for the overall score.

    Raises:
        ConfigError: If there is no such key.
    """
    panel.require(key)
    cells = [cell for cell in panel.scores[key] if cell.part != POOLED]
    found: dict[tuple[str, str], Estimate] = {}
    for place in sorted({(_row(cell), cell.part) for cell in cells}):
        one = estimate(
            panel,
            key,
            metric=metric,
            class_=class_,
            cells=lambda cell, place=place: (_row(cell), cell.part) == place,  # type: ignore[misc]
        )
        if one.estimate is not None:
            found[place] = one
    return CrossDomain(
        trained=tuple(sorted({_row(cell) for cell in cells})),
        tested=tuple(sorted({cell.part for cell in cells})),
        cells=found,
        summary=domain_summary(panel, key, metric=metric, class_=class_),
    )


def _row(cell: Cell) -> str:
    """The matrix row of a part; all leave-one-out models share one."""
    return OTHERS if cell.train_domain.startswith(OTHERS) else cell.train_domain
