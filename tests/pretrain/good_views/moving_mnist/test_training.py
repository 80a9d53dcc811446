"""Training of a cell: what is shared is learned, the supervised row learns its task, and both report when they diverge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pretrain.base.errors import UserError
from pretrain.good_views.moving_mnist.config import TrainingConfig
from pretrain.good_views.moving_mnist.factors import Sharing
from pretrain.good_views.moving_mnist.pairs import PairMaker
from pretrain.good_views.moving_mnist.training import supervised_errors, train_contrast, train_supervised

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

CPU = torch.device("cpu")


def makers(worlds, config):
    return PairMaker(worlds.train, config.scene, 0), PairMaker(worlds.held_out, config.scene, 0)


def longer(tiny, **values):
    return replace(
        tiny, training=TrainingConfig(batch_size=32, learning_rate=5e-3, temperature=0.2, device="cpu", **values)
    )


def test_a_shared_background_is_found_in_a_few_steps(worlds, tiny):
    trained = train_contrast(
        *makers(worlds, tiny), Sharing(("background",)), longer(tiny, steps=40), seed=0, device=CPU
    )
    assert len(trained.history) == 40
    assert trained.history[-1] > 0.5 > trained.history[0]
    assert trained.information.nats > 0.5
    assert trained.information.num_negatives == 31


def test_a_cell_is_a_function_of_its_seed(worlds, tiny):
    first, again, other = (
        train_contrast(*makers(worlds, tiny), Sharing(("digit",)), tiny, seed=seed, device=CPU) for seed in (0, 0, 1)
    )
    assert first.history == again.history != other.history
    assert first.information == again.information


def test_the_supervised_row_learns_its_task(worlds, tiny):
    config = longer(tiny, supervised_steps=60)
    train, held_out = makers(worlds, config)
    model, history = train_supervised(train, "background", config, seed=0, device=CPU)
    assert history[-1] < history[0]
    errors = supervised_errors(model, held_out, "background", config, device=CPU)
    untrained, _ = train_supervised(
        train, "background", replace(config, training=replace(config.training, learning_rate=1e-9)), seed=0, device=CPU
    )
    before = supervised_errors(untrained, held_out, "background", config, device=CPU)
    assert errors[0] < before[0] - 10 and errors[1] < before[1] - 10


def test_the_supervised_position_is_in_pixels(worlds, tiny):
    """A model that always says the middle is off by what a constant is off by."""
    train, held_out = makers(worlds, tiny)
    model, _ = train_supervised(train, "position", tiny, seed=0, device=CPU)
    for head in model.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    config = replace(tiny, probe=replace(tiny.probe, num_test=500))
    assert supervised_errors(model, held_out, "position", config, device=CPU) == pytest.approx((13.8, 13.8), abs=0.8)


def test_divergence_says_what_to_pass(worlds, tiny, monkeypatch):
    train, _ = makers(worlds, tiny)
    monkeypatch.setattr(
        "pretrain.good_views.moving_mnist.training.functional.cross_entropy",
        lambda *_: torch.tensor(float("nan"), requires_grad=True),
    )
    with pytest.raises(UserError, match="training.learning_rate="):
        train_supervised(train, "digit", tiny, seed=0, device=CPU)
