"""The queue is a ring: newest keys replace oldest, the pointer is part of the state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.base.errors import ConfigError
from pretrain.model.memory import FeatureQueue, warning_of_own_keys


def batches(count, size, dim=4):
    return [torch.full((size, dim), float(i)) for i in range(1, count + 1)]


def test_queue_holds_the_last_keys_when_the_batch_does_not_divide_it():
    queue = FeatureQueue(7, 4, seed=0)
    for keys in batches(4, 3):
        queue.enqueue(keys)
    # 12 keys written into 7 rows: the last 7 are 2, 3, 3, 3, 4, 4, 4
    assert sorted(queue.features[:, 0].tolist()) == [2, 3, 3, 3, 4, 4, 4]
    assert queue.pointer == 12 % 7


def test_queue_starts_with_unit_rows_that_depend_on_the_seed_alone():
    first, again, other = FeatureQueue(5, 8, seed=1), FeatureQueue(5, 8, seed=1), FeatureQueue(5, 8, seed=2)
    torch.testing.assert_close(first.features.norm(dim=1), torch.ones(5))
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.features, other.features)


def test_queue_pointer_survives_resume():
    queue = FeatureQueue(7, 4, seed=0)
    queue.enqueue(torch.full((3, 4), 1.0))
    resumed = FeatureQueue(7, 4, seed=9)
    resumed.load_state_dict(queue.state_dict())
    forgetful = FeatureQueue(7, 4, seed=0)
    forgetful.load_state_dict({**queue.state_dict(), "pointer": torch.zeros((), dtype=torch.int64)})
    for memory in (queue, resumed, forgetful):
        memory.enqueue(torch.full((3, 4), 2.0))
    assert torch.equal(queue.features, resumed.features)
    assert not torch.equal(queue.features, forgetful.features)  # control: the reference's bug shows


def test_more_keys_than_rows_are_refused():
    with pytest.raises(ConfigError, match="queue_size to at least 9"):
        FeatureQueue(8, 4, seed=0).enqueue(torch.zeros(9, 4))


def test_keys_of_a_step_that_was_not_finite_are_not_taken():
    queue = FeatureQueue(7, 4, seed=0)
    before = queue.features.clone()
    queue.enqueue(torch.full((3, 4), float("nan")), sound=torch.tensor(False))
    assert torch.equal(queue.features, before)
    queue.enqueue(torch.ones(3, 4), sound=torch.tensor(True))  # control
    assert not torch.equal(queue.features, before)


def test_a_queue_larger_than_the_image_set_is_warned_of_with_a_number_that_fits():
    assert warning_of_own_keys(queue_size=1000, num_images=1000, batch_size=8) is None
    message = warning_of_own_keys(queue_size=1001, num_images=1000, batch_size=8)
    assert "method.queue_size=248 (3 % of the images" in message
    rng = np.random.default_rng(0)  # the share by trying: how many keys lie between two turns of one image
    apart = 1000 - rng.integers(0, 1000, 100_000) + rng.integers(0, 1000, 100_000)
    assert 100 * (apart < 248).mean() == pytest.approx(3, abs=0.3)
