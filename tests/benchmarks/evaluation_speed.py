"""What the AP of given detections costs: ours against pycocotools called directly (COCO), and against Detectron2's evaluator (VOC).

Out: functions that tests/benchmarks/bench.py takes in turns; each evaluates the same random detections, boxes from their tensors,
masks from their run lengths. By itself, python -m tests.benchmarks.evaluation_speed: COCO's evaluation of 500 images by its parts,
in CPU time of interleaved turns. RAYON_NUM_THREADS=1 before it: hotcoco on one thread.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
import pycocotools.mask
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
    from transfer.detect.coco_evaluation import CocoEvaluator

    images = truth_and_detections(num_images, num_detections)
    path = folder / "truth.json"
    path.write_text(json.dumps(truth_of(images)))
    name = register_truth(path)
    pairs = [([{"image_id": index}], [{"instances": instances_of(image)}]) for index, image in enumerate(images)]

    def ours() -> float:
        with quiet():
            return evaluated(CocoEvaluator(name, ("bbox",)), pairs)

    def reference() -> float:
        with quiet():
            truth = pycocotools.coco.COCO(str(path))
            return pycocotools_ap(truth, truth.loadRes(entries_of(images)), "bbox")

    return {"reference": reference, "ours": ours}


def mask_ways(folder: Path, *, num_images: int, num_detections: int) -> Ways:
    """The engine of the evaluator, and pycocotools, on masks as run lengths: what encoding costs is the same to both."""
    from transfer.detect.coco_engine import evaluate_detections

    images = truth_and_detections(num_images, num_detections)
    path = folder / "mask_truth.json"
    path.write_text(json.dumps(truth_of(images, outlines=True)))
    found = entries_of(images, masks=True)

    def ours() -> float:
        return 100 * evaluate_detections(json.loads(path.read_text()), found, task="segm").stats[0]

    def reference() -> float:
        with quiet():
            truth = pycocotools.coco.COCO(str(path))
            copies = [{key: value for key, value in entry.items() if key != "bbox"} for entry in found]
            return pycocotools_ap(truth, truth.loadRes(copies), "segm")

    return {"reference": reference, "ours": ours}


def truth_of(images: list[dict[str, np.ndarray]], *, outlines: bool = False) -> dict[str, Any]:
    """A COCO file's content. outlines: with an octagon of each object."""
    annotations: list[dict[str, Any]] = [
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
    for thing in annotations if outlines else ():
        thing["segmentation"] = [octagon(np.array(thing["bbox"])).tolist()]
    return {
        "images": [{"id": index, "width": SIDE, "height": SIDE} for index in range(len(images))],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)],
        "annotations": annotations,
    }


def octagon(box: np.ndarray) -> np.ndarray:
    """(16,) corners of an octagon in a box of x, y, width, height."""
    steps = np.array([0.3, 0, 0.7, 0, 1, 0.3, 1, 0.7, 0.7, 1, 0.3, 1, 0, 0.7, 0, 0.3])
    return np.tile(box[:2], 8) + steps * np.tile(box[2:], 8)


def entries_of(images: list[dict[str, np.ndarray]], *, masks: bool = False) -> list[dict[str, Any]]:
    """COCO's result entries, with or without run lengths of octagons."""
    entries: list[dict[str, Any]] = [
        {"image_id": index, "category_id": int(label) + 1, "bbox": box.tolist(), "score": float(score)}
        for index, image in enumerate(images)
        for box, label, score in zip(image["found"], image["labels"], image["scores"], strict=True)
    ]
    for entry in entries if masks else ():
        (lengths,) = pycocotools.mask.frPyObjects([octagon(np.array(entry["bbox"])).tolist()], SIDE, SIDE)
        entry["segmentation"] = {**lengths, "counts": lengths["counts"].decode()}
    return entries


