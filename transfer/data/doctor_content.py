"""What no reader objects to, and an expert would: EXIF turns, links, files that nothing lists, duplicate boxes, boxes unlike their masks.

In: data that could be read. Out: `Finding`s by file and object. See transfer/data/doctor.py.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask

from pretrain.base.image_files import SUFFIXES, CheckedImage
from transfer.data.findings import Finding
from transfer.data.image_checks import Looks
from transfer.data.records import DetectionData
from transfer.data.spec import DataSpec

SAME_BOX = 0.95  # IoU of two boxes of one class that mark one object
SAME_BOX_OTHER_CLASS = 0.98
BOX_OF_MASK = 0.7  # IoU of an object's box with the box around its mask
SLACK = 4.0  # px: by which a drawn box may differ from its mask's
AREA_FACTOR, AREA_SLACK = 2.0, 32.0  # of the file's area and the mask's
MANY_UNLISTED = 0.5  # share of the files of a folder: with more, the data are meant to be a part of it


def exif_findings(data: DetectionData, looks: Looks, spec: DataSpec) -> Iterator[Finding]:
    """Images whose EXIF orientation turns them: a note where the annotations are of the turned picture, a warning
    where nothing tells which they are of."""
    for record, look in zip(data.records, looks, strict=True):
        if not isinstance(look, CheckedImage) or look.orientation == 1:
            continue
        agrees = (look.height, look.width) == (record["height"], record["width"])
        # On the side, a size of its own says which picture was annotated; YOLO files have none.
        if look.turned and look.height != look.width and spec.kind != "yolo":
            if agrees:
                message = (
                    f"EXIF orientation {look.orientation}: the image is turned when it is read, as it was annotated"
                )
                yield Finding("data/exif-turned", "note", record["file_name"], message, "")
            continue
        message = (
            f"EXIF orientation {look.orientation}: the image is turned when it is read; its size does not tell whether it was "
            "annotated so"
        )
        change = "look at samples.png; if the boxes are those of the stored image, remove the orientation (exiftool -Orientation= FILE)"
        yield Finding("data/exif-undecided", "warning", record["file_name"], message, change)


def link_findings(data: DetectionData, spec: DataSpec) -> Iterator[Finding]:
    """Files that lie elsewhere once links are followed."""
    roots = {"coco": Path(spec.detail), "yolo": None}.get(spec.kind, spec.source)
    for record in data.records:
        path = record["file_name"]
        folder = os.path.dirname(path) if roots is None else str(roots)  # noqa: PTH120
        real, root = os.path.realpath(path), os.path.realpath(folder)
        if os.path.exists(real) and os.path.commonpath([real, root]) != root:  # noqa: PTH110
            message = f"a link that leads out of the folder of the data, to {real}"
            yield Finding("data/link-out", "warning", path, message, "copy the file, if the data are to be passed on")


def unlisted_findings(data: DetectionData, spec: DataSpec) -> Iterator[Finding]:
    """Image files in the folders of the data that no annotation names. YOLO takes every image of its folders."""
    if spec.kind == "yolo":
        return
    root = Path(spec.detail) if spec.kind == "coco" else spec.source / "JPEGImages"
    used = {os.path.realpath(record["file_name"]) for record in data.records}
    there = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if spec.kind != "coco":  # other splits use the same folder
        stems = {
            str(path.relative_to(spec.source / "Annotations").with_suffix(""))
            for path in (spec.source / "Annotations").rglob("*.xml")
        }
        there = [path for path in there if str(Path(path).relative_to(root).with_suffix("")) not in stems]
    unlisted = sorted(path for path in there if os.path.realpath(path) not in used)
    change = "annotate them, or leave them: they are not used"
    if len(unlisted) > MANY_UNLISTED * max(len(there), 1) and spec.kind == "coco":
        message = f"{len(unlisted)} of its {len(there)} images have no entry in {spec.source}, first {unlisted[0]}"
        yield Finding("data/image-unlisted", "note", str(root), message, change)
        return
    for path in unlisted:
        yield Finding("data/image-unlisted", "note", path, "the image has no annotation entry", change)


def object_findings(record: dict[str, Any], names: Sequence[str]) -> Iterator[Finding]:
    """Duplicate boxes, and boxes and areas that their masks contradict."""
    things = [thing for thing in record["annotations"] if not thing.get("iscrowd") and thing["category_id"] >= 0]

    def place(number: int) -> str:
        box = ", ".join(f"{value:g}" for value in things[number]["bbox"])
        return f"{record['file_name']}: {names[things[number]['category_id']]!r} ({box})"

    for one, other, same_class in _same_boxes(things):
        if same_class:
            message = f"two boxes of one class mark the same object: also {place(other)}"
            yield Finding("data/duplicate-box", "warning", place(one), message, "remove one of them")
        else:
            message = f"two classes have the same box: also {place(other)}"
            yield Finding("data/box-of-two-classes", "warning", place(one), message, "keep the right one")
    for number, thing in enumerate(things):
        mask = _mask_extent(thing.get("segmentation"))
        if mask is None:
            continue
        extent, area = mask
        box = thing["bbox"]
        box_area = (box[2] - box[0]) * (box[3] - box[1])
        clipped = [
            max(extent[0], 0), max(extent[1], 0), min(extent[2], record["width"]), min(extent[3], record["height"])
        ]  # fmt: skip
        apart = max(abs(a - b) for a, b in zip(box, clipped, strict=True))
        if apart > SLACK and float(_overlaps(np.array([box]), np.array([clipped]))[0, 0]) < BOX_OF_MASK:
            around = ", ".join(f"{value:g}" for value in clipped)
            message = f"the box is not the one around its mask, which is ({around})"
            yield Finding("data/box-unlike-mask", "warning", place(number), message, "correct the box or the mask")
        elif (
            area
            and abs(thing["area"] - area) > AREA_SLACK
            and abs(thing["area"] - box_area) > 0.05 * box_area
            and not (area / AREA_FACTOR <= thing["area"] <= area * AREA_FACTOR)
        ):
            message = (
                f"area {thing['area']:g}, but its mask has {area:g}: AP of small, medium and large objects goes by area"
            )
            yield Finding("data/area-unlike-mask", "warning", place(number), message, "write the area of the mask")


def _same_boxes(things: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int, bool]]:
    if len(things) < 2:
        return
    overlaps = _overlaps(*[np.array([thing["bbox"] for thing in things], float)] * 2)
    for one, other in zip(*np.nonzero(np.triu(overlaps, 1) >= SAME_BOX), strict=True):
        same = things[one]["category_id"] == things[other]["category_id"]
        if same or overlaps[one, other] >= SAME_BOX_OTHER_CLASS:
            yield int(one), int(other), same


def _overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, M) intersections over unions of boxes (x1, y1, x2, y2)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)


def _mask_extent(segmentation: Any) -> tuple[list[float], float] | None:
    """(box around the mask, its area); None for an object without one. The area of several polygons is 0: they may overlap."""
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        x, y, width, height = pycocotools.mask.toBbox(segmentation).tolist()
        return [x, y, x + width, y + height], float(pycocotools.mask.area(segmentation))
    xs = [value for polygon in segmentation for value in polygon[0::2]]
    ys = [value for polygon in segmentation for value in polygon[1::2]]
    area = 0.0
    if len(segmentation) == 1:
        x, y = np.array(xs, float), np.array(ys, float)
        area = 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
    return [min(xs), min(ys), max(xs), max(ys)], area


def name_variants(
    names: Sequence[str], where: str, *, new: set[str] | None = None, old: Sequence[str] = ()
) -> Iterator[Finding]:
    """Names that differ in case, spaces, hyphens or underscores alone. new, old: only pairs of one of each, where given."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[re.sub(r"[\s_\-]+", "", name).casefold()].append(name)
    for members in groups.values():
        if len(members) < 2 or (new is not None and not (set(members) & new and set(members) & set(old))):
            continue
        shown = " and ".join(map(repr, members))
        in_case = len({name.lower().strip() for name in members}) == 1
        message = f"class names that differ in {'case' if in_case else 'case, spaces or hyphens'} alone: {shown}"
        yield Finding("data/class-variants", "error" if in_case else "warning", where, message, "write them alike")
