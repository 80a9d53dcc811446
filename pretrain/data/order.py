"""Which samples make up a step: pure functions of (seed, step), so that a run restarts anywhere and on any world size.

The global batches do not depend on the number of ranks, workers, or on what was drawn before. `GlobalBatches` permutes all samples;
`ShardBatches` keeps the samples of a shard together, for sources that are read shard by shard.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from pretrain.base.errors import ConfigError, DataError
from pretrain.views.rng import ORDER_STREAM, sample_generator

Key = tuple[int, int]  # (epoch, sample index): one row of a batch that a view dataset is asked for


SHARD_BUFFER = 16384  # samples among which the next ones of a sharded source are drawn


class Batches(Protocol):
    """Which samples make up each step of a run."""

    @property
    def batch_size(self) -> int:
        """Samples of all ranks in a step."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        ...

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, sample indices (batch_size,) int64) of the global step `step`, counted from 0 over all epochs."""
        ...


@lru_cache(maxsize=2)
def epoch_permutation(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: a read-only int64 permutation of range(num_samples), 80 MB for ten million."""
    order = sample_generator(seed=seed, epoch=epoch, index=0, stream=ORDER_STREAM).permutation(num_samples)
    order.setflags(write=False)  # the cache hands the same array to everyone
    return order


@dataclass(frozen=True)
class GlobalBatches:
    """Batches of `batch_size` samples over all ranks, epoch after epoch, each epoch in its own order.

    DEVIATION: the incomplete last batch of an epoch is dropped, as MoCo does. The reference keeps it and leans on
    padding by its distributed sampler [specification, latent bugs]; which samples are left out changes every epoch.
    Raises DataError if an epoch does not fill one batch.
    """

    num_samples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size expected at least 1, found {self.batch_size}")
        require_one_batch(self.num_samples, self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.num_samples // self.batch_size

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """(epoch, sample indices (batch_size,) int64) of the global step `step`, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = epoch_permutation(self.num_samples, seed=self.seed, epoch=epoch)
        return epoch, order[position * self.batch_size : (position + 1) * self.batch_size]


class ShardBatches:
    """Batches of a sharded source: the shards in a random order, and a buffer of them in a random order.

    An epoch permutes the shards, fills a buffer with whole shards until it holds `buffer` samples, permutes these, and goes on
    to the next shards. Each permutation is a function of (seed, epoch, which buffer), so any step is found without those before
    it, from the shards of one or two buffers alone. (A buffer that is refilled sample by sample mixes its neighbours more
    smoothly and would have to be replayed from the epoch's beginning.) A last buffer less than half full joins the one before.

    ends: ends of the shards in positions, (S + 1,) beginning with 0. Raises DataError if an epoch does not fill one batch.
    """

    def __init__(self, ends: np.ndarray, batch_size: int, *, seed: int, buffer: int = SHARD_BUFFER) -> None:
        if batch_size < 1 or buffer < 1:
            raise ConfigError(f"batch_size and buffer expected at least 1, found {batch_size} and {buffer}")
        self.num_samples = int(ends[-1])
        require_one_batch(self.num_samples, batch_size)
        self.ends = ends.astype(np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.buffer = buffer
        self._plan: tuple[int, list[np.ndarray], np.ndarray] | None = None
        self._samples: dict[tuple[int, int], np.ndarray] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.num_samples // self.batch_size

    def batch(self, step: int) -> tuple[int, np.ndarray]:
        """As `GlobalBatches.batch`."""
        epoch, first, starts = self._place(step)
        start = step % self.steps_per_epoch * self.batch_size
        parts, window, missing = [], first, self.batch_size
        while missing:
            samples = self._buffer(epoch, window)
            begin = max(0, start - int(starts[window]))
            part = samples[begin : begin + missing]
            parts.append(part)
            missing -= len(part)
            window += 1
        return epoch, np.concatenate(parts)

    def ahead(self, step: int) -> tuple[int, ...]:
        """The shards of the buffer that follows the step's, in the next epoch if it is the last: what to fetch."""
        epoch, window, starts = self._place(step)
        if window + 2 < len(starts):
            return tuple(self._shards(epoch)[0][window + 1].tolist())
        return tuple(self._shards(epoch + 1, keep=False)[0][0].tolist())

    def _place(self, step: int) -> tuple[int, int, np.ndarray]:
        """(epoch, buffer in which the step begins, where the epoch's buffers start)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        starts = self._shards(epoch)[1]
        return epoch, int(np.searchsorted(starts, position * self.batch_size, side="right")) - 1, starts

    def _shards(self, epoch: int, *, keep: bool = True) -> tuple[list[np.ndarray], np.ndarray]:
        """The shards of each buffer of an epoch, and where the buffers start in it (one more: the end)."""
        if self._plan is not None and self._plan[0] == epoch:
            return self._plan[1:]
        shards = sample_generator(seed=self.seed, epoch=epoch, index=0, stream=ORDER_STREAM).permutation(
            len(self.ends) - 1
        )
        filled = np.concatenate([[0], np.cumsum(np.diff(self.ends)[shards])])
        cuts = [0]
        while cuts[-1] < len(shards):
            cuts.append(min(int(np.searchsorted(filled, filled[cuts[-1]] + self.buffer)), len(shards)))
        if len(cuts) > 2 and filled[-1] - filled[cuts[-2]] < self.buffer / 2:
            del cuts[-2]
        found = [shards[a:b] for a, b in itertools.pairwise(cuts)], filled[cuts]
        if keep:
            self._plan = (epoch, *found)
        return found

    def _buffer(self, epoch: int, window: int) -> np.ndarray:
        """The samples of one buffer, in their order."""
        if (epoch, window) not in self._samples:
            shards = self._shards(epoch)[0][window]
            samples = np.concatenate([np.arange(self.ends[shard], self.ends[shard + 1]) for shard in shards.tolist()])
            order = sample_generator(seed=self.seed, epoch=epoch, index=1 + window, stream=ORDER_STREAM)
            if len(self._samples) >= 2:
                self._samples.pop(next(iter(self._samples)))
            self._samples[epoch, window] = samples[order.permutation(len(samples))]
        return self._samples[epoch, window]


def global_batches(num_samples: int, shard_ends: np.ndarray | None, batch_size: int, *, seed: int) -> Batches:
    """The order for a source of `num_samples`, in shards or not."""
    if shard_ends is None:
        return GlobalBatches(num_samples, batch_size, seed=seed)
    return ShardBatches(shard_ends, batch_size, seed=seed)


def require_one_batch(num_samples: int, batch_size: int, *, world_size: int = 1) -> None:
    """Raise DataError unless `num_samples` fill a batch.

    The batch that it advises has two images or more a rank, for BatchNorm has no statistics of one; where there are fewer
    images than that, it says how many are needed.
    """
    if num_samples >= batch_size:
        return
    fitting = num_samples // world_size * world_size
    found = f"{num_samples} image{' does' if num_samples == 1 else 's do'} not fill one batch of {batch_size}"
    if fitting >= 2 * world_size:
        raise DataError(f"{found}; pass optimizer.batch_size={fitting} or less, or add images")
    raise DataError(f"{found}; add images: {2 * world_size} is the least (with optimizer.batch_size={2 * world_size})")


def rank_slice(indices: np.ndarray, *, rank: int, world_size: int) -> np.ndarray:
    """The contiguous share (B / world_size,) of one rank. Raises ConfigError if the shares are not equal."""
    if len(indices) % world_size:
        raise ConfigError(
            f"a batch of {len(indices)} cannot be divided over {world_size} ranks; "
            f"pass optimizer.batch_size={max(len(indices) // world_size, 2) * world_size}"
        )
    share = len(indices) // world_size
    return indices[rank * share : (rank + 1) * share]


@dataclass(frozen=True)
class RankBatches:
    """One rank's batches of the global steps `from_step` .. `from_step + num_steps` - 1, across epoch ends.

    Iterating yields lists of (epoch, index). Starting at any step gives what an unbroken run would have got there.
    Raises ConfigError if the batch size is not divisible by the world size.
    """

    batches: Batches
    rank: int
    world_size: int
    from_step: int
    num_steps: int

    def __post_init__(self) -> None:
        rank_slice(np.arange(self.batches.batch_size), rank=self.rank, world_size=self.world_size)

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.from_step, self.from_step + self.num_steps):
            epoch, indices = self.batches.batch(step)
            mine = rank_slice(indices, rank=self.rank, world_size=self.world_size)
            yield [(epoch, index) for index in mine.tolist()]
