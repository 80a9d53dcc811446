"""Recipe files: what is written is what is read, and what is wrong is named with what was meant."""

from __future__ import annotations

import typing

import pytest
import yaml
from pretrain.views.paired_ops import ChannelSplit, FrequencySplit, PatchDistance

from pretrain.base.errors import ConfigError
from pretrain.views.recipe_file import (
    OP_CLASSES,
    load_recipe,
    named_recipe,
    recipe_from_plain,
    recipe_to_plain,
    write_recipe,
)
from pretrain.views.recipes import (
    RECIPES,
    ColorJitter,
    GaussianBlur,
    HorizontalFlip,
    JigsawSpec,
    Op,
    RandAugment,
    RandomResizedCrop,
    Recipe,
)

ODD = Recipe(
    "odd",
    (
        RandomResizedCrop(scale=(0.1 + 0.2, 1.0), ratio=(2 / 3, 3 / 2), shared=True),
        ColorJitter(1e-7, 0.1, 1 / 3, 0.05, p=0.123456789012345),
        RandAugment(num_ops=1, ops=("Invert",), fill=(1, 2, 3)),
        FrequencySplit(2**0.5),
        ChannelSplit("lab", p=0.5, swap=0.0),
    ),
    JigsawSpec(RandomResizedCrop(scale=(0.7, 0.9)), HorizontalFlip(0.25)),
)


@pytest.mark.parametrize("recipe", [*RECIPES.values(), ODD, Recipe("d", (PatchDistance(32, 5),))], ids=lambda r: r.name)
def test_what_is_written_is_what_is_read(tmp_path, recipe):
    write_recipe(tmp_path / "r.yaml", recipe, header="two\nlines: {}")
    assert load_recipe(tmp_path / "r.yaml") == recipe
    assert recipe_from_plain(recipe_to_plain(recipe), where="x") == recipe
    text = (tmp_path / "r.yaml").read_text()
    assert text.startswith("# two\n# lines: {}\nname: ")
    write_recipe(tmp_path / "again.yaml", load_recipe(tmp_path / "r.yaml"), header="two\nlines: {}")
    assert (tmp_path / "again.yaml").read_text() == text


def test_plain_values_survive_json_and_hold_no_tuples():
    import json

    plain = recipe_to_plain(ODD)
    assert json.loads(json.dumps(plain)) == plain == yaml.safe_load(yaml.safe_dump(plain))


def test_every_operation_can_be_written():
    assert set(OP_CLASSES.values()) == set(typing.get_args(Op))


def test_a_short_file_takes_the_classes_defaults(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: short\nops:\n  - {op: RandomResizedCrop}\n  - {op: GaussianBlur, kernel: 7, sigma: [1e-1, 2]}\n"
    )
    assert load_recipe(tmp_path / "r.yaml") == Recipe("short", (RandomResizedCrop(), GaussianBlur(7, (0.1, 2.0))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nme: x\nops: []", "unknown key `nme`; did you mean `name`"),
        ("ops: [{op: CenterCrop}]", "missing key `name`"),
        ("name: x\nops: [{op: RandomResizeCrop}]", r"ops\[0\]: .*did you mean RandomResizedCrop"),
        ("name: x\nops: [{op: RandomResizedCrop, scal: [0.1, 1]}]", r"ops\[0\] \(.*unknown key `scal`; did you mean `scale`"),
        ("name: x\nops: [{op: RandomResizedCrop, scale: 0.1}]", "`scale` expected a list"),
        ("name: x\nops: [{op: RandomResizedCrop, scale: [0.5, 0.1]}]", "0 < low <= high <= 1"),
        ("name: x\nops: [CenterCrop]", "expected `{op: CLASS"),
        ("name: x\nops: [{op: HorizontalFlip}]", "expected one crop, and as the first"),
        ("name: x\nops: [{op: CenterCrop}, {op: HorizontalFlip, p: 1.5}]", r"p in \[0, 1\]"),
        ("name: x\nops: [{op: CenterCrop}]\npatches: {crp: {}}", "did you mean `patches.crop`"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_was_meant(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "r.yaml" in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest_and_with_files():
    with pytest.raises(ConfigError, match=r"recipe file.*found 'infomni'; did you mean 'infomin'"):
        named_recipe("infomni")
