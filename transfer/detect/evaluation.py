"""VOC average precision against the validated records: the boxes that training reads, unrounded.

In: a registered VOC data set (records, class names, the metric) and the detector's predictions. Out: AP50, AP75 and AP
(.5:.95) over the classes that the split holds, and AP of each class, in percent.

The definition is `voc_eval`'s of Detectron2, and equal to it on whole corners. It counts pixels from 1 and includes the last
one; in the edges that records hold, its overlap is the ordinary ratio of areas. Not taken over: whole numbers for the truth
(of boxes of 8 pixels with fractions, perfect predictions score 81), and scores and boxes of predictions written as text with
3 and 1 decimals, whose ties it then orders by chance.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from pretrain.base.atomic import atomic_file
from transfer.data.spec import VOC_2007_METRIC
from transfer.detect.log import LOGGER

MATCHES = "voc_matches.npz"  # what each prediction met, image by image, for intervals over test images
THRESHOLDS = tuple(percent / 100.0 for percent in range(50, 100, 5))  # IoU


class VocEvaluator(DatasetEvaluator):
    """AP by VOC's rules for data that others labelled.

    Detectron2's own evaluator reads the XML files again and stops at a missing `pose`, a fraction of a pixel, a class name with
    a slash; a class that the split does not hold makes its mean NaN (or counts as 0). Here absent classes are left out of the
    mean, as COCO's are. Equal scores are ordered by the image's place in the split, whichever process met it.
    """

    def __init__(self, dataset_name: str, output_dir: Path | None = None) -> None:
        """dataset_name: registered, its metadata with thing_classes and metric. output_dir: for MATCHES; None: none is written."""
        self._output_dir = output_dir
        metadata = MetadataCatalog.get(dataset_name)
        self._records: list[dict[str, Any]] = DatasetCatalog.get(dataset_name)
        self._class_names: list[str] = metadata.thing_classes
        self._eleven_points = metadata.metric == VOC_2007_METRIC
        self._positions = {record["image_id"]: position for position, record in enumerate(self._records)}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._found: list[tuple[int, np.ndarray]] = []  # position of the image, rows of class, score, x1, y1, x2, y2

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Keep the predictions of some images."""
        for given, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            columns = (
                instances.pred_classes.numpy(),
                instances.scores.numpy(),
                *instances.pred_boxes.tensor.numpy().T,
            )
            self._found.append((self._positions[given["image_id"]], np.stack(columns, axis=1).astype(np.float64)))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{"bbox": {"AP", "AP50", "AP75", "AP-<class>"}} in percent on the main process; None elsewhere. NaN where no object counts."""
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return None
        found = sorted((entry for part in gathered for entry in part), key=lambda entry: entry[0])
        images = np.concatenate([np.full(len(rows), position) for position, rows in found] or [np.empty(0)]).astype(int)
        rows = np.concatenate([rows for _, rows in found] or [np.empty((0, 6))])
        table: dict[int, list[float]] = {}  # class -> AP at each threshold
        kept: dict[str, np.ndarray] = {"eleven_points": np.array(self._eleven_points)}
        for category, truth in sorted(self._truth().items()):
            of_class = rows[:, 0] == category
            parts = class_matches(
                truth, images[of_class], rows[of_class, 1], rows[of_class, 2:], num_images=len(self._records)
            )
            precision = [
                precision_of(*curve, num_objects=int(parts["num_objects"].sum()), eleven_points=self._eleven_points)
                for curve in zip(parts["hit"], parts["counted"], strict=True)
            ]
            table[category] = [100.0 * value for value in precision]
            kept |= {f"{category}/{name}": values for name, values in parts.items()}
        if self._output_dir is not None:
            write_matches(self._output_dir, kept)
        if not table:
            LOGGER.warning("no object that is not difficult in %d images: AP cannot be computed", len(self._records))
            return OrderedDict(bbox=dict.fromkeys(("AP", "AP50", "AP75"), math.nan))
        means = np.mean(list(table.values()), axis=0)
        results = {"AP": float(means.mean()), "AP50": float(means[0]), "AP75": float(means[5])}
        results |= {f"AP-{self._class_names[category]}": float(np.mean(row)) for category, row in table.items()}
        return OrderedDict(bbox=results)

    def _truth(self) -> dict[int, dict[int, np.ndarray]]:
        """Class -> position of the image -> rows of x1, y1, x2, y2, difficult; classes with an object that is not difficult."""
        truth: dict[int, dict[int, list[list[float]]]] = {}
        for position, record in enumerate(self._records):
            for thing in record["annotations"]:
                row = [*thing["bbox"], float(bool(thing.get("difficult", 0)))]
                truth.setdefault(thing["category_id"], {}).setdefault(position, []).append(row)
        arrays = {
            category: {position: np.array(rows) for position, rows in images.items()}
            for category, images in truth.items()
        }
        return {c: images for c, images in arrays.items() if any((rows[:, 4] == 0).any() for rows in images.values())}


def class_matches(
    truth: Mapping[int, np.ndarray], images: np.ndarray, scores: np.ndarray, boxes: np.ndarray, *, num_images: int
) -> dict[str, np.ndarray]:
    """What MATCHES holds of one class: the arguments of `match_objects` -> image, score, hit and counted in its order, and
    num_objects (num_images,) that count in each image."""
    order, hit, counted = match_objects(truth, images, scores, boxes)
    objects = np.zeros(num_images, dtype=int)
    for position, things in truth.items():
        objects[position] = (things[:, 4] == 0).sum()
    return {"image": images[order], "score": scores[order], "hit": hit, "counted": counted, "num_objects": objects}


def write_matches(output_dir: Path, kept: Mapping[str, np.ndarray]) -> None:
    """kept: "eleven_points", and "CLASS/NAME" of what `class_matches` gives."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with atomic_file(output_dir / MATCHES) as file:
        np.savez_compressed(file, **kept)  # type: ignore[arg-type]  # its stub takes them for allow_pickle


