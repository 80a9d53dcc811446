"""Sharings as data: the seven rows of the paper's table, and names that a user gives."""

from __future__ import annotations

import itertools

import pytest

from pretrain.base.errors import ConfigError
from pretrain.good_views.moving_mnist.factors import FACTORS, PAPER, SHARINGS, SUPERVISED, Sharing, parse_sharings
from tests.cases import each


def test_the_seven_sharings_are_all_choices_of_one_or_more_factors():
    every = {frozenset(chosen) for count in (1, 2, 3) for chosen in itertools.combinations(FACTORS, count)}
    assert len(SHARINGS) == 7
    assert {frozenset(sharing.factors) for sharing in SHARINGS} == every


def test_every_row_has_the_papers_figures_and_nothing_else_has():
    assert set(PAPER) == {sharing.name for sharing in SHARINGS} | {SUPERVISED}


@each("text", ["position,digit", "digit+position", " digit , position "])
def test_one_sharing_has_one_name_however_it_is_typed(text):
    assert [sharing.name for sharing in parse_sharings([text])] == ["digit+position"]


def test_sharings_come_in_the_order_of_the_table():
    assert parse_sharings(["all"]) == SHARINGS
    assert [sharing.name for sharing in parse_sharings(["digit,position", "position", "digit"])] == [
        "digit",
        "position",
        "digit+position",
    ]


@each(
    ("texts", "message"),
    [
        (["digits"], "did you mean digit"),
        (["digit,postion"], "did you mean position"),
        (["digit,digit"], "given twice"),
        (["digit", "digit"], "given twice"),
        (["all", "digit"], "all alone"),
        ([""], "expected factors of"),
    ],
)
def test_other_names_are_refused_with_the_nearest_valid_one(texts, message):
    with pytest.raises(ConfigError, match=message):
        parse_sharings(texts)


@each("factors", [(), ("digit", "digit"), ("colour",)])
def test_a_sharing_holds_factors_each_once(factors):
    with pytest.raises(ValueError, match="each once"):
        Sharing(factors)
