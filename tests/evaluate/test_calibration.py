"""The reliability table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wazuka.evaluate.calibration import reliability
from wazuka.evaluate.panel import Key, Panel

CLASSES = {"classes": ("no", "yes"), "positive": "yes"}


def test_bins_hold_the_images_of_their_probability(make_study):
    trials = make_study(np.random.default_rng(0), strategies={"a": (2.0,)}, repeats=2, patients=60)
    found = reliability(Panel(trials, **CLASSES, draws=200), Key("a", "50"), bins=5)
    rows = pd.concat([one.predictions for one in trials])
    for one in found:
        inside = rows[(rows["p_yes"] >= one.start) & (rows["p_yes"] < one.stop)]
        assert one.predicted == pytest.approx(inside["p_yes"].mean())
        assert one.observed == pytest.approx((inside["label"] == "yes").mean())
        assert one.n_images == inside["id"].nunique()
        assert one.n_patients == inside["patient"].nunique()
        assert one.low <= one.observed <= one.high
    assert sum(len(rows[(rows["p_yes"] >= one.start) & (rows["p_yes"] < one.stop)]) for one in found) == len(rows)


def test_the_interval_of_a_bin_covers_a_calibrated_probability(make_table):
    from wazuka.evaluate.panel import Trial

    rng = np.random.default_rng(0)
    prob = rng.uniform(0.02, 0.98, 3000)
    labels = (rng.random(3000) < prob).astype(int)
    table = make_table(np.log(prob / (1 - prob)), labels, np.arange(3000))
    panel = Panel([Trial(strategy="a", budget="10", labels=10, repeat=0, predictions=table)], **CLASSES, draws=200)
    covered = [one.low <= one.predicted <= one.high for one in reliability(panel, Key("a", "10"))]
    assert np.mean(covered) >= 0.8
