"""Detections side by side: the same images in every row, by one rule of scores, boxes where they belong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from transfer.compare.experiments import group_runs
from transfer.compare.results import read_run
from transfer.compare.side_by_side import (
    CELL,
    MAX_COLUMNS,
    SCORE_SHOWN,
    score_of,
    shown_predictions,
    side_by_side,
    spread_out,
)
from transfer.data.drawing import BOX_COLOURS, draw_boxes


@pytest.fixture
def detection(make_detection, tmp_path):
    return read_run(make_detection(tmp_path / "detect" / "run", init="random", seed=0, ap50=30.0))


def seeded(run, seed, label="random"):
    start = replace(run.record.initialisation, name=label)
    return replace(run, record=replace(run.record, seeds={"run": seed}, initialisation=start))


def grid_of(*runs):
    (group,) = group_runs(runs)
    return side_by_side(group)


def test_every_row_shows_the_same_images_below_the_truth_from_its_lowest_seed(detection):
    grid = grid_of(seeded(detection, 4), seeded(detection, 2), seeded(detection, 7, "infomin"))
    assert grid.files == ("0.png", "1.png", "2.png")
    assert [(title, facts) for title, facts, _ in grid.rows] == [
        ("ground truth", ""),
        ("random", "seed 2, score 0.30 and more (fixed)"),
        ("infomin", "seed 7, score 0.30 and more (fixed)"),
    ]
    assert [[cell.text for cell in cells] for *_, cells in grid.rows] == [["2 boxes"] * 3, ["1 box"] * 3, ["1 box"] * 3]


def test_only_images_that_every_row_has_are_shown_and_none_is_no_grid(detection):
    other = replace(seeded(detection, 0, "infomin"), samples=detection.samples[1:2])
    assert grid_of(detection, other).files == ("1.png",)
    assert [title for title, *_ in grid_of(detection, replace(other, samples=())).rows] == ["ground truth", "random"]
    assert grid_of(replace(detection, samples=())) is None


def test_columns_are_spread_over_the_images_and_no_more_than_a_page_bears():
    assert spread_out(list("abcdefgh"), 4) == list("aceg") and spread_out(list("abc"), 4) == list("abc")
    assert MAX_COLUMNS == 4


@pytest.mark.parametrize("boxes", [[{}], [1], [{"box": [1, 2], "score": 1}], [{"box": ["a"] * 4, "score": 1}]])
def test_boxes_of_another_form_and_lost_images_are_a_note(detection, boxes):
    (first, *_) = detection.samples
    grid = grid_of(replace(detection, samples=({**first, "predictions": boxes},)))
    assert grid.rows[1][2][0].uri == "" and "no picture" in grid.rows[1][2][0].text
    lost = grid_of(replace(detection, samples=({**first, "file": "/nowhere/<i>.png"},)))
    assert all("no picture" in cells[0].text for *_, cells in lost.rows)


def test_predictions_are_shown_from_the_score_on():
    found = [{"score": score} for score in (0.1, 0.9, 0.3, 0.29)]
    assert [box["score"] for box in shown_predictions(found, 0.3)] == [0.3, 0.9]


def test_the_score_is_the_one_of_the_best_f1_where_the_run_left_its_detections(detection):
    assert score_of(detection) == (SCORE_SHOWN, " (fixed)")
    folder = detection.path / "inference"
    folder.mkdir()
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cup"}],
    }
    boxes = [([0, 0, 50, 50], 0.12), ([60, 60, 30, 30], 0.1), ([40, 40, 30, 30], 0.07)]
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": score} for box, score in boxes]
    (folder / "ground_truth.json").write_text(json.dumps(truth))
    (folder / "coco_instances_results.json").write_text(json.dumps(found))
    run = read_run(detection.path)
    run = replace(run, record=replace(run.record, started="later"))
    from transfer.compare import image_results

    image_results._matches.cache_clear()
    assert score_of(run) == (0.12, "")


def test_a_box_is_drawn_at_its_place_in_its_colour():
    image = Image.new("RGB", (CELL[0] // 2, CELL[0] // 4))  # drawn at twice the size
    box = {"box": [20, 20, 70, 50], "class": "cup"}
    canvas = np.asarray(draw_boxes(image, [box], {"cup": BOX_COLOURS[3]}, within=CELL))
    colour = tuple(int(BOX_COLOURS[3][i : i + 2], 16) for i in (1, 3, 5))
    assert canvas.shape[1] == CELL[0] and (canvas[60:95, [40, 140]] == colour).all()
    assert (canvas[100, 45:135] == colour).all() and not canvas[103:].any() and not canvas[60:95, 50:130].any()
    assert not np.asarray(image).any()  # the image itself is left as it was
    dashed = np.asarray(draw_boxes(image, [], {}, within=CELL, truth=[box]))
    assert {tuple(pixel) for pixel in dashed[100, 45:135]} == {(0, 0, 0), (255, 255, 255)}


def test_boxes_beyond_the_image_and_turned_around_are_drawn():
    image = Image.new("RGB", (64, 48))
    boxes = [{"box": [90, 90, -10, -10], "score": 0.5}, {"box": [0, 0, 0, 0], "class": 3}]
    draw_boxes(image, boxes, {}, within=CELL, truth=boxes)
