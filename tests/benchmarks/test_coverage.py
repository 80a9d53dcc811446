"""The intervals of a report hold the truth as often as they say: a quick simulation, and the recorded one."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.coverage import DOCS, PARTS, Row, markdown, simulate

# part -> experiments that take about a second, and four standard errors of a share of 95 % of them
QUICK = {"paired": (1500, 0.023), "bonferroni": (600, 0.036), "two-level": (300, 0.051), "top-1": (800, 0.044)}


@pytest.mark.parametrize("part", QUICK)
@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say(part):
    experiments, slack = QUICK[part]
    rows = simulate(part, experiments)
    held = [row for row in rows if row.holds]
    assert held and all(0.93 - slack <= row.share <= 0.97 + slack for row in held), markdown(held)
    controls = [row.share for row in rows if row.control]  # the rules that a report must not use
    assert part == "paired" or min(controls) < 0.9


@pytest.mark.slow
def test_a_bootstrap_of_ap_without_repetitions_is_too_narrow():
    rows = simulate("ap", 400, seed=1)
    ours, faulty = (
        {row.case.removeprefix("AP, "): row.share for row in rows if row.control == is_control}
        for is_control in (False, True)
    )
    assert all(faulty[case] < ours[case] for case in ours)
    assert all(0.86 <= row.share <= 1.0 for row in rows if row.holds)


def test_the_recorded_simulation_covers_93_to_97_percent_wherever_its_assumptions_hold():
    found = json.loads(DOCS.read_text())
    rows = [Row(**row) for row in found["rows"]]
    held = [row for row in rows if row.holds]
    low, high = found["wanted"]
    assert {row.interval for row in held} == {
        "t, paired by seed", "t, Bonferroni", "t, pre-trainings and seeds", "bootstrap over images, top-1", "bootstrap over images, AP",
    }  # fmt: skip
    assert all(low <= row.share <= high for row in held), markdown(held)
    assert all(row.experiments >= 1000 for row in rows) and len(PARTS) == 6
    without = [row.share for row in rows if row.interval.startswith("the same without repetitions")]
    assert max(without) < 0.9  # the published fault
    alarms = [row.share for row in rows if "alarms" in row.interval]
    assert max(alarms) <= 0.06
