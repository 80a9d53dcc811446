"""The sweep's pictures: what is drawn where, in which colour and marker, for every kind of family."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from PIL import Image

from pretrain.views.families import FAMILIES, show_setting
from tests.transfer.compare.test_sweep_figures import row
from tests.transfer.sweep_bench import SweepBench
from transfer.compare import sweep_plots
from transfer.compare.sweep_plots import ACCURACY, BEST, INFORMATION, draw_curve, draw_views


@pytest.fixture
def figures(monkeypatch):
    """The figures that would be saved."""
    found = []
    monkeypatch.setattr(sweep_plots, "save_figure", lambda path, figure, dpi: found.append(figure))
    return found


def points(axis: Axes, colour: str) -> list[tuple[float, float, str]]:
    """(x, y, face) of the single markers of one edge colour."""
    lines = [line for line in axis.lines if len(line.get_xdata()) == 1 and to_hex(line.get_color()) == colour]
    return [(*map(float, line.get_xydata()[0]), str(line.get_markerfacecolor())) for line in lines]


@pytest.mark.parametrize(
    ("family", "settings", "scale", "joined"),
    [
        ("crop", (0.02, 0.2, 0.9), "log", True),
        ("jitter", (0.0, 0.5, 2.0), "linear", True),
        ("colour", ("rgb", "lab", "hsv"), "linear", False),
        ("stacking", ("crop", "+flip", "+jitter"), "linear", True),
    ],
)
def test_settings_stand_in_their_order_and_are_joined_only_where_they_have_neighbours(
    tmp_path, figures, family, settings, scale, joined
):
    rows = [row(s, nats=(1.0 + i, 1.2 + i), accuracy=(40.0 + i, 41.0 + i)) for i, s in enumerate(settings)]
    draw_curve(tmp_path / "x.png", rows, FAMILIES[family], accuracy_name="top-1", best=settings[1])
    against, along, accuracy = figures[0].axes
    assert all(axis.get_title(loc="left").endswith(", n = 2") for axis in (against, along))
    assert [label.get_text() for label in along.get_xticklabels()] == [show_setting(setting) for setting in settings]
    assert along.get_xscale() == scale
    assert [y for _, y, _ in points(along, INFORMATION)] == pytest.approx([1.1, 2.1, 3.1])
    placed = [place for x, y, _ in points(against, ACCURACY) for place in (x, y)]
    assert placed == pytest.approx([1.1, 40.5, 2.1, 41.5, 3.1, 42.5])
    styles = {container.lines[0].get_linestyle() for axis in (along, accuracy) for container in axis.containers}
    assert styles == ({"-"} if joined else {"None"})


def test_the_best_is_ringed_and_a_saturated_estimate_is_hollow(tmp_path, figures):
    rows = [row(s, nats=(n,), saturated=s == 0.9) for s, n in ((0.02, 1.0), (0.2, 2.0), (0.9, 4.4))]
    draw_curve(tmp_path / "x.png", rows, FAMILIES["crop"], accuracy_name="top-1", best=0.2)
    against, along, _ = figures[0].axes
    assert [x for x, _, _ in points(against, BEST)] == [2.0]
    for axis, colour in ((against, ACCURACY), (along, INFORMATION)):
        assert [face == "white" for _, _, face in points(axis, colour)] == [False, False, True]


def test_without_accuracy_there_is_one_panel_with_the_information(tmp_path, figures):
    rows = [row(s, accuracy=None) for s in (0.02, 0.2)]
    draw_curve(tmp_path / "x.png", rows, FAMILIES["crop"], accuracy_name="none", best=None)
    (axis,) = figures[0].axes
    assert [y for _, y, _ in points(axis, INFORMATION)] == [1.0, 1.0]


def test_the_sheet_has_a_row_a_setting_with_that_setting_s_views(tmp_path):
    bench = SweepBench(tmp_path)
    images = sorted((bench.data / "val" / "a").glob("*.png"))[:2]
    sheets = {}
    for key, settings in (("two", ["0.05", "0.9"]), ("three", ["0.05", "0.2", "0.9"])):
        draw_views(tmp_path / f"{key}.png", bench.config(settings=settings), images)
        sheets[key] = np.asarray(Image.open(tmp_path / f"{key}.png").convert("RGB"))
    height = sheets["three"].shape[0] - sheets["two"].shape[0]
    assert height > 90
    np.testing.assert_array_equal(sheets["two"][: 2 * height], sheets["three"][: 2 * height])  # originals, then 0.05
    assert not np.array_equal(sheets["two"][2 * height :], sheets["three"][2 * height : -height])
    np.testing.assert_array_equal(sheets["two"][2 * height :], sheets["three"][3 * height :])
