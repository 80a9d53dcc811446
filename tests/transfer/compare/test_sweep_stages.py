"""Commands of a sweep: each is one that its tool accepts, and what was folded into a recipe is not applied twice."""

from __future__ import annotations

import pytest

from pretrain.config import load_run_config
from pretrain.views.recipe_file import recipe_of, write_recipe
from tests.transfer.sweep_bench import SweepBench
from transfer.compare.study_folder import StudyFolder
from transfer.compare.sweep_stages import all_stages, plan_points, recipe_file


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Read only."""
    return SweepBench(tmp_path_factory.mktemp("sweep"))


def test_points_come_seed_by_seed_with_unlike_names(bench):
    points = plan_points(bench.config())
    assert [(point.seed, point.setting) for point in points[:4]] == [(0, 0.05), (0, 0.2), (0, 0.9), (1, 0.05)]
    names = [stage.name for stage in all_stages(points)]
    assert len(set(names)) == len(names) == 18
    known: set[str] = set()
    for stage in all_stages(points):
        assert set(stage.needs) <= known
        known.add(stage.name)


def test_the_run_that_a_command_describes_has_the_setting_s_views(bench, tmp_path):
    """The command's own words, read by the tool's own reader, give the recipe that the sweep means."""
    overrides = ["views.crop_scale=[0.5,0.8]", "views.jitter_strength=0.25", "optimizer.epochs=7", "seed=5"]
    config = bench.config(overrides=overrides, family="blur", settings=["1", "2"], seeds=[3])
    (tmp_path / "recipes").mkdir()
    for point in plan_points(config):
        write_recipe(tmp_path / recipe_file(config, point.setting), config.recipe(point.setting))
        words = StudyFolder(tmp_path).command(point.stages[0])
        run = load_run_config(config.pretrain_config, [word for word in words if "=" in word])
        assert recipe_of(run.views.recipe, run.views.overrides) == config.recipe(point.setting)
        assert (run.seed, run.optimizer.epochs, run.data.root) == (3, 7, bench.data / "train")
        assert run.views.crop_scale is None and run.views.blur_kernel is None


def test_a_recipe_file_is_named_after_its_content(bench):
    names = {recipe_file(bench.config(), setting) for setting in (0.05, 0.2)}
    assert len(names) == 2 and all(name.startswith("recipes/crop_0.") for name in names)
    other = bench.config(overrides=["views.jitter_strength=2"])
    assert recipe_file(other, 0.2) not in names
    assert recipe_file(bench.config(), 0.2) in names


def test_the_measurement_reads_held_out_images_and_the_last_checkpoint(bench):
    point = plan_points(bench.config())[0]
    words = " ".join(point.stages[1].command)
    assert f"--data {bench.data / 'val'}" in words and "{checkpoint:crop_0.05_seed0/pretrain}" in words
    assert point.stages[1].needs == (point.stages[0].name,)
