"""Judge a run: estimates, comparisons, gates, costs, verdicts and the proposed next stage, from its folder alone.

    judgement = judge(Path("runs/mitosis"))
    strategy, reason = judgement.final_choice

Used by `wazuka poc` and `wazuka run` to choose what `final/` is made of, and by `wazuka report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from wazuka.report.audits import generator_seconds, memorization
from wazuka.report.costs import Cost, Prices, Work, is_cheaper, make_ledger
from wazuka.report.estimates import Cell, Estimates, measure
from wazuka.report.gates import AFTER_THE_TRIALS, Measured, judge_gates
from wazuka.report.next_stage import Judged, Needed, NextStage, propose
from wazuka.report.run_folder import RunFolder, read_run, total_seconds
from wazuka.report.synthetic import recipe_of
from wazuka.report.texts import Reason, say
from wazuka.report.verdict import Decision, Evidence, Gate, decide


@dataclass(frozen=True, kw_only=True)
class Row:
    """One strategy at one budget, judged."""

    cell: Cell
    is_baseline: bool
    gates: tuple[Gate, ...]
    cost: Cost
    decision: Decision

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return self.cell.strategy

    @property
    def budget(self) -> str:
        """Budget as written in the study."""
        return self.cell.budget


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All that a report says about a run."""

    run: RunFolder
    estimates: Estimates
    rows: tuple[Row, ...]
    next_stage: NextStage

    @property
    def adopted(self) -> Row | None:
        """The row to act on: the adopted one with the most labels, then with the largest difference; None if none is."""
        return _best([row for row in self.rows if row.decision.verdict == "adopt"])

    @property
    def waiting(self) -> Row | None:
        """The best row that only waits for a gate that is measured on the refitted model."""
        return _best(
            [
                row
                for row in self.rows
                if row.decision.waits_for and {gate.name for gate in row.decision.waits_for} <= set(AFTER_THE_TRIALS)
            ]
        )

    @property
    def final_choice(self) -> tuple[str, Reason]:
        """The strategy that `final/` is made of, and why: the adopted, else one that only waits for it, else the baseline."""
        if self.adopted is not None:
            return self.adopted.strategy, Reason("final.adopted")
        if self.waiting is not None:
            gates = [gate.title for gate in self.waiting.decision.waits_for]
            return self.waiting.strategy, Reason("final.waits", {"gates": gates})
        return self.run.baseline, Reason("final.baseline")

    @property
    def final_strategy(self) -> str:
        """The strategy that `final/` is made of."""
        return self.final_choice[0]

    @property
    def final_reason(self) -> str:
        """Why this one, in English."""
        return say(self.final_choice[1], lang="en")

    @property
    def headline(self) -> str:
        """The answer in one line of English."""
        return say(headline(self), lang="en")

    def row(self, strategy: str, budget: str) -> Row | None:
        """Return the row of a strategy and budget, if it has results."""
        return next((row for row in self.rows if row.strategy == strategy and row.budget == budget), None)

    def largest(self, strategy: str) -> Row | None:
        """The strategy's row with the most labels."""
        own = [row for row in self.rows if row.strategy == strategy]
        return max(own, key=lambda row: row.cell.labels) if own else None

    @property
    def shown(self) -> Row:
        """The row whose details a reader wants first: the adopted one, else the baseline (or what there is) with most labels."""
        found = self.adopted or self.waiting or self.largest(self.run.baseline) or self.largest(self.rows[0].strategy)
        assert found is not None
        return found


def judge(run: Path) -> Judgement:
    """Judge a run folder.

    Args:
        run: The run folder; `final/` may be missing.

    Raises:
        ArtifactError: If it is no run folder or has no finished trial.
    """
    folder = read_run(run)
    estimates = measure(folder)
    prices = Prices.read(folder.study.get("costs"))
    works = {key: _work(folder, cell) for key, cell in estimates.cells.items()}
    compared = len({cell.strategy for cell in estimates.cells.values()})
    rows = []
    for key, cell in estimates.cells.items():
        is_baseline = cell.strategy == folder.baseline
        base = works.get((folder.baseline, cell.budget))
        gates = judge_gates(folder.study.get("gates") or {}, _measured(folder, estimates, cell))
        evidence = Evidence(
            is_baseline=is_baseline,
            strategies=compared,
            difference=cell.difference,
            larger=cell.larger,
            margin=folder.margin,
            cheaper=not is_baseline and base is not None and is_cheaper(works[key], base),
            gates=gates,
            blocking=_blocking(folder, cell.strategy, cell.budget),
            **_domains(folder, estimates, cell),
        )
        cost = make_ledger(works[key], prices)
        rows.append(Row(cell=cell, is_baseline=is_baseline, gates=gates, cost=cost, decision=decide(evidence)))
    return Judgement(run=folder, estimates=estimates, rows=tuple(rows), next_stage=_next(folder, estimates, rows))


def headline(judgement: Judgement) -> Reason:
    """Return the answer in one line."""
    baseline = judgement.run.baseline
    if len({row.strategy for row in judgement.rows}) < 2:
        return Reason("answer.single", {"name": judgement.rows[0].strategy})
    if judgement.adopted is not None:
        return Reason("answer.adopt", {"name": judgement.adopted.strategy})
    if judgement.waiting is not None:
        gates = [gate.title for gate in judgement.waiting.decision.waits_for]
        return Reason("answer.waits", {"name": judgement.waiting.strategy, "gates": gates})
    rivals = [row for row in judgement.rows if not row.is_baseline]
    if all(row.decision.verdict == "do not adopt" for row in rivals):
        return Reason("answer.keep", {"name": baseline})
    return Reason("answer.open", {"name": baseline})


