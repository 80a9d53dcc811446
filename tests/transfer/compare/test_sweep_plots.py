"""The sweep's pictures: each is drawn for every kind of family, and shows what it is given."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.transfer.test_sweep_figures import row

from pretrain.views.families import FAMILIES
from tests.transfer.sweep_bench import SweepBench
from transfer.compare.sweep_plots import draw_curve, draw_views


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("crop", (0.02, 0.2, 0.9)),
        ("jitter", (0.0, 0.5, 2.0)),
        ("colour", ("rgb", "lab", "hsv")),
        ("stacking", ("crop", "+flip", "+jitter")),
        ("distance", (64.0, 128.0, 384.0)),
    ],
)
def test_every_kind_of_family_is_drawn(tmp_path, family, settings):
    rows = [row(s, nats=(1.0 + i, 1.2 + i), accuracy=(40.0 + i, 41.0)) for i, s in enumerate(settings)]
    draw_curve(tmp_path / "two.png", rows, FAMILIES[family], accuracy_name="top-1", best=settings[1])
    draw_curve(tmp_path / "one.png", rows, FAMILIES[family], accuracy_name="none", best=None)
    two, one = pixels(tmp_path / "two.png"), pixels(tmp_path / "one.png")
    assert two.shape[1] > 1.5 * one.shape[1] and two.std() > 5 and one.std() > 5


def test_a_saturated_estimate_and_the_best_look_different(tmp_path):
    pictures = []
    for name, saturated, best in (("a", False, 0.2), ("b", True, 0.2), ("c", False, 0.9)):
        rows = [row(s, nats=(n,), saturated=saturated and s == 0.9) for s, n in ((0.02, 1.0), (0.2, 2.0), (0.9, 4.4))]
        draw_curve(tmp_path / f"{name}.png", rows, FAMILIES["crop"], accuracy_name="top-1", best=best)
        pictures.append(pixels(tmp_path / f"{name}.png"))
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def test_the_sheet_has_a_row_a_setting_with_that_setting_s_views(tmp_path):
    bench = SweepBench(tmp_path)
    images = sorted((bench.data / "val" / "a").glob("*.png"))[:2]
    sheets = {}
    for key, settings in (("two", ["0.05", "0.9"]), ("three", ["0.05", "0.2", "0.9"])):
        draw_views(tmp_path / f"{key}.png", bench.config(settings=settings), images)
        sheets[key] = pixels(tmp_path / f"{key}.png")
    height = sheets["three"].shape[0] - sheets["two"].shape[0]
    assert height > 90
    np.testing.assert_array_equal(sheets["two"][: 2 * height], sheets["three"][: 2 * height])  # originals, then 0.05
    assert not np.array_equal(sheets["two"][2 * height :], sheets["three"][2 * height : -height])
    np.testing.assert_array_equal(sheets["two"][2 * height :], sheets["three"][3 * height :])
