"""VOC evaluation: analytic values of AP, and parity with Detectron2's own evaluator on random detections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from transfer.detect.evaluation import VocEvaluator, write_ground_truth

NAME = "records_of_the_voc_evaluation_tests"
SIDE = 100


@pytest.fixture
def register():
    """Function: records, classes, year -> evaluator; forgotten afterwards."""

    def make(records, classes, year=2012) -> VocEvaluator:
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(thing_classes=list(classes), year=year)
        evaluator = VocEvaluator(NAME)
        evaluator.reset()
        return evaluator

    yield make
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def record(image: str, *things: tuple) -> dict:
    """things: (class, box) or (class, box, difficult)."""
    keys = ("category_id", "bbox", "difficult")
    return {"image_id": image, "annotations": [dict(zip(keys, entry, strict=False)) for entry in things]}


def detect(evaluator, image: str, *found: tuple) -> None:
    """found: (class, score, box)."""
    instances = Instances((SIDE, SIDE))
    instances.pred_boxes = Boxes(torch.tensor([box for *_, box in found], dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([score for _, score, _ in found])
    instances.pred_classes = torch.tensor([category for category, *_ in found], dtype=torch.long)
    evaluator.process([{"image_id": image}], [{"instances": instances}])


BOX, FAR = [10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]


def test_perfect_detections_score_one_hundred(register) -> None:
    evaluator = register([record("a", (0, BOX), (0, FAR)), record("b", (0, BOX))], ["cat"])
    detect(evaluator, "a", (0, 0.9, BOX), (0, 0.8, FAR))
    detect(evaluator, "b", (0, 0.7, BOX))
    assert evaluator.evaluate()["bbox"] == {"AP": 100, "AP50": 100, "AP75": 100, "AP-cat": 100}


def test_half_found_is_recall_half(register) -> None:
    evaluator = register([record("a", (0, BOX), (0, FAR))], ["cat"])
    detect(evaluator, "a", (0, 0.9, BOX))
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(50)


def test_half_found_scores_six_elevenths_by_the_metric_of_2007(register) -> None:
    evaluator = register([record("a", (0, BOX), (0, FAR))], ["cat"], year=2007)
    detect(evaluator, "a", (0, 0.9, BOX))
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100 * 6 / 11)  # recalls 0, .1, ... .5 of eleven


def test_a_false_alarm_ahead_halves_the_precision(register) -> None:
    evaluator = register([record("a", (0, BOX))], ["cat"])
    detect(evaluator, "a", (0, 0.9, FAR), (0, 0.8, BOX))
    assert evaluator.evaluate()["bbox"]["AP50"] == pytest.approx(50)


def test_second_detection_of_one_object_is_a_false_alarm(register) -> None:
    evaluator = register([record("a", (0, BOX), (0, FAR))], ["cat"])
    detect(evaluator, "a", (0, 0.9, BOX), (0, 0.8, BOX), (0, 0.7, FAR))
    assert evaluator.evaluate()["bbox"]["AP50"] == pytest.approx(50 + 50 * 2 / 3)


def test_thresholds_are_those_of_coco(register) -> None:
    """40 x 40 against 40 x 31: IoU 0.775, so it counts at 0.50 ... 0.75, which are 6 of 10."""
    evaluator = register([record("a", (0, BOX))], ["cat"])
    detect(evaluator, "a", (0, 0.9, [10, 10, 50, 41]))
    found = evaluator.evaluate()["bbox"]
    assert (found["AP50"], found["AP75"]) == (100, 100) and found["AP"] == pytest.approx(60)


def test_difficult_objects_count_neither_way(register) -> None:
    evaluator = register([record("a", (0, BOX), (0, FAR, 1))], ["cat"])
    detect(evaluator, "a", (0, 0.9, FAR), (0, 0.8, BOX))
    assert evaluator.evaluate()["bbox"]["AP"] == 100


def test_absent_class_stays_out_of_the_mean(register) -> None:
    evaluator = register([record("a", (0, BOX), (2, FAR, 1))], ["cat", "dog", "owl"])
    detect(evaluator, "a", (0, 0.9, BOX), (1, 0.9, FAR))
    assert evaluator.evaluate()["bbox"] == {"AP": 100, "AP50": 100, "AP75": 100, "AP-cat": 100}


def test_no_detection_at_all_scores_zero(register) -> None:
    evaluator = register([record("a", (0, BOX)), record("b")], ["cat/tabby"])
    detect(evaluator, "a")
    assert evaluator.evaluate()["bbox"] == {"AP": 0, "AP50": 0, "AP75": 0, "AP-cat/tabby": 0}


def test_reset_forgets_detections(register) -> None:
    evaluator = register([record("a", (0, BOX))], ["cat"])
    detect(evaluator, "a", (0, 0.9, BOX))
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_ground_truth_goes_back_to_corners_counted_from_one(tmp_path: Path) -> None:
    from detectron2.evaluation.pascal_voc_evaluation import parse_rec

    assert write_ground_truth(tmp_path, [record("a", (3, [0.0, 4.0, 10.0, 20.0])), record("b", (1, BOX, 1))]) == [3]
    (only,) = parse_rec(str(tmp_path / "a.xml"))
    assert only["bbox"] == [1, 5, 10, 20] and only["name"] == "3" and only["difficult"] == 0
    assert (tmp_path / "split.txt").read_text().split() == ["a", "b"]


@pytest.mark.parametrize("year", [2007, 2012])
def test_equals_the_evaluator_of_detectron2_on_random_detections(register, tmp_path: Path, year: int) -> None:
    rng = np.random.default_rng(year)
    classes = ["ant", "bee", "cat"]

    def box() -> list[float]:
        x, y = rng.integers(0, 60, 2)
        return [float(x), float(y), float(x + rng.integers(8, 40)), float(y + rng.integers(8, 40))]

    records = [
        record(
            f"{i:03d}",
            *[(int(rng.integers(3)), box(), int(rng.random() < 0.2)) for _ in range(5)],
            *[(c, box()) for c in range(3)],
        )
        for i in range(12)
    ]
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    write_ground_truth(tmp_path / "Annotations", records)
    for path in (tmp_path / "Annotations").glob("*.xml"):
        text = path.read_text()
        for index, name in enumerate(classes):
            text = text.replace(f"<name>{index}</name>", f"<name>{name}</name>")
        path.write_text(text)
    (tmp_path / "Annotations" / "split.txt").rename(tmp_path / "ImageSets" / "Main" / "test.txt")
    ours = register(records, classes, year)
    MetadataCatalog.get(NAME).set(dirname=str(tmp_path), split="test")
    theirs = PascalVOCDetectionEvaluator(NAME)
    theirs.reset()
    for entry in records:
        near = [
            (thing["category_id"], float(rng.random()), [edge + float(rng.normal(0, 2)) for edge in thing["bbox"]])
            for thing in entry["annotations"]
            if rng.random() < 0.8
        ]
        found = [*near, (int(rng.integers(3)), float(rng.random()), box())]
        for evaluator in (ours, theirs):
            detect(evaluator, entry["image_id"], *found)
    mine, stock = ours.evaluate()["bbox"], theirs.evaluate()["bbox"]
    assert 5 < mine["AP"] < 95  # a comparison of something
    assert {key: mine[key] for key in ("AP", "AP50", "AP75")} == pytest.approx(stock)
    assert np.mean([mine[f"AP-{name}"] for name in classes]) == pytest.approx(mine["AP"])
