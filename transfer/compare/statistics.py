"""The one rule by which studies, sweeps and reports compare two sets of figures: differences paired by seed, with an interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pretrain.base.figures import CONFIDENCE, t_half_width

SAME = 1e-9  # differences are equal up to this: the rounding of figures is not a spread


@dataclass(frozen=True)
class PairedDifference:
    """Ours minus baseline over the seeds that both have, and whether it may be called a difference.

    mean: of the differences.
    wins: seeds in which ours is strictly higher.
    n: number of seeds.
    half_width: of the two-sided t interval of the mean; None where none can be given: one seed, or several that all differ
        by the same (figures that coarse, or seeds that change nothing, show no spread, which is not a spread of 0).
    level: of the interval, 0.95 for a comparison that stands alone.
    """

    mean: float
    wins: int
    n: int
    half_width: float | None
    level: float = CONFIDENCE

    @property
    def verdict(self) -> Literal["higher", "lower", "not told apart", "one seed"]:
        """What may be said of ours: the interval lies above 0, below 0, or neither."""
        if self.n == 1:
            return "one seed"
        side = self.side_of(0.0)
        return "higher" if side == "above" else "lower" if side == "below" else "not told apart"

    def side_of(self, margin: float) -> Literal["above", "below", "undecided"]:
        """Where the interval lies: all of it above or below `margin`, else undecided, as without an interval."""
        if self.half_width is None or abs(self.mean - margin) <= self.half_width:
            return "undecided"
        return "above" if self.mean > margin else "below"

    def interval(self) -> str:
        """ "+1.2 to +9.4", or why there is none."""
        if self.half_width is not None:
            return f"{self.mean - self.half_width:+.1f} to {self.mean + self.half_width:+.1f}"
        return "none (one seed)" if self.n == 1 else "none (all seeds differ by the same)"


def plain_difference(difference: PairedDifference | None) -> dict[str, Any] | None:
    """Ready for JSON: the fields, the ends of the interval and the verdict."""
    if difference is None:
        return None
    mean, half_width = difference.mean, difference.half_width
    interval = None if half_width is None else [mean - half_width, mean + half_width]
    return {**asdict(difference), "interval": interval, "verdict": difference.verdict}


def paired_difference(
    ours: Mapping[int, float], baseline: Mapping[int, float], *, comparisons: int = 1
) -> PairedDifference | None:
    """The one rule of studies, sweeps and reports: seed -> figure of both, paired over the common seeds with finite figures.

    Student's two-sided interval for paired samples, of 95 % for all `comparisons` of one question together (Bonferroni: each
    at 1 - 0.05 / comparisons), so that where nothing differs, any of them says otherwise in at most 5 % of experiments
    (tests/benchmarks/false_alarms.py). It assumes about normal differences; with few seeds it is wide, and rightly so.
    None without a common seed.
    """
    seeds = [seed for seed in ours if seed in baseline and math.isfinite(ours[seed]) and math.isfinite(baseline[seed])]
    differences = [ours[seed] - baseline[seed] for seed in seeds]
    n = len(differences)
    if n == 0:
        return None
    level = 1 - (1 - CONFIDENCE) / comparisons
    spreads = max(differences) - min(differences) > SAME * max(1.0, *map(abs, differences))
    half_width = t_half_width(differences, level=level) if spreads else None
    return PairedDifference(statistics.fmean(differences), sum(d > 0 for d in differences), n, half_width, level)
