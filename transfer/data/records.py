"""Labelled images as the detector reads them, whichever annotation format they came from.

In: numbers that a reader took from a file. Out: `DetectionData`, whose records are Detectron2's standard dataset dicts, and
the one rule for boxes that do not fit their image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pretrain.base.errors import DataError
from transfer.data.problems import Problem, Problems

MAX_ID = 2**63 - 1  # what pycocotools' C++ counterparts hold
FAR = 0.1  # of the image's side: further outside than annotators and roundings leave boxes
MIN_CORNERS = 5  # boxes; by fewer it is not told whether they are corners
MAX_DROPPED = 0.5  # share of boxes that may be dropped: when most have no area, their numbers mean something else


@dataclass(frozen=True)
class DetectionData:
    """One split, read and validated.

    records: Detectron2 dicts {"file_name", "image_id", "height", "width", "annotations": [{"bbox", "bbox_mode",
        "category_id" (index into class_names), "iscrowd", ...}]}.
    class_names: in the order of the category ids.
    masks: which non-crowd objects have a segmentation.
    bitmask: some of those are run-length coded, so polygons are not enough.
    notes: what was repaired, one sentence each.
    complete_coco: the annotation file and its category ids in class order, where pycocotools can evaluate against it as it is.
    """

    records: tuple[dict[str, Any], ...]
    class_names: tuple[str, ...]
    masks: Literal["none", "some", "all"] = "none"
    bitmask: bool = False
    notes: tuple[str, ...] = ()
    complete_coco: tuple[Path, tuple[int, ...]] | None = None

    @property
    def num_objects(self) -> int:
        """Objects that count: crowd regions left out."""
        return sum(not thing.get("iscrowd", 0) for record in self.records for thing in record["annotations"])

    @property
    def can_evaluate_masks(self) -> bool:
        """Every object, crowd regions too, has a segmentation: pycocotools stops at the first one that has none."""
        things = [thing for record in self.records for thing in record["annotations"]]
        return bool(things) and all("segmentation" in thing for thing in things)

    @property
    def num_labelled_images(self) -> int:
        """Images with at least one object that counts; training skips the others."""
        return sum(any(not thing.get("iscrowd", 0) for thing in record["annotations"]) for record in self.records)


def with_class_order(data: DetectionData, class_names: Sequence[str], where: str) -> DetectionData:
    """`data` with category ids that index `class_names`. Raises DataError if `data` holds a class that is not among them."""
    unknown = [name for name in data.class_names if name not in class_names]
    if unknown:
        raise DataError(
            f"{where}: the classes {', '.join(unknown)} are not among those trained on, which are {', '.join(class_names)}; "
            "training and test data must name the same classes"
        )
    index = {i: class_names.index(name) for i, name in enumerate(data.class_names)}
    records = tuple(
        {
            **record,
            "annotations": [{**thing, "category_id": index[thing["category_id"]]} for thing in record["annotations"]],
        }
        for record in data.records
    )
    return replace(data, records=records, class_names=tuple(class_names))


def is_number(value: Any) -> bool:
    """A finite int or float; True and False are not numbers."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's whole numbers have no upper end: one of 400 digits fits into no float
        return False


def as_whole(value: Any) -> int | None:
    """A whole number written as 80.0, "80" or "80.0"; None for anything else."""
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
        except ValueError:  # text, or more digits than int reads
            return None
    if isinstance(value, bool) or not is_number(value) or value != int(value) or abs(value) > MAX_ID:
        return None
    return int(value)


class BoxRule:
    """Fits boxes into their images, and counts.

    A box that extends beyond its image is clipped, however far. One without area, as given or once clipped, is dropped; where
    that happens to more than MAX_DROPPED of all, `close` calls the whole file in doubt, and where no box leaves its image's first
    pixel: those are fractions of the image. Exchanged corners are in doubt.

    Boxes that a file gives as a point and a size are in doubt if corners may have been written instead: every box would be a pair
    of corners in its image, and some leave it by far, read as they should be.
    """

    def __init__(self) -> None:
        self.checked = 0
        self.dropped = 0
        self.furthest = 0.0  # coordinate of all boxes
        self.num_like_corners = 0
        self.far_outside: list[tuple[str, str]] = []  # places and values

    def apply(
        self,
        box: tuple[float, float, float, float],
        width: int,
        height: int,
        where: str,
        *,
        sized: Sequence[float] | None = None,
    ) -> Problems[list[float] | None]:
        """Corners (x1, y1, x2, y2) in pixels within [0, width] x [0, height], or None for a box that is left out.

        sized: the point and size that the file gives instead of corners, in pixels.
        """
        self.checked += 1
        x1, y1, x2, y2 = box
        self.furthest = max(self.furthest, x2, y2)
        if sized is not None:
            a, b, c, d = sized
            self.num_like_corners += 0 <= a < c <= width and 0 <= b < d <= height
        if 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height:
            return [x1, y1, x2, y2]
        found = f"({x1:g}, {y1:g}, {x2:g}, {y2:g}) in {width} x {height} pixels"
        if x2 < x1 or y2 < y1:
            yield Problem("boxes with exchanged corners", where, found, "give the upper left corner first", False)
            return None
        if x1 == x2 or y1 == y2:
            self.dropped += 1
            yield Problem("boxes without width or height", where, found, "dropped", True)
            return None
        if max(-x1, x2 - width) > FAR * width or max(-y1, y2 - height) > FAR * height:
            self.far_outside.append((where, found))
        inside = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            self.dropped += 1
            yield Problem("boxes wholly outside their image", where, found, "dropped", True)
            return None
        yield Problem("boxes over the border of their image", where, found, "clipped", True)
        return inside

    def close(self) -> Problems[None]:
        """To be run after the last box: what only all of them show."""
        if self.checked and self.furthest <= 1:
            yield Problem(
                "boxes in fractions of their image, not in pixels",
                "all objects",
                f"no coordinate of {self.checked} boxes is above {self.furthest:g}",
                "multiply x and width by the image's width, y and height by its height",
                False,
            )
            return
        if self.num_like_corners == self.checked >= MIN_CORNERS:
            for where, found in self.far_outside:
                remedy = (
                    "if the file holds x1, y1, x2, y2, write what the format has: COCO x1, y1, width, height; YOLO the centre, "
                    "width and height. Else clip these boxes"
                )
                yield Problem(
                    "boxes leave their image, and all boxes of the file may be corners instead of a point and a size",
                    where,
                    found,
                    remedy,
                    False,
                )
        if self.dropped > MAX_DROPPED * self.checked:
            yield Problem(
                f"more than {MAX_DROPPED:.0%} of the boxes have no area in their image",
                "all objects",
                f"{self.dropped} of {self.checked}",
                "check that boxes are in pixels and of these images; then remove or correct the objects without area",
                False,
            )
