"""How often a rule of statistics sees a difference where there is none, and how often it finds one that is there.

    python tests/benchmarks/false_alarms.py [--experiments 20000]

In: simulated figures, normal, deviation 1 over seeds (so effects are in units of it); "shared" adds an effect of each seed
that all settings share (deviation 2: an easy or a hard draw of labels). Out: Markdown tables, in percent of experiments.

spread  sweeps until issue 10: the difference of means beyond hypot(std, std)
every   studies until issue 10: A above B in every seed
rule    transfer/compare/statistics.py: the paired t interval, Bonferroni over all pairs of settings of a sweep
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from scipy.special import stdtrit  # noqa: E402

SEEDS = (2, 3, 5, 20)
SETTINGS = 5
SHARED = 2.0  # deviation of a seed's own effect
Figures = np.ndarray  # (experiments, settings, seeds)


def simulate(
    experiments: int, num_seeds: int, *, effects: tuple[float, ...], shared: float, rng: np.random.Generator
) -> Figures:
    """Figures of settings whose true means are `effects`."""
    seed_effect = shared * rng.normal(size=(experiments, 1, num_seeds))
    return np.asarray(effects)[None, :, None] + seed_effect + rng.normal(size=(experiments, len(effects), num_seeds))


def spread_rule(first: Figures, second: Figures) -> np.ndarray:
    """(experiments, seeds) twice -> whether the means differ by more than the deviation of a single difference."""
    noise = np.hypot(first.std(axis=1, ddof=1), second.std(axis=1, ddof=1))
    return np.abs(first.mean(axis=1) - second.mean(axis=1)) > noise


def every_seed_rule(first: Figures, second: Figures) -> np.ndarray:
    """Whether the first is above the second in every seed."""
    return (first > second).all(axis=1)


def paired_rule(first: Figures, second: Figures, *, comparisons: int = 1) -> np.ndarray:
    """`paired_difference(...).verdict` is "higher" or "lower", for many experiments at once (a test compares the two)."""
    differences = first - second
    n = differences.shape[1]
    quantile = stdtrit(n - 1, 1 - 0.05 / comparisons / 2)
    half_width = quantile * differences.std(axis=1, ddof=1) / np.sqrt(n)
    return np.abs(differences.mean(axis=1)) > half_width


def sweep_alarms(figures: Figures, rule: str) -> np.ndarray:
    """(experiments, settings, seeds) -> whether a sweep's sentences state any difference: the best mean against its neighbours,
    and "rises and then falls", where it lies inside, against both ends."""
    count, settings, _ = figures.shape
    everyone = np.arange(count)
    best = figures.mean(axis=2).argmax(axis=1)
    chosen = figures[everyone, best]

    def differs(other: np.ndarray) -> np.ndarray:
        rival = figures[everyone, np.clip(other, 0, settings - 1)]
        inside = (other >= 0) & (other < settings) & (other != best)
        if rule == "spread":
            return inside & spread_rule(chosen, rival)
        return inside & paired_rule(chosen, rival, comparisons=settings * (settings - 1) // 2)

    first, last = differs(np.zeros_like(best)), differs(np.full_like(best, settings - 1))
    interior = (best > 0) & (best < settings - 1)
    return differs(best - 1) | differs(best + 1) | (interior & first & last)


def percent(alarms: np.ndarray) -> str:
    return f"{100 * alarms.mean():.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=20_000)
    experiments = parser.parse_args().experiments
    rng = np.random.default_rng(0)
    print(f"{experiments:,} experiments each, percent\n\nFalse alarms: nothing differs\n")
    print("| seeds | shared | two: spread | two: every | two: rule | sweep of 5: spread | sweep of 5: rule |")
    print(f"|{'---|' * 7}")
    for num_seeds in SEEDS:
        for shared in (0.0, SHARED):
            two = simulate(experiments, num_seeds, effects=(0.0, 0.0), shared=shared, rng=rng)
            five = simulate(experiments, num_seeds, effects=(0.0,) * SETTINGS, shared=shared, rng=rng)
            pair = two[:, 0], two[:, 1]
            cells = [spread_rule(*pair), every_seed_rule(*pair), paired_rule(*pair)]
            cells += [sweep_alarms(five, "spread"), sweep_alarms(five, "rule")]
            print(f"| {num_seeds} | {'yes' if shared else 'no'} | {' | '.join(map(percent, cells))} |")
    print("\nPower: one of two is higher by so many deviations; of a sweep of 5, the middle one\n")
    print("| seeds | two: 1 | two: 2 | two: 3 | two: spread, 1 | sweep of 5: 2 | sweep of 5: 3 |")
    print(f"|{'---|' * 7}")
    for num_seeds in (2, 3, 4, 5, 6, 8, 10, 12, 20):
        drawn = {
            size: simulate(experiments, num_seeds, effects=(size, 0.0), shared=SHARED, rng=rng) for size in (1, 2, 3)
        }
        cells = [paired_rule(found[:, 0], found[:, 1]) for found in drawn.values()]
        cells.append(spread_rule(drawn[1][:, 0], drawn[1][:, 1]))
        for size in (2.0, 3.0):
            effects = (0.0, 0.0, size, 0.0, 0.0)
            five = simulate(experiments, num_seeds, effects=effects, shared=SHARED, rng=rng)
            cells.append(sweep_alarms(five, "rule"))
        print(f"| {num_seeds} | {' | '.join(map(percent, cells))} |")


if __name__ == "__main__":
    main()
