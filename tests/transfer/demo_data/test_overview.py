"""The contact sheet."""

from __future__ import annotations

import numpy as np

from transfer.demo_data.config import CLASS_NAMES, SyntheticConfig
from transfer.demo_data.overview import draw_overview
from transfer.demo_data.scenes import render_object_image, render_scene


def test_sheet_has_a_row_of_every_class_and_scenes_beside_their_marked_copy() -> None:
    config = SyntheticConfig()
    sheet = draw_overview(config, columns=4, num_scenes=1)
    for row, name in enumerate(CLASS_NAMES):
        image, class_index = render_object_image(config, 0, row + 8 * 3)
        assert CLASS_NAMES[class_index] == name
        np.testing.assert_array_equal(sheet[row * 96 : (row + 1) * 96, 3 * 96 : 4 * 96], image)
    image, objects = render_scene(config, 0, 0)
    plain, marked = sheet[8 * 96 :, :192], sheet[8 * 96 :, 192:]
    np.testing.assert_array_equal(plain, image)
    changed = (plain != marked).any(2)
    assert all(changed[thing.mask].mean() > 0.95 for thing in objects)
