"""One optimisation step: the lines that it stands for, bit for bit, and no update where its check refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pretrain.base.errors import UserError
from pretrain.run.descend import at_once, descend, descend_sum

ROWS = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def loss_of(model):
    return model(ROWS).square().mean()


def optimizers():
    return {
        "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4),
        "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    }


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_step_is_zero_grad_backward_step(name):
    ours = network()
    theirs = copy.deepcopy(ours)
    our_optimizer, their_optimizer = (optimizers()[name](model) for model in (ours, theirs))
    for _ in range(3):
        descend(our_optimizer, loss_of(ours), check=at_once(AssertionError))
        their_optimizer.zero_grad(set_to_none=True)
        loss_of(theirs).backward()
        their_optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not torch.equal(ours[0].weight, network()[0].weight)  # control: it does move


def infinite_gradient(model):
    """A finite loss, zero, at which the square root has no finite slope."""
    return (model(ROWS[:1]) - model(ROWS[:1]).detach()).sqrt().sum()


@pytest.mark.parametrize(
    ("loss_with", "words"),
    [(lambda model: loss_of(model) * float("nan"), "loss nan"), (infinite_gradient, "loss 0, gradient (inf|nan)")],
)
def test_a_refused_step_updates_nothing(loss_with, words):
    model = network()
    before = copy.deepcopy(model.state_dict())
    refuse = at_once(lambda loss, norm: UserError(f"loss {loss:g}, gradient {norm:g}"))
    with pytest.raises(UserError, match=words):
        descend(optimizers()["sgd"](model), loss_with(model), check=refuse)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_an_active_scaler_skips_an_infinite_gradient_and_lowers_its_scale():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=True)
    before = copy.deepcopy(model.state_dict())
    norms = []
    descend(optimizer, infinite_gradient(model), check=lambda loss, norm: norms.append(norm), scaler=scaler)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert norms == [None] and scaler.get_scale() == 2.0
    descend(optimizer, loss_of(model), check=lambda loss, norm: None, scaler=scaler)  # control: a finite one is made
    assert not torch.equal(before["0.weight"], model.state_dict()["0.weight"])


def test_terms_are_one_step_of_their_sum_with_and_without_a_scaler():
    """As with accumulated micro-batches in fp16: one scale for all terms, one update of it."""
    whole, parts, scaled = network(), network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1, enabled=True)
    seen = []

    def terms(model):
        return (model(rows).square().sum() / len(ROWS) for rows in ROWS.split(4))

    for _ in range(2):
        descend(torch.optim.SGD(whole.parameters(), lr=0.1), loss_of(whole), check=at_once(AssertionError))
        optimizer = torch.optim.SGD(parts.parameters(), lr=0.1)
        descend_sum(optimizer, terms(parts), check=lambda loss, norm: seen.append(float(loss)))
        optimizer = torch.optim.SGD(scaled.parameters(), lr=0.1)
        descend_sum(optimizer, terms(scaled), check=lambda loss, norm: None, scaler=scaler)
    assert scaler.get_scale() == 16.0  # doubled once a step
    assert seen[1] < seen[0]
    for own, one, other in zip(whole.parameters(), parts.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(one, own, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(other, own, rtol=1e-5, atol=1e-7)


def test_an_infinite_gradient_in_one_term_skips_the_whole_step():
    model = network()
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=True)
    losses = (make(model) for make in (infinite_gradient, loss_of))
    descend_sum(torch.optim.SGD(model.parameters(), lr=0.1), losses, check=lambda loss, norm: None, scaler=scaler)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
