"""Mean and spread of a few figures (one a seed), the text cell that shows them, and the t interval of a mean."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """mean. std: of the sample (n - 1 in the denominator), None for one figure. n: number of figures."""

    mean: float
    std: float | None
    n: int

    def cell(self, digits: int = 1) -> str:
        """ "36.2 ± 0.4"; "36.2" for one figure."""
        return f"{self.mean:.{digits}f}" + ("" if self.std is None else f" ± {self.std:.{digits}f}")


def spread(values: Sequence[float]) -> Spread | None:
    """Of the finite values; None if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    return Spread(statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else None, len(finite))


def t_half_width(values: Sequence[float], *, level: float = CONFIDENCE) -> float:
    """t((1 + level) / 2, n - 1) s / sqrt(n): half of the two-sided interval of the mean of n >= 2 independent, about normal
    values."""
    from scipy.special import stdtrit  # takes a moment to import, and most tables show no interval

    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))
