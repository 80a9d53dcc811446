"""The sweep driver on fake tools: every figure reaches table, picture and recipe; what is done is reused; its commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.base.errors import ConfigError, DataError, UserError
from pretrain.base.record import experiment_hash, read_record
from pretrain.config import load_run_config
from pretrain.views.families import FAMILIES
from pretrain.views.operations import RandomResizedCrop
from pretrain.views.recipe_file import load_recipe, recipe_from_plain, recipe_of, write_recipe
from tests.transfer.sweep_bench import REVERSE_U, SweepBench, write_images, write_labelled_image
from transfer.compare.runner import StageFolder
from transfer.compare.stages import ROOT
from transfer.compare.sweep import all_stages, plan_points, recipe_file, show_sweep
from transfer.compare.sweep_config import DetectionPart
from transfer.compare.sweep_record import describe_sweep

# Both ends lie lower by about the same in each of the two seeds: told apart at 1 - 0.05 / 3.
PLANTED = {**REVERSE_U, "crop_0.9": [(4.4, True, 44.0), (4.5, False, 44.5)]}


@pytest.fixture
def bench(tmp_path, commands_run_here, monkeypatch):
    """Without pictures, which take most of a sweep's time here and have their own tests."""
    for name in ("draw_curve", "draw_views"):
        monkeypatch.setattr(f"transfer.compare.sweep.{name}", lambda path, *arguments, **options: path.touch())
    return SweepBench(tmp_path)


@pytest.fixture(scope="module")
def plan_bench(tmp_path_factory):
    """Read only."""
    return SweepBench(tmp_path_factory.mktemp("sweep"))


def test_planted_figures_come_out_with_the_sweet_spot_marked(tmp_path, commands_run_here):
    bench = SweepBench(tmp_path)
    bench.plant(PLANTED)
    code, tools = bench.run()
    assert code == 0
    assert tools == ["pretrain", "measure_views", "linear_eval"] * 6
    result = bench.result()
    assert result["settings"] == [0.05, 0.2, 0.9]  # numbers in their order, however they were typed
    assert [point["information"]["mean"] for point in result["points"]] == pytest.approx([1.05, 2.1, 4.45])
    assert [point["accuracy"]["mean"] for point in result["points"]] == pytest.approx([40.2, 50.3, 44.25])
    assert [point["saturated"] for point in result["points"]] == [False, False, True]
    assert result["points"][0]["seeds"]["1"]["accuracy"] == 40.4
    spot = result["sweet_spot"]
    assert spot["setting"] == 0.2 and [rival["setting"] for rival in spot["rivals"]] == [0.05, 0.9]
    assert [(rival["difference"]["verdict"], rival["difference"]["n"]) for rival in spot["rivals"]] == [
        ("higher", 2)
    ] * 2
    assert spot["notes"][1] == "0.9 is 6.1 points lower, interval +4.1 to +8.0, n = 2"
    assert any("rises from 0.05 to 0.9" in line and "as expected" in line for line in result["findings"])
    assert any(
        line.startswith("accuracy rises and then falls (10.1 points below the best at the first setting")
        for line in result["findings"]
    )
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
    assert "# best mean: crop 0.2 (50.3 ± 0.4 %, 2 seeds)" in (bench.output / "recipe.yaml").read_text()
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


def test_points_of_images_that_changed_since_are_not_reused_beside_new_ones(bench):
    few = {"settings": ["0.05", "0.9"], "seeds": [0]}
    bench.run(**few)
    extra = bench.data / "train" / "a" / "extra.png"
    extra.write_bytes((bench.data / "train" / "a" / "0.png").read_bytes())
    with pytest.raises(
        ConfigError, match=r"data/train has changed since .*20 images then, 21 now.*another --output-dir"
    ):
        bench.run(settings=["0.05", "0.9"], seeds=[0, 1])
    assert bench.calls() == []
    extra.unlink()
    assert bench.run(settings=["0.05", "0.9"], seeds=[0, 1])[1].count("pretrain") == 2  # control


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
    assert any("FAILED" in line for line in bench.messages)
    (bench.root / "break_linear_eval").unlink()
    code, tools = bench.run()
    assert code == 0 and tools[:2] == ["linear_eval", "pretrain"]