def register_truth(path: Path) -> str:
    """The name under which Detectron2 knows a COCO file."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    name = f"bench_coco_{path}"
    DatasetCatalog.pop(name, None)
    DatasetCatalog.register(name, list)
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=NAMES,
        thing_dataset_id_to_contiguous_id={index + 1: index for index in range(len(NAMES))},
    )
    return name


def evaluated(evaluator: Any, pairs: list[Any]) -> float:
    """Box AP in percent."""
    evaluator.reset()
    for given, output in pairs:
        evaluator.process(given, output)
    return evaluator.evaluate()["bbox"]["AP"]


def pycocotools_ap(truth: Any, found: Any, task: str) -> float:
    """AP in percent."""
    evaluation = pycocotools.cocoeval.COCOeval(truth, found, task)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return 100 * evaluation.stats[0]


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
                return evaluated(make(name), pairs)

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


# --- by parts ---------------------------------------------------------------------------------------------------------


def parts(folder: Path, *, num_images: int, num_detections: int) -> dict[str, Ways]:
    """Name of a part -> pycocotools' or Detectron2's way, and ours."""
    from detectron2.evaluation import COCOEvaluator

    from transfer.detect.coco_engine import encode_masks, evaluate_detections
    from transfer.detect.coco_evaluation import CocoEvaluator, ImageDetections, box_table

    images = truth_and_detections(num_images, num_detections)
    pairs = [([{"image_id": index}], [{"instances": instances_of(image)}]) for index, image in enumerate(images)]
    found: dict[str, Ways] = {}
    for task, masks in (("bbox", False), ("segm", True)):
        path = folder / f"{task}.json"
        path.write_text(json.dumps(truth_of(images, outlines=masks)))
        content, entries = json.loads(path.read_text()), entries_of(images, masks=masks)
        with quiet():
            truth = pycocotools.coco.COCO(str(path))
        plain = [{key: value for key, value in entry.items() if key != "bbox" or not masks} for entry in entries]
        table = box_table(
            [
                ImageDetections(index, image["labels"], image["found"], image["scores"])
                for index, image in enumerate(images)
            ],
            np.arange(len(NAMES)) + 1,
        )

        def reference(task: str = task, truth: Any = truth, plain: Any = plain) -> float:
            with quiet():
                return pycocotools_ap(truth, truth.loadRes([dict(entry) for entry in plain]), task)

        def ours(task: str = task, content: Any = content, given: Any = plain if masks else table) -> float:
            return 100 * evaluate_detections(content, given, task=task).stats[0]

        found[f"{task}: figures of given detections"] = {"reference": reference, "ours": ours}
    name = register_truth(folder / "bbox.json")
    for label, output in (("", None), (", result file written", folder / "out")):

        def theirs(output: Path | None = output) -> float:
            with quiet():
                output_dir = str(output) if output else None
                return evaluated(COCOEvaluator(name, ("bbox",), False, output_dir, use_fast_impl=False), pairs)

        def whole(output: Path | None = output) -> float:
            with quiet():
                return evaluated(CocoEvaluator(name, ("bbox",), output_dir=output), pairs)

        found[f"bbox: whole evaluator, file read{label}"] = {"reference": theirs, "ours": whole}
    pixels = torch.zeros(60, 480, 640, dtype=torch.bool)
    for index, mask in enumerate(pixels):
        mask[index : 3 * index + 200, 2 * index : 5 * index + 100] = True

    def theirs_encoded() -> list[Any]:
        rows = (np.array(mask[:, :, None], order="F", dtype="uint8") for mask in pixels)
        return [pycocotools.mask.encode(row)[0] for row in rows]

    def ours_encoded() -> list[Any]:
        return encode_masks(mask.T.contiguous().numpy().T for mask in pixels)

    found["run lengths of 60 masks of 480 x 640"] = {"reference": theirs_encoded, "ours": ours_encoded}
    return found


def main(num_images: int = 500, num_detections: int = 60, turns: int = 5) -> None:
    """Print each part's CPU seconds, median of turns, and the ratio with its range."""
    global CLASSES, OBJECTS, NAMES
    CLASSES, OBJECTS = 80, 7
    NAMES = [f"class{index}" for index in range(CLASSES)]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, ways in parts(Path(folder), num_images=num_images, num_detections=num_detections).items():
            taken: dict[str, list[float]] = {"reference": [], "ours": []}
            answers = {}
            for _ in range(turns + 1):  # the first is not counted
                for way, work in ways.items():
                    start = time.process_time()
                    answers[way] = work()
                    taken[way].append(time.process_time() - start)
            if isinstance(answers["ours"], float):
                assert abs(answers["ours"] - answers["reference"]) < 1e-9, (name, answers)
            ratios = [a / b for a, b in zip(taken["reference"][1:], taken["ours"][1:], strict=True)]
            medians = [statistics.median(times[1:]) for times in taken.values()]
            print(
                f"{name}: {medians[0]:.3f} s -> {medians[1]:.4f} s, {statistics.median(ratios):.1f}x "
                f"[{min(ratios):.1f}-{max(ratios):.1f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
