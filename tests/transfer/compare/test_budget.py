"""A budget divided: equal for all, never exceeded, and refused with what would fit."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pretrain.base.errors import ConfigError
from transfer.compare.budget import (
    LEAST_ITERATIONS,
    LEAST_STEPS,
    RESERVE,
    Cost,
    Schedule,
    Work,
    divide,
    estimate_lines,
    least_budget,
    seconds_of,
)
from transfer.compare.measuring import TRIALS, Measured, _pretrain_cost, _readout_cost

COSTS = {
    "pretrain": Cost(8.0, 0.5, 2**30),
    "convert": Cost(6.0),
    "detect": Cost(20.0, 0.4, 2**30),
    "readout": Cost(15.0),
}
WORK = Work(pretrainings=1, conversions=1, detections=10, readouts=0, steps_per_epoch=70, most_iterations=3000)


def random_work(seed: int) -> tuple[Work, dict[str, Cost]]:
    rng = np.random.default_rng(seed)
    work = Work(
        pretrainings=int(rng.integers(0, 4)),
        conversions=int(rng.integers(0, 4)),
        detections=int(rng.integers(0, 40)),
        readouts=int(rng.integers(0, 40)),
        steps_per_epoch=int(rng.integers(1, 300)),
        most_iterations=int(rng.integers(50, 5000)),
        devices=int(rng.integers(1, 5)),
    )
    costs = {
        kind: Cost(float(rng.uniform(1, 30)), float(rng.uniform(0.01, 1)))
        for kind in ("pretrain", "convert", "detect", "readout")
    }
    return work, costs


@pytest.mark.parametrize("seed", range(40))
def test_no_plan_exceeds_its_budget_and_the_least_budget_is_enough(seed: int) -> None:
    work, costs = random_work(seed)
    if not work.detections and not work.pretrainings:
        return
    least = least_budget(work, costs)
    for budget in (least, 1.3 * least, 10 * least):
        schedule = divide(work, costs, budget)
        assert sum(seconds_of(work, costs, schedule).values()) <= (1 - RESERVE) * budget + 1e-6
        assert not work.detections or schedule.iterations >= min(LEAST_ITERATIONS, work.most_iterations)
        assert not work.pretrainings or schedule.epochs * work.steps_per_epoch >= LEAST_STEPS
    if least > 120:
        with pytest.raises(ConfigError, match="budget"):
            divide(work, costs, least - 90)


def test_half_of_what_is_left_after_the_fixed_costs_goes_to_each_part() -> None:
    schedule = divide(WORK, COSTS, 7200.0)
    fixed = 30 + 8 + 6 + 10 * 20
    half = (0.9 * 7200 - fixed) / 2
    assert schedule.epochs == int(half / (0.5 * 70))
    spent = schedule.epochs * 0.5 * 70
    assert schedule.iterations == int((0.9 * 7200 - fixed - spent) / (10 * 0.4))


def test_what_the_labelled_images_are_not_worth_goes_to_pre_training() -> None:
    few = Work(pretrainings=1, conversions=1, detections=10, readouts=0, steps_per_epoch=70, most_iterations=150)
    schedule = divide(few, COSTS, 7200.0)
    assert schedule.iterations == 150 and schedule.epochs > divide(WORK, COSTS, 7200.0).epochs


def test_given_epochs_stay_and_the_rest_goes_to_the_other_part() -> None:
    given = Work(
        pretrainings=1, conversions=1, detections=10, readouts=0, steps_per_epoch=70, epochs=4, most_iterations=3000
    )
    schedule = divide(given, COSTS, 7200.0)
    assert schedule.epochs == 4 and schedule.iterations > divide(WORK, COSTS, 7200.0).iterations


def test_two_devices_give_twice_the_iterations() -> None:
    alone = Work(pretrainings=0, conversions=0, detections=10, readouts=0, most_iterations=10**6)
    both = Work(pretrainings=0, conversions=0, detections=10, readouts=0, most_iterations=10**6, devices=2)
    one, two = (divide(work, COSTS, 7200.0).iterations for work in (alone, both))
    assert two > 1.9 * one


def test_a_budget_that_is_too_small_says_what_would_fit() -> None:
    with pytest.raises(ConfigError) as found:
        divide(WORK, COSTS, 600.0)
    text = str(found.value)
    minutes = int(re.search(r"needs --budget (\d+)m", text)[1])  # type: ignore[index]
    assert divide(WORK, COSTS, 60.0 * minutes).iterations >= LEAST_ITERATIONS
    assert "fewer --seeds" in text and "Nothing was run" in text


def trial(epochs: int, batches: int, *, start: float, epoch: float, step: float, memory: int = 0) -> Measured:
    """A pre-training of so many epochs of so many steps, on a machine that takes exactly that."""
    steps = epochs * batches
    return Measured(start + epoch * epochs + step * steps, memory, 0, (epochs, steps))


def test_start_epoch_and_step_come_apart_so_that_a_large_pool_is_not_charged_an_epochs_cost_at_every_step() -> None:
    machine = {"start": 8.0, "epoch": 3.0, "step": 0.5}
    cost = _pretrain_cost([trial(one.epochs, one.batches, **machine) for one in TRIALS])
    assert (cost.start, cost.epoch, cost.step) == pytest.approx((8.0, 3.0, 0.5))
    work = Work(pretrainings=1, conversions=0, detections=0, readouts=0, steps_per_epoch=70)
    estimated = seconds_of(work, {"pretrain": cost}, Schedule(20, 0))["pretrain"]
    assert estimated == pytest.approx(8.0 + 20 * 3.0 + 20 * 70 * 0.5)
    # Two trials alone, as a pool of three batches has them, would make 3 s of an epoch 1 s of each of its steps.
    few = _pretrain_cost([trial(one.epochs, one.batches, **machine) for one in TRIALS[:2]])
    assert few.of(3 * 20, 20) == pytest.approx(8.0 + 20 * 3.0 + 20 * 3 * 0.5) and few.step == pytest.approx(1.5)


def test_a_machine_that_was_busy_at_first_gives_no_cost_below_zero() -> None:
    for seconds in ((9.0, 5.0, 4.0), (5.0, 4.0, 30.0), (5.0, 30.0, 4.0)):
        found = [Measured(s, 0, 0, (t.epochs, t.epochs * t.batches)) for s, t in zip(seconds, TRIALS, strict=True)]
        cost = _pretrain_cost(found)
        assert min(cost.start, cost.epoch, cost.step) >= 0, (seconds, cost)


def test_a_readout_takes_on_average_what_one_of_the_mean_fraction_takes() -> None:
    found = [Measured(20.0, 5, 0), Measured(11.0, 7, 0)]  # of all labels and of a tenth: 10 s + 10 s a whole set
    assert _readout_cost(found, (0.1, 1.0)).start == pytest.approx(15.5)
    assert _readout_cost(found[:1], (1.0,)) == Cost(20.0, memory=5)
    assert _readout_cost(found, (0.1, 0.1, 1.0)).start == pytest.approx((20 + 11 + 11) / 3)


def test_a_kind_of_stage_that_was_not_measured_is_left_out_of_the_lines() -> None:
    costs = {kind: cost for kind, cost in COSTS.items() if kind != "convert"}
    assert "convert" not in "\n".join(estimate_lines(WORK, costs, Schedule(20, 300), budget=None))


def test_the_estimate_names_every_kind_its_memory_and_the_sum() -> None:
    lines = estimate_lines(WORK, COSTS, Schedule(20, 300), budget=7200.0)
    text = "\n".join(lines)
    assert "pretrain" in lines[0] and "20 epochs of 35.0 s (70 steps)" in lines[0] and "1,024 MiB" in lines[0]
    assert "10 x" in text and "300 iterations of 0.40 s" in text and "readout" not in text
    assert "in all" in lines[-1] and "2 h 00 min" in lines[-1]
