"""tools/sweep_views.py as a user runs it: a whole sweep at smoke scale with the real tools, and bad input."""

from __future__ import annotations

import json

import pytest

from pretrain.views.recipe_file import load_recipe
from tests.tools.in_process import run_tool_here
from tests.transfer.fake_tools import run_here
from tests.transfer.sweep_bench import PRETRAIN, write_images

LINEAR = "epochs: 2\nimage_size: 32\ncached_views: 1\nstandardize: true\nlearning_rate: 0.1\nnum_workers: 0\nprecision: fp32\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_images(root / "train", 10)
    write_images(root / "val", 8)
    (root / "pretrain.yaml").write_text(PRETRAIN)
    (root / "linear.yaml").write_text(LINEAR)
    return root


def run(tool, *words):
    return run_tool_here(f"{tool}.py", *words)


def words(data, output, *more):
    return (
        "--family", "crop", "--data", data, "--output-dir", output, "--measure-batch", 8,
        "--pretrain-config", data / "pretrain.yaml", "--linear-config", data / "linear.yaml", *more,
    )  # fmt: skip


@pytest.mark.slow
def test_a_whole_sweep_and_its_recipe_pre_trains(data, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.compare.runner.run_logged", run_here)  # the real tools, in this process
    output = tmp_path / "sweep"
    more = ("--settings", "0.2", "0.9", "--seeds", "1", "optimizer.learning_rate=0.01")
    swept = run("sweep_views", *words(data, output, *more))
    assert swept.returncode == 0, swept.stdout[-2000:] + swept.stderr
    result = json.loads((output / "sweep.json").read_text())
    assert [point["setting"] for point in result["points"]] == [0.2, 0.9]
    for point in result["points"]:
        assert 0 <= point["accuracy"]["mean"] <= 100 and point["seeds"]["1"]["ceiling"] == pytest.approx(2.0794415)
    assert all((output / name).is_file() for name in ("curve.png", "views.png", "table.md"))
    again = run("sweep_views", *words(data, output, *more))
    assert again.returncode == 0 and again.stdout.count("done already") == 6
    trained = run(
        "pretrain", "--config-file", data / "pretrain.yaml", "--output-dir", tmp_path / "run",
        f"data.root={data / 'train'}", f"views.recipe={output / 'recipe.yaml'}",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert load_recipe(output / "recipe.yaml").name in (tmp_path / "run" / "config.yaml").read_text()


def test_flags_and_a_file_ask_for_the_same_commands(data, tmp_path):
    by_flags = run("sweep_views", *words(data, tmp_path / "sweep", "--settings", "0.2", "0.9", "--dry-run", "seed=1"))
    (tmp_path / "sweep.yaml").write_text(
        f"family: crop\nsettings: [0.2, 0.9]\npretrain: {{config_file: {data}/pretrain.yaml, overrides: [seed=1]}}\n"
        f"readout: {{config_file: {data}/linear.yaml}}\n"
    )
    more = ("--dry-run", f"data={data}", "measure_batch=8")
    by_file = run("sweep_views", "--config-file", tmp_path / "sweep.yaml", "--output-dir", tmp_path / "sweep", *more)
    assert (by_file.returncode, by_file.stderr) == (0, "") and by_file.stdout == by_flags.stdout


def test_a_dry_run_prints_every_command(data, tmp_path):
    shown = run("sweep_views", *words(data, tmp_path / "sweep", "--seeds", "0", "1", "--dry-run"))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("tools/pretrain.py") == shown.stdout.count("tools/linear_eval.py") == 12
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--seeds", "one"), "--seeds: expected different whole numbers"),
        (("--train-data", "coco:a:b"), "belong together"),
    ],
)
def test_bad_input_ends_with_exit_code_2_and_nothing_written(data, tmp_path, more, message):
    found = run("sweep_views", *words(data, tmp_path / "sweep", *more))
    assert found.returncode == 2 and message in found.stderr
    assert not (tmp_path / "sweep").exists()
