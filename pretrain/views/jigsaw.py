"""Jigsaw patches: one crop cut into 3 x 3 cells, a random patch from each, and the order in which the head sees them.

Source: docs/specification.md 1.4. The crop is drawn apart from those of the two views; patches keep their colours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pretrain.base.errors import ConfigError
from pretrain.views.operations import Crop, Frame, HorizontalFlip, RandomResizedCrop
from pretrain.views.pixels import planes_into

GRID = 3
NUM_PATCHES = GRID * GRID
# The reference's sizes: patches of 64 px out of cells of 85 px, three of which make a crop of 255 px.
REFERENCE_CELL, REFERENCE_PATCH = 85, 64


def cell_size(patch_size: int) -> int:
    """Side of a cell in pixels: 64 -> 85, 24 -> 32, 16 -> 21. The crop's side is three cells."""
    return round(patch_size * REFERENCE_CELL / REFERENCE_PATCH)


class PatchCut(NamedTuple):
    """The crop, whether it is mirrored, and per cell the (y, x) offset of its patch: ints (9, 2) in [0, cell - patch_size]."""

    crop: Crop
    mirrored: bool
    offsets: np.ndarray
    patch_size: int


@dataclass(frozen=True)
class JigsawSpec:
    """How the nine patches of an image are cut.

    crop: of three cells a side (255 px for patches of 64 px).
    flip: of the crop.
    """

    crop: RandomResizedCrop = field(default_factory=lambda: RandomResizedCrop(scale=(0.6, 1.0)))
    flip: HorizontalFlip = field(default_factory=HorizontalFlip)

    def __post_init__(self) -> None:
        if self.crop.shared or self.flip.shared:
            raise ConfigError("patches: `shared` is for the two views of a pair; the patches have a crop of their own")

    def draw(self, rng: np.random.Generator, *, height: int, width: int, patch_size: int) -> PatchCut:
        """Where the nine patches of one image lie."""
        cell = cell_size(patch_size)
        frame = Frame(height, width, GRID * cell)
        crop = self.crop.draw(rng, frame)
        mirrored = self.flip.draw(rng, frame) is not None
        return PatchCut(crop, mirrored, rng.integers(cell - patch_size + 1, size=(NUM_PATCHES, 2)), patch_size)

    def apply(self, cut: PatchCut, image: np.ndarray, out: np.ndarray) -> None:
        """Cut the patches into `out`: uint8 (9, 3, P, P), row by row."""
        board = self.crop.apply(cut.crop, image)
        if cut.mirrored:
            board = self.flip.apply(True, board)
        planes = np.empty((3, cut.crop.size, cut.crop.size), dtype=np.uint8)
        planes_into(planes, board)
        cell, side = cut.crop.size // GRID, cut.patch_size
        for position, (y, x) in enumerate(cut.offsets.tolist()):
            top, left = (position // GRID) * cell + y, (position % GRID) * cell + x
            out[position] = planes[:, top : top + side, left : left + side]


def draw_permutation(rng: np.random.Generator) -> np.ndarray:
    """int64 (9,): the head's i-th input is patch permutation[i]."""
    return rng.permutation(NUM_PATCHES)
