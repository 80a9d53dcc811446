"""COCO's average precision: by hotcoco where its figures are known to be pycocotools' own, by pycocotools everywhere else.

In: the content of a COCO file, and detections of boxes, masks or keypoints. Out: pycocotools' arrays and statistics, and
which of the two libraries computed them, with the reason where it was not hotcoco.

hotcoco (MIT, Rust) is some fifty times faster and equal bit for bit on files that follow COCO's format
(tests/transfer/detect/test_coco_engine.py). Where it differs from pycocotools, `difference` names the case and pycocotools runs:
it is what the published figures were computed with. Detectron2 is not imported here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

HOTCOCO, PYCOCOTOOLS = "hotcoco", "pycocotools"
COMPARED = "1.3.0"  # version of hotcoco that was compared with pycocotools; requirements/base.txt pins the same one
TASKS = ("bbox", "segm", "keypoints")
MAX_ID = 2**53  # ids below are exact in an array of float64
# Fields of an object that pycocotools reads, by task.
FIELDS = {
    "bbox": ("iscrowd", "area", "bbox"),
    "segm": ("iscrowd", "area", "segmentation"),
    "keypoints": ("iscrowd", "area", "bbox", "keypoints", "num_keypoints"),
}
NUM_KEYPOINTS = 17  # COCO's; other numbers have sigmas of their own
_PROCESS_OF_THREADS: int | None = None  # the process in which hotcoco started threads: a fork of it has none of them
# One row a detection: image id, x, y, width, height, score, category id; or COCO's result entries.
Detections = np.ndarray | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Engine:
    """Which library computed figures. reason: why hotcoco did not; empty where it did."""

    name: str
    version: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}" + (f" ({self.reason})" if self.reason else "")

    def as_record(self) -> dict[str, str]:
        """What a run's record says of it."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one task, in [0, 1]; -1 where there is no object to find.

    stats: pycocotools' 12 figures (10 of keypoints). eval: "precision" (IoU, recall, class, size, detections) and "recall".
    summary: the statistics as pycocotools prints them.
    """

    engine: Engine
    stats: np.ndarray
    eval: Mapping[str, np.ndarray]
    summary: str


def evaluate_detections(
    truth: Mapping[str, Any],
    detections: Detections,
    *,
    task: str,
    oks_sigmas: Sequence[float] = (),
    only_pycocotools: bool = False,
) -> Evaluation:
    """AP and AR of at least one detection.

    truth: content of a COCO file. detections: an array only of boxes. Both stay as they are. oks_sigmas: one a keypoint; none:
    COCO's. only_pycocotools: leave hotcoco out.
    """
    found = _without_other_shapes(detections, task)
    evaluation, engine = _matched(truth, found, task, oks_sigmas, only_pycocotools=only_pycocotools)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), _no_warning_of_sigmas():
        evaluation.accumulate()
        evaluation.summarize()
    summary = printed.getvalue() if engine.name == PYCOCOTOOLS else "\n".join(evaluation.summary_lines())
    values = evaluation.eval
    arrays = {name: np.asarray(values[name]) for name in ("precision", "recall")}
    return Evaluation(engine, np.asarray(evaluation.stats), arrays, "\n".join(_lines_of_figures(summary)))


def encode_masks(masks: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    """(H, W) of bool, fastest in Fortran order -> COCO's compressed run lengths as text: {"size": [H, W], "counts": "..."}."""
    from pycocotools import mask as theirs

    hotcoco, _ = import_hotcoco()
    encoded = []
    for pixels in masks:
        if hotcoco is not None:
            run_lengths = hotcoco.mask.encode(pixels)
        else:
            run_lengths = theirs.encode(np.asarray(pixels, dtype=np.uint8, order="F"))
        encoded.append({"size": list(pixels.shape), "counts": run_lengths["counts"].decode("ascii")})
    return encoded


def import_hotcoco() -> tuple[Any, str]:
    """The module and "", or None and the reason: absent, broken, or of a version that was not compared with pycocotools."""
    try:
        module = importlib.import_module(HOTCOCO)
    except ModuleNotFoundError:
        return None, "hotcoco is not installed"
    except Exception as error:  # a damaged or foreign binary raises what it likes
        return None, f"hotcoco cannot be imported: {type(error).__name__}: {error}"
    version = getattr(module, "__version__", "unknown")
    if version != COMPARED:
        return None, f"hotcoco {version} was not compared with pycocotools, {COMPARED} was"
    return module, ""


# --- where the libraries differ ---------------------------------------------------------------------------------------


def difference(truth: Mapping[str, Any], detections: Detections, *, task: str, oks_sigmas: Sequence[float] = ()) -> str:
    """In which of the known cases of a file that hotcoco and pycocotools read differently this is one; "" for none."""
    objects = truth.get("annotations", ())
    image_ids = {image.get("id") for image in truth["images"]}
    category_ids = [category.get("id") for category in truth["categories"]]
    ids = [thing.get("id") for thing in objects]
    if not all(type(value) is int and 0 < value < MAX_ID for value in ids):
        # pycocotools takes the match of an object with id 0 for no match.
        return "an object's id is not a whole number from 1 on"
    if len(set(ids)) != len(ids):
        return "two objects have the same id"
    if not all(type(value) is int and 0 <= value < MAX_ID for value in (*image_ids, *category_ids)):
        return "the id of an image or a category is not a whole number from 0 on"
    if len(set(category_ids)) != len(category_ids):
        return "two categories have the same id"
    num_keypoints = len(oks_sigmas) or NUM_KEYPOINTS
    for thing in objects:
        reason = _unusual_object(thing, task, num_keypoints)
        if reason:
            return reason
    return _unusual_detections(detections, task, image_ids, num_keypoints)


