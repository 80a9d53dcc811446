"""Run configuration: precedence, methods, shipped files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pretrain.base.config_files import shipped_configs
from pretrain.base.errors import ConfigError
from pretrain.base.strict import from_mapping
from pretrain.config import (
    UNLISTED,
    MethodConfig,
    RunConfig,
    experiment_of,
    load_run_config,
    method_label,
    method_names,
    to_plain,
)
from pretrain.views.recipe_file import recipe_from_plain
from tests.cases import each

CONFIGS = shipped_configs() / "pretrain"
SHIPPED = sorted(CONFIGS.glob("*.yaml")) + [
    path for path in sorted((CONFIGS.parent / "views").glob("*.yaml")) if "method:" in path.read_text()
]


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text("data: {root: images}\n" + text)
    return path


def core(config):
    """What a method's name stands for."""
    return config.method.name, config.method.temperature, config.method.jigsaw, config.views.recipe, config.method.head


INFOMIN = ("infomin", 0.15, True, "infomin", "mlp")
MOCO_V2 = ("moco_v2", 0.2, False, "moco_v2", "mlp")  # the reference's rows [specification 1.1]


def test_a_method_is_its_values_by_base_by_flag_and_by_default(tmp_path):
    assert core(load_run_config(write(tmp_path, ""))) == INFOMIN
    assert core(load_run_config(write(tmp_path, "base: methods/infomin.yaml\n"))) == INFOMIN
    assert core(load_run_config(write(tmp_path, "base: methods/moco_v2.yaml\n"))) == MOCO_V2
    assert core(load_run_config(Path("infomin_r50_200ep"), method="moco_v2")) == MOCO_V2
    assert core(load_run_config(Path("moco_v2_r50_200ep"), method="infomin")) == INFOMIN


# The reference's table [specification 1.1] and SimCLR: towers, memory, head, jigsaw branch, temperature, recipe.
PRESETS = {
    "cmc": (("Y", "DbDr"), "bank", "linear", False, 0.07, "cmc"),
    "cmc_v2": (("Y", "DbDr"), "queue", "mlp", False, 0.2, "cmc_v2"),
    "infomin": (("RGB",), "queue", "mlp", True, 0.15, "infomin"),
    "instdis": (("RGB",), "bank", "linear", False, 0.07, "instdis"),
    "moco_v1": (("RGB",), "queue", "linear", False, 0.07, "moco_v1"),
    "moco_v2": (("RGB",), "queue", "mlp", False, 0.2, "moco_v2"),
    "pirl": (("RGB",), "bank", "linear", True, 0.07, "instdis"),
    "simclr": (("RGB",), "batch", "mlp_bn", False, 0.1, "simclr"),
    "supervised": (("RGB",), "labels", "linear", False, 1.0, "supervised"),
}


def test_the_shipped_methods_are_the_reference_s_table_and_have_their_own_name():
    assert method_names() == tuple(PRESETS)
    for name, values in PRESETS.items():
        config = load_run_config(Path("infomin_r50_200ep"), method=name)
        method = config.method
        found = (method.towers, method.memory, method.head, method.jigsaw, method.temperature, config.views.recipe)
        assert found == values and method_label(to_plain(config)) == name
        crossed = {("Y", "DbDr"), ("DbDr", "Y")} if "Y" in method.towers else {("RGB", "RGB")}
        assert {(term.query, term.key) for term in method.contrasts} == crossed
        assert method.num_views == (1 if method.memory in ("bank", "labels") else 2)


def test_a_changed_contrast_is_reported(tmp_path):
    one_way = "method.contrasts=[{query: Y, key: DbDr, weight: 1.0}, {query: DbDr, key: Y, weight: 0.5}]"
    run = load_run_config(write(tmp_path, "base: methods/cmc.yaml\n"), [one_way])
    assert method_label(to_plain(run)) == "cmc (changed: method.contrasts)"


def test_a_config_of_the_version_before_towers_and_memories_is_the_same_run(tmp_path):
    values = to_plain(load_run_config(Path("moco_v2_r50_200ep")))
    now = from_mapping(RunConfig, values, where="now")
    for group, keys in {
        "method": ("towers", "contrasts", "memory", "bank_negatives", "bank_momentum", "momentum_end", "symmetric"),
        "encoder": ("stem",),
        "optimizer": ("name", "accumulate"),
        "runtime": ("compile",),
    }.items():
        for key in keys:
            del values[group][key]
    del values["monitor"], values["method"]["batchnorm"], values["method"]["shuffle_over"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    assert load_run_config(path) == now
    values["method"]["name"] = "cmc"  # control: of a method that needs them they must be given
    values["method"] |= {"head": "linear", "temperature": 0.07}
    values["views"]["recipe"] = "cmc"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"without its values \(method.towers, method.contrasts, method.memory\)"):
        load_run_config(path)


@pytest.mark.parametrize(("file", "name"), [("infomin_r50_200ep", "moco_v2"), ("moco_v2_r50_200ep", "infomin")])
def test_a_name_cannot_be_put_on_another_method_s_values(tmp_path, file, name):
    with pytest.raises(ConfigError, match=rf"command line: method\.name cannot be overridden.*pass --method {name}"):
        load_run_config(Path(file), [f"method.name={name}"])
    path = write(tmp_path, f"base: {file}.yaml\nmethod: {{name: {name}}}\n")
    with pytest.raises(ConfigError, match=rf"run\.yaml: `method\.name: {name}` without .*`base: methods/{name}\.yaml`"):
        load_run_config(path)
    run = load_run_config(Path(file), method=name)
    assert method_label(to_plain(run)) == run.method.name == name  # the control: name and values together


