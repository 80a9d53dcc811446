"""Detectron2's own VOC evaluator for its registered data sets, whose figures are those of published tables, with what stands behind.

In: `voc_2007_test` and its like, and the detector's predictions. Out: Detectron2's figures, and MATCHES: what each prediction met,
image by image, by Detectron2's rule (whole corners that count their last pixel, scores and boxes as it rounds them, its order of
equal scores), for intervals over test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec
from detectron2.utils import comm

from transfer.detect.evaluation import class_matches, write_matches


class BuiltinVocEvaluator(PascalVOCDetectionEvaluator):
    """`PascalVOCDetectionEvaluator`, equal to it in every figure, that also writes MATCHES."""

    def __init__(self, dataset_name: str, output_dir: Path) -> None:
        """dataset_name: registered by Detectron2. output_dir: for MATCHES."""
        super().__init__(dataset_name)
        self._output_dir = output_dir

    def evaluate(self) -> Any:
        """{"bbox": {"AP", "AP50", "AP75"}} in percent on the main process; None elsewhere."""
        gathered = comm.gather(self._predictions, dst=0)
        results = super().evaluate()
        if comm.is_main_process():
            lines: dict[int, list[str]] = {}
            for of_process in gathered:
                for category, found in of_process.items():
                    lines.setdefault(category, []).extend(found)
            self._write(lines)
        return results

    def _write(self, lines: dict[int, list[str]]) -> None:
        names = Path(self._image_set_path).read_text(encoding="utf-8").split("\n")
        names = [name.strip() for name in (names[:-1] if not names[-1] else names)]
        positions = {name: position for position, name in enumerate(names)}
        things = [parse_rec(self._anno_file_template.format(name)) for name in names]
        kept: dict[str, np.ndarray] = {"eleven_points": np.array(self._is_2007)}
        for category, class_name in enumerate(self._class_names):
            truth = {
                position: np.array([_row(thing) for thing in of_image])
                for position, found in enumerate(things)
                if (of_image := [thing for thing in found if thing["name"] == class_name])
            }
            if not any((rows[:, 4] == 0).any() for rows in truth.values()):
                continue
            images, scores, boxes = _in_their_order(lines.get(category, []), positions)
            parts = class_matches(truth, images, scores, boxes, num_images=len(names))
            kept |= {f"{category}/{name}": values for name, values in parts.items()}
        write_matches(self._output_dir, kept)


def _row(thing: dict[str, Any]) -> list[float]:
    """Edges, so that the last pixel of a corner is inside, and whether it is difficult."""
    x1, y1, x2, y2 = thing["bbox"]
    return [x1, y1, x2 + 1, y2 + 1, float(bool(thing["difficult"]))]


def _in_their_order(lines: Sequence[str], positions: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (n,), scores (n,) and boxes (n, 4) of "IMAGE SCORE X1 Y1 X2 Y2", as `voc_eval` orders them."""
    words = [line.split(" ") for line in lines]
    images = np.array([positions[word[0]] for word in words], dtype=int)
    values = np.array([[float(value) for value in word[1:]] for word in words]).reshape(-1, 5)
    values[:, 3:] += 1
    order = np.argsort(
        -values[:, 0]
    )  # not stable: scores of three decimals are often equal, and the figures hang on their order
    return images[order], values[order, 0], values[order, 1:]
