"""Paired differences: the interval is scipy's, only common seeds count, one seed has no interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from transfer.compare.statistics import paired_difference


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
