"""Pictures show the figures of every game, and what the generator does to images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from pretrain.good_views.view_learning import pictures
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved."""
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "save_figure", lambda path, figure: figures.append(figure))
    return figures


def test_a_history_is_drawn_point_by_point_with_a_cross_where_a_diverged_game_was_left(drawn: list[Figure]) -> None:
    games = [outcome(0, std_1=1.0, cross_entropy_1=2.0, cross_entropy_2=2.1), outcome(1, "at step 7: planted")]
    draw_history(Path("history.png"), games)
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0].axes}
    assert {title.split(",")[0] for title in panels} == {
        "information between the views", "cross-entropy", "deviation of the learned channels",
    }  # fmt: skip
    information = panels["information between the views, nats"].get_lines()
    first, second, cross = (line.get_xydata().tolist() for line in information)
    assert first == second == [[step, pytest.approx(0.1 * step)] for step in range(1, 8)]
    assert cross == [[3, pytest.approx(0.3)]] and information[2].get_marker() == "x"
    assert [len(axes.get_lines()) for axes in panels.values()] == [3, 2, 1]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels == ["seed 0", "seed 1 (diverged, kept step 3)"]


def test_a_game_that_diverged_at_once_has_a_picture_without_a_curve(drawn: list[Figure]) -> None:
    draw_history(Path("history.png"), [Outcome(generator(), 0, 0, 0, "planted", (0, 0, 0), (1, 1, 1), 0.0, [])])
    assert drawn[0].axes == []


def test_channels_become_a_picture_of_a_row_an_image(tmp_path: Path) -> None:
    images = torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    draw_channels(tmp_path / "a.png", generator(), images, mean=(0.0, 0.0, 0.0))
    draw_channels(tmp_path / "b.png", generator(), images[:1], mean=(0.0, 0.0, 0.0))
    with Image.open(tmp_path / "a.png") as two, Image.open(tmp_path / "b.png") as one:
        assert two.width == one.width and two.height > 1.5 * one.height
        assert len(np.unique(np.asarray(two))) > 20


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
