"""What a detection run leaves for the report: result.json and samples.json.

In: the finished run's configuration, data and metrics. Out: two JSON files in OUTPUT_DIR, written atomically. Figures that
could not be computed (NaN: a class without objects) are null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from torch import nn

from pretrain.base.atomic import write_json

RESULT_FORMAT = "infomin-transfer/detection-result"
RESULT_VERSION = 1
TASKS = ("bbox", "segm", "keypoints")
NUM_SAMPLES = 8
SAMPLE_SCORE = 0.3  # predictions above this are shown; where none is, the best SAMPLE_FALLBACK
SAMPLE_FALLBACK = 10

Metrics = dict[str, dict[str, float | None]]


def clean_metrics(results: Mapping[str, Any]) -> Metrics:
    """Evaluator results -> {"bbox": {"AP": 12.3, ...}}; of several test sets, the first one's. NaN becomes None."""
    if results and not any(task in results for task in TASKS):
        results = next(iter(results.values()))
    return {
        task: {name: _finite(value) for name, value in results[task].items()}
        for task in TASKS
        if results.get(task) is not None
    }


def read_history(metrics_path: Path, iterations: int) -> list[dict[str, Any]]:
    """Detectron2's metrics.json (one object a line) -> [{"iteration": iterations done, "metrics": {...}}], in order.

    iterations: length of the run. Detectron2 writes the index of the iteration that just ended, from 0; but the evaluation
    after the last one under the next index.
    A line that a crash cut short is skipped; of an iteration that a resumed run repeated, the last one counts.
    """
    history: dict[int, Metrics] = {}
    if not metrics_path.is_file():
        return []
    for line in metrics_path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        metrics: Metrics = {}
        for key, value in values.items():
            task, _, name = key.partition("/")
            if task in TASKS and name:
                metrics.setdefault(task, {})[name] = _finite(value)
        if metrics:
            history[min(int(values["iteration"]) + 1, iterations)] = metrics
    return [{"iteration": iteration, "metrics": history[iteration]} for iteration in sorted(history)]


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def write_result(output_dir: Path, fields: Mapping[str, Any]) -> Path:
    """Write result.json: format, version and `fields` (see the module that runs detection for their meaning)."""
    path = output_dir / "result.json"
    write_json(path, {"format": RESULT_FORMAT, "version": RESULT_VERSION, **fields})
    return path


def write_samples(output_dir: Path, samples: Sequence[Mapping[str, Any]]) -> Path:
    """Write samples.json."""
    path = output_dir / "samples.json"
    write_json(path, {"images": list(samples)})
    return path


@torch.no_grad()
def collect_samples(
    config: CfgNode, model: nn.Module, dataset_name: str, count: int = NUM_SAMPLES
) -> list[dict[str, Any]]:
    """Ground truth and predictions of up to `count` images, evenly spread over the test set.

    Boxes are [x1, y1, x2, y2] in pixels of the stored image. The model's training flag is restored.
    """
    records = DatasetCatalog.get(dataset_name)
    names = list(MetadataCatalog.get(dataset_name).thing_classes)
    mapper = DatasetMapper(config, is_train=False)
    chosen = [records[i * len(records) // min(count, len(records))] for i in range(min(count, len(records)))]
    was_training = model.training
    model.eval()
    try:
        return [_sample(record, model([mapper(record)])[0]["instances"], names) for record in chosen]
    finally:
        model.train(was_training)


def _sample(record: Mapping[str, Any], instances: Any, names: Sequence[str]) -> dict[str, Any]:
    instances = instances.to("cpu")
    found = sorted(
        zip(
            instances.scores.tolist(),
            instances.pred_boxes.tensor.tolist(),
            instances.pred_classes.tolist(),
            strict=True,
        ),
        key=lambda entry: -entry[0],
    )
    shown = [entry for entry in found if entry[0] > SAMPLE_SCORE] or found[:SAMPLE_FALLBACK]
    truth = [
        {
            "box": _rounded(BoxMode.convert(thing["bbox"], thing["bbox_mode"], BoxMode.XYXY_ABS)),
            "class": names[thing["category_id"]],
        }
        for thing in record.get("annotations", ())
        if not thing.get("iscrowd", 0)
    ]
    return {
        "file": str(Path(record["file_name"]).resolve()),
        "width": record["width"],
        "height": record["height"],
        "class_names": list(names),
        "ground_truth": truth,
        "predictions": [
            {"box": _rounded(box), "score": round(score, 4), "class": names[category]} for score, box, category in shown
        ],
    }


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in box]
