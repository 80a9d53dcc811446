"""The cost of a fast sweep against eight usual runs: that the measurement runs, and that the recorded one holds what is claimed."""

from __future__ import annotations

import json
import sys

import pytest

from tests.benchmarks import readout_sweep
from tests.transfer.conftest import write_class_folders

CHEAPER = {"one_view": 500, "several_views": 50}
POINTS = 2.0  # of top-1, between a fast sweep's chosen head and the usual run at the same rate


def test_the_recorded_sweep_is_500_and_50_times_cheaper_and_ends_within_2_points():
    found = json.loads((readout_sweep.ROOT / "docs" / "benchmarks" / "readout_sweep.json").read_text())
    assert found["cost"]["views"] == {"one_view": 1, "several_views": 10} and len(readout_sweep.RATES) == 8
    for way, times in CHEAPER.items():
        assert found["cost"]["times_cheaper"][way] >= times
        agreement = found["agreement"][f"{way}_fast_trunk"]
        assert abs(agreement["minus_usual_at_the_same_rate"]) <= POINTS
        assert abs(agreement["minus_best_usual"]) <= POINTS
    assert max(found["agreement"]["usual_top1"].values()) > 30  # three times chance: there is something to agree on


@pytest.mark.slow
def test_the_measurement_runs(tmp_path, monkeypatch, capsys):
    class_folders = write_class_folders(tmp_path / "data", counts={"train": 7, "val": 4})
    output = tmp_path / "out.json"
    words = ("--weights", "random:resnet18_half", "--data", class_folders, "--output", output, "--timed", 6)
    words = (*words, "--turns", 1, "--views", 2, "--images-per-class", 5, "--epochs", 3)
    monkeypatch.setattr(sys, "argv", ["readout_sweep.py", *map(str, words)])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    readout_sweep.main()
    found = json.loads(output.read_text())
    assert found["cost"]["seconds_of_eight_usual_runs"] > found["cost"]["seconds_of_fast_sweep"]["one_view"] > 0
    assert len(found["agreement"]["usual_top1"]) == 8 and "one_view: 1/" in capsys.readouterr().out