def _unusual_object(thing: Mapping[str, Any], task: str, num_keypoints: int) -> str:
    for name in FIELDS[task]:
        if thing.get(name) is None:
            return f"an object has no {name}"
    if type(thing.get("image_id")) is not int or type(thing.get("category_id")) is not int:
        return "an object's image_id or category_id is not a whole number"
    if thing["iscrowd"] not in (0, 1):
        return "an object's iscrowd is neither 0 nor 1"
    if thing["area"] != thing["area"]:  # NaN
        return "an object's area is not a number"
    if "bbox" in FIELDS[task] and len(thing["bbox"]) != 4:
        return "an object's bbox is not four numbers"
    if task == "segm":
        outlines = thing["segmentation"]
        if isinstance(outlines, list) and not (outlines and all(len(outline) >= 6 for outline in outlines)):
            return "an object's segmentation has an outline of fewer than three points"
    if task == "keypoints" and len(thing["keypoints"]) != 3 * num_keypoints:
        return f"an object has not {num_keypoints} keypoints"
    return ""


def _unusual_detections(detections: Detections, task: str, image_ids: set[Any], num_keypoints: int) -> str:
    scores: Any
    if isinstance(detections, np.ndarray):
        found, scores = set(detections[:, 0].tolist()), detections[:, 5]
    else:
        found, scores = {entry["image_id"] for entry in detections}, [entry["score"] for entry in detections]
        if task == "keypoints" and any(len(entry["keypoints"]) != 3 * num_keypoints for entry in detections):
            return f"a detection has not {num_keypoints} keypoints"
    if not found <= image_ids:
        return "a detection is of an image that the ground truth does not hold"
    if np.isnan(np.asarray(scores, dtype=np.float64)).any():
        return "a detection's score is not a number"
    return ""


# --- the two libraries ------------------------------------------------------------------------------------------------


def _matched(
    truth: Mapping[str, Any],
    detections: Detections,
    task: str,
    oks_sigmas: Sequence[float],
    *,
    only_pycocotools: bool,
) -> tuple[Any, Engine]:
    """A COCOeval of either library after evaluate(), and which one."""
    hotcoco, reason = (None, "only pycocotools was asked for") if only_pycocotools else import_hotcoco()
    if _PROCESS_OF_THREADS not in (None, os.getpid()):
        reason = reason or "forked from a process in which hotcoco ran, whose threads it would wait for"
    reason = reason or difference(truth, detections, task=task, oks_sigmas=oks_sigmas)
    if hotcoco is not None and not reason:
        try:
            with _no_warning_of_sigmas():
                evaluation = _matched_by_hotcoco(hotcoco, truth, detections, task, oks_sigmas)
            return evaluation, Engine(HOTCOCO, hotcoco.__version__)
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what Rust raises
                raise
            reason = f"hotcoco: {type(error).__name__}: {error}"
    evaluation = _matched_by_pycocotools(truth, detections, task, oks_sigmas)
    return evaluation, Engine(PYCOCOTOOLS, importlib.metadata.version(PYCOCOTOOLS), reason)


def _matched_by_hotcoco(
    hotcoco: Any, truth: Mapping[str, Any], detections: Detections, task: str, sigmas: Sequence[float]
) -> Any:
    global _PROCESS_OF_THREADS
    _PROCESS_OF_THREADS = os.getpid()
    # Its columns are COCO's alone: whatever else stands in a file of the user's is not read.
    objects = hotcoco.COCO({name: truth.get(name, []) for name in ("images", "annotations", "categories")})
    found = objects.load_res(detections if isinstance(detections, np.ndarray) else list(detections))
    evaluation = hotcoco.COCOeval(objects, found, task)
    if task == "keypoints" and len(sigmas):
        evaluation.params.kpt_oks_sigmas = [float(value) for value in sigmas]
    evaluation.evaluate()
    return evaluation


def _matched_by_pycocotools(
    truth: Mapping[str, Any], detections: Detections, task: str, sigmas: Sequence[float]
) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO()
        objects.dataset = {**truth, "annotations": [dict(thing) for thing in truth["annotations"]]}  # it adds fields
        objects.createIndex()
        found = objects.loadRes(detections if isinstance(detections, np.ndarray) else [dict(d) for d in detections])
        evaluation = COCOeval(objects, found, task)
        if task == "keypoints" and len(sigmas):
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
    return evaluation


@contextlib.contextmanager
def _no_warning_of_sigmas() -> Iterator[None]:
    """hotcoco warns that other sigmas than COCO's give another AP; whoever passes them knows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _without_other_shapes(detections: Detections, task: str) -> Detections:
    """Of masks the box is left out, which would be taken for what a detection is, its area included; of boxes the mask."""
    dropped = {"bbox": "segmentation", "segm": "bbox"}.get(task)
    if isinstance(detections, np.ndarray) or dropped is None:
        return detections
    return [{key: value for key, value in entry.items() if key != dropped} for entry in detections]


def _lines_of_figures(printed: str) -> list[str]:
    """The libraries pad the first words differently."""
    parts = re.findall(r"(Average \w+) +(\(A[PR]\)) +(@.*)", printed)
    return [f"{words:<17} {kind} {rest}" for words, kind, rest in parts]
