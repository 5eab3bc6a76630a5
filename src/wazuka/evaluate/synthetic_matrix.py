"""Scores on synthetic test images, and paired differences on real ones, for the real/synthetic matrix.

A panel leaves the parts named `synthetic` out, since their images belong to no patient. Here each synthetic image is a
patient of its own, and since every repeat has its own generator, the images of two repeats are different ones even where
class and seed agree: the crossed bootstrap then draws images and repeats. It says how the score would vary with other
images and other labels, generators trained anew included (one per repeat), not how it would on real patients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from wazuka.core.errors import DataError
from wazuka.evaluate.panel import POOLED, SYNTHETIC, Key, Panel, Trial
from wazuka.evaluate.resampling import interval


def synthetic_panel(
    trials: Sequence[Trial], *, classes: Sequence[str], positive: str | None, draws: int = 2000, seed: int = 0
) -> Panel | None:
    """Put the synthetic test images of one strategy at one budget into a panel of their own, for `intervals.estimate`.

    Args:
        trials: Its trials; those without synthetic test images are left out.
        classes, positive, draws, seed: As in `Panel`.

    Returns:
        None if no trial was tested on synthetic images.

    Raises:
        DataError: If the trials are of more than one strategy and budget: these may have been tested on images of
            different generators, which cannot be paired.
    """
    keys = sorted({(one.strategy, one.budget, one.local_labels) for one in trials})
    if len(keys) > 1:
        raise DataError(
            f"The trials are of {len(keys)} strategies and budgets, first {keys[0]} and {keys[1]}; give those of one."
        )
    own = []
    for trial in trials:
        rows = trial.predictions[trial.predictions["test_domain"] == SYNTHETIC]
        if len(rows):
            where = f"{trial.repeat}/{trial.train_domain}/"
            table = rows.assign(patient=[where + str(one) for one in rows["id"]], test_domain=POOLED, domain=None)
            own.append(dataclasses.replace(trial, predictions=table.reset_index(drop=True)))
    return Panel(own, classes=classes, positive=positive, draws=draws, seed=seed) if own else None


@dataclass(frozen=True, kw_only=True)
class AdjustedDifference:
    """First less second on real test patients, in the metric's own direction; bounds are None with too few draws.

    Attributes:
        estimate, low, high: Mean over the common repeats with its 95 % crossed-bootstrap interval.
        adjusted_low, adjusted_high: Interval at two-sided level 1 - 0.05 / `comparisons` (Bonferroni).
        comparisons: How many differences are looked at together.
        n_patients, repeats: In common.
    """

    estimate: float
    low: float | None
    high: float | None
    adjusted_low: float | None
    adjusted_high: float | None
    comparisons: int
    n_patients: int
    repeats: int


def adjusted_difference(
    panel: Panel, first: Key, second: Key, *, metric: str, class_: str = "", comparisons: int = 1
) -> AdjustedDifference | None:
    """Paired difference of two keys over the headline parts and repeats that both have; None with none in common.

    Args:
        panel: The study's trials.
        first, second: Strategies at budgets.
        metric: A metric's name.
        class_: One class, or "" for the overall score.
        comparisons: Differences looked at together, at least 1: the best of many is good by chance.

    Raises:
        ConfigError: If the panel lacks a key.
        DataError: If `comparisons` is below 1.
    """
    if comparisons < 1:
        raise DataError(f"`comparisons` is {comparisons}; give the number of differences looked at, 1 or more.")
    found = panel.over_repeats([first, second], metric=metric, class_=class_)
    if not found.repeats:
        return None
    point, drawn = panel.over_draws(found.values[0] - found.values[1], found.repeats)
    low, high = interval(drawn)
    wide_low, wide_high = interval(drawn, level=1 - 0.05 / comparisons)
    return AdjustedDifference(
        estimate=point,
        low=low,
        high=high,
        adjusted_low=wide_low,
        adjusted_high=wide_high,
        comparisons=comparisons,
        n_patients=found.n_patients,
        repeats=len(found.repeats),
    )
