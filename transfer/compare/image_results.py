"""What a finished run says of every test image: matches of a detector, right and wrong of a readout; and their resampled figures.

In: runs, on one's own data or on Detectron2's registered ones. Out: figures under the resamples of the test images; none of runs
from before these files were written.
"""

from __future__ import annotations

import csv
import functools
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.base.errors import DataError, UserError
from transfer.compare.bootstrap import ImageBootstrap, accuracy_of, paired_bootstrap, resampled
from transfer.compare.matches import VOC_2007_RECALLS, ClassMatches, Matches, average_precision, coco_matches
from transfer.compare.results import Run
from transfer.readout.config import PREDICTIONS

TASKS = ("bbox", "segm")
COCO_RESULTS = "coco_instances_results.json"  # Detectron2's
GROUND_TRUTH = "ground_truth.json"  # ours, where the user's own file cannot be evaluated against
TEST_FILE = "test_file"  # of a record's details: transfer/detect/run_record.py's
VOC_MATCHES = "voc_matches.npz"  # transfer/detect/evaluation.py's
# What reading a file that is damaged or of another form may raise, pycocotools' checks included.
DAMAGED = (
    OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError, zipfile.BadZipFile, UserError,
)  # fmt: skip
AGREES = 0.01  # AP points by which the figure computed again may differ from the recorded one


@dataclass(frozen=True)
class ImageResults:
    """Of one run. names: of the images. figures: metric -> (1 + resamples,), on the images and on each resample."""

    names: tuple[Any, ...]
    figures: Mapping[str, np.ndarray]


def bootstrap_of(
    ours: Sequence[Run], baseline: Sequence[Run], metric: str, *, comparisons: int = 1
) -> ImageBootstrap | None:
    """The paired bootstrap over the test images, of the mean figures of both rows; None where a run lacks what it needs."""
    names: set[tuple[Any, ...]] = set()
    figures: list[list[np.ndarray]] = []
    for runs in (ours, baseline):
        figures.append([])
        for run in runs:
            found = image_results(run)
            if found is None or metric not in found.figures:
                return None
            names.add(found.names)
            figures[-1].append(found.figures[metric])
    if len(names) != 1:
        return None
    return paired_bootstrap(*figures, num_images=len(names.pop()), comparisons=comparisons)


def image_results(run: Run) -> ImageResults | None:
    """Read once a process. None where the run left nothing, or what it left does not give the recorded figures."""
    return _read(run.path, run.kind, _test_file(run), tuple(sorted(run.metrics.items())))


@functools.lru_cache(maxsize=4096)
def _read(path: Path, kind: str, test_file: str, recorded: tuple[tuple[str, float], ...]) -> ImageResults | None:
    try:
        if kind == "readout":
            found = _readout(path / PREDICTIONS)
        elif kind == "detection":
            found = _detection(path / "inference", test_file)
        else:
            return None
    except DAMAGED:
        return None  # intervals over images decide no figure
    return found if found and _agrees(found, dict(recorded)) else None


def _agrees(found: ImageResults, recorded: Mapping[str, float]) -> bool:
    """Whether the figures of all images, once each, are those of the record: else another ground truth lies there now."""
    common = [name for name in found.figures if name in recorded]
    return bool(common) and all(abs(found.figures[name][0] - recorded[name]) <= AGREES for name in common)


# --- readouts ---------------------------------------------------------------------------------------------------------


def _readout(path: Path) -> ImageResults | None:
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = {
        "top1": np.array([row["label"] == row["predicted"] for row in rows]),
        "top5": np.array([row["in_top5"] == "1" for row in rows]),
    }
    weights = _weights(len(rows))
    return ImageResults(
        tuple(row["image"] for row in rows), {name: accuracy_of(values, weights) for name, values in right.items()}
    )


@functools.lru_cache(maxsize=8)
def _weights(num_images: int) -> np.ndarray:
    return resampled(num_images)


# --- detectors --------------------------------------------------------------------------------------------------------


def detection_matches(run: Run, task: str = "bbox") -> Matches | None:
    """Matches of a detection run; None where it left nothing that can be read."""
    try:
        return _matches(run.path / "inference", task, _test_file(run))
    except DAMAGED:
        return None


def _detection(folder: Path, test_file: str) -> ImageResults | None:
    figures: dict[str, np.ndarray] = {}
    names: tuple[Any, ...] = ()
    for task in TASKS:
        matches = _matches(folder, task, test_file)
        if matches is not None:
            names = matches.image_ids
            values = average_precision(matches, _weights(len(names)))
            figures |= {f"{task}/AP": values.mean(axis=1), f"{task}/AP50": values[:, 0], f"{task}/AP75": values[:, 5]}
    return ImageResults(names, figures) if figures else None


@functools.lru_cache(maxsize=256)
def _matches(folder: Path, task: str, test_file: str) -> Matches | None:
    if task == "bbox" and (folder / VOC_MATCHES).exists():
        return _voc_matches(folder / VOC_MATCHES)
    results = folder / COCO_RESULTS
    if not results.exists():
        return None
    detections = json.loads(results.read_text(encoding="utf-8"))
    if task == "segm" and not any("segmentation" in entry for entry in detections):
        return None
    truth = _ground_truth(str(folder / GROUND_TRUTH) if (folder / GROUND_TRUTH).exists() else test_file)
    return coco_matches(truth, detections, task=task) if truth else None


@functools.lru_cache(maxsize=2)
def _ground_truth(path: str) -> Mapping[str, Any] | None:
    file = Path(path)
    if not path or not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else None


def _test_file(run: Run) -> str:
    """The annotation file that a run's own or built-in test data are, evaluated against as it is; "" for other data."""
    split = run.record.data.get("test")
    if run.kind != "detection" or split is None:
        return ""
    if not split.spec.startswith("coco:"):
        return str(run.record.details.get(TEST_FILE) or _builtin_file(split.spec))
    try:
        from transfer.data.spec import parse_spec  # needs Detectron2

        (part,) = parse_spec(split.spec).parts
    except (ImportError, UserError, ValueError):
        return ""
    # As given; a path of another working folder is looked for above the run. Figures that do not come out refuse a wrong one.
    places = (part.source, *(parent / part.source for parent in run.path.resolve().parents))
    return next((str(place) for place in places if place.is_file()), "")


def _builtin_file(name: str) -> str:
    """Of a data set that Detectron2 registers, of a run whose record does not say it; "" for others."""
    if ":" in name or not name.isidentifier():
        return ""
    try:
        from detectron2.data import DatasetCatalog, MetadataCatalog
    except ImportError:
        return ""
    return str(MetadataCatalog.get(name).get("json_file") or "") if name in DatasetCatalog else ""


def _voc_matches(path: Path) -> Matches:
    with np.load(path, allow_pickle=False) as file:
        values = {name: file[name] for name in file.files}
    numbers = sorted({int(name.partition("/")[0]) for name in values if "/" in name})
    names = tuple(ClassMatches.__dataclass_fields__)
    classes = tuple(ClassMatches(**{name: values[f"{number}/{name}"] for name in names}) for number in numbers)
    if not classes:
        raise DataError(f"{path} holds no class")
    return Matches(
        tuple(range(len(classes[0].num_objects))), classes, VOC_2007_RECALLS if values["eleven_points"] else None
    )
