"""Intervals over test images where the test set is one that Detectron2 registers: COCO's and VOC's own evaluators."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from tests.transfer.conftest import split, write_detection
from transfer.compare import image_results
from transfer.compare.image_results import bootstrap_of, detection_matches
from transfer.compare.matches import average_precision
from transfer.compare.results import read_run
from transfer.detect.builtin_voc import BuiltinVocEvaluator
from transfer.detect.coco_evaluation import CocoEvaluator
from transfer.detect.figures import figures_of

CLASSES = ("cat", "dog", "bird")
NUM_IMAGES = 30


@pytest.fixture(autouse=True)
def forget():
    """What was read of other folders, and data sets that a test registers."""
    before = set(DatasetCatalog)
    image_results._read.cache_clear()
    image_results._matches.cache_clear()
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


Found = dict[int, list[tuple[int, float, list[float]]]]  # image -> class, score, corners counted from 0


def scenes(seed: int, *, digits: int) -> tuple[dict[int, list[tuple[int, list[int], int]]], Found]:
    """Objects (class, corners, difficult) and predictions by image. digits: of the scores; few make many of them equal."""
    rng = np.random.default_rng(seed)
    objects: dict[int, list[tuple[int, list[int], int]]] = {}
    found: Found = {}
    scores = rng.permutation(1000) / 1000
    used = 0
    for image in range(NUM_IMAGES):
        objects[image], found[image] = [], []
        for _ in range(int(rng.integers(0, 4))):
            x, y, w, h = (int(v) for v in rng.integers((1, 1, 8, 8), (60, 60, 38, 38)))
            category = int(rng.integers(3))
            objects[image].append((category, [x, y, x + w, y + h], int(rng.random() < 0.2)))
            for _ in range(int(rng.integers(0, 3))):
                moved = np.array([x - 1, y - 1, x + w, y + h]) + rng.normal(0, 3, 4)
                found[image].append((category, round(float(scores[used]), digits), moved.tolist()))
                used += 1
        found[image].append((int(rng.integers(3)), round(float(scores[used]), digits), [5.0, 5.0, 30.0, 30.0]))
        used += 1
    return objects, found


def write_voc(root: Path, objects: dict[int, list[tuple[int, list[int], int]]], images: list[int]) -> None:
    """A VOC folder whose split `test` is `images`; the k-th is called `k_IMAGE`, so that one may stand there twice."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    names = [f"{number}_{image}" for number, image in enumerate(images)]
    for name, image in zip(names, images, strict=True):
        parts = []
        for category, corners, difficult in objects[image]:
            box = "".join(
                f"<{key}>{v}</{key}>" for key, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            )
            parts.append(
                f"<object><name>{CLASSES[category]}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
            )
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(parts)}</annotation>")
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(names) + "\n")


def fed(evaluator, found: Found, images: list[tuple[object, int]]):
    """The evaluator's answer on predictions. images: (id, image of `found`)."""
    evaluator.reset()
    for name, image in images:
        rows = found[image]
        instances = Instances((100, 100))
        instances.pred_boxes = Boxes(torch.tensor([row[2] for row in rows]).reshape(-1, 4))
        instances.scores = torch.tensor([row[1] for row in rows])
        instances.pred_classes = torch.tensor([row[0] for row in rows])
        evaluator.process([{"image_id": name}], [{"instances": instances}])
    return evaluator.evaluate()


def named(images: list[int]) -> list[tuple[object, int]]:
    return [(f"{number}_{image}", image) for number, image in enumerate(images)]


def matches_of(folder: Path):
    return image_results._voc_matches(folder / "voc_matches.npz")


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("digits", [1, 3])
def test_what_the_voc_evaluator_keeps_gives_its_own_figures_also_with_equal_scores(
    tmp_path: Path, year: int, digits: int
) -> None:
    objects, found = scenes(year + digits, digits=digits)
    images = list(range(NUM_IMAGES))
    write_voc(tmp_path / "voc", objects, images)
    register_pascal_voc("tiny_voc", str(tmp_path / "voc"), "test", year, CLASSES)
    theirs = fed(PascalVOCDetectionEvaluator("tiny_voc"), found, named(images))
    ours = fed(BuiltinVocEvaluator("tiny_voc", tmp_path / "out"), found, named(images))
    assert ours == theirs and 5 < theirs["bbox"]["AP"] < 95
    (values,) = average_precision(matches_of(tmp_path / "out"), np.ones((1, NUM_IMAGES), int))
    assert [values.mean(), values[0], values[5]] == pytest.approx(list(theirs["bbox"].values()), abs=1e-9)


