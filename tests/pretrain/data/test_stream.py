"""From a configuration to batches: explicit sizes reach the recipe, bad folders end before step one."""

from __future__ import annotations

import shutil

import pytest

from pretrain.base.errors import ConfigError, DataError
from pretrain.config import ViewsConfig
from pretrain.data.stream import open_stream, recipe_of
from pretrain.run.ranks import Ranks
from pretrain.views.recipes import RECIPES, ColorJitter, GaussianBlur, PillowBlur, RandomResizedCrop


def op_of(recipe, kind):
    return next(op for op in recipe.ops if isinstance(op, kind))


def test_a_recipe_without_explicit_values_is_the_recipe():
    assert recipe_of(ViewsConfig()) == RECIPES["infomin"]


def test_explicit_values_reach_the_operations_and_nothing_else():
    changed = recipe_of(ViewsConfig(crop_scale=(0.4, 0.9), blur_kernel=7, blur_sigma=(0.1, 0.6)))
    assert op_of(changed, RandomResizedCrop).scale == (0.4, 0.9)
    assert (op_of(changed, GaussianBlur).kernel, op_of(changed, GaussianBlur).sigma) == (7, (0.1, 0.6))
    kept = [op for op in RECIPES["infomin"].ops if not isinstance(op, (RandomResizedCrop, GaussianBlur))]
    assert [op for op in changed.ops if not isinstance(op, (RandomResizedCrop, GaussianBlur))] == kept
    assert op_of(recipe_of(ViewsConfig(recipe="moco_v2", blur_sigma=(0.2, 0.3))), PillowBlur).radius == (0.2, 0.3)


def test_jitter_strength_is_the_paper_s_scale_whatever_the_recipe():
    for name in ("infomin", "moco_v2"):
        jitter = op_of(recipe_of(ViewsConfig(recipe=name, jitter_strength=0.5)), ColorJitter)
        assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (0.4, 0.4, 0.4, 0.1)
        assert jitter.p == op_of(RECIPES[name], ColorJitter).p
    assert recipe_of(ViewsConfig(jitter_strength=1.0)) == RECIPES["infomin"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "linear", "jitter_strength": 1.0}, "views.jitter_strength: recipe linear has no ColorJitter"),
        ({"recipe": "center", "crop_scale": (0.2, 1.0)}, "views.crop_scale: recipe center has no RandomResizedCrop"),
    ],
)
def test_a_strength_that_nothing_takes_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        recipe_of(ViewsConfig(**values))


def test_images_too_small_for_a_distance_are_refused_before_step_one(tiny_config, image_folder):
    """The images are 48 x 40."""

    def opened(distance):
        recipe = {"name": "apart", "ops": [{"op": "PatchDistance", "patch": 32, "distance": distance}]}
        config = tiny_config(views={"recipe": recipe}, method={"jigsaw": False})
        return open_stream(config, ranks=Ranks(), announce=lambda text: None)

    assert len(list(opened(8).batches(from_step=0, num_steps=2))) == 2
    with pytest.raises(DataError, match=r"shorter side has 41 px or more; 18 of 18 are smaller, down to 40 px"):
        opened(9)


def test_pairs_with_a_jigsaw_are_refused_before_an_image_is_read(tiny_config, tmp_path):
    recipe = {"name": "split", "ops": [{"op": "CenterCrop"}, {"op": "FrequencySplit", "sigma": 1.0}]}
    with pytest.raises(ConfigError, match=r"type method\.jigsaw=false"):
        open_stream(
            tiny_config(views={"recipe": recipe}, data={"root": str(tmp_path / "absent")}),
            ranks=Ranks(),
            announce=print,
        )


def test_an_unknown_recipe_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match="infomin.*found 'infomax'"):
        recipe_of(ViewsConfig(recipe="infomax"))


def test_the_small_recipe_has_infomin_s_operations_in_infomin_s_order():
    assert [type(op) for op in RECIPES["infomin_small"].ops] == [type(op) for op in RECIPES["infomin"].ops]


def test_unreadable_images_are_counted_before_step_one_or_left_out_when_asked(tiny_config, image_folder, tmp_path):
    root = shutil.copytree(image_folder, tmp_path / "images")
    (root / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        open_stream(tiny_config(data={"root": str(root)}), ranks=Ranks(), announce=print)
    said: list[str] = []
    stream = open_stream(
        tiny_config(data={"root": str(root), "skip_unreadable": True}), ranks=Ranks(), announce=said.append
    )
    assert "left out" in said[0] and "18 images" in said[1]
    assert len(list(stream.batches(from_step=0, num_steps=1))) == 1
