"""Random COCO files and detections with everything that decides AP at an edge, and pycocotools' own answer to them.

In: a seed and a task. Out: content of a COCO file, result entries; statistics and arrays.
"""

from __future__ import annotations

import contextlib
import copy
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZES = (0.0, 32.0**2 - 1e-3, 32.0**2, 32.0**2 + 1e-3, 96.0**2, 96.0**2 + 1e-4, 1e5**2)  # at the edges of COCO's sizes


@dataclass(frozen=True)
class Case:
    """truth: content of a COCO file. found: result entries. sigmas: of the keypoints; empty for COCO's 17."""

    truth: dict[str, Any]
    found: list[dict[str, Any]]
    sigmas: tuple[float, ...] = ()


class CaseMaker:
    """One case: up to eight images of one size, up to four classes and one that has no object."""

    def __init__(self, seed: int, task: str) -> None:
        rng = self.rng = np.random.default_rng(seed)
        self.task = task
        self.width, self.height = (int(side) for side in rng.integers(20, 200, 2))
        self.whole = rng.random() < 0.5  # corners on a grid: equal overlaps
        self.num_keypoints = int(rng.choice([17, 5])) if task == "keypoints" else 0

    def case(self) -> Case:
        """The case."""
        rng = self.rng
        image_ids = rng.choice(10 ** int(rng.choice([2, 9, 15])), int(rng.integers(2, 9)), replace=False).tolist()
        self.categories = rng.permutation(rng.choice(1000, int(rng.integers(2, 6)), replace=False)).tolist()
        images = [{"id": number, "width": self.width, "height": self.height} for number in image_ids]
        objects: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for image_id in image_ids:
            for _ in range(int(rng.integers(0, 7))):
                objects.append(self._object(image_id, len(objects) + 1))
                found += [self._near(objects[-1]) for _ in range(int(rng.integers(0, 3)))]
            many = rng.random() < 0.15  # more than the 100 that count
            for _ in range(130 if many else int(rng.integers(0, 5))):
                category = self.categories[0] if many else int(rng.choice(self.categories))
                found.append(self._detection(image_id, category, self._box()))
        found = [found[i] for i in rng.permutation(len(found))]
        ties = rng.random() < 0.6
        for entry in found:
            score = rng.random()
            entry["score"] = round(float(score), 1) if ties else float(np.float32(score))
        sigmas = tuple(np.linspace(0.02, 0.1, self.num_keypoints)) if self.num_keypoints not in (0, 17) else ()
        truth = {
            "images": images,
            "annotations": [objects[i] for i in rng.permutation(len(objects))],
            "categories": [{"id": number, "name": str(number)} for number in self.categories],
        }
        return Case(truth, found, sigmas)

    def _box(self) -> list[float]:
        """x, y, width, height: also without width, across the borders and of the sides 32 and 96."""
        rng = self.rng
        draw = rng.random()
        if draw < 0.05:
            sides = [0.0, rng.uniform(0, 5)]
        elif draw < 0.25:
            sides = [float(rng.choice([10, 32, 96]))] * 2
        else:
            sides = [rng.uniform(1, self.width), rng.uniform(1, self.height)]
        box = [rng.uniform(-5, self.width), rng.uniform(-5, self.height), *sides]
        return [float(round(value / 4) * 4) if self.whole else float(value) for value in box]

    def _object(self, image_id: int, number: int) -> dict[str, Any]:
        rng, box = self.rng, self._box()
        thing = {
            "id": number,
            "image_id": image_id,
            "category_id": int(rng.choice(self.categories[:-1])),
            "bbox": box,
            "area": float(rng.choice(SIZES)) if rng.random() < 0.3 else box[2] * box[3],
            "iscrowd": int(rng.random() < 0.2),
        }
        if self.task == "segm":
            thing["segmentation"] = self._segmentation(box)
        if self.task == "keypoints":
            points = self._points(box)
            if rng.random() < 0.2:
                points[:] = 0
            thing["keypoints"], thing["num_keypoints"] = points.ravel().tolist(), int((points[:, 2] > 0).sum())
        return thing

    def _near(self, thing: dict[str, Any]) -> dict[str, Any]:
        rng = self.rng
        shift = rng.normal(0, 2, 4) if rng.random() < 0.7 else np.zeros(4)
        box = [float(value) for value in np.maximum(np.add(thing["bbox"], shift), (-9, -9, 0, 0))]
        category = thing["category_id"] if rng.random() < 0.9 else int(rng.choice(self.categories))
        entry = self._detection(thing["image_id"], category, box)
        if self.task == "keypoints":
            points = np.array(thing["keypoints"]).reshape(-1, 3)
            points[:, :2] += rng.normal(0, 2, (len(points), 2))
            entry["keypoints"] = points.ravel().tolist()
        return entry

    def _detection(self, image_id: int, category: int, box: list[float]) -> dict[str, Any]:
        entry: dict[str, Any] = {"image_id": image_id, "category_id": category, "bbox": box}
        if self.task == "segm":
            entry["segmentation"] = self._run_lengths(box)
        if self.task == "keypoints":
            entry["keypoints"] = self._points(box).ravel().tolist()
        return entry

    def _points(self, box: list[float]) -> np.ndarray:
        x, y, width, height = box
        count, rng = self.num_keypoints, self.rng
        columns = (rng.uniform(x, x + width, count), rng.uniform(y, y + height, count), rng.integers(0, 3, count))
        return np.stack(columns, axis=1)

    def _run_lengths(self, box: list[float]) -> dict[str, Any]:
        pixels = np.zeros((self.height, self.width), np.uint8, order="F")
        x, y, width, height = (round(value) for value in box)
        pixels[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = 1
        if self.rng.random() < 0.5:  # holes
            pixels &= self.rng.random(pixels.shape) < 0.8
        return {"size": [self.height, self.width], "counts": masks.encode(pixels)["counts"].decode()}

    def _segmentation(self, box: list[float]) -> Any:
        """Polygons that cross themselves and the borders, compressed or plain run lengths."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.6:
            x, y, width, height = box
            outlines = []
            for _ in range(int(rng.integers(1, 3))):
                count = int(rng.integers(3, 8))
                points = np.stack(
                    [rng.uniform(x - 2, x + width + 2, count), rng.uniform(y - 2, y + height + 2, count)], 1
                )
                outlines.append((points.round() if self.whole else points).ravel().tolist())
            return outlines
        run_lengths = self._run_lengths(box)
        if draw < 0.8:
            return run_lengths
        flat = masks.decode(run_lengths).T.ravel()
        runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), len(flat)]).tolist()
        return {"size": run_lengths["size"], "counts": [0, *runs] if flat[0] else runs}


def random_case(seed: int, task: str) -> Case:
    """A case with at least one object and one detection."""
    for attempt in range(20):
        case = CaseMaker(seed + 10_000 * attempt, task).case()
        if case.found and case.truth["annotations"]:
            return case
    raise AssertionError("no case with objects")


def reference(case: Case, task: str) -> dict[str, np.ndarray]:
    """pycocotools called directly, as Detectron2 calls it: stats, precision, recall."""
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = copy.deepcopy(case.truth)
        api.createIndex()
        found = copy.deepcopy(case.found)
        for entry in found if task == "segm" else ():
            del entry["bbox"]
        evaluation = COCOeval(api, api.loadRes(found), task)
        if case.sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(case.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"stats": evaluation.stats, **{name: evaluation.eval[name] for name in ("precision", "recall")}}
