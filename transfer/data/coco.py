"""COCO annotation files as many tools write them, validated before any C code sees them.

In: an annotation file and its image folder. Out: `DetectionData`, and problem by problem what was repaired and what is in doubt
(`transfer.data.problems`). Rules: docs/specification.md 7.1.
"""

from __future__ import annotations

import codecs
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pycocotools.mask
from detectron2.structures import BoxMode

from pretrain.base.errors import DataError
from pretrain.base.image_files import MAX_PIXELS, read_size
from transfer.data.exports import recognise, recognise_json
from transfer.data.image_names import ImageNames
from transfer.data.problems import DEFAULTS, Problem, Problems, ReadOptions, read_strictly
from transfer.data.records import BoxRule, DetectionData, is_number

MAX_ID = 2**63 - 1  # what pycocotools' C++ counterparts hold
MOST_PIXELS = 2**31 - 1  # of one image: the C code counts run lengths in 32 bits
# COCO's coordinates are rounded to 0.01. Boxes that leave their image by no more than this are clipped for training, but the
# user's own file is still evaluated against, so that an official file gives the official figures.
ROUNDING = 0.1
MAX_BYTES = 1 << 32  # of an annotation file; the largest public ones have 1.2 GB
MAX_AREA = 1e10  # COCOeval leaves objects outside [0, 1e5 ** 2] out of "all"
# Share of the objects of a file that may be crowd regions without a question. COCO has 1.2 %; of a CVAT export it is the share
# of objects drawn with the brush.
MAX_CROWDS = 0.05
MARKS = {  # of a text encoding, at the start of a file; the longest first, since UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF8: "UTF-8 with a byte-order mark",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LISTS = ("images", "annotations", "categories")


class _Doubt(Exception):
    """Why one entry cannot be used: kind, found and remedy of a `Problem`; the reader adds where."""

    def at(self, where: str) -> Problem:
        kind, found, remedy = self.args
        return Problem(kind, where, found, remedy, repaired=False)


@dataclass
class _Image:
    """One entry of `images`, and what was found out about its file.

    exchanged: its file has this width as height and this height as width; None: its header was not read.
    """

    where: str
    path: str
    name: str
    width: int
    height: int
    exchanged: bool | None = None


def read_coco(annotations: Path, image_dir: Path, options: ReadOptions = DEFAULTS) -> DetectionData:
    """Read and validate one COCO instances file. Class order is by category id, as Detectron2 has it, or `options.class_names`.

    Image files are found by name; a header is read only where the annotations leave a doubt. Raises DataError.
    """
    data, notes = read_strictly(file_problems(annotations, image_dir=image_dir, options=options), str(annotations))
    return replace(data, notes=notes)


def file_problems(annotations: Path, *, image_dir: Path, options: ReadOptions) -> Problems[DetectionData]:
    """`problems` of a file. Raises DataError where it is not JSON."""
    content, encoding, doubts = _load(annotations)
    if encoding is not None:
        yield Problem("text that is not plain UTF-8", "the whole file", encoding, "read as such", repaired=True)
    yield from doubts
    data = yield from problems(content, annotations=annotations, image_dir=image_dir, options=options)
    return data if encoding is None else replace(data, complete_coco=None)  # pycocotools reads plain text only


def problems(content: Any, *, annotations: Path, image_dir: Path, options: ReadOptions) -> Problems[DetectionData]:
    """What is wrong in the content of an annotation file, entry by entry; returns what could be read.

    annotations: where the content comes from (image names may be relative to its folder).
    """
    trouble = list(_misses_lists(content))
    yield from trouble
    if trouble:
        return DetectionData((), ())
    return (yield from _Reader(annotations, image_dir, options).read(content))


def _load(path: Path) -> tuple[Any, str | None, list[Problem]]:
    """The content of a JSON file, its encoding where that is not plain UTF-8, and what it holds that JSON does not have."""
    try:
        if path.exists() and not path.is_file():  # a device has no end
            raise DataError(f"cannot read the annotation file {path}: it is a folder or a device")
        if path.exists() and path.stat().st_size > MAX_BYTES:
            limit = f"an annotation file is expected below {MAX_BYTES >> 30} GiB"
            raise DataError(f"{path} has {path.stat().st_size} bytes; {limit}: give it in parts, joined by +")
        text = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no annotation file at {path}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the annotation file {path}: {error}") from None

    constants: list[str] = []
    repeated: list[str] = []

    def note_constant(constant: str) -> float:
        constants.append(constant)
        return float(constant)

    def note_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated.append(next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1))
        return found

    detected = json.detect_encoding(text)  # UTF-16 and UTF-32 without a mark too
    encoding = next((name for mark, name in MARKS.items() if text.startswith(mark)), None)
    if encoding is None and detected != "utf-8":
        encoding = detected.upper()
    try:
        content = json.loads(text.decode(detected), parse_constant=note_constant, object_pairs_hook=note_repeated)
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read the annotation file {path}: {error}; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}{_told_apart(path)}") from None
    remedy = "write a number, or leave the field out"
    doubts = (
        [
            Problem(f"{value} is not a JSON number", where, f"{path}: {value}", remedy, repaired=False)
            for where, value in _not_finite(content)
        ]
        if constants
        else []
    )
    doubts += [
        Problem(
            "fields given twice in one object", "the whole file", f"{key!r:.60}", "the last one counts", repaired=True
        )
        for key in repeated
    ]
    return content, encoding, doubts


