"""Facts of the card, worked out by hand: structures and mask values, intensities, ids."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wazuka.core.errors import DataError
from wazuka.data import assemble
from wazuka.data.formats.base import FileInfo


def _masks(*values: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"reason": pd.array([None] * len(values), dtype="string"), "mask_values": list(values)})


@pytest.mark.parametrize(
    ("found", "given", "structures", "mapping"),
    [
        ([[0], [0, 255]], {}, {1: "structure_1"}, {255: 1}),
        ([[0, 1], [0]], {}, {1: "structure_1"}, {}),
        ([[0, 1, 2], [0, 4]], {}, {1: "structure_1", 2: "structure_2", 4: "structure_4"}, {}),
        ([[0, 255]], {1: "lesion"}, {1: "lesion"}, {255: 1}),
        ([[0, 255]], {255: "lesion"}, {1: "lesion"}, {255: 1}),
        ([[0, 63, 126]], {63: "liver", 126: "kidney"}, {63: "liver", 126: "kidney"}, {}),
        ([[0, 300, 1000]], {300: "liver", 1000: "kidney"}, {1: "liver", 2: "kidney"}, {300: 1, 1000: 2}),
        ([[0, 1, 2]], {1: "a"}, {1: "a"}, {}),
        ([[0], [0]], {}, {}, {}),
        ([], {1: "a"}, {1: "a"}, {}),
    ],
)
def test_structures_follow_from_the_values_of_the_masks(
    found: list[list[int]], given: dict[int, str], structures: dict[int, str], mapping: dict[int, int]
) -> None:
    assert assemble.settle_structures(_masks(*found), given, notes=[]) == (structures, mapping)


def test_what_was_mapped_unnamed_or_unseen_is_noted() -> None:
    notes: list[str] = []
    assemble.settle_structures(_masks([0, 255]), {}, notes=notes)
    assemble.settle_structures(_masks([0, 1, 9]), {1: "a", 2: "b"}, notes=notes)
    assert notes == [
        "mask values are mapped: 255 to 1",
        "mask values without a name: 9",
        "structures that no mask has: b",
    ]


def test_masks_with_more_values_than_structures_can_be_are_refused() -> None:
    with pytest.raises(DataError, match="The masks hold 299 different values; masks are integer labels from 0"):
        assemble.settle_structures(_masks(list(range(300))), {}, notes=[])


def _gathered(*intensities: str) -> assemble.Gathered:
    count = len(intensities)
    rows = pd.DataFrame(
        {
            "item": np.arange(count),
            "reason": pd.array([None] * count, dtype="string"),
            "decode_error": pd.array([None] * count, dtype="string"),
        }
    )
    infos: list[FileInfo | None] = [
        FileInfo(frames=None, height=4, width=4, channels=1, intensity=one) for one in intensities
    ]
    return assemble.Gathered(rows=rows, infos=infos, blank_patches=0, corrupt=np.zeros(count, bool))


@pytest.mark.parametrize(
    ("found", "expected", "odd"),
    [
        (["gray8"] * 3, "gray8", []),
        (["gray8", "gray8", "rgb8"], "rgb8", []),
        (["gray8", "gray8", "gray16"], "gray16", []),
        (["ultrasound", "ultrasound", "rgb8"], "ultrasound", []),
        (["hounsfield", "hounsfield", "rgb8"], "hounsfield", [2]),
        (["mr", "hounsfield", "hounsfield"], "hounsfield", [0]),
    ],
)
def test_one_intensity_is_settled_and_what_cannot_be_mixed_is_unusable(
    found: list[str], expected: str, odd: list[int]
) -> None:
    gathered = _gathered(*found)
    assert assemble.settle_intensity(gathered) == expected
    assert np.flatnonzero(gathered.corrupt).tolist() == odd
    assert gathered.rows["reason"].notna().to_numpy().nonzero()[0].tolist() == odd
    assert bool(gathered.notes) == (len(set(found)) > 1)
