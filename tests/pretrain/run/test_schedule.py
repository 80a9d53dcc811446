"""The learning rate against the formulas of the reference, written out again."""

from __future__ import annotations

import math

import pytest

from pretrain.run.schedule import LearningRate, Momentum, paper_warmup_epochs


def test_cosine_follows_the_reference_to_its_floor():
    rate = LearningRate(base=0.03, epochs=200, steps_per_epoch=10)
    for epoch in (1, 2, 100, 199, 200):  # counted from 1
        expected = 3e-5 + (0.03 - 3e-5) * (1 + math.cos(math.pi * epoch / 200)) / 2
        first, last = (epoch - 1) * 10, epoch * 10 - 1
        assert rate(first) == rate(last) == pytest.approx(expected, rel=1e-12)
    assert rate(1999) == pytest.approx(0.03 * 1e-3)


def test_steps_fall_after_their_milestone():
    rate = LearningRate(base=0.03, epochs=200, steps_per_epoch=10, kind="step", milestones=(120, 160))
    assert rate(120 * 10 - 1) == 0.03  # epoch 120 in full at the base rate
    assert rate(120 * 10) == pytest.approx(0.003)
    assert rate(160 * 10) == pytest.approx(0.0003)


def test_warmup_is_a_line_that_meets_the_curve():
    rate = LearningRate(base=0.06, epochs=100, steps_per_epoch=7, warmup_epochs=5)
    plain = LearningRate(base=0.06, epochs=100, steps_per_epoch=7)
    assert rate(0) == 0.01
    steps = [rate(step + 1) - rate(step) for step in range(34)]
    assert max(steps) == pytest.approx(min(steps))
    assert rate(34) + steps[0] == pytest.approx(plain(4 * 7))  # epoch 5's value, where the line ends
    assert rate(35) == plain(35)


def test_warmup_rule_of_the_reference():
    assert paper_warmup_epochs(batch_size=256, epochs=800, asked=False) == 0
    assert paper_warmup_epochs(batch_size=256, epochs=800, asked=True) == 10
    assert paper_warmup_epochs(batch_size=512, epochs=200, asked=False) == 5


def test_momentum_is_constant_or_byol_s_curve():
    assert [Momentum(0.999, None, 100)(step) for step in (0, 50, 99)] == [0.999] * 3
    rising = Momentum(0.99, 1.0, 100)
    for step in (0, 1, 50, 99, 100):
        assert rising(step) == pytest.approx(1 - (1 - 0.99) * (math.cos(math.pi * step / 100) + 1) / 2, rel=1e-12)
    assert (Momentum(0.9, 0.95, 10)(0), Momentum(0.9, 0.95, 10)(10)) == pytest.approx((0.9, 0.95))
