"""The one rule by which studies, sweeps and reports compare two sets of figures: paired differences with an interval.

In: figures of two rows by seed, or by (seed of the pre-training, seed of the run). Out: their mean difference, its t interval,
an exact p value, and what spread stands behind it. What the test images decide is bootstrap.py's.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from pretrain.base.figures import CONFIDENCE, t_half_width

SAME = 1e-9  # differences are equal up to this: the rounding of figures is not a spread
EXACT = 18  # numbers of differences up to which all signs are tried
DRAWS = 20_000  # of signs beyond that
Cells = Mapping[tuple[int | None, int], float]  # (seed of the pre-training, of the run) -> figure


@dataclass(frozen=True)
class PermutationTest:
    """Two-sided sign-flip test of a mean of 0.

    p: share of the 2^n ways to sign the differences whose mean lies at least as far from 0.
    floor: the smallest p that n differences can have, 2 / 2^n: five cannot go below 0.0625.
    """

    p: float
    floor: float
    n: int

    def cell(self) -> str:
        """ "0.25 (floor 0.25)"."""
        return f"{self.p:.3g} (floor {self.floor:.2g})"


@dataclass(frozen=True)
class PairedDifference:
    """Ours minus baseline over the units that both have, and whether it may be called a difference.

    mean: of the differences.
    wins: units in which ours is strictly higher.
    n: number of units.
    half_width: of the two-sided t interval of the mean; None where none can be given: one unit, or several that all differ
        by the same (figures that coarse, or seeds that change nothing, show no spread, which is not a spread of 0).
    level: of the interval, 0.95 for a comparison that stands alone.
    unit: what the units are. The seeds of fine-tuning of one pre-training are averaged within it.
    num_seeds: seeds of the run within a unit; 1 where a unit is a seed.
    between, within: standard deviation of a difference between pre-trainings and between the seeds of one, where both are known.
    differences: of the units. by_seed: over the pre-trainings, by seed of the run, where both were repeated.
    """

    mean: float
    wins: int
    n: int
    half_width: float | None
    level: float = CONFIDENCE
    unit: Literal["seed", "pre-training"] = "seed"
    num_seeds: int = 1
    between: float | None = None
    within: float | None = None
    differences: tuple[float, ...] = ()
    by_seed: tuple[float, ...] = ()

    @property
    def test(self) -> PermutationTest | None:
        """Of the same differences, without the assumption that they are normal; None for one unit.

        Where pre-trainings and seeds were repeated, the means of the one share the other: the larger p holds for both.
        """
        if self.n < 2:
            return None
        tests = [permutation_test(values) for values in (self.differences, self.by_seed) if values]
        return PermutationTest(max(test.p for test in tests), max(test.floor for test in tests), self.n)

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

    def units(self) -> str:
        """ "3 seeds", "3 pre-trainings x 5 seeds"."""
        if self.unit == "seed":
            return f"{self.n} seed{'' if self.n == 1 else 's'}"
        return f"{self.n} pre-trainings x {self.num_seeds} seed{'' if self.num_seeds == 1 else 's'}"


def plain_difference(difference: PairedDifference | None) -> dict[str, Any] | None:
    """Ready for JSON: the fields, the ends of the interval and the verdict."""
    if difference is None:
        return None
    mean, half_width = difference.mean, difference.half_width
    interval = None if half_width is None else [mean - half_width, mean + half_width]
    test = difference.test
    more = {"verdict": difference.verdict, "permutation": test and asdict(test)}
    return {**asdict(difference), "interval": interval, **more}


# --- differences by seed ----------------------------------------------------------------------------------------------


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
    return _of_units([ours[seed] - baseline[seed] for seed in seeds], level=_level(comparisons))


def _of_units(differences: Sequence[float], *, level: float) -> PairedDifference | None:
    n = len(differences)
    if n == 0:
        return None
    half_width = t_half_width(differences, level=level) if _spreads(differences) else None
    wins = sum(d > 0 for d in differences)
    return PairedDifference(statistics.fmean(differences), wins, n, half_width, level, differences=tuple(differences))


def _level(comparisons: int) -> float:
    return 1 - (1 - CONFIDENCE) / comparisons


def _spreads(values: Sequence[float]) -> bool:
    return max(values) - min(values) > SAME * max(1.0, *map(abs, values))


# --- differences by pre-training and seed -----------------------------------------------------------------------------


def compare_cells(ours: Cells, baseline: Cells, *, comparisons: int = 1) -> PairedDifference | None:
    """The rule where pre-trainings were repeated too: figures by (seed of the pre-training, seed of the run) of both.

    The pre-training is the unit, the seeds of the run are averaged within it. A row with one pre-training, or none, is compared
    with every pre-training of the other, seed by seed. With one pre-training on both sides this is `paired_difference`.

    Over P pre-trainings x S seeds that all have, the difference is mean + pre-training + seed + rest. A t interval over the P
    means alone takes the seeds' part for a constant, and covers 65 to 87 % of 95 where random weights, which have no
    pre-training, are the baseline (tests/benchmarks/coverage.py). Here the mean has the variance (MS_P + MS_S) / (P S), with
    Satterthwaite's degrees of freedom: never less than the truth, as MS_P + MS_S exceeds it by the rest's part. With two
    pre-trainings or two seeds that approximation falls short; there the wider of the two one-way t intervals is taken.
    """
    ours, baseline = _finite(ours), _finite(baseline)
    several = [len({p for p, _ in cells}) > 1 for cells in (ours, baseline)]
    if not any(several):
        by_seed = [{seed: value for (_, seed), value in cells.items()} for cells in (ours, baseline)]
        return paired_difference(*by_seed, comparisons=comparisons)
    if all(several):
        found = {key: ours[key] - baseline[key] for key in ours if key in baseline}
    elif several[0]:
        once = {seed: value for (_, seed), value in baseline.items()}
        found = {(p, seed): value - once[seed] for (p, seed), value in ours.items() if seed in once}
    else:
        once = {seed: value for (_, seed), value in ours.items()}
        found = {(p, seed): once[seed] - value for (p, seed), value in baseline.items() if seed in once}
    return _of_pretrainings(found, level=_level(comparisons))


def _finite(cells: Cells) -> dict[tuple[int | None, int], float]:
    return {key: value for key, value in cells.items() if math.isfinite(value)}


def _of_pretrainings(found: Cells, *, level: float) -> PairedDifference | None:
    by_pretraining: dict[int | None, dict[int, float]] = {}
    for (p, seed), value in found.items():
        by_pretraining.setdefault(p, {})[seed] = value
    if len(by_pretraining) < 2:
        return _of_units(list(found.values()), level=level)
    common = set.intersection(*(set(of_one) for of_one in by_pretraining.values()))
    if len(common) < 2:  # a run each, of one seed or of seeds of their own
        means = [statistics.fmean(of_one.values()) for of_one in by_pretraining.values()]
        one = _of_units(means, level=level)
        assert one is not None
        counts = [len(of_one) for of_one in by_pretraining.values()]
        return replace(one, unit="pre-training", num_seeds=min(counts))
    grid = np.array([[of_one[seed] for seed in sorted(common)] for of_one in by_pretraining.values()])
    (num_p, num_s), mean = grid.shape, float(grid.mean())
    rows, columns = grid.mean(axis=1), grid.mean(axis=0)
    between, within = spread_of_sources(grid)
    return PairedDifference(
        mean,
        wins=int((rows > 0).sum()),
        n=num_p,
        half_width=_two_way_half_width(rows, columns, level=level) if _spreads(grid.ravel().tolist()) else None,
        level=level,
        unit="pre-training",
        num_seeds=num_s,
        between=between,
        within=within,
        differences=tuple(rows.tolist()),
        by_seed=tuple(columns.tolist()),
    )


def _two_way_half_width(rows: np.ndarray, columns: np.ndarray, *, level: float) -> float | None:
    """Of the mean of a complete table, from its means by pre-training and by seed."""
    from scipy.special import stdtrit  # takes a moment to import

    if min(len(rows), len(columns)) < 3:
        halves = [t_half_width(means.tolist(), level=level) for means in (rows, columns)]
        return max(halves) or None
    # Variances of the mean by each one-way table: MS_P / (P S) = var(rows) / P, and the same for the seeds.
    parts = [float(means.var(ddof=1)) / len(means) for means in (rows, columns)]
    total = sum(parts)
    if total == 0.0:
        return None
    freedom = total**2 / sum(part**2 / (len(means) - 1) for part, means in zip(parts, (rows, columns), strict=True))
    return float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(total)


def spread_of_sources(grid: np.ndarray) -> tuple[float, float]:
    """(P pre-trainings, S seeds) of figures -> standard deviation between pre-trainings, and between the seeds of one.

    The balanced random-effects model figure = mean + pre-training + rest, by its analysis of variance (which is REML's answer
    where that of the pre-trainings is not negative; else 0).
    """
    num_seeds = grid.shape[1]
    within = float(grid.var(axis=1, ddof=1).mean())
    between = float(grid.mean(axis=1).var(ddof=1)) - within / num_seeds
    return math.sqrt(max(0.0, between)), math.sqrt(within)


# --- p values ---------------------------------------------------------------------------------------------------------


def permutation_test(differences: Sequence[float]) -> PermutationTest:
    """Exact for up to EXACT differences, of which all 2^n signs are tried; beyond, from DRAWS draws of signs and the
    observed one (Phipson and Smyth 2010), which is never 0. It assumes differences that are symmetric around their mean.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    assert n > 0, "expected at least one difference"
    observed = abs(values.sum()) - SAME * max(1.0, float(np.abs(values).max()))
    if n <= EXACT:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return PermutationTest(float((np.abs(sums) >= observed).mean()), 2.0 / 2**n, n)
    signs = np.random.default_rng(0).integers(0, 2, (DRAWS, n)) * 2 - 1
    hits = int((np.abs(signs @ values) >= observed).sum())
    return PermutationTest((hits + 1) / (len(signs) + 1), 1.0 / (len(signs) + 1), n)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment: each at most 0.05 where it may be called a difference with 5 % false alarms over all."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    scaled = (min(1.0, (len(p_values) - rank) * p_values[index]) for rank, index in enumerate(order))
    adjusted = dict(zip(order, itertools.accumulate(scaled, max), strict=True))
    return tuple(adjusted[index] for index in range(len(p_values)))
