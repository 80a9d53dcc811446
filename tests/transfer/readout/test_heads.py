"""Linear heads side by side: each is the head that torch's own SGD gives alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from pretrain.run.schedule import LearningRate
from transfer.readout.heads import Head, LinearHeads, starting_layer, train_epochs

N, D, C, EPOCHS, BATCH = 60, 7, 4, 3, 16
GRID = [Head(rate, decay) for decay in (0.0, 0.01) for rate in (0.001 * 1.5**k for k in range(16))]  # 32 heads
SCHEDULE = LearningRate(1.0, EPOCHS, -(-N // BATCH), "step", 0.2, (1, 2))


def problem():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, C, (N,), generator=generator)
    return torch.randn(N, D, generator=generator) + functional.one_hot(labels, D), labels


def batches(features, labels):
    for epoch in range(EPOCHS):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(epoch))
        for index in order.split(BATCH):
            yield features[index], labels[index]


def trained(heads, *, momentum=0.9, features=None):
    own, labels = problem()
    layer = starting_layer(D, C, start="torch", seed=3)
    found = LinearHeads(layer, heads, momentum=momentum, device=torch.device("cpu"))
    losses = list(train_epochs(found, batches(own if features is None else features, labels), SCHEDULE))
    return found, torch.stack(losses)


def alone(head, *, momentum):
    """nn.Linear, cross_entropy and torch.optim.SGD."""
    features, labels = problem()
    layer = starting_layer(D, C, start="torch", seed=3)
    optimizer = torch.optim.SGD(
        layer.parameters(), lr=head.learning_rate, momentum=momentum, weight_decay=head.weight_decay
    )
    losses = []
    for step, (rows, own) in enumerate(batches(features, labels)):
        optimizer.param_groups[0]["lr"] = head.learning_rate * SCHEDULE(step)
        loss = functional.cross_entropy(layer(rows), own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()) * len(own))
    per_epoch = [sum(losses[i : i + 4]) / N for i in range(0, len(losses), 4)]
    return layer, per_epoch


@pytest.mark.parametrize(("momentum", "count"), [(0.9, 32), (0.0, 2)])
def test_each_of_32_heads_is_the_one_that_torchs_sgd_gives_alone(momentum, count):
    heads = GRID[-count:]
    found, losses = trained(heads, momentum=momentum)
    assert len(found.heads) == count
    for place, head in enumerate(heads):
        layer, per_epoch = alone(head, momentum=momentum)
        rows = slice(place * C, (place + 1) * C)
        torch.testing.assert_close(found.weight[rows], layer.weight.detach(), rtol=2e-4, atol=2e-5)
        torch.testing.assert_close(found.bias[rows], layer.bias.detach(), rtol=2e-4, atol=2e-5)
        assert losses[:, place].tolist() == pytest.approx(per_epoch, rel=1e-4)


def test_a_head_that_diverges_leaves_the_others_as_they_are():
    features, _ = problem()
    large = 1e15 * features
    calm, _ = trained([Head(1e-40, 0.0)], features=large)
    both, losses = trained([Head(1e-40, 0.0), Head(1e30, 0.0)], features=large)
    assert torch.equal(both.weight[:C], calm.weight) and calm.weight.isfinite().all()
    assert not both.weight[C:].isfinite().all() and not losses[-1, 1].isfinite()


def test_mocos_start_is_normal_with_deviation_001_and_no_bias_and_torchs_is_linears_own():
    normal = starting_layer(2000, 50, start="normal", seed=0)
    assert normal.weight.std().item() == pytest.approx(0.01, rel=0.02) and not normal.bias.any()
    torch.manual_seed(5)
    own = nn.Linear(D, C)
    assert torch.equal(starting_layer(D, C, start="torch", seed=5).weight, own.weight)
