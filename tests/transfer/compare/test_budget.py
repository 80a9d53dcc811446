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
    _line,
    divide,
    estimate_lines,
    least_budget,
    seconds_of,
)

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


def test_start_and_step_come_from_two_lengths() -> None:
    cost = _line([(4, Cost(10.0, 0, 100)), (16, Cost(16.0, 0, 300))])
    assert (cost.start, cost.step, cost.memory) == (8.0, 0.5, 300)
    assert _line([(0, Cost(6.0))]) == Cost(6.0)
    assert _line([(4, Cost(10.0)), (16, Cost(9.0))]).step == 0.0  # a machine that was busy at first


def test_the_estimate_names_every_kind_its_memory_and_the_sum() -> None:
    lines = estimate_lines(WORK, COSTS, Schedule(20, 300), budget=7200.0)
    text = "\n".join(lines)
    assert "pretrain" in lines[0] and "20 epochs of 70 steps of 0.50 s" in lines[0] and "1,024 MiB" in lines[0]
    assert "10 x" in text and "300 iterations of 0.40 s" in text and "readout" not in text
    assert "in all" in lines[-1] and "2 h 00 min" in lines[-1]
