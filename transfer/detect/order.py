"""Which images make up a step of a detector's training: a pure function of (seed, step), so that a run restarts anywhere.

An epoch is a permutation of the records, some of them several times where they have repeat factors. Images that are wider than
high and the others fill batches of their own, as in Detectron2's grouping by aspect ratio; what does not fill a batch waits for
the next epoch, so no image is left out. The batches before a step are replayed as indices alone: 0.2 s for a million images.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from pretrain.base.errors import DataError
from pretrain.data.order import epoch_permutation
from pretrain.views.rng import ORDER_STREAM, sample_generator

Key = tuple[int, int, int]  # (epoch, record, which time it comes in this epoch)


class TrainingOrder:
    """Batches of `batch_size` keys, endless.

    DEVIATION: Detectron2 groups in each process what it read there, and the buffers are lost with the process. Here the groups are
    those of all processes; step t of process r of n takes batch n * t + r.
    """

    def __init__(
        self,
        num_records: int,
        *,
        batch_size: int,
        seed: int,
        groups: np.ndarray | None = None,
        repeats: np.ndarray | None = None,
    ) -> None:
        """batch_size: of one process. groups: int (N,), records of one group share a batch; None: all do.

        repeats: float (N,), how often a record comes in an epoch, on average; None: once. Raises DataError for no records.
        """
        if num_records == 0 or (repeats is not None and repeats.sum() <= 0):
            raise DataError("no image to train on")
        self.num_records = num_records
        self.batch_size = batch_size
        self.seed = seed
        self.groups = np.zeros(num_records, dtype=np.int64) if groups is None else groups
        self.repeats = repeats

    def epoch(self, epoch: int) -> np.ndarray:
        """Keys int64 (n, 3) of one epoch in their order, before the grouping."""
        if self.repeats is None:
            records = epoch_permutation(self.num_records, seed=self.seed, epoch=epoch)
            times = np.zeros_like(records)
        else:
            draw = sample_generator(seed=self.seed, epoch=epoch, index=0, stream=ORDER_STREAM)
            whole = np.floor(self.repeats)
            counts = (whole + (draw.random(self.num_records) < self.repeats - whole)).astype(np.int64)
            order = draw.permutation(int(counts.sum()))
            records = np.repeat(np.arange(self.num_records), counts)[order]
            times = (np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts))[order]
        return np.stack([np.full_like(records, epoch), records, times], axis=1)

    def batches(self, first: int = 0) -> Iterator[list[Key]]:
        """The batches from number `first` on."""
        number = 0
        waiting = {int(group): np.empty((0, 3), dtype=np.int64) for group in np.unique(self.groups)}
        for epoch in itertools.count():
            found = self._whole_batches(self.epoch(epoch), waiting)
            for batch in found[max(0, first - number) :]:
                yield [(a, b, c) for a, b, c in batch.tolist()]
            number += len(found)

    def _whole_batches(self, keys: np.ndarray, waiting: dict[int, np.ndarray]) -> list[np.ndarray]:
        """The batches that the keys of an epoch complete, in the order in which they do; `waiting` is what the others wait in."""
        ends: list[np.ndarray] = []
        batches: list[np.ndarray] = []
        of_keys = self.groups[keys[:, 1]]
        for group, before in waiting.items():
            places = np.flatnonzero(of_keys == group)
            members = np.concatenate([before, keys[places]])
            count = len(members) // self.batch_size
            last = np.arange(1, count + 1) * self.batch_size - 1 - len(before)
            ends.append(places[last])
            batches += list(members[: count * self.batch_size].reshape(count, self.batch_size, 3))
            waiting[group] = members[count * self.batch_size :]
        return [batches[place] for place in np.argsort(np.concatenate(ends))]
