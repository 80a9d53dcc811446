"""The checker of pairs passes honest pairs and catches builders that leak: each fault is planted in a builder of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pretrain.good_views.moving_mnist.checks import check_pairs
from pretrain.good_views.moving_mnist.config import SceneConfig
from pretrain.good_views.moving_mnist.factors import FACTORS, SHARINGS, Sharing
from pretrain.good_views.moving_mnist.pairs import PairBatch, PairMaker, render

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

NUM_PAIRS = 256
DIGIT = Sharing(("digit",))


def make(worlds, scene, sharing, **options):
    return PairMaker(worlds.train, scene)(sharing, split="train", start=0, count=NUM_PAIRS, **options)


def second_view(batch, other):
    """The first view of `batch` with the second of `other`: what a builder makes that shares as `other` does."""
    return PairBatch(batch.view_1, other.view_2, batch.factors_1, other.factors_2)


@pytest.mark.parametrize("same", [("instance", "image"), ("class", "class")], ids=["images", "classes"])
def test_honest_pairs_of_every_sharing_pass(worlds, same):
    scene = SceneConfig(num_frames=2, background_size=72, same_digit=same[0], same_background=same[1])
    for sharing in SHARINGS:
        check_pairs(make(worlds, scene, sharing), worlds.train, scene, sharing)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_shared_unasked_or_asked_and_not_shared_is_named(worlds, scene, factor):
    for partner in FACTORS:
        if partner == factor:
            continue
        without, both = Sharing((partner,)), Sharing((partner, factor))
        with pytest.raises(AssertionError, match=f"^{factor}.* is not shared, and yet"):
            check_pairs(make(worlds, scene, both), worlds.train, scene, without)
        with pytest.raises(AssertionError, match=f"^{factor}.* is shared, and yet differs"):
            check_pairs(make(worlds, scene, without), worlds.train, scene, both)


def test_a_leaked_background_is_caught_though_its_labels_are_forged(worlds, scene):
    """Pixels of view 1's background in view 2, under the labels of an honest builder."""
    honest = make(worlds, scene, DIGIT)
    leaking = make(worlds, scene, Sharing(("digit", "background")))
    forged = replace(honest, view_2=leaking.view_2)
    with pytest.raises(AssertionError, match="do not show what their labels say"):
        check_pairs(forged, worlds.train, scene, DIGIT)


def test_a_background_leaked_in_one_pair_of_four_is_caught(worlds, scene):
    honest = make(worlds, scene, DIGIT)
    leaking = make(worlds, scene, Sharing(("digit", "background")))
    mixed = torch.arange(NUM_PAIRS) % 4 == 0
    factors = {
        name: torch.where(mixed.view(-1, *[1] * (value.ndim - 1)), getattr(leaking.factors_2, name), value)
        for name, value in vars(honest.factors_2).items()
    }
    view_2 = torch.where(mixed[:, None, None, None], leaking.view_2, honest.view_2)
    batch = replace(honest, view_2=view_2, factors_2=replace(honest.factors_2, **factors))
    with pytest.raises(AssertionError, match="background"):
        check_pairs(batch, worlds.train, scene, DIGIT)


def test_one_pair_that_does_not_share_is_caught(worlds, scene):
    batch = make(worlds, scene, DIGIT)
    other = make(worlds, scene, Sharing(("position",)))
    row = int((batch.factors_2.digit != other.factors_2.digit).nonzero()[0])
    factors = {name: value.clone() for name, value in vars(batch.factors_2).items()}
    for name, value in factors.items():
        value[row] = getattr(other.factors_2, name)[row]
    view_2 = batch.view_2.clone()
    view_2[row] = other.view_2[row]
    batch = replace(batch, view_2=view_2, factors_2=replace(batch.factors_2, **factors))
    with pytest.raises(AssertionError, match="digit is shared, and yet differs in 0.4%"):
        check_pairs(batch, worlds.train, scene, DIGIT)


def test_a_crop_that_tells_the_other_views_crop_is_caught(worlds, scene):
    batch = make(worlds, scene, DIGIT)
    with pytest.raises(AssertionError, match="crop is not shared"):
        check_pairs(second_view(batch, make_with_crop_of_view_1(worlds, scene, batch)), worlds.train, scene, DIGIT)


def make_with_crop_of_view_1(worlds, scene, batch):
    factors = replace(batch.factors_2, crop=batch.factors_1.crop)
    arrays = (factors.digit_index, factors.background_index, factors.crop, factors.offsets)
    view_2 = torch.from_numpy(render(worlds.train, *(array.numpy() for array in arrays), scene.canvas)[:, 0])
    return PairBatch(batch.view_1, view_2, batch.factors_1, factors)


def test_one_wrong_pixel_is_caught(worlds, scene):
    batch = make(worlds, scene, DIGIT)
    view_1 = batch.view_1.clone()
    view_1[17, 2, 1, 40, 3] ^= 1
    with pytest.raises(AssertionError, match="1 of 256 views"):
        check_pairs(replace(batch, view_1=view_1), worlds.train, scene, DIGIT)
