"""Parts of a labelled set as COCO files of their own, and what a run on one is called.

In: `DetectionData` and positions of images. Out: NAME.json, a COCO instances file that any tool reads, and beside it
NAME.draw.json, which says what it was drawn from. Two runs on the same fraction of the same set are one experiment also where
their seeds drew other images: the draw belongs to the seed, as the order of the batches does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.base.atomic import write_json
from transfer.data.coco import read_coco
from transfer.data.fingerprint import fingerprint
from transfer.data.ground_truth import ground_truth_json
from transfer.data.problems import ReadOptions
from transfer.data.records import DetectionData
from transfer.data.split import classes_of, fraction_size, stratified_order

FORMAT = "infomin-transfer/draw"


@dataclass(frozen=True)
class Draw:
    """A fraction of a set, drawn by a seed.

    content: fingerprint of the images that were drawn, so that an edited file is not taken for them.
    of: fingerprint of the whole set. num_available: its images.
    """

    fraction: float
    seed: int
    content: str
    of: str
    num_available: int

    @property
    def identity(self) -> str:
        """What a run's record calls its training data: the same for all seeds."""
        return f"{self.fraction:g} of {self.of}"


def draw_path(annotations: Path) -> Path:
    """Where the draw of an annotation file is described."""
    return annotations.with_suffix(".draw.json")


def read_draw(annotations: Path, content: str) -> Draw | None:
    """The draw that an annotation file is; None for a file that is none, or that was changed since."""
    try:
        values = json.loads(draw_path(annotations).read_text(encoding="utf-8"))
        draw = Draw(**{key: value for key, value in values.items() if key != "format"})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return draw if values["format"] == FORMAT and draw.content == content else None


def write_part(data: DetectionData, positions: Sequence[int], path: Path) -> str:
    """The images at `positions` as a COCO file at `path` -> its SPEC.

    Image names are relative to the folder that all images of `data` have in common.
    """
    folder = image_folder(data)
    records = [data.records[position] for position in positions]
    if not all(isinstance(record["image_id"], int) for record in data.records):  # VOC's are names
        records = [{**data.records[position], "image_id": position + 1} for position in positions]
    part = replace(data, records=tuple(records))
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_changed(path, ground_truth_json(part, relative_to=folder))
    return f"coco:{path}:{folder}"


def write_fraction(data: DetectionData, path: Path, *, fraction: float, seed: int) -> str:
    """A stratified draw of `fraction` of the images by `seed` as a COCO file -> its SPEC. Nested over fractions."""
    names = [record["file_name"] for record in data.records]
    order = stratified_order(classes_of(data), relative_names(names), seed=seed)
    positions = sorted(order[: fraction_size(len(order), fraction)])
    spec = write_part(data, positions, path)
    written = read_coco(path, image_folder(data), ReadOptions(keep_crowds=True))  # as a run will, to the last digit
    draw = Draw(
        fraction,
        seed,
        content=fingerprint(written.records, written.class_names),
        of=fingerprint(data.records, data.class_names),
        num_available=len(data.records),
    )
    _write_changed(draw_path(path), {"format": FORMAT, **asdict(draw)})
    return spec


def image_folder(data: DetectionData) -> Path:
    """The folder that all images lie in or below."""
    return Path(os.path.commonpath([Path(record["file_name"]).absolute().parent for record in data.records]))


def relative_names(names: Sequence[str]) -> list[str]:
    """Names from the folder that all files have in common, so that a set that is moved is drawn from alike."""
    common = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])  # noqa: PTH100, PTH120
    return [os.path.relpath(os.path.abspath(name), common) for name in names]  # noqa: PTH100


def _write_changed(path: Path, content: Any) -> None:
    """A file that says so already keeps its time of change; a damaged one is written anew."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = None
    if there != json.loads(json.dumps(content)):
        write_json(path, content)
