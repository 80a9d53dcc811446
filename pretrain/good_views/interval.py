"""95 % intervals of a mutual-information bound: over independent batches, or by a bootstrap over the pairs of a few."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pretrain.base.figures import CONFIDENCE, t_half_width

NUM_RESAMPLES = 1000
RESAMPLES_AT_ONCE = 100  # (K, 100) counts in memory: 26 MB of float32 for K = 65536


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """mean +- t(0.975, n - 1) s / sqrt(n) of n >= 2 independent values. Assumes that they are about normal."""
    mean, half_width = math.fsum(values) / len(values), t_half_width(values)
    return mean - half_width, mean + half_width


def bootstrap_interval(
    row_bound: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    batches: Sequence[tuple[Tensor, Tensor, bool]],
    *,
    value: float,
) -> tuple[float, float]:
    """value +- t(0.975, n - 1) times the bootstrap's standard error, n the pairs; batches of (positive, negative, within).

    Rows are drawn with replacement. The negatives' columns are drawn too, because all rows share them: with the rows'
    own counts within a batch (a pair's two halves go together, and copies of one pair are no negatives of each other),
    apart for a memory. Drawing rows alone would leave out the chance in the keys. Seeded: the same scores, the same interval.
    """
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(NUM_RESAMPLES, dtype=torch.float64)
    for positive, negative, within in batches:
        total += _resampled(row_bound, positive.cpu(), negative.cpu(), within=within, generator=generator)
    error = float((total / len(batches)).std())
    pairs = sum(len(positive) for positive, _, _ in batches)
    from scipy.special import stdtrit  # takes a moment to import

    half_width = float(stdtrit(pairs - 1, (1 + CONFIDENCE) / 2)) * error
    return value - half_width, value + half_width


def _resampled(
    row_bound: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    positive: Tensor,
    negative: Tensor,
    *,
    within: bool,
    generator: torch.Generator,
) -> Tensor:
    """(NUM_RESAMPLES,) values of the bound on one batch."""
    rows, columns = negative.shape
    largest = negative.amax(dim=1, keepdim=True)
    weights = (negative.double() - largest.double()).exp()
    if within:
        weights = _unpacked(weights)
    found = []
    for _ in range(NUM_RESAMPLES // RESAMPLES_AT_ONCE):
        row_counts = _counts(rows, generator)
        column_counts = row_counts if within else _counts(columns, generator)
        # Negatives of each row in this resample: all that are drawn, without copies of the row's own pair.
        size = (rows - row_counts if within else torch.full_like(row_counts, columns)).clamp(min=1)
        sums = column_counts @ weights.T
        partition = (sums / size).clamp(min=torch.finfo(torch.float64).tiny).log() + largest.double().squeeze(1)
        found.append(row_bound(positive.double(), partition, row_counts, columns))
    return torch.cat(found)


def _counts(size: int, generator: torch.Generator) -> Tensor:
    """(RESAMPLES_AT_ONCE, size) how often each of `size` is drawn in `size` draws with replacement, float64."""
    draws = torch.randint(size, (RESAMPLES_AT_ONCE, size), generator=generator)
    return torch.zeros(RESAMPLES_AT_ONCE, size, dtype=torch.float64).scatter_add_(
        1, draws, torch.ones(1, 1, dtype=torch.float64).expand(RESAMPLES_AT_ONCE, size)
    )


def _unpacked(negative: Tensor) -> Tensor:
    """(B, B - 1) off-diagonal entries -> (B, B) with a zero diagonal: the way back of `information.in_batch`."""
    rows = negative.shape[0]
    lines = torch.cat([negative.reshape(rows - 1, rows), negative.new_zeros(rows - 1, 1)], dim=1)
    return torch.cat([negative.new_zeros(1), lines.flatten()]).view(rows, rows)
