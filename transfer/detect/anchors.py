"""Do the anchors of a detector fit the boxes of the data, at the resolution at which it sees them?

In: a Detectron2 configuration and records. Out: `AnchorFit` (how many boxes no anchor overlaps well), and the sizes to pass
instead.

An anchor teaches a box where their overlap (intersection over union) exceeds the proposal network's foreground threshold; a box
below it is taught by its one best anchor alone. The overlap is counted with the anchor's centre a quarter stride away in both
directions, the mean distance from a regular grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from numpy.typing import NDArray

POOR = 0.5  # overlap: below it the best anchor is no neighbour in size or shape
SIZES_AN_OCTAVE = 1.0  # of the proposal; the published detectors have one size an octave
MAX_BOXES = 20_000  # of a large set, evenly spaced ones are enough
QUANTILES = (0.03, 0.97)  # of the boxes' sizes that the proposal covers: single outliers are not worth an anchor
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AnchorFit:
    """num_boxes: looked at. size: median of sqrt(width x height) in pixels of the resized image.

    below_foreground: share of boxes whose best anchor overlaps less than `threshold`.
    poor: share below POOR. larger, smaller: share larger than sqrt(2) times the largest anchor, smaller than the smallest by as
    much.
    anchors: smallest and largest size in pixels.
    threshold: the proposal network's foreground threshold.
    """

    num_boxes: int
    size: float
    below_foreground: float
    poor: float
    larger: float
    smaller: float
    anchors: tuple[float, float]
    threshold: float


def anchor_node(config: CfgNode) -> tuple[list[str], float]:
    """The feature levels that anchors lie on, and the foreground threshold."""
    if config.MODEL.META_ARCHITECTURE == "RetinaNet":
        return list(config.MODEL.RETINANET.IN_FEATURES), config.MODEL.RETINANET.IOU_THRESHOLDS[-1]
    return list(config.MODEL.RPN.IN_FEATURES), config.MODEL.RPN.IOU_THRESHOLDS[-1]


def level_strides(config: CfgNode) -> list[int]:
    """Pixels between anchors of each level: p3 and res3 have 8. A dilated res5 has the stride of res4."""
    levels = [int(name[-1]) for name in anchor_node(config)[0] if name[-1:].isdigit()]
    dilated = config.MODEL.RESNETS.RES5_DILATION > 1
    return [2 ** (level - (dilated and level == 5 and config.MODEL.RPN.IN_FEATURES == ["res5"])) for level in levels]


def level_sizes(config: CfgNode) -> list[list[float]]:
    """ANCHOR_GENERATOR.SIZES, one list a level."""
    return _a_level(config.MODEL.ANCHOR_GENERATOR.SIZES, len(level_strides(config)))


def _a_level(values: Sequence[Any], num_levels: int) -> list[list[float]]:
    """Detectron2 takes one list for every level, or one for all of them."""
    lists = [list(v) if isinstance(v, (list, tuple)) else [v] for v in values]
    if values and not isinstance(values[0], (list, tuple)):
        lists = [list(values)]
    return lists * num_levels if len(lists) == 1 else lists


def resized_boxes(records: Sequence[Mapping[str, Any]], config: CfgNode) -> Floats:
    """(N, 2) widths and heights of the objects in pixels of the image as the detector is tested on it."""
    short, limit = config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST
    found = []
    for record in records:
        scale = resize_factor(record["height"], record["width"], short=short, limit=limit)
        for thing in record["annotations"]:
            if not thing.get("iscrowd", 0):
                x1, y1, x2, y2 = thing["bbox"]
                found.append((scale * (x2 - x1), scale * (y2 - y1)))
    boxes = np.array(found, dtype=np.float64).reshape(-1, 2)
    boxes = boxes[(boxes > 0).all(axis=1)]
    return boxes if len(boxes) <= MAX_BOXES else boxes[np.linspace(0, len(boxes) - 1, MAX_BOXES).astype(int)]


def resize_factor(height: float, width: float, *, short: int, limit: int) -> float:
    """Detectron2's ResizeShortestEdge: the short side becomes `short` unless the long one would exceed `limit`. 0: no resize."""
    if short <= 0:
        return 1.0
    return min(short / min(height, width), limit / max(height, width))


def best_overlap(
    boxes: Floats, sizes: Sequence[Sequence[float]], ratios: Sequence[Sequence[float]], strides: Sequence[int]
) -> Floats:
    """(N,) overlap of each box with its best anchor. sizes, ratios (height / width): one list a level."""
    best = np.zeros(len(boxes))
    for level, stride in enumerate(strides):
        for size in sizes[level]:
            for ratio in ratios[level]:
                anchor = np.array([size / math.sqrt(ratio), size * math.sqrt(ratio)])
                shared = (
                    np.minimum(np.minimum(boxes, anchor), (boxes + anchor) / 2 - stride / 4).clip(min=0).prod(axis=1)
                )
                best = np.maximum(best, shared / (boxes.prod(axis=1) + anchor.prod() - shared))
    return best


def fit_anchors(boxes: Floats, config: CfgNode, sizes: Sequence[Sequence[float]] | None = None) -> AnchorFit:
    """How well the configuration's anchors, or those of other `sizes`, fit `boxes` (N, 2), of which there is at least one."""
    strides = level_strides(config)
    sizes = level_sizes(config) if sizes is None else sizes
    ratios = _a_level(config.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS, len(strides))
    threshold = anchor_node(config)[1]
    overlap = best_overlap(boxes, sizes, ratios, strides)
    scale = np.sqrt(boxes.prod(axis=1))
    all_sizes = [size for level in sizes for size in level]
    return AnchorFit(
        num_boxes=len(boxes),
        size=float(np.median(scale)),
        below_foreground=float((overlap < threshold).mean()),
        poor=float((overlap < POOR).mean()),
        larger=float((scale > math.sqrt(2) * max(all_sizes)).mean()),
        smaller=float((scale < min(all_sizes) / math.sqrt(2)).mean()),
        anchors=(min(all_sizes), max(all_sizes)),
        threshold=threshold,
    )


def propose_sizes(boxes: Floats, config: CfgNode) -> list[list[int]]:
    """ANCHOR_GENERATOR.SIZES for these boxes: equal steps on a logarithmic scale over the middle QUANTILES of their sizes, as many a level
    as one size an octave needs, at least one. Every level has the same number, as Detectron2 asks."""
    num_levels = len(level_strides(config))
    low, high = np.quantile(np.sqrt(boxes.prod(axis=1)), QUANTILES)
    octaves = math.log2(max(high, low * 1.0001) / low)
    a_level = max(1, math.ceil(octaves * SIZES_AN_OCTAVE / num_levels))
    count = num_levels * a_level
    # Each size stands in the middle of its part of the range; where the boxes have one size, steps of a third of an octave.
    step = max(octaves / count, 1 / 3)
    middle = math.log2(low) + octaves / 2
    sizes = [round(2 ** (middle + step * (position - (count - 1) / 2))) for position in range(count)]
    sizes = [max(1, size) for size in sizes]
    return [sizes[level * a_level : (level + 1) * a_level] for level in range(num_levels)]
