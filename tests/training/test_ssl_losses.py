"""The losses of joint embedding, against sums written out and against another library where it is installed."""

from __future__ import annotations

import math

import pytest
import torch

from wazuka.training.correlation_losses import correlation_loss, cross_correlation
from wazuka.training.ssl_losses import negative_cosine, nt_xent, vicreg

B, D = 6, 4


def views(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(B, D, generator=generator, dtype=torch.float64)
    return first, first + 0.3 * torch.randn(B, D, generator=generator, dtype=torch.float64)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def test_negative_cosine_is_the_mean_over_images_and_stops_the_target_s_gradient() -> None:
    first, second = views()
    first.requires_grad_()
    second.requires_grad_()
    loss = negative_cosine(first, second)
    pairs = zip(first.detach(), second.detach(), strict=True)
    assert loss.item() == pytest.approx(-sum(cosine(a, b) for a, b in pairs) / B)
    loss.backward()
    assert second.grad is None and first.grad is not None
    assert negative_cosine(first, 3 * first).item() == pytest.approx(-1)


def test_simclr_s_loss_is_the_written_out_sum_over_all_pairs() -> None:
    first, second = views()
    points, tau = torch.cat([first, second]), 0.2
    total = 0.0
    for i in range(2 * B):
        partner = (i + B) % (2 * B)
        others = sum(math.exp(cosine(points[i], points[k]) / tau) for k in range(2 * B) if k != i)
        total -= math.log(math.exp(cosine(points[i], points[partner]) / tau) / others)
    assert nt_xent(first, second, temperature=tau).item() == pytest.approx(total / (2 * B))


def test_simclr_s_loss_of_equal_embeddings_is_the_entropy_of_a_guess() -> None:
    same = torch.ones(B, D)
    assert nt_xent(same, same, temperature=0.5).item() == pytest.approx(math.log(2 * B - 1), abs=1e-5)


def test_vicreg_s_terms_are_the_written_out_sums() -> None:
    first, second = views()
    only = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}
    agree = sum(float((first[i, j] - second[i, j]) ** 2) for i in range(B) for j in range(D)) / (B * D)
    assert vicreg(first, second, **only | {"invariance": 2.0}).item() == pytest.approx(2 * agree)
    spread = covariance = 0.0
    for points in (first, second):
        means = [float(points[:, j].sum()) / B for j in range(D)]
        matrix = [
            [sum(float((p[j] - means[j]) * (p[k] - means[k])) for p in points) / (B - 1) for k in range(D)]
            for j in range(D)
        ]
        spread += sum(max(0.0, 1 - math.sqrt(matrix[j][j] + 1e-4)) for j in range(D)) / D
        covariance += sum(matrix[j][k] ** 2 for j in range(D) for k in range(D) if j != k) / D
    assert spread > 0
    assert vicreg(first, second, **only | {"variance": 1.0}).item() == pytest.approx(spread / 2)
    assert vicreg(first, second, **only | {"covariance": 1.0}).item() == pytest.approx(covariance)


def test_collapsed_embeddings_have_the_highest_variance_term() -> None:
    same = torch.ones(B, D)
    loss = vicreg(same, same, invariance=25.0, variance=1.0, covariance=1.0)
    assert loss.item() == pytest.approx(1 - 0.01)


def test_they_are_those_of_lightly() -> None:
    loss = pytest.importorskip("lightly.loss", reason="lightly is not installed")
    first, second = (one.float() for one in views())
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(negative_cosine(first, second), loss.NegativeCosineSimilarity()(first, second), **close)
    torch.testing.assert_close(nt_xent(first, second, temperature=0.5), loss.NTXentLoss(0.5)(first, second), **close)
    ours = vicreg(first, second, invariance=25.0, variance=25.0, covariance=1.0)
    torch.testing.assert_close(ours, loss.VICRegLoss()(first, second), **close)
    ours = correlation_loss(cross_correlation(first, second))
    torch.testing.assert_close(ours, loss.BarlowTwinsLoss(lambda_param=0.005)(first, second), rtol=1e-3, atol=1e-4)
