"""Pictures are whole PNGs of the right grid, show what the generator does, and are drawn for diverged games too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.good_views.view_learning.loop import Outcome
from pretrain.good_views.view_learning.pictures import _alone, _grey, draw_channels, draw_history
from pretrain.views.generator import Generator, GeneratorConfig


def generator(space: str = "ydbdr") -> Generator:
    torch.manual_seed(0)
    made = Generator(GeneratorConfig(space=space, hidden_width=4))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def outcome(seed: int, diverged: str | None = None, **figures: float) -> Outcome:
    history = [{"step": float(step), "epoch": step / 5, "information": 0.1 * step, **figures} for step in range(1, 8)]
    return Outcome(generator(), seed, 7, 3 if diverged else 7, diverged, (0, 0, 0), (1, 1, 1), 0.0, history)


@pytest.mark.parametrize(
    "outcomes",
    [
        [outcome(0, std_1=1.0, cross_entropy_1=2.0, cross_entropy_2=2.1)],
        [outcome(0), outcome(1, "at step 7: planted")],
        [Outcome(generator(), 0, 0, 0, "at step 0: planted", (0, 0, 0), (1, 1, 1), 0.0, [])],
    ],
)
def test_histories_become_a_picture(tmp_path: Path, outcomes: list[Outcome]) -> None:
    draw_history(tmp_path / "history.png", outcomes)
    with Image.open(tmp_path / "history.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["history.png"]


def test_channels_become_a_picture_of_a_row_an_image(tmp_path: Path) -> None:
    images = torch.randint(256, (3, 3, 12, 12), dtype=torch.uint8)
    draw_channels(tmp_path / "a.png", generator(), images, mean=(0.0, 0.0, 0.0))
    draw_channels(tmp_path / "b.png", generator(), images[:1], mean=(0.0, 0.0, 0.0))
    with Image.open(tmp_path / "a.png") as three, Image.open(tmp_path / "b.png") as one:
        assert three.width == one.width and three.height > 2 * one.height
        assert len(np.unique(np.asarray(three))) > 20


def test_a_view_mapped_back_depends_on_its_own_channels_only() -> None:
    made, learned = generator(), torch.randn(1, 3, 6, 6)
    other = learned.clone()
    other[:, 1:] += 1
    with torch.no_grad():
        assert torch.equal(_alone(made, learned, (0,), (0, 0, 0)), _alone(made, other, (0,), (0, 0, 0)))
        assert not torch.equal(_alone(made, learned, (1, 2), (0, 0, 0)), _alone(made, other, (1, 2), (0, 0, 0)))


def test_grey_pictures_fill_the_range_and_constant_channels_do_not_fail() -> None:
    channels = torch.stack([torch.linspace(-5, 5, 100).view(10, 10), torch.zeros(10, 10), torch.ones(10, 10)])[None]
    ramp, *constant = _grey(channels)
    assert ramp[0].min() == 0 and ramp[0].max() == 1
    assert all(np.isfinite(column[0]).all() for column in constant)
