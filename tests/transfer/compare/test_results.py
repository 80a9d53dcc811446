"""Reading runs: figures must be whole, curves and pictures are taken as far as they go; and which folders are runs."""

from __future__ import annotations

import json

import pytest

from pretrain.base.errors import ConfigError, DataError
from transfer.compare.results import (
    is_number,
    kind_of,
    read_detection,
    read_information,
    read_linear,
    read_pretraining,
    read_probe,
    read_result,
    read_runs,
    shared_root,
)


def change(path, **over):
    path.write_text(json.dumps(json.loads(path.read_text()) | over))


@pytest.fixture
def detection(make_detection, tmp_path):
    return make_detection(tmp_path / "detect" / "run", init="infomin", seed=3, ap50=20.0)


@pytest.fixture
def linear(make_linear, tmp_path):
    return make_linear(tmp_path / "readout", init="infomin", seed=3, top1=50.0)


@pytest.fixture
def pretraining(make_pretraining, tmp_path):
    return make_pretraining(tmp_path / "pretrain")


def test_a_detection_run_is_read_whole(detection):
    run = read_detection(detection)
    assert (run.init, run.seed, run.iterations, run.num_train_images) == ("infomin", 3, 600, 200)
    assert run.metrics["bbox/AP50"] == 20.0 and run.metrics["segm/AP50"] == 18.0
    assert [at for at, _ in run.history] == [200, 400, 600] and len(run.samples) == 3
    assert run.sidecar["arch"] == "resnet18"
    assert run.curve[-1]["iteration"] == 599  # the line that a kill cut short is passed over


def test_an_iteration_that_a_resumed_run_repeats_counts_once_with_its_last_values(detection):
    with open(detection / "metrics.json", "a") as file:
        file.write('\n{"iteration": 19, "total_loss": 5.5, "lr": 0.1}\n')
    curve = read_detection(detection).curve
    assert [row["iteration"] for row in curve] == sorted({row["iteration"] for row in curve})
    assert curve[0]["total_loss"] == 5.5


@pytest.mark.parametrize("key", ["init", "seed", "metrics", "class_names"])
def test_a_detection_result_without_a_key_is_refused_by_name(detection, key):
    result = json.loads((detection / "result.json").read_text())
    del result[key]
    (detection / "result.json").write_text(json.dumps(result))
    with pytest.raises(DataError, match=rf"result\.json.*: {key};"):
        read_detection(detection)


@pytest.mark.parametrize("over", [{"version": 2}, {"format": "other"}, {"seed": "3"}, {"metrics": []}])
def test_a_result_of_another_kind_is_refused(detection, over):
    change(detection / "result.json", **over)
    with pytest.raises(DataError, match=r"result\.json"):
        read_detection(detection)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\xff", "[" * 100_000])
def test_damaged_json_is_refused_with_what_to_do(detection, text):
    (detection / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result\.json"):
        read_detection(detection)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.json", "[1]\n7\nnull\n{}\n" + '{"iteration": "x"}\n{"iteration": null, "lr": "y"}\n'),
        ("metrics.json", "\x00\x01"),
        ("samples.json", "{"),
        ("samples.json", "[]"),
        ("samples.json", '{"images": null}'),
        ("samples.json", '{"images": [1, "x"]}'),
    ],
)
def test_damaged_curves_and_pictures_cost_only_themselves(detection, file, text):
    (detection / file).write_text(text)
    run = read_detection(detection)
    assert run.metrics["bbox/AP50"] == 20.0
    assert run.curve == () if file == "metrics.json" else run.samples == ()


@pytest.mark.parametrize("history", [None, 3, "x", [None, {"iteration": None}, {"iteration": 7, "metrics": None}]])
def test_an_odd_history_is_passed_over(detection, history):
    change(detection / "result.json", history=history, sidecar="none")
    run = read_detection(detection)
    assert all(metrics == {} for _, metrics in run.history) and run.sidecar is None


def test_missing_curve_and_samples_are_empty(detection):
    (detection / "metrics.json").unlink()
    (detection / "samples.json").unlink()
    run = read_detection(detection)
    assert run.curve == () and run.samples == ()


