"""Detections beside ground truth: the same test images, one column each for the truth and every initialisation.

In: a `Comparison` whose runs left samples.json. Out: `SampleRow` values with boxes drawn on the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pretrain.base.errors import DataError
from pretrain.base.image_files import read_image
from transfer.compare.groups import Comparison
from transfer.compare.plots import BOX_COLOURS, encode_image
from transfer.compare.runs import DetectionRun

MAX_IMAGES = 8
SCORE_SHOWN = 0.3
MAX_BELOW = 5
SAMPLES_NOTE = (
    f"Predictions with a score of {SCORE_SHOWN} or more; where a model has none, its best {MAX_BELOW} of those it left."
)
WIDTH = 320  # pixels of a drawn image


@dataclass(frozen=True)
class SampleRow:
    """One test image. cells: (column title, data URI, number of boxes); note: why there is no picture, else empty."""

    name: str
    cells: tuple[tuple[str, str, int], ...]
    note: str = ""


def sample_rows(group: Comparison) -> tuple[SampleRow, ...]:
    """Up to MAX_IMAGES images that every shown run has; of each initialisation the run of its lowest seed."""
    shown = {row: next((run for run in runs.values() if run.samples), None) for row, runs in group.runs.items()}
    runs = {row: run for row, run in shown.items() if run is not None}
    if not runs:
        return ()
    by_file = {row: {str(sample.get("file")): sample for sample in run.samples} for row, run in runs.items()}
    first = next(iter(by_file.values()))
    files = [file for file in first if all(file in samples for samples in by_file.values())]
    colours = _class_colours(runs.values())
    return tuple(
        _row(file, {_title(row, runs[row]): by_file[row][file] for row in runs}, colours) for file in files[:MAX_IMAGES]
    )


def _title(row: str, run: DetectionRun) -> str:
    return f"{row} (seed {run.seed})"


def _class_colours(runs: Any) -> dict[str, str]:
    names = list(dict.fromkeys(name for run in runs for name in run.class_names))
    return {name: BOX_COLOURS[i % len(BOX_COLOURS)] for i, name in enumerate(names)}


def _row(file: str, samples: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str]) -> SampleRow:
    name = Path(file).name
    try:
        image = Image.fromarray(read_image(Path(file)))
        columns = {"ground truth": next(iter(samples.values())).get("ground_truth", ())}
        columns |= {title: shown_predictions(sample.get("predictions", ())) for title, sample in samples.items()}
        cells = [
            (title, encode_image(draw_boxes(image, boxes, colours), "JPEG"), len(boxes))
            for title, boxes in columns.items()
        ]
    except DataError as error:
        return SampleRow(name, (), f"no picture: {error}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # pictures decide no figure
        return SampleRow(name, (), f"no picture: samples.json holds boxes of another form ({error!r})")
    return SampleRow(name, tuple(cells))


def shown_predictions(predictions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those with a score of SCORE_SHOWN or more; if there is none, the best MAX_BELOW."""
    ranked = sorted(predictions, key=lambda box: -float(box["score"]))
    return [box for box in ranked if float(box["score"]) >= SCORE_SHOWN] or ranked[:MAX_BELOW]


def draw_boxes(image: Image.Image, boxes: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> Image.Image:
    """A copy of `image`, WIDTH px wide, with each {"box": [x1, y1, x2, y2] px, "class", "score"?} drawn and named."""
    scale = WIDTH / image.width
    canvas = image.resize((WIDTH, max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=11)
    for box in boxes:
        x1, y1, x2, y2 = (float(value) * scale for value in box["box"])
        name = str(box.get("class", "?"))
        colour = colours.get(name, BOX_COLOURS[0])
        draw.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colour, width=2)
        text = f"{name} {float(box['score']):.2f}" if "score" in box else name
        left, top, right, bottom = draw.textbbox((x1 + 2, max(0.0, y1 - 14)), text, font=font)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=colour)
        draw.text((x1 + 2, max(0.0, y1 - 14)), text, fill="white", font=font)
    return canvas
