"""VOC average precision for any folder in VOC layout, computed by Detectron2's own `voc_eval`.

In: a registered VOC data set (validated records, class names, year of the metric) and the detector's predictions. Out: AP50,
AP75 and AP (.5:.95) over the classes that the split holds, and AP of each class, in percent.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import voc_eval
from detectron2.utils import comm

THRESHOLDS = range(50, 100, 5)  # IoU in percent


class VocEvaluator(PascalVOCDetectionEvaluator):
    """PascalVOCDetectionEvaluator for data that others labelled.

    The stock evaluator reads the XML files again and stops at a missing `pose`, a fraction of a pixel, a class name with a
    slash; a class that the split does not hold makes its mean NaN (or counts as 0). Here `voc_eval` reads a clean copy of
    the validated records, and absent classes are left out of the mean, as COCO's are.
    """

    def __init__(self, dataset_name: str) -> None:
        """dataset_name: registered, its metadata with thing_classes and year. Does not call super().__init__, which would
        look for the XML folder; every attribute that the inherited `process` uses is set here."""
        metadata = MetadataCatalog.get(dataset_name)
        self._records: list[dict[str, Any]] = DatasetCatalog.get(dataset_name)
        self._class_names: list[str] = metadata.thing_classes
        self._is_2007 = metadata.year == 2007
        self._cpu_device = "cpu"
        self._predictions: dict[int, list[str]] = defaultdict(list)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{"bbox": {"AP", "AP50", "AP75", "AP-<class>"}} in percent on the main process; None elsewhere."""
        gathered = comm.gather(dict(self._predictions), dst=0)
        if not comm.is_main_process():
            return None
        lines: dict[int, list[str]] = defaultdict(list)
        for predictions in gathered:
            for category, found in predictions.items():
                lines[category].extend(found)
        precision: dict[int, list[float]] = {}  # class -> AP at each threshold
        with tempfile.TemporaryDirectory(prefix="voc_evaluation_") as folder:
            present = write_ground_truth(Path(folder), self._records)
            for category in present:
                precision[category] = self._class_precision(Path(folder), category, lines[category])
        table = np.array([precision[category] for category in present])
        results = {"AP": float(table.mean()), "AP50": float(table[:, 0].mean()), "AP75": float(table[:, 5].mean())}
        results |= {
            f"AP-{self._class_names[category]}": float(row.mean()) for category, row in zip(present, table, strict=True)
        }
        return OrderedDict(bbox=results)

    def _class_precision(self, folder: Path, category: int, lines: Sequence[str]) -> list[float]:
        (folder / f"{category}.txt").write_text("\n".join(lines))
        found = []
        for threshold in THRESHOLDS:
            _, _, precision = voc_eval(
                str(folder / "{}.txt"),
                str(folder / "{}.xml"),
                str(folder / "split.txt"),
                str(category),
                ovthresh=threshold / 100.0,
                use_07_metric=self._is_2007,
            )
            found.append(100.0 * float(precision))
        return found


def write_ground_truth(folder: Path, records: Sequence[Mapping[str, Any]]) -> list[int]:
    """Write split.txt and one XML file an image, classes by number. Returns the classes with an object that is not difficult.

    Corners go back to VOC's: counted from 1, the last pixel included, whole.
    """
    present: set[int] = set()
    for record in records:
        tree = ElementTree.Element("annotation")
        for thing in record["annotations"]:
            if not thing.get("difficult", 0):
                present.add(thing["category_id"])
            node = ElementTree.SubElement(tree, "object")
            values = {
                "name": thing["category_id"],
                "pose": "Unspecified",
                "truncated": 0,
                "difficult": thing.get("difficult", 0),
            }
            for name, value in values.items():
                ElementTree.SubElement(node, name).text = str(value)
            box = ElementTree.SubElement(node, "bndbox")
            x1, y1, x2, y2 = thing["bbox"]
            for name, value in zip(("xmin", "ymin", "xmax", "ymax"), (x1 + 1, y1 + 1, x2, y2), strict=True):
                ElementTree.SubElement(box, name).text = str(round(value))
        ElementTree.ElementTree(tree).write(folder / f"{record['image_id']}.xml")
    (folder / "split.txt").write_text("\n".join(record["image_id"] for record in records))
    return sorted(present)
