"""Draw patients for the test or the validation part: stratified by their classes, every class on both sides."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def draw_patients(has: np.ndarray, *, groups: np.ndarray, share: Fraction, rng: np.random.Generator) -> np.ndarray:
    """Draw a share of the patients, each equally likely, spread over class patterns and, within these, over groups.

    A systematic sample of the patients sorted by pattern: each pattern gives its share rounded up or down, and the
    whole exactly the share rounded (at least one, never all). Then patients are exchanged until every class with two
    patients is on both sides and one with three or more keeps two undrawn, where that is possible.

    Args:
        has: Which patient has which class, bool (patients, classes); a patient's row is its pattern.
        groups: A code per patient (its domain).
        share: Between 0 and 1.
        rng: Source of the draw.

    Returns:
        Which patients are drawn, bool (patients,).
    """
    n = len(has)
    total = min(max(int(share * n + Fraction(1, 2)), 1), n - 1)
    packed = np.ascontiguousarray(np.packbits(has, axis=1)) if has.shape[1] else np.zeros((n, 1), dtype=np.uint8)
    pattern = np.unique(packed.view(f"V{packed.shape[1]}").ravel(), return_inverse=True)[1].ravel()
    order = np.lexsort((rng.random(n), groups, pattern))
    picked = np.minimum(np.floor((np.arange(total) + rng.random()) * (n / total)).astype(np.int64), n - 1)
    chosen = np.zeros(n, dtype=bool)
    chosen[order[picked]] = True
    _exchange(chosen, has, rng=rng)
    return chosen


def _exchange(chosen: np.ndarray, has: np.ndarray, *, rng: np.random.Generator) -> None:
    """Move single patients, rarest class first, until the classes are on both sides; sizes are kept where possible."""
    sizes = has.sum(axis=0)
    least_out = np.where(sizes >= 3, 2, np.where(sizes == 2, 1, 0))
    least_in = np.where(sizes >= 2, 1, 0)
    for _ in range(3):
        moved = False
        for code in np.argsort(sizes, kind="stable"):
            for side, least, other in ((True, least_in, least_out), (False, least_out, least_in)):
                while has[chosen == side, code].sum() < least[code]:
                    free = _free(chosen, has, side=not side, least=other) & has[:, code]
                    if not free.any():
                        break
                    taken = int(rng.choice(np.flatnonzero(free)))
                    chosen[taken] = side
                    back = _free(chosen, has, side=side, least=least)
                    back[taken] = False
                    if back.any():
                        chosen[rng.choice(np.flatnonzero(back))] = not side
                    moved = True
        if not moved:
            return


def _free(chosen: np.ndarray, has: np.ndarray, *, side: bool, least: np.ndarray) -> np.ndarray:
    """Patients on `side` whose leaving keeps every class at its least there."""
    spare = has[chosen == side].sum(axis=0) > least
    return (chosen == side) & ~(has & ~spare).any(axis=1)
