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
MANY_POOR = 0.25  # share of poor boxes; COCO's boxes and the published anchors have 0.16 at 800 px
WORTH = 0.05  # mean overlap that a change of the anchors must bring
SMALLEST_STEP = 1 / 3  # octaves between two sizes of the proposal; RetinaNet's step
NUM_STEPS = 8  # tried for the start and for the step of the proposal
MAX_BOXES = 4_000  # of a large set, evenly spaced ones are enough: shares are right to 1 %
QUANTILES = (0.03, 0.97)  # of the boxes' sizes that the proposal covers: single outliers are not worth an anchor
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AnchorFit:
    """num_boxes: looked at. size: median of sqrt(width x height) in pixels of the resized image.

    below_foreground: share of boxes whose best anchor overlaps less than `threshold`.
    poor: share below POOR. mean: overlap.
    larger, smaller: share of boxes larger than the largest anchor, smaller than the smallest, by sqrt(width x height).
    anchors: smallest and largest size in pixels.
    threshold: the proposal network's foreground threshold.
    """

    num_boxes: int
    size: float
    below_foreground: float
    poor: float
    mean: float
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
        mean=float(overlap.mean()),
        larger=float((scale > max(all_sizes)).mean()),
        smaller=float((scale < min(all_sizes)).mean()),
        anchors=(min(all_sizes), max(all_sizes)),
        threshold=threshold,
    )


def propose_sizes(boxes: Floats, config: CfgNode) -> list[list[int]]:
    """ANCHOR_GENERATOR.SIZES for these boxes: equal steps on a logarithmic scale, as many a level as the configuration has (more where
    the boxes span more octaves than that), of which the start and the step with the best mean overlap are taken."""
    strides = level_strides(config)
    ratios = _a_level(config.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS, len(strides))
    low, high = np.log2(np.quantile(np.sqrt(boxes.prod(axis=1)), QUANTILES))
    a_level = max(len(level_sizes(config)[0]), round((high - low) / len(strides)))
    count = a_level * len(strides)
    best: tuple[float, list[list[int]]] = (-1.0, [])
    for step in np.linspace(SMALLEST_STEP, max(SMALLEST_STEP, (high - low) / count), NUM_STEPS):
        for start in np.linspace(low, max(low, high - step * (count - 1)), NUM_STEPS):
            sizes = [max(1, round(2 ** (start + step * position))) for position in range(count)]
            levels = [sizes[level * a_level : (level + 1) * a_level] for level in range(len(strides))]
            best = max(best, (float(best_overlap(boxes, levels, ratios, strides).mean()), levels))
    return best[1]


@dataclass(frozen=True)
class AnchorAdvice:
    """Anchors that do not fit: how they and the proposed `sizes` (ANCHOR_GENERATOR.SIZES) fit the boxes."""

    now: AnchorFit
    proposed: AnchorFit
    sizes: list[list[int]]


def anchors_to_pass(records: Sequence[Mapping[str, Any]], config: CfgNode) -> AnchorAdvice | None:
    """Sizes to pass instead of the configuration's; None where those fit, where no others fit better, or where there is no box.

    They do not fit where MANY_POOR of the boxes overlap none by POOR, or half of the boxes lie outside the anchors' sizes, and the
    proposal raises the mean overlap by WORTH.
    """
    if config.MODEL.PROPOSAL_GENERATOR.NAME != "RPN" and config.MODEL.META_ARCHITECTURE != "RetinaNet":
        return None
    boxes = resized_boxes(records, config)
    if not len(boxes) or config.MODEL.ANCHOR_GENERATOR.NAME != "DefaultAnchorGenerator":
        return None
    now = fit_anchors(boxes, config)
    if now.poor < MANY_POOR and max(now.larger, now.smaller) < 0.5:
        return None
    sizes = propose_sizes(boxes, config)
    proposed = fit_anchors(boxes, config, sizes)
    return AnchorAdvice(now, proposed, sizes) if proposed.mean >= now.mean + WORTH else None


def show_sizes(sizes: Sequence[Sequence[float]]) -> str:
    """As a value on the command line."""
    return '"[' + ", ".join(f"[{', '.join(f'{size:g}' for size in level)}]" for level in sizes) + ']"'