def _told_apart(path: Path) -> str:
    """What the file is, where it is another tool's."""
    export = recognise(path)
    return "" if export is None else f"; {export.sentence()}: {export.instead}"


def _not_finite(content: Any) -> Iterator[tuple[str, str]]:
    """(place, NaN or Infinity) of the numbers that JSON does not have."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield where, "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        elif isinstance(value, dict):
            waiting += [(f"{where}.{key}".lstrip("."), entry) for key, entry in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{where}[{place}]", entry) for place, entry in reversed(list(enumerate(value)))]


def _misses_lists(content: Any) -> Iterator[Problem]:
    kind, remedy = "not a COCO instances file", "export the data as COCO, object detection or instance segmentation"
    export = recognise_json(content)
    if export is not None:
        yield Problem(kind, "the whole file", export.sentence(), export.instead, repaired=False)
        return
    if not isinstance(content, dict):
        found = f"expected an object with {', '.join(LISTS)}; found {type(content).__name__}"
        yield Problem(kind, "the whole file", found, remedy, repaired=False)
        return
    for field in LISTS:
        value = content.get(field)
        if not isinstance(value, list):
            found = f"a {type(value).__name__}" if field in content else "nothing"
            keys = ", ".join(f"{key!s:.20}" for key in list(content)[:8]) or "nothing"
            found = f"expected a list `{field}`, found {found}; the file has {keys}"
            yield Problem(kind, "the whole file", found, remedy, repaired=False)
        elif not value:
            yield Problem(
                "an empty list", "the whole file", f"`{field}` is empty", "export the data with it", repaired=False
            )


class _Reader:
    """One pass over one file: images, annotations, and then what only the whole shows (crowds, masks, classes, duplicates)."""

    def __init__(self, annotations: Path, image_dir: Path, options: ReadOptions) -> None:
        self.annotations = annotations
        self.options = options
        self.names = ImageNames(image_dir, relative_to=annotations.parent)
        self.categories: dict[int, str] = {}
        self.parents: dict[int, Any] = {}  # supercategories
        self.images: dict[int | str, _Image] = {}
        self.unusable: set[int | str] = set()  # ids of images whose entry is in doubt
        self.things: dict[int | str, list[dict[str, Any]]] = {}
        self.seen: dict[int | str, Mapping[str, Any]] = {}  # annotations by id
        self.crowds: list[tuple[str, dict[str, Any]]] = []
        self.maskless: list[tuple[str, Any]] = []  # places and values; of no interest where no object has a mask
        self.rule = BoxRule()
        self.num_in_doubt = 0  # objects
        self.complete = True  # pycocotools reads the file as this reader does

    def _repaired(self, kind: str, where: str, found: str, remedy: str) -> Problem:
        """A repair that pycocotools does not make, so that the file is rewritten for it."""
        self.complete = False
        return Problem(kind, where, found, remedy, repaired=True)

    def read(self, content: Mapping[str, list[Any]]) -> Problems[DetectionData]:
        """Everything, in the order of the file."""
        for field, reader in (
            ("categories", self._category),
            ("images", self._image),
            ("annotations", self._annotation),
        ):
            for position, entry in enumerate(content[field]):
                try:
                    yield from reader(entry, position)
                except _Doubt as doubt:
                    self.num_in_doubt += field == "annotations"
                    yield doubt.at(f"{field}[{position}]{self._image_of(field, entry)}")
        yield from self.rule.close()
        yield from self._decide_crowds()
        masks, bitmask = _mask_kind(self.things)
        if masks != "none":
            for where, value in self.maskless:
                found = f"segmentation {value!r:.60}"
                yield Problem("objects without a mask", where, found, "kept with their box alone", repaired=True)
        yield from self._repeated_files()
        names, order = yield from self._classes()
        for things in self.things.values():
            for thing in things:
                thing["category_id"] = order.get(thing["category_id"], -1)  # -1: in doubt, and said so
        numbered = all(isinstance(identifier, int) for identifier in self.images)
        records = tuple(
            {
                "file_name": image.path,
                "image_id": identifier if numbered else position,
                "width": image.width,
                "height": image.height,
                "annotations": self.things[identifier],
            }
            for position, (identifier, image) in enumerate(self.images.items(), start=1)
        )
        complete = (self.annotations, tuple(sorted(order))) if self.complete else None
        return DetectionData(records, names, masks=masks, bitmask=bitmask, complete_coco=complete)

    def _image_of(self, field: str, entry: Any) -> str:
        """The image's name, for an offender's place."""
        if not isinstance(entry, dict):
            return ""
        if field == "images":
            return f" ({entry.get('file_name')!s:.80})"
        identifier = entry.get("image_id")
        image = self.images.get(identifier) if isinstance(identifier, (int, str)) else None
        return "" if image is None else f" ({image.name})"

    # The three lists

    def _category(self, entry: Any, position: int) -> Problems[None]:
        where = f"categories[{position}]"
        identifier = yield from self._whole(_fields(entry), "id", where)
        name = entry.get("name")
        if isinstance(name, int) and not isinstance(name, bool):
            yield Problem("class names that are numbers", where, str(name), "read as text", repaired=True)
            name = str(name)
        if not isinstance(name, str) or not name.strip() or not _encodable(name):
            raise _Doubt("categories without a name", f"name expected text, found {name!r:.60}", "name each category")
        if name != name.strip():
            name = name.strip()
            yield Problem("class names with spaces around them", where, repr(name), "read without", repaired=True)
        if identifier in self.categories:
            found = f"id {identifier}: {self.categories[identifier]!r} and {name!r}"
            raise _Doubt("category ids given twice", found, "give each category an id of its own")
        self.categories[identifier], self.parents[identifier] = name, entry.get("supercategory")

    def _image(self, entry: Any, position: int) -> Problems[None]:
        identifier = yield from self._identifier(_fields(entry), "id", f"images[{position}]", "images")
        if identifier in self.images:
            first = self.images[identifier]
            path = yield from self.names.find(str(entry.get("file_name")), first.where)
            if (path, entry.get("width"), entry.get("height")) == (first.path, first.width, first.height):
                yield self._repaired("images listed twice", first.where, f"id {identifier}", "read once")
                return
            found = f"id {identifier} is given twice, first at {first.where}"
            raise _Doubt("image ids given twice for different images", found, "give each image an id of its own")
        self.unusable.add(identifier)
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            found = f"file_name expected a path in the image folder, found {name!r:.60}"
            raise _Doubt("images without a file name", found, "give each image its file_name")
        where = f"images[{position}] ({name})"
        path = yield from self.names.find(name, where)
        if path is None:
            return
        if entry.get("width") is None or entry.get("height") is None:
            width, height = yield from self._size_on_disk(path, where)
        else:
            width = yield from self._whole(entry, "width", where)
            height = yield from self._whole(entry, "height", where)
        if width < 1 or height < 1:
            found = f"width and height expected positive numbers, found {width} x {height}"
            raise _Doubt("images without a size", found, "give the width and height of the image file, in pixels")
        if width * height > (MOST_PIXELS if self.options.large_images else MAX_PIXELS):
            remedy = "pass --large-images" if width * height <= MOST_PIXELS else "correct width and height"
            raise _Doubt(
                f"images of more than {MAX_PIXELS // 1_000_000} megapixels",
                f"{width} x {height} = {width * height / 1e6:.0f} megapixels",
                f"{remedy}, or shrink the images with their annotations, or leave them out",
            )
        self.unusable.remove(identifier)
        self.images[identifier] = _Image(where, path, Path(path).name, width, height)
        self.things[identifier] = []

    def _annotation(self, entry: Any, position: int) -> Problems[None]:
        where = f"annotations[{position}]"
        identifier = _fields(entry).get("id")
        if type(identifier) is not int or not 0 < identifier <= MAX_ID:
            identifier = yield from self._annotation_id(entry, position)
        first = self.seen.setdefault(identifier, entry)
        if first is not entry:
            if first == entry:
                yield self._repaired("annotations given twice, alike in all", where, f"id {identifier}", "read once")
                return
            remedy = "give each annotation an id of its own"
            raise _Doubt("annotation ids given twice for different objects", f"id {identifier} is given twice", remedy)
        image_id = entry.get("image_id")
        if type(image_id) is not int:
            image_id = yield from self._identifier(entry, "image_id", where, "annotations")
        image = self.images.get(image_id)
        if image is None:
            if image_id not in self.unusable:
                kind = "annotations of images that are not listed"
                yield self._repaired(kind, where, f"image_id {image_id}", "dropped")
            return
        where = f"{where} ({image.name})"
        category = entry.get("category_id")
        if type(category) is not int:
            category = yield from self._whole(entry, "category_id", where)
        if category not in self.categories:
            remedy = f"add the category, or correct the ids; those of the file are {sorted(self.categories)[:10]}"
            found = f"category_id {category} is not among the categories"
            raise _Doubt("annotations of a category that is not listed", found, remedy)
        thing = yield from self._thing(entry, image, where)
        if thing is not None:
            thing["category_id"] = category
            self.things[image_id].append(thing)
            if thing["iscrowd"]:
                self.crowds.append((where, thing))

    # Fields

    def _whole(self, entry: Mapping[str, Any], field: str, where: str) -> Problems[int]:
        value = entry.get(field)
        if type(value) is int and abs(value) <= MAX_ID:
            return value
        number = _as_whole(value)
        if number is None:
            found = f"{field} expected a whole number, found {value!r:.60}" if field in entry else f"{field} is missing"
            raise _Doubt(f"{where.partition('[')[0]} whose {field} is not a whole number", found, f"correct {field}")
        yield self._number_repaired(value, field, where)
        return number

    def _identifier(self, entry: Mapping[str, Any], field: str, where: str, of: str) -> Problems[int | str]:
        """A whole number, or text that is none: some tools take the file's name."""
        value = entry.get(field)
        if isinstance(value, str) and value.strip() and _as_whole(value) is None:
            if of == "images":
                yield self._repaired("image ids that are no numbers", where, repr(value)[:60], "numbered from 1")
            return value
        return (yield from self._whole(entry, field, where))

    def _annotation_id(self, entry: Mapping[str, Any], position: int) -> Problems[int | str]:
        """Ids of annotations tell entries apart and are of no other use: any will do."""
        where = f"annotations[{position}]"
        if entry.get("id") is None:
            yield self._repaired("annotations without an id", where, "none", "numbered")
            return f"position {position}"
        self.complete = False  # pycocotools takes id 0 for "no match"
        return (yield from self._identifier(entry, "id", where, "annotations"))

    def _number_repaired(self, value: Any, field: str, where: str) -> Problem:
        if isinstance(value, float):
            kind = "whole numbers written with a decimal point"
        else:
            what = "ids" if field.endswith("id") else "sizes" if field in ("width", "height") else field
            kind = f"{what} written as text"
        return self._repaired(kind, where, f"{field} {value!r:.60}", "read as whole numbers")

    def _size_on_disk(self, path: str, where: str) -> Problems[tuple[int, int]]:
        try:
            height, width = read_size(Path(path))
        except DataError as error:
            remedy = "give the width and height of the image files, in pixels"
            raise _Doubt("images without a size", f"no width and height, and {error}", remedy) from None
        yield self._repaired("images without a size", where, f"{width} x {height}", "read from the image file")
        return width, height

    # One object

    def _thing(self, entry: Mapping[str, Any], image: _Image, where: str) -> Problems[dict[str, Any] | None]:
        """One annotation as a Detectron2 dict without its category; None where it is left out."""
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            found = f"bbox expected four finite numbers x, y, width, height; found {box!r:.80}"
            raise _Doubt("annotations without a box", found, "give each object its bbox, or export the data with boxes")
        x, y, width, height = box
        if width < 0 or height < 0:
            remedy = "give x, y of the upper left corner and positive sizes"
            raise _Doubt("boxes with a negative width or height", f"bbox {box}", remedy)
        crowd = entry.get("iscrowd", 0)
        if crowd not in (0, 1):
            crowd = yield from self._crowd_mark(crowd, where)
        right, bottom = x + width, y + height
        if right > image.width or bottom > image.height:
            yield from self._check_exchanged(image, right, bottom)
        if image.exchanged:
            return None
        corners = yield from self.rule.apply((x, y, right, bottom), image.width, image.height, where, sized=box)
        if corners is None:
            self.complete = False
            return None
        overhang = max(-x, -y, right - image.width, bottom - image.height)
        if overhang > ROUNDING:
            self.complete = False
        thing = {"bbox": corners, "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": int(crowd)}
        thing["area"] = yield from self._area(entry, corners, where, clipped=overhang > ROUNDING)
        mask = yield from self._mask(entry.get("segmentation"), image, where)
        if mask is not None:
            thing["segmentation"] = mask
        if "iscrowd" not in entry:
            self.complete = False
        return thing

    def _crowd_mark(self, value: Any, where: str) -> Problems[int]:
        if value is None:
            return 0
        number = _as_whole(value) if isinstance(value, str) else None
        if number not in (0, 1):
            found = f"iscrowd expected 0 or 1, found {value!r:.60}"
            raise _Doubt("annotations whose iscrowd is neither 0 nor 1", found, "correct iscrowd")
        yield self._number_repaired(value, "iscrowd", where)
        return number

    def _area(
        self, entry: Mapping[str, Any], corners: Sequence[float], where: str, *, clipped: bool
    ) -> Problems[float]:
        """The area that decides between small, medium and large objects: the file's, and at most the box's where that was
        clipped."""
        value = entry.get("area")
        box_area = float((corners[2] - corners[0]) * (corners[3] - corners[1]))
        if value is None:
            self.complete = False
            return box_area
        if not is_number(value):
            raise _Doubt("annotations whose area is not a number", f"area {value!r:.60}", "correct or remove area")
        if not 0 < value <= MAX_AREA:
            yield self._repaired(
                "areas that no object has", where, f"area {value:g}", "replaced by the area of the box"
            )
            return box_area
        return min(float(value), box_area) if clipped else float(value)

    def _check_exchanged(self, image: _Image, right: float, bottom: float) -> Problems[None]:
        """Whether a box leaves its image because the file has its width for its height. If one does, all images are looked at."""
        if image.exchanged is not None or right > image.height or bottom > image.width:
            return
        if not _exchanged_on_disk(image):
            image.exchanged = False
            return
        for other in self.images.values():
            other.exchanged = _exchanged_on_disk(other)
            if other.exchanged:
                yield Problem(
                    "width and height are exchanged",
                    other.where,
                    f"width {other.width}, height {other.height}; the file is {other.height} wide and {other.width} high",
                    "exchange width and height of these images in the annotation file; the boxes stay as they are",
                    repaired=False,
                )

    def _mask(self, value: Any, image: _Image, where: str) -> Problems[list[list[float]] | dict[str, Any] | None]:
        """Polygons of 3 points and more, or compressed run lengths; None for an object without a mask."""
        if isinstance(value, dict) and value:
            mask = yield from self._run_lengths(value, image, where)
            if mask is not None:
                return mask
        elif value and not isinstance(value, list):
            found = f"segmentation expected polygons or run lengths, found {value!r:.60}"
            raise _Doubt("segmentations that are neither polygons nor run lengths", found, "correct or remove them")
        elif value:
            if all(map(is_number, value)):  # one polygon, without the list of polygons around it
                if len(value) > 4:
                    kind = "polygons without the list around them"
                    yield self._repaired(kind, where, f"segmentation {value!r:.60}", "read as one polygon")
                value = [value]
            _check_polygons(value, image)
            polygons = [polygon for polygon in value if len(polygon) >= 6]
            if len(polygons) < len(value):
                self.complete = False  # pycocotools takes four numbers for a box, and stops at fewer
            if any(value) and not polygons:
                kind = "segmentations of four numbers or fewer"
                yield self._repaired(kind, where, f"segmentation {value!r:.60}", "object kept without a mask")
                return None
            if polygons and len(polygons) < len(value):
                kind = "polygons of fewer than 3 points"
                found = f"{len(value) - len(polygons)} of the object's {len(value)}"
                yield self._repaired(kind, where, found, "left out; the others make the mask")
            if polygons:
                return polygons
        self.maskless.append((where, value))
        return None

    def _run_lengths(self, value: Mapping[str, Any], image: _Image, where: str) -> Problems[dict[str, Any] | None]:
        """Run lengths that cover the image exactly, compressed by pycocotools. C code gets only what was counted here."""
        size, counts = [image.height, image.width], value.get("counts")
        kind = "run lengths that do not fit their image"
        if value.get("size") != size:
            found = f"segmentation.size expected {size} (height, width), found {value.get('size')!r:.60}"
            raise _Doubt(kind, found, "correct the size; run lengths go down the columns of an image of that size")
        try:
            runs = decode_counts(counts) if isinstance(counts, str) else counts
        except ValueError as error:
            raise _Doubt(kind, f"segmentation.counts {error}", "correct or remove them") from None
        if isinstance(runs, list) and any(type(run) is float for run in runs):
            whole = [_as_whole(run) if type(run) is float else run for run in runs]
            if None not in whole:
                yield self._number_repaired(
                    next(run for run in runs if type(run) is float), "segmentation.counts", where
                )
                runs = whole
        if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
            raise _Doubt(
                kind, f"segmentation.counts expected run lengths, found {runs!r:.60}", "correct or remove them"
            )
        if sum(runs) != image.height * image.width:
            found = f"segmentation.counts sum to {sum(runs)}, expected height x width = {image.height * image.width}"
            raise _Doubt(kind, found, "correct the run lengths")
        if not any(runs[1::2]):
            return None
        return dict(pycocotools.mask.frPyObjects({"size": size, "counts": runs}, *size))

    # What only the whole file shows

    def _decide_crowds(self) -> Problems[None]:
        total = sum(map(len, self.things.values())) + self.num_in_doubt
        count = len(self.crowds)
        crowds = [
            (where, thing, f"{self.categories[thing['category_id']]!r}, iscrowd 1") for where, thing in self.crowds
        ]
        remedy = (
            f"{count} of {total} objects: training leaves such regions out and AP ignores what is found there. CVAT writes "
            "iscrowd 1 for every mask drawn with the brush: if these are single objects, pass --crowd-as-objects"
        )
        if self.options.crowd_as_objects:
            for where, thing, found in crowds:
                thing["iscrowd"] = 0
                yield self._repaired("regions marked iscrowd", where, found, "counted as objects")
        elif count and count == total:
            for where, _, found in crowds:
                yield Problem("every object is marked iscrowd", where, found, remedy, repaired=False)
        elif self.options.keep_crowds or count <= MAX_CROWDS * total:
            for where, _, found in crowds:
                left_out = "left out of training and ignored in AP; --crowd-as-objects counts them"
                yield Problem("regions marked iscrowd", where, found, left_out, repaired=True)
        else:
            remedy += f"; if they are crowds, pass --keep-crowds (up to {MAX_CROWDS:.0%} are taken for crowds; COCO has 1.2 %)"
            for where, _, found in crowds:
                yield Problem("many objects are marked iscrowd", where, found, remedy, repaired=False)

    def _repeated_files(self) -> Problems[None]:
        identifiers = defaultdict(list)
        for identifier, image in self.images.items():
            identifiers[image.path].append(identifier)
        for members in identifiers.values():
            if len(members) == 1:
                continue
            contents = [
                sorted((thing["category_id"], *thing["bbox"]) for thing in self.things[member]) for member in members
            ]
            where, found = self.images[members[0]].where, f"ids {', '.join(map(str, members))}"
            if all(other == contents[0] for other in contents):
                kind = "image files listed under several ids with the same objects"
                yield Problem(kind, where, found, "kept: each counts as often as it is listed", repaired=True)
            else:
                kind = "image files listed under several ids with different objects"
                remedy = "make one entry of them: the objects of one would be background for the other"
                yield Problem(kind, where, found, remedy, repaired=False)

    def _classes(self) -> Problems[tuple[tuple[str, ...], dict[int, int]]]:
        """Class names, and the index of each category id."""
        used = {thing["category_id"] for things in self.things.values() for thing in things}
        categories = dict(sorted(self.categories.items()))
        yield from self._remove_groups(categories, used)
        names = self.options.class_names
        if names is None:
            names = tuple(dict.fromkeys(categories.values()))
        elif tuple(categories.values()) != names:
            self.complete = False  # COCOEvaluator names its figures by category id
        for identifier, name in list(categories.items()):
            if name in names:
                continue
            found = f"{name!r} (id {identifier})"
            del categories[identifier]
            if identifier in used:
                remedy = f"add them to --classes, which names {', '.join(names)}"
                yield Problem("classes that --classes does not name", "categories", found, remedy, repaired=False)
            else:
                kind = "categories without an object that --classes does not name"
                yield self._repaired(kind, "categories", found, "removed")
        present = {categories.get(identifier) for identifier in used}
        for name in names:
            if name not in present:
                yield Problem("classes without an object", "categories", repr(name), "kept as classes", repaired=True)
        return names, {identifier: names.index(name) for identifier, name in categories.items()}

    def _remove_groups(self, categories: dict[int, str], used: set[int]) -> Problems[None]:
        """Roboflow lists the project itself as category 0, the supercategory of all others; it may have the name of a class."""
        parents = {repr(parent) for identifier, parent in self.parents.items() if identifier != 0}
        if (
            0 in categories
            and 0 not in used
            and repr(categories[0]) in parents
            and self.parents[0] in (None, "", "none")
        ):
            yield self._repaired(
                "a category that groups the others", "categories", f"{categories[0]!r} (id 0)", "removed"
            )
            del categories[0]
        same = defaultdict(list)
        for identifier, name in categories.items():
            same[name].append(identifier)
        for name, members in same.items():
            labelled = [identifier for identifier in members if identifier in used]
            if len(labelled) > 1:
                found = f"{name!r} is given twice, as ids {', '.join(map(str, labelled))}"
                remedy = "give them different names, or all their annotations one category_id"
                yield Problem("several categories of one name", "categories", found, remedy, repaired=False)
            for identifier in members:
                if len(members) > 1 and identifier not in (labelled or members[:1]):
                    found = f"{name!r} (id {identifier})"
                    kind = "categories without an object that have the name of a class"
                    yield self._repaired(kind, "categories", found, "removed")
                    del categories[identifier]


