"""Tables and verdicts against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transfer.compare.study_table import Scores, collect_scores, format_cell, format_table, judge

from pretrain.base.errors import DataError
from transfer.compare.stages import Stage
from transfer.compare.study_config import Expectation

SCORES: Scores = {"bbox/AP50": {"random": {0: 10.0, 1: 20.0}, "infomin": {0: 12.0, 1: 19.0}}}


def test_cells_show_mean_sample_deviation_and_number() -> None:
    assert format_cell([20.0, 22.0, 24.0]) == "22.0 ± 2.0 (3)"
    assert format_cell([20.0]) == "20.0 (1)"
    assert format_cell([]) == "-"


def test_columns_line_up_and_what_was_not_measured_has_none() -> None:
    lines = format_table(SCORES, ["random", "infomin"]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "AP50" in lines[0] and "mask" not in lines[0] and "readout" not in lines[0]
    assert lines[2].split() == ["random", "15.0", "±", "7.1", "(2)"]


@pytest.mark.parametrize(
    ("every_seed", "margin", "held"), [(True, 0.0, False), (False, 0.0, True), (False, 0.5, False), (True, -2.0, True)]
)
def test_an_expectation_is_held_against_every_seed_or_the_mean(every_seed: bool, margin: float, held: bool) -> None:
    # infomin - random: +2 and -1; means 15.5 and 15.0, and 0.5 is not more than 0.5
    wanted = Expectation("bbox/AP50", higher="infomin", lower="random", margin=margin, every_seed=every_seed)
    verdict = judge(wanted, SCORES)
    assert verdict.held is held
    assert verdict.line().startswith("held" if held else "FAILED")


def test_a_missing_seed_or_metric_is_not_a_success() -> None:
    wanted = Expectation("bbox/AP50", higher="infomin", lower="random", margin=-100)
    assert not judge(wanted, {"bbox/AP50": {"random": {0: 1.0}, "infomin": {0: 2.0, 1: 2.0}}}).held
    assert not judge(wanted, {}).held


@pytest.mark.parametrize("text", ["", "[]", '{"format": "x"}', '{"format": "infomin-transfer/linear-result"}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    stage = Stage("s", "t", (), folder="f", result="result.json", init="random", seed=0)
    with pytest.raises(DataError, match="result.json"):
        collect_scores([stage], tmp_path)


def test_a_figure_that_could_not_be_computed_is_left_out(tmp_path: Path) -> None:
    metrics = {"bbox": {"AP": 1.0, "AP50": None, "APs": 3.0}}
    (tmp_path / "r.json").write_text(json.dumps({"format": "infomin-transfer/detection-result", "metrics": metrics}))
    stage = Stage("s", "t", (), folder="f", result="r.json", init="random", seed=0)
    assert collect_scores([stage], tmp_path) == {"bbox/AP": {"random": {0: 1.0}}}
