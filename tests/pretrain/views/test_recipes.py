"""The recipes are the specification's, operation by operation (infomin.md 1.6)."""

from __future__ import annotations

import dataclasses

import pytest

from pretrain.base.errors import ConfigError
from pretrain.views.recipes import (
    RECIPES,
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    PillowBlur,
    RandAugment,
    RandomResizedCrop,
    Recipe,
)


def test_infomin_is_the_papers_in_order():
    crop, flip, jitter, blur, rand_augment, grey = RECIPES["infomin"].ops
    assert crop == RandomResizedCrop(scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3)) and flip == HorizontalFlip(0.5)
    assert jitter == ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, p=0.8)
    assert blur == GaussianBlur(kernel=23, sigma=(0.1, 2.0), p=0.5)
    assert (rand_augment.num_ops, rand_augment.magnitude, rand_augment.magnitude_std) == (2, 10, 0.5)
    assert rand_augment.p_each == 0.5 and rand_augment.fill == (124, 116, 104) and len(rand_augment.ops) == 15
    assert grey == Grayscale(0.2)


def test_the_other_recipes_in_order():
    start = (RandomResizedCrop((0.2, 1.0)), HorizontalFlip(0.5))
    v2 = (*start, ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), Grayscale(0.2), PillowBlur((0.1, 2.0), 0.5))
    assert RECIPES["moco_v2"].ops == v2
    assert RECIPES["moco_v1"].ops == (*start, ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), Grayscale(0.2))
    assert RECIPES["linear"].ops == start
    assert RECIPES["linear_randaugment"].ops == (*start, RandAugment())
    assert RECIPES["center"].ops == (CenterCrop(256 / 224),)


def test_recipes_carry_their_own_name_and_are_values():
    assert all(name == recipe.name for name, recipe in RECIPES.items())
    assert len({hash(recipe) for recipe in RECIPES.values()}) == len(RECIPES)
    jigsaw = RECIPES["infomin"].patches
    assert jigsaw.crop.scale == (0.6, 1.0) and jigsaw.flip.p == 0.5


def test_strengths_are_swept_by_replacing():
    blur = dataclasses.replace(RECIPES["infomin"].ops[3], kernel=7)
    assert blur == GaussianBlur(kernel=7, sigma=(0.1, 2.0), p=0.5)


def test_impossible_recipes_are_refused():
    with pytest.raises(ConfigError, match="odd number of taps, found 22"):
        GaussianBlur(kernel=22)
    with pytest.raises(ConfigError, match="one crop, and as the first"):
        Recipe("late", (HorizontalFlip(), RandomResizedCrop()))
    with pytest.raises(ConfigError, match="one crop"):
        Recipe("twice", (RandomResizedCrop(), CenterCrop()))
    with pytest.raises(ConfigError, match="found.*Rotat'"):
        RandAugment(ops=("Rotat",))
