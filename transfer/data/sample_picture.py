"""A picture of samples of a split: images with their boxes, to see at a glance whether the two belong together.

In: `DetectionData`. Out: a PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain.base.errors import DataError
from pretrain.base.image_files import read_image
from pretrain.views.sheet import save_png
from transfer.data.drawing import BOX_COLOURS, draw_boxes
from transfer.data.records import DetectionData

SAMPLE = (320, 320)  # pixels, the largest width and height of a drawn image


def draw_samples(data: DetectionData, path: Path, *, count: int = 16, columns: int = 4) -> int:
    """Write a PNG of images with their boxes, chosen evenly from those that have objects; returns how many it shows.

    An image that cannot be read is left out. With no image at all nothing is written and 0 returned.
    """
    labelled = [record for record in data.records if record["annotations"]] or list(data.records)
    step = max(len(labelled) / max(count, 1), 1.0)
    colours = {name: BOX_COLOURS[number % len(BOX_COLOURS)] for number, name in enumerate(data.class_names)}
    cells: list[np.ndarray] = []
    for number in range(min(count, len(labelled))):
        record = labelled[int(number * step)]
        try:
            image = Image.fromarray(read_image(Path(record["file_name"])))
        except DataError:
            continue
        names = data.class_names
        boxes = [
            {"box": thing["bbox"], "class": names[thing["category_id"]] + (" (crowd)" if thing.get("iscrowd") else "")}
            for thing in record["annotations"]
            if thing["category_id"] >= 0
        ]
        cells.append(np.asarray(draw_boxes(image, boxes, colours, within=SAMPLE)))
    if not cells:
        return 0
    save_png(path, _grid(cells, columns))
    return len(cells)


def _grid(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    rows = []
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        height = max(cell.shape[0] for cell in row)
        white = [np.full((height, SAMPLE[0], 3), 255, np.uint8) for _ in range(columns)]
        for target, cell in zip(white, row, strict=False):
            target[: cell.shape[0], : cell.shape[1]] = cell
        rows.append(np.hstack(white))
    return np.vstack(rows)
