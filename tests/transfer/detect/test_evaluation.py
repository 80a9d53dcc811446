"""VOC evaluation: analytic values of AP, parity with Detectron2's own on whole corners, and no loss on fractions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import voc_eval
from detectron2.structures import Boxes, Instances
from PIL import Image

from transfer.compare.image_results import VOC_MATCHES, _voc_matches
from transfer.compare.matches import average_precision
from transfer.data.spec import VOC_2007_METRIC, VOC_METRIC, parse_spec, prepare_data
from transfer.detect.evaluation import THRESHOLDS, VocEvaluator

NAME = "records_of_the_voc_evaluation_tests"
SIDE = 100


@pytest.fixture
def register():
    """Function: records, classes, metric -> evaluator; forgotten afterwards."""

    def make(records, classes, metric=VOC_METRIC) -> VocEvaluator:
        DatasetCatalog.register(NAME, lambda: records)
        MetadataCatalog.get(NAME).set(thing_classes=list(classes), metric=metric)
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
    evaluator = register([record("a", (0, BOX), (0, FAR))], ["cat"], VOC_2007_METRIC)
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


def test_where_no_object_counts_there_is_no_figure(register) -> None:
    evaluator = register([record("a", (0, FAR, 1)), record("b")], ["cat"])
    detect(evaluator, "a", (0, 0.9, FAR))
    assert all(math.isnan(value) for value in evaluator.evaluate()["bbox"].values())


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


def write_voc(root: Path, records: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
    """The records in the layout that Detectron2's evaluator reads: corners counted from 1, whole."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for entry in records:
        objects = []
        for thing in entry["annotations"]:
            x1, y1, x2, y2 = thing["bbox"]
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True)
            objects.append(
                f"<object><name>{classes[thing['category_id']]}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{thing.get('difficult', 0)}</difficult>"
                f"<bndbox>{''.join(f'<{side}>{value:g}</{side}>' for side, value in corners)}</bndbox></object>"
            )
        text = f"<annotation>{''.join(objects)}</annotation>"
        (root / "Annotations" / f"{entry['image_id']}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(entry["image_id"] for entry in records))


def random_case(seed: int, classes: int) -> tuple[list[dict[str, Any]], dict[str, list[tuple]]]:
    """Records with whole corners, and detections near and far whose numbers survive Detectron2's way through text."""
    rng = np.random.default_rng(seed)

    def box() -> list[float]:
        x, y = rng.integers(0, 60, 2)
        return [float(x), float(y), float(x + rng.integers(8, 40)), float(y + rng.integers(8, 40))]

    records = [
        record(
            f"{i:03d}",
            *[(int(rng.integers(classes)), box(), int(rng.random() < 0.2)) for _ in range(5)],
            *[(c, box()) for c in range(classes)],
        )
        for i in range(12)
    ]
    scores = iter(rng.permutation(999)[:400] / 1000)  # no two alike: Detectron2 orders equal ones by chance
    found = {}
    for entry in records:
        near = [
            (thing["category_id"], float(next(scores)), [round(e + float(rng.normal(0, 2)), 1) for e in thing["bbox"]])
            for thing in entry["annotations"]
            for _ in range(int(rng.integers(0, 3)))
        ]
        found[entry["image_id"]] = [*near, (int(rng.integers(classes)), float(next(scores)), box())]
    return records, found


@pytest.mark.parametrize("metric", [VOC_METRIC, VOC_2007_METRIC])
def test_equals_detectron2_on_whole_corners(register, tmp_path: Path, metric: str) -> None:
    """Each class by itself, to 1e-9: what Detectron2's `voc_eval` says of the same detections, and its evaluator of all."""
    classes = ["ant", "bee", "cat"]
    records, found = random_case(seed=len(metric), classes=3)
    write_voc(tmp_path, records, classes)
    ours = register(records, classes, metric)
    MetadataCatalog.get(NAME).set(dirname=str(tmp_path), split="test", year=2007 if metric == VOC_2007_METRIC else 2012)
    theirs = PascalVOCDetectionEvaluator(NAME)
    theirs.reset()
    for image, detections in found.items():
        for evaluator in (ours, theirs):
            detect(evaluator, image, *detections)
    mine = ours.evaluate()["bbox"]
    assert 5 < mine["AP"] < 95  # a comparison of something
    for number, name in enumerate(classes):
        (tmp_path / f"{name}.txt").write_text("\n".join(theirs._predictions[number]))
        precision = [
            voc_eval(
                str(tmp_path / "{}.txt"),
                str(tmp_path / "Annotations" / "{}.xml"),
                str(tmp_path / "ImageSets" / "Main" / "test.txt"),
                name,
                ovthresh=threshold,
                use_07_metric=metric == VOC_2007_METRIC,
            )[2]
            for threshold in THRESHOLDS
        ]
        # Boxes arrive as float32: a tenth of a pixel is off by 1e-6, which moves no detection across a threshold here.
        assert mine[f"AP-{name}"] == pytest.approx(100 * np.mean(precision), abs=1e-9)
    stock = theirs.evaluate()["bbox"]
    assert {key: mine[key] for key in stock} == pytest.approx(stock, abs=1e-9)


def test_equal_scores_are_ordered_by_the_split_whichever_process_comes_first(register) -> None:
    records = [record("a", (0, BOX)), record("b", (0, BOX))]
    results = []
    for order in ("ab", "ba"):
        evaluator = VocEvaluator(NAME) if results else register(records, ["cat"])
        for image in order:
            detect(evaluator, image, (0, 0.5, BOX if image == "a" else FAR))
        results.append(evaluator.evaluate()["bbox"]["AP50"])
    assert results == [50, 50]


@pytest.mark.parametrize("metric", [VOC_METRIC, VOC_2007_METRIC])
def test_what_is_kept_of_every_image_gives_the_ap_of_images_that_stand_several_times(
    register, tmp_path, metric
) -> None:
    """The matches left for intervals over test images, against the evaluator on images that really stand so often."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(12):
        corners = rng.uniform(0, 60, (3, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (3, 2))], axis=1)
        truth.append([(i % 2, box.tolist(), int(rng.random() < 0.2)) for i, box in enumerate(boxes)])
        found.append(
            [(i % 2, float(rng.random()), (box + rng.normal(0, 3, 4)).tolist()) for i, box in enumerate(boxes)]
        )

    def evaluate(weights, output_dir=None):
        names = [(str(i), f"{i} {k}") for i, count in enumerate(weights) for k in range(count)]
        evaluator = register([record(name, *truth[int(i)]) for i, name in names], ["cat", "dog"], metric)
        evaluator._output_dir = output_dir
        for i, name in names:
            detect(evaluator, name, *found[int(i)])
        result = evaluator.evaluate()["bbox"]
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)
        return [result[name] for name in ("AP", "AP50", "AP75")]

    weights = np.concatenate([np.ones((1, 12), int), rng.multinomial(12, [1 / 12] * 12, size=5)])
    expected = [evaluate(weights[0], tmp_path), *map(evaluate, weights[1:])]
    ours = average_precision(_voc_matches(tmp_path / VOC_MATCHES), weights)
    np.testing.assert_allclose(np.stack([ours.mean(1), ours[:, 0], ours[:, 5]], 1), expected, atol=1e-10)
    assert np.ptp(ours[1:, 0]) > 1
    register([], [])  # what the fixture forgets


@pytest.mark.parametrize("kind", ["voc", "voc07"])
@pytest.mark.parametrize("side", [8, 16, 25])
def test_perfect_predictions_of_boxes_with_fractions_score_one_hundred(tmp_path: Path, side: int, kind: str) -> None:
    """Corners as CVAT and VoTT write them, through the reader and the evaluator. Rounded before evaluation, as Detectron2's
    needs them, they scored 80.8, 91.5 and 97.9."""
    write_fractions(tmp_path, side)
    name = prepare_data(None, parse_spec(f"{kind}:{tmp_path}:test")).test_name
    assert perfect(name) == {"AP": 100, "AP50": 100, "AP75": 100, "AP-cat": 100}


def test_control_a_pixel_less_at_the_upper_left_costs_small_boxes_their_ap(tmp_path: Path) -> None:
    write_fractions(tmp_path, 8)
    name = prepare_data(None, parse_spec(f"voc:{tmp_path}:test")).test_name
    assert perfect(name, shift=1.0)["AP"] < 80


@pytest.mark.realdata
@pytest.mark.parametrize("case", ["fewshot", "frac_8", "spaces", "split_bom", "webp"])
def test_perfect_predictions_of_every_case_score_one_hundred(shared_data: Path, case: str) -> None:
    name = prepare_data(None, parse_spec(f"voc:{shared_data}/cases/voc_{case}:train")).test_name
    assert perfect(name)["AP"] == 100


def write_fractions(root: Path, side: int) -> None:
    """30 images with two boxes of about `side` pixels each, six decimals a corner."""
    rng = np.random.default_rng(side)
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for i in range(30):
        objects = []
        for left in (4, 64):  # apart
            x, y = left + rng.random() * 10, rng.random() * 60
            w, h = side * rng.uniform(0.85, 1.15, 2)
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h), strict=True)
            box = "".join(f"<{name}>{value:.6f}</{name}>" for name, value in corners)
            objects.append(f"<object><name>cat</name><bndbox>{box}</bndbox></object>")
        size = "<size><width>120</width><height>100</height></size>"
        (root / "Annotations" / f"{i}.xml").write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
        Image.new("RGB", (120, 100)).save(root / "JPEGImages" / f"{i}.jpg")
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(map(str, range(30))))


def perfect(name: str, shift: float = 0.0) -> dict[str, float]:
    """The figures of detections that are the records of a registered data set, the upper left corner `shift` pixels off."""
    evaluator = VocEvaluator(name)
    for entry in DatasetCatalog.get(name):
        found = []
        for number, thing in enumerate(entry["annotations"]):
            x1, y1, x2, y2 = thing["bbox"]
            found.append((thing["category_id"], 0.9 - number / 100, [x1 + shift, y1 + shift, x2, y2]))
        detect(evaluator, entry["image_id"], *found)
    return evaluator.evaluate()["bbox"]
