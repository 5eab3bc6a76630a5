"""Groups of images that should stay on one side of a split, inferred where no patient is known.

The leakage certificate of a study compares a naive split with one by these groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from wazuka.audit.near_duplicates import hashed_rows, search
from wazuka.audit.tables import Tables


@dataclass(frozen=True)
class Groups:
    """Inferred groups.

    Attributes:
        group: Name of the group per usable id (index: id, string values); a group is named after its first id.
        evidence: One entry per source that joined images: source, images joined to another, groups it alone would make.
    """

    group: pd.Series
    evidence: list[dict[str, str | int]]


WHOLE = {"table": "patient", "dicom": "patient", "file name": "patient read from the file name"}
COLUMNS = {
    "patient_guess": "file name pattern",
    "volume": "volume",
    "parent": "patches of one image",
}


def infer_groups(tables: Tables) -> Groups:
    """Join images that share a patient, a guess from their file name, a volume, a parent, or are (near) copies.

    Every usable row is in exactly one group. `patient` counts where the import knows it or stands in for a study.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    usable = tables.usable
    n = len(usable)
    links: list[np.ndarray] = []
    evidence: list[dict[str, str | int]] = []

    def join(source: str, codes: np.ndarray) -> None:
        """Join rows of equal code; -1 joins nothing."""
        known = codes >= 0
        sizes = np.bincount(codes[known]) if known.any() else np.zeros(0, dtype=np.int64)
        if not (sizes > 1).any():
            return
        first = np.full(len(sizes), -1, dtype=np.int64)
        rows = np.flatnonzero(known)
        first[codes[rows[::-1]]] = rows[::-1]
        links.append(np.stack([first[codes[rows]], rows], axis=1))
        joined = int(sizes[sizes > 1].sum())
        evidence.append({"source": source, "images": joined, "groups": int((sizes > 1).sum())})

    source = str(tables.card.get("patient_source") or "image")
    join(WHOLE.get(source, f"patient (the {source})"), pd.factorize(usable["patient"])[0])
    for column, what in COLUMNS.items():
        if column in usable:
            join(what, pd.factorize(usable[column])[0])
    hashed = hashed_rows(tables)
    constant = tables.measured("constant")
    sha256 = pd.factorize(usable["sha256"])[0]
    join("exact copies", sha256 if constant is None else np.where(constant.to_numpy(dtype=bool), -1, sha256))
    if hashed is not None and len(hashed[0]):
        codes = np.full(n, -1, dtype=np.int64)
        codes[hashed[0]] = search(tables).cluster
        join("near copies", codes)
    pairs = np.concatenate(links) if links else np.empty((0, 2), dtype=np.int64)
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    first = np.unique(component, return_index=True)[1]
    ids = usable["id"].astype("string")
    names = ids.iloc[first].array.take(component)
    return Groups(pd.Series(names, index=pd.Index(ids), name="group"), evidence)
