"""Which folders are runs, which are unfinished, which are neither."""

from __future__ import annotations

import json

import pytest
from transfer.compare.search import kind_of, read_runs

from pretrain.base.errors import DataError


def test_a_study_is_found_whole_and_unfinished_runs_stand_apart(example_runs):
    runs = read_runs([example_runs])
    assert (len(runs.pretraining), len(runs.linear), len(runs.detection)) == (1, 6, 6)
    assert [(run.path.name, run.kind, run.missing) for run in runs.unfinished] == [
        ("infomin_seed3", "detection", "result.json")
    ]
    assert len(runs) == 14


def test_runs_may_be_named_one_by_one_and_twice(example_runs):
    one = example_runs / "detect" / "random_seed0"
    assert len(read_runs([one, one, one.parent / "." / "random_seed0"])) == 1
    assert len(read_runs([one, example_runs])) == 14


def test_unfinished_runs_of_each_kind_are_listed(tmp_path, make_pretraining):
    make_pretraining(tmp_path / "pretrain", finished=False)
    for name, files in (
        ("linear", ["linear_started.json"]),
        ("detect_a", ["config.yaml", "log.txt"]),
        ("detect_b", ["metrics.json"]),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    runs = read_runs([tmp_path])
    assert {(run.path.name, run.kind) for run in runs.unfinished} == {
        ("pretrain", "pre-training"), ("linear", "linear"), ("detect_a", "detection"), ("detect_b", "detection"),
    }  # fmt: skip
    assert len(runs.pretraining) == 1 and not runs.detection and not runs.linear  # its curves may be drawn


@pytest.mark.parametrize("content", ["", "[1, 2]", "{}", '{"format": 3}', '{"format": "someone/else"}', "\x00"])
def test_a_foreign_result_file_makes_no_run_and_stops_no_report(example_runs, content):
    (example_runs / "notes" / "result.json").write_text(content)
    assert kind_of(example_runs / "notes") is None
    assert len(read_runs([example_runs])) == 14


def test_a_damaged_result_of_a_run_stops_the_report_by_name(example_runs):
    (example_runs / "detect" / "random_seed1" / "result.json").write_text('{"format": ')
    with pytest.raises(DataError, match=r"random_seed1/result\.json"):
        read_runs([example_runs])


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "foreign", "too deep"])
def test_a_path_without_runs_is_refused_with_what_was_found(tmp_path, make_linear, make):
    path = tmp_path / "x"
    if make == "file":
        path.write_text("x")
    elif make != "nothing":
        path.mkdir()
    if make == "foreign":
        (path / "thesis.tex").write_text("x")
    if make == "too deep":
        make_linear(path / "1" / "2" / "3" / "4", init="random", seed=0, top1=1.0)
    expected = {"empty": "an empty folder", "foreign": r"thesis\.tex", "too deep": "found 1;"}.get(make, "no folder at")
    with pytest.raises(DataError, match=expected) as caught:
        read_runs([tmp_path / "x"])
    assert "linear_result.json" in str(caught.value)


def test_links_in_a_circle_and_hidden_folders_do_no_harm(example_runs):
    (example_runs / "notes" / "again").symlink_to(example_runs)
    hidden = example_runs / ".trash"
    hidden.mkdir()
    (hidden / "result.json").write_text(json.dumps({"format": "infomin-transfer/detection-result"}))
    assert len(read_runs([example_runs])) == 14


def test_a_folder_that_cannot_be_read_is_an_error_of_the_users(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        read_runs([tmp_path])
