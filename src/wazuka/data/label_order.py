"""The order in which labels are spent: of images by class, of slices within a volume.

Every budget is a prefix of such an order. The order of classes is a sequence as in R. Tijdeman, "The chairman
assignment problem" (Discrete Mathematics 32, 1980), found by earliest-deadline-first scheduling (G. Steiner and
S. Yeomans, "Level schedules for mixed-model, just-in-time processes", Management Science 39, 1993). Used by
`data/splits.py`.
"""

from __future__ import annotations

import heapq
from functools import lru_cache

import numpy as np


def spread(index: np.ndarray, classes: np.ndarray, *, val: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order `index` by class, at random within a class, with train and val rows mixed in proportion.

    So a budget that is large enough for an inner split seldom lacks val rows of a class by bad luck.
    """
    group = classes[index] * 2 + val[index]
    order = index[np.lexsort((rng.random(len(index)), group))]
    group = np.sort(group)
    sizes = np.bincount(group)
    nth = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group]
    return order[np.lexsort(((nth + 0.5) / sizes[group], group // 2))]


def two_patients_first(block: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Bring the first row of a second patient to the second place."""
    other = np.flatnonzero(patient[block] != patient[block[:1]])
    if len(other) == 0 or other[0] == 1:
        return block
    at = other[0]
    return np.concatenate([block[:1], block[at : at + 1], block[1:at], block[at + 1 :]])


def class_sequence(sizes: np.ndarray) -> np.ndarray:
    """Sequence of classes of which every prefix has the classes' shares as nearly as integers allow.

    First every class once, then every class a second time (F rows in all). From there, with N rows of which N_c are of
    class c, the quota of class c in a prefix of n is q_c(n) = max(2, x N_c) with x such that the quotas add up to n;
    once n N_c / N >= 2 for all classes that is n N_c / N. Every prefix of n >= F holds |count_c - q_c(n)| < 1: quotas
    grow by nonnegative steps that add up to one, so Tijdeman's theorem gives a sequence within 1 - 1/(2K - 2), and
    earliest deadline first finds a schedule of unit jobs whenever there is one.

    Args:
        sizes: Rows per class, int (classes,); a class may be empty.

    Returns:
        Class per place, int64 (sum of sizes,).
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    least = np.minimum(sizes, 2)
    start = [code for turn in (1, 2) for code in range(len(sizes)) if least[code] >= turn]
    filled = np.flatnonzero(sizes)
    if len(filled) <= 2:
        rest = _two_class_rest(sizes, least, filled=filled)
    else:
        windows = _windows(sizes, least, filled=filled)
        rest = _earliest_deadline(*windows, first=len(start), n_classes=len(sizes))
    return np.concatenate([np.array(start, dtype=np.int64), rest])


def _two_class_rest(sizes: np.ndarray, least: np.ndarray, *, filled: np.ndarray) -> np.ndarray:
    """With two classes rounding the quota of the smaller one is enough: both stay within one half."""
    total = int(sizes.sum())
    if len(filled) < 2:
        return np.full(total - int(least.sum()), filled[0] if len(filled) else 0, dtype=np.int64)
    small, large = filled[np.argsort(sizes[filled], kind="stable")]
    n = np.arange(least.sum(), total + 1)
    count = np.maximum((2 * n * sizes[small] + total) // (2 * total), least[small])
    return np.where(np.diff(count) == 1, small, large)


def _windows(sizes: np.ndarray, least: np.ndarray, *, filled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Earliest place, latest place (from 1) and class of every row after the start, in exact integers.

    With the s smallest classes still held at their least, the others share the rest of the prefix in proportion. The
    j-th row of a class may come once its quota exceeds j - 1 and must come when its quota reaches j.
    """
    order = filled[np.argsort(sizes[filled], kind="stable")]
    held = np.concatenate([[0], np.cumsum(least[order])])[: len(order)]  # rows of the s smallest classes at their least
    shared = sizes.sum() - np.concatenate([[0], np.cumsum(sizes[order])])[: len(order)]  # rows of all larger ones
    begin = held - (-least[order] * shared // sizes[order])  # first prefix at which class s is no longer held
    windows = []
    for at, code in enumerate(order):
        j = np.arange(least[code] + 1, sizes[code] + 1)
        release, deadline = np.zeros(len(j), dtype=np.int64), np.zeros(len(j), dtype=np.int64)
        for s in range(at, -1, -1):
            end = begin[s - 1] if s else np.iinfo(np.int64).max
            for place, candidate in (
                (release, held[s] + (j - 1) * shared[s] // sizes[code] + 1),
                (deadline, held[s] - (-j * shared[s] // sizes[code])),
            ):
                candidate = np.maximum(candidate, begin[s])
                settled = (place == 0) & (candidate < end)
                place[settled] = candidate[settled]
        windows.append((release, deadline, np.full(len(j), code)))
    release, deadline, classes = (np.concatenate(parts) for parts in zip(*windows, strict=True))
    return release, deadline, classes


def _earliest_deadline(
    release: np.ndarray, deadline: np.ndarray, classes: np.ndarray, *, first: int, n_classes: int
) -> np.ndarray:
    """Fill the places after `first`: of the rows that may come, the one that must come soonest (ties: lower class).

    A class's rows have ever later deadlines, so they come in their own order by themselves.
    """
    by_release = np.argsort(release, kind="stable")
    jobs = (deadline * n_classes + classes)[by_release].tolist()  # sorts by deadline, then class
    opens = [*release[by_release].tolist(), first + len(jobs) + 1]
    ready: list[int] = []
    done: list[int] = []
    coming = 0
    for place in range(first + 1, first + len(jobs) + 1):
        while opens[coming] <= place:
            heapq.heappush(ready, jobs[coming])
            coming += 1
        done.append(heapq.heappop(ready))
    sequence = np.array(done, dtype=np.int64)
    late = sequence // n_classes < np.arange(first + 1, first + len(jobs) + 1)
    assert not late.any(), "a schedule exists by Tijdeman's theorem"
    return sequence % n_classes


@lru_cache(maxsize=65536)
def farthest_point_order(frames: tuple[int, ...]) -> tuple[int, ...]:
    """Order slices so that each prefix spreads over the volume: the middle one, then always the farthest from all chosen.

    Args:
        frames: Slice numbers, ascending.

    Returns:
        Indices into `frames`; of equally good ones the lower comes first.

    >>> farthest_point_order((0, 1, 2, 3, 4))
    (2, 0, 4, 1, 3)
    """
    positions = np.array(frames)
    chosen = [(len(frames) - 1) // 2]
    distance = np.abs(positions - positions[chosen[0]])
    distance[chosen[0]] = -1
    while len(chosen) < len(frames):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.abs(positions - positions[chosen[-1]]))
        distance[chosen[-1]] = -1
    return tuple(chosen)
