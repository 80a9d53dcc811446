"""Statistics of a comparison: mean and spread over seeds, and the paired difference to a baseline.

In: figures by seed. Out: `Spread`, `PairedDifference`. Nothing here knows where the figures came from.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1 in the denominator) of n figures; std is None for n = 1."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Ours minus baseline over the seeds that both have.

    wins: seeds in which ours is strictly higher. half_width: of the two-sided 95 % t interval of the mean difference,
    None for n = 1 (no interval can be given).
    """

    mean: float
    wins: int
    n: int
    half_width: float | None


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and spread of the finite values; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    std = statistics.stdev(finite) if len(finite) > 1 else None
    return Spread(statistics.fmean(finite), std, len(finite))


def paired_difference(ours: Mapping[int, float], baseline: Mapping[int, float]) -> PairedDifference | None:
    """Difference by seed, over the common seeds with finite figures; None if there are none.

    Interval: mean +- t(0.975, n - 1) s / sqrt(n), Student's for paired samples. It assumes normal differences; with
    three seeds it is wide, and rightly so.
    """
    seeds = [seed for seed in ours if seed in baseline and math.isfinite(ours[seed]) and math.isfinite(baseline[seed])]
    differences = [ours[seed] - baseline[seed] for seed in seeds]
    n = len(differences)
    if n == 0:
        return None
    half_width = None
    if n > 1:
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
        half_width = quantile * statistics.stdev(differences) / math.sqrt(n)
    return PairedDifference(statistics.fmean(differences), sum(d > 0 for d in differences), n, half_width)
