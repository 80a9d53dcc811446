"""Jigsaw patches: one crop cut into 3 x 3 cells, a random patch from each, and the order in which the head sees them.

In: the decoded image and generators. Out: uint8 (9, P, P, 3) in row-column order, and a permutation of nine.
Source: infomin.md 1.4. The crop is drawn apart from those of the two views; patches keep their colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pretrain.views.geometry import Crop, Flip, apply_crop, apply_flip, draw_crop, draw_flip
from pretrain.views.recipes import JigsawSpec

GRID = 3
NUM_PATCHES = GRID * GRID
# The reference's sizes: patches of 64 px out of cells of 85 px, three of which make a crop of 255 px.
REFERENCE_CELL, REFERENCE_PATCH = 85, 64


def cell_size(patch_size: int) -> int:
    """Side of a cell in pixels: 64 -> 85, 24 -> 32, 16 -> 21. The crop's side is three cells."""
    return round(patch_size * REFERENCE_CELL / REFERENCE_PATCH)


@dataclass(frozen=True)
class PatchCut:
    """The crop, the flip, and per cell the (y, x) offset of its patch: ints (9, 2) in [0, cell - patch_size]."""

    crop: Crop
    flip: Flip | None
    offsets: np.ndarray
    patch_size: int


def draw_patches(spec: JigsawSpec, rng: np.random.Generator, *, height: int, width: int, patch_size: int) -> PatchCut:
    """Where the nine patches of one image lie."""
    cell = cell_size(patch_size)
    crop = draw_crop(spec.crop, rng, height=height, width=width, size=GRID * cell)
    flip = draw_flip(spec.flip, rng)
    offsets = rng.integers(cell - patch_size + 1, size=(NUM_PATCHES, 2))
    return PatchCut(crop, flip, offsets, patch_size)


def apply_patches(cut: PatchCut, image: np.ndarray) -> np.ndarray:
    """Cut the patches: uint8 (9, P, P, 3), row by row."""
    board = apply_crop(cut.crop, image)
    if cut.flip:
        board = apply_flip(board)
    cell, side = cut.crop.size // GRID, cut.patch_size
    patches = np.empty((NUM_PATCHES, side, side, 3), dtype=np.uint8)
    for position, (y, x) in enumerate(cut.offsets):
        top, left = (position // GRID) * cell + y, (position % GRID) * cell + x
        patches[position] = board[top : top + side, left : left + side]
    return patches


def draw_permutation(rng: np.random.Generator) -> np.ndarray:
    """int64 (9,): the head's i-th input is patch permutation[i]."""
    return rng.permutation(NUM_PATCHES)
