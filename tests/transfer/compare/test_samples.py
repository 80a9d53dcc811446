"""Detections beside ground truth: the same images in every column, boxes where they belong, and no picture that ends a report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transfer.compare.groups import group_detection
from transfer.compare.runs import read_detection
from transfer.compare.samples import MAX_BELOW, MAX_IMAGES, draw_boxes, sample_rows, shown_predictions

from transfer.compare.plots import BOX_COLOURS


@pytest.fixture
def detection(make_detection, tmp_path):
    return read_detection(make_detection(tmp_path / "detect" / "run", init="random", seed=0, ap50=30.0))


def rows_of(*runs):
    (group,) = group_detection(runs)
    return sample_rows(group)


def test_each_image_shows_truth_and_every_initialisation_with_its_lowest_seed(detection):
    rows = rows_of(replace(detection, seed=4), replace(detection, seed=2), replace(detection, init="infomin", seed=7))
    assert [row.name for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        assert [(title, count) for title, _, count in row.cells] == [
            ("ground truth", 2), ("random (seed 2)", 1), ("infomin (seed 7)", 1),
        ]  # fmt: skip


def test_only_images_that_every_column_has_are_shown(detection):
    rows = rows_of(detection, replace(detection, init="infomin", samples=detection.samples[1:2]))
    assert [row.name for row in rows] == ["1.png"]


def test_an_initialisation_without_samples_has_no_column_and_none_at_all_no_row(detection):
    rows = rows_of(detection, replace(detection, init="infomin", samples=()))
    assert [title for title, *_ in rows[0].cells] == ["ground truth", "random (seed 0)"]
    assert rows_of(replace(detection, samples=())) == ()


def test_no_more_images_than_a_page_bears(detection):
    file = detection.samples[0]["file"]
    many = tuple({**detection.samples[0], "file": f"{file}?{i}"} for i in range(MAX_IMAGES + 5))
    assert len(rows_of(replace(detection, samples=many))) == MAX_IMAGES


def test_a_lost_image_is_a_note(detection):
    rows = rows_of(replace(detection, samples=({**detection.samples[0], "file": "/nowhere/<i>.png"},)))
    assert rows[0].cells == () and "no picture" in rows[0].note


@pytest.mark.parametrize(
    "boxes",
    [[{}], [1], 7, [{"box": [1, 2], "score": 1}], [{"box": None, "score": 1}], [{"box": ["a"] * 4, "score": 1}], [{"box": [1] * 4, "score": "x"}]],
)  # fmt: skip
def test_boxes_of_another_form_are_a_note(detection, boxes):
    rows = rows_of(replace(detection, samples=({**detection.samples[0], "predictions": boxes},)))
    assert rows[0].cells == () and "no picture" in rows[0].note


def test_predictions_below_the_score_are_shown_only_where_there_is_none_above():
    found = [{"score": score} for score in (0.1, 0.9, 0.3, 0.29)]
    assert [box["score"] for box in shown_predictions(found)] == [0.9, 0.3]
    weak = [{"score": 0.01 * i} for i in range(20)]
    assert [box["score"] for box in shown_predictions(weak)] == pytest.approx(
        [0.19, 0.18, 0.17, 0.16, 0.15][:MAX_BELOW]
    )
    assert shown_predictions([]) == []


def test_a_box_is_drawn_at_its_place_in_its_colour():
    image = Image.new("RGB", (160, 120))  # drawn at twice the size
    box = {"box": [20, 30, 70, 90], "class": "cup"}
    canvas = np.asarray(draw_boxes(image, [box], {"cup": BOX_COLOURS[3]}))
    assert canvas.shape == (240, 320, 3)
    colour = tuple(int(BOX_COLOURS[3][i : i + 2], 16) for i in (1, 3, 5))
    inside_edges = (canvas[100:170, [40, 140]] == colour).all()
    bottom = (canvas[180, 45:135] == colour).all()
    assert inside_edges and bottom and not canvas[182:, :].any() and not canvas[100:170, 50:130].any()
    assert not np.asarray(image).any()  # the image itself is left as it was


def test_boxes_beyond_the_image_and_turned_around_are_drawn():
    image = Image.new("RGB", (64, 48))
    draw_boxes(image, [{"box": [90, 90, -10, -10], "score": 0.5}, {"box": [0, 0, 0, 0], "class": 3}], {})
