"""A figure is saved whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from pretrain.base.plot_style import plot_style, save_figure


def test_a_figure_that_cannot_be_drawn_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with plot_style():
        save_figure(path, Figure(figsize=(2, 1)), dpi=50)
    with Image.open(path) as picture:
        assert picture.size == (100, 50)
    before = path.read_bytes()
    broken = Figure()
    broken.add_subplot().set_title(r"$\nothing$")  # no formula that Matplotlib knows
    with pytest.raises(ValueError, match="nothing"):
        save_figure(path, broken)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
