"""Three regimes and their price, exactly: a slow count of all draws, limits, and the reverse U."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from pretrain.base import plot_style
from pretrain.good_views.discrete_world.regimes import (
    best_accuracy,
    demonstration_world,
    draw_regimes,
    envelope,
    examine,
    examine_all,
    few_label_accuracy,
)
from pretrain.good_views.discrete_world.world import label_joint, product_world, view

BIT = math.log(2)


@pytest.fixture(scope="module")
def world():
    return demonstration_world()


@pytest.fixture(scope="module")
def outcomes(world):
    return examine_all(world, num_labels=8)


def slow_accuracy(joint, num_labels):
    """Every sequence of labelled inputs, one after another."""
    cells = list(np.ndindex(joint.shape))
    total = 0.0
    for draw in itertools.product(cells, repeat=num_labels):
        chance = math.prod(joint[cell] for cell in draw)
        for code, row in enumerate(joint):
            counts = [sum(cell == (code, label) for cell in draw) for label in range(len(row))]
            winners = [label for label, count in enumerate(counts) if count == max(counts)]
            total += chance * sum(row[label] for label in winners) / len(winners)
    return total


@pytest.mark.parametrize("num_labels", [0, 1, 2, 4])
@pytest.mark.parametrize("names", [["s"], ["a"], ["s", "a"]])
def test_accuracy_equals_the_count_over_all_draws(num_labels, names):
    world = product_world({"s": (0.3, 0.7), "a": (0.6, 0.4)}, label=["s"], label_noise=0.1)
    codes = view(world, names)
    expected = slow_accuracy(label_joint(world, codes), num_labels)
    assert few_label_accuracy(world, codes, num_labels=num_labels) == pytest.approx(expected, abs=1e-12)


def test_accuracy_rises_from_chance_to_the_best(world):
    codes = view(world, ["u", "c"])
    curve = [few_label_accuracy(world, codes, num_labels=count) for count in (0, 1, 4, 16)]
    assert curve[0] == pytest.approx(1 / 4)
    assert curve == sorted(curve)
    assert curve[-1] < best_accuracy(world, codes) == pytest.approx(1 / 2)
    two = product_world({"s": (0.3, 0.7)}, label=["s"])
    assert few_label_accuracy(two, view(two, ["s"]), num_labels=60) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "regime", "optimal"),
    [
        ("uc", "ud", "missing information", False),
        ("uwc", "uwde", "sweet spot", True),
        ("uw", "uwcde", "sweet spot", True),
        ("uwc", "uwc", "excess noise", False),
        ("cde", "cde", "excess noise", False),
    ],
)
def test_regimes_of_examples(world, first, second, regime, optimal):
    found = examine(world, first, second)
    assert (found.regime, found.optimal) == (regime, optimal)


def test_private_nuisances_cost_nothing_and_shared_ones_their_entropy(world):
    private, shared = examine(world, "uwc", "uwde"), examine(world, "uwc", "uwc")
    assert private.shared == pytest.approx(2 * BIT) and private.nuisance == 0
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert shared.nuisance == pytest.approx(entropy)
    assert shared.shared == pytest.approx(2 * BIT + entropy)
    assert private.accuracy > shared.accuracy + 0.05
    assert private.best_accuracy == pytest.approx(shared.best_accuracy) == pytest.approx(1)


def test_accuracy_is_a_reverse_u_under_its_envelope(outcomes):
    """Every one of the 528 pairs. Up to I(x;y) the best accuracy rises, beyond it falls, with the peak at I(x;y)."""
    assert len(outcomes) == 32 * 33 // 2
    curve = dict(envelope(outcomes, 2 * BIT))
    assert all(outcome.accuracy <= curve[round(outcome.shared, 9)] + 1e-12 for outcome in outcomes)
    peak = max(curve.values())
    assert [shared for shared, accuracy in curve.items() if accuracy == peak] == [pytest.approx(2 * BIT)]
    below = [accuracy for shared, accuracy in curve.items() if shared < 2 * BIT - 1e-6]
    above = [accuracy for shared, accuracy in curve.items() if shared > 2 * BIT - 1e-6]
    assert below == sorted(below) and above == sorted(above, reverse=True)
    assert below[0] < 0.3 < below[-1] < peak - 0.3 and above[-1] < peak - 0.3
    # An upper bound only: with the same I(v1;v2) > I(x;y), shared noise instead of signal leaves chance.
    assert min(outcome.accuracy for outcome in outcomes if outcome.regime == "excess noise") == pytest.approx(1 / 4)


def test_unlimited_labels_take_the_fall_away(outcomes):
    """Control: the excess of noise has its price in labels alone."""
    curve = envelope(outcomes, 2 * BIT, unlimited=True)
    assert all(accuracy == pytest.approx(1) for shared, accuracy in curve if shared > 2 * BIT - 1e-6)


def test_sweet_spot_outcomes_are_optimal_and_no_others(outcomes):
    for outcome in outcomes:
        assert outcome.optimal == (outcome.regime == "sweet spot")


def test_the_picture_has_a_point_for_every_pair_and_the_envelope_above_them(world, outcomes, monkeypatch):
    figures = []
    monkeypatch.setattr(plot_style, "save_figure", lambda path, figure: figures.append(figure))
    draw_regimes(Path("regimes.png"), world, outcomes)
    left, right = figures[0].axes
    points = {tuple(point) for cloud in left.collections for point in cloud.get_offsets().tolist()}
    assert points == {(outcome.shared / BIT, outcome.accuracy) for outcome in outcomes}
    assert sum(len(cloud.get_offsets()) for cloud in right.collections) == len(outcomes)
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.get_lines()}
    assert curves["envelope, 8 labels"] == [[shared / BIT, best] for shared, best in envelope(outcomes, 2 * BIT)]
    names = {cloud.get_label() for cloud in left.collections}
    assert names == {"missing information", "sweet spot", "excess noise"}
