"""Run configuration: precedence, presets, shipped files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pretrain.base.errors import ConfigError
from pretrain.base.strict import from_mapping
from pretrain.config import PRESETS, RunConfig, load_run_config, to_plain
from pretrain.views.recipe_file import recipe_from_plain
from pretrain.views.recipes import RECIPES

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text("data: {root: images}\n" + text)
    return path


def test_a_preset_fills_in_what_is_not_given(tmp_path):
    config = load_run_config(write(tmp_path, "method: {name: moco_v2}\n"))
    assert (config.method.temperature, config.method.jigsaw, config.views.recipe) == (0.2, False, "moco_v2")
    infomin = load_run_config(write(tmp_path, ""))
    assert (infomin.method.temperature, infomin.method.jigsaw, infomin.views.recipe) == (0.15, True, "infomin")


def test_an_explicit_value_wins_over_preset_and_file(tmp_path):
    path = write(tmp_path, "method: {name: moco_v2, temperature: 0.3}\nviews: {recipe: infomin}\n")
    config = load_run_config(path, ["method.jigsaw=true"])
    assert (config.method.temperature, config.method.jigsaw, config.views.recipe) == (0.3, True, "infomin")
    assert load_run_config(path, ["method.temperature=0.4"]).method.temperature == 0.4


def test_a_configuration_survives_writing_and_reading(tmp_path):
    config = load_run_config(write(tmp_path, "views: {crop_scale: [0.1, 0.9]}\n"))
    assert from_mapping(RunConfig, to_plain(config), where="written") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.epoch=3", "did you mean `optimizer.epochs`"),
        ("method.name=infomax", "infomin, moco_v2"),
        ("encoder.arch=resnet51", "resnet50"),
        ("method.queue_size=8", "expected at least optimizer.batch_size"),
        ("optimizer.epochs=many", "expected int"),
        ("method.momentum=1.5", r"expected in \[0, 1\]"),
    ],
)
def test_what_cannot_run_is_refused_with_the_key(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_run_config(write(tmp_path, ""), [override])


RECIPE = "name: mine\nops: [{op: RandomResizedCrop, scale: [0.3, 1.0]}, {op: HorizontalFlip}]\n"


def test_a_recipe_file_is_read_once_and_the_whole_recipe_is_kept(tmp_path):
    """config.yaml and checkpoints hold `to_plain`: from it the run is built again when the file is gone."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    config = load_run_config(write(tmp_path, ""), [f"views.recipe={tmp_path / 'recipe.yaml'}"])
    (tmp_path / "recipe.yaml").unlink()
    assert config.views.recipe["name"] == "mine"
    assert config.views.recipe["ops"][0] == {
        "op": "RandomResizedCrop", "scale": [0.3, 1.0], "ratio": [3 / 4, 4 / 3], "shared": False,
    }  # fmt: skip
    again = from_mapping(RunConfig, to_plain(config), where="again")
    assert again == config and recipe_from_plain(again.views.recipe, where="again").name == "mine"
    # A run's own config.yaml starts the same run: resuming does not need the recipe's file.
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
    assert load_run_config(tmp_path / "config.yaml") == config


def test_a_recipe_can_be_written_out_in_the_run_s_own_file(tmp_path):
    config = load_run_config(write(tmp_path, "views:\n  recipe:\n    " + RECIPE.replace("\n", "\n    ") + "\n"))
    assert [type(op).__name__ for op in recipe_from_plain(config.views.recipe, where="run").ops] == [
        "RandomResizedCrop",
        "HorizontalFlip",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views.recipe=absent.yaml", "no configuration file at absent.yaml"),
        ("views.recipe={name: x, ops: [{op: Crop}]}", r"views.recipe: ops\[0\]: expected an operation out of"),
        ("views.recipe=5", "`views.recipe` expected str, found 5"),
        ("views.jitter_strength=3", r"jitter_strength expected in \[0, 2.5\]"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_run_config(write(tmp_path, ""), [override])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_loads_and_names_its_command(path):
    load_run_config(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("command" in line and "tools/pretrain.py" in line for line in header)


def test_the_paper_s_runs_differ_in_epochs_alone():
    runs = [to_plain(load_run_config(CONFIGS / f"infomin_r50_{epochs}ep.yaml")) for epochs in (100, 200, 800)]
    assert [run["optimizer"].pop("epochs") for run in runs] == [100, 200, 800]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0]["method"]["queue_size"] == 65536
    assert runs[0]["optimizer"]["learning_rate"] == 0.03


def test_infomin_and_moco_v2_are_the_reference_s_rows():
    # infomin.md 1.1: jigsaw, aug, head, temperature
    rows = {
        name: (v["method"]["jigsaw"], v["views"]["recipe"], v["method"]["head"], v["method"]["temperature"])
        for name, v in PRESETS.items()
    }
    assert rows == {"infomin": (True, "infomin", "mlp", 0.15), "moco_v2": (False, "moco_v2", "mlp", 0.2)}


def test_every_preset_names_a_recipe_that_exists():
    assert all(preset["views"]["recipe"] in RECIPES for preset in PRESETS.values())