def test_information_alone_needs_no_labels_and_names_no_best(bench):
    (bench.data / "val" / "a").rename(bench.data / "val" / "renamed")
    code, tools = bench.run(downstream="none")
    assert code == 0 and set(tools) == {"pretrain", "measure_views"}
    assert bench.result()["sweet_spot"] is None and not (bench.output / "recipe.yaml").exists()
    assert "no recipe.yaml" in bench.messages[-1]
    assert "top-1" not in (bench.output / "table.md").read_text()


def test_detection_converts_and_fine_tunes(bench):
    train, test = (write_labelled_image(bench.root / name) for name in ("boxes_train", "boxes_test"))
    part = DetectionPart(Path("demo/R_18_FPN.yaml"), train, test)
    code, tools = bench.run(downstream="detection", detection=part, seeds=[1], overrides=["encoder.arch=resnet18"])
    assert code == 0 and tools == ["pretrain", "measure_views", "convert_weights", "train_net"] * 3
    last = bench.calls()[-1]
    assert (
        f"--train-data {train} --test-data {test}" in last and "configs/demo/R_18_FPN.yaml" in last and "SEED 1" in last
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
    messages = []
    show_sweep(bench.config(), bench.output, say=messages.append)
    assert not bench.output.exists()
    commands = [line for line in messages if line.startswith("$")]
    assert len(commands) == 18 and len(messages) == 36
    assert sum("tools/pretrain.py" in line for line in commands) == 6
    bench.run()
    messages.clear()
    show_sweep(bench.config(), bench.output, say=messages.append)
    assert sum("done already" in line for line in messages) == 18
    messages.clear()
    show_sweep(bench.config(overrides=["views.jitter_strength=2.0"]), bench.output, say=messages.append)
    assert not any("done already" in line for line in messages)


def test_a_planted_flat_curve_is_not_called_a_reverse_u(bench):
    flat = {name: [(n, s, 50.0 + k) for k, (n, s, _) in enumerate(entries)] for name, entries in REVERSE_U.items()}
    flat["crop_0.2"] = [(2.0, False, 50.1), (2.2, False, 51.1)]
    bench.plant(flat)
    bench.run()
    notes = bench.result()["sweet_spot"]["notes"]
    assert len(notes) == 2 and all(note.endswith("n = 2: not told apart") for note in notes)
    assert any("not told apart from the first and the last setting" in line for line in bench.result()["findings"])
    assert FAMILIES["crop"].sweet_spot == 0.2


def test_a_detection_without_box_ap_is_refused_by_name(bench):
    train, test = (write_labelled_image(bench.root / name) for name in ("boxes_train", "boxes_test"))
    bench.plant({name: [(n, s, None) for n, s, _ in entries] for name, entries in REVERSE_U.items()})
    part = DetectionPart(Path("demo/R_18_FPN.yaml"), train, test)
    with pytest.raises(DataError, match=r"crop_0.05_seed1/detect/record.json has no box AP"):
        bench.run(downstream="detection", detection=part, seeds=[1], overrides=["encoder.arch=resnet18"])


# --- the record of a point -------------------------------------------------------------------------------------------


def record_of(bench, name):
    return read_record(bench.output / name / "record.json")


def test_a_point_s_record_holds_its_figures_and_all_points_are_one_experiment(bench):
    bench.run(command="python tools/sweep_views.py")
    records = {name: record_of(bench, name) for name in ("crop_0.2_seed1", "crop_0.9_seed0")}
    found = records["crop_0.2_seed1"]
    assert (found.kind, found.status, found.seeds) == ("sweep-point", "done", {"run": 1, "pretraining": 1})
    assert found.figures == {
        "info_nce": 2.2, "info_nce_low": 2.1, "info_nce_high": 2.3000000000000003, "info_nce_ceiling": 5.5, "accuracy": 50.6,
    }  # fmt: skip
    assert found.initialisation.name == "crop 0.2" and found.metric == "readout top-1 (%)"
    assert found.commands == ("python tools/sweep_views.py",)
    assert recipe_from_plain(found.config["recipe"], where="x") == bench.config().recipe(0.2)
    assert found.data["train"].num_images == 20
    assert records["crop_0.9_seed0"].details == {"saturated": True}
    assert len({record.hash for record in records.values()}) == 1
    weights = {record.initialisation.pretraining["hash"] for record in records.values()}
    assert len(weights) == 2  # other views, so other weights


@pytest.mark.parametrize(
    "over",
    [
        {"overrides": ["optimizer.epochs=2"]},
        {"overrides": ["views.jitter_strength=0.5"]},
        {"measure_batch": 8},
        {"linear_config": "linear.yaml"},
    ],
    ids=["pre-training", "base recipe", "measurement", "readout"],
)
def test_a_sweep_of_another_experiment_has_another_hash(plan_bench, over):
    if "linear_config" in over:
        over = {"linear_config": plan_bench.root / "linear.yaml"}
    hashes = {
        experiment_hash(describe_sweep(plan_bench.config(**values))[0])
        for values in ({}, over, {"overrides": ["seed=5", "data.num_workers=2"], "seeds": [4]})
    }
    assert len(hashes) == 2  # the seed and the number of workers decide nothing


def test_a_point_that_ends_early_says_so_and_what_is_done_keeps_its_record(bench):
    (bench.root / "break_linear_eval").touch()
    bench.run()
    failed = record_of(bench, "crop_0.05_seed0")
    assert failed.status == "failed" and "linear readout: exit code 7" in failed.error and not failed.figures
    (bench.root / "break_linear_eval").unlink()
    bench.run()
    assert record_of(bench, "crop_0.05_seed0").status == "done"
    before = (bench.output / "crop_0.05_seed0" / "record.json").read_bytes()
    bench.run()
    assert (bench.output / "crop_0.05_seed0" / "record.json").read_bytes() == before
    bench.run(overrides=["optimizer.epochs=2"])
    assert record_of(bench, "crop_0.05_seed0").hash != failed.hash


# --- what a later stage would refuse ---------------------------------------------------------------------------------


def break_linear_config(bench):
    (bench.root / "linear.yaml").write_text("epoch: 1\n")
    return {"linear_config": bench.root / "linear.yaml"}


def break_readout_classes(bench):
    for split, names in (("train", ("a", "b")), ("val", ("a", "c"))):
        write_images(bench.root / "labelled" / split, 2, classes=names)
    return {"readout_data": bench.root / "labelled"}


def break_readout_image(bench):
    for split in ("train", "val"):
        write_images(bench.root / "labelled" / split, 2)
    (bench.root / "labelled" / "val" / "a" / "0.png").write_bytes(b"<html>")
    return {"readout_data": bench.root / "labelled"}


def break_image(split):
    def broken(bench):
        (bench.data / split / "a" / "0.png").write_bytes(b"")
        return {"downstream": "none", "measure_batch": 8}

    return broken


def detection(config, *, test_class="cup", arch="resnet18"):
    """A detection part as `bench.run` takes it; config: a shipped file, or the text of one."""

    def part(bench):
        specs = [write_labelled_image(bench.root / name) for name in ("boxes_train", "boxes_test")]
        labels = bench.root / "boxes_test" / "boxes.json"
        labels.write_text(labels.read_text().replace("cup", test_class))
        path = Path(config)
        if "\n" in config:
            path = bench.root / "own.yaml"
            path.write_text(config.format(root=ROOT))
        return {
            "downstream": "detection",
            "detection": DetectionPart(path, *specs),
            "overrides": [f"encoder.arch={arch}"],
            "seeds": [0],
        }

    return part


UNKNOWN_HEADS = "_BASE_: {root}/transfer/configs/demo/R_18_FPN.yaml\nMODEL: {{ROI_HEADS: {{NAME: NoSuchHeads}}}}\n"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (break_linear_config, "did you mean `epochs`"),
        (break_readout_classes, r"only in train/: b; only in val/: c.*--downstream none"),
        (break_readout_image, "val: 1 of 4 images cannot be read"),
        (break_image("train"), "1 of 20 images cannot be read.*\n.*\n.*data.skip_unreadable=true"),
        (break_image("val"), "1 of 12 images cannot be read"),
        (detection("demo/R_18_FPN.yaml", arch="resnet50"), "MODEL.RESNETS.DEPTH is 18, must be 50"),
        (detection("demo/R_18_FPN.yaml", arch="resnet18_half"), "resnet18_half cannot be converted"),
        (detection("demo/R_18_FPN.yaml", test_class="mug"), "mug"),
        (detection(UNKNOWN_HEADS), "cannot build this detector.*NoSuchHeads"),
    ],
    ids=["readout configuration", "classes", "readout image", "image", "held-out image", "depth", "width", "class names", "heads"],
)  # fmt: skip
def test_what_a_later_stage_would_refuse_is_refused_before_the_first(bench, broken, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        bench.run(**broken(bench))
    assert bench.calls() == [] and not bench.output.exists()


def test_a_sound_detection_starts_and_so_does_pre_training_that_leaves_out_what_it_cannot_read(bench):
    code, tools = bench.run(**detection("demo/R_18_FPN.yaml")(bench))
    assert code == 0 and "train_net" in tools
    more = break_image("train")(bench)
    assert bench.run(**more, overrides=["data.skip_unreadable=true"], seeds=[0])[0] == 0


# --- the plan --------------------------------------------------------------------------------------------------------


def test_points_come_seed_by_seed_with_unlike_names(plan_bench):
    points = plan_points(plan_bench.config())
    assert [(point.seed, point.setting) for point in points[:4]] == [(0, 0.05), (0, 0.2), (0, 0.9), (1, 0.05)]
    names = [stage.name for stage in all_stages(points)]
    assert len(set(names)) == len(names) == 18
    known: set[str] = set()
    for stage in all_stages(points):
        assert set(stage.needs) <= known
        known.add(stage.name)


def test_the_run_that_a_command_describes_has_the_setting_s_views(plan_bench, tmp_path):
    """The command's own words, read by the tool's own reader, give the recipe that the sweep means."""
    overrides = ["views.crop_scale=[0.5,0.8]", "views.jitter_strength=0.25", "optimizer.epochs=7", "seed=5"]
    config = plan_bench.config(overrides=overrides, family="blur", settings=["1", "2"], seeds=[3])
    (tmp_path / "recipes").mkdir()
    for point in plan_points(config):
        write_recipe(tmp_path / recipe_file(config, point.setting), config.recipe(point.setting))
        words = StageFolder(tmp_path).command(point.stages[0])
        run = load_run_config(config.pretrain_config, [word for word in words if "=" in word])
        assert recipe_of(run.views.recipe, run.views.overrides) == config.recipe(point.setting)
        assert (run.seed, run.optimizer.epochs, run.data.root) == (3, 7, str(plan_bench.data / "train"))
        assert run.views.crop_scale is None and run.views.blur_kernel is None


def test_a_recipe_file_is_named_after_its_content(plan_bench):
    names = {recipe_file(plan_bench.config(), setting) for setting in (0.05, 0.2)}
    assert len(names) == 2 and all(name.startswith("recipes/crop_0.") for name in names)
    other = plan_bench.config(overrides=["views.jitter_strength=2"])
    assert recipe_file(other, 0.2) not in names
    assert recipe_file(plan_bench.config(), 0.2) in names


def test_the_measurement_reads_held_out_images_and_the_last_checkpoint(plan_bench):
    point = plan_points(plan_bench.config())[0]
    words = " ".join(point.stages[1].command)
    assert f"--data {plan_bench.data / 'val'}" in words and "{checkpoint:crop_0.05_seed0/pretrain}" in words
    assert point.stages[1].needs == (point.stages[0].name,)