def _fields(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise _Doubt("entries that are not objects", f"expected an object, found {entry!r:.60}", "remove them")
    return entry


def _as_whole(value: Any) -> int | None:
    """A whole number written as 80.0, "80" or "80.0"; None for anything else."""
    if isinstance(value, str):
        try:
            value = int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
        except ValueError:  # text, or more digits than int reads
            return None
    if isinstance(value, bool) or not is_number(value) or value != int(value) or abs(value) > MAX_ID:
        return None
    return int(value)


def _encodable(text: str) -> bool:
    """Half a surrogate pair can be written in JSON, and nowhere else."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _exchanged_on_disk(image: _Image) -> bool:
    if image.width == image.height:
        return False
    try:
        return read_size(Path(image.path)) == (image.width, image.height)
    except DataError:
        return False  # said by the check of the image files


def _check_polygons(value: Sequence[Any], image: _Image) -> None:
    """Raise _Doubt unless all are lists of x, y. COCO holds a few of 2 points, which enclose nothing."""
    for number, polygon in enumerate(value):
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(is_number, polygon)):
            found = f"segmentation[{number}] expected an even list of finite numbers, found {polygon!r:.60}"
            raise _Doubt("polygons that are not x1, y1, x2, y2, ...", found, "correct them, or remove the segmentation")
        # Rasterising costs memory by the length of the outline: far outside is refused, what is less far is clipped there.
        xs, ys = polygon[0::2], polygon[1::2]
        if polygon and not (
            -image.width <= min(xs) <= max(xs) <= 2 * image.width
            and -image.height <= min(ys) <= max(ys) <= 2 * image.height
        ):
            raise _Doubt(
                "polygons far outside their image",
                f"x {min(xs):g} to {max(xs):g}, y {min(ys):g} to {max(ys):g} in {image.width} x {image.height} pixels",
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


def _mask_kind(things: Mapping[Any, Sequence[Mapping[str, Any]]]) -> tuple[Any, bool]:
    """("none", "some" or "all" of the objects have a mask, whether any of those is run-length coded); crowds do not count."""
    solid = [thing.get("segmentation") for members in things.values() for thing in members if not thing["iscrowd"]]
    with_mask = sum(segmentation is not None for segmentation in solid)
    kind = "none" if not with_mask else "all" if with_mask == len(solid) else "some"
    return kind, any(isinstance(segmentation, dict) for segmentation in solid)
