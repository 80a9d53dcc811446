"""What a run leaves for the report: clean figures, history, samples."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from torch import nn

from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT
from transfer.detect.figures import figures_of
from transfer.detect.result import (
    SAMPLE_FALLBACK,
    collect_samples,
    joined_history,
    read_history,
    write_samples,
)

NAME = "records_of_the_result_tests"


def test_nan_becomes_null_and_numpy_becomes_plain() -> None:
    figures = figures_of({"bbox": {"AP": np.float64(1.5), "APl": math.nan, "AP-cat": np.float32("inf")}})
    assert figures == {"bbox/AP": 1.5, "bbox/APl": None, "bbox/AP-cat": None}
    json.dumps(figures, allow_nan=False)


def test_of_several_test_sets_the_first_one_counts() -> None:
    assert figures_of({"a": {"bbox": {"AP": 1}}, "b": {"bbox": {"AP": 2}}}) == {"bbox/AP": 1}
    assert figures_of({}) == {}
    assert figures_of({"bbox": {"AP": 1}, "segm": None}) == {"bbox/AP": 1}


def test_history_counts_iterations_done(tmp_path: Path) -> None:
    """An evaluation after the 20th iteration is written under index 19, the one after the last of 30 under index 30."""
    lines = [
        {"iteration": 19, "total_loss": 2.0, "bbox/AP": 1.0, "bbox/AP50": 2.0},
        {"iteration": 29, "total_loss": 1.0},
        {"iteration": 30, "bbox/AP": 3.0, "segm/AP": math.nan},
    ]
    path = tmp_path / "metrics.json"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert read_history(path, 30) == [
        {"iteration": 20, "bbox/AP": 1.0, "bbox/AP50": 2.0},
        {"iteration": 30, "bbox/AP": 3.0, "segm/AP": None},
    ]


def test_history_survives_a_cut_line_and_keeps_the_repeated_iteration_of_a_resumed_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 19, "bbox/AP": 1.0}\n{"iteration": 19, "bbox/A\n{"iteration": 19, "bbox/AP": 2.0}\n')
    assert read_history(path, 100) == [{"iteration": 20, "bbox/AP": 2.0}]
    assert read_history(tmp_path / "absent.json", 100) == []


def test_a_repeated_iteration_is_one_row_of_the_history() -> None:
    """`--resume` of a finished run evaluates its last iteration again."""
    first, second = {"iteration": 20, "bbox/AP": 1.0}, {"iteration": 30, "bbox/AP": 2.0}
    assert joined_history([second, first], [{**second, "bbox/AP": 3.0}]) == (first, {**second, "bbox/AP": 3.0})


def test_samples_are_a_file_of_their_own(tmp_path: Path) -> None:
    assert json.loads(write_samples(tmp_path, [{"file": "a"}]).read_text()) == {"images": [{"file": "a"}]}


def test_the_evaluation_after_the_last_iteration_is_of_that_iteration(tmp_path: Path) -> None:
    """Detectron2 writes it under index 2 where there were two."""
    (tmp_path / "metrics.json").write_text('{"iteration": 0, "bbox/AP": 0.5}\n{"iteration": 2, "bbox/AP": 1.0}\n')
    assert read_history(tmp_path / "metrics.json", 2) == [
        {"iteration": 1, "bbox/AP": 0.5},
        {"iteration": 2, "bbox/AP": 1.0},
    ]


class FixedDetector(nn.Module):
    """Finds `scores` boxes in every image, whatever it shows."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, examples):
        assert not self.training
        (example,) = examples
        found = Instances((example["height"], example["width"]))
        found.scores = torch.tensor(self.scores)
        found.pred_boxes = Boxes(torch.tensor([[1.0, 2, 3, 4.123456]]).repeat(len(self.scores), 1))
        found.pred_classes = torch.ones(len(self.scores), dtype=torch.long)
        return [{"instances": found}]


@pytest.fixture
def dataset(tmp_path: Path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    thing = {"bbox": [1, 2, 10, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    records = [
        {"file_name": str(tmp_path / "a.png"), "width": 40, "height": 30, "image_id": i}
        | {"annotations": [thing, {**thing, "iscrowd": 1}]}
        for i in range(20)
    ]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["cup", "pen"])
    yield NAME
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def samples_of(model: nn.Module, dataset: str, count: int = 8) -> list[dict]:
    return collect_samples(load_detector_config(CONFIG_ROOT / "demo/R_18_FPN.yaml"), model, dataset, count)


def test_sample_holds_truth_and_predictions_in_pixels_of_the_file(dataset: str) -> None:
    model = FixedDetector([0.5, 0.9, 0.01]).train()
    (sample, *_) = samples_of(model, dataset)
    assert model.training  # as it was
    assert sample["ground_truth"] == [{"box": [1, 2, 11, 12], "class": "cup"}]  # corners; the crowd is no object
    assert [entry["score"] for entry in sample["predictions"]] == [0.9, 0.5]
    assert sample["predictions"][0] == {"box": [1, 2, 3, 4.12], "score": 0.9, "class": "pen"}
    assert (sample["width"], sample["height"]) == (40, 30) and Path(sample["file"]).is_absolute()
    json.dumps(sample, allow_nan=False)


def test_a_sample_is_read_as_training_reads_it(dataset: str, tmp_path: Path) -> None:
    """A TIFF that lies on its side: 30 x 40 as stored, 40 x 30 upright. Detectron2's own reader stops at its size."""
    Image.new("RGB", (30, 40)).save(tmp_path / "a.tif", tiffinfo={274: 6})
    for record in DatasetCatalog.get(dataset):
        record["file_name"] = str(tmp_path / "a.tif")
    config = load_detector_config(CONFIG_ROOT / "demo/R_18_FPN.yaml")
    with pytest.raises(SizeMismatchError):
        DatasetMapper(config, is_train=False)(DatasetCatalog.get(dataset)[0])
    assert len(samples_of(FixedDetector([0.5]), dataset)) == 8


def test_where_nothing_is_sure_the_best_guesses_are_shown(dataset: str) -> None:
    (sample, *_) = samples_of(FixedDetector([0.001 * rank for rank in range(20)]), dataset)
    scores = [entry["score"] for entry in sample["predictions"]]
    assert scores == pytest.approx([0.019 - 0.001 * rank for rank in range(SAMPLE_FALLBACK)])


@pytest.mark.parametrize(("count", "expected"), [(8, 8), (50, 20)])
def test_samples_are_at_most_the_images_there_are(dataset: str, count: int, expected: int) -> None:
    assert len(samples_of(FixedDetector([]), dataset, count)) == expected
