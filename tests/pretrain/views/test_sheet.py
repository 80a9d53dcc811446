"""The sheet shows the very pixels that the network gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.views.pipeline import SampleViews, ViewMaker
from pretrain.views.recipes import RECIPES
from pretrain.views.sheet import (
    CAPTION_HEIGHT,
    CELL,
    GAP,
    PATCH_GAP,
    STRIP_CAPTION,
    STRIP_CELL,
    draw_sheet,
    draw_strips,
    save_png,
)


def picture():
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def samples_of(size, patch_size=16):
    make = ViewMaker(RECIPES["infomin"], image_size=size, patch_size=patch_size)
    return [make(picture(), seed=0, epoch=0, index=index) for index in range(2)]


def corner(row, column):
    return CAPTION_HEIGHT + row * (CELL + GAP), GAP + column * (CELL + GAP)


@pytest.mark.parametrize("size", [CELL, CELL // 4])
def test_views_stand_in_their_columns_pixel_for_pixel(size):
    samples = samples_of(size)
    sheet = draw_sheet([picture()] * 2, samples)
    assert sheet.shape == (CAPTION_HEIGHT + 2 * (CELL + GAP), GAP + 4 * (CELL + GAP), 3) and sheet.dtype == np.uint8
    for row, sample in enumerate(samples):
        for view in range(2):
            top, left = corner(row, 1 + view)
            shown = sheet[top : top + CELL, left : left + CELL]
            scale = CELL // size
            np.testing.assert_array_equal(
                shown[scale // 2 :: scale, scale // 2 :: scale], sample.images[view].permute(1, 2, 0).numpy()
            )


def test_what_the_towers_see_stands_beside_each_view():
    """Y, Db and Dr of plain colours by BT.601 and SECAM: Y of 0..1 and the differences of -1.333..1.333 are drawn as 0..255."""
    colours = torch.tensor([[255, 0, 0], [0, 0, 255]], dtype=torch.uint8)
    sample = SampleViews(colours.view(2, 3, 1, 1).expand(2, 3, 32, 32), None, None)
    sheet = draw_sheet([picture()], [sample], towers=("Y", "DbDr"))
    assert sheet.shape[1] == GAP + 9 * (CELL + GAP)
    y = np.array([0.299, 0.114])
    wanted = {
        "Y": y,
        "Db": (1.333 * (np.array([0, 1]) - y) / (1 - 0.114) + 1.333) / 2.666,
        "Dr": (-1.333 * (np.array([1, 0]) - y) / (1 - 0.299) + 1.333) / 2.666,
    }
    for view, colour in enumerate(colours.tolist()):
        top, left = corner(0, 1 + 4 * view)
        assert sheet[top + 9, left + 9].tolist() == colour
        for number, name in enumerate(wanted, start=1):
            left = corner(0, 1 + 4 * view + number)[1]
            shown = sheet[top : top + CELL, left : left + CELL]
            assert (shown == round(255 * wanted[name][view])).all(), (view, name)


def test_columns_follow_what_the_samples_hold():
    widths = [
        draw_sheet([picture()], samples_of(32, patch_size)[:1], permuted=permuted).shape[1]
        for patch_size, permuted in ((None, False), (16, False), (16, True))
    ]
    assert widths == [GAP + columns * (CELL + GAP) for columns in (3, 4, 5)]


def test_permuted_column_shows_the_patches_in_the_heads_order():
    colours = torch.arange(10, 100, 10, dtype=torch.uint8)
    order = torch.tensor([3, 1, 4, 0, 5, 8, 2, 6, 7])
    patches = colours.view(9, 1, 1, 1).expand(9, 3, 16, 16)
    sample = SampleViews(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), patches, order)
    sheet = draw_sheet([picture()], [sample], permuted=True)
    middles = [CELL // 6, CELL // 2, CELL - CELL // 6]
    for column, expected in ((3, colours), (4, colours[order])):
        top, left = corner(0, column)
        shown = [int(sheet[top + y, left + x, 0]) for y in middles for x in middles]
        assert shown == expected.tolist()


def test_png_round_trip_leaves_one_file(tmp_path):
    sheet = draw_sheet([picture()], samples_of(32)[:1])
    save_png(tmp_path / "sheet.png", sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), sheet)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_strips_show_every_view_of_the_same_images_under_their_captions():
    images = [picture(), picture()[::-1]]
    make = ViewMaker(RECIPES["linear"], image_size=STRIP_CELL)
    samples = [make(image, seed=0, epoch=0, index=index) for index, image in enumerate(images)]
    sheet = draw_strips(images, [("one", samples), ("two", samples[::-1])], title="family")
    step = STRIP_CELL + GAP
    assert sheet.shape[0] == GAP + 3 * step
    for row, shown in ((1, samples), (2, samples[::-1])):
        top = GAP + row * step
        for column in range(2):
            left = STRIP_CAPTION + column * (2 * STRIP_CELL + PATCH_GAP + 2 * GAP)
            for number, view in enumerate(shown[column].images):
                corner = left + number * (STRIP_CELL + PATCH_GAP)
                found = sheet[top : top + STRIP_CELL, corner : corner + STRIP_CELL]
                np.testing.assert_array_equal(found, view.permute(1, 2, 0).numpy())
        assert (sheet[top : top + STRIP_CELL, :STRIP_CAPTION] < 200).any()  # the caption
    different = draw_strips(images, [("other", samples), ("two", samples[::-1])], title="family")
    assert (different != sheet).any(axis=(0, 2))[STRIP_CAPTION:].sum() == 0
