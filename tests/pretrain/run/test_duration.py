"""The time of a run from a step and a batch of views: which of them counts, and how it is said."""

from __future__ import annotations

import pytest

from pretrain.run.duration import Pace, in_words
from tests.cases import each

GPU = {"shares_cores": False, "cores": 16, "threads": 16}
CPU = {"shares_cores": True, "cores": 2, "threads": 2}


@each(
    ("pace", "seconds", "limit"),
    [
        (Pace(step=1.3, input=0.4, workers=8, **GPU), 1.3, "limited by the step"),
        (Pace(step=0.3, input=0.9, workers=8, **GPU), 0.9, "limited by the input: more data.num_workers"),
        (Pace(step=1.3, input=0.4, workers=0, **GPU), 1.7, "data.num_workers=0"),
        # Both need both cores: what one takes the other does not have.
        (Pace(step=1.0, input=0.5, workers=2, **CPU), 1.5, "step and input share 2 cores"),
        # A step of one thread leaves a core to one worker.
        (Pace(step=1.0, input=0.5, workers=1, shares_cores=True, cores=2, threads=1), 1.0, "limited by the step"),
        (Pace(step=1.0, input=2.0, workers=2, shares_cores=True, cores=2, threads=1), 2.5, "share 2 cores"),
    ],
)
def test_what_a_step_of_the_run_takes_and_what_limits_it(pace, seconds, limit):
    assert pace.seconds == pytest.approx(seconds)
    assert limit in pace.limit


@each(
    ("seconds", "words"),
    [
        (3.14, "3.1 s"),
        (42, "42 s"),
        (720, "12 min"),
        (12000, "3 h 20 min"),
        (7199, "2 h 00 min"),
        (270000, "3 d 3 h"),
    ],
)
def test_durations_are_said_as_one_plans_with_them(seconds, words):
    assert in_words(seconds) == words
