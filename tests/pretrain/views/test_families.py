"""Families: a setting changes what it says and nothing else, in the stated direction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pretrain.base.errors import ConfigError
from pretrain.views.families import FAMILIES, STACK, family_named, show_setting
from pretrain.views.operations import ColorJitter, Frame, GaussianBlur, HorizontalFlip, PillowBlur, RandomResizedCrop
from pretrain.views.paired import ChannelSplit, FrequencySplit, PatchDistance
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipes import RECIPES, Recipe
from pretrain.views.rng import sample_generator
from tests.cases import each

BASE = RECIPES["infomin"]


def at(family, setting, base=BASE, size=64):
    return FAMILIES[family].recipe(base, setting, image_size=size)


def changed_ops(recipe, base=BASE):
    return [(old, new) for old, new in zip(base.ops, recipe.ops, strict=True) if old != new]


@each(
    ("family", "setting", "kind", "field", "value"),
    [
        ("crop", 0.4, RandomResizedCrop, "scale", (0.4, 1.0)),
        ("jitter", 0.5, ColorJitter, "hue", 0.1),
        ("jitter", 2.0, ColorJitter, "brightness", 1.6),
        ("blur", 4.0, GaussianBlur, "sigma", (0.1, 4.0)),
    ],
)
def test_a_strength_changes_one_operation(family, setting, kind, field, value):
    ((old, new),) = changed_ops(at(family, setting))
    assert type(old) is type(new) is kind and getattr(new, field) == pytest.approx(value)
    untouched = {"crop": ("ratio", "shared"), "jitter": ("p",), "blur": ("kernel", "p")}[family]
    assert all(getattr(old, name) == getattr(new, name) for name in untouched)


def test_the_blur_family_changes_whichever_blur_the_base_has():
    ((old, new),) = changed_ops(at("blur", 0.05, base=RECIPES["moco_v2"]), base=RECIPES["moco_v2"])
    assert type(old) is PillowBlur and new == dataclasses.replace(old, radius=(0.05, 0.05))


def test_the_papers_sweet_spots_are_the_infomin_recipe():
    assert at("crop", FAMILIES["crop"].sweet_spot).ops == BASE.ops
    assert at("jitter", FAMILIES["jitter"].sweet_spot).ops == BASE.ops
    assert at("stacking", FAMILIES["stacking"].sweet_spot).ops == BASE.ops


def test_splits_keep_crop_and_flip_and_nothing_photometric():
    """Both frequencies come from one crop; the two parts of the channels, as in the paper, from two."""
    assert at("frequency", 0.7).ops == (
        RandomResizedCrop(shared=True),
        HorizontalFlip(shared=True),
        FrequencySplit(0.7),
    )
    assert at("colour", "lab").ops == (RandomResizedCrop(), HorizontalFlip(), ChannelSplit("lab"))


def test_distance_takes_the_crop_s_place_with_patches_of_the_view_s_size():
    assert at("distance", 96.0, size=48).ops == (PatchDistance(48, 96),)
    assert at("distance", 384.0).smallest_side == 448
    assert at("crop", 0.2).smallest_side == 1


def test_stacking_adds_one_augmentation_at_a_time():
    sizes = [len(at("stacking", name).ops) for name in STACK]
    assert sizes == [1, 2, 3, 4, 5, 6]
    for less, more in zip(list(STACK)[:-1], list(STACK)[1:], strict=True):
        assert set(at("stacking", less).ops) < set(at("stacking", more).ops)
    with pytest.raises(ConfigError, match="moco_v2 has no RandAugment"):
        at("stacking", "+randaugment", base=RECIPES["moco_v2"])


@each("family", FAMILIES.values())
def test_every_default_setting_gives_views_and_reads_back_as_typed(family):
    image = np.random.default_rng(0).integers(0, 256, (520, 520, 3), dtype=np.uint8)
    names = set()
    for setting in family.settings:
        recipe = family.recipe(BASE, setting, image_size=32)
        names.add(recipe.name)
        made = ViewMaker(recipe, image_size=32)(image, seed=0, epoch=0, index=0).images
        assert made.shape == (2, 3, 32, 32)
        assert family.parse(show_setting(setting)) == setting
    assert len(names) == len(family.settings)
    assert family.sweet_spot is None or family.sweet_spot in family.settings


def overlap(recipe):
    """Mean share of the smaller crop that lies in the other, over many images of 100 x 100."""
    shares = []
    for index in range(300):
        boxes = [
            recipe.ops[0].draw(sample_generator(seed=0, epoch=0, index=index, view=view), Frame(100, 100, 8))
            for view in (0, 1)
        ]
        height = min(b.top + b.height for b in boxes) - max(b.top for b in boxes)
        width = min(b.left + b.width for b in boxes) - max(b.left for b in boxes)
        shares.append(max(0, height) * max(0, width) / min(b.height * b.width for b in boxes))
    return float(np.mean(shares))


def difference(recipe, size=32):
    """Mean absolute difference between the two views of textured images that are cropped alike."""
    ops = tuple(dataclasses.replace(op, shared=True) if op.is_crop else op for op in recipe.ops)
    make = ViewMaker(Recipe("x", ops), image_size=size)
    rng = np.random.default_rng(0)
    total = 0.0
    for index in range(30):
        image = np.kron(rng.integers(40, 216, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        first, second = make(image, seed=0, epoch=0, index=index).images.float()
        total += float((first - second).abs().mean())
    return total / 30


def test_which_end_shares_more_is_what_the_pixels_say():
    crops = [overlap(at("crop", c)) for c in FAMILIES["crop"].settings]
    assert crops == sorted(crops) and FAMILIES["crop"].shares_more == "high"
    only_jitter = Recipe("j", (RandomResizedCrop(), ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8)))
    jitters = [difference(at("jitter", x, base=only_jitter)) for x in FAMILIES["jitter"].settings]
    assert jitters == sorted(jitters) and FAMILIES["jitter"].shares_more == "low"


@each(
    ("family", "text", "message"),
    [
        ("crop", "0", r"from 0.005 to 1 of the image, found '0'"),
        ("crop", "1.2", "found '1.2'"),
        ("jitter", "3", "from 0 to 2.5"),
        ("frequency", "nan", "found 'nan'"),
        ("distance", "far", "found 'far'"),
        ("colour", "ydbd", "did you mean ydbdr"),
        ("stacking", "+jiter", r"did you mean \+jitter"),
    ],
)
def test_settings_outside_the_range_are_refused(family, text, message):
    with pytest.raises(ConfigError, match=message):
        FAMILIES[family].parse(text)


def test_an_unknown_family_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="found 'jiter'; did you mean jitter"):
        family_named("jiter")


def test_a_base_that_lacks_the_operation_is_refused():
    with pytest.raises(ConfigError, match="linear has no ColorJitter; pass views.recipe=infomin"):
        at("jitter", 1.0, base=RECIPES["linear"])
