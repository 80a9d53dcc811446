"""The recipes are the specification's, operation by operation [specification 1.6]; a run's overrides change what they name."""

from __future__ import annotations

import pytest

from pretrain.base.errors import ConfigError
from pretrain.views.operations import (
    CMC_OPS,
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    PillowBlur,
    RandAugment,
    RandomResizedCrop,
)
from pretrain.views.recipe_file import recipe_of
from pretrain.views.recipes import OPERATIONS, OVERRIDES, RECIPES, Recipe
from tests.cases import each


def test_infomin_is_the_papers_in_order():
    crop, flip, jitter, blur, rand_augment, grey = RECIPES["infomin"].ops
    assert crop == RandomResizedCrop(scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)) and flip == HorizontalFlip(0.5)
    assert jitter == ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8)
    assert blur == GaussianBlur(kernel=23, sigma=(0.1, 2.0), p=0.5)
    assert (rand_augment.num_ops, rand_augment.magnitude, rand_augment.magnitude_std) == (2, 10, 0.5)
    assert rand_augment.p_each == 0.5 and rand_augment.fill == (124, 116, 104) and len(rand_augment.ops) == 15
    assert grey == Grayscale(0.2)
    jigsaw = RECIPES["infomin"].patches
    assert jigsaw.crop.scale == (0.6, 1.0) and jigsaw.flip.p == 0.5


def test_the_other_recipes_in_order():
    start = (RandomResizedCrop((0.2, 1.0)), HorizontalFlip(0.5))
    v2 = (*start, ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), Grayscale(0.2), PillowBlur((0.1, 2.0), 0.5))
    assert RECIPES["moco_v2"].ops == v2
    assert RECIPES["moco_v1"].ops == (*start, ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), Grayscale(0.2))
    bank = (RandomResizedCrop((0.08, 1.0)), HorizontalFlip(0.5))
    assert RECIPES["instdis"].ops == (*bank, ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), Grayscale(0.2))
    assert RECIPES["cmc"].ops == (*bank, ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0))
    weak, blur = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), GaussianBlur(23, (0.1, 2.0), p=0.5)
    assert RECIPES["cmc_v2"].ops == (*start, weak, blur, RandAugment(ops=CMC_OPS))
    strong = ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8)
    assert RECIPES["simclr"].ops == (*bank, strong, Grayscale(0.2), blur)
    assert RECIPES["linear"].ops == start
    assert RECIPES["linear_randaugment"].ops == (*start, RandAugment())
    assert RECIPES["center"].ops == (CenterCrop(256 / 224),)
    assert [type(op) for op in RECIPES["infomin_small"].ops] == [type(op) for op in RECIPES["infomin"].ops]


def test_recipes_carry_their_own_name_and_are_values():
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    assert len({hash(recipe) for recipe in RECIPES.values()}) == len(RECIPES)


def test_impossible_recipes_are_refused():
    for ops in ((), (HorizontalFlip(), RandomResizedCrop()), (RandomResizedCrop(), CenterCrop())):
        with pytest.raises(ConfigError, match="one crop, and as the first"):
            Recipe("r", ops)


def op_of(recipe, kind):
    return next(op for op in recipe.ops if isinstance(op, kind))


def test_overrides_reach_the_operations_that_take_them_and_nothing_else():
    assert recipe_of("infomin", dict.fromkeys(OVERRIDES)) == RECIPES["infomin"]
    changed = recipe_of("infomin", {"crop_scale": (0.4, 0.9), "blur_kernel": 7, "blur_sigma": (0.1, 0.6)})
    assert op_of(changed, RandomResizedCrop).scale == (0.4, 0.9)
    assert op_of(changed, GaussianBlur) == GaussianBlur(7, (0.1, 0.6), p=0.5)
    kept = [op for op in RECIPES["infomin"].ops if not isinstance(op, (RandomResizedCrop, GaussianBlur))]
    assert [op for op in changed.ops if not isinstance(op, (RandomResizedCrop, GaussianBlur))] == kept
    # A file for small images sets both for every method: MoCo v2's blur has no kernel.
    blurred = recipe_of("moco_v2", {"blur_sigma": (0.2, 0.3), "blur_kernel": 7})
    assert op_of(blurred, PillowBlur) == PillowBlur((0.2, 0.3))
    assert {key for cls in OPERATIONS.values() for key in cls.overrides} == set(OVERRIDES)


def test_jitter_strength_is_the_paper_s_scale_whatever_the_recipe():
    for name in ("infomin", "moco_v2"):
        jitter = op_of(recipe_of(name, {"jitter_strength": 0.5}), ColorJitter)
        assert jitter == ColorJitter(0.4, 0.4, 0.4, 0.1, p=op_of(RECIPES[name], ColorJitter).p)
    assert recipe_of("infomin", {"jitter_strength": 1.0}) == RECIPES["infomin"]


@each(
    ("recipe", "overrides", "message"),
    [
        ("linear", {"jitter_strength": 1.0}, "views.jitter_strength: recipe linear has no ColorJitter"),
        ("center", {"crop_scale": (0.2, 1.0)}, "views.crop_scale: recipe center has no RandomResizedCrop"),
        ("infomax", {}, "infomin.*or a recipe file.*found 'infomax'; did you mean 'infomin'"),
    ],
)
def test_an_override_that_nothing_takes_and_an_unknown_name_are_refused(recipe, overrides, message):
    with pytest.raises(ConfigError, match=message):
        recipe_of(recipe, overrides)
