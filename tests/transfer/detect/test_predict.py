"""Predictions are those of an evaluation; every image is accounted for; nothing of the user's is overwritten."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from pretrain.base.errors import CheckpointError, ConfigError, DataError, Terminated
from pretrain.base.record import read_record
from tests.transfer.detect.tiny_detector import NAMES, write_photo, write_run
from transfer.data.coco import read_coco
from transfer.data.image_list import list_inputs
from transfer.detect.pictures import Pictures, drawn_boxes
from transfer.detect.predict import PredictOptions, batches, infer, predict, read_ahead
from transfer.detect.trained import TrainedDetector, load_trained
from transfer.detect.trainer import DetectionTrainer


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "masks")


@pytest.fixture(scope="module")
def detector(run: Path) -> TrainedDetector:
    return load_trained(str(run))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Five images of three sizes and kinds, in depth: read only."""
    root = tmp_path_factory.mktemp("photos")
    write_photo(root / "a.png", 0)
    write_photo(root / "below" / "a.png", 1)
    write_photo(root / "below" / "a.jpg", 2, quality=95)
    write_photo(root / "tall.png", 3, (60, 110))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    write_photo(root / "turned.jpg", 4, (110, 60), exif=exif, quality=95)
    return root


def options(run: Path | str, photos: Path | str, out: Path, **over) -> PredictOptions:
    return PredictOptions(
        **{"detector": str(run), "images": (str(photos),), "output_dir": out, "threshold": 0.0, **over}
    )


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def predicted(run: Path, photos: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "all"
    outcome = predict(options(run, photos, out, command="python tools/predict.py"), quiet)
    outcome.require_all()
    assert outcome.num_images == 5 and outcome.num_detections > 10
    return out


def read(path: Path):
    return json.loads(path.read_text())


class Collect(DatasetEvaluator):
    """The results that an evaluation measures."""

    def __init__(self) -> None:
        self.found: list[dict] = []

    def process(self, inputs, outputs) -> None:
        for given, output in zip(inputs, outputs, strict=True):
            self.found += instances_to_coco_json(output["instances"].to("cpu"), given["image_id"])

    def evaluate(self) -> dict:
        return {}


def test_predictions_are_an_evaluations_bit_for_bit(detector: TrainedDetector, predicted: Path, photos: Path) -> None:
    images = read(predicted / "predictions.json")["images"]
    records = [
        {"file_name": str(photos / i["file_name"]), "image_id": i["id"], "height": i["height"], "width": i["width"]}
        for i in images
    ]
    DatasetCatalog.register("tiny_photos", lambda: records)
    try:
        collect = Collect()
        config = detector.config.clone()
        config.defrost()
        config.DATALOADER.NUM_WORKERS = 0
        inference_on_dataset(detector.model, DetectionTrainer.build_test_loader(config, "tiny_photos"), collect)
    finally:
        DatasetCatalog.remove("tiny_photos")
        MetadataCatalog.pop("tiny_photos", None)
    expected = [{**entry, "category_id": entry["category_id"] + 1} for entry in collect.found]
    assert read(predicted / "coco_results.json") == expected


def test_larger_batches_join_images_of_one_size_and_change_no_more_than_rounding(detector, tmp_path) -> None:
    many = tmp_path / "many"
    for seed in range(4):
        write_photo(many / f"{seed}.png", seed)
    write_photo(many / "other.png", 9, (60, 90))
    images = list(read_ahead(detector, list_inputs([str(many)]), {}, count=2))
    together = list(batches(iter(images), 3))
    assert sorted(len(batch) for batch in together) == [1, 1, 3]
    assert all(len({image.tensor.shape for image in batch}) == 1 for batch in together)
    alone = {image.index: infer(detector, [image])[0] for image in images}
    for batch in together:
        for image, found in zip(batch, infer(detector, batch), strict=True):
            expected = alone[image.index]
            assert torch.equal(found.pred_classes, expected.pred_classes)
            torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
            torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-3)


def test_both_files_are_read_by_pycocotools_and_by_this_project(predicted: Path, photos: Path) -> None:
    data = COCO(str(predicted / "predictions.json"))
    found = data.loadRes(str(predicted / "coco_results.json"))
    assert len(found.anns) == len(data.anns) > 0
    assert [category["name"] for category in data.loadCats(data.getCatIds())] == NAMES
    for entry in data.anns.values():
        mask = data.annToMask(entry)
        assert entry["area"] == mask.sum() and 0 <= entry["score"] <= 1
        x, y, width, height = entry["bbox"]
        rows, columns = np.nonzero(mask)
        if len(rows):  # the mask lies in its box
            assert (
                x - 1 <= columns.min()
                and columns.max() <= x + width
                and y - 1 <= rows.min()
                and rows.max() <= y + height
            )
    assert len(read_coco(predicted / "predictions.json", photos).records) == 5


