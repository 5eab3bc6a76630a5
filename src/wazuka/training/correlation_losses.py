"""Losses that bring the cross-correlation of two views' embeddings to the identity, on large batches in small parts.

Zbontar et al. (2021), Barlow Twins (arXiv:2103.03230), equations 1 and 2; Park & Ryu (2024), FG-SSL (arXiv:2308.05770).
The correlation is one of a whole batch. Where that lies on several processes, sums run over all of them; where it does
not fit in memory, `with_cached_embeddings` computes the same gradient in parts (Gao et al. 2021, arXiv:2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from wazuka.core.errors import unknown_name
from wazuka.nn.joint_batch import joint_moments, kept_statistics, sum_over_processes

Weighting = Literal["barlow", "equal"]
"""How diagonal and off-diagonal entries count: see `correlation_loss`."""

EPSILON = 1e-5
"""Added to variances, as in batch normalization: a constant feature becomes 0."""


def standardize(features: torch.Tensor, *, eps: float = EPSILON) -> torch.Tensor:
    """Shift and scale every feature to mean 0 and (biased) variance 1 over the batch of all processes.

    Args:
        features: (B, D); half precision is computed in float32.
        eps: Added to the variance.

    Returns:
        (B, D) float32, or float64 for float64.
    """
    values = _precise(features)
    with torch.autocast(values.device.type, enabled=False):
        mean, variance, _ = joint_moments(values)
        return (values - mean) * torch.rsqrt(variance + eps)


def cross_correlation(a: torch.Tensor, b: torch.Tensor, *, eps: float = EPSILON) -> torch.Tensor:
    """Correlate every feature of one view with every feature of another: C_ij = mean of z_i of `a` times z_j of `b`.

    Args:
        a, b: Embeddings of two views of the same B images, (B, D); B counts those of this process.
        eps: As in `standardize`.

    Returns:
        (D, D) float32 (float64 for float64) in [-1, 1], of the batch of all processes and the same on each.
    """
    assert a.shape == b.shape, (a.shape, b.shape)
    with torch.autocast(a.device.type, enabled=False):
        count = sum_over_processes(torch.full((), float(len(a)), device=a.device))
        return sum_over_processes(standardize(a, eps=eps).T @ standardize(b, eps=eps)) / count


def correlation_loss(c: torch.Tensor, *, weighting: Weighting = "barlow", off_diagonal: float = 0.005) -> torch.Tensor:
    """Distance of a cross-correlation from the identity.

    Args:
        c: (D, D).
        weighting: "barlow": sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2. "equal": off_diagonal^2 times
            the sum over all entries of (C - I)^2, as FG-SSL's code was released: D times as many entries ask for no
            redundancy as ask for agreement, all with one weight.
        off_diagonal: lambda of either; 0.005 in both papers' code.

    Returns:
        A scalar, 0 for the identity.

    Raises:
        ConfigError: If the weighting is unknown.
    """
    assert c.ndim == 2 and c.shape[0] == c.shape[1], c.shape
    if weighting == "equal":
        identity = torch.eye(len(c), device=c.device, dtype=c.dtype)
        return off_diagonal**2 * (c - identity).square().sum()
    if weighting != "barlow":
        raise unknown_name("weighting", weighting, get_args(Weighting))
    diagonal = c.diagonal()
    others = c - torch.diag(diagonal)
    return (1 - diagonal).square().sum() + off_diagonal * others.square().sum()


def with_cached_embeddings(
    network: nn.Module,
    encode: Callable[[Any], Sequence[torch.Tensor]],
    micro_batches: Sequence[Any],
    loss: Callable[..., torch.Tensor],
) -> Iterator[torch.Tensor]:
    """Compute the gradient of a loss on the embeddings of a whole batch with the memory of one micro-batch.

    First all embeddings without a graph, then the loss's gradient with respect to them, then micro-batch after
    micro-batch once more with a graph, backward from its share of that gradient. Costs one more forward pass. Equal to
    one backward pass through everything at once; layers that draw (dropout) draw the same both times, and running
    statistics of batch norm move once a micro-batch. Batch norm itself normalizes by the micro-batch.

    Args:
        network: All modules that `encode` uses, in training mode.
        encode: Micro-batch -> embeddings (b, D) of its views, the same number for each; apart from the network's layers
            it must draw nothing itself.
        micro_batches: Parts of the batch; one part is passed through only once.
        loss: Takes the embeddings of the whole batch, (B, D) for each view in the order of `encode`; gives a scalar that
            depends on all of them.

    Yields:
        A scalar for each micro-batch, to be passed backward before the next is asked for. They sum to the loss.
    """
    if len(micro_batches) == 1:
        yield loss(*encode(micro_batches[0]))
        return
    device = next(network.parameters()).device
    gpu = [device] if device.type == "cuda" else []
    states: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    found: list[Sequence[torch.Tensor]] = []
    with torch.no_grad(), kept_statistics(network):
        for one in micro_batches:
            states.append((torch.get_rng_state(), [torch.cuda.get_rng_state(each) for each in gpu]))
            found.append(encode(one))
    torch.clear_autocast_cache()  # weights that were cast without a graph must not serve the pass with one
    whole = [torch.cat([one.detach() for one in view]).requires_grad_() for view in zip(*found, strict=True)]
    total = loss(*whole)
    gradients = torch.autograd.grad(total, whole)
    sizes = [len(one[0]) for one in found]
    shares = zip(*(one.split(sizes) for one in gradients), strict=True)
    value = total.detach() / len(sizes)
    del found, whole, total
    for one, (state, gpu_states), share in zip(micro_batches, states, shares, strict=True):
        with torch.random.fork_rng(devices=gpu):
            torch.set_rng_state(state)
            for each, gpu_state in zip(gpu, gpu_states, strict=True):
                torch.cuda.set_rng_state(gpu_state, each)
            embeddings = encode(one)
        part = torch.stack([(x * g).sum() for x, g in zip(embeddings, share, strict=True)]).sum()
        yield part + (value - part.detach())  # the gradient of `part`, the value of the loss


def _precise(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()
