"""Label-free figures of embeddings: closed forms, invariances, and what counts as collapsed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wazuka.training.embedding_monitor import collapsed, embedding_figures


def normal(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corners(dim: int) -> torch.Tensor:
    """The unit vectors and their opposites: (2 dim, dim), mean 0, every dimension alike."""
    return torch.cat([torch.eye(dim), -torch.eye(dim)]).double()


def test_evenly_spread_directions_have_the_figures_of_their_closed_form() -> None:
    dim = 5
    figures = embedding_figures(corners(dim))
    assert figures["spread"] == pytest.approx(1)
    assert figures["dead"] == 0
    assert figures["effective_rank"] == pytest.approx(dim)
    pairs, opposite = math.comb(2 * dim, 2), dim
    kernel = (opposite * math.exp(-2 * 4) + (pairs - opposite) * math.exp(-2 * 2)) / pairs
    assert figures["uniformity"] == pytest.approx(math.log(kernel))


def test_the_effective_rank_is_the_exponential_of_the_entropy_of_the_singular_values() -> None:
    embeddings = normal(20, 6) * torch.tensor([5.0, 3, 1, 1, 0.1, 0])
    points = embeddings / embeddings.norm(dim=1, keepdim=True)
    values = torch.linalg.eigvalsh((points - points.mean(0)).T @ (points - points.mean(0))).clamp(min=0).sqrt()
    shares = [float(one / values.sum()) for one in values if one > 1e-6]
    expected = math.exp(-sum(one * math.log(one) for one in shares))
    figures = embedding_figures(embeddings)
    assert figures["effective_rank"] == pytest.approx(expected, rel=1e-4)
    assert figures["dead"] == pytest.approx(1 / 6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_length_and_rotation_of_embeddings_have_no_part_in_the_figures(seed: int, length: float) -> None:
    embeddings, other = normal(10, 4, seed), normal(10, 4, seed + 1)
    turn, _ = torch.linalg.qr(normal(4, 4, seed + 2))
    expected = embedding_figures(embeddings, other)
    found = embedding_figures(length * embeddings @ turn, other @ turn)
    for name in ("effective_rank", "uniformity", "alignment"):
        assert found[name] == pytest.approx(expected[name])
    assert embedding_figures(length * embeddings)["spread"] == pytest.approx(expected["spread"])


def test_alignment_is_the_mean_squared_distance_of_unit_vectors() -> None:
    first, second = normal(8, 3), normal(8, 3, seed=1)
    cosines = torch.nn.functional.cosine_similarity(first, second)
    assert embedding_figures(first, second)["alignment"] == pytest.approx(float((2 - 2 * cosines).mean()))
    assert embedding_figures(first, 2 * first)["alignment"] == pytest.approx(0)
    assert embedding_figures(first, -first)["alignment"] == pytest.approx(4)


def test_one_point_and_one_line_are_told_as_collapsed() -> None:
    point = torch.ones(16, 8) + 1e-5 * normal(16, 8)
    assert "collapsed to one point" in str(collapsed(embedding_figures(point)))
    assert embedding_figures(torch.ones(16, 8))["effective_rank"] == 0
    ends = torch.where(torch.arange(16)[:, None] % 2 == 0, 1.0, -1.0) * torch.ones(1, 8)
    assert "collapsed to one line" in str(collapsed(embedding_figures(ends)))
    assert collapsed(embedding_figures(normal(16, 8))) is None


def test_values_that_are_not_finite_are_told() -> None:
    figures = embedding_figures(normal(8, 3)) | {"uniformity": float("nan")}
    assert "not finite" in str(collapsed(figures))
