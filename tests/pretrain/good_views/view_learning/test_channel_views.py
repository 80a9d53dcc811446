"""A colour space or a generator by one name, and everything else refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.good_views.view_learning.evaluation import load_views
from pretrain.views.colour import colour_space
from pretrain.views.generator import Generator, GeneratorConfig
from pretrain.views.generator_file import record_of, write_generator


def test_a_colour_space_is_its_normalised_channels() -> None:
    rgb, space = torch.rand(2, 3, 4, 4), colour_space("lab")
    views = load_views("LAB")
    assert views.name == "lab" and views.about["channels"] == ["L", "a", "b"]
    assert torch.equal(views.to_channels(rgb), space.normalize(space.to_space(rgb)))


def test_a_generator_is_its_learned_channels_with_its_origin(tmp_path: Path) -> None:
    generator = Generator(GeneratorConfig(hidden_width=4))
    torch.nn.init.normal_(generator.blocks[0].first.layers[2].weight)
    record = record_of(generator, mode="unsupervised", seed=5, mean=(0, 0, 0), std=(1, 1, 1), training={"steps": 2})
    path = tmp_path / "generator.safetensors"
    write_generator(path, generator, record)
    views, rgb = load_views(str(path)), torch.rand(2, 3, 4, 4)
    assert torch.equal(views.to_channels(rgb), generator.from_rgb(rgb).detach())
    assert (views.about["seed"], views.about["mode"], views.about["training"]) == (5, "unsupervised", {"steps": 2})


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"path of a generator.*colour space.*did you mean 'ydbdr'"):
        load_views("ydrdb")
    with pytest.raises(CheckpointError, match="No such file"):
        load_views(str(tmp_path / "absent.safetensors"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="not a readable generator"):
        load_views(str(tmp_path / "notes.txt"))