def match_objects(
    truth: Mapping[int, np.ndarray], images: np.ndarray, scores: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order of the predictions, the best score first; and in that order whether each is a hit, and whether it counts, (T, n)
    at each of THRESHOLDS.

    truth: image -> rows of x1, y1, x2, y2, difficult. images (n,), scores (n,), boxes (n, 4): the predictions of one class.

    Each prediction, the best score first, is compared with the object that it overlaps most. A first hit is true, a second hit
    of the same object is false; a hit of a difficult object counts neither way (PASCAL VOC 2012 development kit, 4.4).
    """
    order = np.argsort(-scores, kind="stable")
    best = [_best_overlap(truth.get(int(images[i])), boxes[i]) for i in order]
    overlap = np.array([value for value, _ in best])
    target = np.array([(images[i], which) for i, (_, which) in zip(order, best, strict=True)], dtype=int).reshape(-1, 2)
    difficult = np.array([w >= 0 and bool(truth[int(i)][w, 4]) for i, w in target], dtype=bool)
    hits = np.zeros((len(THRESHOLDS), len(order)), dtype=bool)
    counted = np.ones_like(hits)
    for number, threshold in enumerate(THRESHOLDS):
        near = overlap > threshold
        candidates = np.flatnonzero(near & ~difficult)
        _, first = np.unique(target[candidates], axis=0, return_index=True)
        hits[number, candidates[first]] = True
        counted[number] = ~(near & difficult)
    return order, hits, counted


def precision_of(hit: np.ndarray, counted: np.ndarray, *, num_objects: int, eleven_points: bool) -> float:
    """AP in [0, 1] out of one row of each of `match_objects`."""
    hits, seen = np.cumsum(hit), np.cumsum(counted)
    precision = hits / np.maximum(seen, np.finfo(np.float64).eps)  # nothing counts before the first of either
    return _curve_value(hits / num_objects, precision, eleven_points=eleven_points)


def _best_overlap(rows: np.ndarray | None, box: np.ndarray) -> tuple[float, int]:
    """(IoU, row) of the object that `box` overlaps most; (-1, -1) in an image without one."""
    if rows is None:
        return -1.0, -1
    corners = rows[:, :4]
    sides = np.minimum(corners[:, 2:], box[2:]) - np.maximum(corners[:, :2], box[:2])
    shared = np.prod(np.maximum(sides, 0.0), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(corners[:, 2:] - corners[:, :2], axis=1) - shared
    overlaps = shared / union
    which = int(np.argmax(overlaps))
    return float(overlaps[which]), which


def _curve_value(recall: np.ndarray, precision: np.ndarray, *, eleven_points: bool) -> float:
    """What a precision-recall curve amounts to: the mean of its best precision at eleven recalls, or the area under it."""
    if eleven_points:
        best = [precision[recall >= least].max(initial=0.0) for least in np.arange(0.0, 1.1, 0.1)]
        return float(np.mean(best))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
