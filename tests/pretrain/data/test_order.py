"""Batches as pure functions: order, restart, shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.base.errors import ConfigError, DataError
from pretrain.data.order import (
    GlobalBatches,
    RankBatches,
    ShardBatches,
    epoch_permutation,
    global_batches,
    rank_slice,
    require_one_batch,
)
from tests.cases import each


def keys_of(batches, *, rank=0, world_size=1, from_step=0, num_steps=7):
    return list(RankBatches(batches, rank=rank, world_size=world_size, from_step=from_step, num_steps=num_steps))


def test_an_epoch_is_a_permutation_and_no_two_are_alike():
    orders = [epoch_permutation(100, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(100)) and order.dtype == np.int64 for order in orders)
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


@each(
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


def shard_ends(*sizes):
    return np.concatenate([[0], np.cumsum(sizes)])


def test_an_epoch_of_shards_visits_no_sample_twice_in_another_order_each_time():
    ends = shard_ends(3, 5, 0, 6, 3, 4)
    batches = ShardBatches(ends, 4, seed=3, buffer=8)
    assert batches.steps_per_epoch == 5 and batches.num_samples == 21
    epochs = [np.concatenate([batches.batch(5 * epoch + step)[1] for step in range(5)]) for epoch in range(2)]
    assert all(len(set(epoch.tolist())) == 20 and epoch.dtype == np.int64 for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist() and [batches.batch(step)[0] for step in (4, 5)] == [0, 1]


def test_samples_come_from_a_few_shards_at_a_time_and_are_mixed_among_them():
    ends = shard_ends(*[100] * 50)
    batches = ShardBatches(ends, 50, seed=0, buffer=500)
    shards = [set((batches.batch(step)[1] // 100).tolist()) for step in range(100)]
    assert all(len(set().union(*shards[first : first + 10])) == 5 for first in range(0, 100, 10))  # of 50: a buffer
    assert all(len(found) >= 4 for found in shards)  # each batch from nearly all of its buffer
    assert set().union(*shards) == set(range(50))
    assert set(batches.ahead(0)) == set().union(*shards[10:20]) == set(batches.ahead(9))
    assert set(batches.ahead(99)) == set((batches.batch(100)[1] // 100).tolist())  # the next epoch's first


def test_the_kind_of_source_chooses_the_order():
    assert isinstance(global_batches(20, None, 4, seed=0), GlobalBatches)
    assert isinstance(global_batches(20, shard_ends(9, 11), 4, seed=0), ShardBatches)
    with pytest.raises(DataError, match="20 images do not fill one batch of 21"):
        ShardBatches(shard_ends(9, 11), 21, seed=0)
    with pytest.raises(ConfigError, match="at least 1"):
        ShardBatches(shard_ends(9, 11), 0, seed=0)


class LeaningOnTheWorld(GlobalBatches):
    """The control: each rank owns a W-th of the epoch, as where shards are split over the nodes.

    (Strides, rank r taking samples r, r + W, ..., as torch's DistributedSampler does, would be no control: B / W of each rank
    make up the same B samples.)
    """

    def share(self, step, *, rank, world_size):
        epoch, position = divmod(step, self.steps_per_epoch)
        mine = np.array_split(epoch_permutation(self.num_samples, seed=self.seed, epoch=epoch), world_size)[rank]
        size = self.batch_size // world_size
        return epoch, mine[position * size : (position + 1) * size]


def orders_of(case, kind):
    """Function that makes the order of a random case anew, as each process does."""
    rng = np.random.default_rng([case, 11])
    world, other = rng.choice([1, 2, 3, 4, 6, 8, 12], size=2, replace=False).tolist()
    batch = 24 * int(rng.integers(1, 3))
    seed = int(rng.integers(2**40))
    if kind is ShardBatches:
        ends = shard_ends(batch, *rng.integers(0, 40, size=rng.integers(1, 12)).tolist())
        buffer = int(rng.integers(1, 200))
        return (lambda: ShardBatches(ends, batch, seed=seed, buffer=buffer)), (world, other), rng
    num_samples = int(rng.integers(batch, 6 * batch))
    return (lambda: kind(num_samples, batch, seed=seed)), (world, other), rng


def global_batches_seen(make, world, workers, *, from_step, num_steps):
    """(epoch, sorted samples) of each step: workers take the steps in turn, each with an order of its own."""
    seen = {step: [] for step in range(from_step, from_step + num_steps)}
    for worker in range(workers):
        order = make()
        for rank in range(world):
            for step in range(from_step + worker, from_step + num_steps, workers):
                if isinstance(order, LeaningOnTheWorld):
                    epoch, mine = order.share(step, rank=rank, world_size=world)
                    seen[step] += [(epoch, index) for index in mine.tolist()]
                else:
                    seen[step] += next(
                        iter(RankBatches(order, rank=rank, world_size=world, from_step=step, num_steps=1))
                    )
    return {step: sorted(keys) for step, keys in seen.items()}


def count_differing(kind, cases):
    differing = 0
    for case in cases:
        make, (world, other), rng = orders_of(case, kind)
        from_step, workers = int(rng.integers(40)), rng.integers(1, 4, size=2).tolist()
        first = global_batches_seen(make, world, workers[0], from_step=from_step, num_steps=3)
        later = int(rng.integers(3))  # where the second run takes over
        second = global_batches_seen(make, other, workers[1], from_step=from_step + later, num_steps=3 - later)
        differing += any(first[step] != keys for step, keys in second.items())
    return differing


@pytest.mark.parametrize("kind", [GlobalBatches, ShardBatches])
def test_another_world_or_number_of_workers_gives_the_same_samples_in_each_global_batch(kind):
    assert count_differing(kind, range(100)) == 0


@pytest.mark.slow
def test_ten_thousand_changes_of_world_and_workers_change_no_global_batch():
    """5,000 cases of each order; the control, an order that leans on the world size, fails in nearly all of its own."""
    assert count_differing(GlobalBatches, range(5000)) == 0
    assert count_differing(ShardBatches, range(5000)) == 0
    assert count_differing(LeaningOnTheWorld, range(200)) > 150
