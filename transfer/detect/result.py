"""What a detection run leaves for the report: figures and history for record.json, and samples.json.

In: evaluator results, Detectron2's metrics.json, records of a data set. Out: parts of a `Record`; samples.json in OUTPUT_DIR.
Figures that could not be computed (NaN: a class without objects) are None.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from torch import nn

from pretrain.base.atomic import write_json
from transfer.detect.examples import SharedReaderMapper
from transfer.detect.figures import TASKS, finite_or_none

NUM_SAMPLES = 8
SAMPLE_SCORE = (
    0.05  # predictions above this are kept, the report chooses among them; where none is, the best SAMPLE_FALLBACK
)
SAMPLE_FALLBACK = 10


def read_history(metrics_path: Path, iterations: int) -> list[dict[str, Any]]:
    """Detectron2's metrics.json (one object a line) -> [{"iteration": iterations done, "bbox/AP": 12.3, ...}], in order.

    iterations: length of the run. Detectron2 writes the index of the iteration that just ended, from 0; but the evaluation after
    the last one under the next index.
    A line that a crash cut short is skipped; of an iteration that a resumed run repeated, the last one counts.
    """
    history: dict[int, dict[str, float | None]] = {}
    if not metrics_path.is_file():
        return []
    for line in metrics_path.read_bytes().decode("utf-8", "replace").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        figures = {key: finite_or_none(value) for key, value in values.items() if key.partition("/")[0] in TASKS}
        if figures:
            history[min(int(values["iteration"]) + 1, iterations)] = figures
    return [{"iteration": iteration, **history[iteration]} for iteration in sorted(history)]


def joined_history(*parts: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """One row an iteration, in order; of an iteration that several parts hold, that of the last part."""
    rows = {row["iteration"]: row for part in parts for row in part}
    return tuple(rows[iteration] for iteration in sorted(rows))


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

    Boxes are [x1, y1, x2, y2] in pixels of the image as it stands upright. The model's training flag is restored.
    """
    records = DatasetCatalog.get(dataset_name)
    names = list(MetadataCatalog.get(dataset_name).thing_classes)
    mapper = SharedReaderMapper(config, is_train=False)
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