def _best(rows: Sequence[Row]) -> Row | None:
    def worth(row: Row) -> tuple[int, float]:
        return row.cell.labels, row.cell.difference.estimate if row.cell.difference else float("-inf")

    return max(rows, key=worth) if rows else None


def _domains(folder: RunFolder, estimates: Estimates, cell: Cell) -> dict[str, tuple[str, ...]]:
    """Split the tested domains into those where the strategy is not worse than the baseline by the margin, and the rest."""
    held = [name for name, one in cell.domain_differences.items() if one.estimate > -folder.margin]
    if not cell.domain_differences:
        return {"holds_for": tuple(estimates.domains), "not_for": ()}
    return {"holds_for": tuple(held), "not_for": tuple(one for one in cell.domain_differences if one not in held)}


def _work(folder: RunFolder, cell: Cell) -> Work:
    """What one model of this cell took: its trials' mean time, plus its share of what they were made from."""
    records = [one.record for one in folder.trials_of(cell.strategy, cell.budget)]
    seconds = [one for one in (_seconds(folder, record) for record in records) if one is not None]
    energy = [float(one["energy_kwh"]) for one in records if one.get("energy_kwh") is not None]
    return Work(
        labels=cell.labels,
        machine_seconds=fmean(seconds) if seconds else None,
        on_gpu=any(str(one.get("device", "")).startswith("cuda") for one in records),
        energy_kwh=fmean(energy) if energy else None,
        sensitivity=cell.sensitivity,
        specificity=cell.specificity,
        prevalence=prevalence(folder),
        labels_saved=None if cell.labels_saved is None else cell.labels_saved.estimate,
    )


def _seconds(folder: RunFolder, record: dict[str, Any]) -> float | None:
    """Time of a trial and of its inputs; a batched solve counts with its share per problem, a generator whole."""
    own = total_seconds(record)
    if own is None:
        return None
    for name in record.get("inputs", []):
        step = folder.steps.get(str(name))
        if step is not None and step.get("step") != "synthetic":
            own += (total_seconds(step) or 0.0) / max(int(step.get("problems") or 1), 1)
    return own + sum(total_seconds(step) or 0.0 for step in generator_seconds(folder, record))


def prevalence(folder: RunFolder) -> float | None:
    """Share of the positive class among the labeled images; None with more than two classes."""
    counted = folder.data.get("counts", {}).get("classes") or {}
    total = sum(one["images"] for one in counted.values())
    if folder.positive is None or not total:
        return None
    return counted[folder.positive]["images"] / total


def _measured(folder: RunFolder, estimates: Estimates, cell: Cell) -> Measured:
    """What the gates look at."""
    return Measured(
        classes=len(folder.classes),
        sensitivity=cell.sensitivity,
        domains=len(estimates.domains),
        domain_gap=cell.domain_gap,
        subgroup_gap=cell.subgroup_gap,
        generates=recipe_of(folder.study["strategies"][cell.strategy] or {}).train_on != "real",
        memorization=memorization(folder, cell.strategy, cell.budget),
        milliseconds=_latency(folder, cell.strategy),
        memory_gb=_memory(folder, cell.strategy),
    )


def _latency(folder: RunFolder, strategy: str) -> float | None:
    """95th percentile of the time for one image: on the refitted model, else the slowest of the strategy's trials."""
    records = [one.record for one in folder.trials if one.strategy == strategy and one.local_labels == 0]
    found = [one["latency_ms"]["p95"] for one in records if one.get("latency_ms")]
    if folder.final is not None and folder.final.get("strategy") == strategy and folder.final.get("latency_ms"):
        return float(folder.final["latency_ms"]["p95"])
    return float(max(found)) if found else None


def _memory(folder: RunFolder, strategy: str) -> float | None:
    """Peak memory while predicting, in GB: of the refitted model, else the largest of the strategy's trials."""
    records = [one.record for one in folder.trials if one.strategy == strategy and one.local_labels == 0]
    found = [float(one["memory_mb"]) for one in records if one.get("memory_mb")]
    if folder.final is not None and folder.final.get("strategy") == strategy and folder.final.get("memory_mb"):
        found = [float(folder.final["memory_mb"])]
    return max(found) * 2**20 / 1e9 if found else None


def _blocking(folder: RunFolder, strategy: str, budget: str) -> tuple[str, ...]:
    """Audits that block a strategy whether or not a gate asks for them: images that copy training images."""
    if (folder.study.get("gates") or {}).get("memorization") == "waived":
        return ()
    return ("memorization",) if memorization(folder, strategy, budget) == "issue" else ()


def _next(folder: RunFolder, estimates: Estimates, rows: Sequence[Row]) -> NextStage:
    judged = [
        Judged(
            strategy=row.strategy,
            is_baseline=row.is_baseline,
            budget=row.budget,
            labels=row.cell.labels,
            repeats=row.cell.repeats,
            n_patients=row.cell.n_patients,
            score=row.cell.score,
            difference=row.cell.difference,
            verdict=row.decision.verdict,
        )
        for row in rows
    ]
    needed = None
    if estimates.soonest is not None and estimates.soonest[1].estimate is not None:
        strategy, count = estimates.soonest
        needed = Needed(strategy, count.estimate or 0, count.reason())
    return propose(
        judged,
        margin=folder.margin,
        target=folder.target,
        labels_for_target=needed,
        higher_is_better=estimates.higher_is_better,
    )
