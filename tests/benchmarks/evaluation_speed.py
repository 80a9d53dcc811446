"""What the AP of given detections costs: ours against pycocotools called directly (COCO), and against Detectron2's evaluator (VOC).

Out: functions that tests/benchmarks/bench.py takes in turns; each evaluates the same random detections from their tensors.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import torch

CLASSES, OBJECTS, SIDE = 20, 8, 400
NAMES = [f"class{index}" for index in range(CLASSES)]
Ways = dict[str, Callable[[], object]]


def boxes_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) x, y, width, height inside the image, whole pixels."""
    size = rng.integers(20, 150, (count, 2))
    return np.concatenate([rng.integers(1, SIDE - size), size], axis=1).astype(float)


def truth_and_detections(num_images: int, num_detections: int) -> list[dict[str, np.ndarray]]:
    """Of each image: objects and detections, half of them near an object."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(num_images):
        objects, classes = boxes_of(rng, OBJECTS), rng.integers(CLASSES, size=OBJECTS)
        near = rng.integers(OBJECTS, size=num_detections)
        found, labels = boxes_of(rng, num_detections), rng.integers(CLASSES, size=num_detections)
        half = num_detections // 2
        found[:half] = objects[near[:half]] + rng.integers(-8, 9, (half, 4))
        labels[:half] = classes[near[:half]]
        images.append(
            {"objects": objects, "classes": classes, "found": found, "labels": labels, "scores": rng.random(num_detections)}
        )  # fmt: skip
    return images


def instances_of(image: dict[str, np.ndarray]) -> Any:
    """Detectron2's form of an image's detections."""
    from detectron2.structures import Boxes, Instances

    corners = image["found"].copy()
    corners[:, 2:] += corners[:, :2]
    found = Instances((SIDE, SIDE))
    found.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32))
    found.scores = torch.tensor(image["scores"])
    found.pred_classes = torch.tensor(image["labels"])
    return found


def coco_ways(folder: Path, *, num_images: int, num_detections: int) -> Ways:
    """The evaluator of tools/train_net.py, and pycocotools on the same detections as lists."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from transfer.detect.trainer import CocoEvaluator

    images = truth_and_detections(num_images, num_detections)
    path = folder / "truth.json"
    annotations = [
        {
            "id": 1 + OBJECTS * index + place,
            "image_id": index,
            "category_id": int(label) + 1,
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": 0,
        }
        for index, image in enumerate(images)
        for place, (box, label) in enumerate(zip(image["objects"], image["classes"], strict=True))
    ]
    path.write_text(
        json.dumps(
            {
                "images": [{"id": index, "width": SIDE, "height": SIDE} for index in range(num_images)],
                "categories": [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)],
                "annotations": annotations,
            }
        )
    )
    name = f"bench_coco_{folder}"
    DatasetCatalog.pop(name, None)
    DatasetCatalog.register(name, list)
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=NAMES,
        thing_dataset_id_to_contiguous_id={index + 1: index for index in range(CLASSES)},
    )
    pairs = [([{"image_id": index}], [{"instances": instances_of(image)}]) for index, image in enumerate(images)]

    def ours() -> float:
        with quiet():
            evaluator = CocoEvaluator(name, ("bbox",), distributed=False)
            evaluator.reset()
            for given, output in pairs:
                evaluator.process(given, output)
            return evaluator.evaluate()["bbox"]["AP"]

    def reference() -> float:
        with quiet():
            results = [
                {"image_id": index, "category_id": int(label) + 1, "bbox": box.tolist(), "score": float(score)}
                for index, image in enumerate(images)
                for box, label, score in zip(image["found"], image["labels"], image["scores"], strict=True)
            ]
            truth = pycocotools.coco.COCO(str(path))
            evaluation = pycocotools.cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            return 100 * evaluation.stats[0]

    return {"reference": reference, "ours": ours}


def voc_ways(folder: Path, *, num_images: int, num_detections: int) -> Ways:
    """Ours, and Detectron2's evaluator, which reads the XML files."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator

    from transfer.detect.evaluation import VocEvaluator

    images = truth_and_detections(num_images, num_detections)
    for place in ("Annotations", "ImageSets/Main"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{index}\n" for index in range(num_images)))
    records = []
    for index, image in enumerate(images):
        things, objects = [], []
        for (x, y, width, height), label in zip(image["objects"], image["classes"], strict=True):
            corners = [x, y, x + width, y + height]
            things.append({"bbox": corners, "category_id": int(label)})
            texts = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + width, y + height), strict=True)
            box = "".join(f"<{key}>{int(value)}</{key}>" for key, value in texts)
            objects.append(
                f"<object><name>{escape(NAMES[label])}</name><pose>Unspecified</pose><truncated>0</truncated>"
                f"<difficult>0</difficult><bndbox>{box}</bndbox></object>"
            )
        records.append({"image_id": str(index), "annotations": things})
        (folder / "Annotations" / f"{index}.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    name = f"bench_voc_{folder}"
    DatasetCatalog.pop(name, None)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(thing_classes=NAMES, dirname=str(folder), split="test", year=2012, metric="voc2012")
    pairs = [([{"image_id": str(index)}], [{"instances": instances_of(image)}]) for index, image in enumerate(images)]

    def work(make: Callable[[str], Any]) -> Callable[[], float]:
        def evaluate() -> float:
            with quiet():
                evaluator = make(name)
                evaluator.reset()
                for given, output in pairs:
                    evaluator.process(given, output)
                return evaluator.evaluate()["bbox"]["AP"]

        return evaluate

    return {"reference": work(PascalVOCDetectionEvaluator), "ours": work(VocEvaluator)}


@contextlib.contextmanager
def quiet() -> Any:
    """No tables of the libraries."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