@pytest.mark.parametrize("year", [2007, 2012])
def test_a_resample_of_voc_images_scores_what_detectron2_says_of_that_list(tmp_path: Path, year: int) -> None:
    objects, found = scenes(7, digits=3)
    rng = np.random.default_rng(1)
    images = sorted(rng.integers(0, NUM_IMAGES, NUM_IMAGES).tolist())
    write_voc(tmp_path / "voc", objects, list(range(NUM_IMAGES)))
    write_voc(tmp_path / "again", objects, images)
    register_pascal_voc("tiny_voc", str(tmp_path / "voc"), "test", year, CLASSES)
    register_pascal_voc("tiny_voc_again", str(tmp_path / "again"), "test", year, CLASSES)
    fed(BuiltinVocEvaluator("tiny_voc", tmp_path / "out"), found, named(list(range(NUM_IMAGES))))
    theirs = fed(PascalVOCDetectionEvaluator("tiny_voc_again"), found, named(images))
    weights = np.bincount(images, minlength=NUM_IMAGES)[None]
    (values,) = average_precision(matches_of(tmp_path / "out"), weights)
    assert [values.mean(), values[0], values[5]] == pytest.approx(list(theirs["bbox"].values()), abs=1e-9)


def write_coco(root: Path, objects: dict[int, list[tuple[int, list[int], int]]]) -> Path:
    """coco/annotations and images, as Detectron2 expects a set of COCO."""
    (root / "val").mkdir(parents=True)
    things = []
    for image, of_image in objects.items():
        Image.new("RGB", (100, 100)).save(root / "val" / f"{image}.jpg")
        for category, (x1, y1, x2, y2), _ in of_image:
            box = [x1, y1, x2 - x1, y2 - y1]
            thing = {"id": len(things) + 1, "image_id": image, "category_id": 10 + category, "iscrowd": 0}
            things.append({**thing, "bbox": box, "area": box[2] * box[3]})
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in objects],
        "annotations": things,
        "categories": [{"id": 10 + k, "name": name} for k, name in enumerate(CLASSES)],
    }
    (root / "instances_val.json").write_text(json.dumps(content))
    return root / "instances_val.json"


@pytest.fixture
def coco_runs(tmp_path: Path) -> Callable[..., list]:
    """Two runs on a set that Detectron2 registers. details: of their records."""
    objects, _ = scenes(0, digits=3)
    path = write_coco(tmp_path / "coco", objects)
    register_coco_instances("tiny_coco_val", {}, str(path), str(path.parent / "val"))
    DatasetCatalog.get("tiny_coco_val")

    def make(**details: str) -> list:
        runs = []
        for seed, init in enumerate(("random", "mine")):
            folder = tmp_path / init
            found = scenes(0, digits=3)[1]
            if seed:
                found = {image: rows[: len(rows) // 2 + 1] for image, rows in found.items()}
            evaluator = CocoEvaluator("tiny_coco_val", ("bbox",), output_dir=folder / "inference")
            figures = figures_of(fed(evaluator, found, [(image, image) for image in objects]))
            test = split("tiny_coco_val", NUM_IMAGES)
            write_detection(folder, init=init, seed=0, ap50=1.0, figures=figures, test=test, details=details)
            runs.append(read_run(folder))
        return runs

    return make


def test_the_images_of_a_registered_coco_set_have_their_interval(coco_runs) -> None:
    random, mine = coco_runs()
    found = bootstrap_of([mine], [random], "bbox/AP50")
    assert found is not None and found.n == NUM_IMAGES and found.half_width > 0
    assert found.mean == pytest.approx(mine.metrics["bbox/AP50"] - random.metrics["bbox/AP50"])
    assert detection_matches(mine) is not None


def test_the_record_says_where_the_ground_truth_was_when_the_set_is_not_registered_any_more(
    coco_runs, tmp_path: Path
) -> None:
    random, mine = coco_runs(test_file=str(tmp_path / "coco" / "instances_val.json"))
    DatasetCatalog.remove("tiny_coco_val")
    MetadataCatalog.remove("tiny_coco_val")
    assert bootstrap_of([mine], [random], "bbox/AP") is not None
    image_results._read.cache_clear()
    image_results._matches.cache_clear()
    random, mine = coco_runs_without_file(mine, random)
    assert bootstrap_of([mine], [random], "bbox/AP") is None  # the control


def coco_runs_without_file(*runs):
    """The same runs, whose records do not say it."""
    for run in runs:
        path = run.path / "record.json"
        content = json.loads(path.read_text())
        del content["details"]["test_file"]
        path.write_text(json.dumps(content))
    return [read_run(run.path) for run in reversed(runs)]
