"""Mean, spread and t interval against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from pretrain.base.figures import spread, t_half_width


def test_deviation_is_the_samples_not_the_populations() -> None:
    found = spread([20.0, 22.0])
    assert found is not None
    assert (found.mean, found.std, found.n) == (21.0, pytest.approx(math.sqrt(2)), 2)
    assert (found.cell(), found.cell(2)) == ("21.0 ± 1.4", "21.00 ± 1.41")


def test_one_figure_has_no_deviation_and_none_no_mean() -> None:
    alone = spread([20.0, math.nan])
    assert alone is not None
    assert (alone.std, alone.n, alone.cell()) == (None, 1, "20.0")
    assert spread([math.inf]) is None


def test_t_interval_of_three_figures_from_the_table() -> None:
    # s = 1, t(0.975, 2) = 4.302653 [any table of Student's t].
    assert t_half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
