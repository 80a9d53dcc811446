"""What a detector found image by image: matches from which AP is computed again for any multiset of the test images.

In: the detections that a run left in inference/ and its ground truth. Out: `Matches`, and `average_precision` of them under
weights, a whole number of copies of each image. The matches are pycocotools' own (`evaluateImg`) or, of VOC data, our
evaluator's; a match never depends on another image, so only the curve is computed again. With weights of 1 the result is that
of pycocotools; with others that of pycocotools on the list of images in which each stands so often (tests/transfer/compare/
test_matches.py: equal to 1e-12). Only where several detections of one class in one image have equal scores to the last bit is
their order a choice: here all copies of the first come before those of the second.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COCO_RECALLS = np.linspace(0.0, 1.0, 101)
VOC_2007_RECALLS = np.arange(0.0, 1.1, 0.1)
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # IoU, as COCO's
CHUNK = 1 << 22  # (copies of) detections that are weighted at once
Detections = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in all images, the best score first, equal ones in the order of the images.

    image: (N,) position of the image. score: (N,).
    hit: (T, N) whether it is the match of an object that counts.
    counted: (T, N) whether it counts at all: matches of crowds and difficult objects do not.
    num_objects: (I,) objects that count, by image.
    """

    image: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    counted: np.ndarray
    num_objects: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Of one run on one test set.

    image_ids: in order. classes: those with an object or a detection.
    recalls: at which the precision is averaged; None: the area under the curve.
    """

    image_ids: tuple[Any, ...]
    classes: tuple[ClassMatches, ...]
    recalls: np.ndarray | None

    def best_score(self, threshold: int = 0) -> float | None:
        """The score from which on the detections of all images have the highest F1 at that of THRESHOLDS; None without any hit."""
        score = np.concatenate([one.score for one in self.classes] or [np.empty(0)])
        order = np.argsort(-score, kind="stable")
        hit, counted = (
            np.concatenate([getattr(one, name)[threshold] for one in self.classes] or [np.empty(0)])[order]
            for name in ("hit", "counted")
        )
        if not hit.any():
            return None
        objects = sum(int(one.num_objects.sum()) for one in self.classes)
        f1 = 2 * np.cumsum(hit) / (np.cumsum(counted) + objects)
        return float(score[order][int(np.argmax(f1))])


def average_precision(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """weights (B, I), whole numbers -> AP (B, T) in percent at each threshold of the matches (THRESHOLDS, where they are a
    run's), the mean of the classes that have an object among the images of that row; NaN where none has."""
    weights = np.asarray(weights)
    num_thresholds = len(matches.classes[0].hit) if matches.classes else len(THRESHOLDS)
    total = np.zeros((len(weights), num_thresholds))
    present = np.zeros((len(weights), 1))
    for one in matches.classes:
        rows = max(1, CHUNK // max(1, len(one.image)))
        for start in range(0, len(weights), rows):
            part = slice(start, start + rows)
            objects = weights[part] @ one.num_objects
            there = objects > 0
            total[part][there] += _class_precision(one, weights[part][there], objects[there], matches.recalls)
            present[part] += there[:, None]
    with np.errstate(invalid="ignore"):
        return 100.0 * total / np.where(present > 0, present, np.nan)


def _class_precision(
    one: ClassMatches, weights: np.ndarray, objects: np.ndarray, recalls: np.ndarray | None
) -> np.ndarray:
    """(b, I) copies, (b,) objects -> (b, T) in [0, 1].

    The precision is needed at hits only: between two of them it falls, and what counts is the best at or after a recall.
    """
    result = np.zeros((len(weights), len(one.hit)))
    copies = weights[:, one.image].astype(np.int32)
    seen: np.ndarray | None = None
    for t in range(len(one.hit)):
        if seen is None or not np.array_equal(one.counted[t], one.counted[t - 1]):
            seen = np.cumsum(copies * one.counted[t] if not one.counted[t].all() else copies, axis=1)
        at = np.flatnonzero(one.hit[t])
        if not len(at):
            continue
        hits = np.cumsum(copies[:, at], axis=1).astype(np.float64)
        precision = hits / (seen[:, at] + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = hits / objects[:, None]
        if recalls is None:
            gained = np.diff(recall, prepend=0.0, axis=1)
        else:  # number of recall points that this hit is the first to reach
            reached = np.searchsorted(recalls, recall, side="right")
            gained = np.diff(reached, prepend=0, axis=1) / len(recalls)
        result[:, t] = (best * gained).sum(axis=1)
    return result


# --- matches ----------------------------------------------------------------------------------------------------------


def coco_matches(truth: Mapping[str, Any], detections: Detections, *, task: str) -> Matches:
    """pycocotools' matches of boxes ("bbox") or masks ("segm"): of all sizes, the best 100 detections of a class and image.

    truth: content of a COCO file. detections: as COCO's result files list them. Both stay as they are.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # Where masks are meant, a box would be taken for what a detection is, its area included.
    drop = {"segm": "bbox", "bbox": "segmentation"}[task]
    found = [{key: value for key, value in entry.items() if key != drop} for entry in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO()
        theirs.dataset = {**truth, "annotations": [dict(thing) for thing in truth["annotations"]]}
        theirs.createIndex()
        evaluation = COCOeval(theirs, theirs.loadRes(found) if found else _nothing(truth), task)
        parameters = evaluation.params
        parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
        evaluation.evaluate()
    ids = tuple(int(value) for value in parameters.imgIds)
    by_class = [evaluation.evalImgs[k * len(ids) : (k + 1) * len(ids)] for k in range(len(parameters.catIds))]
    classes = (_of_class(entries) for entries in by_class)
    return Matches(ids, tuple(one for one in classes if one is not None), COCO_RECALLS)


def _nothing(truth: Mapping[str, Any]) -> Any:
    """Detections of a detector that found nothing, which pycocotools cannot load."""
    from pycocotools.coco import COCO

    nothing = COCO()
    nothing.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": []}
    nothing.createIndex()
    return nothing


def _of_class(entries: Sequence[Mapping[str, Any] | None]) -> ClassMatches | None:
    """evaluateImg's answers for one class, one an image, None for an image with neither object nor detection."""
    there = [(position, entry) for position, entry in enumerate(entries) if entry is not None]
    if not there:
        return None
    num_objects = np.zeros(len(entries), dtype=np.int64)
    for position, entry in there:
        num_objects[position] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
    image = np.concatenate([np.full(len(entry["dtScores"]), position) for position, entry in there])
    score = np.concatenate([np.asarray(entry["dtScores"], dtype=np.float64) for _, entry in there])
    order = np.argsort(-score, kind="mergesort")
    counted = ~np.concatenate([entry["dtIgnore"] for _, entry in there], axis=1)[:, order].astype(bool)
    hit = np.concatenate([entry["dtMatches"] for _, entry in there], axis=1)[:, order].astype(bool) & counted
    return ClassMatches(image[order], score[order], hit, counted, num_objects)
