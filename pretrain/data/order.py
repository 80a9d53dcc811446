"""Which samples make up a step: pure functions of (seed, step), so that a run restarts anywhere and on any world size.

The global batches do not depend on the number of ranks, workers, or on what was drawn before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pretrain.base.errors import ConfigError, DataError
from pretrain.views.rng import ORDER_STREAM, sample_generator

Key = tuple[int, int]  # (epoch, sample index): one row of a batch that a view dataset is asked for


@lru_cache(maxsize=4)
def epoch_permutation(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch: a read-only int64 permutation of range(num_samples)."""
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

    batches: GlobalBatches
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
