"""The key network: EMA of parameters, own BatchNorm buffers, ShuffleBN that gives every key back to its image."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.model.momentum import shuffled_forward, start_key, update_key
from pretrain.run.ranks import Ranks


def small_network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))


def test_key_starts_as_a_copy_without_gradient():
    query, key = small_network(), small_network()
    start_key(query=query, key=key)
    assert all(torch.equal(a, b) for a, b in zip(query.state_dict().values(), key.state_dict().values(), strict=True))
    assert not any(parameter.requires_grad for parameter in key.parameters())


def test_update_is_the_closed_form_after_many_steps():
    query, key = small_network(), small_network()
    start_key(query=query, key=key)
    start = key[0].weight.clone()
    with torch.no_grad():
        query[0].weight.add_(1.0)
    for _ in range(10):
        update_key(query=query, key=key, momentum=0.9)
    torch.testing.assert_close(key[0].weight, start + (1 - 0.9**10))  # towards a constant: 1 - m^n of the way


def test_update_leaves_batchnorm_buffers_to_the_key_network():
    query, key = small_network(), small_network()
    start_key(query=query, key=key)
    query.train()(torch.randn(16, 4) + 3)
    key.train()(torch.randn(16, 4) - 3)
    own = {name: buffer.clone() for name, buffer in key.named_buffers()}
    update_key(query=query, key=key, momentum=0.0)
    assert torch.equal(key[0].weight, query[0].weight)
    assert all(torch.equal(own[name], buffer) for name, buffer in key.named_buffers())
    assert not torch.equal(key[1].running_mean, query[1].running_mean)


def test_one_rank_gives_every_key_back_to_its_image():
    images = torch.arange(6.0).view(6, 1)
    assert torch.equal(shuffled_forward(lambda x: x * 2, images, ranks=Ranks(), seed=0, step=0), images * 2)


def test_one_rank_mixes_its_batch_before_encoding():
    seen = []
    images = torch.arange(64.0).view(64, 1)
    shuffled_forward(lambda x: seen.append(x) or x, images, ranks=Ranks(), seed=0, step=0)
    assert not torch.equal(seen[0], images) and torch.equal(seen[0].sort(0).values, images)
