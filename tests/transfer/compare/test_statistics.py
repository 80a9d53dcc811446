"""Paired differences: the interval is scipy's, only common seeds count, one seed has no interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.benchmarks.false_alarms import every_seed_rule, paired_rule, simulate, spread_rule
from tests.cases import each
from transfer.compare.statistics import compare_cells, holm, paired_difference, permutation_test, spread_of_sources


@each("n", [2, 3, 9])
def test_paired_interval_equals_scipys(n):
    rng = np.random.default_rng(n)
    ours, baseline = rng.normal(31, 2, n), rng.normal(30, 2, n)
    found = paired_difference(dict(enumerate(ours)), dict(enumerate(baseline)))
    interval = stats.ttest_rel(ours, baseline).confidence_interval(0.95)
    assert found is not None and found.half_width is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(tuple(interval))
    assert found.wins == int((ours > baseline).sum()) and found.n == n


def test_only_common_seeds_are_paired_and_a_tie_is_no_win():
    found = paired_difference({0: 5.0, 1: 4.0, 2: 9.0, 4: math.nan}, {1: 4.0, 2: 8.0, 3: 1.0, 4: 1.0})
    assert found is not None and (found.mean, found.wins, found.n) == (0.5, 1, 2)


def test_one_seed_has_no_interval_and_no_common_seed_no_difference():
    found = paired_difference({0: 5.0}, {0: 3.0})
    assert found is not None and found.half_width is None and found.mean == 2.0
    assert found.verdict == "one seed" and found.interval() == "none (one seed)"
    assert paired_difference({0: 5.0}, {1: 3.0}) is None


@each("comparisons", [1, 3, 10])
def test_several_comparisons_share_the_five_percent(comparisons):
    ours, baseline = np.array([31.0, 33.0, 32.5]), np.array([30.0, 31.0, 32.0])
    found = paired_difference(dict(enumerate(ours)), dict(enumerate(baseline)), comparisons=comparisons)
    interval = stats.ttest_rel(ours, baseline).confidence_interval(1 - 0.05 / comparisons)
    assert found is not None and found.half_width is not None
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(tuple(interval))
    assert found.level == pytest.approx(1 - 0.05 / comparisons)


@each(
    ("ours", "verdict", "over_two"),
    [
        ((12.0, 12.4, 12.6), "higher", "above"),
        ((10.8, 11.2, 11.3), "higher", "undecided"),
        ((10.4, 10.6, 10.5), "higher", "below"),
        ((12.0, 8.0, 11.0), "not told apart", "undecided"),
        ((9.4, 9.6, 9.5), "lower", "below"),
        ((12.0, 12.0, 12.0), "not told apart", "undecided"),  # no spread is no proof
        ((12.0,), "one seed", "undecided"),
    ],
)
def test_the_verdict_is_where_the_interval_lies(ours, verdict, over_two):
    found = paired_difference(dict(enumerate(ours)), dict.fromkeys(range(3), 10.0))
    assert found is not None
    assert (found.verdict, found.side_of(1.0)) == (verdict, over_two)


# --- how often the rule sees a difference where there is none ---------------------------------------------------------


def alarms(figures):
    """(experiments, 2, seeds) -> whether `paired_difference` calls the two different."""
    return np.array(
        [paired_difference(dict(enumerate(a)), dict(enumerate(b))).verdict in ("higher", "lower") for a, b in figures]
    )


@pytest.mark.parametrize("shared", [0.0, 2.0], ids=["own seeds", "shared seed effects"])
@pytest.mark.parametrize(("num_seeds", "spread", "every"), [(2, 0.287, 0.25), (3, 0.162, 0.125), (20, 0.0, 0.0)])
def test_two_equal_settings_are_called_different_in_five_percent_of_experiments(num_seeds, spread, every, shared):
    drawn = simulate(4000, num_seeds, effects=(50.0, 50.0), shared=shared, rng=np.random.default_rng(num_seeds))
    found = paired_rule(drawn[:, 0], drawn[:, 1])
    some = np.concatenate([np.arange(200), np.flatnonzero(found)[:40]])
    np.testing.assert_array_equal(alarms(drawn[some]), found[some])
    assert found.mean() == pytest.approx(0.05, abs=0.013)  # four deviations of 4000 draws at 5 %
    # Controls, the rules that this one replaced: their rate depends on the number of seeds.
    assert every_seed_rule(drawn[:, 0], drawn[:, 1]).mean() == pytest.approx(every, abs=0.03)
    if not shared:
        assert spread_rule(drawn[:, 0], drawn[:, 1]).mean() == pytest.approx(spread, abs=0.03)


def test_figures_in_coarse_steps_raise_no_more_alarms():
    """Two seeds that differ by the same to the last digit, because 100 images have steps of 1 %, show no spread."""
    drawn = np.round(simulate(4000, 2, effects=(50.0, 50.0), shared=0.0, rng=np.random.default_rng(0)))
    assert alarms(drawn).mean() <= 0.05
    same = np.ptp(drawn[:, 0] - drawn[:, 1], axis=1) == 0
    moved = drawn[:, 0, 0] != drawn[:, 1, 0]
    assert (same & moved).mean() > 0.08  # control: what an interval of width 0 would have called different


def test_a_difference_of_two_deviations_is_found_with_ten_seeds_and_seldom_with_two():
    def power(num_seeds, size):
        drawn = simulate(500, num_seeds, effects=(size, 0.0), shared=2.0, rng=np.random.default_rng(1))
        return alarms(drawn).mean()

    assert power(10, 2.0) > 0.9 and power(2, 2.0) < 0.2
    assert power(20, 1.0) > 0.8  # where the spread rule finds nothing
    drawn = simulate(500, 20, effects=(1.0, 0.0), shared=2.0, rng=np.random.default_rng(1))
    assert spread_rule(drawn[:, 0], drawn[:, 1]).mean() < 0.01


# --- pre-trainings and seeds ------------------------------------------------------------------------------------------


def grid_of(values, pretrainings=True):
    values = np.asarray(values)
    return {
        (p if pretrainings else None, s): float(values[p, s])
        for p in range(values.shape[0])
        for s in range(values.shape[1])
    }


def test_with_one_pretraining_the_rule_is_the_paired_one():
    ours, baseline = [31.0, 33.0, 32.5], [30.0, 31.0, 32.0]
    expected = paired_difference(dict(enumerate(ours)), dict(enumerate(baseline)), comparisons=2)
    assert compare_cells(grid_of([ours]), grid_of([baseline], pretrainings=False), comparisons=2) == expected
    assert (
        compare_cells(grid_of([ours], pretrainings=False), {(7, s): v for s, v in enumerate(baseline)}, comparisons=2)
        == expected
    )


def test_both_sources_of_spread_widen_the_interval_by_a_slow_reference():
    rng = np.random.default_rng(0)
    ours, baseline = 5 + rng.normal(0, 2, (4, 1)) + rng.normal(0, 1, (4, 5)), rng.normal(0, 1, 5)
    found = compare_cells(grid_of(ours), grid_of([baseline], pretrainings=False))
    table = ours - baseline
    of_p = [np.mean(row) for row in table]
    of_s = [np.mean(column) for column in table.T]
    mean = np.mean(of_p)
    ms_p = 5 * sum((m - mean) ** 2 for m in of_p) / 3
    ms_s = 4 * sum((m - mean) ** 2 for m in of_s) / 4
    freedom = (ms_p + ms_s) ** 2 / (ms_p**2 / 3 + ms_s**2 / 4)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt((ms_p + ms_s) / 20))
    assert (found.mean, found.n, found.unit, found.num_seeds) == (pytest.approx(mean), 4, "pre-training", 5)
    assert found.half_width > stats.t.ppf(0.975, 3) * np.std(of_p, ddof=1) / 2 * 0.9
    turned = compare_cells(grid_of([baseline], pretrainings=False), grid_of(ours))
    assert turned.mean == pytest.approx(-found.mean) and turned.half_width == pytest.approx(found.half_width)


def test_two_pretrainings_have_the_wider_of_both_one_way_intervals():
    ours = np.array([[10.0, 12.0, 11.0], [11.0, 13.5, 11.5]])
    found = compare_cells(grid_of(ours), grid_of([[1.0, 2.0, 3.0]], pretrainings=False))
    table = ours - [1.0, 2.0, 3.0]
    one_way = [
        stats.t.ppf(0.975, len(m) - 1) * np.std(m, ddof=1) / np.sqrt(len(m)) for m in (table.mean(1), table.mean(0))
    ]
    assert found.half_width == pytest.approx(max(one_way))


def test_two_rows_with_pretrainings_are_paired_by_both_seeds_and_a_run_each_by_the_pretraining():
    ours = {(p, s): 10.0 * p + s for p in range(3) for s in range(2)}
    found = compare_cells({key: value + 1 + 0.1 * key[0] for key, value in ours.items()}, ours)
    assert found.mean == pytest.approx(1.1) and found.differences == pytest.approx((1.0, 1.1, 1.2))
    diagonal = {(k, k): 5.0 + k for k in range(3)}
    found = compare_cells(diagonal, {(None, k): 1.0 for k in range(3)})
    assert (found.n, found.num_seeds, found.mean) == (3, 1, 5.0) and found.half_width is not None
    assert compare_cells({(0, 0): 1.0, (1, 0): 2.0}, {(None, 5): 1.0}) is None


def test_the_sources_of_spread_are_those_of_the_random_effects_model():
    rng = np.random.default_rng(1)
    grid = 3.0 * rng.normal(size=(4000, 1)) + 0.5 * rng.normal(size=(4000, 4))
    assert spread_of_sources(grid) == pytest.approx((3.0, 0.5), rel=0.05)
    assert spread_of_sources(np.array([[1.0, 3.0], [3.0, 1.0]]))[0] == 0.0


# --- p values ---------------------------------------------------------------------------------------------------------


@each("n", [2, 5, 9])
def test_the_exact_p_is_scipys(n):
    differences = np.random.default_rng(n).normal(0.8, 1, n)
    expected = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    found = permutation_test(differences)
    assert found.p == pytest.approx(expected.pvalue) and found.floor == 2 / 2**n and found.n == n


def test_five_seeds_cannot_go_below_their_floor_and_say_so():
    found = permutation_test([9.0, 9.1, 9.2, 9.3, 9.4])
    assert found.p == found.floor == 0.0625 and found.cell() == "0.0625 (floor 0.062)"
    assert permutation_test([0.0, 0.0]).p == 1.0


def test_many_seeds_are_drawn_and_never_have_p_zero():
    rng = np.random.default_rng(0)
    assert 0 < permutation_test(rng.normal(5, 1, 30)).p < 1e-3 and permutation_test(rng.normal(0, 1, 30)).p > 0.05


def test_holm_by_hand():
    assert (
        holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
        and holm([0.6, 0.9]) == (1.0, 1.0)
        and holm([]) == ()
    )
