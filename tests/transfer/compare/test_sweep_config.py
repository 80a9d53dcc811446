"""A sweep's values: all that cannot work is refused before the first run, with what to type."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from pretrain.base.errors import ConfigError, DataError
from pretrain.config import load_run_config
from pretrain.views.families import family_named
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipe_file import recipe_of
from tests.cases import each
from tests.transfer.sweep_bench import SweepBench, write_images, write_labelled_image
from transfer.compare.stages import ROOT
from transfer.compare.sweep_config import DetectionPart, load_sweep
from transfer.readout.config import load_linear_config


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Read only."""
    return SweepBench(tmp_path_factory.mktemp("sweep"))


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"family": "jiter"}, "did you mean jitter"),
        ({"settings": ["0.2", "1.5"]}, r"from 0.005 to 1 of the image, found '1.5'"),
        ({"settings": ["0.2"]}, "two or more different ones, found 0.2"),
        ({"settings": ["0.2", "0.20"]}, "two or more different ones, found 0.2 0.2"),
        ({"seeds": [0, 0]}, "different numbers"),
        ({"seeds": []}, "different numbers"),
        ({"downstream": "detection"}, "needs --detect-config, --train-data and --test-data"),
        ({"pretrain_config": None}, "expected --pretrain-config FILE"),
        ({"overrides": ["optimizer.epoch=3"]}, "did you mean `optimizer.epochs`"),
        ({"overrides": ["views.recipe=linear"], "family": "jitter", "settings": None}, "linear has no ColorJitter"),
        ({"family": "colour", "settings": ["lab", "rbg"]}, "did you mean rgb"),
        ({"family": "colour", "settings": None, "pretrain_config": None, "overrides": ["epoch=1"]}, "did you mean `epochs`"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(bench, over, message):
    with pytest.raises(ConfigError, match=message):
        bench.config(**over)


def test_a_missing_configuration_file_is_named(bench, tmp_path):
    for key in ("pretrain_config", "linear_config"):
        with pytest.raises(ConfigError, match=r"no configuration file at .*x\.yaml"):
            bench.config(**{key: tmp_path / "x.yaml"})


@pytest.mark.parametrize(
    ("config", "train", "error", "message"),
    [
        ("x.yaml", "sound", ConfigError, r"no configuration file x\.yaml"),
        ("demo/R_18_FPN.yaml", "coco:absent.json:absent", DataError, "no image folder at absent"),
        ("demo/R_18_FPN.yaml", "absent.json", ConfigError, "expected coco:ANNOTATIONS.json:IMAGE_DIR"),
        ("demo/R_18_FPN.yaml", "sound", None, ""),
    ],
)
def test_detection_is_checked_before_hours_of_pre_training(bench, tmp_path, config, train, error, message):
    sound = write_labelled_image(tmp_path / "boxes")
    part = DetectionPart(Path(config), sound if train == "sound" else train, sound)
    with pytest.raises(error, match=message) if error else nullcontext():
        sweep = bench.config(downstream="detection", detection=part, overrides=["encoder.arch=resnet18"])
        assert sweep.detection.config_file.is_file()


def test_colour_refuses_what_its_one_command_cannot_do(bench):
    for over in ({"readout_data": bench.root}, {"linear_config": bench.root / "linear.yaml"}):
        with pytest.raises(ConfigError, match="two small encoders"):
            bench.config(
                family="colour",
                settings=None,
                pretrain_config=None,
                overrides=["batch_size=8"],
                measure_batch=8,
                **over,
            )


def test_an_unlabelled_folder_says_what_is_missing_and_how_to_do_without(bench, tmp_path):
    flat = tmp_path / "flat"
    for split, count in (("train", 20), ("val", 12)):
        write_images(flat / split, count, classes=(".",))
    with pytest.raises(DataError, match=r"expected one folder a class.*--readout-data.*pass --downstream none"):
        bench.config(data=flat)
    with pytest.raises(DataError, match="family colour probes what it has learned and needs labelled images"):
        bench.config(
            data=flat,
            family="colour",
            settings=None,
            pretrain_config=None,
            overrides=["batch_size=8"],
            downstream="none",
        )
    assert bench.config(data=flat, downstream="none").settings == (0.05, 0.2, 0.9)
    assert bench.config(data=flat, readout_data=bench.data).readout_data == bench.data
    with pytest.raises(DataError, match=r"no folder .*train; --data expects a folder with train/"):
        bench.config(data=flat / "train", downstream="none")


def test_one_class_is_no_readout(bench, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(bench.data / split / "a", tmp_path / split / "a")
        shutil.copytree(bench.data / split / "b", tmp_path / split / "a" / "b")
    with pytest.raises(DataError, match="two classes or more, found only 'a'"):
        bench.config(data=tmp_path)


def test_a_method_without_a_queue_is_not_asked_for_one(bench):
    for memory, queue in (("queue", 16), ("bank", None), ("batch", None)):
        overrides = [f"method.memory={memory}", f"method.queue_size={16 if queue else 65536}"]
        assert bench.config(overrides=overrides).queue_size == queue


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"overrides": ["optimizer.batch_size=32", "method.queue_size=32"]}, r"20 images do not fill one batch of 32; pass optimizer.batch_size=20"),
        ({"overrides": ["method.queue_size=64"]}, r"queue of K = 64 keys.*pass method.queue_size=10"),
        ({"measure_batch": 13}, r"12 held-out images do not fill one batch of 13 pairs; pass --measure-batch 12"),
        ({"measure_batch": 1}, "--measure-batch"),
    ],
)  # fmt: skip
def test_too_few_images_for_batch_queue_or_measurement_are_counted(bench, over, message):
    with pytest.raises(DataError, match=message):
        bench.config(**over)


