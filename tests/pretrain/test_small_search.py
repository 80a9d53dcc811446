"""The search behind configs/pretrain/small_*.yaml can be run again, and the files say what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.config import load_run_config
from tests.benchmarks.small_search import SIZED, TRIALS

RECORDED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "small_search.json"


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_every_trial_is_a_run_that_loads(trial):
    given = {word.partition("=")[0] for word in trial.overrides}
    sized = [word for word in SIZED.get(trial.data, ()) if word.partition("=")[0] not in given]
    load_run_config(Path(trial.config), [*sized, *trial.overrides], method=trial.method)


def test_the_names_of_trials_are_different():
    assert len({trial.name for trial in TRIALS}) == len(TRIALS)
