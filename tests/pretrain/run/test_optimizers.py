"""Optimisers: LARS and AdamW against their formulas in NumPy, fused SGD against torch's plain one, states that change device."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.config import OptimizerConfig
from pretrain.run.optimizers import build_optimizer, load_optimizer

STEPS, DECAY, MOMENTUM, RATE = 4, 0.05, 0.8, 0.3


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).to(dtype)


def gradients(model):
    """The same for any two networks of one kind, another in every step."""
    torch.manual_seed(1)
    return [[torch.randn_like(parameter) for parameter in model.parameters()] for _ in range(STEPS)]


def trained(name, model, *, rates=(RATE,) * STEPS):
    optimizer = build_optimizer(
        model, OptimizerConfig(name=name, learning_rate=RATE, weight_decay=DECAY, momentum=MOMENTUM)
    )
    for rate, step in zip(rates, gradients(model), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return optimizer


def lars(weights, steps, rates, *, exclude=True):
    """SimCLR's LARSOptimizer: decay and adaptation for layers, plain momentum for biases and BatchNorm."""
    for index, w in enumerate(weights):
        v = np.zeros_like(w)
        for rate, step in zip(rates, steps, strict=True):
            g, ratio = step[index].copy(), 1.0
            if w.ndim > 1 or not exclude:
                g += DECAY * w
                norms = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
                ratio = 0.001 * norms[0] / norms[1] if min(norms) > 0 else 1.0
            v = MOMENTUM * v + rate * ratio * g
            w -= v
    return weights


def adamw(weights, steps, rates, *, exclude=True):
    for index, w in enumerate(weights):
        first, second = np.zeros_like(w), np.zeros_like(w)
        for count, (rate, step) in enumerate(zip(rates, steps, strict=True), 1):
            g = step[index]
            w *= 1 - rate * (DECAY if w.ndim > 1 or not exclude else 0)
            first = MOMENTUM * first + (1 - MOMENTUM) * g
            second = 0.999 * second + 0.001 * g**2
            w -= rate * first / (1 - MOMENTUM**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
    return weights


@pytest.mark.parametrize(("name", "reference"), [("lars", lars), ("adamw", adamw)])
def test_large_batch_optimisers_are_their_formulas(name, reference):
    rates = (0.3, 0.2, 0.4, 0.1)
    model = network()
    with torch.no_grad():
        model[3].weight.zero_()  # a norm of 0 has no ratio
    start = [parameter.detach().numpy().copy() for parameter in model.parameters()]
    steps = [[gradient.numpy() for gradient in step] for step in gradients(model)]
    trained(name, model, rates=rates)
    expected = reference(copy.deepcopy(start), steps, rates)
    ours = [parameter.detach().numpy() for parameter in model.parameters()]
    for own, written in zip(ours, expected, strict=True):
        np.testing.assert_allclose(own, written, rtol=1e-9, atol=1e-12)
    everywhere = reference(copy.deepcopy(start), steps, rates, exclude=False)  # control: BatchNorm decayed too
    assert not np.allclose(ours[2], everywhere[2], rtol=1e-6)


def test_fused_sgd_is_plain_sgd():
    fused, plain = network(torch.float32), network(torch.float32)
    optimizer = trained("sgd", fused)
    assert optimizer.param_groups[0]["fused"]
    by_hand = torch.optim.SGD(plain.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, foreach=False)
    for step in gradients(plain):
        for parameter, gradient in zip(plain.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        by_hand.step()
    for own, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_a_state_goes_on_whatever_implementation_wrote_it(name):
    model = network(torch.float32)
    state = trained(name, model).state_dict()
    for group in state["param_groups"]:
        group |= {"fused": None, "foreach": True} if "fused" in group else {}  # as an older version or device has it
    again = build_optimizer(copy.deepcopy(model), OptimizerConfig(name=name))
    load_optimizer(again, state)
    own = [group.get("fused") for group in build_optimizer(model, OptimizerConfig(name=name)).param_groups]
    assert [group.get("fused") for group in again.param_groups] == own
    assert again.param_groups[0]["lr"] == RATE  # control: what is no implementation comes from the state


def test_a_first_step_that_the_loss_scaler_skips_leaves_no_momentum():
    """torch's fused SGD leaves its new buffers unwritten then (2.14.1): filled with what lay in memory before."""
    layer = nn.Linear(4096, 1, bias=False)
    optimizer, scaler = build_optimizer(layer, OptimizerConfig()), torch.amp.GradScaler("cpu", init_scale=4.0)
    for value in (float("inf"), 1.0):
        stale = [torch.full((1, 4096), 7.0) for _ in range(8)]
        del stale
        optimizer.zero_grad()
        scaler.scale(layer(torch.full((1, 4096), value)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        momentum = optimizer.state[layer.weight]["momentum_buffer"]
        assert torch.allclose(momentum, torch.full_like(momentum, 0.0 if value > 1 else 1.0), atol=0.01)
