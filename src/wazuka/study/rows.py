"""Rows cut out for each role: what a trial learns from and is tested on, what a pretrainer or a generator may see."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wazuka.core.errors import NotEnoughData
from wazuka.core.hashing import hash_strings
from wazuka.data import budgets
from wazuka.study.data import StudyData


@dataclass(frozen=True, kw_only=True)
class TrialRows:
    """The rows of one trial: what it may learn from and what it is tested on."""

    labeled: pd.DataFrame
    is_val: np.ndarray
    inner_split: bool
    test: pd.DataFrame
    """Test rows with a label, with the column `test_domain`."""
    unlabeled: pd.DataFrame
    """The trial's other training rows (role train, never val or test), of its own train domains."""

    def counts(self, data: StudyData, *, of_test: bool = False) -> np.ndarray:
        """Labeled (or test) rows of each class, int64 (classes,)."""
        return np.bincount(data.label_codes(self.test if of_test else self.labeled), minlength=len(data.classes))


@dataclass(frozen=True, kw_only=True)
class LocalLabels:
    """Labels of a target domain on top of a budget of another domain.

    Attributes:
        domain: The target, which is then the only one tested.
        rows: Rows of `splits.parquet` of the repeat with the target as train domain: the first `labels` of their order.
        labels: How many.
    """

    domain: str
    rows: pd.DataFrame
    labels: int


def trial_rows(
    data: StudyData,
    rows: pd.DataFrame,
    *,
    budget: str,
    train_domain: str,
    local: LocalLabels | None = None,
    split_budget: bool = False,
) -> TrialRows:
    """Cut one trial's rows out of the splits of its repeat and train domain.

    Args:
        data: The study's rows.
        rows: Rows of `splits.parquet` of one repeat and train domain.
        budget: As written in the study.
        train_domain: `all`, a domain, or `not:` and a domain.
        local: Labels of a target domain to add.
        split_budget: Whether a generator has some of the budget's patients, which the labeled rows then leave out.

    Raises:
        NotEnoughData: If the budget is too small to be split.
    """
    selection = budgets.select(rows, budgets.parse(budget), labels=data.labels)
    if local is not None:
        selection = _with_local(selection, local, data)
    labeled, is_val, inner_split = (
        data.rows_of(list(selection.ids)),
        np.asarray(selection.is_val, bool),
        selection.inner_split,
    )
    held = labeled.loc[is_val, "patient"]
    if split_budget:
        labeled, is_val, inner_split = half(data, labeled, is_val, budget=budget, of_generator=False)
    test = data.rows_of(rows.loc[rows["role"] == "test", "id"].tolist())
    test = test[test["label"].notna()].copy()
    if train_domain == "all":
        test["test_domain"] = "all"
    else:
        test["test_domain"] = test["domain"]
        if train_domain.startswith("not:"):
            test = test[test["domain"] == train_domain.removeprefix("not:")]
        if local is not None:
            test = test[test["domain"] == local.domain]
    chosen = set(selection.ids)
    others = data.rows_of(rows.loc[rows["role"] == "train", "id"].tolist())
    others = others[~others["id"].isin(chosen)]
    others = others[~others["patient"].isin(held)]  # a target's patient may be a validation patient of the source
    if train_domain != "all" and not train_domain.startswith("not:"):
        others = others[others["domain"] == train_domain]
    return TrialRows(
        labeled=labeled,
        is_val=is_val,
        inner_split=bool(inner_split),
        test=test.sort_values("id", kind="stable").reset_index(drop=True),
        unlabeled=others.reset_index(drop=True),
    )


def _with_local(selection: budgets.Selection, local: LocalLabels, data: StudyData) -> budgets.Selection:
    """Add a target domain's first labels; of these too some serve early stopping, where the budget has an inner split.

    A patient of both domains stays on the side of the inner split where the source's rows are.
    """
    added = budgets.select(local.rows, budgets.parse(local.labels), labels=data.labels)
    roles = local.rows.set_index("id")["role"]
    own = (roles.loc[list(added.ids)] == "val").to_numpy(bool)
    sides = dict(zip(data.rows_of(list(selection.ids))["patient"], np.asarray(selection.is_val, bool), strict=True))
    patients = data.rows_of(list(added.ids))["patient"]
    is_val = np.array([sides.get(one, side) for one, side in zip(patients, own, strict=True)], bool)
    is_val &= selection.inner_split
    new = [position for position, one in enumerate(added.ids) if one not in set(selection.ids)]
    return dataclasses.replace(
        selection,
        ids=[*selection.ids, *(added.ids[position] for position in new)],
        is_val=np.concatenate([np.asarray(selection.is_val, bool), is_val[new]]),
    )


@dataclass(frozen=True, kw_only=True)
class GeneratorRows:
    """What a generator of one trial may see, and which of these its monitors compare with instead of training on them."""

    rows: pd.DataFrame
    is_val: np.ndarray


