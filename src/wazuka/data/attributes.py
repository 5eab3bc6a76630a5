"""Attributes that nobody wrote into a table: from file names and from simple image statistics.

`wazuka import` calls `infer` and `infer_patients` after the files are checked; tags and sidecars come with each file
(`formats/tags.py`, `formats/sidecar.py`), and a table overrides all of them. `docs/attributes.md` lists every rule.

A file-name pattern is applied only if it holds for at least 95 % of the files and gives at least two groups, but fewer than
there are files: a pattern that every file matches differently, or all alike, says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from wazuka.data.formats.tags import ATTRIBUTES, IDENTIFYING, age_group, read_attributes
from wazuka.data.importers.listing import SUFFIX_PATTERN

__all__ = ["ATTRIBUTES", "IDENTIFYING", "NamePattern", "age_group", "infer", "infer_patients", "read_attributes"]

SHARE = 0.95
"""Share of the files that a pattern must hold for."""
MIN_FOR_TERCILES = 9
"""Images that terciles of an image statistic need."""
LEVELS = ("low", "medium", "high")

_VIEWS = "2CH|3CH|4CH|A2C|A3C|A4C|PLAX|PSAX|PA|AP|LAT|LL|CC|MLO|frontal|lateral|axial|sagittal|coronal"
_PHASES = "ED|ES"
_START, _END = r"(?:^|[/_\-. ])", r"(?=[/_\-. ]|$)"


@dataclass(frozen=True, kw_only=True)
class NamePattern:
    """A regular expression on the path without its suffix; its first group is the value."""

    name: str
    """As shown to the user."""
    regex: str


PATIENT_PATTERNS: tuple[NamePattern, ...] = (
    NamePattern(name="sub-XX (BIDS)", regex=_START + r"(sub-[A-Za-z0-9]+)" + _END),
    NamePattern(name="TCGA-XX-XXXX", regex=r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})"),
    NamePattern(
        name="patient0001",
        regex=_START + r"((?:[Pp]atient|PATIENT|[Pp]at|[Pp]t|[Ss]ubject|[Ss]ubj|SUBJECT|[Pp]erson)[_\-]?\d+)",
    ),
    NamePattern(name="case_12", regex=_START + r"([Cc]ase[_\-]?\d+)"),
    NamePattern(
        name="BraTS-like NAME_NUMBER_SEQUENCE",
        regex=r"(?:^|/)([^/]+?)[_\-](?:t1|t1c|t1ce|t1gd|t1w|t1n|t2|t2w|t2f|flair|dwi|adc|pd)$",
    ),
    NamePattern(
        name="NAME_VIEW_PHASE",
        regex=rf"(?:^|/)([^/]+?)(?:[_\-](?:{_VIEWS}|{_PHASES}|L|R|LEFT|RIGHT|left|right|half_sequence|sequence))+$",
    ),
    NamePattern(name="P0001", regex=_START + r"([Pp]\d{2,})" + _END),
    NamePattern(name="NUMBER_PART", regex=r"(?:^|/)(\d{2,})[_\-][A-Za-z]?\d+$"),
)
"""How file names name patients; the first that holds is taken."""

ATTRIBUTE_PATTERNS: dict[str, NamePattern] = {
    "view": NamePattern(name="view", regex=_START + rf"({_VIEWS})" + _END),
    "phase": NamePattern(name="phase", regex=_START + rf"({_PHASES})" + _END),
    "laterality": NamePattern(name="laterality", regex=_START + r"(LEFT|RIGHT|Left|Right|left|right|L|R)" + _END),
}
"""Attribute -> how file names say it."""


def infer(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Infer attributes from file names and image statistics.

    Args:
        rows: `path`, and where they are known the inspection's `mean` and `std`; any index.

    Returns:
        Attribute columns (strings, missing where a rule says nothing) with the index of `rows`, and attribute -> source.
    """
    paths = rows["path"].astype("string")
    columns: dict[str, pd.Series] = {}
    sources: dict[str, str] = {}
    for name, pattern in ATTRIBUTE_PATTERNS.items():
        values = _apply(pattern, paths)
        if values is not None:
            columns[name] = values.str[0].str.upper() if name == "laterality" else values
            sources[name] = "file name"
    for name, statistic in (("brightness", "mean"), ("contrast_level", "std")):
        levels = _terciles(rows[statistic]) if statistic in rows else None
        if levels is not None:
            columns[name] = levels
            sources[name] = "computed"
    return pd.DataFrame(columns, index=rows.index), sources


def infer_patients(paths: pd.Series) -> tuple[pd.Series, str] | None:
    """Guess patients from file names.

    Args:
        paths: One path per row, relative to the dataset's root; the slices of a volume repeat theirs.

    Returns:
        The guessed patient of each row (missing where the pattern does not hold) and the pattern's name, or None if no
        pattern holds for 95 % of the files with at least two patients and fewer patients than files.
    """
    text = paths.astype("string")
    for pattern in PATIENT_PATTERNS:
        values = _apply(pattern, text)
        if values is not None:
            return values, pattern.name
    return None


def _apply(pattern: NamePattern, paths: pd.Series) -> pd.Series | None:
    """Values of a pattern, one per row, or None where it does not hold; each file counts once."""
    unique = pd.Series(paths.dropna().unique(), dtype="string")
    if len(unique) < 3:
        return None
    found = unique.str.replace(SUFFIX_PATTERN, "", regex=True).str.extract(pattern.regex, expand=False)
    groups = found.nunique()
    if found.notna().mean() < SHARE or not 2 <= groups < found.notna().sum():
        return None
    return paths.map(dict(zip(unique, found, strict=True))).astype("string")


def _terciles(values: pd.Series) -> pd.Series | None:
    """Low, medium or high by the terciles of the finite values; None where these do not tell images apart."""
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    finite = np.isfinite(numbers)
    if finite.sum() < MIN_FOR_TERCILES:
        return None
    first, second = np.quantile(numbers[finite], [1 / 3, 2 / 3])
    if not numbers[finite].min() < first < second:
        return None
    number = np.searchsorted([first, second], numbers, side="left")  # a value at a border belongs to the lower third
    levels = [LEVELS[one] if known else None for one, known in zip(number, finite, strict=True)]
    return pd.Series(pd.array(levels, dtype="string"), index=values.index)
