"""Boxes at the resolution of the detector against its anchors: Detectron2's own geometry, analytic overlaps, and proposals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.structures import Boxes, pairwise_iou

from transfer.detect.anchors import (
    anchors_to_pass,
    best_overlap,
    fit_anchors,
    level_strides,
    propose_sizes,
    resize_factor,
    resized_boxes,
    show_sizes,
)


def pyramid(sizes: list[list[int]]) -> CfgNode:
    config = get_cfg()
    config.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5"][: len(sizes)]
    config.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST = 192, 288
    return config


def test_the_overlap_is_the_mean_over_places_of_what_detectron2s_anchors_have() -> None:
    """A box of one anchor's size, moved over one cell of the grid: the quarter-stride overlap is within 5 % of the mean best."""
    config = pyramid([[32], [64], [128]])
    strides = level_strides(config)
    generator = build_anchor_generator(config, [ShapeSpec(stride=stride) for stride in strides])
    grid = [torch.empty(1, 1, 384 // stride, 384 // stride) for stride in strides]
    anchors = Boxes.cat(generator(grid))
    for width, height in ((64, 64), (45, 90), (100, 80), (36, 30)):
        places = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 32 + 150
        boxes = Boxes(torch.cat([places, places + torch.tensor([width, height])], dim=1))
        theirs = float(pairwise_iou(boxes, anchors).max(dim=1).values.mean())
        ours = best_overlap(np.array([[width, height]], float), [[32], [64], [128]], [[0.5, 1, 2]] * 3, strides)
        assert ours[0] == pytest.approx(theirs, rel=0.08)


def test_boxes_of_an_anchors_shape_at_its_place_overlap_wholly() -> None:
    shapes = np.array([[64.0, 64.0], [64 * math.sqrt(2), 64 / math.sqrt(2)], [128.0, 128.0]])
    found = best_overlap(shapes, [[64]], [[0.5, 1, 2]], [0])
    assert found == pytest.approx([1.0, 1.0, 0.25])


def test_boxes_are_measured_as_detectron2_resizes_their_image() -> None:
    for height, width in ((480, 640), (300, 2000), (64, 64), (1333, 800)):
        transform = ResizeShortestEdge(800, 1333).get_transform(np.zeros((height, width, 3), np.uint8))
        factor = resize_factor(height, width, short=800, limit=1333)
        assert (round(factor * height), round(factor * width)) == (transform.new_h, transform.new_w)
    assert resize_factor(10, 10, short=0, limit=5) == 1.0  # Detectron2 leaves the image as it is


def test_crowds_are_no_boxes() -> None:
    things = [{"bbox": [0, 0, 10, 20]}, {"bbox": [0, 0, 99, 99], "iscrowd": 1}]
    record = {"height": 96, "width": 96, "annotations": things}
    assert resized_boxes([record], pyramid([[32], [64], [96]])).tolist() == [[20, 40]]


@pytest.mark.parametrize("side", [12, 40, 160])
def test_proposed_sizes_fit_better_than_the_demos_and_keep_one_number_a_level(side: float) -> None:
    numbers = np.random.default_rng(0)
    boxes = np.stack([side * 2 ** numbers.normal(0, 0.4, 400)] * 2, axis=1) * 2 ** numbers.normal(0, 0.2, (400, 2))
    config = pyramid([[32], [64], [96]])
    sizes = propose_sizes(boxes, config)
    assert len(sizes) == 3 and {len(level) for level in sizes} == {1}
    assert fit_anchors(boxes, config, sizes).mean > fit_anchors(boxes, config).mean


def test_anchors_that_fit_are_left_alone() -> None:
    def records(side: float) -> list[dict]:
        sides = side * 2 ** np.random.default_rng(0).normal(0, 0.5, 300)
        return [{"height": 192, "width": 192, "annotations": [{"bbox": [0, 0, s, s]}]} for s in sides]

    config = pyramid([[32], [64], [96]])
    assert anchors_to_pass(records(60), config) is None
    advice = anchors_to_pass(records(170), config)
    assert advice is not None and advice.now.larger > 0.8 and advice.proposed.poor < advice.now.poor
    assert show_sizes(advice.sizes).startswith('"[[') and anchors_to_pass([], config) is None
