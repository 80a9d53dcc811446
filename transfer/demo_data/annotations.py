"""Scene objects as COCO annotations (masks as run lengths, boxes of the visible pixels), and PASCAL VOC derived from those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask

from transfer.demo_data.config import CLASS_NAMES
from transfer.demo_data.scenes import SceneObject

# Below this visible share VOC calls an object occluded (its guidelines: "more than 5% occluded"; rims cost a little).
_OCCLUDED_BELOW = 0.95


def coco_objects(objects: list[SceneObject]) -> list[dict[str, Any]]:
    """COCO annotations of one scene, without ids: category_id (1-based), bbox [x, y, w, h], area (px), run lengths, iscrowd 0.

    `occluded` (0 or 1) is VOC's; COCO's readers skip it.
    """
    records = []
    for thing in objects:
        mask = pycocotools.mask.encode(np.asfortranarray(thing.mask, np.uint8))
        left, top, right, bottom = thing.box
        records.append(
            {
                "category_id": thing.class_index + 1,
                "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                "area": float(thing.mask.sum()),
                "segmentation": {"size": list(thing.mask.shape), "counts": mask["counts"].decode()},
                "iscrowd": 0,
                "occluded": int(thing.visible < _OCCLUDED_BELOW),
            }
        )
    return records


def coco_dataset(scenes: list[list[dict[str, Any]]], side: int, class_names: Sequence[str]) -> dict[str, Any]:
    """COCO instances file for square scenes of `side` px; scene i has image id i + 1 and file name `<i>.jpg`."""
    images = [
        {"id": index + 1, "file_name": f"{index:06d}.jpg", "width": side, "height": side}
        for index in range(len(scenes))
    ]
    annotations = [{"image_id": index + 1, **record} for index, records in enumerate(scenes) for record in records]
    return {
        "info": {"description": "InfoMin Transfer demo scenes", "version": "2"},
        "licenses": [],
        "images": images,
        "annotations": [{"id": number + 1, **record} for number, record in enumerate(annotations)],
        "categories": [{"id": i + 1, "name": name, "supercategory": "demo"} for i, name in enumerate(class_names)],
    }


def voc_annotation(file_name: str, side: int, records: list[dict[str, Any]]) -> str:
    """PASCAL VOC XML of one scene's COCO annotations. Boxes are 1-based pixel indices, both ends inclusive, as in VOC."""
    lines = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{file_name}</filename>",
        "  <source><database>InfoMin Transfer demo scenes</database></source>",
        f"  <size><width>{side}</width><height>{side}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for record in records:
        left, top, width, height = map(int, record["bbox"])
        right, bottom = left + width, top + height
        lines += [
            "  <object>",
            f"    <name>{CLASS_NAMES[record['category_id'] - 1]}</name>",
            "    <pose>Unspecified</pose>",
            f"    <truncated>{int(left == 0 or top == 0 or right == side or bottom == side)}</truncated>",
            f"    <occluded>{record['occluded']}</occluded>",
            "    <difficult>0</difficult>",
            f"    <bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
