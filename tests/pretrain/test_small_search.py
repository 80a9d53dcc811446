"""The search behind configs/pretrain/small_*.yaml can be run again, and the files say what it found."""

from __future__ import annotations

import json
from pathlib import Path

from pretrain.config import load_run_config
from tests.benchmarks.small_search import SIZED, TRIALS
from tests.cases import each

RECORDED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "small_search.json"


@each("trial", TRIALS)
def test_every_trial_is_a_run_that_loads(trial):
    given = {word.partition("=")[0] for word in trial.overrides}
    sized = [word for word in SIZED.get(trial.data, ()) if word.partition("=")[0] not in given]
    load_run_config(Path(trial.config), [*sized, *trial.overrides], method=trial.method)


def test_the_names_of_trials_are_different():
    assert len({trial.name for trial in TRIALS}) == len(TRIALS)


def test_the_record_is_of_the_trials_in_the_table():
    table = {trial.name: trial for trial in TRIALS}
    for entry in json.loads(RECORDED.read_text())["trials"]:
        name = entry["trial"]["name"]
        assert tuple(entry["trial"]["overrides"]) == table[name].overrides, name
        assert "failed" in entry or entry["trained"].keys() == entry["random"].keys(), name


def test_small_10k_is_the_trial_that_was_chosen():
    chosen = next(trial for trial in TRIALS if trial.name == "simclr")
    recorded = {
        entry["trial"]["name"]: entry for entry in json.loads(RECORDED.read_text())["trials"] if entry["seed"] == 0
    }
    others = [
        entry for entry in recorded.values() if entry["trial"]["images"] == chosen.images and "failed" not in entry
    ]
    rivals = [entry["trained"]["knn"] for entry in others if entry["trial"]["data"] == chosen.data]
    assert recorded["simclr"]["trained"]["knn"] == max(rivals)
    shipped, tried = (load_run_config(Path("small_10k"), words) for words in ((), chosen.overrides))
    assert shipped == tried
