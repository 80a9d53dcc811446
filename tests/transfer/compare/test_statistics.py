"""Mean, spread and paired differences against numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from transfer.compare.statistics import paired_difference, spread


@pytest.mark.parametrize("n", [2, 3, 17])
def test_mean_and_sample_deviation_equal_numpys(n):
    values = np.random.default_rng(n).normal(30, 3, n)
    found = spread(values.tolist())
    assert found is not None and found.n == n
    assert found.mean == pytest.approx(np.mean(values)) and found.std == pytest.approx(np.std(values, ddof=1))


def test_one_figure_has_no_deviation_and_none_has_no_mean():
    single = spread([7.0])
    assert single is not None and (single.mean, single.std, single.n) == (7.0, None, 1)
    assert spread([]) is None and spread([math.nan, math.inf]) is None


def test_figures_that_could_not_be_computed_do_not_count():
    found = spread([1.0, math.nan, 3.0])
    assert found is not None and (found.mean, found.n) == (2.0, 2)


@pytest.mark.parametrize("n", [2, 3, 9])
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
    assert paired_difference({0: 5.0}, {1: 3.0}) is None
