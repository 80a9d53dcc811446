"""Scene objects as COCO and as PASCAL VOC annotations.

In: `SceneObject`s. Out: COCO dictionaries with polygons, or the text of a VOC XML file. Boxes are the visible masks' extents.
"""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from transfer.demo_data.config import CLASS_NAMES
from transfer.demo_data.masks import mask_polygons
from transfer.demo_data.scenes import SceneObject

# Below this visible share VOC calls an object occluded (its guidelines: "more than 5% occluded"; rims cost a little).
_OCCLUDED_BELOW = 0.95


def coco_objects(objects: list[SceneObject]) -> list[dict[str, Any]]:
    """COCO annotations of one scene, without ids: category_id (1-based), bbox [x, y, w, h], area (px), polygons, iscrowd 0."""
    records = []
    for thing in objects:
        left, top, right, bottom = thing.box
        records.append(
            {
                "category_id": thing.class_index + 1,
                "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                "area": float(thing.mask.sum()),
                "segmentation": mask_polygons(thing.mask),
                "iscrowd": 0,
            }
        )
    return records


def coco_dataset(scenes: list[list[dict[str, Any]]], side: int) -> dict[str, Any]:
    """COCO instances file for square scenes of `side` px; scene i has image id i + 1 and file name `<i>.jpg`."""
    images = [
        {"id": index + 1, "file_name": f"{index:06d}.jpg", "width": side, "height": side}
        for index in range(len(scenes))
    ]
    annotations = [{"image_id": index + 1, **record} for index, records in enumerate(scenes) for record in records]
    return {
        "info": {"description": "InfoMin Transfer demo scenes", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": [{"id": number + 1, **record} for number, record in enumerate(annotations)],
        "categories": [{"id": i + 1, "name": name, "supercategory": "demo"} for i, name in enumerate(CLASS_NAMES)],
    }


def voc_annotation(file_name: str, shape: tuple[int, ...], objects: list[SceneObject]) -> str:
    """PASCAL VOC XML of one scene. shape: (H, W, 3). Boxes are 1-based pixel indices, both ends inclusive, as in VOC."""
    lines = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{escape(file_name)}</filename>",
        "  <source><database>InfoMin Transfer demo scenes</database></source>",
        f"  <size><width>{shape[1]}</width><height>{shape[0]}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for thing in objects:
        left, top, right, bottom = thing.box
        truncated = int(left == 0 or top == 0 or right == shape[1] or bottom == shape[0])
        lines += [
            "  <object>",
            f"    <name>{CLASS_NAMES[thing.class_index]}</name>",
            "    <pose>Unspecified</pose>",
            f"    <truncated>{truncated}</truncated>",
            f"    <occluded>{int(thing.visible < _OCCLUDED_BELOW)}</occluded>",
            "    <difficult>0</difficult>",
            f"    <bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
