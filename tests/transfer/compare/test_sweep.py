"""The sweep driver on fake tools: every figure reaches table, picture and recipe; what is done is reused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.views.families import FAMILIES
from pretrain.views.operations import RandomResizedCrop
from pretrain.views.recipe_file import load_recipe, recipe_from_plain
from tests.transfer.sweep_bench import REVERSE_U, SweepBench, write_labelled_image
from transfer.compare.sweep import show_sweep


@pytest.fixture
def bench(tmp_path):
    return SweepBench(tmp_path)


def test_planted_figures_come_out_with_the_sweet_spot_marked(bench):
    code, tools = bench.run()
    assert code == 0
    assert tools == ["pretrain", "measure_views", "linear_eval"] * 6
    result = bench.result()
    assert result["settings"] == [0.05, 0.2, 0.9]  # numbers in their order, however they were typed
    assert [point["information"]["mean"] for point in result["points"]] == pytest.approx([1.05, 2.1, 4.45])
    assert [point["accuracy"]["mean"] for point in result["points"]] == pytest.approx([40.2, 50.3, 44.1])
    assert [point["saturated"] for point in result["points"]] == [False, False, True]
    assert result["points"][0]["seeds"]["1"]["accuracy"] == 40.4
    assert result["sweet_spot"]["setting"] == 0.2 and result["sweet_spot"]["notes"] == []
    assert any("rises from 0.05 to 0.9" in line and "as expected" in line for line in result["findings"])
    assert any("rises and then falls, by more than the spread" in line for line in result["findings"])
    table = (bench.output / "table.md").read_text()
    assert "**50.3 ± 0.4**" in table and "4.45 ± 0.07*" in table and "saturated" in table
    for name in ("curve.png", "views.png"):
        assert np.asarray(Image.open(bench.output / name)).std() > 5


def test_the_recipe_of_the_best_setting_is_the_base_at_that_setting(bench):
    bench.run(overrides=["views.jitter_strength=0.5"])
    config = bench.config(overrides=["views.jitter_strength=0.5"])
    recipe = load_recipe(bench.output / "recipe.yaml")
    assert recipe == config.recipe(0.2) and recipe.ops[0] == RandomResizedCrop(scale=(0.2, 1.0))
    assert recipe.ops[2].hue == pytest.approx(0.1)  # the override is in it
    assert "# sweet spot: crop 0.2 (50.3 ± 0.4 %, 2 seeds)" in (bench.output / "recipe.yaml").read_text()
    assert recipe_from_plain(bench.result()["points"][1]["recipe"], where="x") == recipe


def test_what_is_done_is_reused_and_settings_and_seeds_can_be_added(bench):
    bench.run(settings=["0.05", "0.9"], seeds=[0])
    code, tools = bench.run(settings=["0.05", "0.9"], seeds=[0])
    assert (code, tools) == (0, [])
    _, tools = bench.run(seeds=[0])
    assert tools == ["pretrain", "measure_views", "linear_eval"]
    _, tools = bench.run(settings=["0.05", "0.9"])
    assert tools == ["pretrain", "measure_views", "linear_eval"] * 2
    assert all("seed=1" in call for call in bench.calls() if call.startswith("pretrain"))


def test_another_base_recipe_or_configuration_is_another_run(bench):
    few = {"settings": ["0.05", "0.9"], "seeds": [0], "downstream": "none"}
    bench.run(**few)
    changed = {**few, "overrides": ["views.jitter_strength=0.5"]}
    assert bench.run(**changed)[1].count("pretrain") == 2
    (bench.root / "pretrain.yaml").write_text((bench.root / "pretrain.yaml").read_text() + "seed: 0\n")
    assert bench.run(**changed)[1].count("pretrain") == 2
    assert bench.run(**changed)[1] == []  # control


def test_a_failure_ends_the_sweep_with_its_code_and_the_next_goes_on(bench):
    (bench.root / "break_linear_eval").touch()
    code, tools = bench.run()
    assert code == 7 and tools == ["pretrain", "measure_views", "linear_eval"]
    assert not (bench.output / "sweep.json").exists()
    assert any("FAILED" in line for line in bench.said)
    (bench.root / "break_linear_eval").unlink()
    code, tools = bench.run()
    assert code == 0 and tools[:2] == ["linear_eval", "pretrain"]


def test_information_alone_needs_no_labels_and_names_no_best(bench):
    (bench.data / "val" / "a").rename(bench.data / "val" / "renamed")
    code, tools = bench.run(downstream="none")
    assert code == 0 and set(tools) == {"pretrain", "measure_views"}
    assert bench.result()["sweet_spot"] is None and not (bench.output / "recipe.yaml").exists()
    assert "no recipe.yaml" in bench.said[-1]
    assert "top-1" not in (bench.output / "table.md").read_text()


def test_detection_converts_and_fine_tunes(bench):
    from transfer.compare.sweep_config import DetectionPart

    train, test = (write_labelled_image(bench.root / name) for name in ("boxes_train", "boxes_test"))
    part = DetectionPart(Path("demo/R_18_FPN_infomin.yaml"), train, test)
    code, tools = bench.run(downstream="detection", detection=part, seeds=[1])
    assert code == 0 and tools == ["pretrain", "measure_views", "convert_weights", "train_net"] * 3
    last = bench.calls()[-1]
    assert (
        f"--train-data {train} --test-data {test}" in last
        and "configs/demo/R_18_FPN_infomin.yaml" in last
        and "SEED 1" in last
    )
    assert "crop_0.9_seed1/weights/pretrained.pth" in last
    assert bench.result()["downstream"]["figure"] == "box AP (%)"


def test_colour_takes_one_command_for_both_figures(bench):
    bench.plant({"colour_rgb": [(3.0, False, 30.0)], "colour_lab": [(1.0, False, 35.0)]})
    code, tools = bench.run(
        family="colour",
        settings=["lab", "rgb"],
        seeds=[0],
        pretrain_config=None,
        overrides=["batch_size=8", "epochs=2"],
    )
    assert code == 0 and tools == ["evaluate_views"] * 2
    assert "--views rgb" in bench.calls()[0] and bench.calls()[0].endswith("--seeds 0 -- batch_size=8 epochs=2")
    assert bench.result()["sweet_spot"]["setting"] == "lab"
    assert load_recipe(bench.output / "recipe.yaml").ops[-1].space == "lab"


def test_a_dry_run_says_every_command_and_writes_nothing(bench):
    said = []
    show_sweep(bench.config(), bench.output, say=said.append)
    assert not bench.output.exists()
    commands = [line for line in said if line.startswith("$")]
    assert len(commands) == 18 and len(said) == 36
    assert sum("tools/pretrain.py" in line for line in commands) == 6
    bench.run()
    said.clear()
    show_sweep(bench.config(), bench.output, say=said.append)
    assert sum("done already" in line for line in said) == 18
    said.clear()
    show_sweep(bench.config(overrides=["views.jitter_strength=2.0"]), bench.output, say=said.append)
    assert not any("done already" in line for line in said)


def test_a_planted_flat_curve_is_not_called_a_reverse_u(bench):
    flat = {name: [(n, s, 50.0 + k) for k, (n, s, _) in enumerate(entries)] for name, entries in REVERSE_U.items()}
    flat["crop_0.2"] = [(2.0, False, 50.1), (2.2, False, 51.1)]
    bench.plant(flat)
    bench.run()
    notes = bench.result()["sweet_spot"]["notes"]
    assert len(notes) == 2 and all("within the spread over seeds" in note for note in notes)
    assert any("not by more than the spread" in line for line in bench.result()["findings"])
    assert FAMILIES["crop"].sweet_spot == 0.2
