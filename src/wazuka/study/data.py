"""The rows a study works on: one table over its datasets (`study/rows.py` cuts out of it what each role may see)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from wazuka.core.errors import ConfigError, DataError, NotEnoughData
from wazuka.data import splits, votes
from wazuka.data.manifest import Dataset, Task, fingerprint, load
from wazuka.study.config import Study

TEST_PREFIX = "test-dataset/"
"""Put before the ids of a second dataset that serves as the test set, so that ids stay unique."""
RESERVED = ("all", "synthetic")
"""Names of test parts and train domains that no domain may have; nor may one begin with `not:`."""


@dataclass(frozen=True)
class StudyData:
    """The study's usable rows.

    Attributes:
        datasets: The main dataset, then the test dataset where the study names one.
        table: One row per usable image, sorted by id: `id, patient, label, domain, is_test, source` (index into
            `datasets`), `row` (row of that dataset's pixel cache), `sha256`, `parent`, `volume` and the study's column.
        classes: Classes of the study, in the order of the probability columns.
        left_out: Class -> patients, for classes with too few patients.
    """

    datasets: tuple[Dataset, ...]
    table: pd.DataFrame
    task: Task
    classes: tuple[str, ...]
    left_out: dict[str, int]

    @property
    def main(self) -> Dataset:
        """The dataset that is learned from."""
        return self.datasets[0]

    @property
    def positive(self) -> int | None:
        """Index of the positive class, where there are two."""
        if len(self.classes) != 2:
            return None
        named = self.main.card.positive
        return self.classes.index(named) if named in self.classes else 1

    @cached_property
    def domains(self) -> list[str]:
        """Domains in sorted order; empty where none is known."""
        return sorted(self.table["domain"].dropna().unique().tolist())

    @property
    def fingerprint(self) -> list[str]:
        """Fingerprints of the datasets."""
        return [one.card.fingerprint for one in self.datasets]

    def rows_of(self, ids: Sequence[str]) -> pd.DataFrame:
        """Table rows of these ids, in their order."""
        positions = self._ids.get_indexer(pd.Index(np.asarray(ids, object)))
        assert (positions >= 0).all(), "an id that the study does not have"
        return self.table.iloc[positions].reset_index(drop=True)

    def soft_labels(self, rows: pd.DataFrame) -> np.ndarray:
        """Shares of the annotators' votes of rows of the main dataset, float64 (n, classes), each row of sum 1."""
        card = self.main.card
        shares = votes.soft_labels(self.main.usable, card)[rows["row"].to_numpy(np.int64)]
        shares = shares[:, [card.classes.index(one) for one in self.classes]]
        certain = np.eye(len(self.classes))[self.label_codes(rows)]  # where all votes went to a class that is left out
        total = shares.sum(axis=1, keepdims=True)
        return np.where(total > 0, shares / np.where(total > 0, total, 1), certain)

    @cached_property
    def labels(self) -> pd.Series:
        """Label per id, of all rows."""
        return self.table.set_index("id")["label"]

    @cached_property
    def _ids(self) -> pd.Index:
        return pd.Index(self.table["id"].to_numpy(object))

    def label_codes(self, rows: pd.DataFrame) -> np.ndarray:
        """Class index per row, int64; -1 where there is no label."""
        return pd.Categorical(rows["label"], categories=list(self.classes)).codes.astype(np.int64)


def load_study_data(study: Study) -> StudyData:
    """Load the study's datasets and keep the rows it can use.

    Raises:
        DataError: If datasets do not fit the study or each other.
        NotEnoughData: If fewer than two classes are left, or there is only one patient.
    """
    main = _load(Path(study.dataset))
    task = study.task or main.card.task
    if task == "unlabeled":
        raise DataError(f"Dataset {main.folder} has no labels; a study needs labels for at least some images.")
    if task == "segmentation":
        raise ConfigError("This version has no segmentation strategy; choose `task: classification` and label images.")
    wants_votes = [one.name for one in study.strategies if one.soft_labels]
    if wants_votes and not main.card.imported.get("votes"):
        raise DataError(
            f"Strategy `{wants_votes[0]}` asks for soft labels, but {main.folder} has no annotators' votes; import a table"
            " with columns `votes_CLASS`, or leave `soft_labels` out."
        )
    table = _rows(main, 0, study)
    datasets = [main]
    if study.test.dataset is not None:
        other = _load(Path(study.test.dataset))
        _check_fit(main, other)
        extra = _rows(other, 1, study)
        _check_overlap(main, other, table, extra)
        extra["id"] = TEST_PREFIX + extra["id"]
        if not _comparable(main, other):  # equal spelling is no equal patient between unrelated datasets
            extra["patient"] = TEST_PREFIX + extra["patient"]
        table = pd.concat([table, extra], ignore_index=True)
        datasets.append(other)
    left_out = splits.small_classes(table, study.min_class_patients)
    table = table[~table["label"].isin(list(left_out))].sort_values("id", kind="stable").reset_index(drop=True)
    present = set(table["label"].dropna().unique())
    classes = tuple(one for one in main.card.classes if one in present)
    if len(classes) < 2:
        small = ", ".join(f"`{name}` ({count} patients)" for name, count in left_out.items())
        why = f"; left out for fewer than {study.min_class_patients} patients: {small}" if small else ""
        raise NotEnoughData(
            f"{len(classes)} usable class{'es' if len(classes) != 1 else ''} in {main.folder}{why}; a study needs two classes"
            " (label more patients, or lower --min-class-patients)."
        )
    if table["patient"].nunique() < 2:
        raise NotEnoughData(f"All images of {main.folder} are of one patient; a study needs patients to test on.")
    return StudyData(tuple(datasets), table, task, classes, left_out)


def _load(folder: Path) -> Dataset:
    """Load a dataset under the fingerprint of what its files say now: after an edit in place it is other data.

    Raises:
        DataError: If it is no dataset, or a domain has a name that results and train domains use.
    """
    dataset = load(folder)
    for name in sorted(dataset.usable["domain"].dropna().unique()):
        if name in RESERVED or name.startswith("not:"):
            raise DataError(
                f"Dataset {folder} has a domain named `{name}`, which stands for something else in results"
                f" ({', '.join(RESERVED)}, not:NAME); name it otherwise and import again."
            )
    card = dataclasses.replace(dataset.card, fingerprint=fingerprint(dataset.card, dataset.manifest))
    return dataclasses.replace(dataset, card=card)


def _rows(dataset: Dataset, source: int, study: Study) -> pd.DataFrame:
    usable = dataset.usable
    columns = ["id", "patient", "label", "domain", "sha256"]
    columns += [name for name in ("parent", "volume") if name in usable.columns]
    table = usable[columns].copy()
    table["source"], table["row"], table["is_test"] = source, np.arange(len(usable)), source == 1
    column = study.test.column
    if column is not None and source == 0:
        if column not in usable.columns:
            from wazuka.core.errors import unknown_name

            raise unknown_name("column", column, list(usable.columns), where=f"{dataset.folder}/manifest.parquet")
        table[column] = usable[column]
    unknown = sorted(set(usable["label"].dropna()) - set(dataset.card.classes))
    if unknown:
        raise DataError(
            f"Label `{unknown[0]}` in {dataset.folder} is not among the classes of dataset.yaml; add it there."
        )
    if dataset.card.imported.get("votes"):
        table["agreement"] = _agreement(usable, dataset)
    return table


def _agreement(usable: pd.DataFrame, dataset: Dataset) -> np.ndarray:
    """Share of the annotators who gave the row's label; NaN for a row without votes or label."""
    shares = votes.soft_labels(usable, dataset.card)
    codes = pd.Categorical(usable["label"], categories=list(dataset.card.classes)).codes
    agreed = np.where(codes >= 0, shares[np.arange(len(usable)), np.maximum(codes, 0)], np.nan)
    agreed[~votes.voted(usable, dataset.card)] = np.nan
    return np.where(agreed == 0, np.finfo(float).tiny, agreed)  # outvoted by all: disputed, and above 0 as scores need


def _check_fit(main: Dataset, other: Dataset) -> None:
    missing = [one for one in other.card.classes if one not in main.card.classes]
    if missing:
        raise DataError(
            f"Test dataset {other.folder} has the class `{missing[0]}`, which {main.folder} lacks; map its labels to"
            f" {', '.join(main.card.classes)}."
        )
    if main.card.intensity != other.card.intensity:
        raise DataError(
            f"Test dataset {other.folder} has {other.card.intensity} pixels, {main.folder} has {main.card.intensity};"
            " both must be of one kind."
        )


def _check_overlap(main: Dataset, other: Dataset, table: pd.DataFrame, extra: pd.DataFrame) -> None:
    same = extra["sha256"].isin(table["sha256"]).sum()
    if same:
        raise DataError(
            f"{same} images of the test dataset {other.folder} are also in {main.folder}; remove them there."
        )
    if _comparable(main, other):
        shared = set(extra["patient"].dropna()) & set(table["patient"].dropna())
        if shared:
            raise DataError(
                f"{len(shared)} patients of the test dataset {other.folder} are also in {main.folder}; remove them."
            )


def _comparable(main: Dataset, other: Dataset) -> bool:
    """Whether equal patient ids are equal patients: within one dataset, or where one salt made the pseudonyms of both."""
    salt = main.card.imported.get("salt")
    return main.card.fingerprint == other.card.fingerprint or (
        salt is not None and salt == other.card.imported.get("salt")
    )


def make_splits(study: Study, data: StudyData) -> pd.DataFrame:
    """Make `splits.parquet` for the study (see CONTRACTS, Run folder)."""
    rule = study.test
    kind = rule.domain or ("column" if rule.column else "dataset" if rule.dataset else "patients")
    if rule.domain and len(data.domains) < 2:
        raise NotEnoughData(
            f"`test: {{domain: {rule.domain}}}` needs two domains, {data.main.folder} has {len(data.domains)}; import it with --domain COLUMN."
        )
    return splits.make_splits(
        data.table,
        test=splits.Test(kind=kind, share=rule.patients, column=rule.column),
        repeats=max(one.repeats for one in study.strategies),
        redraw=study.redraw,
        seed=study.seed,
        task=data.task,
    )


def split_groups(table: pd.DataFrame) -> dict[tuple[int, str], pd.DataFrame]:
    """Rows of `splits.parquet` by (repeat, train domain)."""
    found = {}
    for key, rows in table.groupby(["repeat", "train_domain"], sort=True, observed=True):
        repeat, domain = cast("tuple[int, str]", key)
        found[int(repeat), str(domain)] = rows
    return found


MOST_GROUPS = 20
"""An attribute with more values than this (a file's number, a name) makes no subgroups."""


def attributes(data: StudyData) -> pd.DataFrame:
    """Attributes of the study's labeled images that make subgroups: `id` and one text column each."""
    parts = []
    for source, dataset in enumerate(data.datasets):
        usable = dataset.usable
        names = [one for one in dataset.card.attributes if one in usable and 2 <= usable[one].nunique() <= MOST_GROUPS]
        part = usable[["id", *names]].astype("string")
        part["id"] = (TEST_PREFIX if source else "") + part["id"]
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    labeled = data.table.loc[data.table["label"].notna(), "id"]
    return table[table["id"].isin(labeled)].reset_index(drop=True)


def describe(data: StudyData) -> dict[str, Any]:
    """Facts on the data for the report: the card without local paths, and counts."""
    table, manifest = data.table, data.main.manifest
    card = dataclasses.asdict(data.main.card)
    card.pop("root")
    classes = {
        name: {
            "images": int((table["label"] == name).sum()),
            "patients": int(table.loc[table["label"] == name, "patient"].nunique()),
        }
        for name in data.classes
    }
    domains = {
        name: {
            "images": int((table["domain"] == name).sum()),
            "patients": int(table.loc[table["domain"] == name, "patient"].nunique()),
        }
        for name in data.domains
    }
    quarantined = manifest[manifest["status"] == "quarantined"]
    return {
        "card": card,
        "counts": {
            "images": len(table),
            "labeled": int(table["label"].notna().sum()),
            "patients": int(table["patient"].nunique()),
            "classes": classes,
            "domains": domains,
            "left_out_classes": data.left_out,
            "quarantined": len(quarantined),
            "quarantine_reasons": quarantined["reason"].value_counts().to_dict(),
            "orphan_masks": len(data.main.card.imported.get("orphan_masks", [])),
        },
        "simulated": any(one.card.simulated for one in data.datasets),
    }
