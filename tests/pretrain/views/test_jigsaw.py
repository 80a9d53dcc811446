"""Patches lie where the specification puts them [specification 1.4]."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pretrain.base.errors import ConfigError
from pretrain.views.jigsaw import JigsawSpec, PatchCut, cell_size, draw_permutation
from pretrain.views.operations import Crop, RandomResizedCrop
from tests.cases import each


def coordinates(side):
    """An image whose pixel says where it is: red = row, green = column."""
    y, x = np.mgrid[:side, :side]
    return np.stack([y, x, np.zeros_like(y)], 2).astype(np.uint8)


@each(("patch", "cell"), [(64, 85), (24, 32), (16, 21), (32, 42), (96, 128)])
def test_cells_keep_the_papers_proportion(patch, cell):
    assert cell_size(patch) == cell >= patch
    cut = JigsawSpec().draw(np.random.default_rng(0), height=300, width=400, patch_size=patch)
    assert cut.crop.size == 3 * cell and cut.patch_size == patch


@pytest.mark.parametrize("flipped", [False, True])
def test_patches_are_cut_from_their_cells_row_by_row(flipped):
    offsets = np.array([(position, 2 * position) for position in range(9)])
    cut = PatchCut(Crop(0, 0, 255, 255, 255), flipped, offsets, 64)
    patches = np.empty((9, 3, 64, 64), dtype=np.uint8)
    JigsawSpec().apply(cut, coordinates(255), patches)
    for position, (y, x) in enumerate(offsets):
        row, column = divmod(position, 3)
        top, left = 85 * row + y, 85 * column + x
        rows, columns = np.arange(top, top + 64), np.arange(left, left + 64)
        np.testing.assert_array_equal(patches[position, 0, :, 0], rows)
        np.testing.assert_array_equal(patches[position, 1, 0], 254 - columns if flipped else columns)


def test_offsets_crop_and_flip_are_drawn_as_specified():
    rng = np.random.default_rng(0)
    cuts = [JigsawSpec().draw(rng, height=300, width=300, patch_size=64) for _ in range(400)]
    offsets = np.stack([cut.offsets for cut in cuts])
    assert offsets.shape == (400, 9, 2) and set(np.unique(offsets)) == set(range(22))
    assert abs(offsets.mean() - 10.5) < 4 * 22 / math.sqrt(12 * offsets.size)
    areas = np.array([cut.crop.height * cut.crop.width / 300**2 for cut in cuts])
    assert 0.59 < areas.min() < 0.65 and areas.max() > 0.9
    assert abs(np.mean([cut.mirrored for cut in cuts]) - 0.5) < 4 * 0.5 / math.sqrt(400)


def test_permutations_are_uniform():
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_permutation(rng) for _ in range(3000)])
    assert drawn.dtype == np.int64 and (np.sort(drawn, 1) == np.arange(9)).all()
    share = np.stack([(drawn == patch).mean(0) for patch in range(9)])  # [patch, position]
    assert np.abs(share - 1 / 9).max() < 4.5 * math.sqrt(8 / 81 / 3000)


def test_patches_have_no_partner_to_share_with():
    with pytest.raises(ConfigError, match="shared"):
        JigsawSpec(crop=RandomResizedCrop(shared=True))
