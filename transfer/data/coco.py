"""COCO annotation files, validated before any C code sees them.

In: an annotation file and its image folder. Out: `DetectionData`, or a DataError that names the file, the entry, the field,
what was expected and what was found. Rules: docs/specification.md 7.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import pycocotools.mask
from detectron2.structures import BoxMode

from pretrain.base.errors import DataError
from pretrain.base.image_files import MAX_PIXELS
from transfer.data.records import BoxRule, DetectionData, is_number

MAX_ID = 2**63 - 1  # what pycocotools' C++ counterparts hold


@dataclass(frozen=True)
class _Image:
    """The fields of one entry of `images` that annotations are compared with."""

    file_name: str
    width: int
    height: int


def read_coco(annotations: Path, image_dir: Path) -> DetectionData:
    """Read and validate one COCO instances file. Class order is by category id, as Detectron2 has it.

    Image files are named, not opened. Raises DataError.
    """
    content = _load(annotations)
    categories = _categories(content["categories"], annotations)
    images = _images(content["images"], annotations)
    order = {category: index for index, category in enumerate(sorted(categories))}
    things: dict[int, list[dict[str, Any]]] = {identifier: [] for identifier in images}
    rule, seen = BoxRule(), set()
    for where, entry in _entries(content["annotations"], annotations, "annotations"):
        identifier = _integer(entry, "id", where)
        if identifier in seen:
            raise DataError(f"{where}: id {identifier} is given twice")
        seen.add(identifier)
        image_id, category_id = _integer(entry, "image_id", where), _integer(entry, "category_id", where)
        if image_id not in images:
            raise DataError(f"{where}: image_id {image_id} is not among the images")
        if category_id not in order:
            raise DataError(f"{where}: category_id {category_id} is not among the categories {sorted(categories)[:10]}")
        thing = _thing(entry, images[image_id], rule, where)
        if thing is not None:
            things[image_id].append({**thing, "category_id": order[category_id]})
    records = tuple(
        {
            "file_name": str(image_dir / image.file_name),
            "image_id": identifier,
            "width": image.width,
            "height": image.height,
            "annotations": things[identifier],
        }
        for identifier, image in images.items()
    )
    names = tuple(categories[category] for category in sorted(categories))
    masks, bitmask = _mask_kind(records)
    # pycocotools takes id 0 for "no match", and stops at an outline without area: such a file is rewritten for it. Boxes that
    # extend a little beyond the image are left as they are, so that the official file gives the official figures.
    complete = not rule.dropped and all(
        "area" in entry and "iscrowd" in entry and entry["id"] > 0 and _plain(entry.get("segmentation"))
        for entry in content["annotations"]
    )
    return DetectionData(
        records,
        names,
        masks=masks,
        bitmask=bitmask,
        notes=rule.notes(str(annotations)),
        complete_coco=(annotations, tuple(sorted(categories))) if complete else None,
    )


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"no annotation file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the annotation file {path}: {error}") from None

    def refuse(constant: str) -> NoReturn:
        raise DataError(f"{path}: {constant} is not a JSON number")

    try:
        content = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: expected an object with images, annotations, categories; found {type(content).__name__}"
        )
    for field in ("images", "annotations", "categories"):
        if not isinstance(content.get(field), list):
            found = "nothing" if field not in content else type(content[field]).__name__
            raise DataError(f"{path}: expected a list `{field}`, found {found}; is this a COCO instances file?")
        if not content[field]:
            raise DataError(f"{path}: `{field}` is empty")
    return content


def _categories(entries: Sequence[Any], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for where, entry in _entries(entries, path, "categories"):
        identifier, name = _integer(entry, "id", where), entry.get("name")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{where}: name expected text, found {name!r}")
        if identifier in names or name in names.values():
            raise DataError(f"{where}: category {identifier} {name!r} is given twice")
        names[identifier] = name
    return names


def _images(entries: Sequence[Any], path: Path) -> dict[int, _Image]:
    images: dict[int, _Image] = {}
    for where, entry in _entries(entries, path, "images"):
        identifier, name = _integer(entry, "id", where), entry.get("file_name")
        if identifier in images:
            raise DataError(f"{where}: id {identifier} is given twice")
        if not isinstance(name, str) or not name or "\0" in name:
            raise DataError(f"{where}: file_name expected a relative path, found {name!r}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{where}: file_name {name!r} leaves the image folder")
        width, height = _integer(entry, "width", where), _integer(entry, "height", where)
        if width < 1 or height < 1:
            raise DataError(f"{where}: width and height expected positive numbers, found {width} x {height}")
        if width * height > MAX_PIXELS:  # run lengths of that many pixels would not fit the C code's numbers either
            raise DataError(f"{where}: {width} x {height} pixels, expected at most {MAX_PIXELS}")
        images[identifier] = _Image(name, width, height)
    return images


def _entries(entries: Sequence[Any], path: Path, field: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for position, entry in enumerate(entries):
        where = f"{path}: {field}[{position}]"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object, found {entry!r:.60}")
        yield where, entry


def _integer(entry: Mapping[str, Any], field: str, where: str) -> int:
    value = entry.get(field)
    if field not in entry:
        raise DataError(f"{where}: {field} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_ID:
        raise DataError(f"{where}: {field} expected a whole number, found {value!r:.60}")
    return value


def _thing(entry: Mapping[str, Any], image: _Image, rule: BoxRule, where: str) -> dict[str, Any] | None:
    """One annotation as a Detectron2 dict without its category; None where it is dropped (and counted)."""
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(value) for value in box):
        raise DataError(f"{where}: bbox expected four finite numbers x, y, width, height; found {box!r:.80}")
    if box[2] < 0 or box[3] < 0:
        raise DataError(f"{where}: bbox has a negative width or height: {box}")
    if entry.get("iscrowd", 0) not in (0, 1):
        raise DataError(f"{where}: iscrowd expected 0 or 1, found {entry['iscrowd']!r:.60}")
    if not is_number(entry.get("area", 0)):
        raise DataError(f"{where}: area expected a finite number, found {entry['area']!r:.60}")
    corners = rule.apply((box[0], box[1], box[0] + box[2], box[1] + box[3]), image.width, image.height, where)
    if corners is None:
        return None
    thing = {"bbox": corners, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": int(entry.get("iscrowd", 0))}
    thing["area"] = float(entry.get("area", box[2] * box[3]))
    segmentation = entry.get("segmentation")
    if not segmentation:  # missing, null or []: a box without a mask
        return thing
    if isinstance(segmentation, dict):
        thing["segmentation"] = _run_lengths(segmentation, image, where)
    else:
        polygons = _polygons(segmentation, image, where)
        if not polygons:
            rule.drop(f"{where}: segmentation has no polygon of 3 points")
            return None
        thing["segmentation"] = polygons
    return thing


def _polygons(value: Any, image: _Image, where: str) -> list[list[float]]:
    """The polygons of 3 points and more. COCO holds a few of 2 points, which enclose nothing; Detectron2 drops them too."""
    if not isinstance(value, list):
        raise DataError(f"{where}: segmentation expected polygons or run lengths, found {value!r:.60}")
    for number, polygon in enumerate(value):
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(is_number(number) for number in polygon):
            raise DataError(
                f"{where}: segmentation[{number}] expected an even list of finite numbers, found {polygon!r:.60}"
            )
        # Rasterising costs memory by the length of the outline: far outside is refused, a little outside is clipped there.
        xs, ys = polygon[0::2], polygon[1::2]
        if polygon and not (
            -image.width <= min(xs) <= max(xs) <= 2 * image.width
            and -image.height <= min(ys) <= max(ys) <= 2 * image.height
        ):
            raise DataError(
                f"{where}: segmentation[{number}] lies far outside its image of {image.width} x {image.height} pixels"
            )
    return [polygon for polygon in value if len(polygon) >= 6]


def _plain(segmentation: Any) -> bool:
    """No polygon of fewer than 3 points, which pycocotools would take for a box or stop at."""
    return not isinstance(segmentation, list) or all(len(polygon) >= 6 for polygon in segmentation)


def _run_lengths(value: Mapping[str, Any], image: _Image, where: str) -> dict[str, Any]:
    """Run lengths that cover the image exactly, compressed by pycocotools. C code gets only what was counted here."""
    if value.get("size") != [image.height, image.width]:
        raise DataError(
            f"{where}: segmentation.size expected [{image.height}, {image.width}] (height, width), found {value.get('size')!r:.60}"
        )
    counts = value.get("counts")
    runs = decode_counts(counts, where) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(
        isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in runs
    ):
        raise DataError(f"{where}: segmentation.counts expected run lengths, found {runs!r:.60}")
    if sum(runs) != image.height * image.width:
        raise DataError(
            f"{where}: segmentation.counts sum to {sum(runs)}, expected height x width = {image.height * image.width}"
        )
    size = [image.height, image.width]  # not the file's own, which may say 10.0
    return dict(pycocotools.mask.frPyObjects({"size": size, "counts": runs}, *size))


def decode_counts(text: str, where: str) -> list[int]:
    """Compressed COCO run lengths as numbers: 5 bits a character from "0" up, low bits first, bit 6 says "goes on", the last
    character's bit 5 is the sign; from the fourth run on, the difference to the run two before. Raises DataError."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            raise DataError(f"{where}: segmentation.counts is not a COCO run-length string")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise DataError(f"{where}: segmentation.counts ends in the middle of a number")
    return runs


def _mask_kind(records: Sequence[Mapping[str, Any]]) -> tuple[Any, bool]:
    """("none", "some" or "all" of the objects have a mask, whether any of those is run-length coded); crowds do not count."""
    solid = [thing.get("segmentation") for record in records for thing in record["annotations"] if not thing["iscrowd"]]
    with_mask = sum(segmentation is not None for segmentation in solid)
    kind = "none" if not with_mask else "all" if with_mask == len(solid) else "some"
    return kind, any(isinstance(segmentation, dict) for segmentation in solid)
