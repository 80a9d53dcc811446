"""Labelled images as a COCO file, for pycocotools to evaluate against.

In: `DetectionData`. Out: the content of an instances file. Needed where the user's own file lacks fields, holds what
pycocotools stops at, or numbers its classes differently from the detector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfer.data.records import DetectionData


def ground_truth_json(data: DetectionData, *, relative_to: Path | None = None) -> dict[str, Any]:
    """`data` as a COCO file: ids and categories numbered from 1, categories in class order, area and iscrowd filled in.

    relative_to: the folder that the images' names start from; None: the names alone, for an evaluation, which opens no image.
    """
    annotations: list[dict[str, Any]] = []
    for record in data.records:
        for thing in record["annotations"]:
            x1, y1, x2, y2 = thing["bbox"]
            entry = {
                "id": len(annotations) + 1,
                "image_id": record["image_id"],
                "category_id": thing["category_id"] + 1,
            }
            entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": thing.get("area", (x2 - x1) * (y2 - y1))}
            entry["iscrowd"] = thing.get("iscrowd", 0)
            segmentation = thing.get("segmentation")
            if isinstance(segmentation, dict):
                segmentation = {**segmentation, "counts": segmentation["counts"].decode()}
            if segmentation is not None:
                entry["segmentation"] = segmentation
            annotations.append(entry)
    images = [
        {
            "id": record["image_id"],
            "file_name": _name(Path(record["file_name"]), relative_to),
            "width": record["width"],
            "height": record["height"],
        }
        for record in data.records
    ]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(data.class_names)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def _name(path: Path, relative_to: Path | None) -> str:
    return path.name if relative_to is None else path.absolute().relative_to(relative_to).as_posix()
