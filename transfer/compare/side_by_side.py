"""Detections side by side: the same test images for every initialisation, ground truth above them.

In: an `Experiment`, whose runs left samples.json. Out: a `SideBySide` of drawn images as data URIs. Rows are the ground truth
and the initialisations, columns the images. Which predictions are drawn is a rule, the same for every row: those from the score
on at which the run's F1 over all test images is highest; where what a run left does not tell that, SCORE_SHOWN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pretrain.base.errors import DataError
from pretrain.base.image_files import read_image
from transfer.compare.experiments import Experiment, seed_of
from transfer.compare.image_results import detection_matches
from transfer.compare.plots import encode_image
from transfer.compare.results import Run
from transfer.data.drawing import BOX_COLOURS, draw_boxes

MAX_COLUMNS = 4
CELL = (270, 203)  # pixels, the largest width and height of a drawn image
SCORE_SHOWN = 0.3
RULE = (
    "Predictions are drawn from the score on at which F1 over all test images is highest (IoU 0.5), for each row by itself; "
    f"{SCORE_SHOWN} where the run left no detections to tell that from. White and dashed: the ground truth."
)


@dataclass(frozen=True)
class Cell:
    """One drawn image. uri: data URI, "" where there is none. text: the number of boxes, or why there is no picture."""

    uri: str
    text: str
    width: int = 0


@dataclass(frozen=True)
class SideBySide:
    """files: names of the images, a column each. rows: (title, what it shows, cells)."""

    files: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


def side_by_side(experiment: Experiment) -> SideBySide | None:
    """Up to MAX_COLUMNS images that every shown run has; of each initialisation the run of its lowest seed. None without any."""
    shown = {row: next((run for run in runs if run.samples), None) for row, runs in experiment.rows.items()}
    runs = {row: run for row, run in shown.items() if run is not None}
    if not runs:
        return None
    by_file = {row: {str(sample.get("file")): sample for sample in run.samples} for row, run in runs.items()}
    first = next(iter(by_file.values()))
    files = [file for file in first if all(file in samples for samples in by_file.values())]
    files = spread_out(files, MAX_COLUMNS)
    if not files:
        return None
    colours = _class_colours(runs.values())
    truth = [_drawn(file, _boxes(first[file], "ground_truth"), (), colours) for file in files]
    rows = [("ground truth", "", tuple(truth))]
    for row, run in runs.items():
        score, rule = score_of(run)
        cells = []
        for file in files:
            sample = by_file[row][file]
            found = shown_predictions(_boxes(sample, "predictions"), score)
            cells.append(_drawn(file, found, _boxes(sample, "ground_truth"), colours))
        rows.append((row, f"seed {seed_of(run)}, score {score:.2f} and more{rule}", tuple(cells)))
    return SideBySide(tuple(Path(file).name for file in files), tuple(rows))


def spread_out(files: Sequence[str], count: int) -> list[str]:
    """`count` of them, evenly over the list: no choice by what is seen on them."""
    return [files[i * len(files) // count] for i in range(count)] if len(files) > count else list(files)


def score_of(run: Run) -> tuple[float, str]:
    """(Score from which on predictions are drawn, how it was chosen where not by the rule)."""
    matches = detection_matches(run)
    best = matches.best_score() if matches else None
    return (SCORE_SHOWN, " (fixed)") if best is None else (best, "")


def _boxes(sample: Mapping[str, Any], key: str) -> Any:
    found = sample.get(key)
    return found if isinstance(found, Sequence) and not isinstance(found, str) else ()


def _class_colours(runs: Iterable[Run]) -> dict[str, str]:
    names = list(dict.fromkeys(name for run in runs for name in run.record.class_names))
    return {name: BOX_COLOURS[i % len(BOX_COLOURS)] for i, name in enumerate(names)}


def _drawn(file: str, boxes: Sequence[Any], truth: Sequence[Any], colours: Mapping[str, str]) -> Cell:
    """`boxes` in colour, `truth` dashed below them."""
    try:
        image = Image.fromarray(read_image(Path(file)))
        drawn = draw_boxes(image, boxes, colours, within=CELL, truth=truth)
    except DataError as error:
        return Cell("", f"no picture: {error}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # pictures decide no figure
        return Cell("", f"no picture: samples.json holds boxes of another form ({error!r})")
    count = len(boxes)
    return Cell(encode_image(drawn, "JPEG"), f"{count} box{'' if count == 1 else 'es'}", drawn.width)


def shown_predictions(predictions: Sequence[Any], score: float) -> list[Any]:
    """Those with a score of `score` or more, the best last, so that it is drawn on top."""
    try:
        ranked = sorted(predictions, key=lambda box: float(box["score"]))
        return [box for box in ranked if round(float(box["score"]), 4) >= round(score, 4)]
    except (KeyError, TypeError, ValueError):
        return list(predictions)  # drawing says what is wrong
