"""The queue is a ring: newest keys replace oldest, the pointer is part of the state. The bank has a row an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.base.errors import ConfigError, DataError
from pretrain.config import MethodConfig
from pretrain.model.memory import FeatureBank, FeatureQueue, memory_warnings, require_memory, warning_of_own_keys
from tests.cases import each


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


def unit(*shape, seed):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_rows_of_the_bank_move_half_way_and_stay_of_unit_length():
    bank = FeatureBank(9, 4, momentum=0.5, seed=0)
    before, new, index = bank.features.clone(), unit(3, 4, seed=1), torch.tensor([7, 0, 4])
    bank.update(new, index=index)
    torch.testing.assert_close(bank.features[index], F.normalize(before[index] + new, dim=1))
    others = [row for row in range(9) if row not in (7, 0, 4)]
    assert torch.equal(bank.features[others], before[others])
    torch.testing.assert_close(bank.features.norm(dim=1), torch.ones(9))


def test_of_an_image_that_comes_twice_the_last_embedding_counts_once():
    index, new = torch.tensor([3, 1, 3, 8, 3, 1]), unit(6, 4, seed=1)
    first, second = (FeatureBank(9, 4, momentum=0.5, seed=0) for _ in range(2))
    before = first.features.clone()
    first.update(new, index=index)
    second.update(new[[4, 5, 3]], index=torch.tensor([3, 1, 8]))
    assert torch.equal(first.features, second.features)
    torch.testing.assert_close(first.features[3], F.normalize(before[3] + new[4], dim=0))


def test_embeddings_of_a_step_that_was_not_finite_do_not_enter_the_bank():
    bank, index = FeatureBank(9, 4, momentum=0.5, seed=0), torch.tensor([2, 5])
    before = bank.features.clone()
    bank.update(torch.full((2, 4), float("nan")), index=index, sound=torch.tensor(False))
    assert torch.equal(bank.features, before)
    bank.update(unit(2, 4, seed=1), index=index, sound=torch.tensor(True))  # control
    assert not torch.equal(bank.features, before)


def test_a_bank_of_fewer_images_than_negatives_is_refused_with_what_fits():
    config = MethodConfig(memory="bank", bank_negatives=64)
    require_memory(config, num_images=65)
    with pytest.raises(DataError, match=r"bank_negatives expected at most 63 .*64 images\), found 64; pass .*=63"):
        require_memory(config, num_images=64)
    require_memory(MethodConfig(memory="batch", bank_negatives=64), num_images=2)  # without a bank it does not matter


@each(
    ("over", "settings", "message"),
    [
        ({"queue_size": 2000}, {}, "queue_size=232"),
        ({"queue_size": 2000, "symmetric": True}, {}, None),  # keys of both views: 2000 of 1000 images
        ({"queue_size": 2001, "symmetric": True}, {}, "queue_size=464"),
        ({"memory": "bank"}, {"epochs": 1}, "every positive is a random vector"),
        ({"memory": "bank"}, {"epochs": 2}, None),
        ({"memory": "batch"}, {"batch_size": 63}, "a batch of 63 gives a query 124 negatives"),
        ({"memory": "batch"}, {"batch_size": 256, "accumulate": 8}, "a micro-batch of 32 gives a query 62 negatives"),
        ({"memory": "batch"}, {"batch_size": 64}, None),
        ({"memory": "batch"}, {"batch_size": 64, "world_size": 2}, "batchnorm=synchronised"),
        ({"memory": "batch", "batchnorm": "synchronised"}, {"batch_size": 64, "world_size": 2}, None),
    ],
)
def test_a_memory_that_cannot_do_what_it_should_is_warned_of(over, settings, message):
    given = {"num_images": 1000, "batch_size": 58, "accumulate": 1, "epochs": 10, "world_size": 1, **settings}
    found = memory_warnings(MethodConfig(**over), **given)
    assert len(found) == (message is not None) and all(message in text for text in found)
