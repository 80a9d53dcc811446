"""Correlated Gaussians: pairs of views whose mutual information and best critic are known in closed form.

D independent pairs of coordinates with correlation rho: I = -D/2 ln(1 - rho^2) nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pretrain.good_views.information import Scores, in_batch


def true_information(dim: int, rho: float) -> float:
    """I in nats."""
    return -dim / 2 * math.log(1 - rho * rho)


def correlation_for(dim: int, nats: float) -> float:
    """The rho at which `dim` pairs of coordinates share `nats`."""
    return math.sqrt(-math.expm1(-2 * nats / dim))


def draw(count: int, dim: int, rho: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` pairs: two tensors (count, dim), float64."""
    first, noise = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    return first, rho * first + math.sqrt(1 - rho * rho) * noise


def log_ratio(first: Tensor, second: Tensor, rho: float) -> Tensor:
    """ln p(x, y) / p(x)p(y), summed over the last dimension: the best critic."""
    rest = 1 - rho * rho
    terms = rho * (2 * first * second - rho * (first**2 + second**2)) / (2 * rest) - math.log(rest) / 2
    return terms.sum(dim=-1)


def ideal_batches(dim: int, rho: float, *, count: int, size: int, seed: int = 0) -> Iterator[Scores]:
    """`count` in-batch scores of `size` fresh pairs by the best critic."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        first, second = draw(size, dim, rho, generator)
        yield in_batch(log_ratio(first[:, None], second[None], rho))
