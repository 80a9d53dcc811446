"""The samples sheet shows the pairs themselves, each in its column."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pretrain.good_views.moving_mnist.config import SceneConfig
from pretrain.good_views.moving_mnist.factors import SHARINGS
from pretrain.good_views.moving_mnist.pairs import PairMaker
from pretrain.good_views.moving_mnist.sheet import BREAK, CAPTION_LINES, CELL, GAP, LINE, MAX_FRAMES, draw_samples


def cell(sheet, row, column, *, num_frames_shown):
    left = GAP + column * (CELL + GAP) + (BREAK if column >= num_frames_shown else 0)
    top = GAP + CAPTION_LINES * LINE + row * (CELL + GAP)
    return sheet[top : top + CELL, left : left + CELL]


def enlarged(view):
    picture = Image.fromarray(np.ascontiguousarray(view.numpy().transpose(1, 2, 0)))
    return np.asarray(picture.resize((CELL, CELL), Image.Resampling.NEAREST))


@pytest.mark.parametrize(("num_frames", "shown"), [(3, [0, 1, 2]), (10, [0, 2, 4, 7, 9])])
def test_every_cell_shows_its_frame_or_second_view(worlds, num_frames, shown):
    maker = PairMaker(worlds.held_out, SceneConfig(num_frames=num_frames, background_size=72), 7)
    sheet = draw_samples(maker, num_pairs=2)
    assert len(shown) <= MAX_FRAMES
    for number, sharing in enumerate(SHARINGS):
        batch = maker(sharing, split="held_out", start=0, count=2)
        for row in range(2):
            place = cell(sheet, row, len(shown) + number, num_frames_shown=len(shown))
            assert np.array_equal(place, enlarged(batch.view_2[row]))
            for column, frame in enumerate(shown):
                place = cell(sheet, row, column, num_frames_shown=len(shown))
                assert np.array_equal(place, enlarged(batch.view_1[row, frame]))


def test_captions_are_written_above_every_column(worlds, scene):
    sheet = draw_samples(PairMaker(worlds.held_out, scene), num_pairs=1)
    caption = sheet[: GAP + CAPTION_LINES * LINE]
    for column in range(scene.num_frames + len(SHARINGS)):
        left = GAP + column * (CELL + GAP) + (BREAK if column >= scene.num_frames else 0)
        assert (caption[-2 * LINE :, left : left + CELL] < 150).any(), f"no caption above column {column}"
