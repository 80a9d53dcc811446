"""The segmentation of one COCO object, validated: polygons, or run lengths that C code gets only once they were counted here.

In: the value as a file has it, and the image's size. Out: `ReadMask`; problem by problem what was repaired, or a `Doubt`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pycocotools.mask

from transfer.data.problems import Doubt, Problem, Problems
from transfer.data.records import as_whole, is_number

Segmentation = list[list[float]] | dict[str, Any]


@dataclass(frozen=True)
class ReadMask:
    """segmentation: polygons of 3 points and more, or compressed run lengths; None for an object without a mask.

    as_given: pycocotools reads the value as it stands. explained: a problem says already why there is no mask.
    """

    segmentation: Segmentation | None = None
    as_given: bool = True
    explained: bool = False


def read_segmentation(value: Any, *, height: int, width: int, where: str) -> Problems[ReadMask]:
    """What a file gives as `segmentation`. Raises Doubt."""
    if not value:
        return ReadMask()
    if isinstance(value, dict):
        return (yield from _run_lengths(value, [height, width], where))
    if isinstance(value, list):
        return (yield from _polygons(value, height, width, where))
    found = f"segmentation expected polygons or run lengths, found {value!r:.60}"
    raise Doubt("segmentations that are neither polygons nor run lengths", found, "correct or remove them")


def _polygons(value: list[Any], height: int, width: int, where: str) -> Problems[ReadMask]:
    as_given = True
    if all(map(is_number, value)):  # one polygon, without the list of polygons around it
        if len(value) > 4:
            found = f"segmentation {value!r:.60}"
            yield Problem("polygons without the list around them", where, found, "read as one polygon", repaired=True)
            as_given = False
        value = [value]
    _check_polygons(value, height, width)
    polygons = [polygon for polygon in value if len(polygon) >= 6]
    left_out = len(value) - len(polygons)
    as_given = as_given and not left_out  # pycocotools takes four numbers for a box, and stops at fewer
    if any(value) and not polygons:
        found = f"segmentation {value!r:.60}"
        kept = "object kept without a mask"
        yield Problem("segmentations of four numbers or fewer", where, found, kept, repaired=True)
        return ReadMask(None, as_given=False, explained=True)
    if polygons and left_out:
        found = f"{left_out} of the object's {len(value)}"
        remedy = "left out; the others make the mask"
        yield Problem("polygons of fewer than 3 points", where, found, remedy, repaired=True)
    return ReadMask(polygons or None, as_given)


def _run_lengths(value: Mapping[str, Any], size: list[int], where: str) -> Problems[ReadMask]:
    """Run lengths that cover the image exactly, compressed by pycocotools. C code gets only what was counted here."""
    counts, as_given = value.get("counts"), True
    kind = "run lengths that do not fit their image"
    if value.get("size") != size:
        found = f"segmentation.size expected {size} (height, width), found {value.get('size')!r:.60}"
        raise Doubt(kind, found, "correct the size; run lengths go down the columns of an image of that size")
    try:
        runs = decode_counts(counts) if isinstance(counts, str) else counts
    except ValueError as error:
        raise Doubt(kind, f"segmentation.counts {error}", "correct or remove them") from None
    if isinstance(runs, list) and any(type(run) is float for run in runs):
        whole = [as_whole(run) if type(run) is float else run for run in runs]
        if None not in whole:
            found = f"segmentation.counts {next(run for run in runs if type(run) is float)!r:.60}"
            kind_of_repair, remedy = "whole numbers written with a decimal point", "read as whole numbers"
            yield Problem(kind_of_repair, where, found, remedy, repaired=True)
            runs, as_given = whole, False
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise Doubt(kind, f"segmentation.counts expected run lengths, found {runs!r:.60}", "correct or remove them")
    if sum(runs) != size[0] * size[1]:
        found = f"segmentation.counts sum to {sum(runs)}, expected height x width = {size[0] * size[1]}"
        raise Doubt(kind, found, "correct the run lengths")
    if not any(runs[1::2]):
        return ReadMask(None, as_given)
    return ReadMask(dict(pycocotools.mask.frPyObjects({"size": size, "counts": runs}, *size)), as_given)


def _check_polygons(value: Sequence[Any], height: int, width: int) -> None:
    """Raise Doubt unless all are lists of x, y. COCO holds a few of 2 points, which enclose nothing."""
    for number, polygon in enumerate(value):
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(is_number, polygon)):
            found = f"segmentation[{number}] expected an even list of finite numbers, found {polygon!r:.60}"
            raise Doubt("polygons that are not x1, y1, x2, y2, ...", found, "correct them, or remove the segmentation")
        # Rasterising costs memory by the length of the outline: far outside is refused, what is less far is clipped there.
        xs, ys = polygon[0::2], polygon[1::2]
        if polygon and not (-width <= min(xs) <= max(xs) <= 2 * width and -height <= min(ys) <= max(ys) <= 2 * height):
            raise Doubt(
                "polygons far outside their image",
                f"x {min(xs):g} to {max(xs):g}, y {min(ys):g} to {max(ys):g} in {width} x {height} pixels",
                "correct them: they are more than the image's own size away from it",
            )


def decode_counts(text: str) -> list[int]:
    """Compressed COCO run lengths as numbers: 5 bits a character from "0" up, low bits first, bit 6 says "goes on", the last
    character's bit 5 is the sign; from the fourth run on, the difference to the run two before. Raises ValueError."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise ValueError("is not a COCO run-length string")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("ends in the middle of a number")
    return runs


def mask_kind(things: Mapping[Any, Sequence[Mapping[str, Any]]]) -> tuple[Literal["none", "some", "all"], bool]:
    """("none", "some" or "all" of the objects have a mask, whether any of those is run-length coded); crowds do not count."""
    solid = [thing.get("segmentation") for members in things.values() for thing in members if not thing["iscrowd"]]
    with_mask = sum(segmentation is not None for segmentation in solid)
    kind: Literal["none", "some", "all"] = "none" if not with_mask else "all" if with_mask == len(solid) else "some"
    return kind, any(isinstance(segmentation, dict) for segmentation in solid)
