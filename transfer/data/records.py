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

OVERHANG = (
    2.0  # pixels that a box may extend beyond its image: rounding, and VOC's 1-based corners; clipped and counted
)
MAX_DROPPED = 1e-3  # share of objects that may be dropped as degenerate: COCO train2017 holds 2 in 860,001


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


class BoxRule:
    """Checks corners (x1, y1, x2, y2) in pixels against their image; counts what it had to repair.

    A box that extends beyond it by at most OVERHANG pixels is clipped; further out is an error. A box without area is dropped,
    unless that happens to more than MAX_DROPPED of all objects.
    """

    def __init__(self) -> None:
        self.checked = 0
        self.clipped = 0
        self.dropped: list[str] = []

    def apply(self, box: tuple[float, float, float, float], width: int, height: int, where: str) -> list[float] | None:
        """The clipped box, or None where it is to be dropped. Raises DataError for a box that leaves its image."""
        self.checked += 1
        x1, y1, x2, y2 = box
        if min(x1, y1) < -OVERHANG or x2 > width + OVERHANG or y2 > height + OVERHANG:
            raise DataError(
                f"{where}: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) leaves its image of {width} x {height} pixels"
            )
        if x2 < x1 or y2 < y1:
            raise DataError(f"{where}: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has its corners exchanged")
        inside = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
        self.clipped += inside != [x1, y1, x2, y2]
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            self.drop(f"{where}: box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area")
            return None
        return inside

    def drop(self, reason: str) -> None:
        """Count one object that cannot be used."""
        self.dropped.append(reason)

    def notes(self, where: str) -> tuple[str, ...]:
        """What was repaired, one sentence each. Raises DataError if too much had to be dropped."""
        if len(self.dropped) > MAX_DROPPED * self.checked:
            raise DataError(
                f"{len(self.dropped)} of {self.checked} objects cannot be used (allowed: {MAX_DROPPED:.1%}), first "
                f"{self.dropped[0]}; remove or correct them"
            )
        notes = []
        if self.clipped:
            notes.append(
                f"{where}: {self.clipped} of {self.checked} boxes extended beyond their image by up to {OVERHANG:g} px: clipped"
            )
        if self.dropped:
            notes.append(f"{where}: dropped {len(self.dropped)} of {self.checked} objects, first {self.dropped[0]}")
        return tuple(notes)
