"""Batches as pure functions: order, restart, shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.base.errors import ConfigError, DataError
from pretrain.data.order import GlobalBatches, RankBatches, epoch_permutation, rank_slice, require_one_batch


def keys_of(batches, *, rank=0, world_size=1, from_step=0, num_steps=7):
    return list(RankBatches(batches, rank=rank, world_size=world_size, from_step=from_step, num_steps=num_steps))


def test_an_epoch_is_a_permutation_and_no_two_are_alike():
    orders = [epoch_permutation(100, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(100)) and order.dtype == np.uint32 for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    np.testing.assert_array_equal(orders[0], epoch_permutation(100, seed=0, epoch=0))


def test_the_cached_order_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        epoch_permutation(100, seed=0, epoch=0)[0] = 5


def test_an_epoch_visits_no_sample_twice_and_drops_only_the_incomplete_batch():
    batches = GlobalBatches(21, 4, seed=3)
    assert batches.steps_per_epoch == 5
    seen = [batches.batch(step) for step in range(10)]
    assert [epoch for epoch, _ in seen] == [0] * 5 + [1] * 5
    first, second = (np.concatenate([indices for epoch, indices in seen if epoch == number]) for number in (0, 1))
    assert len(set(first.tolist())) == len(set(second.tolist())) == 20
    assert set(first.tolist()) != set(second.tolist())  # another sample is left out


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(12, 60),
    world_size=st.sampled_from([1, 2, 3, 4, 6, 12]),
    from_step=st.integers(0, 30),
    seed=st.integers(0, 2**40),
)
def test_any_world_size_and_any_restart_give_the_same_global_batches(num_samples, world_size, from_step, seed):
    batches = GlobalBatches(num_samples, 12, seed=seed)
    unbroken = keys_of(batches, num_steps=from_step + 4)
    ranks = [
        keys_of(batches, rank=rank, world_size=world_size, from_step=from_step, num_steps=4)
        for rank in range(world_size)
    ]
    assert all(len(batch) == 12 // world_size for share in ranks for batch in share)
    joined = [[key for share in ranks for key in share[step]] for step in range(4)]
    assert joined == unbroken[from_step:]


def test_length_is_the_number_of_steps():
    assert len(RankBatches(GlobalBatches(20, 4, seed=0), rank=0, world_size=2, from_step=3, num_steps=9)) == 9


@pytest.mark.parametrize(
    ("num_images", "world_size", "advice"),
    [
        (7, 1, r"7 images do not fill one batch of 8; pass optimizer\.batch_size=7 or less"),
        (7, 3, r"pass optimizer\.batch_size=6 or less"),
        (2, 1, r"pass optimizer\.batch_size=2 or less"),
        (
            1,
            1,
            r"1 image does not fill one batch of 8; add images: 2 is the least",
        ),  # never a batch of one: BatchNorm refuses it
        (7, 4, r"7 images .*add images: 8 is the least \(with optimizer\.batch_size=8\)"),
    ],
)
def test_too_few_images_get_advice_that_works(num_images, world_size, advice):
    with pytest.raises(DataError, match=advice):
        require_one_batch(num_images, 8, world_size=world_size)


def test_an_epoch_is_at_least_one_batch():
    with pytest.raises(DataError, match="7 images do not fill one batch of 8"):
        GlobalBatches(7, 8, seed=0)
    assert GlobalBatches(8, 8, seed=0).steps_per_epoch == 1


def test_unequal_shares_are_refused():
    with pytest.raises(ConfigError, match=r"batch of 10.*3 ranks.*optimizer\.batch_size=9"):
        RankBatches(GlobalBatches(20, 10, seed=0), rank=0, world_size=3, from_step=0, num_steps=1)
    with pytest.raises(ConfigError):
        rank_slice(np.arange(5), rank=0, world_size=2)
    with pytest.raises(ConfigError, match="at least 1"):
        GlobalBatches(5, 0, seed=0)
