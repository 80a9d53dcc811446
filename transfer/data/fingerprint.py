"""One number for what a split holds, wherever its folder lies: equal splits have equal fingerprints.

In: records of a data set, Detectron2's dicts. Out: a sha256 over the images (name relative to the folder that they have in
common, size) and their objects (class name, box, flags, mask, keypoints). The order of images, objects and classes does not
count, nor does the layout that the annotations came in.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

DIGITS = 3  # of a pixel: x + width is not the same number on every path to it


def fingerprint(records: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> str:
    """Of one split."""
    folders = [str(Path(record["file_name"]).parent) for record in records]
    common = os.path.commonpath(folders) if folders else ""
    lines = sorted(
        json.dumps(
            [
                os.path.relpath(record["file_name"], common or "."),
                record.get("width"),
                record.get("height"),
                sorted(json.dumps(_object(thing, class_names)) for thing in record.get("annotations", ())),
            ]
        )
        for record in records
    )
    return _sha256(lines)


def joined_fingerprint(fingerprints: Sequence[str]) -> str:
    """Of several splits read as one, in any order; of a single one its own."""
    return fingerprints[0] if len(fingerprints) == 1 else _sha256(sorted(fingerprints))


def _sha256(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _object(thing: Mapping[str, Any], class_names: Sequence[str]) -> list[Any]:
    box = BoxMode.convert([float(value) for value in thing["bbox"]], thing["bbox_mode"], BoxMode.XYXY_ABS)
    return [
        class_names[thing["category_id"]],
        _rounded(box),
        int(thing.get("iscrowd", 0)),
        int(thing.get("difficult", 0)),
        _mask(thing.get("segmentation")),
        _rounded(thing.get("keypoints", ())),
    ]


def _mask(segmentation: Any) -> Any:
    if segmentation is None:
        return None
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        return [list(segmentation["size"]), counts.decode() if isinstance(counts, bytes) else counts]
    # Polygons are compared as they were read: COCO has 40 million numbers of them, and rounding each would take a minute.
    return sorted(hashlib.sha256(array("d", polygon).tobytes()).hexdigest() for polygon in segmentation)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
