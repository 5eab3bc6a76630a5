"""The keys of `report.json` on label scaling, domains, local labels and remedies."""

from __future__ import annotations

import dataclasses
from typing import Any

from wazuka.evaluate.domains import Gap
from wazuka.evaluate.intervals import Estimate
from wazuka.evaluate.label_scaling import LabelScaling, Ratio
from wazuka.evaluate.local_labels import LocalLabels
from wazuka.report.shift import Matrix, Shift
from wazuka.report.verdict import Bounds

DIGITS = 6


def label_scaling_json(shift: Shift) -> dict[str, Any]:
    """Strategy -> its shares of its own full-data score and of the baseline's."""
    return {
        own.strategy: {"own": _scaling(own), "baseline": None if other is None else _scaling(other)}
        for own, other in shift.scaling
    }


def domains_json(shift: Shift) -> dict[str, Any] | None:
    """Matrices, gaps, local labels and remedies; None where fewer than two domains were tested and no pair differs."""
    if not (shift.matrices or shift.local or shift.ablations):
        return None
    return {
        "rule": shift.rule,
        "strategies": {one.strategy: _matrix(one) for one in shift.matrices},
        "local_labels": [_local(one) for one in shift.local],
        "remedies": [
            {
                "remedy": one.remedy,
                "with": one.with_it,
                "without": one.without_it,
                "budget": one.budget,
                "labels": one.labels,
                "local_labels": one.local_labels,
                "overall": _bounds(one.overall),
                "in_domain": _bounds(one.inside),
                "out_of_domain": _bounds(one.outside),
                "n_patients": one.n_patients,
                "repeats": one.repeats,
            }
            for one in shift.ablations
        ],
    }


def _scaling(one: LabelScaling) -> dict[str, Any]:
    return {
        "reference": {
            "strategy": one.reference,
            "budget": one.reference_budget,
            "labels": round(one.reference_labels),
        },
        "chance": one.chance,
        "points": [
            {
                "budget": point.budget,
                "labels": round(point.labels),
                "share_of_labels": _short(point.share),
                "of_score": _ratio(point.ratio),
                "above_chance": _ratio(point.above_chance),
                "repeats": point.repeats,
                "n_patients": point.n_patients,
            }
            for point in one.points
        ],
        "reached": [
            {
                "level": reached.level,
                "shown_with": None
                if reached.budget is None
                else {
                    "budget": reached.budget,
                    "labels": round(reached.labels or 0),
                    "share_of_labels": _short(reached.share),
                },
                "labels": {
                    "estimate": reached.needed.estimate,
                    "low": reached.needed.low,
                    "high": reached.needed.high,
                    "more_than": reached.needed.more_than,
                    "at_most": reached.needed.already,
                },
            }
            for reached in one.reached
        ],
    }


def _matrix(one: Matrix) -> dict[str, Any]:
    summary = one.found.summary
    return {
        "budget": one.budget,
        "labels": one.labels,
        "cells": [
            {"trained": trained, "tested": tested, **_estimate(score)}
            for (trained, tested), score in sorted(one.found.cells.items())
        ],
        "in_domain": None if summary.in_domain is None else _estimate(summary.in_domain),
        "out_of_domain": None if summary.out_of_domain is None else _estimate(summary.out_of_domain),
        "gap": _gap(summary.gap),
        "hardest": summary.hardest,
        "hardest_gap": _gap(summary.hardest_gap),
    }


def _local(one: LocalLabels) -> dict[str, Any]:
    values = dataclasses.asdict(one)
    points = [{key: _short(value) for key, value in point.items()} for point in values.pop("points")]
    reference = {
        "estimate": _short(values.pop("reference")),
        "low": _short(values.pop("reference_low")),
        "high": _short(values.pop("reference_high")),
    }
    needed = {key: values.pop(old) for key, old in (("estimate", "needed"), ("low", "low"), ("high", "high"))}
    needed |= {"more_than": values.pop("more_than"), "already": values.pop("already")}
    values["target"] = values["target"] or None
    return values | {"reached": _short(one.reached), "in_domain": reference, "needed": needed, "points": points}


def _estimate(one: Estimate) -> dict[str, Any]:
    ends = {"estimate": _short(one.estimate), "low": _short(one.low), "high": _short(one.high)}
    return ends | {"n_patients": one.n_patients, "repeats": one.repeats}


def _gap(one: Gap | None) -> dict[str, Any] | None:
    if one is None:
        return None
    ends = {"estimate": _short(one.estimate), "low": _short(one.low), "high": _short(one.high)}
    return ends | {"minimum_detectable": _short(one.minimum_detectable), "n_patients": one.n_patients}


def _bounds(one: Bounds | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"estimate": _short(one.estimate), "low": _short(one.low), "high": _short(one.high)}


def _ratio(one: Ratio | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"estimate": _short(one.estimate), "low": _short(one.low), "high": _short(one.high)}


def _short(value: Any) -> Any:
    return round(value, DIGITS) if isinstance(value, float) else value