def test_a_run_that_departs_from_its_method_is_reported_so(tmp_path):
    changed = ["method.temperature=0.1", "views.crop_scale=[0.3,1.0]", "method.queue_size=512"]
    run = load_run_config(write(tmp_path, "base: methods/moco_v2.yaml\n"), changed)
    assert method_label(to_plain(run)) == "moco_v2 (changed: method.temperature, views.crop_scale)"
    unlisted = ["method.momentum_end=1.0", "method.shuffle_over=node", "method.symmetric=true"]
    run = load_run_config(write(tmp_path, "base: methods/moco_v2.yaml\n"), unlisted)
    assert all(word.partition("=")[0] in method_label(to_plain(run)) for word in unlisted)  # of no method's file
    default = to_plain(MethodConfig())
    assert {f"method.{name}": default[name] for name in ("symmetric", "momentum_end", "shuffle_over")} == UNLISTED
    lie = to_plain(load_run_config(Path("infomin_r50_200ep")))  # as older checkpoints may hold it
    lie["method"]["name"] = "moco_v2"
    assert method_label(lie) == "moco_v2 (changed: method.temperature, method.jigsaw, views.recipe)"
    assert method_label({"method": {"name": "mine"}}) == "mine"


def test_an_explicit_value_wins_over_method_and_file(tmp_path):
    path = write(tmp_path, "base: methods/moco_v2.yaml\nmethod: {temperature: 0.3}\nviews: {recipe: infomin}\n")
    config = load_run_config(path, ["method.jigsaw=true"])
    assert core(config) == ("moco_v2", 0.3, True, "infomin", "mlp")
    assert load_run_config(path, ["method.temperature=0.4"]).method.temperature == 0.4
    assert core(load_run_config(path, ["method.jigsaw=true"], method="infomin")) == INFOMIN


def test_a_configuration_survives_writing_and_reading(tmp_path):
    config = load_run_config(write(tmp_path, "views: {crop_scale: [0.1, 0.9]}\n"))
    assert from_mapping(RunConfig, to_plain(config), where="written") == config


@each(
    ("override", "message"),
    [
        ("optimizer.epoch=3", "did you mean `optimizer.epochs`"),
        ("optimizer.epoch=3", "^command line: unknown key"),
        ("encoder.arch=resnet51", "resnet50"),
        ("method.queue_size=8", "expected at least optimizer.batch_size"),
        ("optimizer.epochs=many", "expected int"),
        ("method.momentum=1.5", r"expected in \[0, 1\]"),
        ("method.temperature=inf", "temperature expected positive, found inf"),
        ("optimizer.learning_rate=inf", "learning_rate expected positive, found inf"),
        ("optimizer.learning_rate=nan", "learning_rate expected positive, found nan"),
        ("optimizer.weight_decay=-1", r"weight_decay expected at least 0, found -1\.0"),
        ("optimizer.momentum=1", r"momentum expected in \[0, 1\), found 1\.0"),
        ("optimizer.decay=-0.1", r"decay expected in \[0, 1\], found -0\.1"),
        ("optimizer.milestones=[0, 5]", r"milestones expected positive, found \(0, 5\)"),
        ("optimizer.warmup_start=-0.1", r"warmup_start expected at least 0, found -0\.1"),
        ("optimizer.warmup_epochs=-1", "warmup_epochs expected at least 0, or null for the reference's rule, found -1"),
        ("runtime.timeout_s=0", r"timeout_s expected in \(0, 2\.592e\+06\] seconds, found 0\.0"),
        ("runtime.timeout_s=inf", "timeout_s expected in .* found inf"),
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


@each(
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


@each("path", SHIPPED)
def test_every_shipped_file_loads_and_the_paper_s_runs_change_nothing_of_their_method(path):
    label = method_label(to_plain(load_run_config(path)))
    assert path.name.partition("_r50")[0] in (path.name, label)


def test_the_paper_s_runs_differ_in_epochs_alone():
    runs = [to_plain(load_run_config(CONFIGS / f"infomin_r50_{epochs}ep.yaml")) for epochs in (100, 200, 800)]
    assert [run["optimizer"].pop("epochs") for run in runs] == [100, 200, 800]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0]["method"]["queue_size"] == 65536
    assert runs[0]["optimizer"]["learning_rate"] == 0.03


def test_an_experiment_is_what_decides_the_result(tmp_path):
    def experiment(*overrides):
        return experiment_of(to_plain(load_run_config(write(tmp_path, ""), overrides)))

    same = ("seed=7", "data.root=elsewhere", "data.num_workers=1", "data.skip_unreadable=true", "runtime.device=cpu")
    assert all(experiment(word) == experiment() for word in same)
    others = ("optimizer.learning_rate=0.1", "views.image_size=64", "encoder.arch=resnet18", "method.temperature=0.3")
    assert all(experiment(word) != experiment() for word in others)
