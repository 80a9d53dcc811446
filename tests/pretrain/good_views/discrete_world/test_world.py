"""The exact world against hand-made values, identities and a second way of counting; wrong claims must be caught."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pretrain.base.errors import ConfigError
from pretrain.good_views.discrete_world.world import (
    MAX_ENUMERATED,
    TOLERANCE,
    World,
    entropy,
    enumerate_views,
    label_information,
    minimal_sufficient,
    mutual_information,
    nuisance_information,
    product_world,
    set_partitions,
    shared_information,
    view,
    view_joint,
)
from pretrain.good_views.information import estimate, in_batch

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

BIT = math.log(2)
CLEAN = {"s": (0.5, 0.5), "a": (0.5, 0.5), "b": (0.5, 0.5)}


@pytest.fixture(scope="module")
def clean():
    return product_world(CLEAN, label=["s"])


@pytest.fixture(scope="module")
def clean_enumeration(clean):
    return enumerate_views(clean)


def irregular_world(sizes, *, noise=0.0, seed=0):
    """Random probabilities, nothing independent; y classes of the given sizes."""
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0.5, 1.5, sum(sizes))
    label = np.eye(len(sizes))[np.repeat(np.arange(len(sizes)), sizes)]
    label = label * (1 - noise) + (1 - label) * noise / (len(sizes) - 1)
    return World(probability / probability.sum(), label, {})


def test_information_of_hand_made_tables():
    assert mutual_information(np.array([[0.5, 0], [0, 0.5]])) == pytest.approx(BIT)
    assert mutual_information(np.full((2, 3), 1 / 6)) == pytest.approx(0, abs=TOLERANCE)
    # A symmetric binary channel that errs in a tenth: ln 2 - h(0.1)
    channel = mutual_information(np.array([[0.45, 0.05], [0.05, 0.45]]))
    assert channel == pytest.approx(BIT + 0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert entropy(np.array([0.25] * 4)) == pytest.approx(2 * BIT)


def test_factors_carry_what_they_should(clean):
    assert label_information(clean, clean.inputs) == pytest.approx(BIT)
    assert label_information(clean, view(clean, ["a", "b"])) == pytest.approx(0, abs=TOLERANCE)
    assert shared_information(clean, view(clean, ["s", "a"]), view(clean, ["s", "b"])) == pytest.approx(BIT)
    assert shared_information(clean, view(clean, ["s", "a"]), view(clean, ["s", "a"])) == pytest.approx(2 * BIT)
    assert nuisance_information(clean, view(clean, ["s", "a"])) == pytest.approx(BIT)
    assert nuisance_information(clean, view(clean, [])) == 0


def test_chain_rule_holds_for_every_view():
    """I(z;x) = I(z;y) + I(z;x|y), z - x - y a chain; and no view knows more of y than x."""
    world = irregular_world((2, 3), noise=0.2)
    for codes in set_partitions(5):
        whole = shared_information(world, codes, world.inputs)
        assert whole == pytest.approx(label_information(world, codes) + nuisance_information(world, codes))
        assert label_information(world, codes) <= label_information(world, world.inputs) + TOLERANCE


@pytest.mark.parametrize(("size", "bell"), [(1, 1), (3, 5), (5, 52), (8, 4140)])
def test_set_partitions_are_all_and_distinct(size, bell):
    found = [tuple(codes) for codes in set_partitions(size)]
    assert len(found) == len(set(found)) == bell


def test_set_partitions_are_all_functions_up_to_names():
    by_first_seen = {tuple(values.index(value) for value in values) for values in itertools.product(range(4), repeat=4)}
    assert len(by_first_seen) == len(list(set_partitions(4)))
    assert {tuple(list(codes).index(code) for code in codes) for codes in set_partitions(4)} == by_first_seen


def test_minimal_sufficient_code_is_sufficient_and_minimal():
    """Against all codes of v1: none that keeps I(z;v2) has less entropy."""
    world = product_world({"s": (0.3, 0.7), "a": (0.5, 0.3, 0.2)}, label=["s"])
    second = np.array([0, 0, 1, 2, 2, 3])
    code = minimal_sufficient(world, world.inputs, second)
    whole = shared_information(world, world.inputs, second)
    assert shared_information(world, code, second) == pytest.approx(whole)
    sufficient = [codes for codes in set_partitions(6) if shared_information(world, codes, second) > whole - TOLERANCE]
    entropies = [shared_information(world, codes, codes) for codes in sufficient]
    assert min(entropies) == pytest.approx(shared_information(world, code, code))
    assert len(sufficient) > 1


@pytest.mark.parametrize(("first", "second"), [("s", "sa"), ("sa", "sab"), ("a", "b")])
def test_sampled_bounds_agree_with_the_exact_information(clean, first, second):
    """The other way round: pairs drawn from the world, scored by its own log density ratio, measured by the estimators."""
    views = view(clean, list(first)), view(clean, list(second))
    joint = view_joint(clean, *views)
    ratio = np.log(np.maximum(joint / np.outer(joint.sum(axis=1), joint.sum(axis=0)), 1e-12))
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(20):
        drawn = rng.choice(len(clean.probability), size=64, p=clean.probability)
        batches.append(in_batch(torch.from_numpy(ratio[views[0][drawn][:, None], views[1][drawn][None]])))
    exact = shared_information(clean, *views)
    for name in ("donsker_varadhan", "nwj"):
        assert estimate(name, batches).nats == pytest.approx(exact, abs=0.02)
    assert estimate("info_nce", batches).nats == pytest.approx(exact, abs=0.03)


# Proposition 3.1


def test_proposition_holds_over_all_pairs_of_the_clean_world(clean_enumeration):
    found = clean_enumeration
    assert (found.num_inputs, found.num_views, found.num_sufficient, found.num_pairs) == (8, 4140, 15**2, 15**4)
    assert found.reaches_task_information and found.holds
    assert found.minimisers_nuisance == pytest.approx(0, abs=TOLERANCE)
    assert found.task_information == pytest.approx(BIT)


def test_minimisers_are_the_pairs_that_are_independent_given_y(clean, clean_enumeration):
    """Counted a second way. In a class of four equal inputs: one view constant (2 * 15 - 1), or two crossed halvings (6)."""
    assert clean_enumeration.num_minimisers == (2 * 15 - 1 + 6) ** 2
    crossed = view(clean, ["s", "a"]), view(clean, ["s", "b"])
    assert shared_information(clean, *crossed) == pytest.approx(clean_enumeration.least_sharing)


def test_wrong_claims_are_caught(clean_enumeration):
    """The most shared information instead of the least; any sufficient pair; a figure that is off."""
    found = clean_enumeration
    assert found.maximisers_nuisance == pytest.approx(2 * BIT)  # both nuisance bits
    assert not replace(found, minimisers_nuisance=found.maximisers_nuisance).holds
    assert found.others_nuisance is not None and found.others_nuisance > 0.1  # only minimisers are free of nuisance
    assert not replace(found, minimisers_nuisance=found.others_nuisance).holds
    assert not replace(found, minimisers_label_information=0.9 * BIT).holds
    assert not replace(found, least_sharing=found.most_sharing).reaches_task_information


def test_without_the_constraint_the_least_shared_information_learns_nothing():
    """arg min over all pairs, not only the sufficient ones: I(v1;v2) = 0, and the code is a constant."""
    world = irregular_world((2, 3))
    pairs = list(itertools.product(set_partitions(5), repeat=2))
    shared = [shared_information(world, *pair) for pair in pairs]
    least = [pair for pair, nats in zip(pairs, shared, strict=True) if nats < min(shared) + TOLERANCE]
    assert min(shared) < TOLERANCE and len(least) >= 2 * 52 - 1
    assert max(label_information(world, minimal_sufficient(world, *pair)) for pair in least) < TOLERANCE


def test_equality_needs_no_independent_nuisances():
    """With irregular probabilities only a constant is independent of anything within a class: 2 * Bell - 1 pairs each."""
    found = enumerate_views(irregular_world((3, 4)))
    assert found.reaches_task_information and found.holds
    assert found.num_sufficient == 5 * 15
    assert found.num_minimisers == (2 * 5 - 1) * (2 * 15 - 1)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_noisy_labels_put_equality_out_of_reach(noise):
    """The least is H(t), t the class of p(y|x); what is learned is still the minimal sufficient statistic."""
    world = irregular_world((2, 3), noise=noise)
    classes = np.array([0, 0, 1, 1, 1])
    found = enumerate_views(world)
    assert found.holds and not found.reaches_task_information
    assert found.least_sharing == pytest.approx(shared_information(world, classes, classes))
    assert found.least_sharing > found.task_information + 0.05
    assert found.least_nuisance == pytest.approx(nuisance_information(world, classes))


def test_labels_that_x_settles_only_in_part_reach_equality():
    """Two inputs whose labels differ in chance but never agree: H(t|y) = 0 though y is not a function of x."""
    label = np.array([[0.3, 0.7, 0, 0], [0.3, 0.7, 0, 0], [0, 0, 0.5, 0.5]])
    found = enumerate_views(World(np.array([0.2, 0.3, 0.5]), label, {}))
    assert found.reaches_task_information and found.holds
    assert found.task_information == pytest.approx(BIT)


def test_what_cannot_be_enumerated_is_refused():
    with pytest.raises(ConfigError, match=f"at most {MAX_ENUMERATED}"):
        enumerate_views(irregular_world((5, 5)))
    with pytest.raises(ConfigError, match="sum to 1"):
        World(np.array([0.5, 0.6]), np.eye(2), {})
    with pytest.raises(ConfigError, match="one distribution"):
        World(np.array([0.5, 0.5]), np.ones((2, 2)), {})
    with pytest.raises(ConfigError, match="s, a, b"):
        view(product_world(CLEAN, label=["s"]), ["z"])
