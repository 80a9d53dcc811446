"""The rewritten ground truth: pycocotools reads the same objects from it as from the user's file."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer.data.coco import read_coco
from transfer.data.ground_truth import ground_truth_json
from transfer.data.records import DetectionData

FILE = {
    "images": [{"id": 4, "file_name": "a.jpg", "width": 64, "height": 48}],
    "categories": [{"id": 9, "name": "cup"}, {"id": 5, "name": "pen"}],
    "annotations": [
        {
            "id": 0,
            "image_id": 4,
            "category_id": 9,
            "bbox": [2, 2, 30, 30],
            "segmentation": [[2, 2, 32, 2, 32, 32, 2, 32]],
        },
        {"id": 1, "image_id": 4, "category_id": 5, "bbox": [40, 8, 20, 30]}
        | {"segmentation": {"size": [48, 64], "counts": [40 * 48 + 8, *[30, 18] * 19, 30, 4 * 48 + 10]}},
    ],
}


@pytest.fixture
def rewritten(tmp_path: Path) -> COCO:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(FILE))
    data = read_coco(path, tmp_path)
    assert data.complete_coco is None  # neither area nor iscrowd, and an id 0
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps(ground_truth_json(data)))
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(mine))


def test_ids_start_at_one_and_missing_fields_are_filled_in(rewritten: COCO) -> None:
    assert sorted(rewritten.anns) == [1, 2] and sorted(rewritten.cats) == [1, 2]
    assert [rewritten.cats[1]["name"], rewritten.cats[2]["name"]] == [
        "pen",
        "cup",
    ]  # by category id, as in the detector
    assert all("area" in entry and entry["iscrowd"] == 0 for entry in rewritten.anns.values())


def test_masks_survive_polygons_and_run_lengths(rewritten: COCO) -> None:
    assert rewritten.annToMask(rewritten.anns[1]).sum() == 30 * 30
    mask = rewritten.annToMask(rewritten.anns[2])
    assert mask.sum() == 20 * 30 and mask[8:38, 40:60].all()


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_perfect_predictions_score_one_hundred(rewritten: COCO, task: str) -> None:
    perfect = [
        {"image_id": e["image_id"], "category_id": e["category_id"], "bbox": e["bbox"], "score": 0.9}
        | ({"segmentation": rewritten.annToRLE(e)} if task == "segm" else {})
        for e in rewritten.anns.values()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(rewritten, rewritten.loadRes(perfect), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_objects_without_area_and_crowd_mark_get_them_from_their_box() -> None:
    thing = {"bbox": [2.5, 3, 12.5, 7], "category_id": 0}
    record = {"file_name": "a.jpg", "image_id": 1, "width": 64, "height": 48, "annotations": [thing]}
    (entry,) = ground_truth_json(DetectionData((record,), ("cup",)))["annotations"]
    assert entry["bbox"] == [2.5, 3, 10, 4] and (entry["area"], entry["iscrowd"]) == (40, 0)