def generator_rows(
    data: StudyData, rows: pd.DataFrame, *, budget: str, train_domain: str, split_budget: bool, needs: str
) -> GeneratorRows:
    """Cut out what a generator may see: a budget's rows (or its part of their patients), or training images without labels.

    Args:
        data, rows, budget, train_domain, split_budget: As in `trial_rows`.
        needs: "none" for a generator that sees no labels, and then all training images.

    Raises:
        NotEnoughData: If the budget is too small to be split.
    """
    if needs == "none":
        every = pretraining_rows(data, rows, train_domain=train_domain)
        return GeneratorRows(rows=every, is_val=np.zeros(len(every), bool))
    selection = budgets.select(rows, budgets.parse(budget), labels=data.labels)
    labeled, is_val = data.rows_of(list(selection.ids)), np.asarray(selection.is_val, bool)
    if split_budget:
        labeled, is_val, _ = half(data, labeled, is_val, budget=budget, of_generator=True)
    return GeneratorRows(rows=labeled, is_val=is_val)


def half(
    data: StudyData, labeled: pd.DataFrame, is_val: np.ndarray, *, budget: str, of_generator: bool
) -> tuple[pd.DataFrame, np.ndarray, bool]:
    """One side of a split budget: (rows, is_val, inner_split), by the rules that whole budgets follow.

    Raises:
        NotEnoughData: If it lacks patients of a class.
    """
    chosen = generator_patients(labeled) == of_generator
    codes = data.label_codes(labeled)
    least = 1 if of_generator else 2
    for code, name in enumerate(data.classes):
        patients = labeled.loc[chosen & (codes == code), "patient"].nunique()
        if patients < least:
            raise NotEnoughData(
                f"Budget {budget} is too small for `split_budget`: the {'generator' if of_generator else 'classifier'} gets"
                f" {patients} patients of class `{name}` and needs {least}; take a larger budget, or `split_budget: false`."
            )
    rows, is_val, codes = labeled[chosen].reset_index(drop=True), is_val[chosen], codes[chosen]
    inner = is_val.any() and all(
        rows.loc[codes == code, "patient"].nunique() >= budgets.PATIENTS_FOR_INNER_SPLIT
        and is_val[codes == code].any()
        and not is_val[codes == code].all()
        for code in range(len(data.classes))
    )
    return rows, is_val if inner else np.zeros_like(is_val), bool(inner)


def generator_patients(labeled: pd.DataFrame) -> np.ndarray:
    """Which rows of a split budget are the generator's, bool (n,): whole patients, in turn within each class.

    A patient's side follows from the rows before it alone, so every larger budget leaves it where it is: the first patient
    of a class is the classifier's, then always the side with fewer rows of that class.
    """
    side: dict[str, int] = {}
    counts: dict[str, list[int]] = {}
    for patient, label in zip(labeled["patient"], labeled["label"], strict=True):
        have = counts.setdefault(label, [0, 0])
        own = side.setdefault(patient, int(have[1] < have[0]))
        have[own] += 1
    return np.array([side[one] == 1 for one in labeled["patient"]], bool)


def pretraining_rows(data: StudyData, rows: pd.DataFrame, *, train_domain: str) -> pd.DataFrame:
    """What a pretrainer sees in one split: all images of the main dataset that are not test rows, of its train domains.

    Args:
        data: The study's rows.
        rows: Rows of `splits.parquet` of one repeat and train domain.
        train_domain: `all`, a domain, or `not:` and a domain.
    """
    found = data.rows_of(rows.loc[rows["role"] != "test", "id"].tolist())
    found = found[found["source"] == 0]
    if train_domain != "all" and not train_domain.startswith("not:"):
        found = found[found["domain"] == train_domain]
    return found.sort_values("id", kind="stable").reset_index(drop=True)


def rows_hash(rows: pd.DataFrame, *, labeled: bool = True) -> str:
    """Hash of the row ids (and labels) that a step could see."""
    text = rows["id"].astype("string")
    if labeled:
        text = text.str.cat(rows["label"].astype("string").fillna(""), sep="\x1f")
    return hash_strings(text.tolist())


def seen_table(rows: pd.DataFrame, *, labeled: bool) -> pd.DataFrame:
    """What a step saw, as it travels with every encoder and predictor: `patient_hash, image_sha256, labeled`."""
    patients = rows["patient"].astype("string").fillna("")
    return pd.DataFrame(
        {
            "patient_hash": [hashlib.sha256(one.encode()).hexdigest() for one in patients],
            "image_sha256": rows["sha256"].astype("string"),
            "labeled": labeled,
        }
    )


def join_seen(*tables: pd.DataFrame) -> pd.DataFrame:
    """Join what several steps saw, each image and patient once; an image seen with its label counts as labeled."""
    table = pd.concat(tables, ignore_index=True)
    labeled = set(table.loc[table["labeled"], "image_sha256"])
    return table[table["labeled"] | ~table["image_sha256"].isin(labeled)].reset_index(drop=True)
