"""Which images make a step: Detectron2's batches, from any step on, with no image left out."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from detectron2.data.common import AspectRatioGroupedDataset

from pretrain.base.errors import DataError
from transfer.detect.order import TrainingOrder

SIZE = 3
WIDE = np.array([0, 0, 1, 0, 1, 0, 0])  # groups of seven records: no group fills whole batches


def taken(order: TrainingOrder, count: int, first: int = 0) -> list[list[tuple[int, int, int]]]:
    return list(itertools.islice(order.batches(first), count))


@pytest.mark.parametrize("repeats", [None, np.array([1, 2.5, 1, 0.3, 1, 1, 0])])
@pytest.mark.parametrize("groups", [None, WIDE])
def test_a_start_at_any_step_takes_the_batches_of_an_unbroken_run(groups, repeats) -> None:
    order = TrainingOrder(7, batch_size=SIZE, seed=5, groups=groups, repeats=repeats)
    whole = taken(order, 40)
    for first in (1, 2, 7, 20, 39):
        assert (
            taken(TrainingOrder(7, batch_size=SIZE, seed=5, groups=groups, repeats=repeats), 1, first)[0]
            == whole[first]
        )
        assert taken(order, 40 - first, first) == whole[first:]
    assert whole != taken(TrainingOrder(7, batch_size=SIZE, seed=6, groups=groups, repeats=repeats), 40)


def test_batches_are_those_of_detectron2s_grouping_of_the_same_stream() -> None:
    order = TrainingOrder(7, batch_size=SIZE, seed=1, groups=WIDE)
    stream = (
        {"key": tuple(key), "width": 1 + (WIDE[key[1]] == 0), "height": 1}
        for epoch in itertools.count()
        for key in order.epoch(epoch).tolist()
    )
    theirs = itertools.islice(AspectRatioGroupedDataset(stream, SIZE), 50)
    assert taken(order, 50) == [[entry["key"] for entry in batch] for batch in theirs]


def test_an_epoch_leaves_no_image_out_and_what_does_not_fill_a_batch_waits() -> None:
    order = TrainingOrder(7, batch_size=SIZE, seed=1, groups=WIDE)
    seen = Counter(record for batch in taken(order, 70) for _, record, _ in batch)  # 210 = 30 epochs of 7
    assert set(seen) == set(range(7)) and max(seen.values()) - min(seen.values()) <= 2
    assert all(len({WIDE[record] for _, record, _ in batch}) == 1 for batch in taken(order, 70))


def test_repeats_are_kept_on_average_and_each_time_has_a_key_of_its_own() -> None:
    repeats = np.array([2.5, 1, 0.25])
    order = TrainingOrder(3, batch_size=1, seed=0, repeats=repeats)
    epochs = [order.epoch(epoch) for epoch in range(400)]
    counts = np.mean([np.bincount(keys[:, 1], minlength=3) for keys in epochs], axis=0)
    assert counts == pytest.approx(repeats, abs=0.1)
    assert all(len(np.unique(keys, axis=0)) == len(keys) for keys in epochs)


def test_nothing_to_train_on_is_said_before_it_is_looked_for_without_end() -> None:
    with pytest.raises(DataError, match="no image to train on"):
        TrainingOrder(2, batch_size=1, seed=0, repeats=np.zeros(2))
