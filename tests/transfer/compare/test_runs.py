"""One run directory: figures must be whole, curves and pictures are taken as far as they go."""

from __future__ import annotations

import json

import pytest
from transfer.compare.runs import is_number, read_detection, read_linear, read_pretraining, shared_root
from transfer.compare.search import read_runs

from pretrain.base.errors import ConfigError, DataError


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


@pytest.mark.parametrize("key", ["init", "weights", "seed", "iterations", "metrics", "class_names", "command"])
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
