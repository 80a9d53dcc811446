"""Recipe files: what is written is what is read, learned generators beside them, and what is wrong is named."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pretrain.base.errors import ConfigError, UserError
from pretrain.views.generator import Generator, GeneratorConfig
from pretrain.views.generator_file import EMBEDDED, record_of, write_generator
from pretrain.views.jigsaw import JigsawSpec
from pretrain.views.operations import ColorJitter, GaussianBlur, HorizontalFlip, RandAugment, RandomResizedCrop
from pretrain.views.paired import ChannelSplit, FrequencySplit, PatchDistance
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipe_file import (
    copy_generators,
    load_recipe,
    located,
    portable,
    recipe_from_plain,
    recipe_to_plain,
    write_recipe,
)
from pretrain.views.recipes import RECIPES, Recipe
from tests.cases import each

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


@each("recipe", [*RECIPES.values(), ODD, Recipe("d", (PatchDistance(32, 5),))])
def test_what_is_written_is_what_is_read(tmp_path, recipe):
    write_recipe(tmp_path / "r.yaml", recipe, header="two\nlines: {}")
    assert load_recipe(tmp_path / "r.yaml") == recipe
    plain = recipe_to_plain(recipe)
    assert recipe_from_plain(plain, where="x") == recipe
    assert json.loads(json.dumps(plain)) == plain == yaml.safe_load(yaml.safe_dump(plain))
    text = (tmp_path / "r.yaml").read_text()
    assert text.startswith("# two\n# lines: {}\nname: ")
    write_recipe(tmp_path / "again.yaml", load_recipe(tmp_path / "r.yaml"), header="two\nlines: {}")
    assert (tmp_path / "again.yaml").read_text() == text


def test_a_short_file_takes_the_classes_defaults(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: short\nops:\n  - {op: RandomResizedCrop}\n  - {op: GaussianBlur, kernel: 7, sigma: [1e-1, 2]}\n"
    )
    assert load_recipe(tmp_path / "r.yaml") == Recipe("short", (RandomResizedCrop(), GaussianBlur(7, (0.1, 2.0))))


@each(
    ("text", "message"),
    [
        ("nme: x\nops: []", "unknown key `nme`; did you mean `name`"),
        ("ops: [{op: CenterCrop}]", "missing key `name`"),
        ("name: x\nops: 5", "`ops` expected a list"),
        ("name: x\nops: [{op: RandomResizeCrop}]", r"ops\[0\]: .*did you mean RandomResizedCrop"),
        (
            "name: x\nops: [{op: RandomResizedCrop, scal: [0.1, 1]}]",
            r"ops\[0\] \(.*unknown key `scal`; did you mean `scale`",
        ),
        ("name: x\nops: [{op: RandomResizedCrop, scale: 0.1}]", "`scale` expected a list"),
        ("name: x\nops: [{op: RandomResizedCrop, scale: [0.5, 0.1]}]", "0 < low <= high <= 1"),
        ("name: x\nops: [CenterCrop]", "expected `{op: CLASS"),
        ("name: x\nops: [{op: HorizontalFlip}]", "expected one crop, and as the first"),
        ("name: x\nops: [{op: CenterCrop}, {op: HorizontalFlip, p: 1.5}]", r"p in \[0, 1\]"),
        ("name: x\nops: [{op: CenterCrop}]\npatches: {crp: {}}", "did you mean `patches.crop`"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "r.yaml" in str(caught.value)


# --- learned generators -----------------------------------------------------------------------------------------------


def written_generator(path: Path, seed: int = 0) -> str:
    """A generator that is far from its colour space; returns its sha256."""
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(hidden_width=4, space="lab", num_blocks=2))
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    write_generator(
        path,
        generator,
        record_of(generator, mode="unsupervised", seed=seed, mean=(0, 0, 0), std=(1, 1, 1), training={}),
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """A recipe file as tools/learn_views.py writes it, and its generator."""
    folder = tmp_path / "learned"
    sha256 = written_generator(folder / "generator.safetensors")
    split = ChannelSplit("lab", generator=str(folder / "generator.safetensors"), sha256=sha256)
    write_recipe(folder / "recipe.yaml", Recipe("learned", (RandomResizedCrop(), split)))
    return folder / "recipe.yaml"


def made(recipe: Recipe) -> torch.Tensor:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return ViewMaker(recipe, image_size=16)(image, seed=0, epoch=0, index=0).images


def test_a_recipe_names_its_generator_by_file_and_hash_and_both_can_be_moved(learned, tmp_path):
    split = yaml.safe_load(learned.read_text())["ops"][1]
    assert split["generator"] == "generator.safetensors" and len(split["sha256"]) == 64
    assert learned.stat().st_size < 1000
    before = made(load_recipe(learned))
    assert not torch.equal(before, made(Recipe("lab", (RandomResizedCrop(), ChannelSplit("lab")))))  # control
    moved = learned.parent.rename(tmp_path / "elsewhere")
    assert torch.equal(made(load_recipe(moved / "recipe.yaml")), before)


def test_another_recipe_written_elsewhere_takes_the_generator_along(learned, tmp_path):
    recipe = load_recipe(learned)
    (tmp_path / "other").mkdir()
    write_recipe(tmp_path / "other" / "r.yaml", recipe)
    before = made(recipe)
    for file in learned.parent.iterdir():
        file.unlink()
    assert torch.equal(made(load_recipe(tmp_path / "other" / "r.yaml")), before)


def test_two_generators_of_one_recipe_have_two_names(learned, tmp_path):
    other = written_generator(tmp_path / "second.safetensors", seed=1)
    crop, split = load_recipe(learned).ops
    second = ChannelSplit("lab", generator=str(tmp_path / "second.safetensors"), sha256=other)
    recipe = Recipe("two", (crop, split, second))
    (tmp_path / "two").mkdir()
    write_recipe(tmp_path / "two" / "r.yaml", recipe)
    assert {file.name for file in (tmp_path / "two").iterdir()} == {
        "r.yaml", "generator.safetensors", "generator_2.safetensors",
    }  # fmt: skip
    assert torch.equal(made(load_recipe(tmp_path / "two" / "r.yaml")), made(recipe))


def test_a_generator_that_changed_or_is_missing_is_refused_with_both_hashes(learned):
    recipe = load_recipe(learned)
    generator = learned.parent / "generator.safetensors"
    expected = recipe.ops[1].sha256
    found = written_generator(generator, seed=1)
    message = f"(?s)generator.safetensors.*expected sha256 {expected}, found {found}"
    with pytest.raises(ConfigError, match=message):
        load_recipe(learned)
    with pytest.raises(ConfigError, match=message):  # changed since the recipe was read
        copy_generators(recipe_to_plain(recipe), learned.parent.parent)
    with pytest.raises(ConfigError, match=message):  # another generator where this one should go
        copy_generators(recipe_to_plain(recipe), learned.parent)
    assert not list(learned.parent.parent.glob("*.safetensors"))
    generator.unlink()
    with pytest.raises(ConfigError, match=r"expected a file at .*generator\.safetensors, found none"):
        load_recipe(learned)


def test_a_recipe_without_a_hash_takes_that_of_the_file_and_a_generator_of_another_space_is_refused(tmp_path):
    sha256 = written_generator(tmp_path / "g.safetensors")
    text = "name: mine\nops:\n  - {op: RandomResizedCrop}\n  - {op: ChannelSplit, space: SPACE, generator: g.safetensors}\n"
    (tmp_path / "r.yaml").write_text(text.replace("SPACE", "lab"))
    assert load_recipe(tmp_path / "r.yaml").ops[1].sha256 == sha256
    (tmp_path / "r.yaml").write_text(text.replace("SPACE", "rgb"))
    with pytest.raises(ConfigError, match="the generator starts from lab, found space: rgb"):
        ViewMaker(load_recipe(tmp_path / "r.yaml"), image_size=16)


def test_weights_written_into_a_first_version_s_recipe_still_work_and_are_not_written_or_shown_again(learned, tmp_path):
    weights = EMBEDDED + base64.b64encode((learned.parent / "generator.safetensors").read_bytes()).decode()
    plain = yaml.safe_load(learned.read_text())
    plain["ops"][1] = {"op": "ChannelSplit", "space": "lab", "p": 1.0, "swap": 0.5, "generator": weights}
    values = located(plain, tmp_path)
    assert torch.equal(made(recipe_from_plain(values, where="old")), made(load_recipe(learned)))
    copy_generators(values, tmp_path)
    again = portable(values)
    assert again["ops"][1] == yaml.safe_load(learned.read_text())["ops"][1]
    assert recipe_from_plain(located(again, tmp_path), where="new").ops[1].sha256 == values["ops"][1]["sha256"]
    wrong = [
        {**plain["ops"][1], "op": "ChanelSplit"},
        {**plain["ops"][1], "spce": "lab"},
        {key: value for key, value in plain["ops"][1].items() if key != "op"},
        {**plain["ops"][1], "generator": weights[:-400]},
        {**plain["ops"][1], "sha256": "0" * 64},
        {**plain["ops"][1], "space": "rgb"},
    ]
    for entry in wrong:
        with pytest.raises(UserError) as caught:
            ViewMaker(
                recipe_from_plain(located({**plain, "ops": [plain["ops"][0], entry]}, tmp_path), where="old"),
                image_size=16,
            )
        assert len(str(caught.value)) < 600, entry["op"]
