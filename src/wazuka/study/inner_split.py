"""The inner split where all labels are learned from: `final/`, `wazuka synthesize`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from wazuka.data import budgets, splits
from wazuka.study.data import StudyData


def inner_split(data: StudyData, rows: pd.DataFrame, seed: int) -> tuple[np.ndarray, bool]:
    """A patient-wise inner split of all labels, by the rule that budgets follow.

    All rows but the inner validation part of one ordinary draw; no row is kept as a test row.
    """
    table = splits.make_splits(
        rows.assign(is_test=False),
        test=splits.Test(kind="dataset"),
        repeats=1,
        redraw=False,
        seed=seed,
        task=data.task,
    )
    selection = budgets.select(table, budgets.parse("100%"), labels=data.labels)
    held = pd.Series(np.asarray(selection.is_val, bool), index=list(selection.ids))
    return held.loc[rows["id"]].to_numpy(bool), bool(selection.inner_split)