def test_threshold_keeps_the_scores_from_it_on(run: Path, photos: Path, tmp_path: Path, predicted: Path) -> None:
    everything = [entry["score"] for entry in read(predicted / "coco_results.json")]
    middle = sorted(everything)[len(everything) // 2]
    predict(options(run, photos, tmp_path / "some", threshold=middle, draw=False), quiet)
    kept = [entry["score"] for entry in read(tmp_path / "some" / "coco_results.json")]
    assert kept == [score for score in everything if score >= middle] and len(kept) < len(everything)
    assert not (tmp_path / "some" / "images").exists()


def test_pictures_have_the_images_size_and_names_that_do_not_collide(predicted: Path, photos: Path) -> None:
    drawn = {path.relative_to(predicted / "images").as_posix() for path in (predicted / "images").rglob("*.jpg")}
    assert drawn == {"a.png.jpg", "below/a.jpg", "below/a.png.jpg", "tall.png.jpg", "turned.jpg"}
    with Image.open(predicted / "images" / "turned.jpg") as picture:
        assert picture.size == (60, 110)  # upright
    with Image.open(predicted / "sheet.jpg") as sheet:
        assert sheet.width > 600


def test_drawing_changes_the_pixels_of_mask_and_box_and_no_others(detector: TrainedDetector, tmp_path: Path) -> None:
    mask = torch.zeros(2, 100, 120, dtype=torch.bool)
    mask[0, 40:60, 50:80] = True
    found = Instances(
        (100, 120), pred_boxes=Boxes(torch.tensor([[45.0, 35, 85, 65], [10, 80, 20, 90]])), pred_masks=mask
    )
    found.scores, found.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([1, 0])
    grey = np.full((100, 120, 3), 128, np.uint8)
    with Pictures(detector, tmp_path) as pictures:
        pictures.add(0, "a.png", grey, found[:1])
    with Image.open(tmp_path / "a.png.jpg") as picture:
        change = np.abs(np.asarray(picture).astype(int) - 128).max(axis=2) > 25  # more than JPEG's
    rows, columns = np.nonzero(change)
    assert (columns.min(), rows.max()) == pytest.approx(
        (45, 65), abs=2
    ) and rows.min() >= 35 - 16  # the name is above the box
    assert change[45:55, 55:75].all() and not change[40:44, 81:83].any()  # tinted, and inside the box untouched
    assert [box["class"] for box in drawn_boxes(found, NAMES)] == ["cup", "leaf"]  # the best last, on top


def test_record_says_what_was_run_on_what(predicted: Path, run: Path) -> None:
    record = read_record(predicted / "record.json")
    assert (record.kind, record.status, record.class_names) == ("prediction", "done", tuple(NAMES))
    assert len(record.details["detector"]["sha256"]) == 64 and record.details["threshold"] == 0.0
    assert record.figures["seconds_per_image"] > 0 and record.data["images"].num_images == 5


def test_unreadable_images_are_named_and_the_rest_is_done(run: Path, tmp_path: Path) -> None:
    write_photo(tmp_path / "in" / "good.png", 0)
    whole = write_photo(tmp_path / "in" / "cut.png", 1)
    whole.write_bytes(whole.read_bytes()[:600])
    (tmp_path / "in" / "page.jpg").write_text("<html>not found</html>")
    outcome = predict(options(run, tmp_path / "in", tmp_path / "out"), quiet)
    assert set(outcome.unreadable) == {"cut.png", "page.jpg"}
    with pytest.raises(DataError, match=r"2 of 3 images could not be read:\n.*cut\.png.*\n.*page\.jpg: a page of HTML"):
        outcome.require_all()
    assert [image["file_name"] for image in read(tmp_path / "out" / "predictions.json")["images"]] == ["good.png"]
    assert set(read_record(tmp_path / "out" / "record.json").details["unreadable"]) == {"cut.png", "page.jpg"}
    with pytest.raises(DataError, match="none of the 1 images could be read"):
        predict(options(run, tmp_path / "in" / "cut.png", tmp_path / "none"), quiet)


def test_a_prediction_that_is_asked_to_stop_says_so_in_its_record(
    run: Path, photos: Path, tmp_path, monkeypatch
) -> None:
    def stopped(detector, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return infer(detector, batch)

    monkeypatch.setattr("transfer.detect.predict.infer", stopped)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a command without a handler fails here, and ends no tests
    try:
        with pytest.raises(Terminated, match="another --output-dir"):
            predict(options(run, photos, tmp_path / "out"), quiet)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert read_record(tmp_path / "out" / "record.json").status == "stopped"


def test_a_folder_that_holds_something_and_one_among_the_images_are_refused(run, photos, predicted, tmp_path) -> None:
    def content() -> dict[Path, bytes]:
        return {
            path: path.read_bytes() for path in predicted.rglob("*.*") if path.is_file() and path.name != "run.lock"
        }

    before = content()
    with pytest.raises(ConfigError, match="holds other files"):
        predict(options(run, photos, predicted), quiet)
    assert content() == before and len(before) == 9
    with pytest.raises(ConfigError, match="its pictures would be taken for images"):
        predict(options(run, photos, photos / "out"), quiet)
    assert not (photos / "out").exists()


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"threshold": 1.5}, "--threshold 1.5: expected a score from 0 to 1"),
        ({"threshold": float("nan")}, "expected a score from 0 to 1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"images": ("nowhere",)}, "found nothing at nowhere"),
        ({"images": ()}, "expected image files"),
        ({"detector": "nowhere"}, "nothing at nowhere"),
        ({"class_names": ("x", "y", "z")}, "the classes of .* are cup,leaf,bolt; leave --classes out"),
        ({"overrides": ("INPUT.FORMAT",)}, "expected pairs KEY VALUE, found 1 words: INPUT.FORMAT"),
        ({"overrides": ("MODEL.WEIGHTS", "x")}, "the weights are the first argument"),
        ({"overrides": ("MODEL.ROI_HEADS.NUM_CLASSES", "7")}, "NUM_CLASSES is 7, but the detector's classes are 3"),
        ({"overrides": ("INPUT.FORMAT", "BGR")}, "contradicts the detector's own"),
        ({"overrides": ("MODEL.RESNETS.NOTHING", "7")}, "unknown key"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(run, photos, tmp_path, over, expected) -> None:
    with pytest.raises((ConfigError, DataError, CheckpointError), match=expected):
        predict(options(run, photos, tmp_path / "out", **over), quiet)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in this folder or below it"):
        predict(options(run, tmp_path / "empty", tmp_path / "out"), quiet)
