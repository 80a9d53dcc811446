"""Detections drawn into the images that they were made of.

In: pixels and `Instances`. Out: OUT/images/NAME.jpg, as large as the image and below the same folders; a sheet of the first ones.
What is drawn is what the detector returned from the threshold on: nothing is left out or joined for looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
from detectron2.structures import Instances
from PIL import Image, ImageDraw, ImageFont

from pretrain.base.atomic import atomic_file
from transfer.data.drawing import BOX_COLOURS, draw_boxes
from transfer.detect.trained import TrainedDetector

QUALITY = 90  # of JPEG
SHEET_CELLS, SHEET_COLUMNS, CELL, CAPTION, GAP = 16, 4, (320, 240), 16, 4
MAX_WAITING = 8  # images that wait for the drawing thread


class Pictures:
    """Draws in a thread of its own while the network runs. A context: at its end all pictures are on the disk."""

    def __init__(self, detector: TrainedDetector, folder: Path) -> None:
        """folder: for the images; made where it is absent."""
        names = detector.class_names
        self._names, self._skeleton, self._folder = names, detector.skeleton, folder
        self._colours = {name: BOX_COLOURS[i % len(BOX_COLOURS)] for i, name in enumerate(names)}
        self._taken: set[str] = set()
        self._cells: dict[int, tuple[str, Image.Image]] = {}
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def add(self, index: int, name: str, pixels: np.ndarray, found: Instances) -> None:
        """index: of the image in the list. name: relative path. found: on the CPU, not changed afterwards."""
        target = self._folder / self._file_name(name)
        self._waiting.append(self._pool.submit(self._draw, index, name, target, pixels, found))
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft().result()

    def _file_name(self, name: str) -> str:
        """a.jpg for a.jpg, a.png.jpg for a.png: no two pictures are one file."""
        path = PurePosixPath(name)
        drawn = name if path.suffix == ".jpg" else f"{name}.jpg"
        while drawn in self._taken:
            drawn = f"{drawn}.jpg"
        self._taken.add(drawn)
        return drawn

    def _draw(self, index: int, name: str, target: Path, pixels: np.ndarray, found: Instances) -> None:
        image = Image.fromarray(pixels)
        boxes = drawn_boxes(found, self._names)
        picture = draw_boxes(image, boxes, self._colours, within=image.size, skeleton=self._skeleton)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file:
            picture.save(file, "JPEG", quality=QUALITY)
        if index < SHEET_CELLS:  # drawn again: names that are made smaller with a large image cannot be read
            cell = draw_boxes(image, boxes, self._colours, within=CELL, skeleton=self._skeleton)
            self._cells[index] = (name, cell)

    def write_sheet(self, path: Path) -> None:
        """The first pictures with their names. To be called once all are drawn."""
        cells = [self._cells[index] for index in sorted(self._cells)]
        if not cells:
            return
        rows = -(-len(cells) // SHEET_COLUMNS)
        width, height = (max(getattr(picture, side) for _, picture in cells) for side in ("width", "height"))
        width, height = width + GAP, height + CAPTION + GAP
        sheet = Image.new("RGB", (min(len(cells), SHEET_COLUMNS) * width, rows * height), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
        for number, (name, picture) in enumerate(cells):
            x, y = number % SHEET_COLUMNS * width, number // SHEET_COLUMNS * height
            sheet.paste(picture, (x, y + CAPTION))
            draw.text((x + 1, y + 1), name[-width // 7 :], fill="black", font=font)
        with atomic_file(path) as file:
            sheet.save(file, "JPEG", quality=QUALITY)

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for future in self._waiting:
                future.result()


def drawn_boxes(found: Instances, names: Sequence[str]) -> list[dict[str, Any]]:
    """For transfer/data/drawing.py, the best last, so that it lies on top."""
    order = found.scores.argsort(stable=True).tolist()
    boxes, scores, classes = found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist()
    masks = found.pred_masks.numpy() if found.has("pred_masks") else None
    points = found.pred_keypoints.numpy() if found.has("pred_keypoints") else None
    return [
        {
            "box": boxes[i],
            "class": names[classes[i]],
            "score": scores[i],
            "mask": None if masks is None else masks[i],
            "keypoints": None if points is None else points[i],
        }
        for i in order
    ]
