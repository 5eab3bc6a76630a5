"""Find near copies among up to millions of images from their 64-bit perceptual hashes and 16 x 16 thumbnails.

Candidates: pairs whose hashes differ in at most `radius` bits. The hash is cut into `radius + 2` blocks; two hashes that
differ in at most `radius` bits agree in two blocks at least, so sorting by every two blocks brings them together (G.
Manku, A. Jain and A. Das Sarma, "Detecting near-duplicates for web crawling", WWW 2007). Low frequencies are alike in
most images of one kind, so every block gets its share of low and high ones. Verified: the correlation of the thumbnails. Images with equal hashes are grouped first and compared with a group's leader, so that ten thousand empty
slices cost ten thousand comparisons. Used by WZ108 and `audit/groups.py`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

WINDOW = 32
"""In a run of hashes that agree in two blocks each is compared with this many that follow; longer runs are counted."""
LEADERS = 64
"""Groups that images of one hash may fall into; what is left is counted."""
CHUNK = 65_536
COMPONENTS = 16
"""Principal components that count as what all images have in common."""
IMAGES_PER_COMPONENT = 20
"""Distinct images that each component takes; with fewer than this many images in all nothing is taken off."""
SAMPLE = 5_000
"""Distinct images from which the components are computed."""


@dataclass(frozen=True)
class Copies:
    """Near copies.

    Attributes:
        cluster: Number per image of the copies linked to it, int64 (n,); images without a copy are alone.
        pairs: Verified pairs, int64 (m, 2); images of one hash and look are linked to their leader only.
        same: Number per image of those with equal hash and look, int64 (n,): all of these are copies of each other.
        cut: Times that a limit ended an image's comparisons: 0 means that the search was complete.
    """

    cluster: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    cut: int


def parse_hashes(texts: np.ndarray) -> np.ndarray:
    """Turn 16 hexadecimal digits each into uint64 (n,)."""
    digits = np.frombuffer("".join(texts).encode(), dtype=np.uint8)
    raw = bytes.fromhex(digits.tobytes().decode())
    return np.frombuffer(raw, dtype=">u8").astype(np.uint64)


def parse_thumbnails(blobs: np.ndarray) -> np.ndarray:
    """Turn 256 bytes each into uint8 (n, 256)."""
    return np.frombuffer(b"".join(blobs), dtype=np.uint8).reshape(len(blobs), 256)


def correlation(
    thumbnails: np.ndarray, left: np.ndarray, right: np.ndarray, *, common: np.ndarray | None = None
) -> np.ndarray:
    """Pearson correlation of the thumbnails of each pair, float32 (m,); 0 where one is constant.

    Args:
        thumbnails: uint8 (n, 256).
        left: Numbers of the first images, int (m,).
        right: Numbers of the second images, int (m,).
        common: Mean and components, float32 (1 + k, 256), to take off before; from `common_look`.
    """
    found = np.empty(len(left), dtype=np.float32)
    for start in range(0, len(left), CHUNK):
        part = slice(start, start + CHUNK)
        a, b = (_standardized(thumbnails[side[part]], common) for side in (left, right))
        found[part] = np.einsum("ij,ij->i", a, b)
    return found


def _standardized(thumbnails: np.ndarray, common: np.ndarray | None = None) -> np.ndarray:
    values = thumbnails.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    if common is not None:
        values -= common[0]
        values -= (values @ common[1:].T) @ common[1:]
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
    return values


def common_look(thumbnails: np.ndarray) -> np.ndarray | None:
    """Mean and first principal components of the standardized thumbnails, float32 (1 + k, 256); None for too few."""
    k = min(COMPONENTS, len(thumbnails) // IMAGES_PER_COMPONENT)
    if k == 0:
        return None
    if len(thumbnails) > SAMPLE:
        thumbnails = thumbnails[np.sort(np.random.default_rng(0).choice(len(thumbnails), SAMPLE, replace=False))]
    values = _standardized(thumbnails).astype(np.float64)
    mean = values.mean(axis=0)
    vectors = np.linalg.eigh((values - mean).T @ (values - mean))[1][:, ::-1][:, :k]
    return np.concatenate([mean[None], vectors.T]).astype(np.float32)


def find_copies(
    hashes: np.ndarray, thumbnails: np.ndarray, *, radius: int, least_correlation: float, least_residual: float
) -> Copies:
    """Find the pairs within `radius` bits whose thumbnails correlate, as they are and without what is common to all.

    Args:
        hashes: uint64 (n,).
        thumbnails: uint8 (n, 256).
        radius: Largest number of differing bits, 1..14.
        least_correlation: Smallest correlation of the thumbnails.
        least_residual: Smallest correlation without the common look, which is computed from one image per group of
            pairs that meet the first two conditions, so that many copies of one image are not what is common.
    """
    same, equal_pairs, cut = _equal_hashes(hashes, thumbnails, least=least_correlation)
    leaders = np.unique(same, return_index=True)[1]  # one image stands for all of its hash and look
    order = leaders[np.argsort(hashes[leaders], kind="stable")]
    near, cut_runs = _near_hashes(hashes[order], radius=radius)
    left, right = order[near[:, 0]], order[near[:, 1]]
    alike = correlation(thumbnails, left, right) >= least_correlation
    pairs = np.concatenate([equal_pairs, np.stack([left[alike], right[alike]], axis=1)])
    distinct = np.unique(_linked(pairs, len(hashes)), return_index=True)[1]
    common = common_look(thumbnails[distinct])
    if common is not None:
        kept = correlation(thumbnails, pairs[:, 0], pairs[:, 1], common=common) >= least_residual
        parted = equal_pairs[~kept[: len(equal_pairs)], 1]
        same[parted] = parted
        pairs = pairs[kept]
    return Copies(_linked(pairs, len(hashes)), pairs, same, cut + cut_runs)


def _linked(pairs: np.ndarray, n: int) -> np.ndarray:
    """Number of the connected component of each image, int64 (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _equal_hashes(hashes: np.ndarray, thumbnails: np.ndarray, *, least: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Group images of one hash by look: (group per image, pairs with the leader, images never compared).

    Every round all hashes at once take their first ungrouped image as a leader and give it those that look like it.
    """
    code, count = np.unique(hashes, return_inverse=True, return_counts=True)[1:]
    group = np.arange(len(hashes))
    open_ = np.flatnonzero(count[code.ravel()] > 1)
    open_ = open_[np.argsort(code.ravel()[open_], kind="stable")]
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for _ in range(LEADERS):
        if len(open_) == 0:
            break
        own = code.ravel()[open_]
        starts = np.flatnonzero(np.concatenate([[True], own[1:] != own[:-1]]))
        leader = open_[np.repeat(starts, np.diff(np.append(starts, len(own))))]
        follows = open_ != leader
        alike = np.zeros(len(open_), dtype=bool)
        alike[follows] = correlation(thumbnails, leader[follows], open_[follows]) >= least
        group[open_[alike]] = leader[alike]
        pairs.append(np.stack([leader[alike], open_[alike]], axis=1))
        open_ = open_[follows & ~alike]
    return group, np.concatenate(pairs), len(open_)


def _near_hashes(hashes: np.ndarray, *, radius: int) -> tuple[np.ndarray, int]:
    """Pairs of positions whose hashes differ in at most `radius` bits, each once, and the comparisons left out."""
    by_frequency = sorted(
        range(64), key=lambda bit: (bit // 8 + bit % 8, bit)
    )  # bit 63 - i is coefficient i: symmetric
    blocks = [_bits(hashes, by_frequency[first :: radius + 2]) for first in range(radius + 2)]
    n, cut = len(hashes), 0
    keys = np.empty(0, dtype=np.int64)
    for upper, lower in itertools.combinations(blocks, 2):
        key = (upper << np.uint64(32)) | lower
        order = np.argsort(key, kind="stable")
        sorted_key = key[order]
        found = []
        for step in range(1, WINDOW + 1):
            together = np.flatnonzero(sorted_key[step:] == sorted_key[:-step])
            if len(together) == 0:
                break
            left, right = order[together], order[together + step]
            close = np.bitwise_count(hashes[left] ^ hashes[right]) <= radius
            found.append(np.minimum(left, right)[close] * n + np.maximum(left, right)[close])
        else:
            if n > WINDOW + 1:
                cut += int((sorted_key[WINDOW + 1 :] == sorted_key[: -WINDOW - 1]).sum())
        keys = np.unique(np.concatenate([keys, *found]))
    return np.stack([keys // max(n, 1), keys % max(n, 1)], axis=1), cut


def _bits(hashes: np.ndarray, bits: list[int]) -> np.ndarray:
    """Gather some bits of each hash into one small number, uint64 (n,)."""
    gathered = np.zeros_like(hashes)
    for place, bit in enumerate(bits):
        gathered |= ((hashes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(place)
    return gathered
