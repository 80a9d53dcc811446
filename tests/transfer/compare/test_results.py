"""Reading runs: records are read strictly, curves and pictures as far as they go; which folders are runs; the long table."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter

import pytest

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.record import Initialisation, Record
from tests.cases import each
from tests.transfer.compare.old_runs import write_old_detection, write_old_linear, write_old_pretraining
from tests.transfer.conftest import split, write_detection, write_linear, write_pretraining, write_record
from transfer.compare.experiments import group_runs
from transfer.compare.long_table import COLUMNS, long_table, to_csv
from transfer.compare.results import (
    read_information,
    read_result,
    read_run,
    read_runs,
    shared_root,
    titles,
)
from transfer.compare.run_files import is_number


def change(path, **over):
    path.write_text(json.dumps(json.loads(path.read_text()) | over))


@pytest.fixture
def detection(tmp_path):
    return write_detection(tmp_path / "detect" / "run", init="infomin", seed=3, ap50=20.0)


@pytest.fixture
def old_detection(tmp_path):
    return write_old_detection(tmp_path / "detect" / "run", init="infomin", seed=3, ap50=20.0)


@pytest.fixture
def old_linear(tmp_path):
    return write_old_linear(tmp_path / "readout", init="infomin", seed=3, top1=50.0)


@pytest.fixture
def old_pretraining(tmp_path):
    return write_old_pretraining(tmp_path / "pretrain")


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_recorded_detection_run_is_read_whole(detection):
    run = read_run(detection)
    assert (run.label, run.seed, run.pretrain_seed, run.fraction) == ("infomin", 3, None, 1.0)
    assert run.metrics["bbox/AP50"] == 20.0 and run.metrics["segm/AP50"] == 18.0
    assert [(at, figures["bbox/AP50"]) for at, figures in run.history][-1] == (600, 20.0)
    assert len(run.samples) == 3 and run.setting("SOLVER.BASE_LR") == 0.01 and run.setting("SOLVER.X") is None
    assert run.curve[-1]["iteration"] == 599  # the line that a kill cut short is passed over


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not readable JSON"),
        ("{", "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ('{"format": "infomin-transfer/record", "version": 2}', "expected version 1"),
        ('{"format": "infomin-transfer/record", "version": 1}', "missing or unknown"),
    ],
)
def test_a_damaged_record_stops_the_report_by_name(example_runs, text, words):
    (example_runs / "detect" / "random_seed1" / "record.json").write_text(text)
    with pytest.raises(DataError, match=rf"random_seed1/record\.json.*{words}"):
        read_runs([example_runs])


def test_a_record_whose_experiment_was_edited_is_refused(detection):
    values = json.loads((detection / "record.json").read_text())
    values["experiment"]["config"]["SOLVER.BASE_LR"] = 0.02
    (detection / "record.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"record\.json.*edited by hand"):
        read_run(detection)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("seeds", "run", "3"),
        ("initialisation", "name", ["infomin"]),
        ("initialisation", "pretraining", "hash"),
        ("cost", "seconds", None),
        ("figures", "bbox/AP50", "20"),
        ("data", "train", {"spec": "x", "fingerprint": "y", "num_images": "many", "num_available": None}),
    ],
)
def test_a_record_with_a_value_of_another_type_is_refused_by_file_and_key(detection, part, key, value):
    values = json.loads((detection / "record.json").read_text())
    values[part][key] = value
    (detection / "record.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=rf"record\.json: of another type than expected: {part}\.{key}"):
        read_run(detection)


def test_a_record_whose_initialisation_lacks_everything_is_refused(detection):
    change(detection / "record.json", initialisation={})
    with pytest.raises(DataError, match=r"record\.json: initialisation: expected the fields name"):
        read_run(detection)


def test_a_record_counts_where_an_older_result_lies_beside_it(old_detection):
    write_detection(old_detection.parent / "new", init="mine", seed=9, ap50=30.0)
    (old_detection.parent / "new" / "record.json").rename(old_detection / "record.json")
    assert read_run(old_detection).label == "mine"


def test_the_fraction_is_that_of_the_training_images(tmp_path):
    run = write_detection(tmp_path / "a" / "b", init="random", seed=0, ap50=20.0, train=split("voc:x:train", 50, 200))
    assert read_run(run).fraction == 0.25


def test_an_iteration_that_a_resumed_run_repeats_counts_once_with_its_last_values(detection):
    with open(detection / "metrics.json", "a") as file:
        file.write('\n{"iteration": 19, "total_loss": 5.5, "lr": 0.1}\n')
    curve = read_run(detection).curve
    assert [row["iteration"] for row in curve] == sorted({row["iteration"] for row in curve})
    assert curve[0]["total_loss"] == 5.5


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
    run = read_run(detection)
    assert run.metrics["bbox/AP50"] == 20.0
    assert run.curve == () if file == "metrics.json" else run.samples == ()


@each(
    ("over", "words"),
    [
        ({"status": "running"}, "running since 2026-11-27T03:00:00+00:00, held by somewhere, pid 7"),
        (
            {"status": "failed", "error": "FloatingPointError: loss is nan"},
            "failed 2026-11-27T04:00:00+00:00, held by somewhere, pid 7: FloatingPointError: loss is nan",
        ),
        ({"status": "stopped"}, "stopped 2026-11-27T04:00:00+00:00, held by somewhere, pid 7"),
    ],
)
def test_a_run_that_is_not_done_says_who_held_it_and_why_and_enters_no_table(tmp_path, over, words):
    write_detection(tmp_path / "runs" / "a", init="random", seed=0, ap50=20.0, **over)
    runs = read_runs([tmp_path])
    assert [run.state() for run in runs.unfinished] == [words]
    assert runs.done() == [] and long_table(runs.all) == ()


# --- folders from before the record -----------------------------------------------------------------------------------


def test_an_old_detection_run_is_read_into_a_record(old_detection):
    run = read_run(old_detection)
    assert (run.kind, run.done, run.label, run.seed, run.pretrain_seed) == ("detection", True, "infomin", 3, None)
    assert run.metrics["bbox/AP50"] == 20.0 and [at for at, _ in run.history] == [200, 400, 600]
    assert run.record.initialisation.sha256 == "ab" * 32 and run.record.initialisation.layout == "infomin-transfer"
    assert run.record.metric == "COCO AP, IoU .50:.95" and run.record.class_names[0] == "cup"
    assert len(run.samples) == 3 and run.record.details["sidecar"]["arch"] == "resnet18"


@each(
    ("test_data", "metric"),
    [
        ("voc:data/VOC2007:test", "VOC AP, 11 points (2007)"),
        ("voc_2007_test", "VOC AP, 11 points (2007)"),
        ("voc:data/mine:test", "VOC AP, area under the curve"),
        ("voc_2012_test", "VOC AP, area under the curve"),
    ],
)
def test_the_metric_of_an_old_voc_run_is_the_one_that_its_folder_chose(tmp_path, test_data, metric):
    path = write_old_detection(tmp_path / "a" / "b", init="random", seed=0, ap50=20.0, test_data=test_data)
    assert read_run(path).record.metric == metric


def test_old_detection_runs_are_told_apart_by_the_configuration_that_was_dumped_beside_them(tmp_path):
    def hash_of(name, *, rate, output):
        path = write_old_detection(tmp_path / name / "run", init="random", seed=0, ap50=20.0)
        (path / "config.yaml").write_text(f"OUTPUT_DIR: {output}\nSEED: 4\nSOLVER: {{BASE_LR: {rate}}}\n")
        return read_run(path).record.hash

    assert hash_of("a", rate=0.01, output="x") == hash_of("b", rate=0.01, output="y")
    assert hash_of("c", rate=0.02, output="x") != hash_of("d", rate=0.01, output="x")


@pytest.mark.parametrize("key", ["init", "seed", "metrics", "class_names"])
def test_an_old_detection_result_without_a_key_is_refused_by_name(old_detection, key):
    result = json.loads((old_detection / "result.json").read_text())
    del result[key]
    (old_detection / "result.json").write_text(json.dumps(result))
    with pytest.raises(DataError, match=rf"result\.json.*: {key};"):
        read_run(old_detection)


@pytest.mark.parametrize("over", [{"version": 2}, {"seed": "3"}, {"metrics": []}])
def test_an_old_result_of_another_form_is_refused(old_detection, over):
    change(old_detection / "result.json", **over)
    with pytest.raises(DataError, match=r"result\.json"):
        read_run(old_detection)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\xff", "[" * 100_000])
def test_damaged_old_json_is_refused_with_what_to_do(old_detection, text):
    (old_detection / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result\.json"):
        read_run(old_detection)


@pytest.mark.parametrize("history", [None, 3, "x", [None, {"iteration": None}, {"iteration": 7, "metrics": None}]])
def test_an_odd_old_history_is_passed_over(old_detection, history):
    change(old_detection / "result.json", history=history, sidecar="none")
    run = read_run(old_detection)
    assert all(figures == {} for _, figures in run.history) and "sidecar" not in run.record.details


def test_an_old_readout_is_read_whole_and_a_damaged_one_is_refused(old_linear):
    run = read_run(old_linear)
    assert (run.label, run.seed, run.metrics, len(run.curve)) == ("infomin", 3, {"top1": 50.0, "top5": 90.0}, 60)
    assert run.record.experiment["arch"] == "resnet18" and run.record.data["test"].num_images == 1000
    change(old_linear / "linear_result.json", history=[1, None, {"epoch": 1}])
    assert read_run(old_linear).curve == ({"epoch": 1},)
    change(old_linear / "linear_result.json", top1="50")
    with pytest.raises(DataError, match="top1"):
        read_run(old_linear)


def test_an_old_pretraining_run_is_read_whole(old_pretraining):
    run = read_run(old_pretraining)
    assert run.done and run.seed == 3 and len(run.curve) == 200 and run.views.name == "views.png"
    assert run.setting("method.queue_size") == 4096 and run.setting("nothing.nothing") is None
    assert run.record.details["steps"] == 400 and run.record.environment["latest"]["torch"] == "2.x"


def test_old_pretraining_runs_that_differ_in_seed_alone_are_one_experiment(old_pretraining, tmp_path):
    other = write_old_pretraining(tmp_path / "b")
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("seed: 3", "seed: 4"))
    assert read_run(other).record.hash == read_run(old_pretraining).record.hash
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("4096", "8192"))
    assert read_run(other).record.hash != read_run(old_pretraining).record.hash


def test_old_commands_are_as_one_types_them(old_pretraining):
    with open(old_pretraining / "command.txt", "a") as file:
        file.write("\n'/a b/tools/pretrain.py' --resume auto\npython x.py\ntools/pretrain.py 'cut sho\n")
    assert read_run(old_pretraining).record.commands == (
        "python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml",
        "python '/a b/tools/pretrain.py' --resume auto",
        "python x.py",
        "tools/pretrain.py 'cut sho",
    )


def test_an_old_unfinished_pretraining_run_is_read_as_far_as_it_goes(old_pretraining):
    for name in ("result.json", "command.txt", "views.png", "environment.json"):
        (old_pretraining / name).unlink()
        assert read_run(old_pretraining).state() == "no result.json"
    run = read_run(old_pretraining)
    assert run.record.commands == () and run.views is None and run.record.environment == {} and run.curve


def test_an_old_configuration_with_python_tags_is_refused_and_not_run(old_pretraining, tmp_path):
    (old_pretraining / "config.yaml").write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_run(old_pretraining)
    assert not (tmp_path / "ran").exists()


def test_unfinished_old_runs_of_each_kind_are_listed(tmp_path):
    write_old_pretraining(tmp_path / "pretrain", finished=False)
    for name, files in (
        ("linear", ["linear_started.json"]),
        ("detect_a", ["config.yaml", "log.txt"]),
        ("detect_b", ["metrics.json"]),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    runs = read_runs([tmp_path])
    assert {(run.path.name, run.kind, run.state()) for run in runs.unfinished} == {
        ("pretrain", "pretraining", "no result.json"),
        ("linear", "readout", "no linear_result.json"),
        ("detect_a", "detection", "no result.json"),
        ("detect_b", "detection", "no result.json"),
    }
    assert len(runs) == 4


def test_a_measurement_is_read_by_its_file(detection, old_linear):
    assert read_result(detection / "record.json").metrics["bbox/AP50"] == 20.0
    assert read_result(old_linear / "linear_result.json").metrics == {"top1": 50.0, "top5": 90.0}


@each(
    ("value", "number"),
    [(1, True), (0.5, True), (True, False), (float("nan"), False), (float("inf"), False), ("1", False), (None, False)],
)
def test_numbers_are_finite_and_no_booleans(value, number):
    assert is_number(value) is number


# --- information ------------------------------------------------------------------------------------------------------

ESTIMATE = {"bound": "info_nce", "nats": 1, "low": 0.9, "high": 1.1, "ceiling": 5, "saturated": False}


def measurement(**details):
    return Record(
        kind="measurement",
        experiment={"config": {"batch_size": 512}},
        config={},
        seeds={"run": None, "pretraining": 4},
        status="done",
        initialisation=Initialisation("infomin", "asked", "step.pt", sha256="cd" * 32),
        figures={"info_nce": 1.0},
        details=details,
    )


@pytest.mark.parametrize("recorded", [True, False])
def test_information_is_read_from_a_record_and_from_an_older_file(tmp_path, recorded):
    content = {"information": ESTIMATE}
    if recorded:
        write_record(tmp_path, measurement(**content))
        (tmp_path / "record.json").rename(tmp_path / "i.json")
    else:
        (tmp_path / "i.json").write_text(json.dumps(content))
    found = read_information(tmp_path / "i.json")
    assert (found.nats, found.low, found.high, found.ceiling, found.saturated) == (1.0, 0.9, 1.1, 5.0, False)


@each(
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
    with pytest.raises(DataError, match="i.json"):
        read_information(tmp_path / "i.json")


# --- finding runs -----------------------------------------------------------------------------------------------------


def test_a_study_is_found_whole_and_unfinished_runs_stand_apart(example_runs):
    runs = read_runs([example_runs])
    assert Counter(run.kind for run in runs.done()) == {"pretraining": 1, "readout": 6, "detection": 6}
    assert [run.path.name for run in runs.unfinished] == ["infomin_seed3"] and len(runs) == 14
    assert shared_root(runs) == example_runs


def test_runs_may_be_named_one_by_one_and_twice(example_runs):
    one = example_runs / "detect" / "random_seed0"
    assert len(read_runs([one, one, one.parent / "." / "random_seed0"])) == 1
    assert len(read_runs([one, example_runs])) == 14


def test_a_record_beside_a_single_file_is_found_in_its_folder_and_by_its_name(tmp_path):
    write_record(tmp_path / "sweep", measurement())
    (tmp_path / "sweep" / "record.json").rename(tmp_path / "sweep" / "information_result.json")
    (tmp_path / "sweep" / "other.json").write_text('{"format": "someone/else"}')
    for path in (tmp_path, tmp_path / "sweep" / "information_result.json"):
        (run,) = read_runs([path]).all
        assert (run.kind, run.pretrain_seed, run.metrics) == ("measurement", 4, {"info_nce": 1.0})


def test_below_a_run_nothing_else_is_a_run_except_below_a_sweeps_point(tmp_path):
    write_detection(tmp_path / "x" / "run", init="a", seed=0, ap50=1.0)
    write_detection(tmp_path / "x" / "run" / "evaluation", init="a", seed=0, ap50=1.0)
    assert len(read_runs([tmp_path])) == 1
    write_record(tmp_path / "point", measurement(), kind="sweep-point")
    write_linear(tmp_path / "point" / "readout", init="a", seed=0, top1=1.0)
    assert sorted(run.kind for run in read_runs([tmp_path / "point"]).all) == ["readout", "sweep-point"]


@pytest.mark.parametrize("name", ["result.json", "record.json"])
@pytest.mark.parametrize("content", ["[1, 2]", '{"format": 3}', '{"format": "someone/else"}'])
def test_a_foreign_result_file_makes_no_run_and_stops_no_report(example_runs, name, content):
    (example_runs / "notes" / name).write_text(content)
    assert len(read_runs([example_runs])) == 14


@each(
    ("make", "expected"),
    [
        ("nothing", "nothing at .*x; expected a run's record"),
        ("file", "x is a file, but no record of this project"),
        ("empty", "an empty folder"),
        ("foreign", r"thesis\.tex"),
    ],
)
def test_a_path_without_runs_is_refused_with_what_was_found(tmp_path, make, expected):
    path = tmp_path / "x"
    if make == "file":
        path.write_text("x")
    elif make != "nothing":
        path.mkdir()
    if make == "foreign":
        (path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=expected) as caught:
        read_runs([tmp_path / "x"])
    assert "record.json" in str(caught.value)


def test_links_in_a_circle_and_hidden_folders_do_no_harm(example_runs):
    (example_runs / "notes" / "again").symlink_to(example_runs)
    write_detection(example_runs / ".trash" / "run", init="random", seed=0, ap50=1.0)
    assert len(read_runs([example_runs])) == 14


def test_a_run_is_found_however_deep_it_lies_and_a_loop_of_links_ends(tmp_path):
    write_linear(tmp_path.joinpath(*"abcdefgh"), init="random", seed=0, top1=1.0)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    assert len(read_runs([tmp_path])) == 1


def test_a_record_of_a_single_file_is_found_after_another_program_sorted_its_keys(tmp_path):
    run = write_linear(tmp_path / "run", init="random", seed=0, top1=1.0)
    text = json.dumps(json.loads((run / "record.json").read_text()), sort_keys=True)
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "x.record.json").write_text(text)
    assert [run.path.name for run in read_runs([tmp_path / "sorted"]).all] == ["x.record.json"]


@pytest.mark.parametrize("write", [write_linear, write_old_linear])
def test_a_copied_run_counts_once_and_a_repetition_as_another(tmp_path, write):
    run = write(tmp_path / "a" / "run", init="random", seed=0, top1=1.0)
    shutil.copytree(run, tmp_path / "b" / "copy")
    write(tmp_path / "c" / "again", init="random", seed=0, top1=3.0)
    first, again = read_runs([tmp_path]).all
    assert first.copies == (tmp_path / "b" / "copy",) and again.copies == ()
    assert [row.value for row in long_table([first, again]) if row.metric == "top1"] == [1.0, 3.0]
    (experiment,) = group_runs([first, again])
    assert experiment.notes[0] == f"random: {tmp_path}/a/run counts once; the same run lies at {tmp_path}/b/copy."


def test_runs_that_left_no_command_and_no_time_are_not_called_copies(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "linear_started.json").write_text("{}")
    assert len(read_runs([tmp_path]).unfinished) == 2


def test_a_folder_that_cannot_be_read_is_an_error_of_the_users(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("transfer.compare.results.os.scandir", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        read_runs([tmp_path])


# --- the long table ---------------------------------------------------------------------------------------------------


def test_the_csv_gives_every_figure_of_every_finished_run_back_exactly(example_runs):
    rows = list(csv.DictReader(to_csv(long_table(read_runs([example_runs]).all)).splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 6 * 6 + 6 * 2 + 1  # six detection runs of six figures, six readouts of two, one final loss
    for row in rows:
        values = json.loads((example_runs / row["run"] / "record.json").read_text())
        assert float(row["value"]) == values["figures"][row["metric"]] and int(row["seed"]) == values["seeds"]["run"]
        assert row["initialisation"] == values["initialisation"]["name"]
        assert values["hash"].startswith(row["experiment"]) and row["kind"] == values["kind"]
    assert not any("infomin_seed3" in row["run"] for row in rows)


def test_the_csv_keeps_rows_apart_that_the_report_does_not_average(tmp_path):
    for i, weights in enumerate(("a.pth", "b.pth")):
        write_detection(tmp_path / "x" / str(i), init="infomin", seed=i, ap50=20.0, weights=weights)
    runs = read_runs([tmp_path]).all
    (experiment,) = group_runs(runs)
    assert {row.initialisation for row in long_table(runs)} == set(experiment.rows) and len(experiment.rows) == 2


def test_what_is_unknown_is_an_empty_cell_and_odd_names_come_back(tmp_path):
    name = 'a,"b"\n;c'
    figures = {"bbox/AP": None, "bbox/AP50": 20.0}
    write_detection(tmp_path / "runs" / "x", init=name, seed=0, ap50=20.0, figures=figures)
    text = to_csv(long_table(read_runs([tmp_path]).all))
    (row,) = csv.DictReader(text.splitlines(keepends=True))
    assert (row["initialisation"], row["metric"], row["pretrain_seed"], row["fraction"]) == (
        name,
        "bbox/AP50",
        "",
        "1.0",
    )


def test_titles_name_data_classes_and_metric_and_tell_near_experiments_apart_by_what_differs(tmp_path):
    runs = [
        read_run(write_detection(tmp_path / "x" / str(i), init="random", seed=0, ap50=20.0, settings=settings))
        for i, settings in enumerate([{}, {"SOLVER.BASE_LR": 0.02}, {"SOLVER.MAX_ITER": 300}])
    ]
    near, other, short = (titles(runs)[run.record.hash] for run in runs)
    common = "200 training images, 3 classes (cup, leaf, <b>bolt</b>), COCO AP, IoU .50:.95"
    assert near == f"demo/R_18_FPN_small, 600 iterations of 4 images, {common}, SOLVER.BASE_LR 0.01"
    assert other == f"demo/R_18_FPN_small, 600 iterations of 4 images, {common}, SOLVER.BASE_LR 0.02"
    assert short == f"demo/R_18_FPN_small, 300 iterations of 4 images, {common}"


def test_titles_differ_where_experiments_differ_in_their_fifth_key_alone(tmp_path):
    keys = [f"SOLVER.{name}" for name in "ABCDE"]
    runs = []
    for i in range(4):
        settings = dict.fromkeys(keys, min(i, 2)) | {"SOLVER.E": i}
        runs.append(read_run(write_detection(tmp_path / str(i), init="random", seed=0, ap50=20.0, settings=settings)))
    found = list(titles(runs).values())
    assert len(set(found)) == 4 and found[3].endswith("SOLVER.A 2, SOLVER.B 2, SOLVER.E 3, 2 more keys")


def test_a_recorded_pretraining_run_keeps_its_log_and_sheet(tmp_path):
    run = read_run(write_pretraining(tmp_path / "pretrain"))
    assert run.done and len(run.curve) == 200 and run.views.name == "views.png"