def test_a_readout_is_read_whole_and_a_damaged_one_is_refused(linear):
    run = read_linear(linear)
    assert (run.init, run.seed, run.top1, len(run.history)) == ("infomin", 3, 50.0, 60)
    change(linear / "linear_result.json", history=[1, None, {"epoch": 1}])
    assert read_linear(linear).history == ({"epoch": 1},)
    change(linear / "linear_result.json", top1="50")
    with pytest.raises(DataError, match="top1"):
        read_linear(linear)


def test_a_pretraining_run_is_read_whole(pretraining):
    run = read_pretraining(pretraining)
    assert run.steps == 400 and len(run.log) == 200 and run.views.name == "views.png"
    assert run.setting("method", "queue_size") == 4096 and run.setting("method", "nothing") is None
    assert run.setting("nothing", "nothing") is None


def test_commands_are_as_one_types_them(pretraining):
    with open(pretraining / "command.txt", "a") as file:
        file.write("\n'/a b/tools/pretrain.py' --resume auto\npython x.py\ntools/pretrain.py 'cut sho\n")
    assert read_pretraining(pretraining).commands == (
        "python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml",
        "python '/a b/tools/pretrain.py' --resume auto",
        "python x.py",
        "tools/pretrain.py 'cut sho",
    )


def test_an_unfinished_or_bare_pretraining_run_is_read_as_far_as_it_goes(pretraining):
    for name in ("result.json", "config.yaml", "command.txt", "views.png", "log.jsonl", "environment.json"):
        (pretraining / name).unlink()
        run = read_pretraining(pretraining)
        assert run.steps is None
    assert run.config == {} and run.commands == () and run.views is None and run.log == () and run.environment == {}


def test_a_pretraining_configuration_with_python_tags_is_refused_and_not_run(pretraining, tmp_path):
    (pretraining / "config.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_pretraining(pretraining)
    assert not (tmp_path / "ran").exists()


def test_an_odd_configuration_has_no_settings(pretraining):
    (pretraining / "config.yaml").write_text("method: infomin\ndata: [1]\n")
    run = read_pretraining(pretraining)
    assert run.setting("method", "name") is None and run.setting("data", "root") is None


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, True), (0.5, True), (True, False), (float("nan"), False), (float("inf"), False), ("1", False), (None, False)],
)
def test_numbers_are_finite_and_no_booleans(value, number):
    assert is_number(value) is number


def test_the_shared_root_holds_every_run(example_runs):
    assert shared_root(read_runs([example_runs])) == example_runs


def test_a_measurement_is_read_by_its_result_file(detection, linear):
    assert read_result(detection / "result.json").metrics["bbox/AP50"] == 20.0
    assert read_result(linear / "linear_result.json").metrics == {"top1": 50.0, "top5": 90.0}


ESTIMATE = {"bound": "info_nce", "nats": 1, "low": 0.9, "high": 1.1, "ceiling": 5, "saturated": False}


def test_information_and_probe_are_read(tmp_path):
    (tmp_path / "i.json").write_text(json.dumps({"information": ESTIMATE, "probe": {"top1": 33.0}}))
    found = read_information(tmp_path / "i.json")
    assert (found.nats, found.low, found.high, found.ceiling, found.saturated) == (1.0, 0.9, 1.1, 5.0, False)
    assert read_probe(tmp_path / "i.json") == 33.0
    (tmp_path / "i.json").write_text(json.dumps({"information": {**ESTIMATE, "ceiling": None}}))
    assert read_information(tmp_path / "i.json").ceiling is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"information": {**ESTIMATE, "bound": "nwj"}}),
        '{"information": {"bound": "info_nce"}}',
    ],
)
def test_a_file_without_an_estimate_is_refused_by_name(tmp_path, content):
    (tmp_path / "i.json").write_text(content)
    for read in (read_information, read_probe):
        with pytest.raises(DataError, match="i.json"):
            read(tmp_path / "i.json")


# --- finding runs -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"format": 3}', '{"format": "someone/else"}'])
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
