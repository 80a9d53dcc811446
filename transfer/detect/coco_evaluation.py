"""COCO's AP of a detector's boxes, masks and keypoints, computed by `coco_engine`.

In: a registered data set whose metadata name a COCO file, and the detector's predictions. Out: Detectron2's figures in percent,
RESULTS with every detection in COCO's form, and ENGINES, which says what computed the figures of each task.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm

from pretrain.base.atomic import atomic_file, write_json
from pretrain.base.errors import ConfigError
from transfer.detect.coco_engine import MAX_ID, NUM_KEYPOINTS, encode_masks, evaluate_detections

RESULTS = "coco_instances_results.json"  # Detectron2's name and form
EVALUATED_BY = "evaluated_by"  # of a record's details: what ENGINES holds
ENGINES = "coco_engines.json"  # task -> name, version and reason of an `Engine`


@dataclass(frozen=True)
class ImageDetections:
    """Of one image. categories (n,): class numbers. boxes (n, 4): x, y, width, height in pixels. scores (n,).

    masks: COCO's run lengths, one a detection; None for a detector without masks. keypoints (n, K, 3): x, y in COCO's pixel
    indices and a score; None for a detector without keypoints.
    """

    image_id: Any
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: list[dict[str, Any]] | None = None
    keypoints: np.ndarray | None = None


class CocoEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator on a faster engine, equal to it in every figure.

    Differences: detections are kept as arrays; `instances_predictions.pth`, a second copy of RESULTS, is not written; a detector
    that finds nothing has AP 0, not NaN: a figure of an early or a failed run is bad, not unknown. (The sizes stay NaN: which of
    them the data hold is not asked.) Where the data hold no object that counts, every figure is NaN.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str],
        *,
        output_dir: Path | None = None,
        kpt_oks_sigmas: Sequence[float] = (),
        only_pycocotools: bool = False,
    ) -> None:
        """tasks: of "bbox", "segm", "keypoints". output_dir: for RESULTS and ENGINES; None: none is written. kpt_oks_sigmas: one
        a keypoint; none: COCO's. only_pycocotools: leave the faster engine out."""
        super().__init__(
            dataset_name,
            tuple(tasks),
            output_dir=None if output_dir is None else str(output_dir),
            use_fast_impl=False,
            kpt_oks_sigmas=tuple(kpt_oks_sigmas),
        )
        self._only_pycocotools = only_pycocotools

    def process(self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> None:
        """Keep the predictions of some images."""
        for given, output in zip(inputs, outputs, strict=True):
            prediction: dict[str, Any] = {"image_id": given["image_id"]}
            if "instances" in output:
                prediction["instances"] = image_detections(output["instances"], given["image_id"])
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to("cpu")
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def evaluate(self) -> Any:
        """{"bbox": {"AP", "AP50", ..., "AP-<class>"}, "segm": {...}} in percent on the main process; empty elsewhere."""
        comm.synchronize()
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return {}
        predictions = list(itertools.chain(*gathered))
        if not predictions:
            self._logger.warning("no predictions to evaluate: the detector returned neither instances nor proposals")
            return {}
        if self._output_dir:
            Path(self._output_dir).mkdir(parents=True, exist_ok=True)
        self._results: OrderedDict[str, dict[str, float]] = OrderedDict()
        if "proposals" in predictions[0]:
            self._eval_box_proposals(predictions)
        if "instances" in predictions[0]:
            self._evaluate_instances([prediction["instances"] for prediction in predictions])
        return self._results

    def _evaluate_instances(self, found: Sequence[ImageDetections]) -> None:
        category_ids = self._category_ids(found)
        table = box_table(found, category_ids)
        entries: list[dict[str, Any]] = []
        if self._output_dir or self._tasks != ("bbox",) or table is None:
            entries = list(itertools.chain.from_iterable(result_entries(one, category_ids) for one in found))
        if self._output_dir:
            with atomic_file(Path(self._output_dir) / RESULTS) as file:
                file.write(json.dumps(entries).encode())
        if not self._do_evaluation:
            self._logger.info("the annotation file holds no annotations: nothing to evaluate against")
            return
        any_found = any(len(one.scores) for one in found)
        if "keypoints" in self._tasks:
            self._check_keypoints(found)
        engines: dict[str, Any] = {}
        for task in sorted(self._tasks):
            evaluation = None
            if any_found:
                evaluation = evaluate_detections(
                    self._coco_api.dataset,
                    table if task == "bbox" and table is not None else entries,
                    task=task,
                    oks_sigmas=self._kpt_oks_sigmas,
                    only_pycocotools=self._only_pycocotools,
                )
                engines[task] = evaluation.engine.as_record()
                self._logger.info("%s AP, computed by %s:\n%s", task, evaluation.engine, evaluation.summary)
            figures = self._derive_coco_results(evaluation, task, class_names=self._metadata.get("thing_classes"))
            if all(math.isnan(value) for value in figures.values()) and self._has_objects(task):
                figures.update(AP=0.0, AP50=0.0, AP75=0.0)
            self._results[task] = figures
        if self._output_dir:
            write_json(Path(self._output_dir) / ENGINES, engines)

    def _has_objects(self, task: str) -> bool:
        """Whether there is anything to find: AP counts no crowd region, that of keypoints only objects that have some."""
        things = self._coco_api.dataset["annotations"]
        return any(
            not thing.get("iscrowd", 0) and (task != "keypoints" or thing.get("num_keypoints", 0)) for thing in things
        )

    def _check_keypoints(self, found: Sequence[ImageDetections]) -> None:
        detected = {one.keypoints.shape[1] for one in found if one.keypoints is not None and len(one.keypoints)}
        labelled = {len(thing["keypoints"]) // 3 for thing in self._coco_api.dataset["annotations"]}
        num_sigmas = len(self._kpt_oks_sigmas) or NUM_KEYPOINTS
        if not detected | labelled <= {num_sigmas}:
            raise ConfigError(
                f"TEST.KEYPOINT_OKS_SIGMAS: {num_sigmas} sigmas{'' if len(self._kpt_oks_sigmas) else ', which are those of COCO'}; "
                f"the detector finds {sorted(detected)} keypoints, the ground truth of {self._metadata.name} has "
                f"{sorted(labelled)}. Pass as many sigmas as there are keypoints"
            )

    def _category_ids(self, found: Sequence[ImageDetections]) -> np.ndarray:
        """The annotation file's category id of each class number."""
        numbers = self._metadata.get("thing_dataset_id_to_contiguous_id")
        largest = max((int(one.categories.max()) for one in found if len(one.categories)), default=-1)
        if numbers is None:
            return np.arange(largest + 1)
        ids = {number: category_id for category_id, number in numbers.items()}
        assert sorted(ids) == list(range(len(numbers))), f"class numbers of {self._metadata.name} are not 0, 1, ..."
        assert largest < len(ids), (
            f"a prediction is of class {largest}, but the data have {len(ids)} classes, from 0 on"
        )
        return np.array([ids[number] for number in range(len(ids))])


def image_detections(instances: Any, image_id: Any) -> ImageDetections:
    """Detectron2's predictions of an image, which stay as they are."""
    if not len(instances):  # whatever the fields of nothing are
        return ImageDetections(image_id, np.zeros(0, dtype=np.int64), np.zeros((0, 4)), np.zeros(0))
    boxes = instances.pred_boxes.tensor.cpu().clone()
    boxes[:, 2:] -= boxes[:, :2]  # in the detector's own precision, as Detectron2's evaluator takes it
    masks = keypoints = None
    if instances.has("pred_masks"):  # torch transposes twice as fast as NumPy
        masks = encode_masks(mask.T.contiguous().numpy().T for mask in instances.pred_masks.cpu())
    if instances.has("pred_keypoints"):
        keypoints = instances.pred_keypoints.cpu().clone()
        keypoints[:, :, :2] -= 0.5  # centres of pixels -> COCO's indices of pixels
    return ImageDetections(
        image_id,
        instances.pred_classes.cpu().numpy(),
        boxes.double().numpy(),
        instances.scores.cpu().double().numpy(),
        masks,
        None if keypoints is None else keypoints.double().numpy(),
    )


def box_table(found: Sequence[ImageDetections], category_ids: np.ndarray) -> np.ndarray | None:
    """(N, 7) image id, x, y, width, height, score, category id of all boxes; None where an id is not exact in a float."""
    ids = {one.image_id for one in found} | set(category_ids.tolist())
    if not all(type(value) is int and abs(value) < MAX_ID for value in ids):
        return None
    columns = (
        np.repeat([float(one.image_id) for one in found], [len(one.scores) for one in found]),
        *np.concatenate([one.boxes for one in found]).T,
        np.concatenate([one.scores for one in found]),
        category_ids[np.concatenate([one.categories for one in found])],
    )
    return np.stack(columns, axis=1)


def result_entries(found: ImageDetections, category_ids: np.ndarray) -> list[dict[str, Any]]:
    """COCO's result entries of one image."""
    columns = zip(category_ids[found.categories].tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
    entries: list[dict[str, Any]] = [
        {"image_id": found.image_id, "category_id": category, "bbox": box, "score": score}
        for category, box, score in columns
    ]
    if found.masks is not None:
        for entry, mask in zip(entries, found.masks, strict=True):
            entry["segmentation"] = mask
    if found.keypoints is not None:
        for entry, points in zip(entries, found.keypoints, strict=True):
            entry["keypoints"] = points.ravel().tolist()
    return entries


def engines_of(inference_dir: Path) -> dict[str, Any]:
    """What the last evaluation into a folder was computed with, for a run's record; empty where it was not COCO's."""
    path = inference_dir / ENGINES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
