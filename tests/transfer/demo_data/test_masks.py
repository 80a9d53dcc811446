"""Mask polygons against pycocotools' rasteriser."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from transfer.demo_data.masks import mask_polygons


def rasterised(polygons: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    """pycocotools' reading of the polygons: union, (H, W) bool."""
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *shape))).astype(bool)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.95))
@example(280, 0.625)  # holes that a bridge to the outline got wrong
def test_random_masks_survive_the_round_trip_through_coco_polygons(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((9, 12)) < share
    if mask.any():
        assert (rasterised(mask_polygons(mask), mask.shape) == mask).all()


def test_hole_stays_a_hole() -> None:
    mask = np.zeros((20, 20), bool)
    mask[3:17, 2:18] = True
    mask[7:12, 6:11] = False
    mask[8:10, 8:10] = True  # an island in the hole
    polygons = mask_polygons(mask)
    assert (rasterised(polygons, mask.shape) == mask).all()
    assert len(polygons) == 3  # the ring cut in two, and the island
    # Control: outer rectangle alone fills the hole.
    assert (rasterised([[2, 3, 18, 3, 18, 17, 2, 17]], mask.shape) != mask).any()


def test_rectangle_is_its_four_corners() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    (polygon,) = mask_polygons(mask)
    corners = set(zip(polygon[::2], polygon[1::2], strict=True))
    assert corners == {(2, 1), (7, 1), (7, 4), (2, 4)}
    assert len(polygon) == 8


def test_parts_that_touch_at_a_corner_are_two_polygons() -> None:
    mask = np.zeros((4, 4), bool)
    mask[0:2, 0:2] = mask[2:4, 2:4] = True
    assert len(mask_polygons(mask)) == 2