def test_images_too_small_for_a_distance_say_which_settings_fit(bench):
    with pytest.raises(DataError, match=r"shorter side has 40 px; .*4 \(36 px\), 16 \(48 px\).*what fits \(4\)"):
        bench.config(family="distance", settings=["4", "16"])
    assert bench.config(family="distance", settings=["4", "8"]).settings == (4.0, 8.0)


def test_explicit_values_of_the_views_are_folded_into_the_recipes(bench):
    config = bench.config(overrides=["views.crop_scale=[0.5,0.8]"], family="jitter", settings=["0.5", "1"])
    assert config.recipe(1.0).ops[0].scale == (0.5, 0.8)
    assert set(config.unset) == {"crop_scale", "blur_kernel"}


PRETRAINING_FILES = ("small_cifar", "crop_jitter_imagenet100", "distance_div2k", "frequency_stl10")


@each("name", PRETRAINING_FILES)
def test_every_shipped_file_makes_each_setting_s_views_of_the_family_that_its_command_names(name):
    path = ROOT / "configs" / "views" / f"{name}.yaml"
    header = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    family = family_named(header.partition("--family ")[2].split()[0])
    assert f"--pretrain-config configs/views/{name}.yaml" in header
    run = load_run_config(path)
    for setting in family.settings:
        recipe = family.recipe(
            recipe_of(run.views.recipe, run.views.overrides), setting, image_size=run.views.image_size
        )
        ViewMaker(recipe, image_size=run.views.image_size)
    assert not run.method.jigsaw


def test_the_shipped_readout_loads():
    path = ROOT / "configs" / "views" / "small_cifar_readout.yaml"
    config = load_linear_config(path)
    assert config.image_size == load_run_config(ROOT / "configs" / "views" / "small_cifar.yaml").views.image_size
    assert "command" in path.read_text() and not config.protocol_name().startswith("the paper")


# --- the file and the command line ------------------------------------------------------------------------------------


@pytest.fixture
def sweep_file(bench, tmp_path):
    (tmp_path / "base.yaml").write_text(
        f"family: jitter\nseeds: [3]\npretrain: {{config_file: {bench.root}/pretrain.yaml, overrides: [seed=9]}}\nmeasure_batch: 8\n"
    )
    (tmp_path / "sweep.yaml").write_text(f"base: base.yaml\nfamily: crop\nsettings: [0.2, 1]\ndata: {bench.data}\n")
    return tmp_path / "sweep.yaml"


def test_a_file_a_flag_and_an_override_name_the_same_key_and_the_later_one_holds(sweep_file):
    def seeds(flags, *overrides):
        return load_sweep(sweep_file, flags=flags, overrides=overrides).seeds

    assert (seeds({}), seeds({"seeds": (1, 2)}), seeds({"seeds": (1, 2)}, "seeds=[4]")) == ((3,), (1, 2), (4,))


def test_a_file_is_merged_over_its_base(sweep_file):
    sweep = load_sweep(sweep_file, flags={}, overrides=())
    assert (sweep.family.name, sweep.settings, sweep.measure_batch) == ("crop", (0.2, 1.0), 8)


def test_a_key_that_is_not_the_sweeps_goes_to_the_pre_training_in_place_of_the_files(sweep_file):
    words = ("data.num_workers=1", "seed=5", "optimizer.epochs=2", "measure_batch=4")
    sweep = load_sweep(sweep_file, flags={}, overrides=words)
    assert sweep.overrides == ("data.num_workers=1", "seed=5", "optimizer.epochs=2") and sweep.measure_batch == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("readout.dta=x", "command line: unknown key `readout.dta`; did you mean `readout.data`"),
        ("optimizer.epoch=3", "did you mean `optimizer.epochs`"),
        ("downstream=redout", "command line: `downstream` expected one of"),
        ("settings=0.2", "command line: `settings` expected a list"),
        ("seeds", "expected key=value"),
    ],
)
def test_a_mistyped_override_is_blamed_on_the_command_line(sweep_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_sweep(sweep_file, flags={}, overrides=[override])


def test_a_sweep_without_data_says_what_is_missing(sweep_file):
    with pytest.raises(ConfigError, match="missing key `data`"):
        load_sweep(sweep_file.with_name("base.yaml"), flags={}, overrides=())


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sweep_loads(bench, path):
    sweep = load_sweep(
        path,
        flags={"data": bench.data},
        overrides=["measure_batch=8", "method.queue_size=16", "optimizer.batch_size=8", "method.batchnorm_images=4"],
    )
    assert sweep.linear_config is not None and f"--config-file configs/sweep/{path.name}" in path.read_text()
